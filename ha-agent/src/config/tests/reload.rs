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
        refused(
            "virtual_services",
            "limits: { connections: 2000, new_flows: 1 }\nvirtual_services"
        ),
        ["12:24 a change of `limits.connections` needs a restart"]
    );
    assert_eq!(
        refused(
            "virtual_services",
            "limits: { connections_ipv6: 2000 }\nvirtual_services"
        ),
        ["12:29 a change of `limits.connections_ipv6` needs a restart"]
    );
    assert_eq!(
        refused("10.1.0.1/24", "10.1.0.2/24"),
        ["10:3 a change of `shared_addresses` needs a restart"]
    );
}

#[test]
fn services_may_change() {
    assert_eq!(
        applied("name: web", "name: www"),
        ["www: virtual service added", "web: virtual service removed"]
    );
    let of_service = |more: &str| applied("port: 80\n", &format!("port: 80\n    {more}\n"));
    for (more, said) in [
        ("scheduler: wlc", "web: scheduler mh to wlc"),
        (
            "persistence: { timeout: 5m }",
            "web: persistence none to 300s /32",
        ),
        (
            "last_resort: { address: 10.1.0.99 }",
            "web: last_resort none to 10.1.0.99",
        ),
        ("on_down: reset", "web: on_down keep to reset"),
        ("resteer: false", "web: resteer true to false"),
        ("protocol: tcp", ""),
        (
            "timeouts: { udp: 9s }",
            "web: timeouts 900s/120s/30s/120s to 900s/120s/30s/9s",
        ),
    ] {
        assert_eq!(of_service(more).join(""), said);
    }
    assert_eq!(
        applied("port: 80\n", "port: 8080\n"),
        ["web: port 80 to 8080"]
    );
    assert_eq!(
        of_service("forwarding: full_nat"),
        [
            "web: forwarding nat to full_nat",
            "web: real server 10.1.0.21:8080 source none to 10.1.0.1",
            "web: real server 10.1.0.22:8080 source none to 10.1.0.1",
        ]
    );
    assert_eq!(
        applied(
            "10.1.0.22, port: 8080",
            "10.1.0.22, port: 8080, connections: 9"
        ),
        ["web: real server 10.1.0.22:8080 connections 0 to 9"]
    );
    assert_eq!(
        applied(
            "virtual_services",
            "limits: { new_flows: 0 }\nvirtual_services"
        ),
        ["limits.new_flows 100000 to 0"]
    );
}

#[test]
fn a_refused_reload_changes_nothing_even_in_part() {
    let text = with("name: lb1", "name: lbx").replace("10.1.0.22", "10.1.0.23");
    let old = parse(GOOD).unwrap().config;
    assert_eq!(diff(&old, &parse(&text).unwrap()).unwrap_err().len(), 1);
}
