//! Faults as they happen to the world, and the checks after every step.

use ha_agent::config::model::Transport;
use ha_agent::proto::carp::Command;

use super::faults::Fault;
use super::host::{Agent, Kernel, Start, Table, Waiting};
use super::journal::Entry;
use super::network::Wire;
use super::watch::Who;
use super::world::World;

impl World {
    /// Something goes wrong, or right again.
    pub(super) fn strike(&mut self, fault: Fault) {
        self.note(Entry::Fault(fault));
        *self.summary.faults.entry(fault.name()).or_default() += 1;
        let was_settled = (0..2).find(|node| self.calmly_settled(*node));
        if !matches!(fault, Fault::Replace(_)) {
            self.watch.disturbed();
        }
        let was_split = self.is_open(0) && self.is_open(1);
        match fault {
            Fault::PowerOff(node) => {
                self.end_agent(node);
                let host = self.host_mut(node);
                host.gate = None;
                host.kernel = Kernel::default();
                host.claimed = false;
                host.paused = false;
                host.parked = None;
                host.table = Table::new();
                self.expect_survivor(node, was_settled);
            }
            Fault::KillAgent(node) => {
                self.end_agent(node);
                self.expect_survivor(node, was_settled);
            }
            Fault::Start(node) => self.start(node, false),
            Fault::StartPacified(node) => self.start(node, true),
            Fault::Replace(node) => {
                if self.host(node).parked.is_some() {
                    self.start(node, false);
                }
            }
            Fault::Slow(node, nanos) => self.host_mut(node).lateness = nanos,
            Fault::Brisk(node) => {
                self.host_mut(node).lateness = self.params.lateness;
                self.rearm(node);
            }
            Fault::Freeze(node) => {
                self.interrupt(node);
                self.host_mut(node).frozen = true;
                self.rearm(node);
                self.expect_survivor(node, was_settled);
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
                self.expect_survivor(node, was_settled);
            }
            Fault::Resume(node) => {
                if self.host(node).paused {
                    self.host_mut(node).paused = false;
                    self.check_overlap();
                    self.resume(node);
                }
            }
            Fault::Cut { from, link } => {
                self.set_wire(from, link, true);
                let whole = |wires: &[Wire; 2]| wires.iter().all(|wire| !wire.cut);
                if let Some(active) = was_settled
                    && self.wires.iter().any(whole)
                {
                    let within = 2 * self.params.timeout_ns();
                    self.expect(Who::Always(active), within, "one link's loss moves nothing");
                }
            }
            Fault::Mend { from, link } => {
                self.set_wire(from, link, false);
                if was_split && self.is_perfect() {
                    let delay = self.params.longest_delay() + self.params.lateness;
                    let within = self.params.interval_ns() + 6 * delay;
                    let healed = Who::AnnouncedSince(self.now);
                    self.expect(healed, within, "a healed split settles");
                }
            }
            Fault::Carrier { node, link, up } => {
                self.link_changed(node, Waiting::Carrier(link, up));
            }
            Fault::Gateway {
                node,
                link,
                reachable,
            } => self.link_changed(node, Waiting::Gateway(link, reachable)),
            // Where nobody is replaced, no start waits for what an earlier one may have granted.
            Fault::Command(_, Command::Reexec) if !self.params.reexec => {}
            Fault::Command(node, command) => self.offer(node, Waiting::Command(command)),
            Fault::Retime { node, fast } => self.retime(node, fast, was_settled),
            Fault::Multicast { link, passes } => {
                // Elsewhere they may hear each other by the group alone.
                let unicast = self.params.transport != Transport::Multicast;
                let moot = unicast && self.params.has_unicast(link);
                if !passes && moot {
                    self.expect_calm(was_settled, "blocked multicast moves nothing");
                }
                for wire in self.wires.get_mut(link).into_iter().flatten() {
                    wire.blocked = !passes;
                }
            }
            Fault::Rekey(node) => self.rekey(node, was_settled),
            Fault::Restart(node) => {
                if self.host_mut(node).parked.take().is_some() {
                    self.start(node, false);
                }
            }
            Fault::DiskFails(node) => self.host_mut(node).disk_fails = true,
            Fault::DiskWorks(node) => self.host_mut(node).disk_fails = false,
            Fault::Replay(packets) => self.replay(packets),
        }
    }

    /// The file of a running node changes, and it is told to read it again.
    fn retime(&mut self, node: usize, fast: bool, was_settled: Option<usize>) {
        let settings = self.params.settings(fast);
        if self.params.faster == 1 || self.host(node).agent.is_none() {
            return;
        }
        self.host_mut(node).fast = fast;
        self.offer(node, Waiting::Settings(settings));
        self.expect_calm(was_settled, "a change of timing moves nothing");
    }

    fn rekey(&mut self, node: usize, was_settled: Option<usize>) {
        let step = self.host(node).key_step;
        let waits = step > self.host(1 - node).key_step;
        if !self.params.rotates || waits || !self.host(node).attends() {
            return;
        }
        self.host_mut(node).key_step = step + 1;
        self.offer(node, Waiting::Keys(step + 1));
        self.expect_calm(was_settled, "a change of keys moves nothing");
    }

    /// What happens now must leave everything as it is.
    fn expect_calm(&mut self, was_settled: Option<usize>, why: &'static str) {
        if let Some(active) = was_settled.filter(|_| self.is_perfect()) {
            self.expect(Who::Always(active), 2 * self.params.timeout_ns(), why);
        }
    }

    fn link_changed(&mut self, node: usize, news: Waiting) {
        self.host_mut(node).link_changed(&news);
        self.offer(node, news);
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

    fn start(&mut self, node: usize, pacified: bool) {
        if self.host(node).agent.is_some() {
            return;
        }
        let truth = self.now;
        let params = self.params.clone();
        let others = self.host(1 - node).fast;
        let host = self.host_mut(node);
        host.lives += 1;
        if host.parked.is_none() {
            host.kernel = Kernel::default();
            // Nothing tells a node that has just started, and hears nothing, that its partner's timeout is longer.
            host.fast = others;
        }
        let start = Start {
            life: host.lives,
            unclean: host.unclean,
            pacified,
            parked: host.parked.take(),
            fast: host.fast,
            key_step: host.key_step,
        };
        host.unclean = true;
        host.frozen = false;
        host.attends_since = truth;
        let now = host.clock.show(truth);
        let agent = Agent::start(&params, node, start, host.reserved, now, &host.table);
        host.agent = Some(agent);
        self.rearm(node);
        for lost in self.host(node).lost.clone() {
            self.offer(node, lost);
        }
    }

    pub(super) fn end_agent(&mut self, node: usize) {
        self.interrupt(node);
        let host = self.host_mut(node);
        host.end_agent();
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
            // A node without its links has nothing to offer.
            Some(active) if active == dead && !self.host(1 - dead).lost.is_empty() => {}
            Some(active) if active == dead => self.expect(
                Who::Node(1 - dead),
                timeout + slack,
                "a dead active node is replaced",
            ),
            Some(active) => self.expect(
                Who::Always(active),
                2 * timeout,
                "a dying standby is not noticed",
            ),
            None => {}
        }
    }

    /// What delays and clocks may add to a timeout.
    pub(super) fn slack(&self) -> u64 {
        let timeout = self.params.timeout_ns();
        2 * (self.params.longest_delay() + self.params.lateness) + timeout / 1000 + 1_000_000
    }
}
