//! A node: what survives its agent, and the agent with its two machines.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ha_agent::config::model::Transport;
use ha_agent::datapath::family::FlowKey;
use ha_agent::journal::{Begin, Happened, Line, Resume, Setup};
use ha_agent::keys::{PairKey, PairKeys};
use ha_agent::proto::carp::trailer::{Body, WireRole};
use ha_agent::proto::carp::{self, Election, Parked, REEXEC_LEASE, Role};
use ha_agent::proto::rng::Rng;
use ha_agent::proto::sync::{self, Change, Record, Salt, Sync, SyncConfig, SyncSnapshot};
use ha_agent::proto::time::Instant;
use ha_common::carp::HEADER_LEN;

use super::clock::Clock;
use super::network::{Kind, Packet};
use super::params::{Params, keys};

/// A connection table.
pub type Table = BTreeMap<FlowKey, Record>;

/// What a machine asked for.
#[derive(Debug)]
pub enum Effect {
    /// By the election.
    Election(carp::Action),
    /// By replication.
    Sync(sync::Action),
}

/// What waits for an agent.
#[derive(Clone, Debug)]
pub enum Waiting {
    /// A packet, and what the kernel's clock showed when it came.
    Packet(Packet, Instant),
    /// A change of a connection, and when.
    Local(Change, Instant),
    /// An event of a link.
    Carrier(usize, bool),
    /// An event of a gateway.
    Gateway(usize, bool),
    /// The operator.
    Command(carp::Command),
    /// The disk.
    TermReserved(u64),
    /// The gate word.
    Overtaken(u64),
    /// Whether the partner's multicast is heard on a link.
    Multicast(usize, bool),
    /// The configuration file.
    Settings(carp::Settings),
    /// The key file.
    Keys(u32),
}

/// How an agent starts.
#[derive(Debug, Default)]
pub struct Start {
    /// Which start of the node it is.
    pub life: u64,
    /// The one before did not end in order.
    pub unclean: bool,
    /// It takes no part until it is told to.
    pub pacified: bool,
    /// It goes on where another program was.
    pub parked: Option<Parked>,
    /// With the shorter interval and timeout.
    pub fast: bool,
    /// With these keys.
    pub key_step: u32,
}

/// What XDP does with advertisements, agent or none.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Term in which the gate was opened.
    pub term: u64,
    /// Highest term above it in which the partner was heard as active.
    pub overtaken: u64,
    /// The partner's epoch.
    pub partner: u64,
    /// Epoch and sequence last heard, by link.
    heard: BTreeMap<usize, (u64, u64)>,
}

impl Kernel {
    /// An advertisement arrives. Whether the agent gets it.
    pub fn admits(&mut self, packet: &Packet) -> bool {
        let trailer = packet.payload.get(HEADER_LEN..).unwrap_or_default();
        let Ok(body) = Body::peek(trailer) else {
            return true;
        };
        if body.epoch != self.partner {
            return true;
        }
        let newest = (body.epoch, body.sequence);
        let last = self.heard.entry(packet.link).or_default();
        if last.0 == newest.0 && last.1 >= newest.1 {
            return false;
        }
        *last = newest;
        if body.role == WireRole::Active && body.term > self.term {
            self.overtaken = self.overtaken.max(body.term);
        }
        true
    }
}

/// A running agent: the two machines and how they are joined.
#[derive(Debug)]
pub struct Agent {
    /// Which start of the node it is.
    pub life: u64,
    /// The election.
    pub election: Election,
    /// What happened to the election: its beginning and all inputs.
    log: Vec<Line>,
    sync: SyncBox,
    rng: Rng,
    /// It has acted for the first time.
    pub begun: bool,
    /// What the gate word said when it was looked at last.
    pub overtaken: u64,
    /// When the partner's multicast was last heard on a link, and whether the election believes that it is.
    multicast: BTreeMap<usize, (Instant, bool)>,
    /// Timers called in a row without time passing.
    hurry: u32,
}

/// `Sync` has no `Debug`.
struct SyncBox(Sync);

impl std::fmt::Debug for SyncBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sync")
    }
}

impl Agent {
    /// Starts; `table` is what the data plane's map holds.
    pub fn start(
        params: &Params,
        node: usize,
        start: Start,
        first_term: u64,
        now: Instant,
        table: &Table,
    ) -> Self {
        let life = start.life;
        let mut rng = Rng::new(params.seed ^ (life << 8) ^ ((node as u64 + 1) << 1));
        let keys = || keys(start.key_step);
        let mut settings = params.election(node);
        let pace = params.settings(start.fast);
        (settings.interval, settings.timeout) = (pace.interval, pace.timeout);
        settings.start_pacified = start.pacified;
        if start.unclean && params.reexec {
            // It may have promised a node that is being replaced to wait.
            settings.initial_wait = settings.initial_wait.max(REEXEC_LEASE);
        }
        let seed = rng.next_u64();
        let resumed = start.parked.and_then(|parked| {
            let (settings, rng) = (settings.clone(), Rng::new(seed));
            Election::resume(settings, keys(), rng, first_term, parked, now).ok()
        });
        let (setup, election) = if let Some(machine) = resumed {
            let keys = (&keys()).into();
            let resume = Resume { keys, machine };
            (Setup::State(Box::new(resume.clone())), resume.machine)
        } else {
            let election = Election::new(settings.clone(), keys(), Rng::new(seed), first_term, now);
            let begin = Begin {
                config: settings,
                keys: (&keys()).into(),
                seed,
                first_term,
            };
            (Setup::Begin(Box::new(begin)), election)
        };
        let config = SyncConfig {
            peer_timeout: params.peer_timeout,
            max_entries: 1024,
            ..SyncConfig::new(node as u8 + 1, 110)
        };
        let pair = PairKeys::new(vec![PairKey::new(1, [0x5a; 32])]);
        let auto = params.transport == Transport::Auto;
        let links = 0..params.links.len();
        let watched = links.filter(|link| auto && params.has_unicast(*link));
        let salt = draw_salt(&mut rng);
        let mut sync = Sync::new(config, pair, salt, Rng::new(rng.next_u64()), now);
        let mut out = Vec::new();
        let load = sync::Input::Load(table.values().copied().collect());
        sync.handle_input(now, load, &mut out);
        Self {
            life,
            election,
            log: vec![Line::Setup(now, setup)],
            sync: SyncBox(sync),
            rng,
            begun: false,
            overtaken: 0,
            multicast: watched.map(|link| (link, (now, true))).collect(),
            hurry: 0,
        }
    }

    /// Hands in what waited.
    pub fn take(&mut self, now: Instant, waiting: &Waiting) -> Vec<Effect> {
        let mut effects = Vec::new();
        match waiting {
            Waiting::Packet(packet, at) => match packet.kind {
                Kind::Advert => self.elect(
                    now,
                    carp::Input::Advert {
                        link: packet.link,
                        source: packet.source,
                        payload: &packet.payload,
                        at: *at,
                    },
                    &mut effects,
                ),
                Kind::Hello => {
                    let input = carp::Input::Hello {
                        link: packet.link,
                        source: packet.source,
                        payload: &packet.payload,
                        at: *at,
                    };
                    let before = self.election.heard_on(packet.link);
                    self.elect(now, input, &mut effects);
                    if self.election.heard_on(packet.link) != before
                        && packet.group
                        && let Some((heard, _)) = self.multicast.get_mut(&packet.link)
                    {
                        *heard = now;
                    }
                }
                Kind::Sync => {
                    let bytes = &packet.payload;
                    self.replicate(now, sync::Input::Packet { bytes }, &mut effects);
                }
            },
            Waiting::Local(change, at) => {
                let (change, at) = (*change, *at);
                self.replicate(now, sync::Input::Local { change, at }, &mut effects);
                self.replicate(now, sync::Input::Flush, &mut effects);
            }
            Waiting::Carrier(link, up) => {
                let (link, up) = (*link, *up);
                self.elect(now, carp::Input::Carrier { link, up }, &mut effects);
            }
            Waiting::Gateway(link, reachable) => {
                let (link, reachable) = (*link, *reachable);
                self.elect(now, carp::Input::Gateway { link, reachable }, &mut effects);
            }
            Waiting::Command(command) => {
                self.elect(now, carp::Input::Command(*command), &mut effects);
            }
            Waiting::Multicast(link, heard) => {
                let (link, heard) = (*link, *heard);
                self.elect(now, carp::Input::Multicast { link, heard }, &mut effects);
            }
            Waiting::Settings(settings) => {
                self.elect(now, carp::Input::Settings(*settings), &mut effects);
            }
            Waiting::Keys(step) => {
                let keys = keys(*step);
                let happened = Happened::Keys((&keys).into());
                self.log.push(Line::Input(now, happened));
                self.election.set_keys(keys);
            }
            Waiting::Overtaken(term) => {
                self.elect(now, carp::Input::Overtaken(*term), &mut effects);
            }
            Waiting::TermReserved(up_to) => {
                self.elect(now, carp::Input::TermReserved(*up_to), &mut effects);
            }
        }
        effects
    }

    /// Calls the timers that are due.
    pub fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.election.poll_timeout().is_some_and(|due| due <= now) {
            let mut out = Vec::new();
            self.log.push(Line::Input(now, Happened::Timer));
            self.election.handle_timeout(now, &mut out);
            self.join(now, out, &mut effects);
        }
        if self.sync.0.poll_timeout().is_some_and(|due| due <= now) {
            let mut out = Vec::new();
            self.sync.0.handle_timeout(now, &mut out);
            self.join_sync(now, out, &mut effects);
            let again = self.sync.0.poll_timeout().is_some_and(|due| due <= now);
            self.hurry = if again { self.hurry + 1 } else { 0 };
            assert!(self.hurry < 1000, "replication's timer never rests");
        }
        effects
    }

    /// When the next timer is due.
    pub fn due(&self) -> Option<Instant> {
        let election = self.election.poll_timeout();
        let sync = self.sync.0.poll_timeout();
        let patience = self.patience();
        let believed = self.multicast.values().filter(|(_, told)| *told);
        let deaf = believed.map(|(heard, _)| *heard + patience).min();
        election.into_iter().chain(sync).chain(deaf).min()
    }

    /// For how long multicast may be silent.
    fn patience(&self) -> Duration {
        self.election.config().timeout / 2
    }

    /// A change in whether the partner's multicast is heard, as the shell notices it.
    pub fn multicast_change(&mut self, now: Instant) -> Option<Waiting> {
        let patience = self.patience();
        let changed = |(heard, told): &(Instant, bool)| (now < *heard + patience) != *told;
        let (link, (_, told)) = self
            .multicast
            .iter_mut()
            .find(|(_, state)| changed(state))?;
        *told = !*told;
        Some(Waiting::Multicast(*link, *told))
    }

    /// Replication's state, for people.
    pub fn sync_snapshot(&self) -> SyncSnapshot {
        self.sync.0.snapshot()
    }

    /// Replication considers this node's table complete.
    pub fn sync_ready(&self) -> bool {
        self.sync.0.snapshot().ready
    }

    fn elect(&mut self, now: Instant, input: carp::Input<'_>, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.log.push(Line::Input(now, input.into()));
        self.election.handle_input(now, input, &mut out);
        self.join(now, out, effects);
    }

    fn replicate(&mut self, now: Instant, input: sync::Input<'_>, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.sync.0.handle_input(now, input, &mut out);
        self.join_sync(now, out, effects);
    }

    /// A change of role goes to replication.
    fn join(&mut self, now: Instant, actions: Vec<carp::Action>, effects: &mut Vec<Effect>) {
        self.begun = true;
        let wakes = self.election.poll_timeout();
        assert!(
            wakes.is_none_or(|due| due > now),
            "the election's timer is due at once after it was handled"
        );
        for action in actions {
            let role = if let carp::Action::RoleChanged { to, term, .. } = action {
                Some((to == Role::Active, term))
            } else {
                None
            };
            effects.push(Effect::Election(action));
            if let Some((active, term)) = role {
                let salt = draw_salt(&mut self.rng);
                self.replicate(now, sync::Input::Role { active, term, salt }, effects);
            }
        }
    }

    /// Readiness goes to the election.
    fn join_sync(&mut self, now: Instant, actions: Vec<sync::Action>, effects: &mut Vec<Effect>) {
        for action in actions {
            let ready = if let sync::Action::Ready(ready) = action {
                Some(ready)
            } else {
                None
            };
            effects.push(Effect::Sync(action));
            if let Some(ready) = ready {
                self.elect(now, carp::Input::Ready(ready), effects);
            }
        }
    }
}

fn draw_salt(rng: &mut Rng) -> Salt {
    let mut salt = Salt::default();
    for (byte, random) in salt.iter_mut().zip(
        rng.next_u64()
            .to_be_bytes()
            .into_iter()
            .chain(rng.next_u64().to_be_bytes()),
    ) {
        *byte = random;
    }
    salt
}

/// A node.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each breaks by itself")]
pub struct Host {
    /// Its clock.
    pub clock: Clock,
    /// Its agent, if one runs.
    pub agent: Option<Agent>,
    /// What happened to the elections of agents that ended.
    past: Vec<Line>,
    /// The agent does not run.
    pub frozen: bool,
    /// The machine does not run.
    pub paused: bool,
    /// Since when the agent has been running without a break, in true time.
    pub attends_since: u64,
    /// What waits for the agent while it is frozen.
    pub inbox: VecDeque<Waiting>,
    /// The gate word.
    pub gate: Option<Instant>,
    /// What the data plane has heard and been told.
    pub kernel: Kernel,
    /// The shared addresses are there.
    pub claimed: bool,
    /// The data plane's map.
    pub table: Table,
    /// What the disk says.
    pub reserved: u64,
    /// The disk takes no writes.
    pub disk_fails: bool,
    /// Starts so far.
    pub lives: u64,
    /// The configuration file says the shorter interval and timeout.
    pub fast: bool,
    /// Steps of replacing keys taken so far.
    pub key_step: u32,
    /// The last agent did not end in order.
    pub unclean: bool,
    /// State of an agent that is being replaced.
    pub parked: Option<Parked>,
    /// Carriers and gateways that are lost, as an agent is told.
    pub lost: Vec<Waiting>,
    /// How late timers fire at most, in nanoseconds.
    pub lateness: u64,
    /// When the shared addresses were last announced, in true time.
    pub announced: Option<u64>,
    /// When the agent's timer fires, in true time.
    pub wakes: Option<u64>,
}

impl Host {
    /// A node that is switched off.
    pub fn new(clock: Clock, lateness: u64) -> Self {
        Self {
            clock,
            agent: None,
            past: Vec::new(),
            frozen: false,
            paused: false,
            attends_since: 0,
            inbox: VecDeque::new(),
            gate: None,
            kernel: Kernel::default(),
            claimed: false,
            table: Table::new(),
            reserved: 0,
            disk_fails: false,
            lives: 0,
            fast: false,
            key_step: 0,
            unclean: false,
            parked: None,
            lost: Vec::new(),
            lateness,
            announced: None,
            wakes: None,
        }
    }

    /// Whether the gate is open at a true time.
    pub fn is_open(&self, now: u64) -> bool {
        let overtaken = self.kernel.overtaken > self.kernel.term;
        let leased = self.gate.is_some_and(|until| self.clock.show(now) < until);
        leased && !overtaken && !self.paused
    }

    /// The agent is gone.
    pub fn end_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.past.extend(agent.log);
        }
    }

    /// What happened to this node's elections: their beginnings and all inputs.
    pub fn history(&self) -> Vec<Line> {
        let present = self.agent.iter().flat_map(|agent| &agent.log);
        self.past.iter().chain(present).cloned().collect()
    }

    /// A carrier or gateway is lost or back.
    pub fn link_changed(&mut self, news: &Waiting) {
        let (Waiting::Carrier(link, up) | Waiting::Gateway(link, up)) = news else {
            return;
        };
        let kind = std::mem::discriminant(news);
        self.lost.retain(|each| {
            let (Waiting::Carrier(other, _) | Waiting::Gateway(other, _)) = each else {
                return false;
            };
            std::mem::discriminant(each) != kind || other != link
        });
        if !up {
            self.lost.push(news.clone());
        }
    }

    /// Whether the agent runs.
    pub fn attends(&self) -> bool {
        self.agent.is_some() && !self.frozen && !self.paused
    }

    /// Role of the agent, if one runs.
    pub fn role(&self) -> Option<Role> {
        Some(self.agent.as_ref()?.election.role())
    }
}
