//! What a reload may change.

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
fn timing_and_authentication_may_change() {
    let with_ha = |ha: &str| {
        applied(
            "shared_addresses",
            &format!("ha: {{ {ha} }}\nshared_addresses"),
        )
    };
    assert_eq!(
        with_ha("advertisement_interval: 50ms, timeout: 150ms"),
        [
            "ha.advertisement_interval 1s to 50ms",
            "ha.timeout 9s to 150ms",
            "ha.hold_down 27s to 1s"
        ]
    );
    assert_eq!(with_ha("hold_down: 3s"), ["ha.hold_down 27s to 3s"]);
    assert_eq!(
        with_ha("carp_auth: permissive"),
        ["ha.carp_auth enforce to permissive"]
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
        refused(
            "shared_addresses",
            "ha: { initial_wait: 12s }\nshared_addresses"
        ),
        ["9:21 a change of `ha.initial_wait` needs a restart"]
    );
    assert_eq!(
        refused(
            "shared_addresses",
            "ha: { virtual_mac: true }\nshared_addresses"
        ),
        ["9:20 a change of `ha.virtual_mac` needs a restart"]
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
