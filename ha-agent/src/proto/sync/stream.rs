//! A sender's session as the standby follows it: order, transfer, comparison.

use std::time::Duration;

use super::audit::Audit;
use super::buckets::Bucket;
use super::context::Context;
use super::limits::ReplayWindow;
use super::mend::Mend;
use super::mend_records::RecordMend;
use super::order::Order;
use super::record::{Change, Item, Record, Said};
use super::seal::SessionKey;
use super::short::Items;
use super::wire::{Header, Kind, Knows, Position, Welcome, encode_nack};
use super::{Action, Destination};
use crate::proto::time::Instant;

/// A packet that is missing for this long makes the standby unready.
const STUCK_UNREADY: Duration = Duration::from_millis(500);
/// One that is missing for this long is given up.
const STUCK_LOST: Duration = Duration::from_secs(2);
/// Silence of the sender after which it is given time to repeat packets.
const SILENCE: Duration = Duration::from_millis(500);
/// Wait before the second repair or full transfer in a row that did not make the tables equal.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait.
const RETRY_SLOWEST: Duration = Duration::from_secs(30);
/// Slots swept at once, and the pause after.
const SWEEP_SLOTS: u32 = 8192;
const SWEEP_PAUSE: Duration = Duration::from_micros(100);

/// The sender's session that is followed.
pub(super) struct Stream {
    pub(super) key: SessionKey,
    pub(super) term: u64,
    pub(super) token: u64,
    pub(super) window: ReplayWindow,
    pub(super) order: Order,
    pub(super) state: State,
    /// When the full transfer that is needed may be asked for; `None` if none is needed.
    pub(super) wanted: Option<Instant>,
    /// For repairs and transfers that did not help.
    pub(super) penalty: Penalty,
    /// What the sender repairs if asked to.
    pub(super) sender_knows: Knows,
    /// The repair of buckets under way.
    pub(super) mend: Option<Mend>,
    /// The repair of the records that are no connections.
    pub(super) record_mend: Option<RecordMend>,
    pub(super) record_penalty: Penalty,
    /// They are being said, and nothing of that is missing.
    pub(super) hearing_records: bool,
    /// Repairs in a row that found nothing to repair.
    pub(super) futile: u32,
    /// The bucket that is being said.
    pub(super) bucket: Option<Bucket>,
    pub(super) audit: Audit,
    pub(super) heard: Instant,
    /// Since when it is heard without a long silence.
    heard_since: Instant,
    /// The sender's stream says everything it knows.
    pub(super) current: bool,
    /// Connections the sender holds.
    pub(super) total: u64,
    /// Length of the longest packet of the session.
    pub(super) longest: u16,
    /// Packets since the last hello.
    pub(super) unacknowledged: u32,
    pub(super) sample: Option<Sample>,
    /// What the transfer whose end follows has said of the extended part, if the sender's version knows it.
    extended: Option<Said>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Filling { id: u64 },
    Sweeping { cursor: u32, due: Instant },
    Whole,
}

/// The packet whose delivery the sender measures.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) seq: u64,
    pub(super) at: Instant,
    /// It filled a gap, so it is the one that waited longest.
    pub(super) repaired: bool,
}

/// Wait before the next attempt to make the tables equal, as long as attempts do not help.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Penalty(Duration);

impl Penalty {
    /// When the next attempt may begin.
    pub(super) fn after(&mut self, now: Instant) -> Instant {
        let due = now + self.0;
        self.0 = (self.0 * 2).clamp(RETRY_FIRST, RETRY_SLOWEST);
        due
    }
}

impl Stream {
    pub(super) fn new(key: SessionKey, header: &Header, welcome: &Welcome, now: Instant) -> Self {
        Self {
            key,
            term: header.term,
            token: welcome.token,
            window: ReplayWindow::starting_at(header.seq),
            order: Order::new(welcome.position.head.saturating_add(1)),
            state: State::Waiting,
            wanted: Some(now),
            penalty: Penalty::default(),
            sender_knows: welcome.position.knows,
            mend: None,
            record_mend: None,
            record_penalty: Penalty::default(),
            hearing_records: false,
            futile: 0,
            bucket: None,
            audit: Audit::new(now),
            heard: now,
            heard_since: now,
            current: false,
            total: 0,
            longest: 0,
            unacknowledged: 0,
            sample: None,
            extended: None,
        }
    }

    /// Whether the sender's stream says everything; one that begins to hear us is given time, too.
    pub(super) fn set_current(&mut self, now: Instant, current: bool) {
        if current && !self.current {
            self.heard_since = now;
        }
        self.current = current;
    }

    /// The sender has not been heard for long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.since(self.heard) >= SILENCE
    }

    /// The sender is heard.
    pub(super) fn hear(&mut self, now: Instant) {
        if self.is_silent(now) {
            self.heard_since = now;
        }
        self.heard = now;
    }

    /// When to give up the next packets, which are missing: the time counts in which any could have come.
    pub(super) fn lost_at(&self) -> Option<Instant> {
        let since = self.order.idle_since().filter(|_since| self.current)?;
        let at = since.max(self.heard_since) + STUCK_LOST;
        (at <= self.heard + SILENCE).then_some(at)
    }

    /// A full transfer is needed; if the last one did not help, not before a while.
    pub(super) fn want(&mut self, now: Instant) {
        let due = self.penalty.after(now);
        self.want_at_once(due);
    }

    /// A full transfer is the repair of what was found.
    pub(super) fn want_at_once(&mut self, now: Instant) {
        self.wanted = Some(now);
        self.state = State::Waiting;
        self.mend = None;
        self.record_mend = None;
    }

    pub(super) fn deliver(
        &mut self,
        context: &mut Context,
        now: Instant,
        body: &[u8],
        out: &mut Vec<Action>,
    ) {
        context.counters.received_bytes += body.len() as u64;
        for item in Items::new(body) {
            context.counters.received_records += 1;
            #[cfg(test)]
            if item.is_ok_and(|item| context.sabotage.skips(&item)) {
                continue;
            }
            match item {
                Ok(Item::Change(change)) => {
                    let news = apply(context, &self.key, now, &change, out);
                    if let Change::Put(record) = change
                        && news
                        && self.bucket.is_some()
                    {
                        context.counters.mended.add(record.class(), 1);
                    }
                }
                Ok(Item::Told(told)) => {
                    let sum = |bytes: &[u8]| self.key.sum_bytes(bytes);
                    let event = context.records.hear(now, &told, sum);
                    self.heard_record(context, now, event, out);
                }
                Ok(Item::Begin { id }) => self.begin(context, id),
                Ok(Item::Extended(said)) => self.extended = Some(said),
                Ok(Item::End { id, said }) => {
                    let extended = self.extended.take();
                    if self.state == (State::Filling { id }) {
                        context.sweep_records(out);
                        self.end(context, now, said, extended);
                    }
                }
                Ok(Item::Sums(sums)) => self.compare_sums(context, now, &sums),
                Ok(Item::Bucket(bucket)) => self.begin_bucket(context, bucket),
                Ok(Item::Complete { bucket, sum }) => {
                    self.end_bucket(context, now, bucket, sum, out);
                }
                Ok(Item::Records) => self.begin_records(context, now),
                Ok(Item::RecordsComplete(said)) => self.end_records(context, now, said, out),
                Err(_unreadable) => {
                    context.counters.unreadable_records += 1;
                    self.want(now);
                    return;
                }
            }
        }
    }

    /// Delivers what had waited for the packets before it.
    pub(super) fn deliver_held(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        while let Some(held) = self.order.pop() {
            self.deliver(context, now, &held, out);
        }
    }

    fn begin(&mut self, context: &mut Context, id: u64) {
        context.shadow.begin_generation();
        context.records.begin_hearing();
        self.state = State::Filling { id };
        self.wanted = None;
        self.extended = None;
        self.mend = None;
        self.record_mend = None;
        self.hearing_records = false;
        self.futile = 0;
        self.bucket = None;
    }

    fn end(&mut self, context: &mut Context, now: Instant, basic: Said, extended: Option<Said>) {
        context.counters.transfers_received += 1;
        context.counters.digests_compared += 1;
        if same(context, basic, extended) {
            self.state = State::Sweeping {
                cursor: 0,
                due: now,
            };
        } else {
            context.counters.digests_differed += 1;
            self.want(now);
        }
    }

    /// Compares the tables if everything the position covers, and nothing more, is applied.
    pub(super) fn compare(&mut self, context: &mut Context, now: Instant, position: &Position) {
        let comparable = matches!(self.state, State::Whole | State::Sweeping { .. })
            && position.current
            && !position.transferring
            && position.head.saturating_add(1) == self.order.next();
        #[cfg(test)]
        let comparable = comparable && !context.sabotage.no_digests;
        if !comparable {
            return;
        }
        context.counters.digests_compared += 1;
        let records = position.records;
        #[cfg(test)]
        let records = records.filter(|_| !context.sabotage.knows_connections_only());
        let same_records = records.is_none_or(|records| context.records.said() == records);
        if same(context, position.basic, position.extended) {
            self.penalty = Penalty::default();
            self.futile = 0;
            self.mend = None;
        } else if self.mend.is_none() {
            context.counters.digests_differed += 1;
            self.differs(context, now);
        }
        if self.wanted.is_some() || self.record_mend.is_some() {
            return;
        }
        if same_records {
            self.record_penalty = Penalty::default();
        } else {
            self.records_differ(context, now);
        }
    }

    /// Removes some of what the full transfer did not confirm.
    pub(super) fn sweep(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let State::Sweeping { cursor, due } = self.state else {
            return;
        };
        if due > now {
            return;
        }
        let slots = context.shadow.slots();
        let stop = cursor.saturating_add(SWEEP_SLOTS).min(slots);
        for slot in cursor..stop {
            let shadow = &mut context.shadow;
            let stale = shadow.get(slot).is_some_and(|entry| !shadow.is_said(entry));
            if stale && let Some(entry) = shadow.remove(slot) {
                context.counters.swept += 1;
                context.counters.applied += 1;
                out.push(gone(entry.record));
            }
        }
        self.state = if stop == slots {
            State::Whole
        } else {
            State::Sweeping {
                cursor: stop,
                due: now + SWEEP_PAUSE,
            }
        };
    }

    pub(super) fn ask_again(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        #[cfg(test)]
        {
            self.order.no_backoff = context.sabotage.no_backoff;
        }
        let ranges = self.order.requests(now);
        #[cfg(test)]
        if context.sabotage.no_nacks {
            return;
        }
        if ranges.is_empty() {
            return;
        }
        context.counters.nacks += 1;
        let mut body = Vec::new();
        encode_nack(self.key.id, &ranges, &mut body);
        context.send_control(Kind::Nack, &body, Destination::Partner, out);
    }

    /// Until when this node holds the whole table if nothing more is heard; `None` if it does not.
    pub(super) fn ready_until(&self, context: &Context) -> Option<Instant> {
        let sure = self.wanted.is_none() && self.mend.is_none() && self.record_mend.is_none();
        if self.state != State::Whole || !self.current || !sure {
            return None;
        }
        let silent = self.heard + context.config.peer_timeout;
        let stuck = self.order.stuck_since().map(|since| since + STUCK_UNREADY);
        Some(stuck.map_or(silent, |stuck| silent.min(stuck)))
    }
}

/// Whether this table is the sender's. A sender of an older version has no extended part.
fn same(context: &Context, basic: Said, extended: Option<Said>) -> bool {
    #[cfg(test)]
    let extended = extended.filter(|_| !context.sabotage.first_version);
    let [own_basic, own_extended] = context.shadow.said();
    own_basic == basic && extended.is_none_or(|extended| own_extended == extended)
}

/// Takes over a change, and passes it on if it is news; whether it was.
pub(super) fn apply(
    context: &mut Context,
    key: &SessionKey,
    now: Instant,
    change: &Change,
    out: &mut Vec<Action>,
) -> bool {
    let action = match change {
        Change::Put(record) => put(context, key, now, record),
        Change::Delete(key) => {
            let slot = context.shadow.find(key);
            let entry = slot.and_then(|slot| context.shadow.remove(slot));
            entry.map(|entry| gone(entry.record))
        }
    };
    let news = action.is_some();
    context.counters.applied += u64::from(news);
    out.extend(action);
    news
}

/// What is to be done if the record is news.
fn put(context: &mut Context, key: &SessionKey, now: Instant, record: &Record) -> Option<Action> {
    let slot = context.shadow.find(&record.key);
    let known = slot.and_then(|slot| context.shadow.get_mut(slot));
    let before = known.map(|entry| {
        entry.at = now;
        std::mem::replace(&mut entry.record, *record)
    });
    let Some(slot) = slot.or_else(|| context.shadow.insert(*record, now)) else {
        context.counters.table_full.add(record.class(), 1);
        return None;
    };
    context.shadow.say(slot, key);
    (before != Some(*record)).then_some(Action::Apply {
        change: Change::Put(*record),
        before,
    })
}

/// Removes from the live map what the table has had.
pub(super) const fn gone(record: Record) -> Action {
    Action::Apply {
        change: Change::Delete(record.key),
        before: Some(record),
    }
}
