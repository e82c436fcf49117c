//! The active node's end: changes become packets of the stream.
//!
//! Without a proven listener nothing is sent but heartbeats, and changes only reach the table; the
//! stream is then not *current*, and the next listener starts with a full transfer. A full transfer
//! walks the table's slots and says what the stream has not said since it began; changes go on in the
//! same stream. It proceeds only as far ahead of the listener's acknowledgements as the listener could
//! buffer, so it cannot outrun the packets kept for repetition.

use std::collections::VecDeque;
use std::time::Duration;

use ha_common::conn::ConnKey4;

use super::context::Context;
use super::counters::TransferProgress;
use super::limits::{Freshness, ReplayWindow, TokenBucket};
use super::record::{Change, Item, LONGEST, Record};
use super::seal::{SessionKey, data_room, proof};
use super::wire::{Header, Hello, Kind, Position, Welcome, decode_nack};
use super::{Action, Destination};
use crate::proto::time::Instant;

/// First heartbeat after traffic: a lost last packet is noticed within this time.
const HEARTBEAT_FIRST: Duration = Duration::from_millis(2);
/// Heartbeats when nothing happens; also the longest pause between two under traffic.
const HEARTBEAT_SLOWEST: Duration = Duration::from_millis(250);
/// Unacknowledged packets beyond which a full transfer waits: half of the receiver's window, so that
/// live changes always find room in it.
const TRANSFER_WINDOW: u64 = 512;
/// Pause between two portions of a full transfer.
const TRANSFER_PAUSE: Duration = Duration::from_micros(250);
/// Packets of one portion at most.
const TRANSFER_PORTION: u64 = 64;
/// Slots visited in one portion at most.
const TRANSFER_SLOTS: u32 = 1 << 14;
/// Packets repeated for one request at most: the receiver's window.
const REPEAT_AT_ONCE: usize = 1024;
/// Answers that anyone could provoke with recorded packets.
const ANSWERS_PER_SECOND: u32 = 1000;
const ANSWERS_BURST: u64 = 10;

/// The sending role.
pub(super) struct Sender {
    /// Packets that can be repeated, oldest first, without gaps in their numbers.
    retained: VecDeque<Retained>,
    retained_bytes: usize,
    pending: Pending,
    /// The stream says everything, or is about to.
    current: bool,
    /// Where the last full transfer began; 0 none yet.
    begin: u64,
    transfer: Option<Transfer>,
    listener: Option<Listener>,
    /// Makes tokens for listeners; redrawn when a listener is accepted, which voids all other tokens.
    token_secret: [u8; 16],
    heartbeat: Heartbeat,
    transfer_bucket: TokenBucket,
    repair_bucket: TokenBucket,
    answer_bucket: TokenBucket,
}

struct Retained {
    seq: u64,
    bytes: Vec<u8>,
    /// When the data plane made the oldest change in it.
    at: Option<Instant>,
}

/// Changes that wait for their packet.
#[derive(Default)]
struct Pending {
    ops: Vec<Op>,
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
    /// Say that it is gone; `sum` is its share in the digest.
    Delete { key: ConnKey4, sum: u64 },
}

struct Transfer {
    id: u64,
    /// Next slot to visit.
    cursor: u32,
    due: Instant,
}

struct Listener {
    key: SessionKey,
    token: u64,
    window: ReplayWindow,
    heard: Instant,
    /// Sequence number and time of its last hello.
    hello: (u64, Instant),
    /// It has applied everything before this.
    next: u64,
    ready: bool,
}

struct Heartbeat {
    due: Instant,
    pause: Duration,
    last: Instant,
}

impl Heartbeat {
    /// Traffic: the next one comes soon, but never later than it would have come.
    fn hurry(&mut self, now: Instant) {
        self.pause = HEARTBEAT_FIRST;
        self.due = (now + self.pause).min(self.last + HEARTBEAT_SLOWEST);
    }

    fn sent(&mut self, now: Instant) {
        self.last = now;
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(HEARTBEAT_SLOWEST);
    }
}

impl Sender {
    pub(super) fn new(context: &mut Context, now: Instant) -> Self {
        let config = &context.config;
        let (transfer_rate, repair_rate) = (config.transfer_rate, config.repair_rate);
        Self {
            retained: VecDeque::new(),
            retained_bytes: 0,
            pending: Pending::default(),
            current: false,
            begin: 0,
            transfer: None,
            listener: None,
            token_secret: draw_secret(context),
            heartbeat: Heartbeat {
                due: now,
                pause: HEARTBEAT_FIRST,
                last: now,
            },
            transfer_bucket: TokenBucket::new(transfer_rate, TRANSFER_PORTION, now),
            repair_bucket: TokenBucket::new(repair_rate, REPEAT_AT_ONCE as u64, now),
            answer_bucket: TokenBucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST, now),
        }
    }

    /// The key of the listener's session.
    pub(super) fn partner_key(&self) -> Option<&SessionKey> {
        self.listener.as_ref().map(|listener| &listener.key)
    }

    /// A change of the data plane.
    pub(super) fn local(
        &mut self,
        context: &mut Context,
        now: Instant,
        change: Change,
        at: Instant,
        out: &mut Vec<Action>,
    ) {
        context.counters.local_changes += 1;
        match change {
            Change::Put(record) => self.local_put(context, now, record, at),
            Change::Delete(key) => self.local_delete(context, now, &key, at),
        }
        if self.pending.ops.len() * LONGEST >= data_room(context.config.mtu_payload) {
            self.send_pending(context, now, out);
        }
    }

    fn local_put(&mut self, context: &mut Context, now: Instant, record: Record, at: Instant) {
        let shadow = &mut context.shadow;
        let slot = if let Some(slot) = shadow.find(&record.key) {
            let Some(entry) = shadow.get_mut(slot) else {
                return;
            };
            if at < entry.at {
                context.counters.local_outdated += 1;
                return;
            }
            entry.at = at;
            entry.record = record;
            slot
        } else {
            let Some(slot) = shadow.insert(record, at) else {
                context.counters.local_table_full += 1;
                return;
            };
            slot
        };
        if !self.current {
            context.counters.deferred += 1;
            return;
        }
        let Some(entry) = shadow.get_mut(slot) else {
            return;
        };
        if entry.pending != 0 {
            context.counters.coalesced += 1;
            return;
        }
        let number = self.pending.next_number();
        entry.pending = number;
        self.pending.push(
            Op::Put { slot, number },
            at,
            now + context.config.flush_after,
        );
    }

    fn local_delete(&mut self, context: &mut Context, now: Instant, key: &ConnKey4, at: Instant) {
        let shadow = &mut context.shadow;
        let Some(slot) = shadow.find(key) else {
            context.counters.local_unknown += 1;
            return;
        };
        if shadow.get(slot).is_some_and(|entry| at < entry.at) {
            context.counters.local_outdated += 1;
            return;
        }
        let Some(entry) = shadow.remove(slot) else {
            return;
        };
        if !self.current {
            context.counters.deferred += 1;
            return;
        }
        if entry.pending != 0 {
            context.counters.coalesced += 1;
        }
        if shadow.is_said(&entry) {
            #[cfg(test)]
            if context.sabotage.no_deletes {
                shadow.unsay(entry.sum());
                return;
            }
            let op = Op::Delete {
                key: *key,
                sum: entry.sum(),
            };
            self.pending.push(op, at, now + context.config.flush_after);
        }
    }

    /// The data plane has nothing more for now.
    pub(super) fn flush(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let earliest = self
            .pending
            .flushed
            .map_or(now, |last| last + context.config.flush_spacing);
        if earliest <= now {
            self.send_pending(context, now, out);
        } else if let Some(due) = &mut self.pending.due {
            *due = earliest.min(*due);
        }
    }

    /// Sends whatever waits.
    pub(super) fn send_pending(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if self.pending.ops.is_empty() {
            return;
        }
        let room = data_room(context.config.mtu_payload);
        let mut body = Vec::with_capacity(room);
        let mut records = 0;
        let at = self.pending.at.take();
        let mut ops = std::mem::take(&mut self.pending.ops);
        for op in ops.drain(..) {
            let change = match op {
                Op::Put { slot, number } => {
                    let Some(entry) = context.shadow.get_mut(slot) else {
                        continue;
                    };
                    if entry.pending != number {
                        continue;
                    }
                    entry.pending = 0;
                    let record = entry.record;
                    let sum = context.sum(&record);
                    context.shadow.say(slot, sum);
                    Change::Put(record)
                }
                Op::Delete { key, sum } => {
                    context.shadow.unsay(sum);
                    Change::Delete(key)
                }
            };
            if body.len() + LONGEST > room {
                self.send_data(context, now, &body, records, at, out);
                body.clear();
                records = 0;
            }
            Item::Change(change).encode(&mut body);
            records += 1;
        }
        self.pending.ops = ops;
        self.pending.due = None;
        self.pending.flushed = Some(now);
        if !body.is_empty() {
            self.send_data(context, now, &body, records, at, out);
        }
    }

    fn send_data(
        &mut self,
        context: &mut Context,
        now: Instant,
        body: &[u8],
        records: u64,
        at: Option<Instant>,
        out: &mut Vec<Action>,
    ) {
        let Some((seq, bytes)) = context.seal_data(body) else {
            return;
        };
        context.counters.sent_records += records;
        context.counters.sent_packets += 1;
        context.counters.sent_bytes += bytes.len() as u64;
        self.retained_bytes += bytes.len();
        self.retained.push_back(Retained {
            seq,
            bytes: bytes.clone(),
            at,
        });
        while self.retained.len() > context.config.retain_packets
            || self.retained_bytes > context.config.retain_bytes
        {
            let dropped = self.retained.pop_front();
            self.retained_bytes -= dropped.map_or(self.retained_bytes, |old| old.bytes.len());
        }
        out.push(Action::Send {
            to: Destination::Group,
            bytes,
        });
        self.heartbeat.hurry(now);
    }

    fn tail(&self, context: &Context) -> u64 {
        self.retained
            .front()
            .map_or_else(|| context.head() + 1, |oldest| oldest.seq)
    }

    fn position(&self, context: &Context, now: Instant) -> Position {
        let (count, digest) = context.shadow.said();
        let hello = self.listener.as_ref().map(|listener| listener.hello);
        Position {
            current: self.current,
            head: context.head(),
            tail: self.tail(context),
            begin: self.begin,
            count,
            digest,
            transferring: self.transfer.is_some(),
            total: context.shadow.len() as u64,
            hello: hello.map_or(0, |(seq, _at)| seq),
            hello_age: hello.map_or(0, |(_seq, at)| Context::age(now, at)),
        }
    }

    fn send_heartbeat(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let mut body = Vec::new();
        self.position(context, now).encode(&mut body);
        context.send_control(Kind::Heartbeat, &body, Destination::Group, out);
        self.heartbeat.sent(now);
    }

    /// A genuine hello; `stranger` is its session's key if it is not the listener's.
    pub(super) fn hello(
        &mut self,
        context: &mut Context,
        now: Instant,
        header: &Header,
        body: &[u8],
        stranger: Option<SessionKey>,
        out: &mut Vec<Action>,
    ) {
        let Some(hello) = Hello::decode(body).filter(|hello| hello.next <= context.head() + 1)
        else {
            context.counters.bad_body += 1;
            return;
        };
        let token = match (&stranger, &mut self.listener) {
            (None, Some(listener)) => {
                if !admit(&mut listener.window, header.seq, context) {
                    return;
                }
                listener.hello = (header.seq, now);
                listener.token
            }
            _ => proof(&self.token_secret, header.session),
        };
        if hello.stream != context.session_id() || hello.token != token {
            self.welcome(context, now, header, &hello, token, out);
            return;
        }
        if let Some(key) = stranger {
            self.token_secret = draw_secret(context);
            self.listener = Some(Listener {
                key,
                token,
                window: ReplayWindow::starting_at(header.seq),
                heard: now,
                hello: (header.seq, now),
                next: hello.next,
                ready: false,
            });
        }
        context.partner_generation = Some(header.generation);
        self.acknowledged(context, now, &hello);
        let lost = hello.next < self.tail(context) && self.begin < self.tail(context);
        if !self.current || lost || (hello.wants_transfer && hello.next > self.begin) {
            self.begin_transfer(context, now, out);
        } else if hello.next < self.tail(context) && self.answer_bucket.take(now) {
            self.send_heartbeat(context, now, out);
        }
        self.transfer_portion(context, now, out);
    }

    /// Proves that this session is alive, and hands out the token that lets the listener prove it.
    fn welcome(
        &mut self,
        context: &mut Context,
        now: Instant,
        header: &Header,
        hello: &Hello,
        token: u64,
        out: &mut Vec<Action>,
    ) {
        if !self.answer_bucket.take(now) {
            context.counters.rate_limited += 1;
            return;
        }
        let mut position = self.position(context, now);
        (position.hello, position.hello_age) = (header.seq, 0);
        let welcome = Welcome {
            challenge: hello.challenge,
            listener: header.session,
            token,
            position,
        };
        let mut body = Vec::new();
        welcome.encode(&mut body);
        context.send_control(Kind::Welcome, &body, Destination::Partner, out);
    }

    fn acknowledged(&mut self, context: &mut Context, now: Instant, hello: &Hello) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        listener.heard = now;
        listener.ready = hello.ready;
        listener.next = listener.next.max(hello.next);
        let sampled = self
            .retained
            .front()
            .and_then(|oldest| hello.sample.checked_sub(oldest.seq))
            .and_then(|index| self.retained.get(usize::try_from(index).ok()?))
            .and_then(|packet| packet.at);
        if let Some(at) = sampled {
            let held = Duration::from_nanos(hello.sample_age);
            context.lag.record(now, now.since(at).saturating_sub(held));
        }
    }

    /// A genuine request of the listener to repeat packets.
    pub(super) fn nack(
        &mut self,
        context: &mut Context,
        now: Instant,
        header: &Header,
        body: &[u8],
        out: &mut Vec<Action>,
    ) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        if !admit(&mut listener.window, header.seq, context) {
            return;
        }
        let Some((stream, ranges)) = decode_nack(body) else {
            context.counters.bad_body += 1;
            return;
        };
        if stream != context.session_id() {
            context.counters.unconfirmed_session += 1;
            return;
        }
        listener.heard = now;
        let oldest = self.tail(context);
        let wanted = ranges.flat_map(|range| {
            (0..u64::from(range.len)).map(move |offset| range.first.saturating_add(offset))
        });
        for seq in wanted.take(REPEAT_AT_ONCE) {
            let kept = seq
                .checked_sub(oldest)
                .and_then(|index| self.retained.get(usize::try_from(index).ok()?));
            let Some(packet) = kept else {
                context.counters.repeats_missed += 1;
                if self.answer_bucket.take(now) {
                    self.send_heartbeat(context, now, out);
                }
                return;
            };
            if !self.repair_bucket.take(now) {
                context.counters.repeats_deferred += 1;
                return;
            }
            context.counters.repeated_packets += 1;
            context.counters.repeated_bytes += packet.bytes.len() as u64;
            out.push(Action::Send {
                to: Destination::Partner,
                bytes: packet.bytes.clone(),
            });
        }
    }

    fn begin_transfer(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        self.send_pending(context, now, out);
        self.current = true;
        self.begin = context.head() + 1;
        context.shadow.begin_generation();
        context.counters.transfers_begun += 1;
        let mut body = Vec::new();
        Item::Begin { id: self.begin }.encode(&mut body);
        self.send_data(context, now, &body, 1, None, out);
        self.transfer = Some(Transfer {
            id: self.begin,
            cursor: 0,
            due: now,
        });
    }

    fn transfer_portion(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.due <= now) else {
            return;
        };
        let Transfer { id, mut cursor, .. } = transfer;
        let room = data_room(context.config.mtu_payload);
        let slots = context.shadow.slots();
        let stop = cursor.saturating_add(TRANSFER_SLOTS).min(slots);
        let mut body = Vec::with_capacity(room);
        while self.transfer_may_send(context) && self.transfer_bucket.take(now) {
            body.clear();
            let mut records = 0;
            while cursor < stop && body.len() + LONGEST <= room {
                if let Some(record) = unsaid(context, cursor) {
                    Item::Change(Change::Put(record)).encode(&mut body);
                    records += 1;
                }
                cursor += 1;
            }
            if cursor >= slots {
                self.send_pending(context, now, out);
                // Pending changes went first, so that the sum below covers the whole table.
                let (count, digest) = context.shadow.said();
                if body.len() + LONGEST > room {
                    self.send_data(context, now, &body, records, None, out);
                    body.clear();
                    records = 0;
                }
                Item::End { id, count, digest }.encode(&mut body);
                self.send_data(context, now, &body, records + 1, None, out);
                context.counters.transfers_sent += 1;
                self.send_heartbeat(context, now, out);
                return;
            }
            if !body.is_empty() {
                self.send_data(context, now, &body, records, None, out);
            }
            if cursor >= stop {
                break;
            }
        }
        self.transfer = Some(Transfer {
            id,
            cursor,
            due: now + TRANSFER_PAUSE,
        });
    }

    /// Whether the listener's window has room for more of the transfer.
    fn transfer_may_send(&self, context: &Context) -> bool {
        let acknowledged = self.listener.as_ref().map_or(0, |listener| listener.next);
        context.head() + 1 < acknowledged.max(self.begin) + TRANSFER_WINDOW
    }

    /// Nobody listens any more: the stream stops until somebody does.
    fn suspend(&mut self, context: &mut Context) {
        context.counters.listeners_lost += 1;
        self.current = false;
        self.transfer = None;
        self.retained.clear();
        self.retained_bytes = 0;
        context.counters.deferred += self.pending.ops.len() as u64;
        for op in self.pending.ops.drain(..) {
            if let Op::Put { slot, number } = op
                && let Some(entry) = context.shadow.get_mut(slot)
                && entry.pending == number
            {
                entry.pending = 0;
            }
        }
        self.pending.due = None;
        self.pending.at = None;
    }

    pub(super) fn handle_timeout(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if self.current && !self.is_heard(context, now) {
            self.suspend(context);
        }
        if self.pending.due.is_some_and(|due| due <= now) {
            self.send_pending(context, now, out);
        }
        self.transfer_portion(context, now, out);
        if self.heartbeat.due <= now {
            self.send_heartbeat(context, now, out);
        }
    }

    pub(super) fn poll_timeout(&self, context: &Context) -> Option<Instant> {
        let silence = self
            .listener
            .as_ref()
            .filter(|_listener| self.current)
            .map(|listener| listener.heard + context.config.peer_timeout);
        // A transfer that waits for an acknowledgement is woken by it.
        let transfer = self
            .transfer
            .as_ref()
            .filter(|_transfer| self.transfer_may_send(context))
            .map(|transfer| transfer.due);
        [
            Some(self.heartbeat.due),
            self.pending.due,
            silence,
            transfer,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_heard(&self, context: &Context, now: Instant) -> bool {
        self.listener
            .as_ref()
            .is_some_and(|listener| now.since(listener.heard) < context.config.peer_timeout)
    }

    /// The partner listens.
    pub(super) const fn is_current(&self) -> bool {
        self.current
    }

    /// The partner listens and says that it holds the whole table.
    pub(super) fn partner_ready(&self) -> bool {
        self.current
            && self
                .listener
                .as_ref()
                .is_some_and(|listener| listener.ready)
    }

    pub(super) fn outstanding(&self, context: &Context) -> u64 {
        self.listener
            .as_ref()
            .filter(|_listener| self.current)
            .map_or(0, |listener| {
                (context.head() + 1).saturating_sub(listener.next)
            })
    }

    pub(super) fn progress(&self, context: &Context) -> Option<TransferProgress> {
        self.transfer.as_ref().map(|_transfer| TransferProgress {
            done: context.shadow.said().0,
            total: context.shadow.len() as u64,
        })
    }
}

impl Pending {
    /// A number no waiting operation has; never 0.
    const fn next_number(&mut self) -> u32 {
        self.last = if self.last == u32::MAX {
            1
        } else {
            self.last + 1
        };
        self.last
    }

    fn push(&mut self, op: Op, at: Instant, due: Instant) {
        self.ops.push(op);
        self.at = Some(self.at.map_or(at, |oldest| oldest.min(at)));
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }
}

/// The record in this slot if the transfer still has to say it; it counts as said from now on.
fn unsaid(context: &mut Context, slot: u32) -> Option<Record> {
    let entry = context.shadow.get(slot)?;
    // One that waits to be sent says itself.
    if entry.pending != 0 || context.shadow.is_said(entry) {
        return None;
    }
    let record = entry.record;
    let sum = context.sum(&record);
    context.shadow.say(slot, sum);
    Some(record)
}

fn draw_secret(context: &mut Context) -> [u8; 16] {
    let mut secret = [0; 16];
    for half in secret.chunks_mut(8) {
        half.copy_from_slice(&context.rng.next_u64().to_be_bytes());
    }
    secret
}

/// Whether a genuine control packet is newer than all before it; counts it if not.
pub(super) fn admit(window: &mut ReplayWindow, seq: u64, context: &mut Context) -> bool {
    match window.check(seq) {
        Freshness::Fresh => return true,
        Freshness::Late => context.counters.overtaken += 1,
        Freshness::Replayed => context.counters.replayed += 1,
    }
    false
}
