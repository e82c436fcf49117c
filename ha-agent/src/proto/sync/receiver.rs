//! The standby's end: packets of the stream become changes of the live map.
//!
//! ```text
//!            welcome with our challenge          Begin                    End, sums equal         swept
//! no stream ───────────────────────────▶ Waiting ─────▶ Filling ─────────────────────▶ Sweeping ───────▶ Whole
//!                                           ▲                                                            │
//!                                           └── packets lost for good, sums differ, unreadable record ◀──┘
//! ```
//!
//! A whole table that differs in places is put right [bucket by bucket](super::mend), if the sender knows how.
//!
//! Until the first stream's transfer is complete the table is foreign: kept, because most of it is
//! right, but no claim is made about it. Changes are applied in every state.

use std::collections::VecDeque;
use std::time::Duration;

use super::context::Context;
use super::counters::TransferProgress;
use super::limits::admit;
use super::order::{Arrival, Gap};
use super::record::{Change, Item};
use super::seal::SessionKey;
use super::short::Items;
use super::stream::{Sample, State, Stream, apply};
use super::wire::{self, Header, Hello, Kind, Position, Welcome};
use super::{Action, Destination};
use crate::proto::time::Instant;

/// Acknowledge at the latest this long after a packet of the stream ...
const ACK_AFTER: Duration = Duration::from_millis(10);
/// ... or this many packets: an eighth of what a full transfer sends ahead.
const ACK_PACKETS: u32 = 64;
/// First hello of a search for the active node; later ones come less often.
const SEARCH_FIRST: Duration = Duration::from_millis(5);
/// Shortest time between hellos that packets of unknown sessions provoke.
const PROVOKED_PAUSE: Duration = Duration::from_millis(5);
/// Changes of the own data plane that may precede the news of the promotion, and by how much.
const EARLY_CHANGES: usize = 8192;
const EARLY_TIME: Duration = Duration::from_secs(1);
/// Hellos remembered to measure the round trip.
const HELLOS_REMEMBERED: usize = 16;

/// A change of the own data plane that may precede the news of the promotion.
struct Early {
    change: Change,
    at: Instant,
    /// It did not.
    due: Instant,
}

/// The receiving role.
pub(super) struct Receiver {
    /// What a session must echo to be believed; redrawn whenever one has.
    challenge: u64,
    stream: Option<Stream>,
    hello_due: Instant,
    hello_last: Option<Instant>,
    /// Pause before the next hello while no stream is followed.
    search: Duration,
    /// Recent hellos and when they left.
    hellos: VecDeque<(u64, Instant)>,
    ready: bool,
    /// The newest changes of the own data plane: those made between the opening of the gate and the
    /// news of the promotion, or between its closing and the news of that.
    early: VecDeque<Early>,
}

impl Receiver {
    pub(super) fn new(context: &mut Context, now: Instant) -> Self {
        Self {
            challenge: context.rng.next_u64(),
            stream: None,
            hello_due: now,
            hello_last: None,
            search: SEARCH_FIRST,
            hellos: VecDeque::with_capacity(HELLOS_REMEMBERED),
            ready: false,
            early: VecDeque::new(),
        }
    }

    /// The key of the session that is followed.
    pub(super) fn partner_key(&self) -> Option<&SessionKey> {
        self.stream.as_ref().map(|stream| &stream.key)
    }

    /// The election knows a term: sessions of earlier ones are over.
    pub(super) fn term(&mut self, context: &Context, now: Instant, out: &mut Vec<Action>) {
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.term < context.term)
        {
            self.stream = None;
            self.search = SEARCH_FIRST;
            self.hello_due = now;
            self.update_ready(context, now, out);
        }
    }

    /// A change of the own data plane.
    pub(super) fn local(
        &mut self,
        context: &mut Context,
        now: Instant,
        change: Change,
        at: Instant,
        out: &mut Vec<Action>,
    ) {
        if self.early.len() == EARLY_CHANGES
            && let Some(oldest) = self.early.pop_front()
        {
            self.settle(context, oldest.change, out);
        }
        let due = now + EARLY_TIME;
        self.early.push_back(Early { change, at, due });
    }

    /// A change that the own data plane made in an earlier role. What the stream has said or left out
    /// since decides; before it has said anything the change counts as stale, like all of the table.
    fn settle(&self, context: &mut Context, change: Change, out: &mut Vec<Action>) {
        let state = self.stream.as_ref().map(|stream| stream.state);
        let (told, complete) = match state {
            None | Some(State::Waiting) => (false, false),
            Some(State::Filling { .. }) => (true, false),
            Some(State::Sweeping { .. } | State::Whole) => (true, true),
        };
        let shadow = &mut context.shadow;
        let slot = shadow.find(&change.key());
        let said = slot
            .and_then(|slot| shadow.get(slot))
            .filter(|entry| told && shadow.is_said(entry))
            .map(|entry| entry.record);
        match (said, change) {
            (Some(record), _) => out.push(Action::Apply {
                change: Change::Put(record),
                before: None,
            }),
            (None, Change::Put(record)) if !complete => {
                let slot = slot.or_else(|| shadow.insert(record, Instant::default()));
                match slot.and_then(|slot| shadow.get_mut(slot)) {
                    Some(entry) => entry.record = record,
                    None => context.counters.table_full.add(record.class(), 1),
                }
            }
            (None, change) => {
                if let Some(slot) = slot {
                    shadow.remove(slot);
                }
                out.push(Action::Apply {
                    change: Change::Delete(change.key()),
                    before: None,
                });
            }
        }
    }

    /// Promotion: what is there behind gaps is applied, since nobody is left to fill them. What the own
    /// data plane did in the meantime is returned.
    pub(super) fn promote(
        mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> impl Iterator<Item = (Change, Instant)> {
        let since = now - EARLY_TIME;
        let (early, late): (Vec<_>, _) = self.early.drain(..).partition(|early| early.at >= since);
        for Early { change, .. } in late {
            self.settle(context, change, out);
        }
        if let Some(stream) = self.stream {
            salvage(context, now, stream, out);
        }
        early.into_iter().map(|early| (early.change, early.at))
    }

    /// A packet of a session that is not followed arrived: the active node may be a new one.
    pub(super) fn provoked(&mut self, now: Instant) {
        let earliest = self.hello_last.map_or(now, |last| last + PROVOKED_PAUSE);
        self.hello_due = self.hello_due.min(earliest.max(now));
    }

    /// A genuine packet of the session that is followed was so long.
    pub(super) fn heard_length(&mut self, length: usize) {
        if let Some(stream) = &mut self.stream {
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            stream.longest = stream.longest.max(length);
        }
    }

    /// A genuine packet of the stream.
    pub(super) fn data(
        &mut self,
        context: &mut Context,
        now: Instant,
        header: &Header,
        body: &[u8],
        out: &mut Vec<Action>,
    ) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.hear(now);
        context.partner_generation = Some(header.generation);
        context.counters.received_packets += 1;
        let (arrival, missing) = stream.order.arrive(now, header.seq, body);
        context.counters.missing += missing;
        let gap = match arrival {
            Arrival::Next(gap) | Arrival::Kept(gap) => gap,
            Arrival::Duplicate => {
                context.counters.duplicates += 1;
                return;
            }
            Arrival::Beyond => {
                context.counters.beyond_window += 1;
                return;
            }
        };
        match gap {
            Gap::None => {}
            Gap::Reordered => context.counters.reordered += 1,
            Gap::Requested => context.counters.repaired += 1,
        }
        if let Arrival::Next(gap) = arrival {
            stream.deliver(context, now, body, out);
            let repaired = gap != Gap::None;
            stream.deliver_held(context, now, out);
            if repaired || stream.sample.is_none_or(|sample| !sample.repaired) {
                stream.sample = Some(Sample {
                    seq: header.seq,
                    at: now,
                    repaired,
                });
            }
            stream.unacknowledged += 1;
            if stream.unacknowledged >= ACK_PACKETS {
                self.send_hello(context, now, out);
            }
        }
        self.hello_due = self.hello_due.min(now + ACK_AFTER);
        self.update_ready(context, now, out);
    }

    /// A genuine heartbeat; `followed` if of the session that is followed.
    pub(super) fn heartbeat(
        &mut self,
        context: &mut Context,
        now: Instant,
        header: &Header,
        body: &[u8],
        followed: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(stream) = self.stream.as_mut().filter(|_stream| followed) else {
            context.counters.unconfirmed_session += 1;
            self.provoked(now);
            return;
        };
        if !admit(&mut stream.window, header.seq, context) {
            return;
        }
        let Some(position) = Position::decode(body) else {
            context.counters.bad_body += 1;
            return;
        };
        context.partner_generation = Some(header.generation);
        self.position(context, now, &position, out);
        self.update_ready(context, now, out);
    }

    /// A genuine welcome; `stranger` is its session's key if it is not the one followed.
    pub(super) fn welcome(
        &mut self,
        context: &mut Context,
        now: Instant,
        header: &Header,
        body: &[u8],
        stranger: Option<SessionKey>,
        out: &mut Vec<Action>,
    ) {
        let Some(welcome) = Welcome::decode(body) else {
            context.counters.bad_body += 1;
            return;
        };
        if welcome.challenge != self.challenge || welcome.listener != context.session_id() {
            context.counters.wrong_challenge += 1;
            return;
        }
        match (stranger, &mut self.stream) {
            (Some(key), _) => {
                context.term = context.term.max(header.term);
                self.stream = Some(Stream::new(key, header, &welcome, now));
            }
            (None, Some(stream)) => {
                if !admit(&mut stream.window, header.seq, context) {
                    return;
                }
                stream.token = welcome.token;
            }
            (None, None) => return,
        }
        self.challenge = context.rng.next_u64();
        context.partner_generation = Some(header.generation);
        context.partner_name =
            wire::name(body, Welcome::LEN).or_else(|| context.partner_name.take());
        self.position(context, now, &welcome.position, out);
        self.send_hello(context, now, out);
        self.update_ready(context, now, out);
    }

    /// Where the sender's stream stands.
    fn position(
        &mut self,
        context: &mut Context,
        now: Instant,
        position: &Position,
        out: &mut Vec<Action>,
    ) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.hear(now);
        stream.set_current(now, position.current);
        stream.sender_knows = position.knows;
        stream.total = position.total;
        let echoed = self.hellos.iter().find(|(seq, _at)| *seq == position.hello);
        if let Some((_seq, sent)) = echoed {
            let held = Duration::from_nanos(position.hello_age);
            stream
                .order
                .round_trip(now.since(*sent).saturating_sub(held));
        }
        if stream.order.next() < position.tail && stream.wanted.is_none() {
            if stream.can_mend(context) && position.begin < stream.order.next() {
                let packets = stream.order.skip_to(position.tail);
                stream.skipped(context, now, packets);
                stream.deliver_held(context, now, out);
            } else {
                stream.want(now);
            }
            self.hello_due = now;
        }
        // What was said before a full transfer began is of no use to one that needs it.
        if stream.wanted.is_some()
            && position.begin >= position.tail
            && position.begin > stream.order.next()
        {
            context.counters.skipped += stream.order.skip_to(position.begin);
            stream.state = State::Waiting;
            stream.deliver_held(context, now, out);
        }
        context.counters.missing += stream.order.exists(now, position.head);
        if stream.order.missing() > 0 {
            self.hello_due = self.hello_due.min(now + ACK_AFTER);
        }
        stream.compare(context, now, position);
    }

    fn send_hello(&mut self, context: &mut Context, now: Instant, out: &mut Vec<Action>) {
        let mut hello = Hello {
            challenge: self.challenge,
            ready: self.ready,
            knows: context.knows(),
            ..Hello::default()
        };
        if let Some(stream) = &mut self.stream {
            hello.stream = stream.key.id;
            hello.token = stream.token;
            hello.next = stream.order.next();
            hello.wants_transfer = stream.wanted.is_some_and(|since| since <= now);
            if let Some(sample) = stream.sample.take() {
                hello.sample = sample.seq;
                hello.sample_age = Context::age(now, sample.at);
            }
            stream.unacknowledged = 0;
        }
        let mut body = Vec::new();
        hello.encode(&mut body);
        wire::append_name(&mut body, &context.config.name);
        let longest = self.stream.as_ref().map_or(0, |stream| stream.longest);
        wire::append_longest(&mut body, longest);
        let seq = context.send_control(Kind::Hello, &body, Destination::Partner, out);
        if self.hellos.len() == HELLOS_REMEMBERED {
            self.hellos.pop_front();
        }
        self.hellos.push_back((seq, now));
        self.hello_last = Some(now);
        let period = context.hello_period();
        self.hello_due = now
            + if self.stream.is_some() {
                period
            } else {
                let pause = self.search.min(period);
                self.search = pause * 2;
                pause
            };
    }

    fn update_ready(&mut self, context: &Context, now: Instant, out: &mut Vec<Action>) {
        let ready = self
            .stream
            .as_ref()
            .and_then(|stream| stream.ready_until(context))
            .is_some_and(|until| now < until);
        if ready != self.ready {
            self.ready = ready;
            out.push(Action::Ready(ready));
            self.hello_due = now;
        }
    }

    pub(super) fn handle_timeout(
        &mut self,
        context: &mut Context,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if let Some(stream) = &mut self.stream {
            if stream.order.due().is_some_and(|due| due <= now) {
                stream.ask_again(context, now, out);
            }
            let lost = stream.lost_at().is_some_and(|at| at <= now);
            if lost && stream.wanted.is_none() {
                stream.give_up(context, now, out);
                self.hello_due = now;
            }
            stream.sweep(context, now, out);
            stream.audit(context, now);
            stream.ask(context, now, out);
        }
        while let Some(early) = self.early.pop_front_if(|early| early.due <= now) {
            self.settle(context, early.change, out);
        }
        self.update_ready(context, now, out);
        if self.hello_due <= now {
            self.send_hello(context, now, out);
        }
    }

    pub(super) fn poll_timeout(&self, context: &Context) -> Option<Instant> {
        let stream = self.stream.as_ref();
        let sweep = stream.and_then(|stream| match stream.state {
            State::Sweeping { due, .. } => Some(due),
            State::Waiting | State::Filling { .. } | State::Whole => None,
        });
        let unready = stream
            .filter(|_stream| self.ready)
            .and_then(|stream| stream.ready_until(context));
        let lost = stream
            .filter(|stream| stream.wanted.is_none())
            .and_then(Stream::lost_at);
        let request = stream.and_then(|stream| stream.order.due());
        let early = self.early.front().map(|early| early.due);
        let audit = stream.map(|stream| stream.audit.due());
        let ask = stream.and_then(|stream| Some(stream.mend.as_ref()?.due()));
        let ask_records = stream.and_then(|stream| Some(stream.record_mend.as_ref()?.due()));
        let hello = Some(self.hello_due);
        [
            hello,
            sweep,
            unready,
            lost,
            request,
            early,
            audit,
            ask,
            ask_records,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) const fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn is_heard(&self, context: &Context, now: Instant) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| now.since(stream.heard) < context.config.peer_timeout)
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.stream
            .as_ref()
            .map_or(0, |stream| stream.order.missing())
    }

    /// Buckets known to differ, if a repair is under way.
    pub(super) fn repair(&self) -> Option<u64> {
        let mend = self.stream.as_ref()?.mend.as_ref()?;
        Some(mend.wrong())
    }

    pub(super) fn progress(&self, context: &Context) -> Option<TransferProgress> {
        let stream = self.stream.as_ref()?;
        let done = match stream.state {
            State::Waiting => 0,
            State::Filling { .. } | State::Sweeping { .. } => context.shadow.said_count(),
            State::Whole => return None,
        };
        Some(TransferProgress {
            done,
            total: stream.total,
        })
    }
}

fn salvage(context: &mut Context, now: Instant, stream: Stream, out: &mut Vec<Action>) {
    let Stream { key, order, .. } = stream;
    for body in order.into_held() {
        context.counters.salvaged += 1;
        for item in Items::new(&body).map_while(Result::ok) {
            if let Item::Change(change) = item {
                apply(context, &key, now, &change, out);
            }
        }
    }
}
