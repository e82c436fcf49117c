//! What the service manager is told: that the agent is ready, what it is, and that it lives.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

use super::clock;
use super::election::Published;
use crate::proto::carp::Role;
use crate::proto::time::Instant;

/// Feeds within the time after which the service manager takes the agent for dead: a missed one is made up for.
const FEEDS: u32 = 4;

/// Tells the service manager that the agent lives.
///
/// The main loop feeds it, and only while the election thread lives, too: an agent whose election hangs holds a role
/// that nobody takes care of, and is better killed and started anew.
pub(super) struct Watchdog {
    every: Option<Duration>,
    next: Interval,
    hangs: bool,
}

impl Watchdog {
    /// As often as the service manager wants; never, if it does not care.
    pub(super) fn new() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| limit / FEEDS);
        let mut next = interval(every.unwrap_or(Duration::from_hours(1)));
        next.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            every,
            next,
            hangs: false,
        }
    }

    /// Waits until it is to be fed.
    pub(super) async fn due(&mut self) {
        self.next.tick().await;
    }

    /// Feeds it, if the election's account is fresh.
    pub(super) fn feed(&mut self, election: &Published) {
        let Some(every) = self.every else {
            return;
        };
        let hangs = !is_alive(election.at, clock::now(), every);
        if hangs && !self.hangs {
            warn!(
                "the election thread does not answer; if that lasts, the service manager starts the agent anew"
            );
        }
        self.hangs = hangs;
        if !hangs {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// Whether a thread that wrote its account at `at`, and does so ten times a second, is alive at `now`.
fn is_alive(at: Instant, now: Instant, every: Duration) -> bool {
    now.since(at) <= every.max(Duration::from_secs(1))
}

/// Shows the role in `systemctl status`.
pub(super) fn tell_role(role: Role) {
    let text = format!("{role:?}").to_lowercase();
    notify(&[NotifyState::Status(&text)]);
}

/// The time systemd wants with every `RELOADING=1`.
pub(super) fn monotonic() -> NotifyState<'static> {
    NotifyState::MonotonicUsec(i128::from(clock::now().as_nanos() / 1_000))
}

/// Sends states to the service manager, if there is one.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "service manager not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_is_alive_while_its_account_is_fresh() {
        let every = Duration::from_millis(2500);
        let at = Instant::default() + Duration::from_secs(100);
        assert!(is_alive(at, at, every));
        assert!(is_alive(at, at + every, every));
        assert!(!is_alive(at, at + every + Duration::from_millis(1), every));
        // A short watchdog does not take a stall of the machine for a hang.
        let short = Duration::from_millis(50);
        assert!(is_alive(at, at + Duration::from_millis(900), short));
    }
}
