//! Changes of the data plane on their way into a packet.
//!
//! What waits is not a record but the fact that an entry changed; the record is read from the table
//! when the packet is made. So several changes of one connection cost one record, and a connection
//! that came and went in between costs none. One that is gone stays in the table until the packet that
//! says so is made.
//!
//! Two lanes, one for each [`Class`]: what only this node knows goes first, and goes on when the rest
//! has to wait. A lane is bounded. Of what does not fit, the fact is kept: an entry is marked as
//! [stale](super::shadow::Entry::stale), to be found by a walk over the table; of one that is gone, its bucket.

use std::collections::VecDeque;

use super::buckets::BucketSet;
use super::context::Context;
use super::counters::ByClass;
use super::record::{Change, Class, Item, LONGEST, Record};
use super::short::{Ways, short_len};
use crate::datapath::family::FlowKey;
use crate::proto::time::Instant;

/// Changes of one class that wait at most; few in tests, so that they see what comes of more.
pub(super) const LANE: usize = if cfg!(test) { 1 << 9 } else { 1 << 15 };

/// Changes that wait.
pub(super) struct Outbox {
    unique: Lane,
    recomputable: Lane,
    /// Number of the last operation: tells an operation from a later one on the same slot.
    last: u32,
    /// When the changes leave at the latest.
    due: Option<Instant>,
    /// When changes left last.
    flushed: Option<Instant>,
    /// Entries were marked as stale since a walk began.
    pub(super) missed: bool,
    /// Buckets from which deletions were dropped.
    pub(super) lost: BucketSet,
}

#[derive(Default)]
struct Lane {
    ops: VecDeque<Op>,
    /// Bytes that they take.
    bytes: usize,
}

/// Say the entry, or that it is gone, unless another operation has taken it over.
struct Op {
    slot: u32,
    number: u32,
    /// Bytes it takes.
    len: u8,
    /// When the data plane made the first change.
    at: Instant,
}

/// Which lanes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// Nobody listens, or the partner is too far behind.
    None,
    /// The partner does not keep up with everything.
    Unique,
    /// All is well.
    Both,
}

impl Open {
    fn has(self, class: Class) -> bool {
        match class {
            Class::Unique => self != Self::None,
            Class::Recomputable => self == Self::Both,
        }
    }
}

/// The records of a packet.
pub(super) struct Batch {
    pub(super) body: Vec<u8>,
    pub(super) records: u64,
    /// Of these, in short form.
    pub(super) short: u64,
    /// What short forms refer to, if the listener knows them.
    ways: Option<Ways>,
    /// When the data plane made the oldest of these changes.
    pub(super) at: Option<Instant>,
}

impl Batch {
    /// An empty one, whose changes may be in short form.
    pub(super) fn new(shortens: bool) -> Self {
        Self {
            body: Vec::new(),
            records: 0,
            short: 0,
            ways: shortens.then(Ways::default),
            at: None,
        }
    }

    pub(super) fn push(&mut self, item: &Item<'_>) {
        self.records += 1;
        match (item, &mut self.ways) {
            (Item::Change(change), Some(ways)) => {
                self.short += u64::from(ways.encode(change, &mut self.body));
            }
            _ => item.encode(&mut self.body),
        }
    }

    /// Whether any record but sums still fits.
    pub(super) fn has_room(&self, context: &Context) -> bool {
        self.body.len() + LONGEST <= context.room()
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            unique: Lane::default(),
            recomputable: Lane::default(),
            last: 0,
            due: None,
            flushed: None,
            missed: false,
            lost: BucketSet::new(),
        }
    }

    /// Takes a change into the table, and in line if the stream has to say it.
    pub(super) fn change(
        &mut self,
        context: &mut Context,
        now: Instant,
        change: &Change,
        at: Instant,
        say: Option<Open>,
    ) {
        let changed = match change {
            Change::Put(record) => put(context, record, at),
            Change::Delete(key) => delete(context, key, at, say.is_some()),
        };
        let Some((slot, before)) = changed else {
            return;
        };
        let Some(entry) = context.shadow.get(slot) else {
            return;
        };
        let class = entry.record.class();
        if !say.is_some_and(|open| open.has(class)) {
            context.counters.deferred.add(class, 1);
        }
        if say.is_none() {
            return;
        }
        if entry.pending != 0 {
            context.counters.coalesced.add(class, 1);
            if before.is_none_or(|before| before == class || class == Class::Recomputable) {
                return;
            }
        }
        #[cfg(test)]
        if context.sabotage.mute {
            return;
        }
        let len = if context.shortens {
            short_len(change)
        } else {
            change.len()
        };
        self.queue(context, slot, class, len, at);
        let due = now + context.config.flush_after;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn queue(&mut self, context: &mut Context, slot: u32, class: Class, len: usize, at: Instant) {
        let lane = match class {
            Class::Unique => &mut self.unique,
            Class::Recomputable => &mut self.recomputable,
        };
        let Some(entry) = context.shadow.get_mut(slot) else {
            return;
        };
        if lane.ops.len() >= LANE {
            context.counters.overflowed.add(class, 1);
            if entry.is_gone() {
                self.lost.insert(entry.bucket());
                context.shadow.remove(slot);
            } else {
                entry.stale = true;
                self.missed = true;
            }
            return;
        }
        self.last = self.last.checked_add(1).unwrap_or(1);
        entry.pending = self.last;
        lane.bytes += len;
        lane.ops.push_back(Op {
            slot,
            number: self.last,
            len: len as u8,
            at,
        });
    }

    /// The ring of the data plane is empty: leave at once, or soon if others have just left.
    pub(super) fn flush(&mut self, context: &Context, now: Instant) {
        if self.due.is_some() {
            let soonest = self.spaced_until(context).map_or(now, |at| at.max(now));
            self.due = self.due.map(|due| due.min(soonest));
        }
    }

    /// Until then a change that comes does not leave, unless the packet is full.
    pub(super) fn spaced_until(&self, context: &Context) -> Option<Instant> {
        Some(self.flushed? + context.config.flush_spacing)
    }

    fn lanes(&self, open: Open) -> impl Iterator<Item = &Lane> {
        let unique = open.has(Class::Unique).then_some(&self.unique);
        let recomputable = open.has(Class::Recomputable).then_some(&self.recomputable);
        unique.into_iter().chain(recomputable)
    }

    /// Whether a packet is full.
    pub(super) fn is_full(&self, context: &Context, open: Open) -> bool {
        let bytes: usize = self.lanes(open).map(|lane| lane.bytes).sum();
        bytes + LONGEST > context.room()
    }

    /// When the changes leave that may.
    pub(super) fn due(&self, open: Open) -> Option<Instant> {
        let mut lanes = self.lanes(open);
        self.due
            .filter(|_due| lanes.any(|lane| !lane.ops.is_empty()))
    }

    /// Changes that wait, and when the data plane made the oldest.
    pub(super) fn waiting(&self) -> (ByClass, Option<Instant>) {
        let waiting = ByClass {
            unique: self.unique.ops.len() as u64,
            recomputable: self.recomputable.ops.len() as u64,
        };
        let oldest = self.lanes(Open::Both).filter_map(|lane| lane.ops.front());
        (waiting, oldest.map(|op| op.at).min())
    }

    /// Takes out what one packet holds; from now on it counts as said. `None` if there is nothing to say.
    pub(super) fn take(
        &mut self,
        context: &mut Context,
        now: Instant,
        open: Open,
    ) -> Option<Batch> {
        let mut batch = Batch::new(context.shortens);
        for class in [Class::Unique, Class::Recomputable] {
            if open.has(class) {
                self.lane(class).drain_into(&mut batch, context);
            }
        }
        if self.lanes(Open::Both).all(|lane| lane.ops.is_empty()) {
            self.due = None;
        }
        if batch.records == 0 {
            return None;
        }
        self.flushed = Some(now);
        Some(batch)
    }

    const fn lane(&mut self, class: Class) -> &mut Lane {
        match class {
            Class::Unique => &mut self.unique,
            Class::Recomputable => &mut self.recomputable,
        }
    }

    /// Forgets what waits. The table has it; what is gone leaves the table.
    pub(super) fn clear(&mut self, context: &mut Context) {
        self.due = None;
        self.missed = false;
        self.lost = BucketSet::new();
        for class in [Class::Unique, Class::Recomputable] {
            let lane = std::mem::take(self.lane(class));
            for Op { slot, number, .. } in lane.ops {
                if take_over(context, slot, number).is_some_and(|(_record, gone)| gone) {
                    context.shadow.remove(slot);
                }
            }
        }
    }
}

impl Lane {
    fn drain_into(&mut self, batch: &mut Batch, context: &mut Context) {
        while batch.has_room(context)
            && let Some(op) = self.ops.pop_front()
        {
            self.bytes -= usize::from(op.len);
            let Some((record, gone)) = take_over(context, op.slot, op.number) else {
                continue;
            };
            let change = if gone {
                context.shadow.remove(op.slot);
                Change::Delete(record.key)
            } else {
                context.say(op.slot);
                Change::Put(record)
            };
            batch.push(&Item::Change(change));
            batch.at = Some(batch.at.map_or(op.at, |oldest| oldest.min(op.at)));
        }
    }
}

/// The connection an operation is about and whether it is gone, if the operation still stands.
fn take_over(context: &mut Context, slot: u32, number: u32) -> Option<(Record, bool)> {
    let entry = context.shadow.get_mut(slot)?;
    if entry.pending != number {
        return None;
    }
    entry.pending = 0;
    Some((entry.record, entry.is_gone()))
}

/// The entry that changed, and the class it had.
fn put(context: &mut Context, record: &Record, at: Instant) -> Option<(u32, Option<Class>)> {
    let (shadow, counters) = (&mut context.shadow, &mut context.counters);
    let Some(slot) = shadow.find(&record.key) else {
        let slot = shadow.insert(*record, at);
        if slot.is_none() {
            counters.local_table_full.add(record.class(), 1);
        }
        return slot.map(|slot| (slot, None));
    };
    let entry = shadow.get_mut(slot)?;
    if at < entry.at {
        counters.local_outdated += 1;
        return None;
    }
    entry.at = at;
    let before = std::mem::replace(&mut entry.record, *record);
    shadow.revive(slot);
    Some((slot, Some(before.class())))
}

/// The entry that has still to be said to be gone, and its class.
fn delete(
    context: &mut Context,
    key: &FlowKey,
    at: Instant,
    say: bool,
) -> Option<(u32, Option<Class>)> {
    let (shadow, counters) = (&mut context.shadow, &mut context.counters);
    let known = shadow.find(key);
    let Some((slot, entry)) = known.and_then(|slot| Some((slot, *shadow.get(slot)?))) else {
        counters.local_unknown += 1;
        return None;
    };
    if at < entry.at || entry.is_gone() {
        counters.local_outdated += 1;
        return None;
    }
    let class = entry.record.class();
    // What the stream has not said, the standby need not forget: a transfer sweeps it.
    let silent = !say || !shadow.is_said(&entry);
    #[cfg(test)]
    let silent = silent || context.sabotage.no_deletes;
    if silent {
        if entry.pending != 0 {
            counters.coalesced.add(class, 1);
        } else if !say {
            counters.deferred.add(class, 1);
        }
        shadow.remove(slot);
        return None;
    }
    shadow.get_mut(slot)?.at = at;
    shadow.bury(slot);
    Some((slot, Some(class)))
}
