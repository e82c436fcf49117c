//! Virtual services and their real servers, as `ha-agent services` shows them.

use ha_common::service::{RealState, Traffic};
use serde::{Deserialize, Serialize};

use crate::health::verdicts::Judged;
use crate::services;

/// Virtual services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// [`super::model::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// In the order of the file.
    pub services: Vec<ServiceStatus>,
}

/// One virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// Shared address and port, several ports (`10.0.0.100:8000-8100`) or `any`.
    pub listen: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// How packets reach the real servers.
    #[serde(default)]
    pub forwarding: String,
    /// How a real server is chosen.
    pub scheduler: String,
    /// Whether clients keep their real server; null if not.
    #[serde(default)]
    pub persistence: Option<PersistenceStatus>,
    /// Connections of all real servers in the table.
    #[serde(default)]
    pub connections: u64,
    /// What went to and from all real servers.
    #[serde(default)]
    pub traffic: TrafficStatus,
    /// Real servers in the order of the file, then those that are only draining.
    pub real_servers: Vec<RealServerStatus>,
}

/// How long clients keep their real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistenceStatus {
    /// After their last new connection.
    pub timeout_seconds: u64,
    /// Leading bits of the address that make one client.
    pub prefix: u8,
}

/// What went to and from a real server since it was configured, or the machine started. A connection that
/// is forwarded by hash, without an entry, counts with its packets only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Connections that entered the table.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Their bytes, from the IP header on.
    pub bytes_in: u64,
    /// Packets to clients; 0 where answers do not come back this way.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets that were not sent on.
    pub dropped: u64,
}

/// One real server of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerStatus {
    /// Address and port; the address alone if the port is the one that a packet was sent to.
    pub address: String,
    /// Configured weight.
    pub weight: u32,
    /// Whether it only takes what no other may take.
    #[serde(default)]
    pub last_resort: bool,
    /// Whether it takes connections.
    pub state: RealServerState,
    /// Why it is down; null otherwise.
    pub reason: Option<String>,
    /// What this node's own checks say, on a standby that finds something else than the active node,
    /// whose word counts: `up`, or `down: ` and why; null otherwise.
    #[serde(default)]
    pub own_check: Option<String>,
    /// Its connections in the table.
    #[serde(default)]
    pub connections: u64,
    /// Connections it may have; null = no limit.
    #[serde(default)]
    pub connections_max: Option<u32>,
    /// What went to and from it.
    #[serde(default)]
    pub traffic: TrafficStatus,
}

/// State of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RealServerState {
    /// Takes new connections.
    Up,
    /// Keeps its connections, gets no new ones.
    Draining,
    /// Failed its health check.
    Down,
}

impl RealServerState {
    /// As in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

impl TrafficStatus {
    /// Both together.
    fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections.saturating_add(other.connections),
            packets_in: self.packets_in.saturating_add(other.packets_in),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            packets_out: self.packets_out.saturating_add(other.packets_out),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
            dropped: self.dropped.saturating_add(other.dropped),
        }
    }
}

impl From<Traffic> for TrafficStatus {
    fn from(traffic: Traffic) -> Self {
        let Traffic {
            connections,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            dropped,
        } = traffic;
        Self {
            connections,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            dropped,
        }
    }
}

impl ServiceStatus {
    /// A service as it stands; `judge` tells what holds of a real server.
    pub fn new(
        service: services::ServiceStatus,
        judge: impl Fn(&services::RealKey) -> Judged,
    ) -> Self {
        let reals = service.real_servers.iter();
        let reals: Vec<RealServerStatus> = reals
            .map(|real| RealServerStatus::new(real, judge(&real.key)))
            .collect();
        let traffic = reals.iter().map(|real| real.traffic);
        Self {
            listen: service.listen(),
            protocol: service.protocol.to_owned(),
            forwarding: service.forwarding.to_owned(),
            scheduler: service.scheduler.to_owned(),
            persistence: service.persistence.map(|persistence| PersistenceStatus {
                timeout_seconds: persistence.timeout.as_secs(),
                prefix: persistence.prefix,
            }),
            connections: reals.iter().map(|real| real.connections).sum(),
            traffic: traffic.fold(TrafficStatus::default(), TrafficStatus::plus),
            real_servers: reals,
            name: service.name,
        }
    }
}

impl RealServerStatus {
    fn new(real: &services::RealStatus, judged: Judged) -> Self {
        let state = match real.state {
            RealState::Up => RealServerState::Up,
            RealState::Down => RealServerState::Down,
            RealState::Draining | RealState::Unused => RealServerState::Draining,
        };
        Self {
            address: real.at(),
            weight: real.weight,
            last_resort: real.last_resort,
            state,
            reason: (judged.counts.failure).filter(|_| state == RealServerState::Down),
            own_check: judged.own.map(|own| own.to_string()),
            connections: real.connections,
            connections_max: Some(real.connections_max).filter(|max| *max != 0),
            traffic: real.traffic.into(),
        }
    }
}
