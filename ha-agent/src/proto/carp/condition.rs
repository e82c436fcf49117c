//! Whether something works, and since when: carriers and gateways come and go.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proto::time::Instant;

/// Works or does not. Assumed to work, and to have always worked, until the opposite is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Condition {
    works: bool,
    changed: Option<Instant>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            works: true,
            changed: None,
        }
    }
}

impl Condition {
    /// Takes in a report; whether it is news.
    pub(super) fn report(&mut self, works: bool, now: Instant) -> bool {
        let news = self.works != works;
        if news {
            *self = Self {
                works,
                changed: Some(now),
            };
        }
        news
    }

    /// Whether it works at this moment.
    pub(super) const fn works(&self) -> bool {
        self.works
    }

    /// Whether it works and, if it ever failed, has worked again for the hold time.
    pub(super) fn is_sound(&self, now: Instant, hold: Duration) -> bool {
        self.works && self.changed.is_none_or(|changed| now >= changed + hold)
    }

    /// Since when it has failed.
    pub(super) fn failed_since(&self) -> Option<Instant> {
        self.changed.filter(|_| !self.works)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_counts_again_after_the_hold_time() {
        let (at, hold) = (
            |ms: u64| Instant::from_nanos(ms * 1_000_000),
            Duration::from_millis(100),
        );
        let mut condition = Condition::default();
        assert!(condition.is_sound(at(0), hold));
        assert!(!condition.report(true, at(5)), "no news");
        assert!(condition.is_sound(at(5), hold));
        assert!(condition.report(false, at(10)));
        assert!(!condition.is_sound(at(500), hold));
        assert_eq!(condition.failed_since(), Some(at(10)));
        assert!(condition.report(true, at(20)));
        assert_eq!(condition.failed_since(), None);
        assert!(condition.works() && !condition.is_sound(at(119), hold));
        assert!(condition.is_sound(at(120), hold));
        assert!(condition.report(false, at(121)) && condition.report(true, at(122)));
        assert!(
            !condition.is_sound(at(130), hold),
            "each failure begins it anew"
        );
    }
}
