//! Replication: the standby's connection table follows the active node's.
//!
//! ```text
//! active   ring of the data plane ─ Local ─ Shadow ─ Sender ── sealed packets ─┐
//! standby  live map ─ Apply ─ Shadow ─ Receiver ── order, gaps, sweep ─────────┘
//! ```
//!
//! One ordered stream per session carries changes and full transfers alike, so that a transfer needs
//! no locking against live traffic: a later packet is a later truth. Packets that are lost are asked
//! for again. Both ends keep keyed sums over what the stream has said, of the whole table and of 4096
//! buckets of it, and the heartbeat names the first for an exact sequence number, so that equality of the
//! tables is checked, not assumed. Where they differ, or where packets can no longer be repeated, the
//! buckets that differ are said anew; a full transfer is the repair of an empty table.
//!
//! The data plane never waits for the partner. If the partner does not keep up, the changes of
//! connections wait that it could forward by hash, and if it is silent all of them; the fact of a change
//! is never forgotten.
//!
//! A *session* is one node in one role: a salt of 16 random bytes, the key derived from it and the
//! pair key, and the counters under that key. A receiver believes in a session only once the session has
//! echoed the receiver's own fresh challenge, so recordings of earlier sessions are worth nothing.
//!
//! [`Sync`] is a sans-IO machine: it reads no clock and owns no socket. Deliberately absent: ageing
//! (the standby never expires what it was told), resolution of records to real-server ids (local to a
//! node), and any effect of a packet before its seal was opened.

mod ask;
mod audit;
mod buckets;
mod bulk;
mod context;
mod counters;
mod index;
mod length;
mod limits;
mod machine;
mod mend;
mod mend_records;
mod order;
mod outbox;
mod receiver;
mod record;
mod retention;
mod seal;
mod sender;
mod shadow;
mod short;
mod stream;
mod sweep;
mod wire;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::proto::records;
use crate::proto::time::Instant;

pub use counters::{ByClass, Counters, SyncRole, SyncSnapshot, TransferProgress};
pub use length::Lengths;
pub use machine::Sync;
pub(in crate::proto) use record::Said;
pub use record::{Change, Class, Record};
pub use sweep::{Found, Half, Remedy, Suspect, Sweeps};

/// What never changes while the agent runs.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    /// 1 on the first node, 2 on the second: tells the partner's packets from our own reflections.
    pub node_id: u8,
    /// This node's name, told to the partner.
    pub name: String,
    /// Number of the pair (its virtual id), so that two pairs on one segment ignore each other.
    pub cluster: u16,
    /// Largest UDP payloads sent: MTU less 28 bytes for IPv4 and UDP. At least 800, at most 9216.
    pub lengths: Lengths,
    /// Connections held; further ones are counted and not replicated.
    pub max_entries: usize,
    /// How long a record may wait for others to share its packet.
    pub flush_after: Duration,
    /// Shortest time between two packets that are not full: the first record after a pause leaves at
    /// once, the following ones share packets.
    pub flush_spacing: Duration,
    /// Silence after which the partner counts as gone.
    pub peer_timeout: Duration,
    /// Packets a second that full transfers and the repair of buckets may add to the stream.
    pub transfer_rate: u32,
    /// Packets a second that may be repeated on request.
    pub repair_rate: u32,
    /// Packets kept for repetition.
    pub retain_packets: usize,
    /// Bytes kept for repetition.
    pub retain_bytes: usize,
}

impl SyncConfig {
    /// The usual values for this node of this pair.
    pub const fn new(node_id: u8, cluster: u16) -> Self {
        Self {
            node_id,
            name: String::new(),
            cluster,
            lengths: Lengths::only(1472),
            max_entries: 1 << 20,
            flush_after: Duration::from_micros(250),
            flush_spacing: Duration::from_micros(200),
            peer_timeout: Duration::from_secs(1),
            transfer_rate: 20_000,
            repair_rate: 20_000,
            retain_packets: 8192,
            retain_bytes: 16 << 20,
        }
    }
}

/// 16 bytes from the operating system's generator, drawn anew for every session: two sessions with one
/// salt would repeat nonces under one key.
pub type Salt = [u8; 16];

/// What the shell tells the machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// The data plane changed a connection. A standby keeps it for a second, in case the news of its
    /// promotion is still under way. After that it is what an active node did before it was told that
    /// it is not active any more, and the live map is put right.
    Local {
        /// The change.
        change: Change,
        /// When the data plane made it. Decides between changes of one connection that arrive out of
        /// order, and the replication lag counts from here.
        at: Instant,
    },
    /// The ring buffer is empty for now: do not wait for more records.
    Flush,
    /// A UDP payload from the replication socket.
    Packet {
        /// The payload, of any length and content.
        bytes: &'a [u8],
    },
    /// The election decided. A repeated role with the same term is ignored; otherwise a new session
    /// starts.
    Role {
        /// Whether this node is active (sends) or anything else (receives).
        active: bool,
        /// The election's term.
        term: u64,
        /// Fresh random bytes.
        salt: Salt,
    },
    /// Entries found in the data plane's map at start. Until a full transfer confirms them they count
    /// as stale; on a promotion without a partner they are the table.
    Load(Vec<Record>),
    /// The configuration generation to name in packets.
    Generation(u64),
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The multicast group (the partner's address where multicast is not used).
    Group,
    /// The partner's own address.
    Partner,
}

/// What the machine asks the shell to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a UDP payload.
    Send {
        /// Where to.
        to: Destination,
        /// The payload, as long as [`SyncConfig::lengths`] allow.
        bytes: Vec<u8>,
    },
    /// Change the standby's live map.
    Apply {
        /// The change.
        change: Change,
        /// What the table had of the connection before, if that is known.
        before: Option<Record>,
    },
    /// Tell whom it concerns that a record which is no connection has changed.
    Record(records::Event),
    /// Whether this node holds the whole table: an active node always; a standby once a full
    /// transfer is applied and swept, the partner is heard and nothing has been missing for long. An
    /// active node's death makes its standby unready after [`SyncConfig::peer_timeout`]; that must
    /// never keep it from taking over.
    Ready(bool),
}
