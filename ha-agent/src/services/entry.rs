//! One virtual service and its real servers.

use std::collections::BTreeMap;

use ha_common::service::{Address as _, Real, RealState, Scheduler, Service, service_flags};

use super::ids::Id;
use super::maglev::{self, Member};
use super::plan::Wish;
use super::{Hop, LINGER};
use crate::proto::time::Instant;

/// A virtual service and its real servers, by address and port in network order.
pub(super) struct Entry {
    pub(super) id: u16,
    pub(super) name: String,
    /// Whether it is in the configuration; if not it drains.
    pub(super) configured: bool,
    pub(super) scheduler: Scheduler,
    /// Whether mid-flow packets of unknown connections are forwarded by hash.
    pub(super) resteer: bool,
    pub(super) reals: BTreeMap<(u32, u16), Server>,
    slots: Slots,
}

/// A real server of one virtual service.
pub(super) struct Server {
    pub(super) id: Id,
    pub(super) weight: u32,
    /// Whether its health check says so, or it has none.
    pub(super) up: bool,
    /// Whether it has left the configuration, or only the partner knows it.
    pub(super) leaving: bool,
    /// Connections found by the last scan.
    pub(super) connections: u64,
    /// Since when scans have found no connection of a server that is leaving.
    unused_since: Option<Instant>,
}

/// The last Maglev table computed, and from what.
#[derive(Default)]
pub(super) struct Slots {
    from: (Vec<Member>, u32),
    table: Vec<u32>,
    members: Vec<u32>,
}

impl Entry {
    pub(super) const fn new(id: u16) -> Self {
        Self {
            id,
            name: String::new(),
            configured: false,
            scheduler: Scheduler::Mh,
            resteer: true,
            reals: BTreeMap::new(),
            slots: Slots {
                from: (Vec::new(), 0),
                table: Vec::new(),
                members: Vec::new(),
            },
        }
    }

    pub(super) fn leave(&mut self) {
        self.configured = false;
        for server in self.reals.values_mut() {
            server.leave();
        }
    }

    pub(super) fn wish(&mut self, hash_seed: u64) -> Wish {
        let configured = self.reals.values().filter(|server| !server.leaving).count();
        let size = maglev::size(configured);
        let up = self
            .reals
            .iter()
            .filter(|(_, server)| server.state() == RealState::Up);
        let mut members: Vec<Member> = up
            .map(|(&(addr, port), server)| Member {
                addr: u32::from_be(addr),
                port: u16::from_be(port),
                weight: server.weight,
                id: server.id.id,
            })
            .collect();
        members.sort_unstable();
        if self.slots.from != (members.clone(), size) {
            self.slots.table = maglev::table(&members, size);
            self.slots.members = members.iter().map(|member| u32::from(member.id)).collect();
            self.slots.from = (members, size);
        }
        Wish {
            value: Service {
                hash_seed,
                id: self.id,
                scheduler: self.scheduler as u8,
                flags: if self.resteer {
                    0
                } else {
                    service_flags::NO_RESTEER
                },
                ..Service::default()
            },
            table: self.slots.table.clone(),
            members: self.slots.members.clone(),
        }
    }
}

impl Server {
    pub(super) const fn draining(id: Id) -> Self {
        Self {
            id,
            weight: 0,
            up: true,
            leaving: true,
            connections: 0,
            unused_since: None,
        }
    }

    pub(super) const fn leave(&mut self) {
        self.leaving = true;
        self.weight = 0;
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

    pub(super) fn value(&self, at: (u32, u16), service: u16, hop: Option<&Hop>) -> Real {
        Real {
            addr: at.0.wide(),
            port: at.1,
            generation: self.id.generation,
            ifindex: hop.map_or(0, |hop| hop.ifindex),
            mac: hop.map_or([0; 6], |hop| hop.mac),
            src_mac: hop.map_or([0; 6], |hop| hop.src_mac),
            state: self.state() as u8,
            hop_known: u8::from(hop.is_some()),
            service,
            pad: [0; 6],
        }
    }
}
