//! Snapshots of the agent's state. They are what `--json` prints, so field names are stable:
//! additions are fine, removals and other meanings need a new `schema_version`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ha_common::conn::{ConnState, flags};
use ha_common::reason::{REASONS, Reason, Tally, Verdict};
use serde::{Deserialize, Serialize};

pub use super::configuration::Configuration;
pub use super::replication::{Progress, Replication, ReplicationClass};
pub use super::services::{
    PersistenceStatus, RealServerState, RealServerStatus, ServiceStatus, Services, TrafficStatus,
};

use crate::datapath::family::{FlowEntry, FlowKey};
use crate::proto::records;
use crate::shell::records::DeskSnapshot;

/// Version of all snapshots here.
pub const SCHEMA_VERSION: u32 = 1;
/// Most connections in one page.
pub const PAGE_MAX: usize = 65_536;

/// State of a node and, as far as it knows, of its pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who this is.
    pub node: NodeIdentity,
    /// What this node does.
    pub role: Role,
    /// Time since the role last changed.
    pub since_seconds: f64,
    /// This node's square.
    pub square: Square,
    /// Term of the last takeover known.
    pub term: u64,
    /// Generation of the configuration.
    pub config_generation: u64,
    /// Its version, and how it is replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// Version of the agent.
    pub version: String,
    /// Its process id.
    pub process: u32,
    /// The agent that this one continues; null after an ordinary start.
    pub replaced: Option<Replaced>,
    /// The other node; null if high availability is off.
    pub partner: Option<Partner>,
    /// This node's interfaces, in the order of the file.
    pub interfaces: Vec<InterfaceStatus>,
    /// Replication of connections.
    pub replication: Replication,
    /// Records that are no connections; absent if nothing is replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Records>,
    /// Size of the connection table.
    pub connections: TableSize,
    /// What is wrong now.
    pub alarms: Vec<Alarm>,
}

/// `replaced` of [`Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replaced {
    /// Its version.
    pub version: String,
    /// How long the election was at rest between the two, in milliseconds.
    pub pause_ms: f64,
}

/// `node` of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Its name.
    pub name: String,
    /// Its place in the pair: `off`, `first` or `second`.
    pub mode: Mode,
}

/// Place of a node in its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// High availability is off.
    Off,
    /// First node.
    First,
    /// Second node.
    Second,
}

impl From<crate::config::model::Mode> for Mode {
    fn from(mode: crate::config::model::Mode) -> Self {
        match mode {
            crate::config::model::Mode::Off => Self::Off,
            crate::config::model::Mode::First => Self::First,
            crate::config::model::Mode::Second => Self::Second,
        }
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// High availability is off; the node acts alone.
    Off,
    /// Starting.
    Init,
    /// Ready to take over.
    Standby,
    /// Holds the shared addresses.
    Active,
    /// Restarted too often; waits for a person.
    Pacified,
    /// Put aside by a person.
    Maintenance,
}

impl Role {
    /// As in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Init => "init",
            Self::Standby => "standby",
            Self::Active => "active",
            Self::Pacified => "pacified",
            Self::Maintenance => "maintenance",
        }
    }
}

/// A node at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Square {
    /// Does its part.
    Green,
    /// Not heard, or the two are not a pair.
    Red,
    /// Heard, but not able to take over.
    Yellow,
    /// Pacified, or put aside.
    Blue,
    /// Cannot be told, for instance both active.
    Grey,
    /// High availability is off.
    None,
}

impl Square {
    /// As in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Red => "red",
            Self::Yellow => "yellow",
            Self::Blue => "blue",
            Self::Grey => "grey",
            Self::None => "none",
        }
    }
}

/// `partner` of [`Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partner {
    /// Its name; null until it told it.
    pub name: Option<String>,
    /// What it last said it does; null if it was never heard.
    pub role: Option<Role>,
    /// Its square.
    pub square: Square,
    /// Whether it is heard now, by logical interface.
    pub heard: BTreeMap<String, bool>,
    /// Whether its configuration is this node's.
    pub config_in_sync: bool,
}

/// `interfaces[]` of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Logical name.
    pub name: String,
    /// Kernel interface.
    pub device: String,
    /// Whether it has a link.
    pub carrier: bool,
    /// How the data plane is attached.
    pub xdp_mode: XdpMode,
    /// Shared addresses configured on it.
    pub shared: Vec<String>,
    /// The MAC they have, whoever is active; null if each node uses its own.
    #[serde(default)]
    pub virtual_mac: Option<String>,
    /// Whether its gateway answers; null if none is configured or nothing is known yet.
    #[serde(default)]
    pub gateway_reachable: Option<bool>,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's generic path: slower.
    Generic,
    /// Not attached.
    None,
}

impl XdpMode {
    /// As in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::None => "none",
        }
    }
}

/// `records` of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// The table.
    #[serde(flatten)]
    pub table: records::Snapshot,
    /// What became of the partner's word about persistent clients.
    #[serde(flatten)]
    pub clients: DeskSnapshot,
}

/// `connections` of [`Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    /// Established connections.
    pub established: u64,
    /// Half-open ones.
    pub embryonic: u64,
    /// Established connections the table can hold.
    pub max: u64,
}

/// `alarms[]` of [`Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Stable name, for scripts; `docs/alarms.md` says what it means.
    pub name: String,
    /// How long it has stood.
    pub since_seconds: f64,
    /// What was seen: source, MAC, interface, values.
    pub evidence: String,
    /// What to do about it.
    pub remedy: String,
}

/// Which connections to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionQuery {
    /// Of this virtual service.
    pub service: Option<String>,
    /// Of this client address.
    pub client: Option<IpAddr>,
    /// In this state.
    pub state: Option<String>,
    /// On this real-server address.
    pub real: Option<IpAddr>,
    /// Most to show; at most [`PAGE_MAX`].
    pub limit: usize,
    /// Matching ones to skip.
    pub offset: usize,
    /// For who wants the whole table, page after page: where this page begins, 0 and then the `next`
    /// of the page before. Each page is then read from there only; it ends a little beyond `limit`,
    /// and `total` and `matching` are those of the part of the table it covers.
    pub from: Option<u64>,
    /// With `from`: about as many entries of the table are looked at, at most. A page may then be empty and not
    /// the last.
    pub look: Option<u64>,
}

/// A page of the connection table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionPage {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Established connections in the table.
    pub total: u64,
    /// Those that match the query.
    pub matching: u64,
    /// Matching ones before this page.
    pub offset: usize,
    /// Where the next page begins, if pages were asked for by `from`; null at the table's end.
    pub next: Option<u64>,
    /// The page.
    pub connections: Vec<Connection>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Virtual service; null if the table names none that exists.
    pub service: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Client.
    pub client: SocketAddr,
    /// Shared address and port.
    pub shared: SocketAddr,
    /// Real server.
    pub real: SocketAddr,
    /// As whom the real server sees the client; null unless that is another address and port (full NAT).
    #[serde(default)]
    pub seen_as: Option<SocketAddr>,
    /// State, as far as seen here.
    pub state: String,
    /// Time since the entry was made.
    pub age_seconds: f64,
    /// Time since the client's last packet, to about a second.
    pub idle_seconds: f64,
    /// Received from the partner.
    pub replicated: bool,
    /// Rebuilt from a packet in mid-flow.
    pub reconstructed: bool,
}

impl Connection {
    /// From a forward entry of the table; `None` for a reverse entry.
    pub fn from_entry(
        key: &FlowKey,
        entry: &FlowEntry,
        service: Option<String>,
        now_ns: u64,
    ) -> Option<Self> {
        if entry.flags & flags::REVERSE != 0 {
            return None;
        }
        let seconds = |since: u64| now_ns.saturating_sub(since) as f64 / 1e9;
        let socket = |address, port| SocketAddr::new(address, u16::from_be(port));
        Some(Self {
            service,
            protocol: match i32::try_from(key.proto) {
                Ok(libc::IPPROTO_TCP) => "tcp".to_owned(),
                Ok(libc::IPPROTO_UDP) => "udp".to_owned(),
                _ => key.proto.to_string(),
            },
            client: socket(key.src, key.sport),
            shared: socket(key.dst, key.dport),
            real: socket(entry.to_addr, entry.to_port),
            seen_as: (entry.flags & flags::BOTH_ENDS != 0)
                .then(|| socket(entry.from_addr, entry.from_port)),
            state: ConnState::from_u8(entry.state)
                .map_or("unknown", ConnState::as_str)
                .to_owned(),
            age_seconds: seconds(entry.created_ns),
            idle_seconds: seconds(entry.last_seen_ns),
            replicated: entry.flags & flags::REPLICATED != 0,
            reconstructed: entry.flags & flags::RECONSTRUCTED != 0,
        })
    }
}

impl ConnectionQuery {
    /// Whether a connection is asked for.
    pub fn matches(&self, connection: &Connection) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(&self.service, connection.service.as_deref().unwrap_or(""))
            && is(&self.state, &connection.state)
            && self.client.is_none_or(|ip| ip == connection.client.ip())
            && self.real.is_none_or(|ip| ip == connection.real.ip())
    }

    /// A page with nothing on it yet.
    pub const fn page(&self) -> ConnectionPage {
        ConnectionPage {
            schema_version: SCHEMA_VERSION,
            total: 0,
            matching: 0,
            offset: self.offset,
            next: None,
            connections: Vec::new(),
        }
    }

    /// Puts these connections on the page if they are asked for. Only the page is kept in memory.
    pub fn add(&self, page: &mut ConnectionPage, some: impl Iterator<Item = Connection>) {
        let limit = if self.from.is_some() {
            usize::MAX
        } else {
            self.limit.min(PAGE_MAX)
        };
        for connection in some {
            page.total += 1;
            if !self.matches(&connection) {
                continue;
            }
            page.matching += 1;
            if page.matching > self.offset as u64 && page.connections.len() < limit {
                page.connections.push(connection);
            }
        }
    }

    /// Whether the page ends here, between two pieces of the table, after so many entries.
    pub fn is_full(&self, page: &ConnectionPage, looked_at: usize) -> bool {
        let tired = self.look.is_some_and(|look| looked_at as u64 >= look);
        self.from.is_some() && (tired || page.connections.len() >= self.limit.clamp(1, PAGE_MAX))
    }
}

/// Counters of the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// All of them, zeros included.
    pub counters: Vec<Counter>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Stable name.
    pub name: String,
    /// Since the maps were made.
    pub value: u64,
    /// What becomes of such packets: `pass`, `drop`, `transmit`, `redirect`; null if it does not
    /// count packets by their outcome.
    pub verdict: Option<String>,
    /// What is counted.
    pub meaning: String,
}

impl Counters {
    /// From values in the order of `ha_reasons`, summed over CPUs; missing ones are zero.
    pub fn from_values(values: &[u64]) -> Self {
        let value = |index: usize| values.get(index).copied().unwrap_or(0);
        let clean = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let reasons = Reason::ALL
            .iter()
            .enumerate()
            .map(|(index, reason)| Counter {
                name: reason.as_str().to_owned(),
                value: value(index),
                verdict: Some(verdict(reason.verdict()).to_owned()),
                meaning: clean(reason.meaning()),
            });
        let tallies = Tally::ALL.iter().enumerate().map(|(index, tally)| Counter {
            name: tally.as_str().to_owned(),
            value: value(REASONS + index),
            verdict: None,
            meaning: clean(tally.meaning()),
        });
        Self {
            schema_version: SCHEMA_VERSION,
            counters: reasons.chain(tallies).collect(),
        }
    }
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Drop => "drop",
        Verdict::Transmit => "transmit",
        Verdict::Redirect => "redirect",
    }
}
