//! Replacing the agent in place: the same node, a new program, the role where it was.
//!
//! 1. [`Command::Reexec`](super::Command::Reexec). A node that is not active may be replaced at once: to its
//!    partner that looks like a short silence. An active node asks for a long lease in every packet (flag
//!    `REEXEC_ASK`). A partner that could take over grants it (`REEXEC_GRANT`, in a HELLO that echoes the
//!    ask) and from then on lets [`LEASE`] pass before silence counts.
//! 2. With the grant the active node opens its gate that long, less the margin of every lease, and only then
//!    answers that it may be replaced. The shell takes [`Election::park`]'s state, stops feeding the machine,
//!    and executes the new program. The data plane goes on forwarding under the lease.
//! 3. The new program continues with [`Election::resume`]: same epoch, a later sequence, same role and term. It
//!    goes on asking, and is granted more, until its start has settled ([`SETTLING`]): what a start does to
//!    the machine may keep the election from its work for longer than a short timeout. Then an echo of a
//!    packet of its own gives it an ordinary lease; it shortens the gate to that, and after that sends packets
//!    that do not ask, which ends the partner's long wait.
//!
//! # Why that is safe
//!
//! * *The long lease is a lease.* The active node sent the ask at t, the partner received it later and will not
//!   let silence count before its reception plus [`LEASE`]; the gate closes a margin before t plus [`LEASE`]. All
//!   other reasons to open a gate presuppose that the partner closed its own.
//! * *The wait ends after the lease.* The partner's wait ends early only with a newer packet that does not ask,
//!   and such a packet is sent only after the gate was shortened to what ordinary echoes allow, or closed.
//! * *A replaced node is a node that was frozen*: what it knew is old but true, silence while nobody listened
//!   proves nothing, and the gate closed by itself if it took too long. Nothing is trusted beyond that; the
//!   moments of packets sent before are forgotten, so their echoes grant nothing.
//! * *A grant outlives its giver.* A partner that stops in order waits until its grant has run out before it
//!   ends. One that crashed cannot know of a grant, so a start after a crash waits [`LEASE`] before silence
//!   counts, however short the timeout is (the shell's `initial_wait`), or until the partner says in answer
//!   to this start that it does not ask.
//! * *A start without such a state* closes the gate first, as ever.
//!
//! If the program cannot be executed the machine goes on as if it had been resumed at once.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_common::carp::trailer_flags;
use serde::{Deserialize, Serialize};

use super::api::{Action, Refusal, Role, RoleReason};
use super::config::{ElectionConfig, ElectionKeys};
use super::counters::Counters;
use super::lease::SendLog;
use super::machine::{Election, QUICK_HELLOS};
use super::peer::{Partner, Peers};
use super::snapshot::Transition;
use super::timing::{Former, Pace, lease_of};
use super::trailer::{Body, WireRole};
use crate::config::model::Mode;
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// The lease under which an active node's agent is replaced.
pub const LEASE: Duration = Duration::from_secs(2);
/// How long a start may disturb the election: so long the new program goes on under the long lease.
pub(super) const SETTLING: Duration = Duration::from_millis(500);
/// How long a partner has to grant it: the timeout, but no less and no more than this.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Sequence numbers skipped by a resumed node, so that none is used twice whatever the old program
/// may still have sent.
const SEQUENCE_JUMP: u64 = 1 << 20;
/// Layout of [`Parked`]; grows with every change of it.
const LAYOUT: u32 = 2;

/// An active node's wish for the long lease.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Asking {
    /// First sequence number that carries it.
    first: u64,
    /// When the partner's silence means no.
    give_up: Instant,
    /// The partner said yes.
    granted: bool,
    /// Until then a lease of the long kind is wanted again and again.
    settled: Instant,
}

/// A standby's promise to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    /// Epoch and sequence of the newest packet it was given to.
    to: (u64, u64),
    /// Until when silence allows nothing.
    pub(super) until: Instant,
}

/// A machine put away, to be continued by another program on the same host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    layout: u32,
    vhid: u8,
    first: bool,
    links: Vec<String>,
    /// What it told of its interval and timeout.
    told: Pace,
    former: Option<Former>,
    epoch: u64,
    sequence: u64,
    carp_counter: u64,
    term: u64,
    term_floor: u64,
    stint: u64,
    role: Role,
    since: Instant,
    gate: Option<Instant>,
    not_before: Instant,
    initial_until: Instant,
    abstained_until: Instant,
    grant: Option<Grant>,
    yield_until: Option<Instant>,
    ready_epoch: Option<u64>,
    active_heard: Option<Instant>,
    proven: bool,
    /// It said that it holds the pair's connections. The new program's replication has not said so yet.
    ready: bool,
    peers: Peers,
    transitions: Vec<Transition>,
    counters: BTreeMap<String, u64>,
}

/// Why a parked machine is not continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Written by a version whose machine differs.
    #[error("the state has layout {0}, this version reads {LAYOUT}")]
    Layout(u32),
    /// The configuration is another one.
    #[error("mode, virtual id or interfaces are not those of the agent that was replaced")]
    Configuration,
}

impl Parked {
    /// The layout this version writes, and the only one it reads.
    pub const LAYOUT: u32 = LAYOUT;

    /// Until when the gate was left open.
    pub const fn gate(&self) -> Option<Instant> {
        self.gate
    }

    /// The role that goes on.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The term that goes on.
    pub const fn term(&self) -> u64 {
        self.term
    }
}

impl Election {
    /// What a new program needs to go on. Changes nothing: the machine can go on itself.
    pub fn park(&self) -> Parked {
        Parked {
            layout: LAYOUT,
            vhid: self.config.vhid,
            first: self.config.mode == Mode::First,
            links: self
                .links
                .iter()
                .map(|link| link.config.name.clone())
                .collect(),
            told: self.timing.own,
            former: self.former,
            epoch: self.epoch,
            sequence: self.log.upcoming(),
            carp_counter: self.carp_counter,
            term: self.term,
            term_floor: self.term_floor,
            stint: self.stint,
            role: self.role,
            since: self.since,
            gate: self.gate,
            not_before: self.not_before,
            initial_until: self.initial_until,
            abstained_until: self.abstained_until,
            grant: self.grant,
            yield_until: self.yield_until,
            ready_epoch: self.ready_epoch,
            active_heard: self.active_heard,
            proven: self.proven,
            ready: self.says_ready(),
            peers: self.peers.clone(),
            transitions: self.transitions.iter().copied().collect(),
            counters: self
                .counters
                .by_name()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// A machine that goes on where another program parked it. `first_term` is the lowest term that is
    /// not reserved on disk.
    pub fn resume(
        config: ElectionConfig,
        keys: ElectionKeys,
        rng: Rng,
        first_term: u64,
        parked: Parked,
        now: Instant,
    ) -> Result<Self, ResumeError> {
        if parked.layout != LAYOUT {
            return Err(ResumeError::Layout(parked.layout));
        }
        let links = config.links.iter().map(|link| &link.name);
        let off = (parked.role == Role::Off) == (config.mode == Mode::Off);
        if parked.vhid != config.vhid
            || parked.first != (config.mode == Mode::First)
            || !off
            || !links.eq(&parked.links)
        {
            return Err(ResumeError::Configuration);
        }
        let mut machine = Self::new(config, keys, rng, first_term, now);
        machine.resumed = true;
        machine.epoch = parked.epoch;
        machine.carp_counter = parked.carp_counter;
        machine.log = SendLog::after(parked.sequence.saturating_add(SEQUENCE_JUMP));
        machine.former = parked.former;
        machine.keep_former(parked.told);
        machine.term = parked.term;
        machine.term_floor = parked.term_floor;
        machine.stint = parked.stint;
        machine.role = parked.role;
        machine.since = parked.since;
        machine.gate = parked.gate;
        machine.not_before = parked.not_before;
        machine.initial_until = parked.initial_until;
        machine.abstained_until = parked.abstained_until;
        machine.grant = parked.grant;
        machine.yield_until = parked.yield_until;
        machine.ready_epoch = parked.ready_epoch;
        machine.active_heard = parked.active_heard;
        machine.proven = parked.proven;
        machine.unready_since = parked.ready.then_some(now);
        machine.peers = parked.peers;
        machine.transitions = parked.transitions.into();
        machine.counters = Counters::from_names(&parked.counters);
        if parked.role == Role::Active {
            machine.asking = Some(Asking {
                first: machine.log.upcoming(),
                give_up: now,
                granted: true,
                settled: now + SETTLING,
            });
        }
        Ok(machine)
    }

    /// The first step of a resumed machine: tells the shell where things stand.
    pub(super) fn go_on(&mut self, out: &mut Vec<Action>) {
        self.started = true;
        out.push(Action::Gate(self.gate));
        if self.role == Role::Off {
            return out.push(Action::ClaimAddresses);
        }
        out.push(match self.gate {
            Some(_) => Action::ClaimAddresses,
            None => Action::ReleaseAddresses,
        });
        self.record(self.role, RoleReason::Replaced, out);
        self.reserve_terms(out);
        if self.role == Role::Active {
            self.note_unreserved();
        }
        self.listen_anew(if self.peers.partner().is_some() {
            self.timing.stall_wait
        } else {
            self.timing.timeout
        });
        for link in &mut self.links {
            link.hello_due = self.now;
            link.quick_hellos = QUICK_HELLOS;
        }
    }

    /// The operator wants the agent replaced.
    pub(super) fn prepare_reexec(&mut self, out: &mut Vec<Action>) {
        if self.role != Role::Active {
            return out.push(Action::Reexec(Ok(())));
        }
        let partner = self.partner_heard().filter(|p| self.hears_us(p));
        let refusal = match partner {
            None => Some(Refusal::PartnerUnheard),
            Some(partner) if !self.partner_ready(&partner.body) => Some(Refusal::PartnerNotReady),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            return out.push(Action::Reexec(Err(refusal)));
        }
        self.asking = Some(Asking {
            first: self.log.upcoming(),
            give_up: self.now + self.timing.timeout.clamp(PATIENCE.0, PATIENCE.1),
            granted: false,
            settled: self.now,
        });
        for link in &mut self.links {
            link.quick_hellos = QUICK_HELLOS;
        }
        self.hello_soon();
    }

    /// Whether this active node is being replaced, or was just now.
    pub(super) fn has_long_grant(&self) -> bool {
        self.asking.is_some_and(|asking| asking.granted)
    }

    /// When an unanswered wish is given up.
    pub(super) fn asking_ends(&self) -> Option<Instant> {
        self.asking
            .filter(|asking| !asking.granted)
            .map(|asking| asking.give_up)
    }

    /// Ends a wish that nobody answers, or that this node's partner is not there to answer.
    pub(super) fn judge_asking(&mut self, out: &mut Vec<Action>) {
        let Some(asking) = self.asking else { return };
        if !asking.granted && asking.give_up <= self.now {
            self.asking = None;
            out.push(Action::Reexec(Err(Refusal::NotGranted)));
        } else if asking.granted && self.alone {
            self.asking = None;
            self.shorten_lease(self.now + self.timing.alone_lease, out);
        }
    }

    /// The role ends, and with it the wish.
    pub(super) fn stop_asking(&mut self, out: &mut Vec<Action>) {
        if let Some(Asking { granted: false, .. }) = self.asking.take() {
            out.push(Action::Reexec(Err(Refusal::NotGranted)));
        }
    }

    /// An echo of a packet sent by this active node at `sent`, from a partner that is not active. Whether it
    /// gave a long lease.
    pub(super) fn take_long_grant(
        &mut self,
        partner: &Partner,
        sent: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let body = &partner.body;
        let Some(asking) = self.asking else {
            return false;
        };
        let granted = body.flags & trailer_flags::REEXEC_GRANT != 0;
        let answered = body.echo_sequence >= asking.first;
        let long = sent + self.timing.lease.max(lease_of(LEASE));
        if asking.granted && (self.now >= asking.settled || answered && !granted) {
            // Replaced, or the program could not be executed: back to ordinary leases. An answer so late that
            // it grants none is none: the partner goes on waiting as long as it is asked to.
            let until = sent + self.timing.lease;
            if answered && until > self.now {
                self.asking = None;
                self.shorten_lease(until, out);
                self.hello_soon();
            }
            return false;
        }
        if !granted || !answered {
            return false;
        }
        // One that takes no part may have been taken for silent; it is there.
        self.alone = false;
        self.extend_lease(long, out);
        if !asking.granted {
            self.asking = Some(Asking {
                first: self.log.upcoming(),
                granted: true,
                ..asking
            });
            out.push(Action::Reexec(Ok(())));
        }
        true
    }

    /// Gives back what is left of a longer lease.
    fn shorten_lease(&mut self, until: Instant, out: &mut Vec<Action>) {
        if self.gate.is_some_and(|gate| gate > until) {
            self.set_gate(Some(until), out);
        }
    }

    /// The partner's newest packet, heard by a node that is not active: it may ask for a long lease, and
    /// if it does not, it does not have one any more.
    pub(super) fn answer_asking(&mut self, body: &Body) {
        let asks = body.flags & trailer_flags::REEXEC_ASK != 0 && body.role == WireRole::Active;
        if !asks {
            self.grant = None;
            self.initial_until = self.initial_until.min(self.now);
        } else if self.grant.is_some() || self.says_ready() {
            self.grant = Some(Grant {
                to: (body.epoch, body.sequence),
                until: self.now + LEASE,
            });
        }
    }

    /// Until when this node has promised to wait.
    pub(super) fn granted_until(&self) -> Instant {
        self.grant.map(|grant| grant.until).unwrap_or_default()
    }

    /// Until when a later start of this node must not take silence for an answer: its own promise, or one
    /// that the start before this one may have given before it crashed, which is why this one waits.
    pub(super) fn promised_until(&self) -> Instant {
        let inherited = self.initial_until.min(self.born + LEASE);
        self.granted_until().max(inherited)
    }

    /// Flags of a packet with this echo.
    pub(super) fn reexec_flags(&self, echo: (u64, u64)) -> u16 {
        let mut flags = 0;
        if self.role == Role::Active && self.asking.is_some() {
            flags |= trailer_flags::REEXEC_ASK;
        }
        if self.grant.is_some_and(|grant| grant.to == echo) {
            flags |= trailer_flags::REEXEC_GRANT;
        }
        flags
    }
}
