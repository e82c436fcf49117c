//! Every rule: one slip, one message at its place.

use std::fmt::Write as _;

use super::*;
use crate::config::model::{Check, HttpCheck, RecordsListen, UdpCheck};

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
fn records() {
    let records = |keys: &str| format!("records: {{ {keys} }}\nshared_addresses");
    let refused = |keys: &str, place: &str, what: &str| {
        refuses("shared_addresses", &records(keys), place, what);
    };
    refused(
        "listen: 10.0.0.11:6975",
        "10.0.0.11",
        "whoever reaches it may write",
    );
    refused(
        "listen: localhost",
        "localhost",
        "neither an address with a port nor a path",
    );
    refused("listen: 127.0.0.1:0", "127", "port 0");
    refused(
        "namespaces: [{ records: 5 }]",
        "{ records",
        "`name` has no value",
    );
    refused(
        "namespaces: [{ name: Web }]",
        "Web",
        "not a name for a namespace",
    );
    refused(
        "namespaces: [{ name: health }]",
        "health",
        "the agent itself",
    );
    refused("namespaces: [{ name: a, records: 0 }]", "0", "out of range");
    refused("namespaces: [{ name: a, bytes: 0 }]", "0", "out of range");
    refused(
        "namespaces: [{ name: a }, { name: a }]",
        "a }]",
        "given twice",
    );
    refused(
        "namespaces: [{ name: a, records: 200000 }, { name: b, records: 200000 }]",
        "namespaces: [{ name: a",
        "400000 records together",
    );
    let alone = "ha: { l4_connection_updates: false }\nrecords: { namespaces: [{ name: a }] }\n";
    refuses(
        "shared_addresses",
        &format!("{alone}shared_addresses"),
        "records:",
        "nothing is replicated",
    );
    refuses(
        "shared_addresses",
        "ha: { l4_connection_updates: false, persistence_updates: true }\nshared_addresses",
        "true",
        "nothing is replicated",
    );
}

#[test]
fn records_that_are_good() {
    let text = with(
        "shared_addresses",
        "records: { listen: \"[::1]:6975\", namespaces: [{ name: a, bytes: 7 }] }\nshared_addresses",
    );
    let records = parse(&text).unwrap().config.records;
    assert_eq!(
        records.listen,
        Some(RecordsListen::Address("[::1]:6975".parse().unwrap()))
    );
    let [namespace] = &records.namespaces[..] else {
        panic!("{records:?}");
    };
    assert_eq!(namespace.name, "a");
    assert_eq!(
        (namespace.quota.records, namespace.quota.bytes),
        (10_000, 7)
    );
}

#[test]
fn the_configuration_travels_where_both_nodes_have_addresses() {
    let ha = |keys: &str| format!("ha: {{ {keys} }}\nshared_addresses");
    let of = |keys: &str| {
        let ha = parse(&with("shared_addresses", &ha(keys)))
            .unwrap()
            .config
            .ha;
        (ha.update_interface, ha.update_port)
    };
    assert_eq!(of(""), ("back".to_owned(), 6973));
    let other = of("update_interface: front, update_port: 7000");
    assert_eq!(other, ("front".to_owned(), 7000));
    for (key, place, what) in [
        (
            "update_interface: side",
            "side",
            "no interface named `side`",
        ),
        (
            "update_interface: eth1",
            "eth1",
            "no interface named `eth1`",
        ),
        ("update_interface: cable", "cable", "without an address"),
        ("update_port: 0", "0", "out of range"),
    ] {
        refuses("shared_addresses", &ha(key), place, what);
    }
    // The port that is reserved goes with it.
    let text = with(
        "virtual_services",
        "ha: { update_interface: front, update_port: 80 }\nvirtual_services",
    );
    assert!(said(&text)[0].contains("TCP 80 on this interface is reserved"));
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
    refuses("port: 80\n", "port: 65536\n", "65536", "out of range");
    refuses("port: 80\n", "port: 90-80\n", "90-80", "ends before");
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
    refuses(
        "type: tcp",
        "type: tcp, path: /",
        "path",
        "means nothing to a check of type `tcp`",
    );
    refuses("type: tcp", "type: icmp, port: 80", "port", "means nothing");
    refuses(
        "type: tcp",
        "type: http, path: x",
        "x",
        "not the path of a URL",
    );
    refuses(
        "type: tcp",
        "type: http, host: \"a:80\"",
        "\"a:80\"",
        "not a host name",
    );
    for bad in ["99", "600", "300-200", "ok", "200-", "200 OK"] {
        refuses(
            "type: tcp",
            &format!("type: http, status: {bad}"),
            bad,
            "not a list of HTTP statuses",
        );
    }
    refuses("type: tcp", "type: dns", "dns", "is not known");
}

#[test]
fn health_of_every_type() {
    let check = |text: &str| {
        let text = with("type: tcp", text);
        let loaded = parse(&text).unwrap();
        loaded.config.virtual_services[0].health.clone().unwrap()
    };
    let http =
        check("type: https, host: www.example, status: \"200-299, 404\", body: well, port: 8443");
    assert_eq!(http.port, Some(8443));
    assert_eq!(
        http.check,
        Check::Https(HttpCheck {
            path: "/".to_owned(),
            host: Some("www.example".to_owned()),
            status: vec![200..=299, 404..=404],
            body: Some("well".to_owned()),
        })
    );
    assert_eq!(
        check("type: http, path: /a?b").check,
        Check::Http(HttpCheck {
            path: "/a?b".to_owned(),
            host: None,
            status: vec![200..=399],
            body: None,
        })
    );
    assert_eq!(
        check("type: udp, send: a, expect: b").check,
        Check::Udp(UdpCheck {
            send: "a".to_owned(),
            expect: Some("b".to_owned()),
        })
    );
    assert_eq!(check("type: icmp").check, Check::Icmp);
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
    assert!(all[0].contains("1101 virtual services are more than a pair can hold: 1024"));
}

#[test]
fn too_many_interfaces_for_an_advertisement() {
    let mut more = String::new();
    for n in 0..30 {
        writeln!(
            more,
            "    - {{ name: m{n}, device: m{n}, ha_checks: true }}"
        )
        .unwrap();
    }
    let all = said(&with(
        "shared_addresses",
        &format!("{more}shared_addresses"),
    ));
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("33 interfaces"), "{all:?}");
}
