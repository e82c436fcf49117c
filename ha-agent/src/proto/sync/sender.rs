//! The active node's end: changes become packets of the stream.
//!
//! Without a proven listener nothing is sent but heartbeats, and changes only reach the table; the
//! stream is then not *current*, and the next listener starts with a full transfer. A full transfer
//! walks the table's slots and says what the stream has not said since it began; changes go on in the
//! same stream. It proceeds only as far ahead of the listener's acknowledgements as the listener could
//! buffer, so it cannot outrun the packets kept for repetition.

use std::time::Duration;

use super::context::Context;
use super::counters::TransferProgress;
use super::limits::{ReplayWindow, TokenBucket, admit};
use super::outbox::{Batch, Outbox};
use super::record::{Change, Item, LONGEST, Record};
use super::retention::{Retained, Retention};
use super::seal::{SessionKey, data_room, proof};
use super::wire::{self, Header, Hello, Kind, Position, Welcome, decode_nack};
use super::{Action, Destination};
use crate::proto::records::Walk;
use crate::proto::time::Instant;

/// First heartbeat after traffic: a lost last packet is noticed within this time.
const HEARTBEAT_FIRST: Duration = Duration::from_millis(2);
/// Heartbeats when nothing happens, unless the partner would think this node gone; also the longest
/// pause between two under traffic.
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
/// Packets a second with records that are no connections, and how many at once: what waits longer is said
/// as it is then.
const RECORD_PACKETS: u32 = 5000;
const RECORD_BURST: u64 = 16;
/// Answers that anyone could provoke with recorded packets.
const ANSWERS_PER_SECOND: u32 = 1000;
const ANSWERS_BURST: u64 = 10;

/// The sending role.
pub(super) struct Sender {
    retention: Retention,
    outbox: Outbox,
    /// The stream says everything, or is about to.
    current: bool,
    /// Where the last full transfer began; 0 none yet.
    begin: u64,
    transfer: Option<Transfer>,
    record_bucket: TokenBucket,
    /// Records that are no connections wait for the bucket until then.
    records_due: Instant,
    listener: Option<Listener>,
    /// Makes tokens for listeners; redrawn when a listener is accepted, which voids all other tokens.
    token_secret: [u8; 16],
    heartbeat: Heartbeat,
    transfer_bucket: TokenBucket,
    repair_bucket: TokenBucket,
    answer_bucket: TokenBucket,
}

struct Transfer {
    id: u64,
    /// Next slot to visit.
    cursor: u32,
    /// How far it is with the records that are no connections, which come last.
    records: Walk,
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
    slowest: Duration,
}

impl Heartbeat {
    /// Traffic: the next one comes soon, but never later than it would have come.
    fn hurry(&mut self, now: Instant) {
        self.pause = HEARTBEAT_FIRST.min(self.slowest);
        self.due = (now + self.pause).min(self.last + self.slowest);
    }

    fn sent(&mut self, now: Instant) {
        self.last = now;
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(self.slowest);
    }
}

impl Sender {
    pub(super) fn new(context: &mut Context, now: Instant) -> Self {
        let config = &context.config;
        let (transfer_rate, repair_rate) = (config.transfer_rate, config.repair_rate);
        let slowest = HEARTBEAT_SLOWEST.min(config.peer_timeout / 4);
        Self {
            retention: Retention::new(),
            outbox: Outbox::default(),
            current: false,
            begin: 0,
            transfer: None,
            record_bucket: TokenBucket::new(RECORD_PACKETS, RECORD_BURST, now),
            records_due: now,
            listener: None,
            token_secret: draw_secret(context),
            heartbeat: Heartbeat {
                due: now,
                pause: HEARTBEAT_FIRST,
                last: now,
                slowest,
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
        self.outbox.change(context, now, &change, at, self.current);
        if self.outbox.is_full(context) {
            self.send_outbox(context, now, out);
        }
    }

    /// The data plane has nothing more for now.
    pub(super) fn flush(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        self.outbox.flush(context, now);
        self.send_due(context, now, out);
    }

    fn send_due(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        if self.outbox.due().is_some_and(|due| due <= now) {
            self.send_outbox(context, now, out);
        }
        while context.records.due().is_some_and(|due| due <= now) {
            if !self.record_bucket.take(now) {
                self.records_due = now + TRANSFER_PAUSE;
                return;
            }
            if let Some(batch) = context.tell_records(now) {
                self.send_data(context, now, &batch, out);
            }
        }
    }

    /// Sends whatever waits.
    pub(super) fn send_outbox(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if let Some(batch) = self.outbox.take(context, now) {
            self.send_data(context, now, &batch, out);
        }
    }

    fn send_data(
        &mut self,
        context: &mut Context,
        now: Instant,
        batch: &Batch,
        out: &mut Vec<Action>,
    ) {
        let Some((seq, bytes)) = context.seal_data(&batch.body) else {
            return;
        };
        context.counters.sent_records += batch.records;
        context.counters.sent_packets += 1;
        context.counters.sent_bytes += bytes.len() as u64;
        let packet = Retained {
            seq,
            bytes: bytes.clone(),
            at: batch.at,
        };
        self.retention.push(packet, &context.config);
        out.push(Action::Send {
            to: Destination::Group,
            bytes,
        });
        self.heartbeat.hurry(now);
    }

    fn tail(&self, context: &Context) -> u64 {
        self.retention.tail().unwrap_or_else(|| context.head() + 1)
    }

    fn position(&self, context: &Context, now: Instant) -> Position {
        let [basic, extended] = context.shadow.said();
        let extended = Some(extended);
        #[cfg(test)]
        let extended = extended.filter(|_| !context.sabotage.first_version);
        let records = Some(context.records.said());
        #[cfg(test)]
        let records = records.filter(|_| !context.sabotage.knows_connections_only());
        let hello = self.listener.as_ref().map(|listener| listener.hello);
        Position {
            current: self.current,
            head: context.head(),
            tail: self.tail(context),
            begin: self.begin,
            basic,
            extended,
            records,
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
        let Some(hello) = Hello::decode(body) else {
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
        let ours = hello.stream == context.session_id() && hello.next <= context.head() + 1;
        if !ours || hello.token != token {
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
        context.partner_name = wire::name(body, Hello::LEN).or_else(|| context.partner_name.take());
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
        wire::append_name(&mut body, &context.config.name);
        context.send_control(Kind::Welcome, &body, Destination::Partner, out);
    }

    fn acknowledged(&mut self, context: &mut Context, now: Instant, hello: &Hello) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        listener.heard = now;
        listener.ready = hello.ready;
        listener.next = listener.next.max(hello.next);
        let sampled = self.retention.get(hello.sample);
        if let Some(at) = sampled.and_then(|packet| packet.at) {
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
        let wanted = ranges.flat_map(|range| {
            (0..u64::from(range.len)).map(move |offset| range.first.saturating_add(offset))
        });
        for seq in wanted.take(REPEAT_AT_ONCE) {
            let Some(packet) = self.retention.get(seq) else {
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
        self.send_outbox(context, now, out);
        self.current = true;
        self.begin = context.head() + 1;
        context.shadow.begin_generation();
        context.records.begin_telling();
        context.counters.transfers_begun += 1;
        let mut batch = Batch::empty();
        batch.push(&Item::Begin { id: self.begin });
        self.send_data(context, now, &batch, out);
        self.transfer = Some(Transfer {
            id: self.begin,
            cursor: 0,
            records: Walk::default(),
            due: now,
        });
    }

    fn transfer_portion(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.due <= now) else {
            return;
        };
        let Transfer {
            id,
            mut cursor,
            mut records,
            ..
        } = transfer;
        let room = data_room(context.config.mtu_payload);
        let slots = context.shadow.slots();
        let stop = cursor.saturating_add(TRANSFER_SLOTS).min(slots);
        while self.transfer_may_send(context) && self.transfer_bucket.take(now) {
            let mut batch = Batch::empty();
            while cursor < stop && batch.body.len() + LONGEST <= room {
                if let Some(record) = unsaid(context, cursor) {
                    batch.push(&Item::Change(Change::Put(record)));
                }
                cursor += 1;
            }
            if cursor >= slots && batch.records == 0 && !records.is_complete() {
                let told = context.tell_all_records(now, &mut records);
                batch = told.unwrap_or(batch);
            }
            if cursor >= slots && records.is_complete() && batch.body.len() + LONGEST <= room {
                // Changes that wait go first, so that the sum covers the whole table.
                self.send_outbox(context, now, out);
                let [said, extended] = context.shadow.said();
                batch.push(&Item::Extended(extended));
                batch.push(&Item::End { id, said });
                self.send_data(context, now, &batch, out);
                context.counters.transfers_sent += 1;
                self.send_heartbeat(context, now, out);
                return;
            }
            if batch.records > 0 {
                self.send_data(context, now, &batch, out);
            }
            if cursor >= stop && stop < slots {
                break;
            }
        }
        self.transfer = Some(Transfer {
            id,
            cursor,
            records,
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
        self.retention.clear();
        self.outbox.defer(context);
        context.records.stop_telling();
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
        context.expire_records(now, out);
        self.send_due(context, now, out);
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
        let records = context.records.due().map(|due| due.max(self.records_due));
        [
            Some(self.heartbeat.due),
            self.outbox.due(),
            records,
            context.records.expiry_due(),
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
            done: context.shadow.said_count(),
            total: context.shadow.len() as u64,
        })
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
