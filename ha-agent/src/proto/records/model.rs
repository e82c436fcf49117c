//! What records, writers and readers are made of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proto::time::Instant;

/// Longest name of a namespace.
pub const NAMESPACE_MAX: usize = 32;
/// Longest key.
pub const KEY_MAX: usize = 128;
/// Longest key and value together: a record travels as one unit of at most 255 bytes.
pub const KEY_VALUE_MAX: usize = 192;
/// Longest time to live: it crosses the wire as 32 bits of milliseconds.
pub const TTL_MAX: Duration = Duration::from_hours(24 * 30);

/// Name of a namespace, shared between the records in it.
pub type Namespace = Arc<str>;
/// A record's key.
pub type Key = Arc<[u8]>;

/// Which of two writes is the later one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Stamp {
    /// The election's term in which it was written.
    pub term: u64,
    /// Number of the write, growing over all records.
    pub version: u64,
}

/// How much a namespace may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Records.
    pub records: u32,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Where.
    pub namespace: String,
    /// Under which key.
    pub key: Vec<u8>,
    /// What.
    pub value: Vec<u8>,
    /// For how long from its beginning; none = until it is deleted.
    pub ttl: Option<Duration>,
    /// How long ago its life began.
    pub age: Duration,
}

/// A record as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Arc<[u8]>,
    /// When it was written.
    pub stamp: Stamp,
    /// How long it lives.
    pub ttl: Option<Duration>,
    /// How much of that is left.
    pub left: Option<Duration>,
}

/// A change of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where.
    pub namespace: Namespace,
    /// Which record.
    pub key: Key,
    /// The write's number.
    pub stamp: Stamp,
    /// Whether the partner's stream said it, and not a writer on this node.
    pub from_partner: bool,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put {
        /// Its value.
        value: Arc<[u8]>,
        /// How long it lives.
        ttl: Option<Duration>,
        /// When it ends.
        until: Option<Instant>,
    },
    /// Somebody deleted it, or the partner turned out not to have it.
    Deleted,
    /// Its time was over.
    Expired,
}

/// Why a record is not written or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only the active node writes.
    #[error("this node is not active, and only the active node writes records")]
    NotActive,
    /// No such namespace.
    #[error("there is no namespace `{0}`")]
    NoNamespace(String),
    /// A key of no byte or of too many.
    #[error("a key has 1 to {KEY_MAX} bytes, this one {0}")]
    KeyLength(usize),
    /// Key and value are too long together.
    #[error("key and value have at most {KEY_VALUE_MAX} bytes together, these {0}")]
    TooLong(usize),
    /// A life of nothing or of too long.
    #[error("a time to live is 1 ms to 30 days")]
    Ttl,
    /// As many records as there may be.
    #[error("namespace `{namespace}` holds the {records} records it may hold")]
    Records {
        /// Where.
        namespace: String,
        /// How many.
        records: u32,
    },
    /// As many bytes as there may be.
    #[error(
        "namespace `{namespace}` may hold {bytes} bytes of keys and values, and this would be more"
    )]
    Bytes {
        /// Where.
        namespace: String,
        /// How many.
        bytes: u64,
    },
}

/// Whether this may be the name of a namespace.
pub fn is_namespace(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    !name.is_empty() && name.len() <= NAMESPACE_MAX && name.bytes().all(plain)
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.version)
    }
}
