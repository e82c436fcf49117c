//! The machine: takes inputs, keeps the role, drops what must not be believed.

use super::context::Context;
use super::counters::{ByClass, SyncRole, SyncSnapshot};
use super::length::Length;
use super::receiver::Receiver;
use super::record::{Change, Record};
use super::seal::{Incoming, SessionKey};
use super::sender::Sender;
use super::sweep::Sweep;
use super::wire::{Header, HeaderError, Kind};
use super::{Action, Input, Lengths, Salt, SyncConfig};
use crate::keys::PairKeys;
use crate::proto::records::{Put, Quota, Refusal, Stamp, Table};
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// Replication of one node.
///
/// Call [`Self::handle_input`] for everything that happens, [`Self::handle_timeout`] when
/// [`Self::poll_timeout`] is reached (earlier or later does no harm), and perform the actions each of
/// them appends.
pub struct Sync {
    pub(super) context: Context,
    role: Role,
    pub(super) sweep: Sweep,
    /// Plain text of the packet at hand; kept so that packets cost no allocation.
    scratch: Vec<u8>,
}

enum Role {
    Active(Sender),
    Standby(Receiver),
}

impl Role {
    fn partner_key(&self) -> Option<&SessionKey> {
        match self {
            Self::Active(sender) => sender.partner_key(),
            Self::Standby(receiver) => receiver.partner_key(),
        }
    }
}

impl Sync {
    /// A standby with an empty table, not ready. `salt` comes from the operating system's generator, and so
    /// does the seed of `rng`.
    pub fn new(config: SyncConfig, keys: PairKeys, salt: Salt, rng: Rng, now: Instant) -> Self {
        let mut context = Context::new(config, keys, rng, now);
        context.start_session(salt);
        let receiver = Receiver::new(&mut context, now);
        Self {
            context,
            role: Role::Standby(receiver),
            sweep: Sweep::default(),
            scratch: Vec::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Action>) {
        self.context.now = now;
        match input {
            Input::Local { change, at } => self.local(now, change, at, out),
            Input::Flush => {
                if let Role::Active(sender) = &mut self.role {
                    sender.flush(&mut self.context, now, out);
                }
            }
            Input::Packet { bytes } => self.packet(now, bytes, out),
            Input::Role { active, term, salt } => self.change_role(now, active, term, salt, out),
            Input::Load(records) => self.load(now, &records, out),
            Input::Generation(generation) => self.context.generation = generation,
        }
    }

    /// Changes the pair's keys. If this node signs with another one now it begins a session with it, so that
    /// the old one can be forgotten once both nodes do; the table is compared anew.
    pub fn set_keys(&mut self, now: Instant, keys: PairKeys, salt: Salt, out: &mut Vec<Action>) {
        self.context.now = now;
        if self.context.set_keys(keys) {
            self.renew(now, salt, out);
        }
    }

    /// Packets made from now on are at most this long; see [`SyncConfig::lengths`].
    pub fn set_lengths(&mut self, now: Instant, lengths: Lengths) {
        self.context.length = Length::new(lengths, now);
    }

    /// Begins a session in the same role.
    fn renew(&mut self, now: Instant, salt: Salt, out: &mut Vec<Action>) {
        let context = &mut self.context;
        let active = match &mut self.role {
            Role::Active(sender) => {
                sender.finish(context, now, out);
                true
            }
            Role::Standby(_) => false,
        };
        context.start_session(salt);
        self.role = if active {
            Role::Active(Sender::new(context, now))
        } else {
            Role::Standby(Receiver::new(context, now))
        };
        out.push(Action::Ready(active));
        self.handle_timeout(now, out);
    }

    /// A point in time that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.context.now = now;
        match &mut self.role {
            Role::Active(sender) => sender.handle_timeout(&mut self.context, now, out),
            Role::Standby(receiver) => receiver.handle_timeout(&mut self.context, now, out),
        }
    }

    /// Until then it makes no difference when this node's own changes are told: they would wait for each other.
    pub fn gathers_until(&self) -> Option<Instant> {
        match &self.role {
            Role::Active(sender) => sender.outbox.spaced_until(&self.context),
            Role::Standby(_) => None,
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next. It may lie in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.role {
            Role::Active(sender) => sender.poll_timeout(&self.context),
            Role::Standby(receiver) => receiver.poll_timeout(&self.context),
        }
    }

    /// What operators see.
    pub fn snapshot(&self) -> SyncSnapshot {
        let context = &self.context;
        let counters = context.counters;
        let base = SyncSnapshot {
            role: SyncRole::Standby,
            ready: false,
            partner_heard: false,
            term: context.term,
            partner_generation: context.partner_generation,
            partner_name: context.partner_name.clone(),
            entries: context.shadow.len() as u64,
            lag_us_p50: None,
            lag_us_p99: None,
            outstanding: 0,
            transfer: None,
            repair_buckets: None,
            waiting: ByClass::default(),
            oldest_waiting_us: None,
            sent: counters.sent_records,
            applied: counters.applied,
            repaired: counters.all_repaired() + self.sweep.counts.repaired(),
            sweep: self.sweep.counts,
            dropped: counters.local_table_full.total() + counters.table_full.total(),
            records: context.records.snapshot(),
            counters,
        };
        match &self.role {
            Role::Active(sender) => {
                let (waiting, oldest) = sender.outbox.waiting();
                let waited = oldest.map(|oldest| context.now.since(oldest).as_micros());
                SyncSnapshot {
                    role: SyncRole::Active,
                    ready: sender.partner_ready(),
                    partner_heard: sender.is_current(),
                    lag_us_p50: context.lag.percentile(50),
                    lag_us_p99: context.lag.percentile(99),
                    outstanding: sender.outstanding(context),
                    transfer: sender.progress(context),
                    repair_buckets: sender.bulk.buckets(),
                    waiting,
                    oldest_waiting_us: waited
                        .map(|micros| u64::try_from(micros).unwrap_or(u64::MAX)),
                    ..base
                }
            }
            Role::Standby(receiver) => SyncSnapshot {
                ready: receiver.is_ready(),
                partner_heard: receiver.is_heard(context, context.now),
                outstanding: receiver.outstanding(),
                transfer: receiver.progress(context),
                repair_buckets: receiver.repair(),
                ..base
            },
        }
    }

    /// Whether this node speaks: the election made it active.
    pub const fn is_active(&self) -> bool {
        matches!(self.role, Role::Active(_))
    }

    /// Tells how much writers on this node may put into which namespace.
    pub fn set_quotas(&mut self, quotas: impl IntoIterator<Item = (String, Quota)>) {
        self.context.records.set_quotas(quotas);
    }

    /// A record that an agent before this one held: its time and quota were looked at then.
    pub fn load_record(&mut self, now: Instant, put: Put, stamp: Stamp) {
        self.context.records.load(now, put, stamp);
    }

    /// The records that are no connections.
    pub const fn records(&self) -> &Table {
        &self.context.records
    }

    /// Writes a record: only on the active node.
    pub fn put_record(
        &mut self,
        now: Instant,
        put: Put,
        out: &mut Vec<Action>,
    ) -> Result<Stamp, Refusal> {
        self.check_active()?;
        let context = &mut self.context;
        let (stamp, event) = context.records.put(now, context.term, put)?;
        out.extend(event.map(Action::Record));
        Ok(stamp)
    }

    /// Deletes a record, only on the active node; whether it was there.
    pub fn delete_record(
        &mut self,
        now: Instant,
        namespace: &str,
        key: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<bool, Refusal> {
        self.check_active()?;
        let context = &mut self.context;
        let event = (context.records).delete(now, context.term, namespace, key)?;
        let found = event.is_some();
        out.extend(event.map(Action::Record));
        Ok(found)
    }

    const fn check_active(&mut self) -> Result<(), Refusal> {
        match self.role {
            Role::Active(_) => Ok(()),
            Role::Standby(_) => Err(self.context.records.not_active()),
        }
    }

    #[cfg(test)]
    pub(super) const fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    fn local(&mut self, now: Instant, change: Change, at: Instant, out: &mut Vec<Action>) {
        match &mut self.role {
            Role::Active(sender) => sender.local(&mut self.context, now, change, at, out),
            Role::Standby(receiver) => {
                self.context.counters.local_while_standby += 1;
                receiver.local(&mut self.context, now, change, at, out);
            }
        }
    }

    fn load(&mut self, now: Instant, records: &[Record], out: &mut Vec<Action>) {
        // Older than any event, so that events decide.
        let at = Instant::from_nanos(0);
        for record in records {
            match &mut self.role {
                Role::Active(sender) => {
                    sender.local(&mut self.context, now, Change::Put(*record), at, out);
                }
                Role::Standby(_) => {
                    let shadow = &mut self.context.shadow;
                    if shadow.find(&record.key).is_none() && shadow.insert(*record, at).is_none() {
                        let full = &mut self.context.counters.table_full;
                        full.add(record.class(), 1);
                    }
                }
            }
        }
    }

    fn change_role(
        &mut self,
        now: Instant,
        active: bool,
        term: u64,
        salt: Salt,
        out: &mut Vec<Action>,
    ) {
        let context = &mut self.context;
        let news = term > context.term;
        let mut early = Vec::new();
        context.term = context.term.max(term);
        match &mut self.role {
            Role::Active(sender) => {
                if active && !news {
                    return;
                }
                // The last changes still leave under the old term's session.
                sender.finish(context, now, out);
            }
            Role::Standby(receiver) => {
                if !active {
                    receiver.term(context, now, out);
                    return;
                }
                let receiver = std::mem::replace(receiver, Receiver::new(context, now));
                early.extend(receiver.promote(context, now, out));
            }
        }
        context.start_session(salt);
        self.role = if active {
            Role::Active(Sender::new(context, now))
        } else {
            Role::Standby(Receiver::new(context, now))
        };
        for (change, at) in early {
            self.local(now, change, at, out);
        }
        out.push(Action::Ready(active));
        self.handle_timeout(now, out);
    }

    fn packet(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Action>) {
        let Some(packet) = self.screen(bytes) else {
            return;
        };
        let header = packet.header;
        let mut scratch = std::mem::take(&mut self.scratch);
        let key = self.role.partner_key().filter(|key| key.matches(&header));
        let followed = key.is_some();
        let mut stranger = None;
        let opened = match key {
            Some(key) => {
                let opened = key.open(&packet, &mut scratch);
                self.context.counters.auth_failed += u64::from(!opened);
                opened
            }
            None if header.kind == Kind::Data => {
                self.context.counters.unconfirmed_session += 1;
                if let Role::Standby(receiver) = &mut self.role {
                    receiver.provoked(now);
                }
                false
            }
            None => {
                stranger = self.context.open_stranger(now, &packet, &mut scratch);
                stranger.is_some()
            }
        };
        if opened {
            if followed && let Role::Standby(receiver) = &mut self.role {
                receiver.heard_length(bytes.len());
            }
            self.dispatch(now, &header, &scratch, stranger, followed, out);
        }
        self.scratch = scratch;
    }

    /// What the clear header rules out.
    fn screen<'a>(&mut self, bytes: &'a [u8]) -> Option<Incoming<'a>> {
        let counters = &mut self.context.counters;
        let config = &self.context.config;
        let (header, aad, sealed) = match Header::split(bytes) {
            Ok(parts) => parts,
            Err(HeaderError::Malformed) => {
                counters.malformed += 1;
                return None;
            }
            Err(HeaderError::Version) => {
                counters.other_version += 1;
                return None;
            }
        };
        if header.cluster != config.cluster {
            counters.other_cluster += 1;
            return None;
        }
        if header.node == config.node_id {
            counters.reflected += 1;
            return None;
        }
        let for_active = matches!(header.kind, Kind::Hello | Kind::Nack | Kind::Ask);
        if for_active != matches!(self.role, Role::Active(_)) {
            counters.other_role += 1;
            return None;
        }
        Some(Incoming {
            header,
            aad,
            sealed,
        })
    }

    fn dispatch(
        &mut self,
        now: Instant,
        header: &Header,
        body: &[u8],
        stranger: Option<SessionKey>,
        followed: bool,
        out: &mut Vec<Action>,
    ) {
        let context = &mut self.context;
        match (&mut self.role, header.kind) {
            (Role::Active(sender), Kind::Hello) => {
                sender.hello(context, now, header, body, stranger, out);
            }
            (Role::Active(sender), Kind::Nack) if followed => {
                sender.nack(context, now, header, body, out);
            }
            (Role::Active(sender), Kind::Ask) if followed => {
                sender.ask(context, now, header, body, out);
            }
            (Role::Active(_), _) => context.counters.unconfirmed_session += 1,
            (Role::Standby(_), _) if header.term < context.term => {
                context.counters.stale_term += 1;
            }
            (Role::Standby(receiver), Kind::Data) => {
                receiver.data(context, now, header, body, out);
            }
            (Role::Standby(receiver), Kind::Heartbeat) => {
                receiver.heartbeat(context, now, header, body, followed, out);
            }
            (Role::Standby(receiver), Kind::Welcome) => {
                receiver.welcome(context, now, header, body, stranger, out);
            }
            (Role::Standby(_), Kind::Hello | Kind::Nack | Kind::Ask) => {
                context.counters.other_role += 1;
            }
        }
    }
}
