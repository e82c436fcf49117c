//! When a real server counts as up: the judgement, without clock or socket.

/// Judges one real server by the results of its checks.
///
/// ```text
///            fall failures in a row
///      ┌────┐ ───────────────────▶ ┌──────┐
///      │ up │                      │ down │
///      └────┘ ◀─────────────────── └──────┘
///            rise successes in a row
/// ```
///
/// A server that goes down again soon after it came up needs twice as many successes as before, up to
/// 16 times `rise`: each change rebuilds tables and moves clients. It is calm again when it has stayed up
/// for [`CALM`] checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judge {
    rise: u32,
    fall: u32,
    up: bool,
    /// Results in a row that speak against the current judgement.
    against: u32,
    /// Checks since it came up, as far as they matter.
    since_up: u32,
    /// How often it went down soon after it had come up.
    restless: u32,
}

/// After so many checks a server that has come up counts as calm.
const CALM: u32 = 32;
/// `rise` is doubled this often at most.
const RESTLESS_MAX: u32 = 4;

impl Judge {
    /// Starts with the given judgement. A `rise` or `fall` of 0 counts as 1.
    pub fn new(rise: u32, fall: u32, up: bool) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            up,
            against: 0,
            since_up: CALM,
            restless: 0,
        }
    }

    /// The judgement.
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// Takes a result in; returns the judgement if it has changed.
    pub const fn result(&mut self, success: bool) -> Option<bool> {
        if self.up && self.since_up < CALM {
            self.since_up += 1;
            if self.since_up == CALM {
                self.restless = 0;
            }
        }
        if success == self.up {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < self.needed() {
            return None;
        }
        if self.up && self.since_up < CALM && self.restless < RESTLESS_MAX {
            self.restless += 1;
        }
        self.up = success;
        self.against = 0;
        self.since_up = 0;
        Some(success)
    }

    /// Results in a row that change the judgement.
    const fn needed(&self) -> u32 {
        if self.up {
            self.fall
        } else {
            self.rise.saturating_mul(1 << self.restless)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn falls_and_rises_after_so_many_in_a_row() {
        let mut judge = Judge::new(2, 3, true);
        assert_eq!(judge.result(false), None);
        assert_eq!(judge.result(false), None);
        assert_eq!(judge.result(true), None, "the row is broken");
        assert_eq!(judge.result(false), None);
        assert_eq!(judge.result(false), None);
        assert_eq!(judge.result(false), Some(false));
        assert_eq!(judge.result(false), None);
        assert_eq!(judge.result(true), None);
        assert_eq!(judge.result(true), Some(true));
        assert!(judge.is_up());
    }

    #[test]
    fn zero_means_at_once() {
        let mut judge = Judge::new(0, 0, true);
        assert_eq!(judge.result(false), Some(false));
        assert_eq!(judge.result(true), Some(true));
    }

    #[test]
    fn a_restless_server_is_believed_later_and_later() {
        let mut judge = Judge::new(1, 1, true);
        let mut successes = |needed: u32| {
            assert_eq!(judge.result(false), Some(false));
            for _ in 1..needed {
                assert_eq!(judge.result(true), None);
            }
            assert_eq!(judge.result(true), Some(true));
        };
        for needed in [1, 2, 4, 8, 16, 16] {
            successes(needed);
        }
        for _ in 0..CALM {
            assert_eq!(judge.result(true), None);
        }
        assert_eq!(judge.result(false), Some(false));
        assert_eq!(judge.result(true), Some(true), "it was calm");
    }

    proptest! {
        #[test]
        fn changes_only_after_a_row(
            rise in 1u32..5,
            fall in 1u32..5,
            results in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut judge = Judge::new(rise, fall, true);
            let mut row = 0;
            let mut last = true;
            for result in results {
                row = if result == last { row + 1 } else { 1 };
                last = result;
                let before = judge.is_up();
                let changed = judge.result(result);
                prop_assert_eq!(changed.is_some(), before != judge.is_up());
                if let Some(up) = changed {
                    prop_assert_eq!(up, result);
                    let needed = if up { rise } else { fall };
                    prop_assert!(row >= needed);
                }
                // Never left standing against a long enough row.
                if row >= (rise << RESTLESS_MAX).max(fall) {
                    prop_assert_eq!(judge.is_up(), result);
                }
            }
        }
    }
}
