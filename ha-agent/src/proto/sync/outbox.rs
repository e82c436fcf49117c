//! Changes of the data plane on their way into a packet.
//!
//! What waits is not a record but the fact that an entry changed; the record is read from the table
//! when the packet is made. So several changes of one connection cost one record, and a connection
//! that came and went in between costs none.

use super::context::Context;
use super::record::{Change, Item, LONGEST, Record};
use super::seal::data_room;
use super::shadow::{Entry, Share};
use crate::datapath::family::FlowKey;
use crate::proto::time::Instant;

/// Changes that wait, never more than one packet holds.
#[derive(Default)]
pub(super) struct Outbox {
    ops: Vec<Op>,
    /// Bytes that they take at most.
    bytes: usize,
    /// Number of the last operation: tells an operation from a later one on the same slot.
    last: u32,
    /// When the data plane made the oldest one.
    at: Option<Instant>,
    /// When they leave at the latest.
    due: Option<Instant>,
    /// When changes left last.
    flushed: Option<Instant>,
}

enum Op {
    /// Say the entry, unless another operation has taken it over.
    Put { slot: u32, number: u32 },
    /// Say that it is gone.
    Delete { key: FlowKey, share: Share },
}

/// The records of a packet.
pub(super) struct Batch {
    pub(super) body: Vec<u8>,
    pub(super) records: u64,
    /// When the data plane made the oldest of these changes.
    pub(super) at: Option<Instant>,
}

impl Batch {
    pub(super) const fn empty() -> Self {
        Self {
            body: Vec::new(),
            records: 0,
            at: None,
        }
    }

    pub(super) fn push(&mut self, item: &Item<'_>) {
        item.encode(&mut self.body);
        self.records += 1;
    }
}

impl Outbox {
    /// Takes a change into the table, and in line if the stream is to say it.
    pub(super) fn change(
        &mut self,
        context: &mut Context,
        now: Instant,
        change: &Change,
        at: Instant,
        say: bool,
    ) {
        let op = match change {
            Change::Put(record) => self.put(context, record, at, say),
            Change::Delete(key) => delete(context, key, at, say),
        };
        let Some(op) = op else {
            return;
        };
        let due = now + context.config.flush_after;
        self.ops.push(op);
        self.bytes += change.len();
        self.at = Some(self.at.map_or(at, |oldest| oldest.min(at)));
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn put(
        &mut self,
        context: &mut Context,
        record: &Record,
        at: Instant,
        say: bool,
    ) -> Option<Op> {
        let (shadow, counters) = (&mut context.shadow, &mut context.counters);
        let known = shadow.find(&record.key);
        let Some(slot) = known.or_else(|| shadow.insert(*record, at)) else {
            counters.local_table_full += 1;
            return None;
        };
        let entry = shadow.get_mut(slot)?;
        if at < entry.at {
            counters.local_outdated += 1;
            return None;
        }
        entry.at = at;
        let before = std::mem::replace(&mut entry.record, *record);
        if !say {
            counters.deferred += 1;
            return None;
        }
        if entry.pending != 0 {
            counters.coalesced += 1;
            let growth = Change::Put(*record)
                .len()
                .checked_sub(Change::Put(before).len());
            self.bytes += growth.unwrap_or(0);
            return None;
        }
        self.last = if self.last == u32::MAX {
            1
        } else {
            self.last + 1
        };
        entry.pending = self.last;
        Some(Op::Put {
            slot,
            number: self.last,
        })
    }

    /// The ring of the data plane is empty: leave at once, or soon if others have just left.
    pub(super) fn flush(&mut self, context: &Context, now: Instant) {
        if self.due.is_some() {
            let spaced = |last| last + context.config.flush_spacing;
            let soonest = self.flushed.map_or(now, spaced).max(now);
            self.due = self.due.map(|due| due.min(soonest));
        }
    }

    /// Whether a packet is full.
    pub(super) fn is_full(&self, context: &Context) -> bool {
        self.bytes + LONGEST > data_room(context.config.mtu_payload)
    }

    /// When the changes leave.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes everything out; from now on it counts as said. `None` if there is nothing to say.
    pub(super) fn take(&mut self, context: &mut Context, now: Instant) -> Option<Batch> {
        self.due = None;
        self.bytes = 0;
        let mut batch = Batch::empty();
        batch.at = self.at.take();
        for op in self.ops.drain(..) {
            let change = match op {
                Op::Put { slot, number } => {
                    let Some(entry) = take_over(context, slot, number) else {
                        continue;
                    };
                    let record = entry.record;
                    let sum = context.sum(&record);
                    context.shadow.say(slot, sum);
                    Change::Put(record)
                }
                Op::Delete { key, share } => {
                    context.shadow.unsay(share);
                    Change::Delete(key)
                }
            };
            batch.push(&Item::Change(change));
        }
        if batch.records == 0 {
            return None;
        }
        self.flushed = Some(now);
        Some(batch)
    }

    /// Forgets what waits: the table has it, and a full transfer will say it.
    pub(super) fn defer(&mut self, context: &mut Context) {
        self.due = None;
        self.bytes = 0;
        self.at = None;
        context.counters.deferred += self.ops.len() as u64;
        for op in self.ops.drain(..) {
            if let Op::Put { slot, number } = op {
                take_over(context, slot, number);
            }
        }
    }
}

/// The entry an operation is about, if the operation still stands.
fn take_over(context: &mut Context, slot: u32, number: u32) -> Option<&mut Entry> {
    let entry = context.shadow.get_mut(slot)?;
    if entry.pending != number {
        return None;
    }
    entry.pending = 0;
    Some(entry)
}

fn delete(context: &mut Context, key: &FlowKey, at: Instant, say: bool) -> Option<Op> {
    let (shadow, counters) = (&mut context.shadow, &mut context.counters);
    let Some(slot) = shadow.find(key) else {
        counters.local_unknown += 1;
        return None;
    };
    if shadow.get(slot).is_some_and(|entry| at < entry.at) {
        counters.local_outdated += 1;
        return None;
    }
    let entry = shadow.remove(slot)?;
    if !say {
        counters.deferred += 1;
        return None;
    }
    counters.coalesced += u64::from(entry.pending != 0);
    // What the stream has not said, the standby need not forget: a transfer sweeps it.
    let share = shadow.share(&entry)?;
    #[cfg(test)]
    if context.sabotage.no_deletes {
        shadow.unsay(share);
        return None;
    }
    Some(Op::Delete { key: *key, share })
}
