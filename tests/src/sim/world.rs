//! The universe: true time, what happens next, and what follows from it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use ha_agent::proto::carp::{Command, Role, RoleReason};
use ha_agent::proto::rng::Rng;
use ha_agent::proto::time::Instant;

use super::act::apply;
use super::clock::Clock;
use super::faults::{Fault, Temper, mishap};
use super::host::{Agent, Host, Waiting};
use super::journal::{Entry, Journal};
use super::network::{Kind, Packet, Wire};
use super::params::{Params, Sabotage};
use super::summary::Summary;
use super::sweep::Violation;
use super::traffic::Traffic;
use super::watch::{Expectation, Watch, Who};

/// Packets the kernel keeps for a frozen agent.
const INBOX: usize = 512;

/// What happens at some time.
#[derive(Debug)]
pub(super) enum Event {
    /// A packet arrives.
    Arrival(Packet),
    /// Something goes wrong or right.
    Fault(Fault),
    /// A disk has written, for this start of the node.
    Written(usize, u64, u64),
    /// A connection does something.
    Traffic,
    /// Time to check an expectation.
    Check,
}

/// An event with its time; equal times in the order of creation.
#[derive(Debug)]
struct Due {
    at: u64,
    pub(super) number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Two nodes and all around them.
#[derive(Debug)]
pub struct World {
    pub(super) params: Params,
    pub(super) rng: Rng,
    /// True time in nanoseconds.
    pub(super) now: u64,
    pub(super) step: u64,
    number: u64,
    queue: BinaryHeap<Reverse<Due>>,
    pub(super) hosts: [Host; 2],
    pub(super) wires: Vec<[Wire; 2]>,
    pub(super) recorded: VecDeque<Packet>,
    pub(super) traffic: Traffic,
    pub(super) watch: Watch,
    pub(super) journal: Journal,
    pub(super) summary: Summary,
    /// A gate was closed in this step.
    pub(super) closed: bool,
    /// A violation is for the sweep, which says what is worth saying.
    pub(super) swept: bool,
    /// Every change of role so far: node, new role, reason.
    pub changes: Vec<(usize, Role, RoleReason)>,
}

impl World {
    /// Two nodes that start within a timeout of each other.
    pub fn new(params: Params) -> Self {
        let mut world = Self::dark(params);
        let spread = world.params.timeout_ns();
        for node in 0..2 {
            let at = world.rng.below(spread);
            world.later(at, Event::Fault(Fault::Start(node)));
        }
        world
    }

    /// Two nodes that are switched off.
    pub fn dark(params: Params) -> Self {
        let mut rng = Rng::new(params.seed);
        let hosts = params.drift_ppm.map(|drift| {
            let offset = 1_000_000_000 + rng.below(1_000_000_000_000);
            Host::new(Clock::new(offset, drift), params.lateness)
        });
        let mut world = Self {
            wires: vec![[Wire::default(); 2]; params.links.len()],
            watch: Watch::new(&params),
            params,
            rng,
            now: 0,
            step: 0,
            number: 0,
            queue: BinaryHeap::new(),
            hosts,
            recorded: VecDeque::new(),
            traffic: Traffic::default(),
            journal: Journal::default(),
            summary: Summary::default(),
            closed: false,
            swept: false,
            changes: Vec::new(),
        };
        if world.params.arrival > 0 {
            world.later(world.params.arrival, Event::Traffic);
        }
        world
    }

    /// Does that many steps with mishaps in between. In every other world each one ends and the pair
    /// settles before the next, else they come one upon another, and often just when a role changes.
    pub fn torment(&mut self, steps: u64) {
        let timeout = self.params.timeout_ns();
        let temper = Temper::of(self.params.seed);
        let gentle = temper != Temper::Rough;
        let mut next_mishap = timeout * 3;
        let mut next_step = u64::MAX;
        let mut changes = 0;
        while self.step < steps {
            if self.changes.len() > changes {
                changes = self.changes.len();
                if !gentle && self.rng.below(4) == 0 {
                    next_step = self.step + self.rng.below(20);
                }
            }
            if self.now >= next_mishap || self.step >= next_step {
                next_step = u64::MAX;
                let plan = mishap(&mut self.rng, self.params.links.len(), timeout, temper);
                let lasting = plan.iter().map(|(after, _)| *after).max();
                for (after, fault) in plan {
                    self.later(after, Event::Fault(fault));
                }
                let pause = match self.rng.below(4) {
                    _ if gentle => {
                        let settling = self.calm_bound() + timeout;
                        lasting.unwrap_or(0) + settling + self.rng.below(timeout * 4)
                    }
                    0 => self.rng.below(timeout / 2),
                    1 => timeout * 4 + self.rng.below(timeout * 8),
                    _ => self.rng.below(timeout * 3),
                };
                next_mishap = self.now + pause;
            }
            self.step();
        }
    }

    /// Lets true time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time.as_nanos() as u64;
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until a condition holds; how long that took.
    pub fn until(
        &mut self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begin = self.now;
        let end = begin + limit.as_nanos() as u64;
        while !holds(self) {
            if self.next_at().is_none_or(|at| at > end) {
                self.fail(&format!("not within {limit:?}: {what}"));
            }
            self.step();
        }
        Duration::from_nanos(self.now - begin)
    }

    /// Injects a fault now.
    pub fn inject(&mut self, fault: Fault) {
        self.later(0, Event::Fault(fault));
        let at = self.now;
        while self.next_at().is_some_and(|next| next <= at) {
            self.step();
        }
    }

    /// A node's host.
    pub fn host(&self, node: usize) -> &Host {
        let [first, second] = &self.hosts;
        if node == 0 { first } else { second }
    }

    pub(super) fn host_mut(&mut self, node: usize) -> &mut Host {
        let [first, second] = &mut self.hosts;
        if node == 0 { first } else { second }
    }

    /// Whether a node's gate is open now.
    pub fn is_open(&self, node: usize) -> bool {
        self.host(node).is_open(self.now)
    }

    /// Whether this node is active with an open gate and the other one is standby without.
    pub fn settled(&self, node: usize) -> bool {
        self.host(node).role() == Some(Role::Active)
            && self.is_open(node)
            && self.host(1 - node).role() == Some(Role::Standby)
            && !self.is_open(1 - node)
    }

    /// Figures of the run.
    pub fn summary(&self) -> Summary {
        Summary {
            runs: 1,
            steps: self.step,
            nanos: self.now,
            excused_overlaps: self.watch.excused,
            connections: self.traffic.total(),
            ..self.summary.clone()
        }
    }

    /// Ends the run with everything needed to understand and repeat it.
    pub fn fail(&self, what: &str) -> ! {
        let node = |node: usize| {
            let host = self.host(node);
            let replication = host.agent.as_ref().map(Agent::sync_snapshot);
            let open = self.is_open(node);
            format!("node {node}: {:?} open {open} {replication:?}", host.role())
        };
        let Params { seed, .. } = self.params;
        let logs = super::journal::keep(self, what);
        let log = format!(
            "{}\n{}\n{}\n{what}\n{logs}seed {seed} step {} time {} ns\n{:?}\n\
             again: HA_SIM_SEED={seed} HA_SIM_STEPS={} cargo test -p ha-tests --test sim_sweep",
            self.journal,
            node(0),
            node(1),
            self.step,
            self.now,
            self.params,
            self.step,
        );
        if self.swept {
            let what = what.to_owned();
            std::panic::resume_unwind(Box::new(Violation { what, seed, log }));
        }
        #[expect(clippy::panic, reason = "a violation ends the test")]
        {
            panic!("{log}")
        }
    }

    pub(super) fn later(&mut self, after: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Due {
            at: self.now + after,
            number: self.number,
            event,
        }));
    }

    fn next_at(&self) -> Option<u64> {
        let event = self.queue.peek().map(|Reverse(due)| due.at);
        let timers = self.hosts.iter().filter_map(|host| host.wakes);
        timers.chain(event).min()
    }

    /// The next event, whatever it is.
    fn step(&mut self) {
        let Some(at) = self.next_at() else {
            self.fail("nothing will ever happen again");
        };
        self.step += 1;
        self.now = self.now.max(at);
        let due = self
            .hosts
            .iter()
            .position(|host| host.wakes.is_some_and(|wakes| wakes <= self.now));
        if let Some(node) = due {
            self.wake(node);
        } else if let Some(Reverse(due)) = self.queue.pop() {
            self.happen(due.event);
        }
        self.check();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival(packet) => self.arrive(packet),
            Event::Fault(fault) => self.strike(fault),
            Event::Written(node, life, up_to) => {
                let host = self.host_mut(node);
                if host.agent.as_ref().is_some_and(|agent| agent.life == life) {
                    host.reserved = host.reserved.max(up_to);
                    self.offer(node, Waiting::TermReserved(up_to));
                }
            }
            Event::Traffic => {
                let after = 1 + self.rng.below(self.params.arrival * 2);
                self.later(after, Event::Traffic);
                let calm_for = self.watch.calm_since.map_or(0, |since| self.now - since);
                for node in 0..2 {
                    if self.is_open(node) && calm_for < self.calm_bound() {
                        self.connect(node);
                    }
                }
            }
            Event::Check => self.check_expectations(),
        }
    }

    /// The data plane of a node handles a packet of a connection.
    fn connect(&mut self, node: usize) {
        let [first, second] = &mut self.hosts;
        let host = if node == 0 { first } else { second };
        let change = self.traffic.happen(&host.table, &mut self.rng);
        let at = host.clock.show(self.now);
        apply(host, change);
        self.offer(node, Waiting::Local(change, at));
    }

    /// Calls a node's timers.
    fn wake(&mut self, node: usize) {
        let truth = self.now;
        self.tell_overtaken(node);
        let host = self.host_mut(node);
        host.wakes = None;
        let now = host.clock.show(truth);
        let Some(agent) = host.agent.as_mut() else {
            return;
        };
        let effects = agent.tick(now);
        self.note(Entry::Timer(node));
        self.perform(node, effects);
        self.notice_multicast(node);
    }

    fn arrive(&mut self, packet: Packet) {
        let to = if packet.forged {
            // An attacker may send a node's own packets back to it.
            self.rng.below(2) as usize
        } else {
            1 - packet.from
        };
        let at = self.host(to).clock.show(self.now);
        let early = match self.params.sabotage {
            Sabotage::EarlyReception(thousandths) => self.params.timeout_ns() / 1000 * thousandths,
            Sabotage::None | Sabotage::LongLease(_) | Sabotage::NeverClose | Sabotage::Drift(_) => {
                0
            }
        };
        let at = Instant::from_nanos(at.as_nanos() - early);
        if self.host(to).paused {
            return;
        }
        if packet.kind == Kind::Advert {
            // The ring may be full: the gate is closed all the same.
            let admitted = self.host_mut(to).kernel.admits(&packet);
            if !admitted || self.rng.below(1_000_000) < self.params.weather.unread {
                return;
            }
        }
        self.offer(to, Waiting::Packet(packet, at));
        self.tell_overtaken(to);
        self.notice_multicast(to);
    }

    /// The agent notices whether the group is heard.
    fn notice_multicast(&mut self, node: usize) {
        let truth = self.now;
        let host = self.host_mut(node);
        if !host.attends() {
            return;
        }
        let now = host.clock.show(truth);
        while let Some(agent) = self.host_mut(node).agent.as_mut()
            && let Some(change) = agent.multicast_change(now)
        {
            self.hand(node, &change);
        }
    }

    /// The agent looks at the gate word whenever it runs.
    fn tell_overtaken(&mut self, node: usize) {
        let host = self.host_mut(node);
        let term = host.kernel.overtaken;
        let attends = host.attends();
        let Some(agent) = host.agent.as_mut().filter(|_| attends) else {
            return;
        };
        if term > std::mem::replace(&mut agent.overtaken, term) {
            self.summary.overtaken += 1;
            self.hand(node, &Waiting::Overtaken(term));
        }
    }

    /// Hands something to an agent, now or when it runs again.
    pub(super) fn offer(&mut self, node: usize, waiting: Waiting) {
        let host = self.host_mut(node);
        if host.agent.is_none() {
            return;
        }
        if host.frozen || host.paused {
            if host.inbox.len() < INBOX {
                host.inbox.push_back(waiting);
            }
            return;
        }
        self.hand(node, &waiting);
    }

    /// An agent handles something.
    pub(super) fn hand(&mut self, node: usize, waiting: &Waiting) {
        let truth = self.now;
        if let Waiting::Packet(packet, _) = waiting
            && packet.kind != Kind::Sync
        {
            self.note(Entry::Delivered(node, packet.clone()));
            if !packet.forged {
                let attending = self.attending();
                self.watch
                    .heard(node, truth, packet.sent, attending.unwrap_or(truth));
            }
        }
        let host = self.host_mut(node);
        let now = host.clock.show(truth);
        let Some(agent) = host.agent.as_mut() else {
            return;
        };
        let effects = agent.take(now, waiting);
        self.perform(node, effects);
    }

    /// When a node's timer will fire: due, plus the scheduler's mood.
    pub(super) fn rearm(&mut self, node: usize) {
        let lateness = 1 + self.rng.below(self.host(node).lateness + 1);
        let now = self.now;
        let host = self.host_mut(node);
        host.wakes = if host.attends() {
            let due = host.agent.as_ref().and_then(Agent::due);
            due.map(|due| host.clock.truth(due).max(now) + lateness)
        } else {
            None
        };
    }

    /// Since when both agents have been running; `None` if one does not.
    pub(super) fn attending(&self) -> Option<u64> {
        self.hosts
            .iter()
            .all(Host::attends)
            .then(|| self.hosts.iter().map(|host| host.attends_since).max())
            .flatten()
    }

    pub(super) fn expect(&mut self, who: Who, within: u64, why: &'static str) {
        let by = self.now + within;
        self.watch.expectations.push(Expectation { who, by, why });
        self.later(within, Event::Check);
    }

    pub(super) fn note(&mut self, entry: Entry) {
        self.journal.push(self.step, self.now, entry);
    }

    /// A command now, as if the operator gave it.
    pub fn command(&mut self, node: usize, command: Command) {
        self.inject(Fault::Command(node, command));
    }
}
