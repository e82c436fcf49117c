//! Packets that the data plane has sent, as the control socket hands them to a capture.

use serde::{Deserialize, Serialize};

use crate::proto::hex;

/// What was sent since the last request of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The packets, oldest first.
    pub packets: Vec<Packet>,
    /// Packets of the whole capture that there was no room for.
    pub lost: u64,
}

/// A packet as the data plane left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// Device that it came in on.
    pub device: String,
    /// What became of it: the name of the counter that counts it.
    pub reason: String,
    /// Length of the frame.
    pub length: u32,
    /// Its beginning.
    #[serde(with = "hex")]
    pub bytes: Vec<u8>,
}
