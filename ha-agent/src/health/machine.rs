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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judge {
    rise: u32,
    fall: u32,
    up: bool,
    /// Results in a row that speak against the current judgement.
    against: u32,
}

impl Judge {
    /// Starts with the given judgement. A `rise` or `fall` of 0 counts as 1.
    pub fn new(rise: u32, fall: u32, up: bool) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            up,
            against: 0,
        }
    }

    /// The judgement.
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// Takes a result in; returns the judgement if it has changed.
    pub const fn result(&mut self, success: bool) -> Option<bool> {
        if success == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.up { self.fall } else { self.rise };
        if self.against < needed {
            return None;
        }
        self.up = success;
        self.against = 0;
        Some(success)
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
                if row >= rise.max(fall) {
                    prop_assert_eq!(judge.is_up(), result);
                }
            }
        }
    }
}
