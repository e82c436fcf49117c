//! Repair of single buckets, as the standby drives it.
//!
//! ```text
//!  digests differ,            sums of all            sums of their             contents of the
//!  packets lost for good ──▶  groups       ──▶  buckets  ──▶   buckets that differ  ──▶ done
//! ```
//!
//! Every answer is part of the ordered stream and so exact for its place in it, whatever happens meanwhile.
//! A request that is not answered is made again, ever less often. If nothing helps, or half of the
//! table differs, a full transfer is the repair.

use super::ask::{Ask, Asking, Turn, What};
use super::buckets::{Bucket, BucketSet, GROUPS};
use super::bulk::MANY;
use super::context::Context;
use super::record::Sums;
use super::stream::{State, Stream, gone};
use super::wire::{Kind, Knows};
use super::{Action, Destination};
use crate::proto::time::Instant;

/// Buckets that are different after their repair before a full transfer is asked for.
const FAILURES: u32 = 3;
/// Repairs in a row that found nothing before a full transfer is asked for.
const FUTILE: u32 = 2;

/// A repair under way.
pub(super) struct Mend {
    step: Step,
    /// Buckets known to differ.
    wrong: BucketSet,
    asking: Asking,
    failures: u32,
}

/// What is being found out.
enum Step {
    /// Which groups differ; one bit each for those not heard of, and for those that do.
    Groups { left: u64, differ: u64 },
    /// Which of their buckets differ.
    Buckets { asked: BucketSet, left: BucketSet },
    /// What those hold.
    Contents,
}

impl Mend {
    fn next(&mut self, step: Step, now: Instant) {
        self.step = step;
        self.asking.next(now);
    }

    /// Buckets known to differ.
    pub(super) fn wrong(&self) -> u64 {
        self.wrong.len() as u64
    }

    pub(super) const fn due(&self) -> Instant {
        self.asking.due()
    }
}

impl Stream {
    /// Whether buckets can be repaired: the sender knows how, and the table is whole but for errors.
    pub(super) fn can_mend(&self, context: &Context) -> bool {
        let whole = matches!(self.state, State::Whole | State::Sweeping { .. });
        whole && self.sender_knows.min(context.knows()) >= Knows::Buckets
    }

    /// The tables differ.
    pub(super) fn differs(&mut self, context: &mut Context, now: Instant) {
        if !self.can_mend(context) || self.futile >= FUTILE {
            self.want(now);
        } else {
            let due = self.penalty.after(now);
            self.begin_mend(context, due);
        }
    }

    /// Gives up the next packets, which have been missing for too long. Those behind get another chance.
    pub(super) fn give_up(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        if !self.can_mend(context) {
            self.want(now);
            return;
        }
        let packets = self.order.skip_missing(now);
        self.skipped(context, now, packets);
        self.deliver_held(context, now, out);
    }

    /// Packets were given up: what they said is to be found out at once.
    pub(super) fn skipped(&mut self, context: &mut Context, now: Instant, packets: u64) {
        context.counters.skipped += packets;
        self.bucket = None;
        self.interrupt_records(now);
        self.begin_mend(context, now);
    }

    fn begin_mend(&mut self, context: &mut Context, due: Instant) {
        context.counters.mends_begun += u64::from(self.mend.is_none());
        self.mend = Some(Mend {
            step: Step::Groups {
                left: u64::MAX,
                differ: 0,
            },
            wrong: BucketSet::new(),
            asking: Asking::new(due),
            failures: 0,
        });
    }

    /// Asks for what is to be found out now, if it is time.
    pub(super) fn ask(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        // It does not hear us, or is not heard; has still to say something by itself; or has answered
        // already, in packets behind those that are missing.
        let in_vain = self.is_silent(now) || !self.current || self.order.stuck_since().is_some();
        if let Some(mend) = &mut self.mend {
            match mend.asking.turn(now, in_vain) {
                Turn::Wait => {}
                Turn::GiveUp => self.want(now),
                Turn::Ask => {
                    let (what, buckets) = match &mend.step {
                        Step::Groups { .. } => (What::Groups, BucketSet::new()),
                        Step::Buckets { asked, .. } => (What::Sums, asked.clone()),
                        Step::Contents => (What::Contents, mend.wrong.clone()),
                    };
                    self.send_ask(context, what, buckets, out);
                }
            }
        }
        if let Some(mend) = &mut self.record_mend {
            match mend.asking.turn(now, in_vain) {
                Turn::Wait => {}
                Turn::GiveUp => self.want(now),
                Turn::Ask => self.send_ask(context, What::Records, BucketSet::new(), out),
            }
        }
    }

    fn send_ask(
        &self,
        context: &mut Context,
        what: What,
        buckets: BucketSet,
        out: &mut Vec<Action>,
    ) {
        let ask = Ask {
            stream: self.key.id,
            what,
            buckets,
        };
        context.counters.asks_sent += 1;
        let mut body = Vec::new();
        ask.encode(&mut body);
        context.send_control(Kind::Ask, &body, Destination::Partner, out);
    }

    /// Sums of the sender's at this place of the stream.
    pub(super) fn compare_sums(&mut self, context: &mut Context, now: Instant, sums: &Sums) {
        let Some(mend) = &mut self.mend else {
            return;
        };
        let of_groups = usize::from(sums.group) == GROUPS;
        match &mut mend.step {
            Step::Groups { left, differ } if of_groups => {
                for (group, sum) in sums.numbered() {
                    *left &= !(1 << group);
                    let own = context.shadow.group_sum(group);
                    *differ |= u64::from(own != sum) << group;
                }
                let (left, differ) = (*left, *differ);
                mend.asking.answered(now);
                if left == 0 {
                    self.compared_groups(context, now, differ);
                }
            }
            Step::Buckets { left, .. } if !of_groups => {
                for (place, sum) in sums.numbered() {
                    let number = u16::from(sums.group) * 64 + u16::from(place);
                    let Some(bucket) = Bucket::new(number) else {
                        continue;
                    };
                    left.remove(bucket);
                    if context.shadow.bucket_sum(bucket) == sum {
                        mend.wrong.remove(bucket);
                    } else {
                        mend.wrong.insert(bucket);
                    }
                }
                let done = left.is_empty();
                mend.asking.answered(now);
                if done {
                    self.compared_buckets(context, now);
                }
            }
            Step::Groups { .. } | Step::Buckets { .. } | Step::Contents => {}
        }
    }

    fn compared_groups(&mut self, context: &mut Context, now: Instant, differ: u64) {
        if differ == 0 {
            self.mended(context, false);
            return;
        }
        let mut asked = BucketSet::new();
        for group in (0..GROUPS as u8).filter(|group| differ >> group & 1 != 0) {
            asked.insert_mask(group, u64::MAX);
        }
        if let Some(mend) = &mut self.mend {
            let left = asked.clone();
            mend.next(Step::Buckets { asked, left }, now);
        }
    }

    fn compared_buckets(&mut self, context: &mut Context, now: Instant) {
        let Some(mend) = &mut self.mend else {
            return;
        };
        match mend.wrong.len() {
            0 => self.mended(context, false),
            wrong if wrong > MANY => self.want_at_once(now),
            _ => mend.next(Step::Contents, now),
        }
    }

    fn mended(&mut self, context: &mut Context, found: bool) {
        context.counters.mends_done += 1;
        self.mend = None;
        self.futile = if found { 0 } else { self.futile + 1 };
    }

    /// The sender begins to say all that a bucket holds.
    pub(super) fn begin_bucket(&mut self, context: &mut Context, bucket: Bucket) {
        self.bucket = Some(bucket);
        for slot in context.shadow.bucket(bucket) {
            if let Some(entry) = context.shadow.get_mut(slot) {
                entry.stale = true;
            }
        }
    }

    /// It has said everything: what it did not confirm is not there.
    pub(super) fn end_bucket(
        &mut self,
        context: &mut Context,
        now: Instant,
        bucket: Bucket,
        sum: u64,
        out: &mut Vec<Action>,
    ) {
        // Of one whose beginning is missing nothing can be concluded.
        if self.bucket.take() != Some(bucket) {
            return;
        }
        for slot in context.shadow.bucket(bucket) {
            let stale = context.shadow.get(slot).is_some_and(|entry| entry.stale);
            if stale && let Some(entry) = context.shadow.remove(slot) {
                let counters = &mut context.counters;
                counters.mend_removed.add(entry.record.class(), 1);
                counters.applied += 1;
                out.push(gone(entry.record));
            }
        }
        let mut equal = context.shadow.bucket_sum(bucket) == sum;
        if !equal && context.audits() {
            // Both may hold the same, and this node have counted wrong.
            context.shadow.audit(bucket, &self.key);
            equal = context.shadow.bucket_sum(bucket) == sum;
        }
        context.counters.buckets_mended += u64::from(equal);
        context.counters.buckets_failed += u64::from(!equal);
        let Some(mend) = &mut self.mend else {
            return;
        };
        if equal {
            mend.wrong.remove(bucket);
        }
        mend.failures += u32::from(!equal);
        if mend.failures == FAILURES {
            self.want(now);
        } else if matches!(mend.step, Step::Contents) {
            mend.asking.answered(now);
            if mend.wrong.is_empty() {
                self.mended(context, true);
            }
        }
    }
}
