//! The machine's state and its outside: inputs, timers, bookkeeping of role and gate.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alarms::{DISK_ANSWERS, Raised};
use super::api::{Action, Alarm, Input, Role, RoleReason};
use super::config::{ElectionConfig, ElectionKeys, carp_ticks};
use super::counters::{Counter, Counters};
use super::foreign::{self, Foreign};
use super::lease::SendLog;
use super::link::Link;
use super::park::{Asking, Grant};
use super::peer::Peers;
use super::snapshot::Transition;
use super::timing::{Former, Timing};
use super::trailer::Signer;
use super::wire::Group;
use crate::config::model::Mode;
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// Terms reserved ahead.
const TERMS_AHEAD: u64 = 1024;
/// Transitions kept for the status.
const TRANSITIONS: usize = 32;
/// Copies of a release.
pub(super) const RELEASE_COPIES: u8 = 3;
/// HELLOs sent at a quarter of the interval after a start or a freeze, so that one lost packet does not
/// leave the partner in the dark.
pub(super) const QUICK_HELLOS: u8 = 3;

/// The election of one node. Its serialised form is its whole state but for secrets and counters.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Election {
    pub(super) config: ElectionConfig,
    pub(super) timing: Timing,
    /// What this node told until not long ago.
    pub(super) former: Option<Former>,
    /// Own interval in 1/256 s.
    pub(super) ticks: u16,
    #[serde(skip)]
    pub(super) signer: Signer,
    pub(super) epoch: u64,
    /// CARP counter of the next advertisement.
    pub(super) carp_counter: u64,
    pub(super) log: SendLog,
    /// Latest time handled.
    pub(super) now: Instant,
    pub(super) started: bool,
    /// Continues another program's machine.
    pub(super) resumed: bool,
    stopped: bool,

    /// When this start began.
    pub(super) born: Instant,
    pub(super) role: Role,
    pub(super) since: Instant,
    pub(super) transitions: VecDeque<Transition>,
    /// Highest term known; own if active.
    pub(super) term: u64,
    /// Lowest term this start may use.
    pub(super) term_floor: u64,
    /// Highest term of the partner's that the data plane has told of, and when it did.
    pub(super) overtaken: (u64, Instant),
    /// Terms below this one are on disk.
    pub(super) term_reserved: u64,
    term_requested: u64,
    /// A term that this node took while it was not on disk, and since when there is one.
    pub(super) unreserved: Option<(u64, Instant)>,
    /// First sequence number sent in this role and term: older packets grant nothing.
    pub(super) stint: u64,

    /// The gate word as last given out.
    pub(super) gate: Option<Instant>,
    pub(super) alone: bool,
    pub(super) renewal_due: Instant,
    /// Since when this node has been able to hear: its start, the end of a freeze, or a carrier.
    pub(super) listens_since: Instant,
    /// Silence alone allows nothing before.
    pub(super) not_before: Instant,
    /// Nor before this after a start, as long as the partner is not heard: the initial wait, and what an
    /// earlier start may have promised.
    pub(super) initial_until: Instant,
    /// After taking part again. Until then the partner may rely on this node being passive, so this node
    /// must not rely on the partner being so.
    pub(super) abstained_until: Instant,
    /// Packets of established connections pass until then, though the gate is closed.
    pub(super) hand_over: Option<Instant>,
    /// Released to the partner, which has until then to take over.
    pub(super) yield_until: Option<Instant>,
    /// Since when both have been standby and heard each other.
    pub(super) undecided_since: Option<Instant>,
    /// Epoch in which the partner was ready during this term.
    pub(super) ready_epoch: Option<u64>,
    /// Since when the preferred partner has been fit.
    pub(super) preferred_since: Option<Instant>,
    /// A stranger has a shared address: no move is made that could wait.
    pub(super) disputed: bool,
    /// Since when both have been active and this one has known it.
    pub(super) conflict_since: Option<Instant>,
    pub(super) isolated: bool,

    pub(super) links: Vec<Link>,
    pub(super) peers: Peers,
    pub(super) foreign: Option<Foreign>,
    /// Link and source of the packet last accepted, and of the last one signed by a stranger.
    pub(super) partner_from: Option<(usize, IpAddr)>,
    pub(super) stranger_from: Option<(usize, IpAddr)>,
    /// Since when it may be the partner, which is not heard.
    pub(super) stranger_since: Option<Instant>,
    /// The partner was once accepted by its trailer.
    pub(super) proven: bool,
    /// Replication says that the table is equal to the active partner's.
    pub(super) ready: bool,
    /// Since when it has not said so, having said so before.
    pub(super) unready_since: Option<Instant>,
    /// When the partner was last heard as active.
    pub(super) active_heard: Option<Instant>,
    pub(super) advert_due: Instant,
    pub(super) announce_due: Option<Instant>,
    /// This active node asks for, or has, the lease under which its agent is replaced.
    pub(super) asking: Option<Asking>,
    /// What this node granted the partner of the kind.
    pub(super) grant: Option<Grant>,
    pub(super) copies_left: u8,
    pub(super) copy_due: Instant,
    /// The copies include bow-outs: this node was active.
    pub(super) bow_out: bool,
    pub(super) stopping: bool,
    #[serde(skip)]
    pub(super) counters: Counters,
    pub(super) alarms: BTreeMap<Alarm, Raised>,
}

impl Election {
    /// A machine that has not done anything yet. `first_term` is the lowest term not reserved by an
    /// earlier start; the epoch and the CARP counter are drawn from `rng`.
    pub fn new(
        config: ElectionConfig,
        keys: ElectionKeys,
        mut rng: Rng,
        first_term: u64,
        now: Instant,
    ) -> Self {
        let epoch = rng.next_u64().max(1);
        let mut names: Vec<&str> = config.links.iter().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        let links = config
            .links
            .iter()
            .map(|link| {
                let bit = names.partition_point(|name| *name < link.name.as_str()) as u32;
                let group = Group::new(&keys.carp_passphrase, config.vhid, &link.shared);
                Link::new(link.clone(), bit, group, now)
            })
            .collect();
        Self {
            timing: Timing::new(&config, None, None),
            former: None,
            ticks: carp_ticks(&config),
            signer: Signer::new(config.vhid, keys.trailer),
            epoch,
            carp_counter: rng.next_u64(),
            log: SendLog::default(),
            now,
            started: false,
            resumed: false,
            stopped: false,
            born: now,
            role: if config.mode == Mode::Off {
                Role::Off
            } else if config.start_pacified {
                Role::Pacified
            } else if config.start_maintenance {
                Role::Maintenance
            } else {
                Role::Init
            },
            since: now,
            transitions: VecDeque::new(),
            term: 0,
            term_floor: first_term.max(1),
            overtaken: (0, now),
            term_reserved: first_term,
            term_requested: first_term,
            unreserved: None,
            stint: 1,
            gate: None,
            alone: false,
            renewal_due: now,
            listens_since: now,
            not_before: now,
            initial_until: now,
            abstained_until: now,
            hand_over: None,
            yield_until: None,
            undecided_since: None,
            ready_epoch: None,
            preferred_since: None,
            disputed: false,
            conflict_since: None,
            isolated: false,
            peers: Peers::new(epoch, config.links.len()),
            links,
            foreign: None,
            partner_from: None,
            stranger_from: None,
            stranger_since: None,
            proven: false,
            ready: false,
            unready_since: None,
            active_heard: None,
            advert_due: now,
            announce_due: None,
            asking: None,
            grant: None,
            copies_left: 0,
            copy_due: now,
            bow_out: false,
            stopping: false,
            counters: Counters::default(),
            alarms: BTreeMap::new(),
            config,
        }
    }

    /// Puts other secrets in place of the present ones; for a machine that was serialised.
    #[must_use]
    pub fn with_keys(mut self, keys: ElectionKeys) -> Self {
        self.set_keys(keys);
        self
    }

    /// Changes the secrets. As long as each node accepts the key with which the other one signs, neither
    /// role nor lease notices.
    pub fn set_keys(&mut self, keys: ElectionKeys) {
        for link in &mut self.links {
            let shared = &link.config.shared;
            link.group = Group::new(&keys.carp_passphrase, self.config.vhid, shared);
        }
        self.signer = Signer::new(self.config.vhid, keys.trailer);
    }

    /// The epoch of this start.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The partner's epoch; 0 as long as it has not proven itself.
    pub fn partner_epoch(&self) -> u64 {
        let partner = self.peers.partner();
        partner.map_or(0, |partner| partner.body.epoch)
    }

    /// The settings it was made with.
    pub fn config(&self) -> &ElectionConfig {
        &self.config
    }

    /// Takes in what happened. All packets that are waiting should be handed in before a timer is.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Action>) {
        self.handle(now, Some(input), out);
    }

    /// Does what is due. Calling it early or late is harmless; late is noticed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.handle(now, None, out);
    }

    /// When [`Self::handle_timeout`] wants to be called; always later than the last call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stopped {
            None
        } else if self.started {
            self.next_wake()
        } else {
            Some(self.now)
        }
    }

    /// What this node is now.
    pub const fn role(&self) -> Role {
        self.role
    }

    fn handle(&mut self, now: Instant, input: Option<Input<'_>>, out: &mut Vec<Action>) {
        if self.stopped {
            return;
        }
        let due = self.poll_timeout();
        self.now = self.now.max(now);
        if !self.started && self.resumed {
            self.go_on(out);
        } else if !self.started {
            self.start(out);
        } else if due.is_some_and(|due| self.now > due + self.timing.stall) {
            self.thaw();
        }
        self.adjust_timing();
        if let Some(input) = input {
            self.take(input, out);
        }
        self.decide(out);
        self.send_due(out);
        // A node that has promised to wait would not know of it after its next start.
        if self.stopping
            && self.copies_left == 0
            && self.promised_until() <= self.now
            && self.hand_over.is_none_or(|until| until <= self.now)
        {
            self.stopped = true;
            out.push(Action::Stopped);
        }
    }

    /// Before anything is sent, what an earlier start may have left open is closed.
    fn start(&mut self, out: &mut Vec<Action>) {
        self.started = true;
        self.since = self.now;
        if self.role == Role::Off {
            self.record(Role::Off, RoleReason::HaOff, out);
            self.set_gate(Some(Instant::from_nanos(u64::MAX)), out);
            return;
        }
        out.push(Action::Gate(None));
        out.push(Action::ReleaseAddresses);
        let reason = match self.role {
            Role::Pacified => RoleReason::Pacified,
            Role::Maintenance => RoleReason::Maintenance,
            Role::Off | Role::Init | Role::Standby | Role::Active => RoleReason::Started,
        };
        self.record(self.role, reason, out);
        self.reserve_terms(out);
        self.listen_anew(self.timing.timeout);
        self.initial_until = self.now + self.config.initial_wait;
        for link in &mut self.links {
            link.hello_due = self.now;
        }
    }

    /// The node was frozen. Meanwhile the partner may have found itself alone, so silence proves
    /// nothing until this node has been heard again and has listened.
    fn thaw(&mut self) {
        self.counters.count(Counter::Stalled);
        self.listen_anew(self.timing.stall_wait);
        for link in &mut self.links {
            link.hello_due = self.now;
            link.quick_hellos = QUICK_HELLOS;
        }
    }

    /// This node can hear again. Silence allows nothing until it has done so for a while.
    pub(super) fn listen_anew(&mut self, wait: Duration) {
        self.listens_since = self.now;
        self.listen_for(wait);
    }

    /// Silence allows nothing for a while.
    pub(super) fn listen_for(&mut self, wait: Duration) {
        self.not_before = self.not_before.max(self.now + wait);
    }

    /// The next moment at which time alone changes something. Moments that have passed were acted on
    /// or wait for something else, so they are left out: no busy loop.
    fn next_wake(&self) -> Option<Instant> {
        if self.role == Role::Off && !self.stopping {
            return self.announce_due;
        }
        let mut next: Option<Instant> = None;
        let mut consider = |moment: Option<Instant>| {
            if let Some(moment) = moment
                && moment > self.now
            {
                next = Some(next.map_or(moment, |next| next.min(moment)));
            }
        };
        consider((self.copies_left > 0).then_some(self.copy_due));
        if self.stopping {
            consider(Some(self.promised_until()));
            consider(self.hand_over);
            return next;
        }
        for link in &self.links {
            consider(Some(link.hello_due));
            consider(link.challenge.map(|_| link.challenge_due));
        }
        consider(self.announce_due);
        consider(self.unreserved.map(|(_, since)| since + DISK_ANSWERS));
        consider(Some(self.silence_ends()));
        let timeout = self.timing.timeout;
        match self.role {
            Role::Active => {
                consider(Some(self.advert_due));
                consider(self.asking_ends());
                consider(self.gate);
                consider(self.alone.then_some(self.renewal_due));
                consider(self.conflict_ends());
                consider(self.alone_at());
                consider(self.preferred_since.map(|at| at + self.timing.hold_down));
                for link in &self.links {
                    let lost = link.gateway.failed_since();
                    consider(lost.map(|at| at + self.timing.gateway_hold));
                }
            }
            Role::Init | Role::Standby => {
                consider(self.yield_until);
                consider(self.undecided_since.map(|at| at + timeout));
                consider(self.peers.partner().map(|p| p.heard + timeout));
            }
            Role::Off | Role::Pacified | Role::Maintenance => {}
        }
        next
    }

    /// Gives out a gate word, and moves the addresses when it opens or closes.
    pub(super) fn set_gate(&mut self, until: Option<Instant>, out: &mut Vec<Action>) {
        if self.gate == until {
            return;
        }
        let was_open = self.gate.is_some();
        self.gate = until;
        out.push(Action::Gate(until));
        match (was_open, until.is_some()) {
            (false, true) => {
                self.hand_over = None;
                out.push(Action::ClaimAddresses);
                out.push(Action::Announce);
                // As other CARP implementations do: once more after two advertisements.
                self.announce_due = Some(self.now + self.timing.interval * 2);
            }
            (true, false) => {
                if let Some(until) = self.hand_over {
                    out.push(Action::HandOver { until });
                }
                out.push(Action::ReleaseAddresses);
                self.announce_due = None;
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Changes the role. The gate of a node that is not active is closed before.
    pub(super) fn set_role(&mut self, to: Role, reason: RoleReason, out: &mut Vec<Action>) {
        let from = self.role;
        if from == Role::Active {
            self.set_gate(None, out);
            self.alone = false;
            self.conflict_since = None;
            self.ready_epoch = None;
            self.preferred_since = None;
            self.stop_asking(out);
            self.clear(Alarm::BothActive, out);
        }
        self.role = to;
        self.since = self.now;
        self.stint = self.log.upcoming();
        self.undecided_since = None;
        self.record(from, reason, out);
        self.hello_soon();
    }

    /// The same role, a new term.
    pub(super) fn note_term(&mut self, reason: RoleReason, out: &mut Vec<Action>) {
        self.record(self.role, reason, out);
        self.hello_soon();
    }

    pub(super) fn record(&mut self, from: Role, reason: RoleReason, out: &mut Vec<Action>) {
        if self.transitions.len() == TRANSITIONS {
            self.transitions.pop_front();
        }
        self.transitions.push_back(Transition {
            at_ns: self.now.as_nanos(),
            from,
            to: self.role,
            reason,
            term: self.term,
        });
        out.push(Action::RoleChanged {
            from,
            to: self.role,
            reason,
            term: self.term,
        });
    }

    /// How long what failed must have worked again before this node counts it as sound.
    pub(super) fn own_hold(&self) -> Duration {
        if self.role == Role::Active {
            Duration::ZERO
        } else {
            self.timing.hold_down
        }
    }

    /// Takes a term that is higher than all known and was not used by an earlier start.
    pub(super) fn next_term(&mut self, out: &mut Vec<Action>) {
        let known = self.term.max(self.overtaken.0);
        self.term = known.saturating_add(1).max(self.term_floor);
        self.reserve_terms(out);
        self.note_unreserved();
    }

    /// Takes note of a term in use that a restart might use again.
    pub(super) fn note_unreserved(&mut self) {
        if self.term >= self.term_reserved {
            let since = self.unreserved.map_or(self.now, |(_, since)| since);
            self.unreserved = Some((self.term, since));
        }
    }

    pub(super) fn reserve_terms(&mut self, out: &mut Vec<Action>) {
        let wanted = self.term.max(self.term_floor);
        if wanted.saturating_add(TERMS_AHEAD / 2) > self.term_requested {
            self.term_requested = wanted.saturating_add(TERMS_AHEAD);
            out.push(Action::ReserveTerm {
                up_to: self.term_requested,
            });
        }
    }

    /// Sends HELLOs on all links as soon as their distance allows.
    pub(super) fn hello_soon(&mut self) {
        for link in &mut self.links {
            link.hello_soon(self.now, self.timing.hello_gap);
        }
    }

    /// A peer's silence that has just ended, if it has no trailer.
    pub(super) fn foreign_until(&self) -> Option<Instant> {
        self.foreign
            .map(|foreign| foreign.heard + foreign::master_down(self.ticks))
    }

    /// Own address on a link, of the family of another one; that one itself if there is none.
    pub(super) fn own_like(&self, link: usize, other: IpAddr) -> IpAddr {
        let link = self.links.get(link);
        link.and_then(|link| link.config.own(other.is_ipv6()))
            .unwrap_or(other)
    }
}
