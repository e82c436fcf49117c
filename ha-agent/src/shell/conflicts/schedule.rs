//! When to probe, and when to announce the shared addresses against somebody else's claim. Pure.

use std::time::Duration;

use crate::proto::time::Instant;

/// Probes of one round, since any of them may be lost.
const ROUND: u32 = 3;
/// Time between them.
const GAP: Duration = Duration::from_millis(300);
/// Time between the rounds' ends and later probes: shorter than an alarm is shown.
const PERIOD: Duration = Duration::from_secs(30);
/// The least time between two defences. RFC 5227 section 2.4 has ten seconds for hosts that never give
/// in; for a service that whole time would be an outage, and one second makes no storm either.
const SPACING: Duration = Duration::from_secs(1);

/// When probes are due.
#[derive(Debug)]
pub(super) struct Rounds {
    next: Instant,
    left: u32,
    held: bool,
}

impl Rounds {
    /// The first probe was sent now.
    pub(super) fn after_first(now: Instant) -> Self {
        Self {
            next: now + GAP,
            left: ROUND - 1,
            held: false,
        }
    }

    /// Whether to probe now. A node that comes to hold the addresses begins a round.
    pub(super) fn due(&mut self, now: Instant, holds: bool) -> bool {
        if holds && !self.held {
            self.next = now;
            self.left = ROUND;
        }
        self.held = holds;
        if now < self.next {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.next = now + if self.left == 0 { PERIOD } else { GAP };
        true
    }
}

/// Announcements against claims.
#[derive(Debug, Default)]
pub(super) struct Defence {
    last: Option<Instant>,
    wanted: bool,
}

impl Defence {
    /// Somebody claimed a shared address.
    pub(super) fn claimed(&mut self) {
        self.wanted = true;
    }

    /// Whether to announce now. The last claim is always answered.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        let rested = self.last.is_none_or(|last| now.since(last) >= SPACING);
        if !self.wanted || !rested {
            return false;
        }
        self.wanted = false;
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn rounds_at_start_and_when_active_and_now_and_then() {
        let mut rounds = Rounds::after_first(at(0));
        let due: Vec<u64> = (0..70_000)
            .filter(|ms| rounds.due(at(*ms), *ms >= 5_000))
            .collect();
        assert_eq!(due, [300, 600, 5_000, 5_300, 5_600, 35_600, 65_600]);
    }

    #[test]
    fn a_claim_is_answered_at_once_and_a_flood_once_a_second() {
        let mut defence = Defence::default();
        assert!(!defence.due(at(0)));
        let mut answered = Vec::new();
        for ms in 100..5_000 {
            if ms <= 2_500 {
                defence.claimed();
            }
            if defence.due(at(ms)) {
                answered.push(ms);
            }
        }
        assert_eq!(
            answered,
            [100, 1_100, 2_100, 3_100],
            "the last word is ours"
        );
    }
}
