//! IPv6 and interfaces of two families.

use super::*;

const OWN: &str = "address: 10.0.0.11/24, partner: 10.0.0.12, ha_checks: true, gateway: 10.0.0.254";
const DUAL: &str = "address: [10.0.0.11/24, 2001:db8::11/64], partner: [10.0.0.12, 2001:db8::12], \
                    ha_checks: true, gateway: [10.0.0.254, fe80::1]";

fn ips(texts: &str) -> Vec<IpAddr> {
    texts.split(' ').map(|ip| ip.parse().unwrap()).collect()
}

/// A pair without any IPv4 address.
const ONLY: &str = "\
version: 1
node:
  name: lb1
  mode: first
  interfaces:
    - { name: front, device: eth0, address: 'fd00::11/64', partner: 'fd00::12', ha_checks: true }
shared_addresses: [{ interface: front, address: 'fd00::1:6e/64' }]
";

#[test]
fn an_interface_may_have_both_families() {
    let text = with(OWN, DUAL).replace(
        "virtual_services:\n",
        "  - { interface: front, address: 2001:db8::100/64 }\nvirtual_services:\n",
    );
    let loaded = parse(&text).unwrap();
    assert_eq!(loaded.warnings, []);
    let front = &loaded.config.node.interfaces[0];
    let own: Vec<String> = front.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["10.0.0.11/24", "2001:db8::11/64"]);
    assert_eq!(front.partners, ips("10.0.0.12 2001:db8::12"));
    assert_eq!(front.gateways, ips("10.0.0.254 fe80::1"));
    assert!(loaded.config.ha.multicast_group.is_ipv4());
}

#[test]
fn a_pair_may_have_ipv6_alone() {
    let loaded = parse(ONLY).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(
        config.ha.virtual_id, 0x6e,
        "last byte of the shared address"
    );
    assert_eq!(config.ha.multicast_group, ips("ff12::4549")[0]);
    assert_eq!(config.ha.multicast_interface, "front");
}

#[test]
fn lists_are_read_item_by_item() {
    let list = |address: &str| DUAL.replace("[10.0.0.11/24, 2001:db8::11/64]", address);
    refuses(
        OWN,
        &list("[10.0.0.11/24, 2001:db8::11]"),
        "2001:db8::11]",
        "no prefix length",
    );
    refuses(
        OWN,
        &list("[10.0.0.11/24, ~, 2001:db8::11/64]"),
        "address: [",
        "has no value",
    );
    refuses(
        OWN,
        &list("{ v4: 10.0.0.11/24 }"),
        "{ v4",
        "must be a single value, not a map",
    );
    refuses(
        OWN,
        &list("[10.0.0.11/24, 10.0.0.13/24, 2001:db8::11/64]"),
        "10.0.0.13/24",
        "a second IPv4 `address`",
    );
    refuses(
        OWN,
        &list("[10.0.0.11/24, 2001:db8::11/64, 2001:db8::12/64]"),
        "2001:db8::12], ha",
        "has the address 2001:db8::12 twice",
    );
}

#[test]
fn the_partner_has_one_address_of_a_family() {
    for (more, which) in [("10.0.0.13", "IPv4"), ("2001:db8::13", "IPv6")] {
        refuses(
            OWN,
            &DUAL.replace("2001:db8::12]", &format!("2001:db8::12, {more}]")),
            &format!("{more}]"),
            &format!("a second {which} `partner`"),
        );
    }
}

#[test]
fn families_go_together() {
    refuses(
        OWN,
        &DUAL.replace("[10.0.0.12, 2001:db8::12]", "10.0.0.12"),
        "2001:db8::11/64",
        "partner's IPv6 address on it is not given",
    );
    let only_own = DUAL.replace("[10.0.0.11/24, 2001:db8::11/64]", "2001:db8::11/64");
    let found = said(&with(OWN, &only_own));
    for (found, what) in found
        .iter()
        .zip(["partner 10.0.0.12", "gateway", "shared address"])
    {
        assert!(
            found.contains(what) && found.contains("is IPv4, but"),
            "{found}"
        );
    }
    assert_eq!(found.len(), 3, "{found:?}");
    refuses(
        OWN,
        &DUAL.replace("2001:db8::12]", "2001:db8:1::12]"),
        "2001:db8:1::12",
        "not in the subnet of 2001:db8::11/64",
    );
    refuses(
        OWN,
        &DUAL.replace("fe80::1]", "2001:db8:1::1]"),
        "2001:db8:1::1",
        "gateway 2001:db8:1::1 is not in the subnet",
    );
    refuses(
        OWN,
        &DUAL.replace("fe80::1]", "fe80::1%eth0]"),
        "fe80::1%eth0",
        "names a zone",
    );
}

#[test]
fn shared_addresses() {
    let shared = "{ interface: front, address: 10.0.0.100/24 }";
    let and = |address: &str| format!("{shared}\n  - {{ interface: front, address: {address} }}");
    refuses(
        shared,
        &and("2001:db8::100/64"),
        "2001:db8::100/64",
        "is IPv6, but `front` has no IPv6 address",
    );
    let dual = |address: &str| with(OWN, DUAL).replace(shared, &and(address));
    assert_eq!(said(&dual("fe80::6464/64")), Vec::<String>::new());
    let found = said(&dual("2001:db8:1::100/64"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("not in the subnet of `front`, 2001:db8::11/64"),
        "{found:?}"
    );
    let found = said(&dual("2001:db8::12/64"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("the partner's own address on front"),
        "{found:?}"
    );
}

#[test]
fn services_have_one_family() {
    let dual = with(OWN, DUAL)
        .replace("10.1.0.11/24, partner: 10.1.0.12", "[10.1.0.11/24, 'fd00:1::11/64'], partner: [10.1.0.12, 'fd00:1::12']")
        .replace(
            "virtual_services:\n",
            "  - { interface: front, address: 2001:db8::100/64 }\n  - { interface: back, address: 'fd00:1::1/64' }\nvirtual_services:\n",
        );
    let only6 = dual
        .replace("    address: 10.0.0.100", "    address: 2001:db8::100")
        .replace("10.1.0.21", "'fd00:1::21'")
        .replace("10.1.0.22", "'fd00:1::22'");
    let loaded = parse(&only6).unwrap();
    assert_eq!(loaded.warnings, []);
    let service = &loaded.config.virtual_services[0];
    assert_eq!(service.real_servers[1].to_string(), "[fd00:1::22]:8080");
    let with_source = only6.replace("    health", "    forwarding: full_nat\n    health");
    let service = parse(&with_source).unwrap().config.virtual_services[0].clone();
    assert_eq!(service.real_servers[0].source, Some(ips("fd00:1::1")[0]));
    let narrow = only6.replace(
        "    health",
        "    persistence: { timeout: 5m, prefix: 64 }\n    health",
    );
    assert_eq!(said(&narrow), Vec::<String>::new());

    let mixed = dual.replace("10.1.0.22", "'fd00:1::22'");
    let found = said(&mixed);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("real server fd00:1::22 is IPv6, but the service is IPv4"),
        "{found:?}"
    );
    let found = said(&only6.replace("fd00:1::22", "fe80::22"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("fe80::22 is link-local"), "{found:?}");
}

#[test]
fn replication() {
    let ha = |keys: &str| format!("ha: {{ {keys} }}\nshared_addresses");
    refuses(
        "shared_addresses",
        &ha("multicast_group: 'ff12::4549'"),
        "'ff12",
        "the interface that replication uses has no such address",
    );
    refuses(
        "shared_addresses",
        &ha("multicast_group: 'ff02::12'"),
        "'ff02",
        "a group that IANA assigns",
    );
    let global = ONLY.replace("shared_a", "ha: { multicast_group: 'ff1e::1' }\nshared_a");
    assert_eq!(
        said(&global),
        ["7:24 ff1e::1 is not an administratively scoped group"]
    );
    let other = ONLY.replace("shared_a", "ha: { multicast_group: 239.1.2.3 }\nshared_a");
    let found = said(&other);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("239.1.2.3 is IPv4"), "{found:?}");
}
