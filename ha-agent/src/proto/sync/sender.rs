//! The active node's end: changes become packets of the stream.
//!
//! Without a proven listener nothing is sent but heartbeats; the stream is then not *current*. A new
//! listener starts with a full transfer, one that was only silent for a while goes on where it was: what
//! has changed in between has waited in the [outbox](super::outbox).
//!
//! What is sent runs ahead of the listener's acknowledgements by so many packets at most: beyond its
//! window only changes go on that it could not do without, and before a packet could be lost for good,
//! none.

use std::time::Duration;

use super::audit::Audit;
use super::bulk::{self, Bulk};
use super::context::Context;
use super::limits::{ReplayWindow, TokenBucket, admit};
use super::order::WINDOW;
use super::outbox::{Batch, Open, Outbox};
use super::record::Change;
use super::retention::{Retained, Retention};
use super::seal::{SessionKey, control_room, proof};
use super::wire::{self, Header, Hello, Kind, Knows, Position, Welcome, decode_nack};
use super::{Action, Destination};
use crate::proto::time::Instant;

/// First heartbeat after traffic: a lost last packet is noticed within this time.
const HEARTBEAT_FIRST: Duration = Duration::from_millis(2);
/// Heartbeats when nothing happens, unless the partner would think this node gone; also the longest
/// pause between two under traffic.
const HEARTBEAT_SLOWEST: Duration = Duration::from_millis(250);
/// Packets repeated for one request at most: the receiver's window.
const REPEAT_AT_ONCE: usize = 1024;
/// Packets a second with records that are no connections, and how many at once: what waits longer is said
/// as it is then.
const RECORD_PACKETS: u32 = 5000;
const RECORD_BURST: u64 = 16;
/// Pause when there were too many.
const RECORD_PAUSE: Duration = Duration::from_micros(250);
/// Answers that anyone could provoke with recorded packets.
const ANSWERS_PER_SECOND: u32 = 1000;
const ANSWERS_BURST: u64 = 10;
/// Requests to compare or repair buckets that are answered.
const ASKS_PER_SECOND: u32 = 20;
const ASKS_BURST: u64 = 10;

/// The sending role.
pub(super) struct Sender {
    retention: Retention,
    pub(super) outbox: Outbox,
    /// The partner listens.
    pub(super) current: bool,
    /// Where the last full transfer began; 0 none yet.
    pub(super) begin: u64,
    pub(super) bulk: Bulk,
    pub(super) audit: Audit,
    pub(super) listener: Option<Listener>,
    record_tokens: TokenBucket,
    /// Records that are no connections wait for the bucket until then.
    records_due: Instant,
    /// Makes tokens for listeners; redrawn when a listener is accepted, which voids all other tokens.
    token_secret: [u8; 16],
    heartbeat: Heartbeat,
    pub(super) bulk_tokens: TokenBucket,
    repeat_tokens: TokenBucket,
    answer_tokens: TokenBucket,
    pub(super) ask_tokens: TokenBucket,
}

pub(super) struct Listener {
    key: SessionKey,
    token: u64,
    pub(super) window: ReplayWindow,
    pub(super) heard: Instant,
    /// Sequence number and time of its last hello.
    hello: (u64, Instant),
    /// It has applied everything before this.
    next: u64,
    ready: bool,
    knows: Knows,
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
        context.length.begin(now);
        let config = &context.config;
        let (transfer_rate, repair_rate) = (config.transfer_rate, config.repair_rate);
        let slowest = HEARTBEAT_SLOWEST.min(config.peer_timeout / 4);
        Self {
            retention: Retention::new(),
            outbox: Outbox::new(),
            current: false,
            begin: 0,
            bulk: Bulk::new(now),
            audit: Audit::new(now),
            record_tokens: TokenBucket::new(RECORD_PACKETS, RECORD_BURST, now),
            records_due: now,
            listener: None,
            token_secret: draw_secret(context),
            heartbeat: Heartbeat {
                due: now,
                pause: HEARTBEAT_FIRST,
                last: now,
                slowest,
            },
            bulk_tokens: TokenBucket::new(transfer_rate, bulk::PORTION, now),
            repeat_tokens: TokenBucket::new(repair_rate, REPEAT_AT_ONCE as u64, now),
            answer_tokens: TokenBucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST, now),
            ask_tokens: TokenBucket::new(ASKS_PER_SECOND, ASKS_BURST, now),
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
        // Before the first full transfer there is nothing that it would not say.
        let say = (self.begin != 0).then(|| self.open(context));
        self.outbox.change(context, now, &change, at, say);
        while self.outbox.is_full(context, self.open(context)) && self.send_some(context, now, out)
        {
        }
    }

    /// The data plane has nothing more for now.
    pub(super) fn flush(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        self.outbox.flush(context, now);
        self.send_due(context, now, out);
    }

    fn send_due(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let due = |sender: &Self, context: &Context| {
            let due = sender.outbox.due(sender.open(context));
            due.is_some_and(|due| due <= now)
        };
        while due(self, context) && self.send_some(context, now, out) {}
        while self.records_due(context).is_some_and(|due| due <= now) {
            if !self.record_tokens.take(now) {
                self.records_due = now + RECORD_PAUSE;
                return;
            }
            if let Some(batch) = context.tell_records(now) {
                self.send_data(context, now, &batch, out);
            }
        }
    }

    /// When the next records that are no connections may leave; `None` while nobody takes any.
    fn records_due(&self, context: &Context) -> Option<Instant> {
        let due = context.records.due().map(|due| due.max(self.records_due));
        due.filter(|_due| self.open(context) != Open::None)
    }

    /// Sends a packet of what may leave; whether there was anything.
    fn send_some(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) -> bool {
        let open = self.open(context);
        let batch = self.outbox.take(context, now, open);
        if let Some(batch) = &batch {
            self.send_data(context, now, batch, out);
        }
        batch.is_some()
    }

    /// The last words of this role: whatever waits.
    pub(super) fn finish(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        while self.current
            && let Some(batch) = self.outbox.take(context, now, Open::Both)
        {
            self.send_data(context, now, &batch, out);
        }
        self.outbox.clear(context);
    }

    /// Packets that the listener has not acknowledged.
    pub(super) fn ahead(&self, context: &Context) -> u64 {
        let acknowledged = self.listener.as_ref().map_or(0, |listener| listener.next);
        (context.head() + 1).saturating_sub(acknowledged.max(self.begin))
    }

    /// What may be sent now.
    fn open(&self, context: &Context) -> Open {
        let kept = (context.config.retain_packets as u64).max(4);
        match self.ahead(context) {
            _ if !self.current => Open::None,
            ahead if ahead >= kept / 4 * 3 => Open::None,
            ahead if ahead >= (WINDOW as u64).min(kept / 2) => Open::Unique,
            _ => Open::Both,
        }
    }

    /// Sends the next packet of the stream; how long it is.
    pub(super) fn send_data(
        &mut self,
        context: &mut Context,
        now: Instant,
        batch: &Batch,
        out: &mut Vec<Action>,
    ) -> u64 {
        let Some((seq, bytes)) = context.seal_data(&batch.body) else {
            return 0;
        };
        let len = bytes.len() as u64;
        context.counters.sent_records += batch.records;
        context.counters.sent_short += batch.short;
        context.counters.sent_packets += 1;
        context.counters.sent_bytes += len;
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
        len
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
            current: self.current && !self.is_behind(),
            head: context.head(),
            tail: self.tail(context),
            begin: self.begin,
            basic,
            extended,
            transferring: self.bulk.is_transferring(),
            knows: context.knows(),
            records,
            total: context.shadow.len() as u64,
            hello: hello.map_or(0, |(seq, _at)| seq),
            hello_age: hello.map_or(0, |(_seq, at)| Context::age(now, at)),
        }
    }

    pub(super) fn send_heartbeat(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let mut body = Vec::new();
        self.position(context, now).encode(&mut body);
        if self.current
            && let Some(length) = context.length.try_now(now)
        {
            body.resize(control_room(length).max(body.len()), 0);
        }
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
            context.length.begin(now);
            self.token_secret = draw_secret(context);
            self.listener = Some(Listener {
                key,
                token,
                window: ReplayWindow::starting_at(header.seq),
                heard: now,
                hello: (header.seq, now),
                next: hello.next,
                ready: false,
                knows: Knows::Transfers,
            });
        }
        context.partner_generation = Some(header.generation);
        context.partner_name = wire::name(body, Hello::LEN).or_else(|| context.partner_name.take());
        context.length.heard(wire::longest(body));
        self.acknowledged(context, now, &hello);
        if self.needs_transfer(context, now, &hello) {
            self.begin_transfer(context, now, out);
        } else {
            context.counters.listeners_resumed += u64::from(!self.current);
            self.current = true;
            if hello.next < self.tail(context) && self.answer_tokens.take(now) {
                self.send_heartbeat(context, now, out);
            }
        }
        self.send_due(context, now, out);
        self.bulk_portion(context, now, out);
    }

    /// Whether nothing less than a full transfer helps the listener. What was lost for good after one has
    /// begun, it knows best itself; if its beginning was lost, it does not know what to ask for.
    fn needs_transfer(&self, context: &Context, now: Instant, hello: &Hello) -> bool {
        if self.begin == 0 {
            return true;
        }
        if hello.next > self.begin {
            return hello.wants_transfer;
        }
        let kept = self.begin >= self.tail(context);
        !kept && now.since(self.bulk.began) >= context.config.peer_timeout / 2
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
        if !self.answer_tokens.take(now) {
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
        listener.knows = hello.knows.min(context.knows());
        context.shortens = listener.knows >= Knows::All;
        if hello.next > listener.next {
            listener.next = hello.next;
            context.length.progress();
        }
        let sampled = self.retention.get(hello.sample);
        if let Some(at) = sampled.and_then(|packet| packet.at) {
            let held = Duration::from_nanos(hello.sample_age);
            context.lag.record(now, now.since(at).saturating_sub(held));
        }
    }

    /// Whether a genuine request is the listener's and no replay.
    pub(super) fn admits(&mut self, context: &mut Context, header: &Header) -> bool {
        let listener = self.listener.as_mut();
        listener.is_some_and(|listener| admit(&mut listener.window, header.seq, context))
    }

    /// Whether a request is about this stream; then the listener was heard.
    pub(super) fn is_asked(&mut self, context: &mut Context, now: Instant, stream: u64) -> bool {
        if stream != context.session_id() {
            context.counters.unconfirmed_session += 1;
            return false;
        }
        if let Some(listener) = &mut self.listener {
            listener.heard = now;
        }
        true
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
        if !self.admits(context, header) {
            return;
        }
        let Some((stream, ranges)) = decode_nack(body) else {
            context.counters.bad_body += 1;
            return;
        };
        if !self.is_asked(context, now, stream) {
            return;
        }
        let wanted = ranges.flat_map(|range| {
            (0..u64::from(range.len)).map(move |offset| range.first.saturating_add(offset))
        });
        for (nth, seq) in wanted.take(REPEAT_AT_ONCE).enumerate() {
            let Some(packet) = self.retention.get(seq) else {
                context.counters.repeats_missed += 1;
                if self.answer_tokens.take(now) {
                    self.send_heartbeat(context, now, out);
                }
                return;
            };
            if !self.repeat_tokens.take(now) {
                context.counters.repeats_deferred += 1;
                return;
            }
            if nth == 0 {
                context.length.missed(packet.bytes.len());
            }
            context.counters.repeated_packets += 1;
            context.counters.repeated_bytes += packet.bytes.len() as u64;
            out.push(Action::Send {
                to: Destination::Partner,
                bytes: packet.bytes.clone(),
            });
        }
    }

    pub(super) fn handle_timeout(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if self.current && !self.is_heard(context, now) {
            // The stream stops until somebody listens.
            context.counters.listeners_lost += 1;
            self.current = false;
        }
        context.expire_records(now, out);
        self.send_due(context, now, out);
        self.audit(context, now);
        self.bulk_portion(context, now, out);
        // A full transfer that begins opens the way for what waited.
        self.send_due(context, now, out);
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
        [
            Some(self.heartbeat.due),
            Some(self.audit.due()),
            self.outbox.due(self.open(context)),
            self.records_due(context),
            context.records.expiry_due(),
            silence,
            self.bulk_due(context),
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

    /// The partner listens, and knows how buckets are repaired.
    pub(super) fn listener_mends(&self) -> bool {
        self.listener
            .as_ref()
            .is_some_and(|listener| listener.knows >= Knows::Buckets)
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
}

fn draw_secret(context: &mut Context) -> [u8; 16] {
    let mut secret = [0; 16];
    for half in secret.chunks_mut(8) {
        half.copy_from_slice(&context.rng.next_u64().to_be_bytes());
    }
    secret
}
