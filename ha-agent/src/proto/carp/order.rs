//! Which of two nodes should be active.

use std::cmp::{Ordering, Reverse};

/// What the order compares. Both nodes compute both standings from what each of them tells, so they
/// come to opposite results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a criterion of its own"
)]
pub(super) struct Standing {
    /// Has the partner's mode and came later.
    pub(super) conflict: bool,
    /// Table and configuration are equal to the partner's.
    pub(super) ready: bool,
    /// Failed production links.
    pub(super) failed: u32,
    /// Production links that failed not long ago.
    pub(super) recent: u32,
    /// Is active and may stay so.
    pub(super) active: bool,
    /// Is the preferred node.
    pub(super) preferred: bool,
    /// Is the first node.
    pub(super) first: bool,
}

impl Standing {
    /// `Greater` if `self` should be active; the first difference decides.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let key = |standing: &Self| {
            (
                !standing.conflict,
                standing.ready,
                Reverse(standing.failed),
                Reverse(standing.recent),
                standing.active,
                standing.preferred,
                standing.first,
            )
        };
        key(self).cmp(&key(other))
    }

    /// Whether `self` should be active rather than `other`.
    pub(super) fn beats(&self, other: &Self) -> bool {
        self.compare(other) == Ordering::Greater
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of standings: antisymmetric, decided by the first difference.
    #[test]
    fn order_is_total_and_antisymmetric() {
        let all: Vec<Standing> = (0..192u32)
            .map(|bits| Standing {
                conflict: bits & 1 != 0,
                ready: bits & 2 != 0,
                active: bits & 4 != 0,
                preferred: bits & 8 != 0,
                first: bits & 16 != 0,
                failed: bits / 32 % 2,
                recent: bits / 64,
            })
            .collect();
        for a in &all {
            for b in &all {
                assert_eq!(a.compare(b), b.compare(a).reverse());
                assert_eq!(a.compare(b) == Ordering::Equal, a == b);
                let expected = if a.conflict != b.conflict {
                    b.conflict
                } else if a.ready != b.ready {
                    a.ready
                } else if a.failed != b.failed {
                    a.failed < b.failed
                } else if a.recent != b.recent {
                    a.recent < b.recent
                } else if a.active != b.active {
                    a.active
                } else if a.preferred != b.preferred {
                    a.preferred
                } else {
                    a.first && !b.first
                };
                assert_eq!(a.beats(b), expected, "{a:?} {b:?}");
            }
        }
    }
}
