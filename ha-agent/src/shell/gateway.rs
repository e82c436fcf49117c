//! Whether the gateway of a link answers: a pure probe schedule over ARP and neighbour solicitation.
//!
//! These rather than an echo request, because every host on the subnet must answer them and no firewall
//! on the way forbids them.

use std::time::Duration;

use crate::proto::time::Instant;

/// Probes are not sent more often than this, however short the advertisement interval.
const FASTEST: Duration = Duration::from_millis(10);
/// Nor less often than this: a gateway that died should be known before anybody complains.
const SLOWEST: Duration = Duration::from_secs(1);

/// Probe state of one link's gateway.
#[derive(Debug)]
pub struct GatewayProbe {
    interval: Duration,
    patience: Duration,
    next: Instant,
    last_reply: Instant,
    reachable: bool,
}

impl GatewayProbe {
    /// A probe that asks about once an advertisement interval and gives up after two thirds of the
    /// takeover timeout, so that a node that lost its network yields before its partner would have to
    /// guess. Starts out believing the gateway is there.
    pub fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        let mut probe = Self {
            interval,
            patience: timeout,
            next: now,
            last_reply: now,
            reachable: true,
        };
        probe.retime(interval, timeout);
        probe
    }

    /// Other durations; what is known of the gateway stays. An answer to the next question must have its
    /// time, so the question comes before the patience ends.
    pub fn retime(&mut self, interval: Duration, timeout: Duration) {
        self.interval = interval.clamp(FASTEST, SLOWEST);
        self.patience = (timeout * 2 / 3).max(3 * self.interval);
        self.next = self.next.min(self.last_reply + self.interval);
    }

    /// When [`Self::due`] wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Whether a request is due now; schedules the next one.
    pub fn due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        // Nobody was asked meanwhile, so nobody owes an answer.
        self.last_reply = (self.last_reply + now.since(self.next)).min(now);
        self.next = now + self.interval;
        true
    }

    /// The gateway answered.
    pub fn replied(&mut self, now: Instant) {
        self.last_reply = now;
    }

    /// The verdict, if it changed since the last call.
    pub fn change(&mut self, now: Instant) -> Option<bool> {
        let reachable = now.since(self.last_reply) < self.patience;
        (reachable != self.reachable).then(|| {
            self.reachable = reachable;
            reachable
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn silence_is_noticed_within_two_thirds_of_the_timeout() {
        let mut probe = GatewayProbe::new(100 * MS, 300 * MS, at(0));
        assert!(probe.due(at(0)));
        probe.replied(at(1));
        for ms in [100, 200, 300] {
            assert!(probe.due(at(ms)));
        }
        assert_eq!(probe.change(at(250)), None);
        assert_eq!(probe.change(at(301)), Some(false));
        probe.replied(at(302));
        assert_eq!(probe.change(at(303)), Some(true));
    }

    #[test]
    fn a_stall_is_not_held_against_the_gateway() {
        let mut probe = GatewayProbe::new(100 * MS, 300 * MS, at(0));
        assert!(probe.due(at(0)));
        probe.replied(at(1));
        assert!(probe.due(at(350)));
        assert_eq!(probe.change(at(350)), None);
        assert!(probe.due(at(5_000)));
        assert_eq!(probe.change(at(5_000)), None);
    }

    #[test]
    fn schedule_is_bounded() {
        let mut probe = GatewayProbe::new(MS, 3 * MS, at(0));
        assert!(probe.due(at(0)));
        assert!(!probe.due(at(9)));
        assert!(probe.due(at(10)));
    }
}
