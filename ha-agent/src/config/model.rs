//! The configuration, after parsing and validation. Field by field the file documented in
//! `docs/configuration.md`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ha_common::service::{Forwarding, Scheduler};
use serde::{Deserialize, Serialize};

use crate::proto::records::Quota;

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node; never replicated.
    pub node: Node,
    /// The pair.
    pub ha: Ha,
    /// Addresses that move with the active role.
    pub shared_addresses: Vec<SharedAddress>,
    /// What is balanced.
    pub virtual_services: Vec<VirtualService>,
    /// What would be, were it enabled: checked like the others, and otherwise as if it were not there.
    pub disabled_services: Vec<VirtualService>,
    /// Table sizes.
    pub limits: Limits,
    /// What an application-level proxy may keep in the pair.
    pub records: Records,
}

/// `records`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Where HTTP is spoken; none = nowhere.
    pub listen: Option<RecordsListen>,
    /// What may be written.
    pub namespaces: Vec<RecordsNamespace>,
}

/// `records.listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordsListen {
    /// A loopback address.
    Address(SocketAddr),
    /// A UNIX socket; a path that is not absolute is one in `node.run_dir`.
    Path(PathBuf),
}

/// `records.namespaces[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordsNamespace {
    /// Its name.
    pub name: String,
    /// How much it may hold.
    pub quota: Quota,
}

/// `node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Shown to people and to the partner.
    pub name: String,
    /// Fixed place in the pair.
    pub mode: Mode,
    /// The pair's key.
    pub key_file: PathBuf,
    /// Passphrase shared with foreign CARP peers; absent = derived from the pair key.
    pub carp_passphrase_file: Option<PathBuf>,
    /// Public keys of those who may log in as operators; absent = nobody.
    pub operators_file: Option<PathBuf>,
    /// Terms and other state that survives a restart.
    pub state_dir: PathBuf,
    /// Where `ctl.sock` is.
    pub run_dir: PathBuf,
    /// Where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Where metrics and health are served over plain HTTP; none = nowhere.
    pub metrics: Vec<SocketAddr>,
    /// What is run when the role changes.
    pub notify: Option<Notify>,
    /// The web page.
    pub web: Option<Web>,
}

/// `node.web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Certificate and key; none = made by the agent.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Logical interfaces at whose addresses it may be used; none = at all of them.
    pub interfaces: Option<Vec<String>>,
}

/// `node.notify`: a command that is told of changes of the role, with the arguments of keepalived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// The program.
    pub command: PathBuf,
    /// The user it runs as.
    pub user: String,
    /// How long it may take.
    pub timeout: Duration,
    /// The pair's name in its arguments.
    pub instance: String,
}

/// Place of a node in its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// High availability off: this node alone, gate always open.
    Off,
    /// First node.
    First,
    /// Second node.
    Second,
}

/// `node.interfaces[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Logical name, the same on both nodes.
    pub name: String,
    /// Kernel interface.
    pub device: String,
    /// Own addresses, at most one of them IPv4; none = heartbeat link.
    pub addresses: Vec<Cidr>,
    /// Partner's addresses on the same subnets.
    pub partners: Vec<IpAddr>,
    /// Whether advertisements and HELLOs run over it.
    pub ha_checks: bool,
    /// Routers whose reachability tells whether this link works: it does if one of them answers.
    pub gateways: Vec<IpAddr>,
}

impl Interface {
    /// Whether it has no address of its own: a heartbeat link.
    pub fn is_unnumbered(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The first own address of a family: the source of what the agent sends there.
    pub fn own(&self, v6: bool) -> Option<Cidr> {
        let mut own = self.addresses.iter().copied();
        own.find(|cidr| cidr.address.is_ipv6() == v6)
    }

    /// The partner's first address of a family.
    pub fn partner(&self, v6: bool) -> Option<IpAddr> {
        let mut partners = self.partners.iter().copied();
        partners.find(|partner| partner.is_ipv6() == v6)
    }
}

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// Address.
    pub address: IpAddr,
    /// Prefix length, up to 32 or 128.
    pub prefix: u8,
}

impl Cidr {
    /// Whether `other` lies in the same subnet.
    pub fn contains(&self, other: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differs = u32::from(own) ^ u32::from(other);
                differs.leading_zeros() >= prefix
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differs = u128::from(own) ^ u128::from(other);
                differs.leading_zeros() >= prefix
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// `ha`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ha {
    /// vhid, 1 to 255; 0 only if high availability is off and nothing gives one.
    pub virtual_id: u8,
    /// Time between advertisements.
    pub advertisement_interval: Duration,
    /// How long the partner must be silent.
    pub timeout: Duration,
    /// Wait after start before this node may become active unheard.
    pub initial_wait: Duration,
    /// How long what failed must have worked again before it counts.
    pub hold_down: Duration,
    /// Which node should be active when both can.
    pub preferred: Preferred,
    /// Whether the shared addresses have one MAC, whoever is active.
    pub virtual_mac: bool,
    /// What is demanded of advertisements.
    pub carp_auth: CarpAuth,
    /// How advertisements and HELLOs travel.
    pub transport: Transport,
    /// Logical name of the interface that replication uses; empty if there is none to use.
    pub multicast_interface: String,
    /// Replication's group.
    pub multicast_group: IpAddr,
    /// Replication's UDP port.
    pub multicast_port: u16,
    /// Logical name of the interface over which the configuration is replicated; empty if there is none.
    pub update_interface: String,
    /// Its TCP port.
    pub update_port: u16,
    /// Whether connections are replicated; never if high availability is off.
    pub l4_connection_updates: bool,
    /// Whether the standby is told where persistent clients go; never without connections.
    pub persistence_updates: bool,
    /// When a node that keeps crashing is put aside.
    pub pacify: Pacify,
}

/// `ha.pacify`: how many unclean starts are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacify {
    /// More than this; 0 = never too many.
    pub restarts: u32,
    /// Within this time.
    pub window: Duration,
}

/// `ha.preferred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preferred {
    /// Whoever is active stays active.
    None,
    /// The first node.
    First,
    /// The second node.
    Second,
}

/// `ha.carp_auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarpAuth {
    /// Only advertisements with a valid trailer count.
    Enforce,
    /// Trailer-less ones count until the partner has proven that it can sign.
    Permissive,
    /// Trailers are sent but not demanded.
    Off,
}

/// `ha.transport`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Multicast, and unicast as well where one of the nodes does not hear the other's multicast.
    Auto,
    /// Multicast only.
    Multicast,
    /// To the partner's address only, where it has one.
    Unicast,
}

/// `shared_addresses[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedAddress {
    /// Logical interface.
    pub interface: String,
    /// Address and prefix.
    pub address: Cidr,
}

/// `virtual_services[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// Name.
    pub name: String,
    /// Shared address it listens on.
    pub address: IpAddr,
    /// Where it listens.
    pub ports: Ports,
    /// Protocol.
    pub protocol: Protocol,
    /// How packets reach the real servers.
    pub forwarding: Forwarding,
    /// How a real server is chosen.
    pub scheduler: Scheduler,
    /// Whether a client's connections stay together, and how long.
    pub persistence: Option<Persistence>,
    /// How real servers are checked; none = always up.
    pub health: Option<Health>,
    /// Real servers.
    pub real_servers: Vec<RealServer>,
    /// Takes new connections when none of the real servers can.
    pub last_resort: Option<RealServer>,
    /// What becomes of the connections of a real server that goes down.
    pub on_down: OnDown,
    /// How long connections may be idle.
    pub timeouts: Timeouts,
    /// Whether mid-flow packets of unknown connections are forwarded by hash.
    pub resteer: bool,
}

impl VirtualService {
    /// Everybody it may forward to.
    pub fn all_servers(&self) -> impl Iterator<Item = &RealServer> {
        self.real_servers.iter().chain(&self.last_resort)
    }

    /// The port at which a real server is reached; none = the one that the packet was sent to.
    pub fn port_of(&self, server: &RealServer) -> Option<u16> {
        server.port.or(match self.ports {
            Ports::One(port) => Some(port),
            Ports::Range { .. } | Ports::Any => None,
        })
    }
}

/// `virtual_services[].port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// One port.
    One(u16),
    /// Several in a row.
    Range {
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
    },
    /// Every port that no other service of the address has.
    Any,
}

impl Ports {
    /// Most ports of a range: the data plane has an entry for each.
    pub const RANGE_MAX: u16 = 4096;

    /// The ports as the data plane knows them, which takes 0 for any.
    pub const fn numbers(self) -> RangeInclusive<u16> {
        match self {
            Self::One(port) => port..=port,
            Self::Range { first, last } => first..=last,
            Self::Any => 0..=0,
        }
    }

    /// Whether packets to this port are for the service, unless another has the port to itself.
    pub fn contains(self, port: u16) -> bool {
        self == Self::Any || self.numbers().contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => write!(f, "{port}"),
            Self::Range { first, last } => write!(f, "{first}-{last}"),
            Self::Any => f.write_str("any"),
        }
    }
}

/// `virtual_services[].persistence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a client without new connections keeps its real server.
    pub timeout: Duration,
    /// Leading bits of the address that make one client.
    pub prefix: u8,
}

/// `virtual_services[].on_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// Packets of its connections still go there: it may only have failed to answer its check.
    Keep,
    /// Its connections end with a reset.
    Reset,
}

/// `virtual_services[].timeouts`: idle times after which connections are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP connections.
    pub established: Duration,
    /// TCP connections that one end has closed.
    pub closing: Duration,
    /// TCP connections that both ends have closed, or that were reset.
    pub closed: Duration,
    /// UDP flows.
    pub udp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let usual = ha_common::service::Timeouts::USUAL;
        Self {
            established: Duration::from_nanos(usual.established_ns),
            closing: Duration::from_nanos(usual.closing_ns),
            closed: Duration::from_nanos(usual.closed_ns),
            udp: Duration::from_nanos(usual.udp_ns),
        }
    }
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As written in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// `virtual_services[].health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// Port that is asked; none = the real server's, which then has one.
    pub port: Option<u16>,
    /// Time between checks.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Successes in a row that bring a server up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// `virtual_services[].health.type`: what a check asks a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// To accept a connection.
    Tcp,
    /// For a page.
    Http(HttpCheck),
    /// For a page, over TLS.
    Https(HttpCheck),
    /// For an echo.
    Icmp,
    /// To take a datagram.
    Udp(UdpCheck),
}

/// A page, and what makes it good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// Path and query.
    pub path: String,
    /// Name of the site; none = the real server's address.
    pub host: Option<String>,
    /// Statuses that are well.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the first 64 KiB of the body must contain.
    pub body: Option<String>,
}

/// A datagram, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpCheck {
    /// What is sent.
    pub send: String,
    /// What the answer must contain; none = no answer is needed.
    pub expect: Option<String>,
}

/// `virtual_services[].real_servers[]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Address.
    pub address: IpAddr,
    /// Port; none = the one that the packet was sent to.
    pub port: Option<u16>,
    /// Share of new connections; 0 = draining.
    pub weight: u32,
    /// Connections it may have; 0 = no limit.
    pub connections_max: u32,
    /// The shared address from which packets are sent to it where that is not the client's (full NAT,
    /// tunnel): the service's `source`, or the one that the file implies.
    pub source: Option<IpAddr>,
}

impl fmt::Display for RealServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IPv4 connections the table holds.
    pub connections: u32,
    /// IPv6 connections the table holds.
    pub connections_ipv6: u32,
    /// Flows that may begin on one CPU in one second with an entry of their own; 0 = no bound.
    pub new_flows: u32,
}
