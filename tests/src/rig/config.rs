//! The configuration files of a pair in the rig.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

/// Port of both services, TCP and UDP, at the shared address.
pub const SERVICE_PORT: u16 = 80;
/// Port of the real servers.
pub const SERVER_PORT: u16 = 8080;
/// The shared address clients use.
pub const SHARED_FRONT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 100);
/// The shared address that is the real servers' router.
pub const SHARED_BACK: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);
/// The client's address, which is also the gateway the nodes check on the front link.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 254);
/// The shared IPv6 address on the front network, where there is IPv6.
pub const SHARED_FRONT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 1, 0, 0, 0, 0, 0x100);
/// The client's IPv6 address, which is a gateway as well.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 1, 0, 0, 0, 0, 0xfe);
/// The shared IPv6 address that is the real servers' router.
pub const SHARED_BACK6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 2, 0, 0, 0, 0, 1);
/// Virtual host id of the pair.
pub const VHID: u8 = 77;

/// How a real server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scheduler {
    /// Maglev: the hash of the client decides, the same on both nodes.
    Mh,
    /// Round robin: only the connection table knows.
    Rr,
}

impl Scheduler {
    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mh => "mh",
            Self::Rr => "rr",
        }
    }
}

/// How packets reach the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Destination translated; answers come back through the active node.
    Nat,
    /// Source and destination translated.
    FullNat,
    /// By Ethernet address; answers go straight to the client.
    Dsr,
    /// In an outer packet; answers go straight to the client.
    Tunnel,
}

impl Forwarding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nat, Self::FullNat, Self::Dsr, Self::Tunnel];

    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full_nat",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
        }
    }

    /// Whether real servers answer clients by themselves, as the shared address.
    pub const fn is_one_way(self) -> bool {
        matches!(self, Self::Dsr | Self::Tunnel)
    }
}

/// A real server as the services see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Number from 1: rs1, rs2, rs3.
    pub number: u8,
    /// Share of new connections; 0 = draining.
    pub weight: u32,
}

impl RealServer {
    /// Its address on the back network.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 2, 20 + self.number)
    }

    /// Its IPv6 address on the back network.
    pub fn address6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x77, 2, 0, 0, 0, 0, u16::from(self.number) + 0x20)
    }

    /// Its address on the clients' network, where it has one.
    pub fn front(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 1, 20 + self.number)
    }

    /// Its IPv6 address on the clients' network, where it has one.
    pub fn front6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x77, 1, 0, 0, 0, 0, u16::from(self.number) + 0x20)
    }
}

/// What both nodes' files have in common.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
pub struct PairConfig {
    /// Time between advertisements.
    pub interval: Duration,
    /// How long the partner must be silent.
    pub timeout: Duration,
    /// How long what failed must have worked again before it counts; none = the agent's default.
    pub hold_down: Option<Duration>,
    /// Scheduler of both services.
    pub scheduler: Scheduler,
    /// Whether connections are replicated.
    pub replication: bool,
    /// How packets of the services reach the real servers.
    pub forwarding: Forwarding,
    /// Whether the services' real servers are in the clients' network.
    pub one_arm: bool,
    /// Whether there is IPv6, too: on both networks, with services of its own.
    pub ipv6: bool,
    /// Whether the shared addresses have one MAC, whoever is active.
    pub virtual_mac: bool,
    /// Whether there is a heartbeat cable besides the two networks.
    pub cable: bool,
    /// Unclean starts within five minutes that pacify a node; 0 = none.
    pub pacify: u32,
    /// How advertisements and HELLOs travel: `ha.transport`.
    pub transport: &'static str,
    /// Real servers of all services.
    pub servers: Vec<RealServer>,
    /// More keys of all services, each as a line of the file.
    pub keys: Vec<&'static str>,
    /// More services, as in the file.
    pub services: String,
    /// More keys of the section `ha`, each as a line of the file.
    pub ha: Vec<&'static str>,
    /// More keys of the section `node`, each as a line of the file of the node whose directory stands for `{dir}`.
    pub node: Vec<&'static str>,
    /// More sections, as in the file of the node whose directory stands for `{dir}`.
    pub sections: String,
    /// Ports at which the real servers listen, besides those of the services.
    pub ports: Vec<u16>,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(300),
            hold_down: None,
            scheduler: Scheduler::Mh,
            replication: true,
            forwarding: Forwarding::Nat,
            one_arm: false,
            ipv6: false,
            virtual_mac: false,
            cable: false,
            pacify: 0,
            transport: "auto",
            servers: vec![
                RealServer {
                    number: 1,
                    weight: 1,
                },
                RealServer {
                    number: 2,
                    weight: 1,
                },
            ],
            keys: Vec::new(),
            services: String::new(),
            ha: Vec::new(),
            node: Vec::new(),
            sections: String::new(),
            ports: Vec::new(),
        }
    }
}

impl PairConfig {
    /// The addresses by which the services know a real server.
    pub fn addresses(&self, server: RealServer) -> (Ipv4Addr, Ipv6Addr) {
        if self.one_arm {
            (server.front(), server.front6())
        } else {
            (server.address(), server.address6())
        }
    }

    /// The real servers' port: that of the service where packets are not translated.
    pub const fn server_port(&self) -> u16 {
        if self.forwarding.is_one_way() {
            SERVICE_PORT
        } else {
            SERVER_PORT
        }
    }
}

/// Address of node 1 or 2 on the front network.
pub fn front(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, 10 + node)
}

/// IPv6 address of node 1 or 2 on the front network.
pub fn front6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 1, 0, 0, 0, 0, u16::from(node) + 0x10)
}

/// Address of node 1 or 2 on the back network.
pub fn back(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 2, 10 + node)
}

/// IPv6 address of node 1 or 2 on the back network.
pub fn back6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 2, 0, 0, 0, 0, u16::from(node) + 0x10)
}

/// The configuration file of node 1 or 2, whose files are below `dir`.
pub fn file(pair: &PairConfig, node: u8, dir: &Path) -> String {
    let partner = 3 - node;
    let mode = if node == 1 { "first" } else { "second" };
    let dir = dir.display();
    let addresses = |own: Ipv4Addr, other: Ipv4Addr, own6: Ipv6Addr, other6: Ipv6Addr| {
        if pair.ipv6 {
            format!("address: [{own}/24, '{own6}/64'], partner: [{other}, '{other6}']")
        } else {
            format!("address: {own}/24, partner: {other}")
        }
    };
    let back = addresses(back(node), back(partner), back6(node), back6(partner));
    let front = addresses(front(node), front(partner), front6(node), front6(partner));
    let gateway = if pair.ipv6 {
        format!("[{CLIENT}, '{CLIENT6}']")
    } else {
        CLIENT.to_string()
    };
    let mut text = format!(
        "version: 1
node:
  name: lb{node}
  mode: {mode}
  key_file: {dir}/pair.key
  state_dir: {dir}/state
  run_dir: {dir}/run
  bpf_dir: {dir}/bpf/ha-agent
  interfaces:
    - {{ name: front, device: front, {front}, gateway: {gateway}, ha_checks: true }}
    - {{ name: back, device: back, {back}, ha_checks: true }}
"
    );
    let mut add = |line: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    if pair.cable {
        add("    - { name: cable, device: cable, ha_checks: true }".to_owned());
    }
    for key in &pair.node {
        add(format!("  {}", key.replace("{dir}", &dir.to_string())));
    }
    add(format!(
        "ha:
  virtual_id: {VHID}
  advertisement_interval: {}
  timeout: {}
{}{}  multicast_interface: back
  transport: {}
  virtual_mac: {}
  l4_connection_updates: {}
  pacify: {{ restarts: {} }}
shared_addresses:
  - {{ interface: front, address: {SHARED_FRONT}/24 }}
  - {{ interface: back, address: {SHARED_BACK}/24 }}",
        duration(pair.interval),
        duration(pair.timeout),
        pair.hold_down
            .map(|hold| format!("  hold_down: {}\n", duration(hold)))
            .unwrap_or_default(),
        pair.ha
            .iter()
            .fold(String::new(), |text, key| text + "  " + key + "\n"),
        pair.transport,
        pair.virtual_mac,
        pair.replication,
        pair.pacify,
    ));
    if pair.ipv6 {
        add(format!(
            "  - {{ interface: front, address: '{SHARED_FRONT6}/64' }}
  - {{ interface: back, address: '{SHARED_BACK6}/64' }}"
        ));
    }
    add(pair.sections.replace("{dir}", &dir.to_string()));
    add("virtual_services:".to_owned());
    for (name, protocol) in [("web", "tcp"), ("probe", "udp")] {
        text.push_str(&service(pair, name, SHARED_FRONT.into(), protocol));
        if pair.ipv6 {
            let name = format!("{name}6");
            text.push_str(&service(pair, &name, SHARED_FRONT6.into(), protocol));
        }
    }
    text.push_str(&pair.services);
    text
}

/// One of the services that every pair has.
fn service(pair: &PairConfig, name: &str, address: IpAddr, protocol: &str) -> String {
    let (forwarding, scheduler) = (pair.forwarding.as_str(), pair.scheduler.as_str());
    let mut text = format!(
        "  - name: {name}
    address: '{address}'
    port: {SERVICE_PORT}
    protocol: {protocol}
    forwarding: {forwarding}
    scheduler: {scheduler}
    health: {{ type: tcp, interval: 1s, timeout: 500ms, rise: 1, fall: 3 }}
"
    );
    for key in &pair.keys {
        text.extend(["    ", key, "\n"]);
    }
    text.push_str("    real_servers:\n");
    for server in &pair.servers {
        let (v4, v6) = pair.addresses(*server);
        let server_address: IpAddr = if address.is_ipv4() {
            v4.into()
        } else {
            v6.into()
        };
        let (port, weight) = (pair.server_port(), server.weight);
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            "      - {{ address: '{server_address}', port: {port}, weight: {weight} }}"
        );
    }
    text
}

fn duration(value: Duration) -> String {
    format!("{}ms", value.as_millis())
}

/// The file of a node whose partner is a foreign CARP implementation: one shared address, since
/// `ucarp` hashes exactly one, and no services.
pub fn file_with_foreign_partner(node: u8, dir: &Path) -> String {
    let mode = if node == 1 { "first" } else { "second" };
    let dir = dir.display();
    format!(
        "version: 1
node:
  name: lb{node}
  mode: {mode}
  key_file: {dir}/pair.key
  carp_passphrase_file: {dir}/carp.passphrase
  state_dir: {dir}/state
  run_dir: {dir}/run
  bpf_dir: {dir}/bpf/ha-agent
  interfaces:
    - {{ name: front, device: front, address: {}/24, partner: {}, ha_checks: true }}
ha:
  virtual_id: {VHID}
  advertisement_interval: 1s
  timeout: 3s
  carp_auth: permissive
  pacify: {{ restarts: 0 }}
  multicast_interface: front
shared_addresses:
  - {{ interface: front, address: {SHARED_FRONT}/24 }}
virtual_services: []
",
        front(node),
        front(3 - node),
    )
}

/// The file of a node that has IPv6 alone, on one network, and no services.
pub fn file_with_ipv6_alone(node: u8, dir: &Path) -> String {
    let mode = if node == 1 { "first" } else { "second" };
    let dir = dir.display();
    format!(
        "version: 1
node:
  name: lb{node}
  mode: {mode}
  key_file: {dir}/pair.key
  state_dir: {dir}/state
  run_dir: {dir}/run
  bpf_dir: {dir}/bpf/ha-agent
  interfaces:
    - {{ name: front, device: front, address: '{}/64', partner: '{}', ha_checks: true, gateway: '{CLIENT6}' }}
ha:
  virtual_id: {VHID}
  advertisement_interval: 100ms
  timeout: 500ms
shared_addresses:
  - {{ interface: front, address: '{SHARED_FRONT6}/64' }}
virtual_services: []
",
        front6(node),
        front6(3 - node),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_agent::config::model::Config;

    fn parse(text: &str) {
        let path = Path::new("/somewhere/ha-agent.yaml");
        if let Err(problems) = Config::parse(path, text.as_bytes().to_vec()) {
            panic!("{problems:#?}\n{text}");
        }
    }

    #[test]
    fn the_agent_takes_the_files() {
        let dir = Path::new("/somewhere");
        for node in [1, 2] {
            parse(&file(&PairConfig::default(), node, dir));
            parse(&file_with_foreign_partner(node, dir));
            parse(&file_with_ipv6_alone(node, dir));
            let other = PairConfig {
                cable: true,
                hold_down: Some(Duration::from_millis(200)),
                replication: false,
                ipv6: true,
                scheduler: Scheduler::Rr,
                ..PairConfig::default()
            };
            parse(&file(&other, node, dir));
            for forwarding in Forwarding::ALL {
                for one_arm in [false, true] {
                    let pair = PairConfig {
                        forwarding,
                        one_arm,
                        ipv6: true,
                        keys: vec!["on_down: reset"],
                        ..PairConfig::default()
                    };
                    parse(&file(&pair, node, dir));
                }
            }
        }
    }
}
