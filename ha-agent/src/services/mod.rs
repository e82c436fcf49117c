//! Virtual services and real servers: what the data plane should know of them.
//!
//! [`ServiceTable`] is fed with the configuration, health, neighbours and what replication asks for;
//! it keeps the numbers that stand for services and real servers on this node and computes what the
//! maps should hold ([`plan`]). Nothing reaches the maps before [`ServiceTable::apply`].
//!
//! A service is known by the address, protocol and first port it listens on, a real server by its service,
//! address, port and the way packets reach it: entries of the connection table are made for one way and
//! cannot go another. What else the configuration says of them may change under connections.
//!
//! A real server that leaves the configuration is not cut off: it *drains*, which means no new
//! connections, until a scan of the connection table has found it unused for [`LINGER`]. The same
//! holds for a real server that only the partner knows (its configuration is a reload ahead or
//! behind): a replicated connection to it gets an entry of its own and drains too.
//!
//! A service's Maglev table stays beside the one that replaces it for [`LINGER`]: a connection that is not in
//! the table of connections goes to the real server that it had, if that still serves it.

mod clients;
mod desired;
mod entry;
pub mod expiry;
pub mod ids;
pub mod maglev;
mod pair;
mod plan;
mod replicated;
mod status;
#[cfg(test)]
pub(crate) mod tests;
pub mod wrr;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ha_common::service::{Forwarding, LocalAddr, RealState};
use ha_common::{maps, proto};

use crate::config::model::{self, Ports};
use crate::datapath::family::{ListenKey, narrow};
use crate::datapath::{Datapath, DatapathError};
use crate::proto::time::Instant;
pub use clients::{ClientInWords, ClientWords};
use entry::{Entry, Server};
use ids::{Id, Ids};
pub use pair::{Halves, entries as halves, reverse_key};
use plan::Applied;
pub use status::{RealStatus, ServiceStatus};

/// How long a real server that has left must be seen without connections before its number is free, and
/// how long the Maglev table before a change counts: longer than a half-open connection can take to complete.
pub const LINGER: Duration = Duration::from_mins(1);

/// A real server within its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey {
    /// Its address.
    pub addr: IpAddr,
    /// Its port, network order; 0 = the one that a packet was sent to.
    pub port: u16,
    /// How packets reach it.
    pub forwarding: Forwarding,
}

/// A real server of a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealKey {
    /// The service, by its first port.
    pub service: ListenKey,
    /// The real server.
    pub server: ServerKey,
}

impl RealKey {
    /// A configured real server.
    pub fn new(service: &model::VirtualService, server: &model::RealServer) -> Self {
        Self {
            service: service_key(service),
            server: ServerKey {
                addr: server.address,
                port: service.port_of(server).unwrap_or(0).to_be(),
                forwarding: service.forwarding,
            },
        }
    }
}

impl RealKey {
    /// The real server by addresses and ports, as both nodes know it: `tcp 10.0.0.100:80 10.1.0.21:8080`.
    pub fn words(&self) -> String {
        let at = SocketAddr::new(self.server.addr, u16::from_be(self.server.port));
        format!("{} {at}", clients::listen(&self.service))
    }
}

/// The way to a real server, as the kernel's neighbour table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub ifindex: u32,
    /// Next hop's MAC.
    pub mac: [u8; 6],
    /// This node's MAC on the interface.
    pub src_mac: [u8; 6],
}

/// What stands for a real server on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Service id.
    pub service: u16,
    /// Real-server id.
    pub real: Id,
}

/// A configuration that the tables cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Too many services, those that still drain included.
    #[error(
        "more than {} virtual services (those still draining included)",
        maps::SERVICES_MAX
    )]
    TooManyServices,
    /// Too many real servers, those that still drain included.
    #[error("more than {} real servers (those still draining included)", maps::REALS_ENTRIES - 1)]
    TooManyRealServers,
}

/// Changes that did not all reach the maps. What is missing is tried again by the next
/// [`ServiceTable::apply`].
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The data plane failed.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// There is no room for the tables of some services, which keep their old ones.
    #[error(
        "no room in {} for the tables of {services} virtual services",
        maps::SLOTS
    )]
    NoRoom {
        /// How many.
        services: usize,
    },
}

/// All virtual services of this node.
pub struct ServiceTable {
    hash_seed: u64,
    services: BTreeMap<ListenKey, Entry>,
    /// To which service each port belongs; those that drain have what no other has.
    listeners: BTreeMap<ListenKey, ListenKey>,
    service_ids: Ids<ListenKey>,
    real_ids: Ids<RealKey>,
    hops: BTreeMap<IpAddr, Hop>,
    addrs: BTreeMap<IpAddr, LocalAddr>,
    mtu: u16,
    applied: Applied,
    dirty: bool,
    refused: u64,
}

impl ServiceTable {
    /// An empty table. `hash_seed` is equal on both nodes.
    pub fn new(hash_seed: u64) -> Self {
        Self {
            hash_seed,
            services: BTreeMap::new(),
            listeners: BTreeMap::new(),
            service_ids: Ids::new(0, maps::SERVICES_MAX as u16),
            real_ids: Ids::new(1, maps::REALS_ENTRIES as u16),
            hops: BTreeMap::new(),
            addrs: BTreeMap::new(),
            mtu: 0,
            applied: Applied::default(),
            dirty: true,
            refused: 0,
        }
    }

    /// A table that goes on with what a previous agent left in the maps, so that its connections keep
    /// their real servers. Everything found drains until it is configured; next hops stay as they were
    /// until the kernel is asked.
    pub fn adopt(hash_seed: u64, datapath: &dyn Datapath) -> Result<Self, DatapathError> {
        let mut table = Self::new(hash_seed);
        table.applied = Applied::read(datapath)?;
        table.adopt_services();
        table.adopt_reals();
        table.index();
        Ok(table)
    }

    fn adopt_services(&mut self) {
        let mut found: BTreeMap<u16, (ListenKey, u16, u16)> = BTreeMap::new();
        for (key, service) in self.applied.services() {
            let port = u16::from_be(key.port);
            let (first, low, high) = found.entry(service.id).or_insert((*key, port, port));
            if port < *low {
                *first = *key;
            }
            (*low, *high) = (port.min(*low), port.max(*high));
        }
        let timeouts: BTreeMap<u16, _> = self.applied.timeouts().collect();
        for (id, (key, first, last)) in found {
            let ports = match (first, last) {
                (0, _) => Ports::Any,
                _ if first == last => Ports::One(first),
                _ => Ports::Range { first, last },
            };
            if self.service_ids.adopt(id, 0, Some(key)) {
                let mut entry = Entry::new(id, ports);
                if let Some(timeouts) = timeouts.get(&id) {
                    entry.timeouts = **timeouts;
                }
                self.services.insert(key, entry);
            }
        }
    }

    fn adopt_reals(&mut self) {
        let keys: BTreeMap<u16, ListenKey> = self
            .services
            .iter()
            .map(|(key, entry)| (entry.id, *key))
            .collect();
        for (id, real) in self.applied.reals() {
            let used = RealState::from_u8(real.state) != RealState::Unused;
            let service = keys.get(&real.service).filter(|_| used);
            let owner = service.map(|service| RealKey {
                service: *service,
                server: ServerKey {
                    addr: narrow(real.addr, service.addr),
                    port: real.port,
                    forwarding: Forwarding::from_u8(real.forwarding),
                },
            });
            let adopted = self.real_ids.adopt(id, real.generation, owner);
            let Some(owner) = owner.filter(|_| adopted) else {
                continue;
            };
            if real.hop_known == 1 {
                let hop = Hop {
                    ifindex: real.ifindex,
                    mac: real.mac,
                    src_mac: real.src_mac,
                };
                self.hops.insert(owner.server.addr, hop);
            }
            let mut server = Server::draining(Id {
                id,
                generation: real.generation,
            });
            let source = narrow(real.source, owner.service.addr);
            server.source = (!source.is_unspecified()).then_some(source);
            if let Some(entry) = self.services.get_mut(&owner.service) {
                entry.reals.insert(owner.server, server);
            }
        }
    }

    /// Spreads clients by another seed from now on. Connections that exist stay where they are.
    pub fn set_hash_seed(&mut self, seed: u64) {
        self.dirty |= self.hash_seed != seed;
        self.hash_seed = seed;
    }

    /// Takes a configuration over. On an error nothing has changed.
    pub fn configure(&mut self, services: &[model::VirtualService]) -> Result<(), ServiceError> {
        let wanted: BTreeMap<ListenKey, &model::VirtualService> =
            services.iter().map(|s| (service_key(s), s)).collect();
        self.check_room(&wanted)?;
        for (key, entry) in &mut self.services {
            if !wanted.contains_key(key) {
                entry.leave();
            }
        }
        for (key, service) in wanted {
            let id = self
                .service_ids
                .assign(key)
                .ok_or(ServiceError::TooManyServices)?
                .id;
            let entry = self
                .services
                .entry(key)
                .or_insert_with(|| Entry::new(id, service.ports));
            entry.configure(service);
            let mut gone: BTreeSet<ServerKey> = entry.reals.keys().copied().collect();
            for server in service.all_servers() {
                let owner = RealKey::new(service, server);
                gone.remove(&owner.server);
                let id = self
                    .real_ids
                    .assign(owner)
                    .ok_or(ServiceError::TooManyRealServers)?;
                let held = entry
                    .reals
                    .entry(owner.server)
                    .or_insert_with(|| Server::draining(id));
                // A server is believed to be up until its checks say otherwise.
                held.up |= held.leaving || service.health.is_none();
                held.leaving = false;
                held.weight = server.weight;
                held.connections_max = server.connections_max;
                held.source = server.source;
                held.last_resort = false;
            }
            if let Some(last) = &service.last_resort
                && let Some(held) = entry.reals.get_mut(&RealKey::new(service, last).server)
            {
                held.last_resort = true;
            }
            for key in gone {
                if let Some(server) = entry.reals.get_mut(&key) {
                    server.leave();
                }
            }
        }
        self.index();
        self.dirty = true;
        Ok(())
    }

    /// Tells which addresses are this node's own and which are shared.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = (IpAddr, LocalAddr)>) {
        self.addrs = addresses.into_iter().collect();
        self.dirty = true;
    }

    /// Tells the length of the longest IP packet that fits through every interface of the pair. Until it
    /// is told nothing is known to fit.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.dirty |= self.mtu != mtu;
        self.mtu = mtu;
    }

    /// Tells whether a real server answers its health check, and returns whether that is news.
    pub fn set_health(&mut self, key: &RealKey, up: bool) -> bool {
        let server = self.server(key).filter(|server| !server.leaving);
        let Some(server) = server.filter(|server| server.up != up) else {
            return false;
        };
        server.up = up;
        self.dirty = true;
        true
    }

    /// Tells the way to an address, `None` if it is not known (any more).
    pub fn set_hop(&mut self, address: IpAddr, hop: Option<Hop>) {
        let before = match hop {
            Some(hop) => self.hops.insert(address, hop),
            None => self.hops.remove(&address),
        };
        self.dirty |= before != hop;
    }

    /// Addresses of all real servers, to find the way to.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let reals = self.services.values().flat_map(|entry| entry.reals.keys());
        reals.map(|server| server.addr)
    }

    /// What stands for a real server.
    pub fn lookup(&self, key: &RealKey) -> Option<Target> {
        let entry = self.services.get(&key.service)?;
        let server = entry.reals.get(&key.server)?;
        Some(Target {
            service: entry.id,
            real: server.id,
        })
    }

    /// Replicated connections that were refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes note of a complete scan of the connection table: `connections` by real-server id.
    /// Real servers that have left and are not used any more are forgotten, unless the maps are behind and
    /// may still refer to them.
    pub fn scanned(&mut self, now: Instant, connections: &[u64]) {
        let mut unused = Vec::new();
        for (service, entry) in &mut self.services {
            for (key, server) in &mut entry.reals {
                let found = connections.get(usize::from(server.id.id));
                server.connections = found.copied().unwrap_or_default();
                if server.forgettable(now) && !self.dirty {
                    unused.push(RealKey {
                        service: *service,
                        server: *key,
                    });
                }
            }
        }
        for key in unused {
            self.real_ids.release(&key);
            let Some(entry) = self.services.get_mut(&key.service) else {
                continue;
            };
            entry.reals.remove(&key.server);
            self.dirty = true;
        }
        self.dirty |= self.applied.age(now);
        let used: BTreeSet<IpAddr> = self.addresses().collect();
        self.hops.retain(|addr, _| used.contains(addr));
        let done: Vec<ListenKey> = self
            .services
            .iter()
            .filter(|(_, entry)| !entry.configured && entry.reals.is_empty())
            .map(|(key, _)| *key)
            .collect();
        for key in &done {
            self.services.remove(key);
            self.service_ids.release(key);
            self.dirty = true;
        }
        if !done.is_empty() {
            self.index();
        }
    }

    /// Brings the maps to what they should hold. Costs nothing if nothing has changed.
    pub fn apply(&mut self, datapath: &dyn Datapath) -> Result<(), ApplyError> {
        if !self.dirty {
            return Ok(());
        }
        let desired = self.desired();
        loop {
            let plan = self.applied.plan(&desired);
            let done = plan.steps.is_empty();
            for step in plan.steps {
                self.applied.perform(step, datapath)?;
            }
            if plan.no_room.is_empty() {
                self.dirty = false;
                return Ok(());
            }
            // What was replaced has made room, perhaps, or will if it is not kept.
            if done && !self.applied.end_formers() {
                return Err(ApplyError::NoRoom {
                    services: plan.no_room.len(),
                });
            }
        }
    }

    fn server(&mut self, key: &RealKey) -> Option<&mut Server> {
        let entry = self.services.get_mut(&key.service)?;
        entry.reals.get_mut(&key.server)
    }

    fn check_room(
        &self,
        wanted: &BTreeMap<ListenKey, &model::VirtualService>,
    ) -> Result<(), ServiceError> {
        let new = wanted.keys().filter(|key| !self.services.contains_key(key));
        if new.count() > self.service_ids.available() {
            return Err(ServiceError::TooManyServices);
        }
        let servers = wanted.values().flat_map(|service| {
            let servers = service.all_servers();
            servers.map(|server| RealKey::new(service, server))
        });
        if servers.filter(|key| self.lookup(key).is_none()).count() > self.real_ids.available() {
            return Err(ServiceError::TooManyRealServers);
        }
        Ok(())
    }
}

/// Key of a configured service: that of its first port.
pub fn service_key(service: &model::VirtualService) -> ListenKey {
    let protocol = match service.protocol {
        model::Protocol::Tcp => proto::TCP,
        model::Protocol::Udp => proto::UDP,
    };
    ListenKey {
        addr: service.address,
        port: service.ports.numbers().start().to_be(),
        proto: u16::from(protocol),
    }
}
