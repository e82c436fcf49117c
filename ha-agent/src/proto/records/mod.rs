//! Records that are no connections: what else the standby must know to take over.
//!
//! One small table of keys and values in *namespaces*. The active node writes it, the stream of
//! replication ([`crate::proto::sync`]) carries it, and everybody reads it: where persistent clients go,
//! which real servers the active node holds to be up, and what an application-level proxy wants its
//! twin on the other node to know.
//!
//! * **Order.** A record has a [`Stamp`], the term and a version, and of two the later wins. Within a
//!   stream that is never needed, since a later packet is a later truth; it is what tells a reader, and a
//!   node that returns, which of two values is the newer one.
//! * **Bounds.** Namespaces have quotas of records and bytes ([`Quota`]), kept where records are written:
//!   what does not fit is refused, counted and told to the writer. A receiver has room for whatever a
//!   partner may hold, so quotas that differ never make a standby incomplete.
//! * **Life.** A record may have a time to live. Lives are measured with the monotonic clock of the node
//!   that holds the record, and cross the wire as ages. Only the active node lets records expire and
//!   says so; a standby hides what has run out and waits to be told, so that both tables agree at every
//!   place of the stream.
//! * **Rate.** What waits to be said is not a record but the fact that one changed. A record is said at
//!   most once in [`SPACING`], and one that only lives longer much more rarely, so a client that comes a
//!   thousand times a second costs a few bytes a second.
//! * **Equality.** Both ends keep a keyed sum over what the stream has said, which the heartbeat names for
//!   an exact place of it.

mod counters;
mod model;
mod stream;
mod table;
mod wire;

#[cfg(test)]
mod tests;

pub use counters::{Counters, NamespaceSnapshot, Snapshot};
pub use model::{
    Event, EventKind, KEY_MAX, KEY_VALUE_MAX, Key, NAMESPACE_MAX, Namespace, Put, Quota, Refusal,
    Stamp, TTL_MAX, View, is_namespace,
};
pub use table::{HELD_MAX, NAMESPACES_MAX, Table};

pub(in crate::proto) use stream::Walk;
pub(in crate::proto) use wire::{DELETE, LONGEST, PUT, Told};
#[cfg(test)]
pub(in crate::proto) use wire::{Gone, Telling};

use std::time::Duration;

/// Namespaces that the agent writes itself: where persistent clients go, and which real servers are up.
pub const RESERVED: [&str; 2] = [PERSISTENCE, HEALTH];
/// Where persistent clients go.
pub const PERSISTENCE: &str = "persistence";
/// Which real servers the active node holds to be up.
pub const HEALTH: &str = "health";
/// Records that the namespaces of a configuration may hold together: with those of the agent itself no more
/// than half of what a table takes.
pub const CONFIGURED_MAX: u32 = 250_000;
/// Shortest time between two words of the stream about one record.
pub const SPACING: Duration = Duration::from_millis(100);
/// Longest time for which the standby's record may end sooner than the true one.
pub const REFRESH_MAX: Duration = Duration::from_secs(30);
