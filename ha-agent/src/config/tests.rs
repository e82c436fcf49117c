//! Tests of the whole way from text to configuration.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::model::{CarpAuth, Cidr4, Preferred, Protocol, Scheduler};
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
    assert_eq!(config.node.interfaces[2].address, None);
    assert_eq!(config.ha.virtual_id, 100);
    assert_eq!(config.ha.advertisement_interval, Duration::from_secs(1));
    assert_eq!(config.ha.timeout, Duration::from_secs(9));
    assert_eq!(config.ha.preferred, Preferred::None);
    assert_eq!(config.ha.carp_auth, CarpAuth::Enforce);
    assert_eq!(config.ha.multicast_interface, "back");
    assert_eq!(config.ha.multicast_group, Ipv4Addr::new(239, 255, 69, 73));
    assert_eq!(config.ha.multicast_port, 6974);
    assert!(config.ha.l4_connection_updates);
    assert_eq!(
        config.shared_addresses[1].address,
        Cidr4 {
            address: Ipv4Addr::new(10, 1, 0, 1),
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
  preferred: second
  virtual_mac: false
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
    assert_eq!(config.ha.multicast_interface, "front");
    assert!(!config.ha.l4_connection_updates);
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
fn structure() {
    refuses("version: 1\n", "", "node:", "`version` has no value");
    refuses("version: 1", "version: 2", "2", "version 2 of the format");
    refuses("  name: lb1", "  nmae: lb1", "nmae", "unknown key `nmae`");
}

#[test]
fn a_second_key_and_a_missing_one_are_told_apart() {
    refuses(
        "  mode: first",
        "  mode: first\n  mode: second",
        "mode: second",
        "`mode` is given twice",
    );
    refuses("    port: 80\n", "", "name: web", "`port` has no value");
    refuses("  name: lb1", "  name:", "name:", "`name` has no value");
}

#[test]
fn types() {
    refuses(
        "port: 80\n",
        "port: \"80\"\n",
        "\"80\"",
        "not a whole number",
    );
    refuses("port: 80\n", "port: [80]\n", "[80]", "not a list");
    refuses(
        "ha_checks: true }\n    - { name: cable",
        "ha_checks: yes }\n    - { name: cable",
        "yes",
        "neither true nor false",
    );
    refuses(
        "{ name: cable, device: eth2, ha_checks: true }",
        "[cable]",
        "[cable]",
        "must be a map",
    );
}

#[test]
fn interfaces() {
    refuses(
        "name: cable",
        "name: front",
        "front",
        "interface is named front twice",
    );
    refuses(
        "device: eth1",
        "device: eth0",
        "eth0",
        "uses the device eth0 twice",
    );
    refuses("10.1.0.12", "10.9.0.12", "10.9.0.12", "not in the subnet");
    refuses(
        "partner: 10.1.0.12",
        "partner: 10.1.0.11",
        "10.1.0.11",
        "10.1.0.11 twice",
    );
    refuses(
        "partner: 10.1.0.12, ",
        "",
        "10.1.0.11/24",
        "partner's address on it is not given",
    );
    refuses(
        "gateway: 10.0.0.254",
        "gateway: 10.9.0.254",
        "10.9.0.254",
        "not in the subnet",
    );
    refuses(
        "gateway: 10.0.0.254",
        "gateway: 10.0.0.11",
        "10.0.0.11",
        "own address",
    );
    refuses(
        "gateway: 10.0.0.254",
        "gateway: 10.0.0.12",
        "10.0.0.12",
        "gateway is the partner",
    );
    refuses(
        "device: eth2,",
        "device: eth2, partner: 10.2.0.1,",
        "10.2.0.1",
        "without an address",
    );
    refuses(
        "10.1.0.11/24",
        "[10.1.0.11/24, fd00::1/64]",
        "[",
        "not yet supported",
    );
    refuses(
        "10.1.0.11/24",
        "fd00::11/64",
        "fd00",
        "IPv6 is not yet supported",
    );
}

#[test]
fn ha_checks_somewhere() {
    let text = GOOD.replace("ha_checks: true", "ha_checks: false");
    assert_eq!(
        said(&text),
        ["5:3 HA checks run over no interface, so the nodes would not see each other"]
    );
    let only_cable = GOOD.replacen("ha_checks: true", "ha_checks: false", 2);
    let said = said(&only_cable);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].contains("production link"), "{said:?}");
    assert!(said[0].contains("replication has no interface"), "{said:?}");
}

#[test]
fn a_node_alone_needs_no_pair() {
    let text = "version: 1
node: { name: lb, mode: off, interfaces: [{ name: front, device: eth0, address: 10.0.0.11/24 }] }
shared_addresses: [{ interface: front, address: 10.0.0.100/24 }]
";
    let loaded = parse(text).unwrap();
    assert_eq!(loaded.warnings, []);
    assert!(!loaded.config.ha.l4_connection_updates);
}

#[test]
fn shared_addresses() {
    refuses(
        "address: 10.1.0.1/24",
        "address: 10.2.0.1/24",
        "10.2.0.1/24",
        "not in the subnet",
    );
    refuses(
        "address: 10.1.0.1/24",
        "address: 10.1.0.11/24",
        "10.1.0.11/24",
        "this node's own address",
    );
    refuses(
        "address: 10.1.0.1/24",
        "address: 10.1.0.12/24",
        "10.1.0.12/24",
        "the partner's own address",
    );
    refuses(
        "interface: back,",
        "interface: rear,",
        "rear",
        "no interface named `rear`",
    );
    refuses(
        "interface: back,",
        "interface: cable,",
        "cable",
        "heartbeat link",
    );
    refuses(
        "  - { interface: back,  address: 10.1.0.1/24 }\n",
        "  - { interface: front, address: 10.0.0.254/24 }\n",
        "10.0.0.254/24",
        "the gateway",
    );
    refuses(
        "  - { interface: back,  address: 10.1.0.1/24 }\n",
        "  - { interface: front, address: 10.0.0.100/32 }\n",
        "10.0.0.100/32",
        "twice",
    );
}

#[test]
fn virtual_id() {
    refuses(
        "shared_addresses",
        "ha: { virtual_id: 256 }\nshared_addresses",
        "256",
        "out of range",
    );
    warns(
        "shared_addresses",
        "ha: { virtual_id: 5 }\nshared_addresses",
        "5",
        "virtual id 5",
    );
    let none = "version: 1
node: { name: lb, mode: first, interfaces: [{ name: f, device: eth0, address: 10.0.0.11/24, partner: 10.0.0.12, ha_checks: true }] }
";
    assert_eq!(said(none).len(), 1);
    assert!(said(none)[0].contains("no shared address to derive it from"));
}

#[test]
fn timing() {
    let ha = |keys: &str| format!("ha: {{ {keys} }}\nshared_addresses");
    refuses(
        "shared_addresses",
        &ha("timeout: 2s"),
        "2s",
        "not more than twice",
    );
    refuses(
        "shared_addresses",
        &ha("advertisement_interval: 5s"),
        "5s",
        "not more than twice",
    );
    refuses(
        "shared_addresses",
        &ha("advertisement_interval: 3ms"),
        "3ms",
        "out of range",
    );
    refuses("shared_addresses", &ha("timeout: 9"), "9", "not a duration");
    warns(
        "shared_addresses",
        &ha("advertisement_interval: 10ms, timeout: 30ms"),
        "30ms",
        "stall",
    );
}

#[test]
fn replication() {
    let ha = |keys: &str| format!("ha: {{ {keys} }}\nshared_addresses");
    refuses(
        "shared_addresses",
        &ha("multicast_interface: eth1"),
        "eth1",
        "no interface named `eth1`",
    );
    refuses(
        "shared_addresses",
        &ha("multicast_interface: cable"),
        "cable",
        "heartbeat link",
    );
    refuses(
        "shared_addresses",
        &ha("multicast_group: 10.0.0.1"),
        "10.0.0.1",
        "not a multicast group",
    );
    warns(
        "shared_addresses",
        &ha("multicast_group: 225.0.0.1"),
        "225",
        "administratively scoped",
    );
}

#[test]
fn not_yet_supported() {
    let ha = |keys: &str| format!("ha: {{ {keys} }}\nshared_addresses");
    for (key, place) in [
        ("virtual_mac: true", "true"),
        ("transport: unicast", "unicast"),
        ("update_interface: back", "back"),
        ("update_port: 6973", "6973"),
        ("persistence_updates: true", "true"),
        ("pacify: { restarts: 3, window: 5m }", "3"),
    ] {
        refuses("shared_addresses", &ha(key), place, "is not yet supported");
    }
    refuses(
        "  mode: first",
        "  mode: first\n  web: { listen: \"[::]:8443\" }",
        "web:",
        "not yet supported",
    );
    for other in [
        "forwarding: dsr",
        "forwarding: tunnel",
        "forwarding: full_nat",
        "scheduler: wrr",
        "scheduler: lc",
        "scheduler: wlc",
        "scheduler: sh",
        "persistence: { timeout: 300s }",
    ] {
        let all = said(&with("health: { type: tcp }", other));
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains("not yet supported"), "{all:?}");
    }
    refuses("type: tcp", "type: http", "http", "not yet supported");
}

#[test]
fn services() {
    refuses(
        "    address: 10.0.0.100\n",
        "    address: 10.0.0.11\n",
        "10.0.0.11",
        "this node's own address",
    );
    refuses(
        "    address: 10.0.0.100\n    port: 80\n",
        "    address: 10.0.0.12\n    port: 22\n",
        "10.0.0.12",
        "SSH",
    );
    refuses(
        "    address: 10.0.0.100\n",
        "    address: 10.0.0.101\n",
        "10.0.0.101",
        "not a shared address",
    );
    refuses(
        "    address: 10.0.0.100\n    port: 80\n",
        "    address: 10.1.0.1\n    port: 6973\n",
        "6973",
        "reserved",
    );
    refuses("port: 80\n", "port: 0\n", "0", "out of range");
}

#[test]
fn services_listen_once() {
    let more = format!(
        "{GOOD}  - {{ name: web, address: 10.0.0.100, port: 80, real_servers: [{{ address: 10.1.0.21, port: 1 }}] }}\n"
    );
    assert_eq!(
        said(&more),
        [
            "20:13 a virtual service is named web twice",
            "20:45 another virtual service already listens on 10.0.0.100, tcp port 80",
        ]
    );
    let udp = more.replace("{ name: web,", "{ name: dns, protocol: udp,");
    assert_eq!(said(&udp), [""; 0]);
}

#[test]
fn real_servers() {
    refuses(
        "10.1.0.22, port: 8080",
        "10.1.0.21, port: 8080",
        "10.1.0.21",
        "listed twice",
    );
    refuses(
        "address: 10.1.0.22",
        "address: 10.1.0.1",
        "10.1.0.1,",
        "shared address",
    );
    refuses(
        "address: 10.1.0.22",
        "address: 10.1.0.12",
        "10.1.0.12",
        "the partner's own address",
    );
    refuses(
        "port: 8080 }\n",
        "port: 8080, weight: -1 }\n",
        "-1",
        "not a whole number",
    );
    warns(
        "address: 10.1.0.22",
        "address: 192.168.5.5",
        "192",
        "subnet of no interface",
    );
    let draining = GOOD.replace("port: 8080", "port: 8080, weight: 0");
    assert!(said(&draining)[0].contains("draining"));
    let none = &GOOD[..GOOD.find("    real_servers").unwrap()];
    assert!(said(none)[0].contains("no real server"));
}

#[test]
fn health() {
    refuses(
        "type: tcp",
        "type: tcp, timeout: 3s",
        "timeout",
        "the next begins after",
    );
    refuses("type: tcp", "type: tcp, rise: 0", "0", "out of range");
    refuses("{ type: tcp }", "tcp", "tcp", "must be a map");
    warns(
        "    health",
        "    protocol: udp\n    health",
        "health",
        "UDP service",
    );
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

#[test]
fn too_much_for_the_data_plane() {
    let mut text = GOOD.to_owned();
    for port in 1000..2100 {
        writeln!(
            text,
            "  - {{ name: s{port}, address: 10.0.0.100, port: {port}, real_servers: [{{ address: 10.1.0.21, port: {port} }}] }}"
        )
        .unwrap();
    }
    let all = said(&text);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("1101 virtual services; the data plane holds 1024"));
}

#[test]
fn a_syntax_error_hides_nothing_else() {
    let text = with("ha_checks: true, gateway", "ha_checks: true gateway")
        .replace("    port: 80\n", "    port: eighty\n    prot: tcp\n");
    let all = said(&text);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].starts_with("6:"), "{all:?}");
    assert!(all[1].starts_with("15:11"), "{all:?}");
    assert!(all[2].starts_with("16:5"), "{all:?}");
}

#[test]
fn not_text_at_all() {
    for (bytes, what) in [
        (&b""[..], "empty"),
        (b"# nothing\n", "empty"),
        (b"\xff\xfe", "UTF-8"),
        (b"just words", "must be a map"),
        (b"- a\n- b\n", "must be a map"),
    ] {
        let problems = Config::parse(Path::new("f"), bytes.to_vec()).unwrap_err();
        assert!(problems[0].what.contains(what), "{problems:?}");
    }
}

#[test]
fn unreadable_files() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("absent"), dir.path().to_owned()] {
        let problems = Config::load(&path).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, 0);
    }
    let huge = dir.path().join("huge");
    File::create(&huge).unwrap().set_len(SIZE_MAX + 1).unwrap();
    assert!(Config::load(&huge).unwrap_err()[0].what.contains("larger"));
}

#[test]
fn secrets() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("pair.key");
    let pass = dir.path().join("carp");
    let text = with(
        "  mode: first",
        &format!(
            "  mode: first\n  key_file: {}\n  carp_passphrase_file: {}",
            key.display(),
            pass.display()
        ),
    );
    let loaded = parse(&text).unwrap();
    let problems = loaded.secrets().unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!((problems[0].line, problems[1].line), (5, 6));
    PairKeys::generate(&key).unwrap();
    for (content, good) in [
        ("secret\n", true),
        ("1234567890123456789\r\n", true),
        ("12345678901234567890", false),
        ("", false),
        ("two\nlines", false),
    ] {
        std::fs::write(&pass, content).unwrap();
        std::fs::set_permissions(&pass, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(loaded.secrets().is_ok(), good, "{content:?}");
    }
    std::fs::write(&pass, "secret\n").unwrap();
    assert_eq!(*loaded.secrets().unwrap().carp_passphrase, b"secret");
    std::fs::set_permissions(&pass, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(loaded.secrets().is_err());
}

mod reloading {
    use super::*;

    fn applied(piece: &str, other: &str) -> Vec<String> {
        let old = parse(GOOD).unwrap().config;
        let changes = diff(&old, &parse(&with(piece, other)).unwrap()).unwrap();
        changes.iter().map(ToString::to_string).collect()
    }

    fn refused(piece: &str, other: &str) -> Vec<String> {
        let old = parse(GOOD).unwrap().config;
        let problems = diff(&old, &parse(&with(piece, other)).unwrap()).unwrap_err();
        problems
            .iter()
            .map(|d| format!("{}:{} {}", d.line, d.column, d.what))
            .collect()
    }

    #[test]
    fn real_servers_and_health_may_change() {
        assert_eq!(applied("lb1", "lb1"), [""; 0]);
        assert_eq!(
            applied("10.1.0.22, port: 8080", "10.1.0.23, port: 8080"),
            [
                "web: real server 10.1.0.23:8080 added, weight 1",
                "web: real server 10.1.0.22:8080 removed"
            ]
        );
        assert_eq!(
            applied("10.1.0.22, port: 8080", "10.1.0.22, port: 8080, weight: 0"),
            ["web: real server 10.1.0.22:8080 weight 1 to 0"]
        );
        assert_eq!(
            applied("type: tcp", "type: tcp, fall: 9"),
            ["web: health check changed"]
        );
    }

    #[test]
    fn everything_else_needs_a_restart() {
        assert_eq!(
            refused("name: lb1", "name: lbx"),
            ["3:9 a change of `node.name` needs a restart"]
        );
        assert_eq!(
            refused("device: eth1", "device: eth7"),
            ["7:30 a change of `node.interfaces.device` needs a restart"]
        );
        assert_eq!(
            refused("shared_addresses", "ha: { timeout: 12s }\nshared_addresses"),
            ["9:16 a change of `ha.timeout` needs a restart"]
        );
        assert_eq!(
            refused("port: 80\n", "port: 81\n"),
            ["15:11 a change of `virtual_services.port` needs a restart"]
        );
        let renamed = refused("name: web", "name: www");
        assert_eq!(renamed.len(), 2, "{renamed:?}");
        assert!(renamed[1].contains("new virtual service `www`"));
        assert!(renamed[0].contains("removing virtual service `web`"));
    }

    #[test]
    fn a_refused_reload_changes_nothing_even_in_part() {
        let text = with("name: lb1", "name: lbx").replace("10.1.0.22", "10.1.0.23");
        let old = parse(GOOD).unwrap().config;
        assert_eq!(diff(&old, &parse(&text).unwrap()).unwrap_err().len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Err(problems) = Config::parse(Path::new("f"), bytes) {
            for problem in problems {
                prop_assert!(!problem.to_string().is_empty());
            }
        }
    }

    #[test]
    fn arbitrary_yaml_never_panics(text in "[a-z0-9:\\-\\[\\]{}&*,#|>'\"!%@~ \n\t\u{e9}]{0,300}") {
        for problem in parse(&text).err().into_iter().flatten() {
            prop_assert!(!problem.to_string().is_empty());
        }
    }

    /// Every mutation of a good file is either good or told apart by located errors.
    #[test]
    fn mutations_never_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..20, "[a-z0-9:\\-\\[\\]{},*&# \n\t]{0,6}"), 1..6)
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(loaded) => {
                prop_assert!(diff(&loaded.config, &loaded).is_ok());
            }
            Err(problems) => {
                prop_assert!(problems.iter().any(|p| p.severity == Severity::Error));
                for problem in &problems {
                    prop_assert!(problem.line > 0 && problem.column > 0);
                    prop_assert!(problem.to_string().lines().count() == 1, "{problem}");
                    prop_assert!(format!("{problem:#}").lines().count() == 4, "{problem:#}");
                }
            }
        }
    }
}
