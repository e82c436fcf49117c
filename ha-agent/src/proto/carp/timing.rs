//! The durations that follow from interval and timeout: this node's, the partner's, and for as long as
//! the partner may not have heard of a change, those from before it.
//!
//! What binds this node follows the shortest of them, what this node waits for the longest. So nodes whose
//! settings differ, as they do between two reloads, are as safe as equal ones: a lease never outlasts what
//! the other node was told, and no wait is shorter than any lease. Both send at the faster pace, so that a
//! short lease is renewed as often as the node that set it expects.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::{Action, Role};
use super::config::{ElectionConfig, Settings, carp_ticks};
use super::machine::Election;
use super::trailer::Body;

/// How long a packet may be on its way to the node that has just handed over. The partner opens its gate
/// meanwhile, so this is the one time that two nodes forward, and only what both know already.
const HAND_OVER: Duration = Duration::from_millis(50);
/// No partner's interval counts as shorter.
const FASTEST: Duration = Duration::from_millis(1);

/// An interval and a timeout that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

/// The pace from before a change that made the timeout longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    /// The first packet that tells of the change.
    first: u64,
    pace: Pace,
}

/// See the module's documentation. T is the shortest timeout; the safety argument rests on how these
/// relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timing {
    /// This node's own settings, as it tells them.
    pub(super) own: Pace,
    /// Between advertisements and HELLOs: the shortest interval.
    pub(super) interval: Duration,
    /// How long a silent partner is waited for: the longest timeout.
    pub(super) timeout: Duration,
    /// How long an echo of a packet sent just now binds the partner, by this node's clock.
    pub(super) lease: Duration,
    /// Silence after which an active node is alone: 2/3 T.
    pub(super) alone_after: Duration,
    /// The least silence for that, if the lease is about to end: T/2.
    pub(super) alone_least: Duration,
    /// The same, if the partner takes no part: T/3.
    pub(super) alone_passive: Duration,
    /// How long before the end of the lease that is decided.
    pub(super) alone_guard: Duration,
    /// Lease of an active node that is alone: T/2, shorter than any wait of the partner by T/4.
    pub(super) alone_lease: Duration,
    /// How often that lease is renewed: T/8.
    pub(super) alone_renewal: Duration,
    /// Lateness of a timer that counts as having been frozen: T/8.
    pub(super) stall: Duration,
    /// How long a node listens after that: 3/4 of the longest timeout.
    pub(super) stall_wait: Duration,
    /// Least distance of two HELLOs on one link.
    pub(super) hello_gap: Duration,
    /// Distance of the three copies of a release.
    pub(super) release_gap: Duration,
    /// How long established connections pass after a release: 50 ms, at most T/2.
    pub(super) hand_over: Duration,
    /// How long what failed must have worked again before it counts.
    pub(super) hold_down: Duration,
    /// How long a lost gateway is only lost for this node: the partner probes it at its own moments.
    pub(super) gateway_hold: Duration,
    /// How long after the partner fell silent a lost gateway is blamed on the same event.
    pub(super) isolation: Duration,
}

impl Timing {
    /// From this node's settings, those it had, and those of the partner.
    pub(super) fn new(
        config: &ElectionConfig,
        former: Option<Pace>,
        partner: Option<Pace>,
    ) -> Self {
        let own = Pace {
            interval: config.interval,
            timeout: config.timeout.max(config.interval * 3),
        };
        let others = || former.into_iter().chain(partner);
        let interval = others().fold(own.interval, |least, pace| least.min(pace.interval));
        let slowest = others().fold(own.interval, |most, pace| most.max(pace.interval));
        let short = others().fold(own.timeout, |least, pace| least.min(pace.timeout));
        let timeout = others().fold(own.timeout, |most, pace| most.max(pace.timeout));
        let short = short.max(interval * 3);
        Self {
            own,
            interval,
            timeout,
            lease: lease_of(short),
            alone_after: short * 2 / 3,
            alone_least: short / 2,
            alone_passive: short / 3,
            alone_guard: short / 32,
            alone_lease: short / 2,
            alone_renewal: short / 8,
            stall: short / 8,
            stall_wait: timeout * 3 / 4,
            hello_gap: interval / 8,
            release_gap: (interval / 4).min(Duration::from_millis(20)),
            hand_over: HAND_OVER.min(short / 2),
            hold_down: config.hold_down,
            // Gateways are probed at least once a second.
            gateway_hold: slowest.min(Duration::from_secs(1)) * 3 / 2,
            isolation: (timeout * 10).max(Duration::from_secs(10)),
        }
    }
}

/// How long a partner that waits `wait` after a packet is bound from the sending of it on: less two
/// milliseconds, and a thousandth for clocks that drift apart.
pub(super) fn lease_of(wait: Duration) -> Duration {
    wait.saturating_sub(Duration::from_millis(2) + wait / 1000)
}

impl Body {
    fn pace(&self) -> Pace {
        Pace {
            interval: Duration::from_micros(self.interval_us.into()).max(FASTEST),
            timeout: Duration::from_micros(self.timeout_us.into()),
        }
    }
}

impl Election {
    /// Takes in what time and the partner's last words have changed.
    pub(super) fn adjust_timing(&mut self) {
        let partner = self.peers.partner().filter(|partner| {
            let longest = self.timing.own.timeout.max(partner.timeout());
            self.now < partner.heard + longest
        });
        let former = self.former.map(|former| former.pace);
        let partner = partner.map(|partner| partner.body.pace());
        let timing = Timing::new(&self.config, former, partner);
        if timing.interval < self.timing.interval {
            let next = self.now + timing.interval;
            self.advert_due = self.advert_due.min(next);
            for link in &mut self.links {
                link.hello_due = link.hello_due.min(next);
            }
        }
        self.timing = timing;
    }

    /// Other settings. A shorter timeout counts at once, for the lease that is running too; a longer one
    /// for what the partner is owed at once, for the lease when the partner has heard of it.
    pub(super) fn take_settings(&mut self, settings: Settings, out: &mut Vec<Action>) {
        let before = self.timing.own;
        self.config.interval = settings.interval;
        self.config.timeout = settings.timeout;
        self.config.hold_down = settings.hold_down;
        self.config.auth = settings.auth;
        self.ticks = carp_ticks(&self.config);
        if !self.accepts_foreign() {
            self.foreign = None;
        }
        self.keep_former(before);
        self.adjust_timing();
        let longest = self.now + self.timing.lease;
        if self.role == Role::Active && self.gate.is_some_and(|gate| gate > longest) {
            self.set_gate(Some(longest), out);
        }
        self.advert_due = self.now;
        self.hello_soon();
    }

    /// This pace was told until now. It goes on binding until the partner has heard of a longer timeout.
    pub(super) fn keep_former(&mut self, told: Pace) {
        let mut pace = told;
        if let Some(former) = self.former {
            pace.interval = pace.interval.min(former.pace.interval);
            pace.timeout = pace.timeout.min(former.pace.timeout);
        }
        self.former = (self.config.timeout > pace.timeout).then(|| Former {
            first: self.log.upcoming(),
            pace,
        });
    }

    /// The partner echoes this packet: it knows what was told in it.
    pub(super) fn note_echo(&mut self, body: &Body) {
        let knows =
            |former: &Former| body.echo_epoch == self.epoch && body.echo_sequence >= former.first;
        self.former = self.former.filter(|former| !knows(former));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Mode;
    use crate::proto::carp::config::tests::config;

    #[test]
    fn waits_outlast_leases() {
        let pace = |interval| Pace {
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(interval * 3),
        };
        for own in [4, 100, 1000, 255_000] {
            let config = config(Mode::First, Duration::from_millis(own));
            for other in [own, 4, 100, 1000, 255_000] {
                for (former, partner) in [
                    (None, None),
                    (None, Some(pace(other))),
                    (Some(pace(other)), None),
                ] {
                    let here = Timing::new(&config, former, partner);
                    assert!(here.alone_lease + here.alone_lease / 2 <= here.stall_wait);
                    assert!(here.stall_wait <= here.timeout);
                    assert!(here.lease < here.timeout);
                    assert!(here.alone_after < here.lease);
                    assert!(here.lease < here.own.timeout);
                    assert!(here.interval * 3 <= here.alone_lease * 2);
                }
            }
        }
    }
}
