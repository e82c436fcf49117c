//! Packets of the stream kept for repetition.

use std::collections::VecDeque;

use super::SyncConfig;
use crate::proto::time::Instant;

/// The newest packets, oldest first, without gaps in their numbers.
pub(super) struct Retention {
    packets: VecDeque<Retained>,
    bytes: usize,
}

/// A packet as it was sent.
pub(super) struct Retained {
    pub(super) seq: u64,
    pub(super) bytes: Vec<u8>,
    /// When the data plane made the oldest change in it; `None` for one of a full transfer.
    pub(super) at: Option<Instant>,
}

impl Retention {
    pub(super) const fn new() -> Self {
        Self {
            packets: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Keeps the next packet, and forgets the oldest ones beyond the limits.
    pub(super) fn push(&mut self, packet: Retained, config: &SyncConfig) {
        self.bytes += packet.bytes.len();
        self.packets.push_back(packet);
        while self.packets.len() > config.retain_packets || self.bytes > config.retain_bytes {
            let Some(oldest) = self.packets.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes.len();
        }
    }

    /// The packet with this number.
    pub(super) fn get(&self, seq: u64) -> Option<&Retained> {
        let offset = seq.checked_sub(self.tail()?)?;
        self.packets.get(usize::try_from(offset).ok()?)
    }

    /// The lowest number kept.
    pub(super) fn tail(&self) -> Option<u64> {
        self.packets.front().map(|oldest| oldest.seq)
    }
}
