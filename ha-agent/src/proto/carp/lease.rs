//! When each packet was sent: an echo is worth only as much as the age of what it echoes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::proto::time::Instant;

/// Remembered moments of sending. Packets sent at one moment share an entry, and an echo comes back
/// within a round trip, so this covers many intervals.
const MOMENTS: usize = 512;

/// Sequence numbers and the moments they were used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SendLog {
    /// Last sequence number used.
    last: u64,
    /// First sequence number of each moment.
    moments: VecDeque<(u64, Instant)>,
}

impl SendLog {
    /// A log that goes on after this sequence number and remembers no moments.
    pub(super) fn after(last: u64) -> Self {
        Self {
            last,
            moments: VecDeque::new(),
        }
    }

    /// The next sequence number, used at `now`.
    pub(super) fn next(&mut self, now: Instant) -> u64 {
        self.last += 1;
        if self.moments.back().is_none_or(|(_, at)| *at != now) {
            if self.moments.len() == MOMENTS {
                self.moments.pop_front();
            }
            self.moments.push_back((self.last, now));
        }
        self.last
    }

    /// The sequence number that [`Self::next`] will return.
    pub(super) fn upcoming(&self) -> u64 {
        self.last + 1
    }

    /// When a sequence number was used; `None` if it was not, or too long ago.
    pub(super) fn sent_at(&self, sequence: u64) -> Option<Instant> {
        if sequence > self.last {
            return None;
        }
        let after = self
            .moments
            .partition_point(|(first, _)| *first <= sequence);
        let (_, at) = self.moments.get(after.checked_sub(1)?)?;
        Some(*at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_found_until_forgotten() {
        let mut log = SendLog::default();
        let at = Instant::from_nanos;
        assert_eq!(log.upcoming(), 1);
        assert_eq!(log.sent_at(1), None);
        assert_eq!(
            (log.next(at(10)), log.next(at(10)), log.next(at(20))),
            (1, 2, 3)
        );
        assert_eq!(log.sent_at(0), None);
        assert_eq!(log.sent_at(1), Some(at(10)));
        assert_eq!(log.sent_at(2), Some(at(10)));
        assert_eq!(log.sent_at(3), Some(at(20)));
        assert_eq!(log.sent_at(4), None);
        for i in 0..MOMENTS as u64 {
            log.next(at(100 + i));
        }
        assert_eq!(log.sent_at(3), None);
        assert_eq!(log.sent_at(4), Some(at(100)));
        assert_eq!(log.upcoming(), MOMENTS as u64 + 4);
    }
}
