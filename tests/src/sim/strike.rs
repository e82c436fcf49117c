//! Faults as they happen to the world, and the checks after every step.

use ha_agent::proto::carp::Role;

use super::faults::Fault;
use super::host::{Agent, Table, Waiting};
use super::journal::Entry;
use super::params::Sabotage;
use super::watch::{Expectation, Who};
use super::world::World;

impl World {
    /// Something goes wrong, or right again.
    pub(super) fn strike(&mut self, fault: Fault) {
        self.note(Entry::Fault(fault));
        self.summary.faults += 1;
        let was_settled = (0..2).find(|node| self.calmly_settled(*node));
        self.watch.disturbed();
        let was_split = self.is_open(0) && self.is_open(1);
        match fault {
            Fault::PowerOff(node) => {
                self.end_agent(node);
                let host = self.host_mut(node);
                host.gate = None;
                host.claimed = false;
                host.paused = false;
                host.table = Table::new();
                self.expect_survivor(node, was_settled);
            }
            Fault::KillAgent(node) => {
                self.end_agent(node);
                self.expect_survivor(node, was_settled);
            }
            Fault::Start(node) => self.start(node),
            Fault::Freeze(node) => {
                self.interrupt(node);
                self.host_mut(node).frozen = true;
                self.rearm(node);
            }
            Fault::Thaw(node) => {
                if self.host(node).frozen {
                    self.host_mut(node).frozen = false;
                    self.resume(node);
                }
            }
            Fault::Pause(node) => {
                self.interrupt(node);
                self.host_mut(node).paused = true;
                self.rearm(node);
            }
            Fault::Resume(node) => {
                if self.host(node).paused {
                    self.host_mut(node).paused = false;
                    self.check_overlap();
                    self.resume(node);
                }
            }
            Fault::Cut { from, link } => self.set_wire(from, link, true),
            Fault::Mend { from, link } => {
                self.set_wire(from, link, false);
                if was_split && self.is_perfect() {
                    let delay = self.params.longest_delay() + self.params.lateness;
                    let within = 2 * self.params.interval_ns() + 6 * delay;
                    self.expect(Who::Either, within, "a healed split settles");
                }
            }
            Fault::Carrier { node, link, up } => self.offer(node, Waiting::Carrier(link, up)),
            Fault::Gateway {
                node,
                link,
                reachable,
            } => self.offer(node, Waiting::Gateway(link, reachable)),
            Fault::Command(node, command) => self.offer(node, Waiting::Command(command)),
            Fault::DiskFails(node) => self.host_mut(node).disk_fails = true,
            Fault::DiskWorks(node) => self.host_mut(node).disk_fails = false,
            Fault::Replay(packets) => self.replay(packets),
        }
    }

    fn set_wire(&mut self, from: usize, link: usize, cut: bool) {
        if let Some(wire) = self
            .wires
            .get_mut(link)
            .and_then(|wires| wires.get_mut(from))
        {
            wire.cut = cut;
        }
    }

    fn start(&mut self, node: usize) {
        if self.host(node).agent.is_some() {
            return;
        }
        let truth = self.now;
        let params = self.params.clone();
        let host = self.host_mut(node);
        host.lives += 1;
        host.frozen = false;
        host.attends_since = truth;
        let now = host.clock.show(truth);
        let agent = Agent::start(&params, node, host.lives, host.reserved, now, &host.table);
        host.agent = Some(agent);
        self.rearm(node);
    }

    pub(super) fn end_agent(&mut self, node: usize) {
        self.interrupt(node);
        let host = self.host_mut(node);
        host.agent = None;
        host.frozen = false;
        host.inbox.clear();
        self.rearm(node);
    }

    /// An agent is about to stop running.
    fn interrupt(&mut self, node: usize) {
        if self.host(node).attends()
            && let Some(attending) = self.attending()
        {
            self.watch.interrupted(self.now, attending);
        }
    }

    /// An agent runs again: its timers and what waited come in either order.
    fn resume(&mut self, node: usize) {
        let truth = self.now;
        if !self.host(node).attends() {
            return;
        }
        self.host_mut(node).attends_since = truth;
        let waiting = std::mem::take(&mut self.host_mut(node).inbox);
        self.rearm(node);
        if self.rng.below(2) == 0 {
            self.host_mut(node).wakes = Some(truth);
        }
        for each in &waiting {
            self.hand(node, each);
        }
    }

    /// The pair had settled before one of its nodes died: the other one must be or become active.
    fn expect_survivor(&mut self, dead: usize, was_settled: Option<usize>) {
        let timeout = self.params.timeout_ns();
        let slack = self.slack();
        match was_settled {
            Some(active) if active == dead => self.expect(
                Who::Node(1 - dead),
                timeout + slack,
                "a dead active node is replaced",
            ),
            Some(active) => self.expect(
                Who::Always(active),
                3 * timeout,
                "a dying standby is not noticed",
            ),
            None => {}
        }
    }

    /// What delays and clocks may add to a timeout.
    fn slack(&self) -> u64 {
        let timeout = self.params.timeout_ns();
        2 * (self.params.longest_delay() + self.params.lateness) + timeout / 1000 + 1_000_000
    }

    /// Calm for this long, a pair must have settled and stay so.
    pub(super) fn calm_bound(&self) -> u64 {
        let initial = self.params.initial_wait.as_nanos() as u64;
        2 * self.params.timeout_ns() + initial + 6 * self.slack()
    }

    fn calmly_settled(&self, node: usize) -> bool {
        self.settled(node)
            && self
                .watch
                .calm_since
                .is_some_and(|since| self.now > since + self.calm_bound())
    }

    /// Nothing is broken at this moment.
    pub(super) fn is_perfect(&self) -> bool {
        let weather = &self.params.weather;
        weather.loss == 0
            && self.attending().is_some()
            && self.wires.iter().flatten().all(|wire| !wire.cut)
            && self.hosts.iter().all(|host| !host.disk_fails)
    }

    /// After every step.
    pub(super) fn check(&mut self) {
        if !self.is_perfect() {
            self.watch.calm_since = None;
        } else if self.watch.calm_since.is_none() {
            self.watch.calm_since = Some(self.now);
        }
        for node in 0..2 {
            let role = self.host(node).role();
            let host = self.host(node);
            if host.agent.is_some() && host.gate.is_some() != host.claimed {
                self.fail(&format!("node {node}: gate and addresses differ"));
            }
            let begun = host.agent.as_ref().is_some_and(|agent| agent.begun);
            if begun
                && role != Some(Role::Active)
                && host.gate.is_some()
                && self.params.sabotage == Sabotage::None
            {
                self.fail(&format!("node {node} is {role:?} with an open gate"));
            }
        }
        self.check_always();
        let calm_for = self.watch.calm_since.map_or(0, |since| self.now - since);
        if calm_for > self.calm_bound() {
            self.check_calm(calm_for);
        }
    }

    /// A pair in peace: one is active, the other one standby, and their tables are equal in the end.
    fn check_calm(&mut self, calm_for: u64) {
        let roles = [self.host(0).role(), self.host(1).role()];
        let passive = roles.iter().any(|role| {
            matches!(
                role,
                Some(Role::Maintenance | Role::Off | Role::Pacified) | None
            )
        });
        let open = [self.is_open(0), self.is_open(1)];
        if open == [false, false] && !(passive && roles[0] == roles[1]) {
            self.fail("calm, and nobody is active");
        }
        if open == [true, true] {
            self.fail("calm, and two are active");
        }
        if passive || calm_for < 2 * self.calm_bound() + 5_000_000_000 {
            return;
        }
        let [first, second] = &self.hosts;
        if first.table == second.table {
            self.summary.equal_tables += 1;
        }
    }

    /// Two open gates are a violation unless neither could know.
    pub(super) fn check_overlap(&mut self) {
        if !(self.is_open(0) && self.is_open(1)) {
            return;
        }
        let attending = self.attending();
        if !self.watch.excuses_overlap(self.now, attending) {
            self.fail("two gates are open");
        }
    }

    fn check_always(&mut self) {
        let broken = self
            .watch
            .expectations
            .iter()
            .find(|each| matches!(each.who, Who::Always(node) if !self.is_open(node)))
            .copied();
        if let Some(broken) = broken {
            self.fail(&format!("violated: {}", broken.why));
        }
    }

    pub(super) fn check_expectations(&mut self) {
        let now = self.now;
        let due: Vec<Expectation> = self
            .watch
            .expectations
            .iter()
            .filter(|each| each.by <= now)
            .copied()
            .collect();
        self.watch.expectations.retain(|each| each.by > now);
        for each in due {
            let open = [self.is_open(0), self.is_open(1)];
            let met = match each.who {
                Who::Node(0) => open == [true, false],
                Who::Node(_) => open == [false, true],
                Who::Always(_) => true,
                Who::Either => open[0] != open[1],
            };
            if !met {
                self.fail(&format!("not in time: {}", each.why));
            }
            self.watch.met += 1;
        }
    }
}
