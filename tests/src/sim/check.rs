//! What is checked after every step.

use std::time::Duration;

use ha_agent::proto::carp::Role;
use ha_agent::proto::time::Instant;

use super::host::Agent;
use super::params::Sabotage;
use super::watch::{Expectation, Who};
use super::world::World;

/// Longest time for which established connections pass a gate that was handed over.
const HAND_OVER: Duration = Duration::from_millis(50);

impl World {
    /// Calm for this long, a pair must have settled and stay so.
    pub(super) fn calm_bound(&self) -> u64 {
        let held = self.params.hold_down.as_nanos() as u64;
        2 * self.params.timeout_ns() + self.params.longest_wait() + held + 6 * self.slack()
    }

    pub(super) fn calmly_settled(&self, node: usize) -> bool {
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
            && self
                .wires
                .iter()
                .flatten()
                .all(|wire| !wire.cut && !wire.blocked)
            && self
                .hosts
                .iter()
                .all(|host| !host.disk_fails && host.lateness == self.params.lateness)
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
        self.check_knowing_overlap();
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
        // Connections rest while it is calm, so a second later the standby has caught up.
        if passive || calm_for < self.calm_bound() + self.params.timeout_ns() + 1_000_000_000 {
            return;
        }
        let [first, second] = &self.hosts;
        if first.table != second.table {
            self.fail("calm, and the tables differ");
        }
        let ready = self.hosts.iter().all(|host| {
            let agent = host.agent.as_ref();
            agent.is_some_and(Agent::sync_ready)
        });
        if !ready {
            self.fail("calm, and the standby is not ready");
        }
        self.summary.equal_tables += 1;
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

    /// Two gates may not stay open once a node that can do something about it hears the other.
    fn check_knowing_overlap(&mut self) {
        let open = self.is_open(0) && self.is_open(1);
        let attends = [self.host(0).attends(), self.host(1).attends()];
        let late = self.hosts.iter().map(|host| host.lateness).max();
        // A stranger is not believed before it has answered: until then the lease runs on.
        let unheeded = (self.params.timeout_ns() / 2).max(self.params.interval_ns());
        let bound = unheeded + self.slack() + 2 * late.unwrap_or_default();
        let now = self.now;
        if self.watch.overlaps_knowingly(now, open, attends, bound) {
            self.fail("two gates are open, and a node knows");
        }
    }

    /// A hand-over is short, and nothing but what both nodes know passes: the gate itself is closed.
    pub(super) fn check_hand_over(&mut self, node: usize, until: Instant) {
        let host = self.host(node);
        let left = until.since(host.clock.show(self.now));
        let closed = host.gate.is_none() || self.params.sabotage != Sabotage::None;
        if !closed || left > HAND_OVER {
            self.fail(&format!("node {node} hands over for {left:?}"));
        }
        self.summary.hand_overs += 1;
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
        // What must always hold goes on doing so until the next fault.
        for each in &mut self.watch.expectations {
            if matches!(each.who, Who::Always(_)) && each.by <= now {
                each.by = u64::MAX;
            }
        }
        self.watch.expectations.retain(|each| each.by > now);
        for each in due {
            let open = [self.is_open(0), self.is_open(1)];
            let met = match each.who {
                Who::Node(0) => open == [true, false],
                Who::Node(_) => open == [false, true],
                Who::Always(_) => true,
                Who::AnnouncedSince(at) => {
                    let winner = self.host(usize::from(open[1]));
                    open[0] != open[1] && winner.announced.is_some_and(|when| when >= at)
                }
            };
            if !met {
                self.fail(&format!("not in time: {}", each.why));
            }
            *self.summary.met.entry(each.why).or_default() += 1;
        }
    }
}
