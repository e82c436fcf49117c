//! Virtual services and real servers: what the data plane should know of them.
//!
//! [`ServiceTable`] is fed with the configuration, health, neighbours and what replication asks for;
//! it keeps the numbers that stand for services and real servers on this node and computes what the
//! maps should hold ([`plan`]). Nothing reaches the maps before [`ServiceTable::apply`].
//!
//! A real server that leaves the configuration is not cut off: it *drains*, which means no new
//! connections, until a scan of the connection table has found it unused for [`LINGER`]. The same
//! holds for a real server that only the partner knows (its configuration is a reload ahead or
//! behind): a replicated connection to it gets an entry of its own and drains too.

mod entry;
pub mod expiry;
pub mod ids;
pub mod maglev;
mod pair;
mod plan;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ha_common::conn::{Conn4, ConnKey4};
use ha_common::service::{LocalAddr, Real, RealState, ReturnPath4, Scheduler, ServiceKey4};
use ha_common::{maps, proto};

use crate::config::model;
use crate::datapath::{Datapath, DatapathError};
use crate::proto::sync::Record;
use crate::proto::time::Instant;
use entry::{Entry, Server};
use ids::{Id, Ids};
use plan::{Applied, Desired};
pub use status::{RealStatus, ServiceStatus};

/// How long a real server that has left must be seen without connections before its number is free:
/// longer than a half-open connection can take to complete.
pub const LINGER: Duration = Duration::from_mins(1);

/// A real server of a virtual service; addresses and ports in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealKey {
    /// The service.
    pub service: ServiceKey4,
    /// Real server's address.
    pub addr: u32,
    /// Real server's port.
    pub port: u16,
}

impl RealKey {
    /// A real server of a service.
    pub fn new(service: ServiceKey4, address: Ipv4Addr, port: u16) -> Self {
        Self {
            service,
            addr: net(address),
            port: port.to_be(),
        }
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
        maps::SERVICES_ENTRIES
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
    services: BTreeMap<ServiceKey4, Entry>,
    service_ids: Ids<ServiceKey4>,
    real_ids: Ids<RealKey>,
    hops: BTreeMap<u32, Hop>,
    addrs: BTreeMap<u32, LocalAddr>,
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
            service_ids: Ids::new(0, maps::SERVICES_ENTRIES as u16),
            real_ids: Ids::new(1, maps::REALS_ENTRIES as u16),
            hops: BTreeMap::new(),
            addrs: BTreeMap::new(),
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
        let applied = Applied::read(datapath)?;
        let mut keys = BTreeMap::new();
        for (key, service) in applied.services() {
            if table.service_ids.adopt(service.id, 0, Some(*key)) {
                keys.insert(service.id, *key);
                table.services.insert(*key, Entry::new(service.id));
            }
        }
        for (id, real) in applied.reals() {
            if real.hop_known == 1 {
                let hop = Hop {
                    ifindex: real.ifindex,
                    mac: real.mac,
                    src_mac: real.src_mac,
                };
                table.hops.insert(real.addr(), hop);
            }
            let used = RealState::from_u8(real.state) != RealState::Unused;
            let owner = keys
                .get(&real.service)
                .filter(|_| used)
                .map(|service| RealKey {
                    service: *service,
                    addr: real.addr(),
                    port: real.port,
                });
            if table.real_ids.adopt(id, real.generation, owner)
                && let Some(owner) = owner
            {
                let generation = real.generation;
                let server = Server::draining(Id { id, generation });
                if let Some(entry) = table.services.get_mut(&owner.service) {
                    entry.reals.insert((owner.addr, owner.port), server);
                }
            }
        }
        table.applied = applied;
        Ok(table)
    }

    /// Spreads clients by another seed from now on. Connections that exist stay where they are.
    pub fn set_hash_seed(&mut self, seed: u64) {
        self.dirty |= self.hash_seed != seed;
        self.hash_seed = seed;
    }

    /// Takes a configuration over. On an error nothing has changed.
    pub fn configure(&mut self, services: &[model::VirtualService]) -> Result<(), ServiceError> {
        let wanted: BTreeMap<ServiceKey4, &model::VirtualService> =
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
            let entry = self.services.entry(key).or_insert_with(|| Entry::new(id));
            entry.configured = true;
            entry.name.clone_from(&service.name);
            entry.resteer = service.resteer;
            entry.scheduler = match service.scheduler {
                model::Scheduler::Mh => Scheduler::Mh,
                model::Scheduler::Rr => Scheduler::Rr,
            };
            let mut gone: Vec<(u32, u16)> = entry.reals.keys().copied().collect();
            for server in &service.real_servers {
                let at = (net(server.address), server.port.to_be());
                gone.retain(|other| *other != at);
                let owner = RealKey {
                    service: key,
                    addr: at.0,
                    port: at.1,
                };
                let id = self
                    .real_ids
                    .assign(owner)
                    .ok_or(ServiceError::TooManyRealServers)?;
                let held = entry
                    .reals
                    .entry(at)
                    .or_insert_with(|| Server::draining(id));
                // A server is believed to be up until its checks say otherwise.
                held.up |= held.leaving || service.health.is_none();
                held.leaving = false;
                held.weight = server.weight;
            }
            for at in gone {
                if let Some(server) = entry.reals.get_mut(&at) {
                    server.leave();
                }
            }
        }
        self.dirty = true;
        Ok(())
    }

    /// Tells which addresses are this node's own and which are shared.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = (IpAddr, LocalAddr)>) {
        self.addrs = addresses
            .into_iter()
            .filter_map(|(address, local)| match address {
                IpAddr::V4(address) => Some((net(address), local)),
                IpAddr::V6(_) => None,
            })
            .collect();
        self.dirty = true;
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
    pub fn set_hop(&mut self, address: Ipv4Addr, hop: Option<Hop>) {
        let before = match hop {
            Some(hop) => self.hops.insert(net(address), hop),
            None => self.hops.remove(&net(address)),
        };
        self.dirty |= before != hop;
    }

    /// Addresses of all real servers, to find the way to.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let reals = self.services.values().flat_map(|entry| entry.reals.keys());
        reals.map(|(addr, _)| Ipv4Addr::from(u32::from_be(*addr)))
    }

    /// What stands for a real server.
    pub fn lookup(&self, key: &RealKey) -> Option<Target> {
        let entry = self.services.get(&key.service)?;
        let server = entry.reals.get(&(key.addr, key.port))?;
        Some(Target {
            service: entry.id,
            real: server.id,
        })
    }

    /// The entries, forward and reverse, of a replicated connection on this node; `None` if its
    /// service is not configured here or no more real servers can be numbered.
    ///
    /// If the real server was unknown, [`Self::apply`] has to follow.
    pub fn entries(
        &mut self,
        record: &Record,
        now_ns: u64,
    ) -> Option<((ConnKey4, Conn4), (ConnKey4, Conn4))> {
        let key = RealKey {
            service: ServiceKey4 {
                addr: record.key.dst,
                port: record.key.dport,
                proto: record.key.proto as u16,
            },
            addr: record.real_addr,
            port: record.real_port,
        };
        let Some(target) = self.lookup(&key).or_else(|| self.welcome(key)) else {
            self.refused += 1;
            return None;
        };
        Some(pair::entries(record, target, now_ns))
    }

    /// Replicated connections that were refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes note of a complete scan of the connection table: `connections` by real-server id.
    /// Real servers that have left and are not used any more are forgotten.
    pub fn scanned(&mut self, now: Instant, connections: &[u64]) {
        let mut unused = Vec::new();
        for (service, entry) in &mut self.services {
            for (&(addr, port), server) in &mut entry.reals {
                let found = connections.get(usize::from(server.id.id));
                server.connections = found.copied().unwrap_or_default();
                if server.forgettable(now) {
                    unused.push(RealKey {
                        service: *service,
                        addr,
                        port,
                    });
                }
            }
        }
        for key in unused {
            self.real_ids.release(&key);
            let Some(entry) = self.services.get_mut(&key.service) else {
                continue;
            };
            entry.reals.remove(&(key.addr, key.port));
            self.dirty = true;
        }
        let used: BTreeSet<u32> = self.addresses().map(net).collect();
        self.hops.retain(|addr, _| used.contains(addr));
        let done: Vec<ServiceKey4> = self
            .services
            .iter()
            .filter(|(_, entry)| !entry.configured && entry.reals.is_empty())
            .map(|(key, _)| *key)
            .collect();
        for key in done {
            self.services.remove(&key);
            self.service_ids.release(&key);
            self.dirty = true;
        }
    }

    /// Brings the maps to what they should hold. Costs nothing if nothing has changed.
    pub fn apply(&mut self, datapath: &dyn Datapath) -> Result<(), ApplyError> {
        if !self.dirty {
            return Ok(());
        }
        let desired = self.desired();
        let plan = self.applied.plan(&desired);
        for step in plan.steps {
            self.applied.perform(step, datapath)?;
        }
        if plan.no_room.is_empty() {
            self.dirty = false;
            Ok(())
        } else {
            Err(ApplyError::NoRoom {
                services: plan.no_room.len(),
            })
        }
    }

    /// Numbers a real server that only the partner knows.
    fn welcome(&mut self, key: RealKey) -> Option<Target> {
        let entry = self
            .services
            .get_mut(&key.service)
            .filter(|entry| entry.configured)?;
        let real = self.real_ids.assign(key)?;
        entry
            .reals
            .insert((key.addr, key.port), Server::draining(real));
        self.dirty = true;
        Some(Target {
            service: entry.id,
            real,
        })
    }

    fn server(&mut self, key: &RealKey) -> Option<&mut Server> {
        let entry = self.services.get_mut(&key.service)?;
        entry.reals.get_mut(&(key.addr, key.port))
    }

    fn check_room(
        &self,
        wanted: &BTreeMap<ServiceKey4, &model::VirtualService>,
    ) -> Result<(), ServiceError> {
        let new = wanted.keys().filter(|key| !self.services.contains_key(key));
        if new.count() > self.service_ids.available() {
            return Err(ServiceError::TooManyServices);
        }
        let servers = wanted.iter().flat_map(|(key, service)| {
            let servers = service.real_servers.iter();
            servers.map(|server| RealKey {
                service: *key,
                addr: net(server.address),
                port: server.port.to_be(),
            })
        });
        if servers.filter(|key| self.lookup(key).is_none()).count() > self.real_ids.available() {
            return Err(ServiceError::TooManyRealServers);
        }
        Ok(())
    }

    fn desired(&mut self) -> Desired {
        let mut desired = Desired {
            addrs: self.addrs.clone(),
            ..Desired::default()
        };
        // Numbers that are free now: whatever still names them is not to be followed.
        for (id, real) in self.applied.reals() {
            if *real != Real::default() {
                let generation = self.real_ids.generation(id);
                desired.reals.insert(
                    id,
                    Real {
                        generation,
                        ..Real::default()
                    },
                );
            }
        }
        for (key, entry) in &mut self.services {
            for (&at, server) in &entry.reals {
                let hop = self.hops.get(&at.0);
                desired
                    .reals
                    .insert(server.id.id, server.value(at, entry.id, hop));
                let from = ServiceKey4 {
                    addr: at.0,
                    port: at.1,
                    proto: key.proto,
                };
                let path = ReturnPath4 {
                    vip: key.addr,
                    vport: key.port,
                    real: server.id.id,
                    real_generation: server.id.generation,
                    service: entry.id,
                    ambiguous: 0,
                };
                let paths = desired.return_paths.entry(from);
                paths.and_modify(|path| path.ambiguous = 1).or_insert(path);
            }
            if entry.configured {
                desired.services.insert(*key, entry.wish(self.hash_seed));
            }
        }
        desired
    }
}

/// Key of a configured service.
pub fn service_key(service: &model::VirtualService) -> ServiceKey4 {
    let protocol = match service.protocol {
        model::Protocol::Tcp => proto::TCP,
        model::Protocol::Udp => proto::UDP,
    };
    ServiceKey4 {
        addr: net(service.address),
        port: service.port.to_be(),
        proto: u16::from(protocol),
    }
}

fn net(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}
