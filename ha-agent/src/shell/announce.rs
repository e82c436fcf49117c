//! When to repeat gratuitous ARP: at once, twice in quick succession against loss, and twice more
//! for switches that relearn slowly. No periodic refresh: the addresses stay put.

use std::time::Duration;

use crate::proto::time::Instant;

/// Delays of the announcements after the first one.
const REPEATS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// However many conflicts are seen, announcements are at least this far apart.
const SPACING: Duration = Duration::from_millis(10);

/// The schedule of one round of announcements.
#[derive(Debug, Default)]
pub struct Announcements {
    started: Instant,
    last: Option<Instant>,
    next: usize,
    running: bool,
}

impl Announcements {
    /// Begins a round; `true` if the first announcement may be sent now.
    pub fn start(&mut self, now: Instant) -> bool {
        let allowed = self.last.is_none_or(|last| now.since(last) >= SPACING);
        self.running = true;
        self.started = now;
        self.next = 0;
        if allowed {
            self.last = Some(now);
        }
        allowed
    }

    /// Ends the round: the node is not active any more.
    pub fn stop(&mut self) {
        self.running = false;
    }

    /// When [`Self::due`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let delay = REPEATS.get(self.next)?;
        self.running.then(|| self.started + *delay)
    }

    /// Whether a repeat is due now.
    pub fn due(&mut self, now: Instant) -> bool {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return false;
        }
        self.next += 1;
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
    fn five_announcements_a_round() {
        let mut round = Announcements::default();
        let mut sent = usize::from(round.start(at(1_000)));
        for ms in 1_000..10_000 {
            sent += usize::from(round.due(at(ms)));
        }
        assert_eq!(sent, 5);
        assert_eq!(round.poll_timeout(), None);
    }

    #[test]
    fn conflicts_cannot_make_it_flood() {
        let mut round = Announcements::default();
        let sent = (0..1_000).filter(|ms| round.start(at(*ms))).count();
        assert!(sent <= 100, "{sent}");
    }

    #[test]
    fn a_node_that_is_not_active_is_silent() {
        let mut round = Announcements::default();
        assert!(round.start(at(0)));
        round.stop();
        assert_eq!(round.poll_timeout(), None);
        assert!(!round.due(at(5_000)));
    }
}
