//! How long packets may be: as long as every Ethernet takes, and longer where that was seen to arrive.
//!
//! What the interface takes is known, what is behind it is not: the partner's interface, or a switch, may take
//! less, and drops without a word. So the sender makes a heartbeat as long as its interface takes, once a second;
//! the listener says in its hellos how long the longest packet of the session was that it has heard; and only then
//! do packets become as long. A long heartbeat that is lost costs nothing, since another one comes soon.
//!
//! If long packets are asked for again and again and nothing is acknowledged, the path has changed: from then on
//! the session's packets are of the sure length. Those that were lost are too long for ever; what they said is
//! repaired.

use std::time::Duration;

use super::wire::MAX_PACKET;
use crate::proto::time::Instant;

/// The longest control packet fits.
const SHORTEST: usize = 800;
/// Between two heartbeats that try.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Requests for a long packet in a row, with nothing acknowledged, that end the matter.
const DOUBTS: u32 = 8;

/// How long UDP payloads may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// What every path takes.
    pub sure: usize,
    /// What the interface takes.
    pub most: usize,
}

impl Lengths {
    /// No longer than this in any case.
    pub const fn only(payload: usize) -> Self {
        Self {
            sure: payload,
            most: payload,
        }
    }

    fn bounded(self) -> Self {
        let sure = self.sure.clamp(SHORTEST, MAX_PACKET);
        let most = self.most.clamp(sure, MAX_PACKET);
        Self { sure, most }
    }
}

/// What is known of the path to the listener.
pub(super) struct Length {
    lengths: Lengths,
    /// The listener has heard the longest.
    proven: bool,
    doubts: u32,
    /// When to try.
    due: Instant,
}

impl Length {
    pub(super) fn new(lengths: Lengths, now: Instant) -> Self {
        Self {
            lengths: lengths.bounded(),
            proven: false,
            doubts: 0,
            due: now,
        }
    }

    /// Longest payload that may be sent now.
    pub(super) const fn payload(&self) -> usize {
        if self.proven && !self.is_doubted() {
            self.lengths.most
        } else {
            self.lengths.sure
        }
    }

    /// The listener is another one: what was proven is likely to hold, and what was doubted may not.
    pub(super) const fn begin(&mut self, now: Instant) {
        self.proven = self.proven && !self.is_doubted();
        self.doubts = 0;
        self.due = now;
    }

    const fn is_doubted(&self) -> bool {
        self.doubts >= DOUBTS
    }

    /// How long a heartbeat is to be to try the path; `None` if it is not time.
    pub(super) fn try_now(&mut self, now: Instant) -> Option<usize> {
        let longer = self.lengths.most > self.lengths.sure;
        if !longer || self.proven || self.is_doubted() || self.due > now {
            return None;
        }
        self.due = now + TRY_EVERY;
        Some(self.lengths.most)
    }

    /// The longest packet that the listener says to have heard.
    pub(super) const fn heard(&mut self, longest: u16) {
        self.proven |= longest as usize >= self.lengths.most;
    }

    /// The listener has acknowledged something.
    pub(super) const fn progress(&mut self) {
        if !self.is_doubted() {
            self.doubts = 0;
        }
    }

    /// The listener lacks a packet of this length.
    pub(super) const fn missed(&mut self, length: usize) {
        if length > self.lengths.sure {
            self.doubts = self.doubts.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Lengths = Lengths {
        sure: 1472,
        most: 8972,
    };

    #[test]
    fn nothing_is_long_before_it_was_heard() {
        let now = Instant::from_nanos(1);
        let mut length = Length::new(LONG, now);
        assert_eq!(length.payload(), 1472);
        assert_eq!(length.try_now(now), Some(8972));
        assert_eq!(length.try_now(now), None);
        assert_eq!(length.try_now(now + TRY_EVERY), Some(8972));
        length.heard(8971);
        assert_eq!(length.payload(), 1472);
        length.heard(8972);
        assert_eq!(length.payload(), 8972);
        assert_eq!(length.try_now(now + TRY_EVERY * 9), None);
    }

    #[test]
    fn long_packets_that_do_not_arrive_are_the_last() {
        let now = Instant::from_nanos(1);
        let mut length = Length::new(LONG, now);
        length.heard(8972);
        for _ in 0..DOUBTS - 1 {
            length.missed(8000);
        }
        length.progress();
        for _ in 0..DOUBTS {
            length.missed(1472);
            assert_eq!(length.payload(), 8972);
            length.missed(8000);
        }
        length.progress();
        length.heard(8972);
        assert_eq!((length.payload(), length.try_now(now)), (1472, None));
        length.begin(now);
        assert_eq!(length.payload(), 1472);
        assert_eq!(length.try_now(now), Some(8972));
        length.heard(8972);
        length.begin(now);
        length.heard(100);
        assert_eq!(length.payload(), 8972);
    }

    #[test]
    fn lengths_are_bounded() {
        for (sure, most) in [(0, 0), (usize::MAX, 0), (1, usize::MAX)] {
            let mut length = Length::new(Lengths { sure, most }, Instant::default());
            assert!((SHORTEST..=MAX_PACKET).contains(&length.payload()));
            length.heard(u16::MAX);
            assert!((SHORTEST..=MAX_PACKET).contains(&length.payload()));
        }
    }
}
