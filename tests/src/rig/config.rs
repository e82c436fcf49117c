//! The configuration files of a pair in the rig.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
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
    /// Whether the front network has IPv6, too.
    pub ipv6: bool,
    /// Whether the shared addresses have one MAC, whoever is active.
    pub virtual_mac: bool,
    /// Whether there is a heartbeat cable besides the two networks.
    pub cable: bool,
    /// Unclean starts within five minutes that pacify a node; 0 = none.
    pub pacify: u32,
    /// How advertisements and HELLOs travel: `ha.transport`.
    pub transport: &'static str,
    /// Real servers of both services.
    pub servers: Vec<RealServer>,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(300),
            hold_down: None,
            scheduler: Scheduler::Mh,
            replication: true,
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

/// The configuration file of node 1 or 2, whose files are below `dir`.
pub fn file(pair: &PairConfig, node: u8, dir: &Path) -> String {
    let partner = 3 - node;
    let mode = if node == 1 { "first" } else { "second" };
    let dir = dir.display();
    let (own, other, gateway) = (front(node), front(partner), CLIENT);
    let front = if pair.ipv6 {
        format!(
            "address: [{own}/24, '{}/64'], partner: [{other}, '{}'], gateway: [{gateway}, '{CLIENT6}']",
            front6(node),
            front6(partner)
        )
    } else {
        format!("address: {own}/24, partner: {other}, gateway: {gateway}")
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
    - {{ name: front, device: front, {front}, ha_checks: true }}
    - {{ name: back, device: back, address: {}/24, partner: {}, ha_checks: true }}
",
        back(node),
        back(partner),
    );
    let mut add = |line: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    if pair.cable {
        add("    - { name: cable, device: cable, ha_checks: true }".to_owned());
    }
    add(format!(
        "ha:
  virtual_id: {VHID}
  advertisement_interval: {}
  timeout: {}
{}  multicast_interface: back
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
        pair.transport,
        pair.virtual_mac,
        pair.replication,
        pair.pacify,
    ));
    if pair.ipv6 {
        add(format!(
            "  - {{ interface: front, address: '{SHARED_FRONT6}/64' }}"
        ));
    }
    add("virtual_services:".to_owned());
    let scheduler = pair.scheduler.as_str();
    for (name, protocol) in [("web", "tcp"), ("probe", "udp")] {
        add(format!(
            "  - name: {name}
    address: {SHARED_FRONT}
    port: {SERVICE_PORT}
    protocol: {protocol}
    forwarding: nat
    scheduler: {scheduler}
    health: {{ type: tcp, interval: 1s, timeout: 500ms, rise: 1, fall: 3 }}
    real_servers:"
        ));
        for server in &pair.servers {
            add(format!(
                "      - {{ address: {}, port: {SERVER_PORT}, weight: {} }}",
                server.address(),
                server.weight
            ));
        }
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
        }
    }
}
