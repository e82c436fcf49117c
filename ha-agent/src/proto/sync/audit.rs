//! The audit: a node goes through its own table, again and again, and checks that the digests are those
//! of what it holds. Without it equal digests would prove that both nodes have counted alike, not that
//! they hold the same.

use std::ops::Range;
use std::time::Duration;

use super::buckets::{BUCKETS, Bucket};
use super::context::Context;
use super::sender::Sender;
use super::stream::{State, Stream};
use crate::proto::time::Instant;

/// How long it takes to go through the table.
const PASS: Duration = Duration::from_secs(25);
/// Pause between two portions: among a million connections one takes less than half a millisecond.
const PAUSE: Duration = Duration::from_millis(50);
const PORTIONS: u32 = (PASS.as_millis() / PAUSE.as_millis()) as u32;

/// Where the audit stands.
pub(super) struct Audit {
    portion: u32,
    due: Instant,
}

impl Audit {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            portion: 0,
            due: now + PAUSE,
        }
    }

    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// The buckets and the slots to look at now; `None` if it is not time yet.
    pub(super) fn portion(
        &mut self,
        now: Instant,
        slots: u32,
    ) -> Option<(impl Iterator<Item = Bucket>, Range<u32>)> {
        if self.due > now {
            return None;
        }
        let portion = self.portion;
        self.portion = (portion + 1) % PORTIONS;
        self.due = now + PAUSE;
        let buckets = share(BUCKETS as u32, portion);
        let buckets = buckets.filter_map(|number| Bucket::new(number as u16));
        Some((buckets, share(slots, portion)))
    }
}

impl Sender {
    /// Looks at some of the own table.
    pub(super) fn audit(&mut self, context: &mut Context, now: Instant) {
        let Some((buckets, slots)) = self.audit.portion(now, context.shadow.slots()) else {
            return;
        };
        if !self.current || self.bulk.is_transferring() || !context.audits() {
            return;
        }
        for bucket in buckets {
            context.counters.audit_corrected += u64::from(context.audit(bucket));
        }
        for slot in slots {
            let entry = context.shadow.get(slot).copied();
            let overlooked = entry
                .filter(|entry| entry.pending == 0 && !entry.stale && context.is_unsaid(entry));
            if let Some(entry) = overlooked {
                context.counters.unsaid_found.add(entry.record.class(), 1);
                self.outbox.missed = true;
                if let Some(entry) = context.shadow.get_mut(slot) {
                    entry.stale = true;
                }
            }
        }
    }
}

impl Stream {
    /// Looks at some of the own table.
    pub(super) fn audit(&mut self, context: &mut Context, now: Instant) {
        let Some((buckets, _slots)) = self.audit.portion(now, 0) else {
            return;
        };
        if matches!(self.state, State::Whole | State::Sweeping { .. }) && context.audits() {
            for bucket in buckets {
                let wrong = context.shadow.audit(bucket, &self.key);
                context.counters.audit_corrected += u64::from(wrong);
            }
        }
    }
}

/// The part of `0..all` that belongs to a portion.
fn share(all: u32, portion: u32) -> Range<u32> {
    let bound = |portion: u32| (u64::from(all) * u64::from(portion) / u64::from(PORTIONS)) as u32;
    bound(portion)..bound(portion + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_covers_everything_once() {
        for slots in [0, 1, 249, 1000, u32::MAX] {
            let (mut audit, mut now) = (Audit::new(Instant::default()), Instant::default());
            assert!(audit.portion(now, slots).is_none());
            let (mut next_slot, mut buckets) = (0, Vec::new());
            for _ in 0..PORTIONS {
                now = audit.due();
                let (some, range) = audit.portion(now, slots).unwrap();
                assert_eq!(range.start, next_slot);
                next_slot = range.end;
                buckets.extend(some);
            }
            assert_eq!(next_slot, slots);
            assert!(buckets.into_iter().eq(Bucket::all()));
        }
    }
}
