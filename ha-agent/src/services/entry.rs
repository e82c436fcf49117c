//! One virtual service and its real servers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ha_common::service::{
    Forwarding, Real, RealState, Scheduler, Service, Timeouts, real_flags, service_flags,
};

use super::ids::Id;
use super::maglev::{self, Member};
use super::plan::Choice;
use super::{Hop, LINGER, ServerKey, wrr};
use crate::config::model::{self, OnDown, Ports};
use crate::datapath::family::{ListenKey, wide};
use crate::datapath::nanos;
use crate::proto::time::Instant;

/// A virtual service and its real servers.
pub(super) struct Entry {
    pub(super) id: u16,
    pub(super) name: String,
    pub(super) ports: Ports,
    /// Whether it is in the configuration; if not it drains.
    pub(super) configured: bool,
    pub(super) forwarding: Forwarding,
    pub(super) scheduler: Scheduler,
    pub(super) persistence: Option<model::Persistence>,
    pub(super) timeouts: Timeouts,
    /// Whether mid-flow packets of unknown connections are forwarded by hash.
    pub(super) resteer: bool,
    pub(super) on_down: OnDown,
    pub(super) reals: BTreeMap<ServerKey, Server>,
    chosen: Chosen,
}

/// A real server of one virtual service.
pub(super) struct Server {
    pub(super) id: Id,
    pub(super) weight: u32,
    /// Connections it may have; 0 = no limit.
    pub(super) connections_max: u32,
    /// What is sent to it comes from there, if not from the client.
    pub(super) source: Option<IpAddr>,
    /// Whether it only takes what nobody else may take.
    pub(super) last_resort: bool,
    /// Whether its health check says so, or it has none.
    pub(super) up: bool,
    /// Whether it has left the configuration, or only the partner knows it.
    pub(super) leaving: bool,
    /// Connections found by the last scan.
    pub(super) connections: u64,
    /// Since when scans have found no connection of a server that is leaving.
    unused_since: Option<Instant>,
}

/// The last choice computed, and from what.
#[derive(Default)]
struct Chosen {
    from: Option<(Vec<Member>, u32, Scheduler)>,
    choice: Choice,
}

impl Entry {
    pub(super) fn new(id: u16, ports: Ports) -> Self {
        Self {
            id,
            name: String::new(),
            ports,
            configured: false,
            forwarding: Forwarding::Nat,
            scheduler: Scheduler::Mh,
            persistence: None,
            timeouts: Timeouts::USUAL,
            resteer: true,
            on_down: OnDown::Keep,
            reals: BTreeMap::new(),
            chosen: Chosen::default(),
        }
    }

    /// Takes over what the configuration says of the service itself.
    pub(super) fn configure(&mut self, service: &model::VirtualService) {
        self.configured = true;
        self.name.clone_from(&service.name);
        self.ports = service.ports;
        self.forwarding = service.forwarding;
        self.scheduler = service.scheduler;
        self.persistence = service.persistence;
        self.timeouts = Timeouts {
            established_ns: nanos(service.timeouts.established),
            closing_ns: nanos(service.timeouts.closing),
            closed_ns: nanos(service.timeouts.closed),
            udp_ns: nanos(service.timeouts.udp),
        };
        self.resteer = service.resteer;
        self.on_down = service.on_down;
    }

    pub(super) fn leave(&mut self) {
        self.configured = false;
        for server in self.reals.values_mut() {
            server.leave();
        }
    }

    /// Real servers that are meant to take connections, up or not: what the table's size depends on.
    pub(super) fn pool(&self) -> usize {
        let stay = |server: &&Server| !server.leaving && !server.last_resort;
        self.reals.values().filter(stay).count()
    }

    /// Every port it listens at, given the first.
    pub(super) fn keys(&self, first: ListenKey) -> impl Iterator<Item = ListenKey> + use<> {
        self.ports.numbers().map(move |port| ListenKey {
            port: port.to_be(),
            ..first
        })
    }

    /// Its value but for the place of its slots.
    pub(super) fn value(&self, hash_seed: u64) -> Service {
        let mut last = self.reals.values().filter(|server| server.last_resort);
        let last = last.find(|server| server.state() == RealState::Up);
        let persistence = self.persistence.as_ref();
        Service {
            hash_seed,
            id: self.id,
            scheduler: self.scheduler as u8,
            flags: if self.resteer {
                0
            } else {
                service_flags::NO_RESTEER
            },
            last_resort: last.map_or(0, |server| server.id.id),
            persist_prefix: persistence.map_or(0, |persistence| persistence.prefix),
            persist_seconds: persistence.map_or(0, |persistence| {
                u32::try_from(persistence.timeout.as_secs()).unwrap_or(u32::MAX)
            }),
            ..Service::default()
        }
    }

    /// Among whom it chooses. Every service has a Maglev table: packets without an entry go by hash.
    pub(super) fn choice(&mut self, size: u32) -> Choice {
        let up = self
            .reals
            .iter()
            .filter(|(_, server)| server.state() == RealState::Up && !server.last_resort);
        let mut members: Vec<Member> = up
            .map(|(key, server)| Member {
                addr: key.addr,
                port: u16::from_be(key.port),
                weight: server.weight,
                id: server.id.id,
            })
            .collect();
        members.sort_unstable();
        let from = Some((members, size, self.scheduler));
        if self.chosen.from != from {
            let members = from.as_ref().map_or(&[][..], |(members, ..)| members);
            self.chosen.choice = Choice {
                table: maglev::table(members, size).into(),
                members: self.turns(members),
                seed: 0,
            };
            self.chosen.from = from;
        }
        self.chosen.choice.clone()
    }

    /// Whose turn it is, one after the other; schedulers that compare loads read each once.
    fn turns(&self, members: &[Member]) -> Arc<[u32]> {
        let ids = members.iter().map(|member| u32::from(member.id));
        if self.scheduler != Scheduler::Wrr {
            return ids.collect();
        }
        let ids: Vec<u32> = ids.collect();
        let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
        let order = wrr::order(&weights).into_iter();
        order.filter_map(|at| ids.get(at).copied()).collect()
    }
}

impl Server {
    pub(super) const fn draining(id: Id) -> Self {
        Self {
            id,
            weight: 0,
            connections_max: 0,
            source: None,
            last_resort: false,
            up: true,
            leaving: true,
            connections: 0,
            unused_since: None,
        }
    }

    pub(super) const fn leave(&mut self) {
        self.leaving = true;
        self.weight = 0;
        self.last_resort = false;
        self.up = true;
    }

    pub(super) const fn state(&self) -> RealState {
        if !self.up {
            RealState::Down
        } else if self.weight == 0 || self.leaving {
            RealState::Draining
        } else {
            RealState::Up
        }
    }

    /// Whether a scan that ended now shows that nothing needs this server any more.
    pub(super) fn forgettable(&mut self, now: Instant) -> bool {
        if !self.leaving || self.connections > 0 {
            self.unused_since = None;
            return false;
        }
        let since = *self.unused_since.get_or_insert(now);
        now.since(since) >= LINGER
    }

    pub(super) fn value(
        &self,
        key: &ServerKey,
        entry: &Entry,
        hop: Option<&Hop>,
        mtu: u16,
    ) -> Real {
        Real {
            port: key.port,
            generation: self.id.generation,
            ifindex: hop.map_or(0, |hop| hop.ifindex),
            mac: hop.map_or([0; 6], |hop| hop.mac),
            src_mac: hop.map_or([0; 6], |hop| hop.src_mac),
            state: self.state() as u8,
            hop_known: u8::from(hop.is_some()),
            service: entry.id,
            addr: wide(key.addr),
            mtu,
            forwarding: key.forwarding as u8,
            flags: match entry.on_down {
                OnDown::Keep => 0,
                OnDown::Reset => real_flags::RESET_WHEN_DOWN,
            },
            connections_max: self.connections_max,
            source: self.source.map(wide).unwrap_or_default(),
        }
    }
}
