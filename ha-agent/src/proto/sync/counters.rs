//! What replication counts, and the snapshot operators see.

use std::time::Duration;

use serde::Serialize;

use super::record::Class;
use super::sweep::Sweeps;
use crate::proto::records;
use crate::proto::time::Instant;

/// A number for each [`Class`] of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByClass {
    /// Only this node knows where they go.
    pub unique: u64,
    /// The partner would forward them the same way by hash.
    pub recomputable: u64,
}

impl ByClass {
    /// Both together.
    pub const fn total(self) -> u64 {
        self.unique + self.recomputable
    }

    /// That of a class.
    pub const fn of(self, class: Class) -> u64 {
        match class {
            Class::Unique => self.unique,
            Class::Recomputable => self.recomputable,
        }
    }

    pub(super) const fn add(&mut self, class: Class, count: u64) {
        match class {
            Class::Unique => self.unique += count,
            Class::Recomputable => self.recomputable += count,
        }
    }
}

/// Counters since the agent started, both roles together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    // Records of the data plane.
    /// Changes reported by the data plane.
    pub local_changes: u64,
    /// Reported while standby: forgotten unless a promotion follows at once.
    pub local_while_standby: u64,
    /// Older than what is known of the connection: ignored.
    pub local_outdated: u64,
    /// Deletions of connections that were not known.
    pub local_unknown: u64,
    /// Not replicated because the table is full.
    pub local_table_full: ByClass,
    /// Merged with a change of the same connection that had not left yet.
    pub coalesced: ByClass,
    /// Held back because nobody listens or the partner does not keep up; they leave later.
    pub deferred: ByClass,
    /// Of those, more than can wait: a walk over the table, or the repair of a bucket, says them.
    pub overflowed: ByClass,
    // The stream, sending.
    /// Records sent, full transfers included, repetitions not.
    pub sent_records: u64,
    /// Of these, in short form.
    pub sent_short: u64,
    /// Packets of the stream sent, repetitions not.
    pub sent_packets: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Packets repeated on request.
    pub repeated_packets: u64,
    /// Bytes of those.
    pub repeated_bytes: u64,
    /// Repetitions not made now because of the rate limit; the partner asks again.
    pub repeats_deferred: u64,
    /// Requests for packets that are no longer kept.
    pub repeats_missed: u64,
    /// Full transfers begun.
    pub transfers_begun: u64,
    /// Full transfers sent to their end.
    pub transfers_sent: u64,
    /// Bytes of full transfers.
    pub transfer_bytes: u64,
    /// Partners that went silent while they were being sent to.
    pub listeners_lost: u64,
    /// Those that came back and went on without a full transfer.
    pub listeners_resumed: u64,
    /// Requests to compare or repair buckets.
    pub asks: u64,
    /// Those not answered because of the rate limit; the partner asks again.
    pub asks_deferred: u64,
    /// Buckets sent for repair.
    pub buckets_sent: u64,
    /// Connections in them.
    pub bucket_records: ByClass,
    /// Bytes of sums and buckets.
    pub bucket_bytes: u64,
    /// Changes that the stream had missed to say, found by the audit.
    pub unsaid_found: ByClass,
    // The stream, receiving.
    /// Records received in order.
    pub received_records: u64,
    /// Changes passed to the data plane.
    pub applied: u64,
    /// Packets of the stream received.
    pub received_packets: u64,
    /// Bytes of those.
    pub received_bytes: u64,
    /// Packets noticed missing.
    pub missing: u64,
    /// Requests for repetition sent.
    pub nacks: u64,
    /// Missing packets that came after having been asked for.
    pub repaired: u64,
    /// Missing packets that came by themselves, late.
    pub reordered: u64,
    /// Packets received twice.
    pub duplicates: u64,
    /// Packets too far ahead to keep.
    pub beyond_window: u64,
    /// Missing packets given up because a repair or a full transfer replaces them.
    pub skipped: u64,
    /// Packets behind a gap, applied at promotion because the gap can no longer be filled.
    pub salvaged: u64,
    /// Full transfers received completely.
    pub transfers_received: u64,
    /// Stale connections removed after a full transfer.
    pub swept: u64,
    /// Comparisons of the tables at an equal place of the stream.
    pub digests_compared: u64,
    /// Those that differed; a repair or a full transfer follows.
    pub digests_differed: u64,
    /// Repairs of single buckets begun.
    pub mends_begun: u64,
    /// Those after which nothing was left to repair.
    pub mends_done: u64,
    /// Requests to compare or repair buckets sent.
    pub asks_sent: u64,
    /// Buckets made equal.
    pub buckets_mended: u64,
    /// Buckets that were still different after their repair.
    pub buckets_failed: u64,
    /// Connections added or changed by the repair of buckets.
    pub mended: ByClass,
    /// Stale connections removed by it.
    pub mend_removed: ByClass,
    /// Buckets whose digest was not that of the own table, found by the audit.
    pub audit_corrected: u64,
    /// Not held because the table is full.
    pub table_full: ByClass,
    /// Records this version cannot read.
    pub unreadable_records: u64,
    // Packets that had no effect.
    /// Not of this protocol.
    pub malformed: u64,
    /// Of another version of this protocol.
    pub other_version: u64,
    /// Of another pair on the same segment.
    pub other_cluster: u64,
    /// Our own, reflected.
    pub reflected: u64,
    /// Sealed with a pair key we do not have.
    pub unknown_key: u64,
    /// Not sealed by the partner.
    pub auth_failed: u64,
    /// Genuine, but received before.
    pub replayed: u64,
    /// Genuine, but overtaken by a newer one.
    pub overtaken: u64,
    /// Of a session that has not answered our challenge.
    pub unconfirmed_session: u64,
    /// Answers to a challenge that is not ours or no longer open.
    pub wrong_challenge: u64,
    /// Of an earlier term than the one we know.
    pub stale_term: u64,
    /// Meant for the other role.
    pub other_role: u64,
    /// Of unknown sessions, not looked at because there were too many.
    pub rate_limited: u64,
    /// Genuine, but with a body that makes no sense.
    pub bad_body: u64,
}

impl Counters {
    /// Packets lost on the way and repeated, and connections put right by the repair of buckets.
    pub(super) const fn all_repaired(&self) -> u64 {
        let packets = self.repeated_packets + self.repaired;
        packets + self.repaired_records(Class::Unique) + self.repaired_records(Class::Recomputable)
    }

    /// Connections of a class put right by the repair of buckets: said anew, changed and removed.
    pub const fn repaired_records(&self, class: Class) -> u64 {
        self.bucket_records.of(class) + self.mended.of(class) + self.mend_removed.of(class)
    }

    /// Connections of a class that replication could not hold.
    pub const fn dropped_records(&self, class: Class) -> u64 {
        self.local_table_full.of(class) + self.table_full.of(class)
    }
}

/// Which end of the stream this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncRole {
    /// Sends.
    Active,
    /// Receives.
    Standby,
}

/// A full transfer under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TransferProgress {
    /// Connections said so far.
    pub done: u64,
    /// Connections to say, as far as known.
    pub total: u64,
}

/// What `status` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SyncSnapshot {
    /// Which end of the stream this node is.
    pub role: SyncRole,
    /// Standby: holds the whole table. Active: the partner says that it does.
    pub ready: bool,
    /// The partner was heard within the time limit.
    pub partner_heard: bool,
    /// The term this node works with.
    pub term: u64,
    /// The partner's name, if it has said it.
    pub partner_name: Option<String>,
    /// The partner's configuration generation, from its last packet.
    pub partner_generation: Option<u64>,
    /// Connections held.
    pub entries: u64,
    /// Active: median and 99th percentile over the last 10 to 20 seconds, in microseconds, of the time from
    /// a change in the data plane until the partner's word that it was applied arrived, less the time
    /// that word was held back. It includes the way back, so it is never better than the truth.
    pub lag_us_p50: Option<u64>,
    /// See [`Self::lag_us_p50`].
    pub lag_us_p99: Option<u64>,
    /// Active: packets of the stream not acknowledged yet. Standby: packets known to be missing.
    pub outstanding: u64,
    /// The full transfer under way.
    pub transfer: Option<TransferProgress>,
    /// The repair under way. Active: buckets still to be sent. Standby: buckets known to differ.
    pub repair_buckets: Option<u64>,
    /// Active: changes that wait to be sent.
    pub waiting: ByClass,
    /// How long the oldest of them has waited, in microseconds; they would be lost with this node.
    pub oldest_waiting_us: Option<u64>,
    /// Records sent to the partner, full transfers included.
    pub sent: u64,
    /// Changes of the live map on the partner's word.
    pub applied: u64,
    /// Packets lost on the way and repaired by repetition, and connections put right by the repair of
    /// buckets and by sweeps, in both roles.
    pub repaired: u64,
    /// Changes of the data plane that replication could not hold.
    pub dropped: u64,
    /// What sweeps have found.
    pub sweep: Sweeps,
    /// Records that are no connections.
    pub records: records::Snapshot,
    /// Everything that is counted.
    pub counters: Counters,
}

/// Buckets per octave of the lag histogram: values are exact to one eighth.
const STEPS: u64 = 8;
/// Octaves above the first `STEPS` microseconds: more than an hour.
const OCTAVES: u64 = 32;
const BUCKETS: usize = (STEPS * (OCTAVES + 1)) as usize;
/// How long samples are gathered before the older half is forgotten.
const HALF: Duration = Duration::from_secs(10);

/// A histogram of microseconds over the last 10 to 20 seconds.
#[derive(Clone, Debug)]
pub(super) struct Lag {
    recent: [u32; BUCKETS],
    older: [u32; BUCKETS],
    turned: Instant,
}

impl Lag {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            recent: [0; BUCKETS],
            older: [0; BUCKETS],
            turned: now,
        }
    }

    pub(super) fn record(&mut self, now: Instant, lag: Duration) {
        if now.since(self.turned) >= HALF {
            self.older = if now.since(self.turned) >= HALF * 2 {
                [0; BUCKETS]
            } else {
                self.recent
            };
            self.recent = [0; BUCKETS];
            self.turned = now;
        }
        let micros = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.recent.get_mut(bucket_of(micros)) {
            *bucket = bucket.saturating_add(1);
        }
    }

    /// The smallest bucket bound that at least `percent` of the samples do not exceed.
    pub(super) fn percentile(&self, percent: u64) -> Option<u64> {
        let counts = || {
            self.recent
                .iter()
                .zip(&self.older)
                .map(|(a, b)| u64::from(*a) + u64::from(*b))
        };
        let total: u64 = counts().sum();
        let wanted = (total * percent).div_ceil(100).max(1);
        let mut so_far = 0;
        let bucket = counts().position(|count| {
            so_far += count;
            so_far >= wanted
        })?;
        Some(bound_of(bucket as u64))
    }
}

/// Bucket of a value: linear below `STEPS`, then `STEPS` buckets for each doubling.
fn bucket_of(micros: u64) -> usize {
    let bucket = if micros < STEPS {
        micros
    } else {
        let octave = u64::from(micros.ilog2() - STEPS.ilog2());
        octave * STEPS + (micros >> octave)
    };
    (bucket as usize).min(BUCKETS - 1)
}

/// Largest value of a bucket.
const fn bound_of(bucket: u64) -> u64 {
    if bucket < 2 * STEPS {
        return bucket;
    }
    let octave = bucket / STEPS - 1;
    let start = bucket - octave * STEPS;
    ((start + 1) << octave) - 1
}
