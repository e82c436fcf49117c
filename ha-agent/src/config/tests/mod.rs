//! Tests of the whole way from text to configuration.

mod backup;
mod hostile;
mod ipv6;
mod observe;
mod reload;
mod rules;
mod services;
mod shared;

use std::net::IpAddr;
use std::time::Duration;

use ha_common::service::{Forwarding, Scheduler};

use super::model::{CarpAuth, Cidr, OnDown, Persistence, Ports, Preferred, Protocol};
use super::*;

pub(crate) const GOOD: &str = "\
version: 1
node:
  name: lb1
  mode: first
  interfaces:
    - { name: front, device: eth0, address: 10.0.0.11/24, partner: 10.0.0.12, ha_checks: true, gateway: 10.0.0.254 }
    - { name: back,  device: eth1, address: 10.1.0.11/24, partner: 10.1.0.12, ha_checks: true }
    - { name: cable, device: eth2, ha_checks: true }
shared_addresses:
  - { interface: front, address: 10.0.0.100/24 }
  - { interface: back,  address: 10.1.0.1/24 }
virtual_services:
  - name: web
    address: 10.0.0.100
    port: 80
    health: { type: tcp }
    real_servers:
      - { address: 10.1.0.21, port: 8080 }
      - { address: 10.1.0.22, port: 8080 }
";

fn parse(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    Config::parse(Path::new("f.yaml"), text.as_bytes().to_vec())
}

/// `line:column what` of everything said about a text.
fn said(text: &str) -> Vec<String> {
    let all = match parse(text) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    all.iter()
        .map(|d| format!("{}:{} {}", d.line, d.column, d.what))
        .collect()
}

/// The good file with one piece replaced.
fn with(piece: &str, other: &str) -> String {
    assert!(GOOD.contains(piece), "{piece}");
    GOOD.replacen(piece, other, 1)
}

/// Replacing a piece must lead to exactly one error, whose caret stands where the text goes on with
/// `place`, and which says `what`.
#[track_caller]
fn refuses(piece: &str, other: &str, place: &str, what: &str) {
    one(piece, other, place, what, Severity::Error);
}

#[track_caller]
fn warns(piece: &str, other: &str, place: &str, what: &str) {
    one(piece, other, place, what, Severity::Warning);
}

#[track_caller]
fn one(piece: &str, other: &str, place: &str, what: &str, severity: Severity) {
    let text = with(piece, other);
    let all = match parse(&text) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    let shown: Vec<String> = all.iter().map(|d| format!("{d:#}")).collect();
    let shown = shown.join("\n");
    assert_eq!(all.len(), 1, "{shown}");
    assert_eq!(all[0].severity, severity, "{shown}");
    assert!(all[0].what.contains(what), "{shown}");
    let line = text.lines().nth(all[0].line as usize - 1).unwrap();
    assert!(
        line[all[0].column as usize - 1..].starts_with(place),
        "{shown}"
    );
    assert!(!all[0].remedy.is_empty());
}

#[test]
fn a_good_file_and_its_defaults() {
    let loaded = parse(GOOD).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.node.mode, Mode::First);
    assert_eq!(config.node.socket(), Path::new("/run/ha-agent/ctl.sock"));
    assert_eq!(config.node.interfaces.len(), 3);
    assert_eq!(config.node.interfaces[2].addresses, []);
    assert_eq!(config.ha.virtual_id, 100);
    assert_eq!(config.ha.advertisement_interval, Duration::from_secs(1));
    assert_eq!(config.ha.timeout, Duration::from_secs(9));
    assert_eq!(config.ha.preferred, Preferred::None);
    assert_eq!(config.ha.carp_auth, CarpAuth::Enforce);
    assert_eq!(config.ha.multicast_interface, "back");
    assert_eq!(config.ha.multicast_group, IpAddr::from([239, 255, 69, 73]));
    assert_eq!(config.ha.multicast_port, 6974);
    assert!(config.ha.l4_connection_updates && config.ha.persistence_updates);
    assert_eq!(
        config.shared_addresses[1].address,
        Cidr {
            address: IpAddr::from([10, 1, 0, 1]),
            prefix: 24
        }
    );
    let service = &config.virtual_services[0];
    assert_eq!(service.protocol, Protocol::Tcp);
    assert_eq!(service.scheduler, Scheduler::Mh);
    assert!(service.resteer);
    assert_eq!(service.health.as_ref().unwrap().fall, 3);
    assert_eq!(service.ports, Ports::One(80));
    assert_eq!(service.forwarding, Forwarding::Nat);
    assert_eq!((service.persistence, service.last_resort), (None, None));
    assert_eq!(service.on_down, OnDown::Keep);
    assert_eq!(service.timeouts.established, Duration::from_mins(15));
    assert_eq!(service.timeouts.udp, Duration::from_mins(2));
    let real = service.real_servers[1];
    assert_eq!((real.port, real.weight), (Some(8080), 1));
    assert_eq!((real.connections_max, real.source), (0, None));
    assert_eq!(config.limits.connections, 1_048_576);
    assert_eq!(config.limits.connections_ipv6, 262_144);
    assert_eq!(config.limits.new_flows, 100_000);
}

#[test]
fn every_key_that_is_supported() {
    let text = with(
        "shared_addresses",
        "ha:
  virtual_id: 110
  advertisement_interval: 100ms
  timeout: 300ms
  initial_wait: 10s
  hold_down: 2s
  preferred: second
  virtual_mac: true
  carp_auth: permissive
  transport: multicast
  multicast_interface: front
  multicast_group: 239.1.2.3
  multicast_port: 7000
  pacify: { restarts: 0, window: 5m }
  l4_connection_updates: true
  persistence_updates: false
records: { listen: /run/ha-agent/records.sock, namespaces: [] }
limits: { connections: 4096, connections_ipv6: 2048, new_flows: 0 }
shared_addresses",
    );
    let text = text
        .replace(
            "    health: { type: tcp }",
            "    protocol: udp
    forwarding: nat
    scheduler: rr
    persistence: { timeout: 300s, prefix: 24 }
    last_resort: { address: 10.1.0.99, port: 81 }
    on_down: reset
    timeouts: { established: 1h, closing: 1m, closed: 10s, udp: 5s }
    resteer: false
    health: ~",
        )
        .replace(
            "10.1.0.22, port: 8080",
            "10.1.0.22, port: 8080, weight: 3, connections: 100",
        );
    let loaded = parse(&text).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.ha.virtual_id, 110);
    assert_eq!(config.ha.timeout, Duration::from_millis(300));
    assert_eq!(config.ha.hold_down, Duration::from_secs(2));
    assert_eq!(config.ha.multicast_interface, "front");
    assert!(config.ha.l4_connection_updates && !config.ha.persistence_updates);
    assert!(config.ha.virtual_mac);
    let limits = config.limits;
    assert_eq!(
        (
            limits.connections,
            limits.connections_ipv6,
            limits.new_flows
        ),
        (4096, 2048, 0)
    );
    let service = &config.virtual_services[0];
    assert_eq!(service.protocol, Protocol::Udp);
    assert_eq!(service.scheduler, Scheduler::Rr);
    assert_eq!(service.health, None);
    assert!(!service.resteer);
    assert_eq!(
        service.persistence,
        Some(Persistence {
            timeout: Duration::from_mins(5),
            prefix: 24
        })
    );
    let last_resort = service.last_resort.unwrap();
    assert_eq!(last_resort.to_string(), "10.1.0.99:81");
    assert_eq!(service.on_down, OnDown::Reset);
    assert_eq!(service.timeouts.established, Duration::from_hours(1));
    assert_eq!(service.timeouts.closing, Duration::from_mins(1));
    assert_eq!(service.timeouts.closed, Duration::from_secs(10));
    assert_eq!(service.timeouts.udp, Duration::from_secs(5));
    let real = service.real_servers[1];
    assert_eq!((real.weight, real.connections_max), (3, 100));
}

#[test]
fn the_example_in_deploy_is_good() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ha-agent.yaml");
    let loaded = Config::load(&example).unwrap();
    assert_eq!(loaded.warnings, []);
}

#[test]
fn anchors_save_typing() {
    let text = with(
        "health: { type: tcp }",
        "health: &check { type: tcp, fall: 5 }",
    );
    let text = format!(
        "{text}  - name: two
    address: 10.0.0.100
    port: 81
    health: *check
    real_servers: [{{ address: 10.1.0.21, port: 81 }}]
"
    );
    let config = parse(&text).unwrap().config;
    assert_eq!(
        config.virtual_services[1].health,
        config.virtual_services[0].health
    );
}
