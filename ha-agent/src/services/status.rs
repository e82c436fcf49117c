//! Services as people want to see them.

use std::net::{IpAddr, SocketAddr};

use ha_common::proto;
use ha_common::service::{RealState, Traffic};

use super::entry::{Entry, Server};
use super::{RealKey, ServerKey, ServiceTable};
use crate::config::model::{Persistence, Ports};
use crate::datapath::family::ListenKey;

/// A virtual service, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Name; empty if it has left the configuration and still drains.
    pub name: String,
    /// Shared address.
    pub address: IpAddr,
    /// Where it listens.
    pub ports: Ports,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// As in the configuration.
    pub forwarding: &'static str,
    /// As in the configuration.
    pub scheduler: &'static str,
    /// Whether clients keep their real server.
    pub persistence: Option<Persistence>,
    /// Its real servers.
    pub real_servers: Vec<RealStatus>,
}

/// A real server, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealStatus {
    /// Which one of which service.
    pub key: RealKey,
    /// Address.
    pub address: IpAddr,
    /// Port; none = the one that packets were sent to.
    pub port: Option<u16>,
    /// Weight; 0 = draining.
    pub weight: u32,
    /// Whether it takes connections.
    pub state: RealState,
    /// Whether it only takes what nobody else may take.
    pub last_resort: bool,
    /// Whether it has left the configuration, or is known from the partner only.
    pub leaving: bool,
    /// Whether the data plane knows the way to it.
    pub reachable: bool,
    /// Connections found by the last scan.
    pub connections: u64,
    /// Connections it may have; 0 = no limit.
    pub connections_max: u32,
    /// What went to and from it.
    pub traffic: Traffic,
}

impl ServiceStatus {
    /// Address and port, ports or `any`.
    pub fn listen(&self) -> String {
        match self.address {
            IpAddr::V4(address) => format!("{address}:{}", self.ports),
            IpAddr::V6(address) => format!("[{address}]:{}", self.ports),
        }
    }
}

impl RealStatus {
    /// Address, and port if it has one.
    pub fn at(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }
}

impl ServiceTable {
    /// All services as they are now, with what the data plane has counted ([`crate::datapath::Datapath::traffic`]).
    pub fn status(&self, traffic: &[Traffic]) -> Vec<ServiceStatus> {
        let services = self.services.iter();
        services
            .map(|(key, entry)| self.service_status(*key, entry, traffic))
            .collect()
    }

    fn service_status(&self, key: ListenKey, entry: &Entry, traffic: &[Traffic]) -> ServiceStatus {
        let reals = entry.reals.iter();
        ServiceStatus {
            name: if entry.configured {
                entry.name.clone()
            } else {
                String::new()
            },
            address: key.addr,
            ports: entry.ports,
            protocol: if key.proto == u16::from(proto::UDP) {
                "udp"
            } else {
                "tcp"
            },
            forwarding: entry.forwarding.as_str(),
            scheduler: entry.scheduler.as_str(),
            persistence: entry.persistence,
            real_servers: reals
                .map(|(server, held)| {
                    let key = RealKey {
                        service: key,
                        server: *server,
                    };
                    self.real_status(key, held, traffic)
                })
                .collect(),
        }
    }

    fn real_status(&self, key: RealKey, server: &Server, traffic: &[Traffic]) -> RealStatus {
        let counted = traffic.get(usize::from(server.id.id));
        let ServerKey { addr, port, .. } = key.server;
        RealStatus {
            key,
            address: addr,
            port: Some(u16::from_be(port)).filter(|port| *port != 0),
            weight: server.weight,
            state: server.state(),
            last_resort: server.last_resort,
            leaving: server.leaving,
            reachable: self.hops.contains_key(&addr),
            connections: server.connections,
            connections_max: server.connections_max,
            traffic: counted.copied().unwrap_or_default(),
        }
    }
}
