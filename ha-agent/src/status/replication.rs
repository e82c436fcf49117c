//! What `status` says of replication.

use serde::{Deserialize, Serialize};

use crate::proto::sync::{Class, Sweeps, SyncSnapshot};

/// `replication` of [`Status`](super::model::Status).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// Whether the standby's table is complete.
    pub ready: bool,
    /// Time from change to application at the standby, 99th percentile, microseconds; null if not
    /// measured.
    pub lag_us_p99: Option<u64>,
    /// Changes sent.
    pub sent: u64,
    /// Changes applied.
    pub applied: u64,
    /// Changes that were lost on the way and sent again, and connections put right by the repair of
    /// buckets and by sweeps.
    pub repaired: u64,
    /// Changes given up.
    pub dropped: u64,
    /// How long the oldest change has waited to be sent, microseconds: what the partner would not know if
    /// this node died now. Null if none waits.
    #[serde(default)]
    pub oldest_waiting_us: Option<u64>,
    /// The full transfer under way.
    #[serde(default)]
    pub transfer: Option<Progress>,
    /// The repair under way: buckets, of 4096, that are still to be sent (active) or known to differ
    /// (standby).
    #[serde(default)]
    pub repair_buckets: Option<u64>,
    /// Comparisons of the two tables at the same place of the stream.
    #[serde(default)]
    pub comparisons: u64,
    /// Those that differed, and buckets whose digest was not that of the own table.
    #[serde(default)]
    pub differences: u64,
    /// Connections that the partner could not forward without their records.
    #[serde(default)]
    pub unique: ReplicationClass,
    /// Those that it would forward to the same real server by hash.
    #[serde(default)]
    pub recomputable: ReplicationClass,
    /// What sweeps have found and repaired, by kind.
    #[serde(default)]
    pub sweep: Sweeps,
}

/// What became of the changes of one class of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationClass {
    /// Wait to be sent.
    pub waiting: u64,
    /// Had to wait because nobody listened or the partner did not keep up.
    pub deferred: u64,
    /// Of those, more than can wait: found again in the table, or by the repair of a bucket.
    pub overflowed: u64,
    /// Merged with a later change before they left.
    pub coalesced: u64,
    /// Not held because a table is full.
    pub dropped: u64,
    /// Connections put right by the repair of buckets.
    pub repaired: u64,
}

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Connections done.
    pub done: u64,
    /// Connections there are, as far as known.
    pub total: u64,
}

impl Replication {
    /// From the account of the machine and the number of changes that the map did not take.
    pub fn of(sync: &SyncSnapshot, apply_errors: u64) -> Self {
        let counters = &sync.counters;
        let class = |class: Class| ReplicationClass {
            waiting: sync.waiting.of(class),
            deferred: counters.deferred.of(class),
            overflowed: counters.overflowed.of(class),
            coalesced: counters.coalesced.of(class),
            dropped: counters.dropped_records(class),
            repaired: counters.repaired_records(class),
        };
        Self {
            ready: sync.ready,
            lag_us_p99: sync.lag_us_p99,
            sent: sync.sent,
            applied: sync.applied,
            repaired: sync.repaired,
            dropped: sync.dropped + apply_errors,
            oldest_waiting_us: sync.oldest_waiting_us,
            transfer: sync.transfer.map(|transfer| Progress {
                done: transfer.done,
                total: transfer.total,
            }),
            repair_buckets: sync.repair_buckets,
            comparisons: counters.digests_compared,
            differences: counters.digests_differed + counters.audit_corrected,
            unique: class(Class::Unique),
            recomputable: class(Class::Recomputable),
            sweep: sync.sweep,
        }
    }
}
