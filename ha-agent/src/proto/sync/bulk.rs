//! What the sender says beside the changes of the data plane: full transfers, what the stream has
//! missed to say, and on request the sums and the contents of buckets and the records that are no connections.
//!
//! All of it is paced by one token bucket and proceeds only as far ahead of the listener's
//! acknowledgements as the listener could buffer, so it cannot outrun the packets kept for repetition,
//! and live changes always find room. A bucket is said in one go: nothing comes between its packets, so
//! the receiver may drop what they did not confirm.

use std::time::Duration;

use super::Action;
use super::ask::{Ask, What};
use super::buckets::{BUCKETS, Bucket, BucketSet, GROUPS};
use super::context::Context;
use super::counters::TransferProgress;
use super::outbox::Batch;
use super::record::{Change, Item, SUMS_AT_ONCE, SUMS_LEN, Sums};
use super::sender::Sender;
use super::wire::Header;
use crate::proto::records;
use crate::proto::time::Instant;

/// Unacknowledged packets beyond which this waits: half of the receiver's window.
const WINDOW: u64 = 512;
/// Pause between two portions.
const PAUSE: Duration = Duration::from_micros(250);
/// Packets of one portion at most.
pub(super) const PORTION: u64 = 64;
/// Slots visited in one portion at most.
const SLOTS: u32 = 1 << 14;
/// Buckets beyond which a full transfer is the cheaper repair.
pub(super) const MANY: usize = BUCKETS / 2;

/// What is under way.
pub(super) struct Bulk {
    walk: Option<Walk>,
    /// Buckets to be said.
    buckets: BucketSet,
    /// The repair of the records that are no connections.
    records: Option<records::Walk>,
    due: Instant,
    /// When the last full transfer began.
    pub(super) began: Instant,
}

/// A walk over the table that says what the stream has not said.
struct Walk {
    /// The full transfer it is, if it is one.
    transfer: Option<u64>,
    /// Next slot to visit.
    cursor: u32,
    /// How far a full transfer is with the records that are no connections, which come last.
    records: records::Walk,
}

impl Bulk {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            walk: None,
            buckets: BucketSet::new(),
            records: None,
            due: now,
            began: now,
        }
    }

    /// A full transfer is under way.
    pub(super) fn is_transferring(&self) -> bool {
        self.walk
            .as_ref()
            .is_some_and(|walk| walk.transfer.is_some())
    }

    /// Something is under way.
    fn is_busy(&self) -> bool {
        self.walk.is_some() || !self.buckets.is_empty() || self.records.is_some()
    }

    /// Buckets still to be said.
    pub(super) fn buckets(&self) -> Option<u64> {
        (!self.buckets.is_empty()).then(|| self.buckets.len() as u64)
    }
}

impl Sender {
    pub(super) fn begin_transfer(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.current = true;
        self.begin = context.head() + 1;
        context.shadow.begin_generation();
        context.records.begin_telling();
        context.counters.transfers_begun += 1;
        let mut batch = Batch::new(context.shortens);
        batch.push(&Item::Begin { id: self.begin });
        context.counters.transfer_bytes += self.send_data(context, now, &batch, out);
        self.outbox.missed = false;
        self.outbox.lost = BucketSet::new();
        self.bulk = Bulk {
            walk: Some(Walk {
                transfer: Some(self.begin),
                cursor: 0,
                records: records::Walk::default(),
            }),
            buckets: BucketSet::new(),
            records: None,
            due: now,
            began: now,
        };
    }

    /// Says some of what is to be said, if it is time.
    pub(super) fn bulk_portion(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if !self.current || self.bulk.due > now {
            return;
        }
        self.take_up(context, now, out);
        if !self.bulk.is_busy() {
            return;
        }
        if let Some(walk) = self.bulk.walk.take() {
            self.bulk.walk = self.walk(context, now, walk, out);
        }
        self.repair(context, now, out);
        self.repair_records(context, now, out);
        self.bulk.due = now + PAUSE;
    }

    /// Turns what the outbox could not hold into work.
    fn take_up(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        if self.bulk.is_transferring() {
            return;
        }
        if !self.outbox.lost.is_empty() {
            self.bulk.buckets.insert_all(&self.outbox.lost);
            self.outbox.lost = BucketSet::new();
            if !self.listener_mends() || self.bulk.buckets.len() > MANY {
                self.begin_transfer(context, now, out);
                return;
            }
        }
        if self.outbox.missed && self.bulk.walk.is_none() {
            self.outbox.missed = false;
            self.bulk.walk = Some(Walk {
                transfer: None,
                cursor: 0,
                records: records::Walk::default(),
            });
        }
    }

    /// A portion of a walk; what is left of it.
    fn walk(
        &mut self,
        context: &mut Context,
        now: Instant,
        walk: Walk,
        out: &mut Vec<Action>,
    ) -> Option<Walk> {
        let Walk {
            transfer,
            mut cursor,
            mut records,
        } = walk;
        let slots = context.shadow.slots();
        let stop = cursor.saturating_add(SLOTS).min(slots);
        while self.bulk_may_send(context) && self.bulk_tokens.take(now) {
            let mut batch = Batch::new(context.shortens);
            while cursor < stop && batch.has_room(context) {
                if let Some(change) = unsaid(context, cursor) {
                    batch.push(&Item::Change(change));
                }
                cursor += 1;
            }
            let owes_records = transfer.is_some() && !records.is_complete();
            if cursor >= slots && batch.records == 0 && owes_records {
                let told = context.tell_all_records(now, &mut records);
                batch = told.unwrap_or(batch);
            }
            let whole = transfer.is_none() || records.is_complete();
            let ends = cursor >= slots && whole && batch.has_room(context);
            if let Some(id) = transfer.filter(|_id| ends) {
                let [said, extended] = context.shadow.said();
                batch.push(&Item::Extended(extended));
                batch.push(&Item::End { id, said });
            }
            if batch.records > 0 {
                let bytes = self.send_data(context, now, &batch, out);
                context.counters.transfer_bytes += if transfer.is_some() { bytes } else { 0 };
            }
            if ends {
                if transfer.is_some() {
                    context.counters.transfers_sent += 1;
                    self.send_heartbeat(context, now, out);
                }
                return None;
            }
            if cursor >= stop && stop < slots {
                break;
            }
        }
        Some(Walk {
            transfer,
            cursor,
            records,
        })
    }

    /// Says some of the buckets that are to be said.
    fn repair(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let mut batch = Batch::new(context.shortens);
        while !self.bulk.is_transferring() && self.bulk_may_send(context) {
            if self.bulk.buckets.is_empty() || (batch.records == 0 && !self.bulk_tokens.take(now)) {
                break;
            }
            if let Some(bucket) = self.bulk.buckets.pop() {
                self.say_bucket(context, now, bucket, &mut batch, out);
            }
        }
        if batch.records > 0 {
            context.counters.bucket_bytes += self.send_data(context, now, &batch, out);
        }
    }

    /// Begins to say all records that are no connections.
    fn begin_records(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        // What is under way goes on: it is an answer as well.
        if self.bulk.records.is_some() {
            return;
        }
        context.records.begin_telling();
        let mut batch = Batch::new(context.shortens);
        batch.push(&Item::Records);
        self.bulk_tokens.spend(now);
        context.counters.bucket_bytes += self.send_data(context, now, &batch, out);
        self.bulk.records = Some(records::Walk::default());
    }

    /// Says some of them.
    fn repair_records(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        while self.bulk_may_send(context)
            && let Some(walk) = &mut self.bulk.records
            && self.bulk_tokens.take(now)
        {
            let told = context.tell_all_records(now, walk);
            let mut batch = told.unwrap_or_else(|| Batch::new(context.shortens));
            if walk.is_complete() && batch.has_room(context) {
                batch.push(&Item::RecordsComplete(context.records.said()));
                self.bulk.records = None;
            }
            if batch.records > 0 {
                context.counters.bucket_bytes += self.send_data(context, now, &batch, out);
            }
        }
    }

    fn say_bucket(
        &mut self,
        context: &mut Context,
        now: Instant,
        bucket: Bucket,
        batch: &mut Batch,
        out: &mut Vec<Action>,
    ) {
        context.counters.buckets_sent += 1;
        self.say(context, now, &Item::Bucket(bucket), batch, out);
        for slot in context.shadow.bucket(bucket) {
            let Some(entry) = context.shadow.get_mut(slot) else {
                continue;
            };
            if entry.is_gone() {
                // What is not confirmed is gone: that needs no word of its own.
                context.shadow.remove(slot);
                continue;
            }
            entry.pending = 0;
            let record = entry.record;
            context.say(slot);
            context.counters.bucket_records.add(record.class(), 1);
            let item = Item::Change(Change::Put(record));
            self.say(context, now, &item, batch, out);
        }
        let sum = context.shadow.bucket_sum(bucket);
        self.say(context, now, &Item::Complete { bucket, sum }, batch, out);
    }

    /// Adds to a packet, after having sent it if it is full. A bucket is not interrupted, so its packets
    /// are paid for later if need be.
    fn say(
        &mut self,
        context: &mut Context,
        now: Instant,
        item: &Item<'_>,
        batch: &mut Batch,
        out: &mut Vec<Action>,
    ) {
        if !batch.has_room(context) {
            context.counters.bucket_bytes += self.send_data(context, now, batch, out);
            self.bulk_tokens.spend(now);
            *batch = Batch::new(context.shortens);
        }
        batch.push(item);
    }

    /// A genuine request of the listener to compare or repair buckets.
    pub(super) fn ask(
        &mut self,
        context: &mut Context,
        now: Instant,
        header: &Header,
        body: &[u8],
        out: &mut Vec<Action>,
    ) {
        if !self.admits(context, header) {
            return;
        }
        let Some(ask) = Ask::decode(body) else {
            context.counters.bad_body += 1;
            return;
        };
        if !self.is_asked(context, now, ask.stream) {
            return;
        }
        context.counters.asks += 1;
        // A full transfer repairs everything.
        if !self.current || self.bulk.is_transferring() || !self.ask_tokens.take(now) {
            context.counters.asks_deferred += 1;
            return;
        }
        match ask.what {
            What::Groups => self.say_groups(context, now, out),
            What::Sums => self.say_buckets(context, now, &ask.buckets, out),
            What::Contents => self.bulk.buckets.insert_all(&ask.buckets),
            What::Records => self.begin_records(context, now, out),
        }
        self.bulk_portion(context, now, out);
    }

    /// Says the sums of all groups.
    fn say_groups(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let groups = 0..GROUPS as u8;
        let sums: Vec<u64> = groups
            .map(|group| context.shadow.group_sum(group))
            .collect();
        self.say_sums(context, now, &pieces(GROUPS as u8, &sums), out);
    }

    /// Says the sums of all buckets of the groups of these.
    fn say_buckets(
        &mut self,
        context: &mut Context,
        now: Instant,
        buckets: &BucketSet,
        out: &mut Vec<Action>,
    ) {
        for (group, _mask) in buckets.masks() {
            let sums: Vec<u64> = Bucket::of_group(group)
                .map(|bucket| context.shadow.bucket_sum(bucket))
                .collect();
            self.say_sums(context, now, &pieces(group, &sums), out);
        }
    }

    fn say_sums(
        &mut self,
        context: &mut Context,
        now: Instant,
        sums: &[Sums],
        out: &mut Vec<Action>,
    ) {
        let at_once = context.room() / SUMS_LEN;
        for sums in sums.chunks(at_once.max(1)) {
            let mut batch = Batch::new(context.shortens);
            for sums in sums {
                batch.push(&Item::Sums(*sums));
            }
            self.bulk_tokens.spend(now);
            context.counters.bucket_bytes += self.send_data(context, now, &batch, out);
        }
    }

    /// Whether the listener's window has room for more.
    fn bulk_may_send(&self, context: &Context) -> bool {
        self.ahead(context) < WINDOW
    }

    /// When [`Self::bulk_portion`] has something to do. If it waits for an acknowledgement, that wakes it.
    pub(super) fn bulk_due(&self, context: &Context) -> Option<Instant> {
        let work = self.bulk.is_busy() || self.outbox.missed || !self.outbox.lost.is_empty();
        (work && self.current && self.bulk_may_send(context)).then_some(self.bulk.due)
    }

    /// Whether the table has changes that neither the stream nor the outbox holds.
    pub(super) fn is_behind(&self) -> bool {
        let walks = self.bulk.is_busy() && !self.bulk.is_transferring();
        walks || self.outbox.missed || !self.outbox.lost.is_empty()
    }

    pub(super) fn progress(&self, context: &Context) -> Option<TransferProgress> {
        self.bulk.is_transferring().then(|| TransferProgress {
            done: context.shadow.said_count(),
            total: context.shadow.len() as u64,
        })
    }
}

/// What the stream has still to say of this slot; it counts as said from now on.
fn unsaid(context: &mut Context, slot: u32) -> Option<Change> {
    let entry = context.shadow.get(slot)?;
    let record = entry.record;
    let waits = entry.pending != 0;
    if entry.is_gone() {
        if waits {
            return None;
        }
        context.shadow.remove(slot);
        return Some(Change::Delete(record.key));
    }
    if context.shadow.is_said(entry) && (waits || !entry.stale) {
        return None;
    }
    if let Some(entry) = context.shadow.get_mut(slot) {
        entry.pending = 0;
    }
    context.say(slot);
    Some(Change::Put(record))
}

/// The sums of a group in records.
fn pieces(group: u8, all: &[u64]) -> Vec<Sums> {
    let (pieces, _none) = all.as_chunks::<SUMS_AT_ONCE>();
    let firsts = (0..).step_by(SUMS_AT_ONCE);
    let piece = |(first, sums): (u8, &[u64; SUMS_AT_ONCE])| Sums {
        group,
        first,
        values: *sums,
    };
    firsts.zip(pieces).map(piece).collect()
}
