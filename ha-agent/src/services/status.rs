//! Services as people want to see them.

use std::net::Ipv4Addr;

use ha_common::proto;
use ha_common::service::{RealState, Scheduler, ServiceKey4};

use super::ServiceTable;
use super::entry::Entry;

/// A virtual service, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ServiceStatus {
    /// Name; empty if it has left the configuration and still drains.
    pub name: String,
    /// Shared address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// `mh` or `rr`.
    pub scheduler: &'static str,
    /// Its real servers.
    pub real_servers: Vec<RealStatus>,
}

/// A real server, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RealStatus {
    /// Address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Weight; 0 = draining.
    pub weight: u32,
    /// `up`, `draining` or `down`.
    pub state: &'static str,
    /// Whether it has left the configuration, or is known from the partner only.
    pub leaving: bool,
    /// Whether the data plane knows the way to it.
    pub reachable: bool,
    /// Connections found by the last scan.
    pub connections: u64,
}

impl ServiceTable {
    /// All services, as they are now.
    pub fn status(&self) -> Vec<ServiceStatus> {
        let services = self.services.iter();
        services
            .map(|(key, entry)| self.service_status(*key, entry))
            .collect()
    }

    fn service_status(&self, key: ServiceKey4, entry: &Entry) -> ServiceStatus {
        let reals = entry
            .reals
            .iter()
            .map(|(&(addr, port), server)| RealStatus {
                address: Ipv4Addr::from(u32::from_be(addr)),
                port: u16::from_be(port),
                weight: server.weight,
                state: match server.state() {
                    RealState::Up => "up",
                    RealState::Down => "down",
                    RealState::Draining | RealState::Unused => "draining",
                },
                leaving: server.leaving,
                reachable: self.hops.contains_key(&addr),
                connections: server.connections,
            });
        ServiceStatus {
            name: if entry.configured {
                entry.name.clone()
            } else {
                String::new()
            },
            address: Ipv4Addr::from(u32::from_be(key.addr)),
            port: u16::from_be(key.port),
            protocol: if key.proto == u16::from(proto::UDP) {
                "udp"
            } else {
                "tcp"
            },
            scheduler: match entry.scheduler {
                Scheduler::Mh => "mh",
                Scheduler::Rr => "rr",
            },
            real_servers: reals.collect(),
        }
    }
}
