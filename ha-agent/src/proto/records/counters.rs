//! What the table counts, and what operators see of it.

use serde::{Deserialize, Serialize};

use super::Quota;

/// Counters since the agent started, both roles together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Records written on this node.
    pub written: u64,
    /// Writes that changed nothing, or only what was not said yet.
    pub coalesced: u64,
    /// Records deleted on this node.
    pub deleted: u64,
    /// Records whose time was over.
    pub expired: u64,
    /// Writes refused because this node is not active.
    pub refused_not_active: u64,
    /// Writes refused because of a quota.
    pub refused_quota: u64,
    /// Writes refused because they make no sense: no such namespace, too long, a bad time to live.
    pub refused_bad: u64,
    /// Records said to the partner, deletions and full transfers included.
    pub sent: u64,
    /// Records heard from the partner, deletions and full transfers included.
    pub received: u64,
    /// Records heard that changed this node's table.
    pub applied: u64,
    /// Records heard that were older than what the same stream had said: ignored.
    pub outdated: u64,
    /// Records heard for which there was no room.
    pub no_room: u64,
    /// Records that a full transfer or a repair did not confirm: removed.
    pub swept: u64,
    /// Comparisons of the tables at an equal place of the stream that differed; a repair follows.
    pub digests_differed: u64,
    /// Repairs after which the tables were equal.
    pub repairs: u64,
    /// Repairs after which they were not.
    pub repairs_failed: u64,
    /// Records that a repair added or changed.
    pub repaired: u64,
}

/// A namespace, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceSnapshot {
    /// Its name.
    pub name: String,
    /// Records in it.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How much may be in it; none on a node whose configuration does not have it.
    pub quota: Option<Quota>,
    /// Writes that its quota refused.
    pub refused: u64,
}

/// The table, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All namespaces, by name.
    pub namespaces: Vec<NamespaceSnapshot>,
    /// Changes that wait to be said.
    pub waiting: u64,
    /// Everything that is counted.
    pub counters: Counters,
}
