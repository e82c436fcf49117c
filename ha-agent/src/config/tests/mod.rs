//! Tests of the whole way from text to configuration.

mod hostile;
mod ipv6;
mod reload;
mod rules;

use std::net::IpAddr;
use std::time::Duration;

use super::model::{CarpAuth, Cidr, Preferred, Protocol, Scheduler};
use super::*;

const GOOD: &str = "\
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
    assert!(config.ha.l4_connection_updates);
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
    assert_eq!(service.real_servers[1].weight, 1);
    assert_eq!(config.limits.connections, 1_048_576);
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
  l4_connection_updates: false
  persistence_updates: false
limits: { connections: 4096 }
shared_addresses",
    );
    let text = text.replace(
        "    health: { type: tcp }",
        "    protocol: udp
    forwarding: nat
    scheduler: rr
    persistence: null
    resteer: false
    health: ~",
    );
    let loaded = parse(&text).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.ha.virtual_id, 110);
    assert_eq!(config.ha.timeout, Duration::from_millis(300));
    assert_eq!(config.ha.hold_down, Duration::from_secs(2));
    assert_eq!(config.ha.multicast_interface, "front");
    assert!(!config.ha.l4_connection_updates);
    assert!(config.ha.virtual_mac);
    assert_eq!(config.limits.connections, 4096);
    let service = &config.virtual_services[0];
    assert_eq!(service.protocol, Protocol::Udp);
    assert_eq!(service.scheduler, Scheduler::Rr);
    assert_eq!(service.health, None);
    assert!(!service.resteer);
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
