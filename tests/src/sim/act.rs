//! What agents do to the world: packets, gates, tables.

use std::net::{IpAddr, Ipv4Addr};

use ha_agent::config::model::{Preferred, Transport};
use ha_agent::proto::carp::{Action, REEXEC_LEASE, Role, RoleReason};
use ha_agent::proto::sync::{self, Change};
use ha_agent::proto::time::Instant;

use super::faults::Fault;
use super::host::{Effect, Host};
use super::journal::Entry;
use super::network::{Kind, Packet};
use super::params::Sabotage;
use super::watch::Who;
use super::world::{Event, World};

/// Packets an attacker remembers.
const RECORDED: usize = 200;

impl World {
    pub(super) fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        let host = self.host_mut(node);
        if let Some(agent) = &host.agent {
            host.kernel.partner = agent.election.partner_epoch();
        }
        for effect in effects {
            match effect {
                Effect::Election(action) => self.perform_election(node, action),
                Effect::Sync(sync::Action::Send { bytes, .. }) => {
                    let last = self.wires.len() - 1;
                    let source = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                    self.send(node, last, source, Kind::Sync, bytes);
                }
                // Nobody writes any here; the machine's own simulation has them.
                Effect::Sync(sync::Action::Record(_)) => {}
                Effect::Sync(sync::Action::Apply { change, .. }) => {
                    if let Change::Put(record) = &change
                        && !self.traffic.existed(record)
                    {
                        self.fail(&format!("node {node} was told of {record:?}"));
                    }
                    apply(self.host_mut(node), change);
                }
                Effect::Sync(sync::Action::Ready(_)) => {}
            }
        }
        let calm_for = self.watch.calm_since.map(|since| self.now - since);
        if std::mem::take(&mut self.closed) && calm_for.is_some_and(|calm| calm > self.calm_bound())
        {
            self.fail(&format!("node {node} closed its gate without a cause"));
        }
        self.rearm(node);
    }

    fn perform_election(&mut self, node: usize, action: Action) {
        let sent = matches!(action, Action::SendAdvert { .. } | Action::SendHello { .. });
        if !sent {
            self.note(Entry::Acted(node, action.clone()));
        }
        match action {
            Action::SendAdvert {
                link,
                source,
                payload,
            } => self.send(node, link, source, Kind::Advert, payload),
            Action::SendHello {
                link,
                source,
                payload,
            } => self.send(node, link, source, Kind::Hello, payload),
            Action::Gate(until) => self.set_gate(node, until),
            Action::HandOver { until } => self.check_hand_over(node, until),
            Action::ClaimAddresses => self.host_mut(node).claimed = true,
            Action::ReleaseAddresses => self.host_mut(node).claimed = false,
            Action::ReserveTerm { up_to } => {
                let host = self.host(node);
                if !host.disk_fails
                    && let Some(agent) = &host.agent
                {
                    let life = agent.life;
                    let takes = self.rng.below(20_000_000);
                    self.later(takes, Event::Written(node, life, up_to));
                }
            }
            Action::RoleChanged {
                from,
                to,
                reason,
                term,
            } => {
                if to == Role::Active {
                    self.host_mut(node).kernel.term = term;
                }
                self.role_changed(node, from, to, reason);
            }
            Action::Stopped => {
                let timeout = self.params.timeout_ns();
                self.end_agent(node);
                self.host_mut(node).unclean = false;
                self.later(timeout, Event::Fault(Fault::Start(node)));
            }
            Action::Announce => self.host_mut(node).announced = Some(self.now),
            Action::Reexec(Ok(())) => self.replace(node),
            Action::Alarm { .. } | Action::Refused(_) | Action::Reexec(Err(_)) => {}
        }
    }

    /// An agent gives way to another program, which begins soon, or late, or never.
    fn replace(&mut self, node: usize) {
        if !self.params.reexec {
            return;
        }
        let lease = REEXEC_LEASE.as_nanos() as u64;
        let after = match self.rng.below(8) {
            0 => lease / 2 + self.rng.below(lease),
            1 => u64::MAX,
            _ => self.rng.below(lease / 4),
        };
        // A node that misses a carrier or a gateway hands over as soon as its partner counts as fitter.
        let fit = self.settled(node) && self.host(node).lost.is_empty();
        let heir = self.is_perfect() && self.settled(node) && self.host(1 - node).lost.is_empty();
        let unnoticed = self.is_perfect() && fit && after < lease / 2;
        let parked = self
            .host(node)
            .agent
            .as_ref()
            .map(|agent| agent.election.park());
        self.end_agent(node);
        self.host_mut(node).parked = parked;
        if unnoticed {
            let within = after + self.params.timeout_ns();
            self.expect(Who::Always(node), within, "an agent is replaced unnoticed");
        }
        if after == u64::MAX {
            self.later(lease * 2, Event::Fault(Fault::Restart(node)));
            if heir {
                let longest = lease.max(self.params.timeout_ns()) + self.slack();
                let why = "a replacement that died is replaced";
                self.expect(Who::Node(1 - node), longest, why);
            }
        } else {
            self.later(after, Event::Fault(Fault::Replace(node)));
        }
    }

    fn set_gate(&mut self, node: usize, until: Option<Instant>) {
        let until = match (self.params.sabotage, until) {
            (Sabotage::LongLease(thousandths), Some(until)) => {
                Some(until + self.params.timeout / 1000 * thousandths as u32)
            }
            (Sabotage::NeverClose, None) => return,
            (_, until) => until,
        };
        let was_open = self.is_open(node);
        self.host_mut(node).gate = until;
        self.check_overlap();
        self.closed |= was_open && until.is_none();
    }

    fn role_changed(&mut self, node: usize, from: Role, to: Role, reason: RoleReason) {
        self.changes.push((node, to, reason));
        self.watch.changes += u64::from(from != to);
        // Where a fifth of all packets is lost, three in a row are too, again and again.
        if self.params.weather.loss == 0 {
            self.summary.most_changes = self.summary.most_changes.max(self.watch.changes);
        }
        self.summary.promotions += u64::from(to == Role::Active && from != to);
        let calm_for = self.watch.calm_since.map(|since| self.now - since);
        let planned = self.params.preferred != Preferred::None
            && matches!(
                reason,
                RoleReason::PartnerPreferred | RoleReason::PartnerReleased
            );
        if planned {
            self.watch.calm_since = self.watch.calm_since.map(|_| self.now);
            self.watch.expectations.clear();
        } else if calm_for.is_some_and(|calm| calm > self.calm_bound()) {
            self.fail(&format!(
                "node {node} became {to:?} ({reason:?}) without a cause"
            ));
        }
    }

    pub(super) fn send(
        &mut self,
        from: usize,
        link: usize,
        source: IpAddr,
        kind: Kind,
        payload: Vec<u8>,
    ) {
        let Some(wire) = self.wires.get(link).and_then(|wires| wires.get(from)) else {
            return;
        };
        let wire = *wire;
        let timeout = self.params.timeout_ns();
        let packet = Packet {
            from,
            link,
            source,
            kind,
            sent: self.now,
            group: true,
            forged: false,
            payload: payload.into(),
        };
        if self.recorded.len() == RECORDED {
            let victim = self.rng.below(RECORDED as u64) as usize;
            self.recorded.swap_remove_back(victim);
        }
        self.recorded.push_back(packet.clone());
        let (group, unicast) = self.copies(&packet);
        for group in [true, false].into_iter().zip([group, unicast]) {
            let (group, true) = group else { continue };
            let weather = &self.params.weather;
            for at in wire.carry(group, self.now, timeout, weather, &mut self.rng) {
                let packet = packet.clone();
                self.later(at - self.now, Event::Arrival(Packet { group, ..packet }));
            }
        }
    }

    /// Whether a packet goes to the group, and whether to the partner's own address, as the shell does it.
    fn copies(&self, packet: &Packet) -> (bool, bool) {
        let Packet {
            from,
            link,
            source,
            kind,
            ..
        } = *packet;
        if kind == Kind::Sync || source.is_ipv6() || !self.params.has_unicast(link) {
            return (true, false);
        }
        let agent = self.host(from).agent.as_ref();
        match self.params.transport {
            Transport::Multicast => (true, false),
            Transport::Unicast => (false, true),
            Transport::Auto => (
                true,
                agent.is_some_and(|agent| agent.election.wants_unicast(link)),
            ),
        }
    }

    /// An attacker sends what it recorded: back to the sender, again to the receiver, on any link.
    pub(super) fn replay(&mut self, packets: u8) {
        for _ in 0..packets {
            let count = self.recorded.len() as u64;
            let index = self.rng.below(count) as usize;
            let Some(packet) = self.recorded.get(index) else {
                return;
            };
            let mut packet = packet.clone();
            packet.forged = true;
            if self.rng.below(4) == 0 {
                packet.link = self.rng.below(self.params.links.len() as u64) as usize;
            }
            let after = self.rng.below(self.params.timeout_ns());
            self.later(after, Event::Arrival(packet));
        }
    }
}

/// A change of a connection as the node's map takes it.
pub(super) fn apply(host: &mut Host, change: Change) {
    match change {
        Change::Put(record) => {
            host.table.insert(record.key, record);
        }
        Change::Delete(key) => {
            host.table.remove(&key);
        }
    }
}
