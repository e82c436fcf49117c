//! Rules of the node's interfaces and of what makes two nodes a pair.

use std::net::IpAddr;

use super::super::model::Cidr;
use super::super::sections::Draft;
use super::super::sections::ha::last_byte;
use super::super::sections::node::{InterfaceDraft, NodeDraft};
use super::super::walk::{At, Field, Walk};
use super::{Seen, family, find, is_link_local, paired, unknown_interface};

/// Virtual ids that other equipment commonly uses.
const COMMON_IDS: u8 = 10;
/// First octet of administratively scoped groups (RFC 2365).
const SCOPED: u8 = 239;
/// Widest scope of an IPv6 group that no router forwards beyond the site (RFC 7346).
const SITE_LOCAL: u8 = 5;

pub(super) fn check(node: &NodeDraft, draft: &Draft, walk: &mut Walk<'_>) {
    interfaces(node, walk);
    ha_checks(node, draft, walk);
    multicast(node, draft, walk);
    update_interface(node, draft, walk);
    virtual_id(node, draft, walk);
    records(draft, walk);
    web(node, walk);
}

/// The page is used at addresses of interfaces that exist.
fn web(node: &NodeDraft, walk: &mut Walk<'_>) {
    let Some(web) = node.web.value() else {
        return;
    };
    for wanted in &web.interfaces.list {
        if find(node, &wanted.value).is_none() {
            unknown_interface(node, wanted, walk);
        }
    }
}

/// What travels in the stream of connections needs one.
fn records(draft: &Draft, walk: &mut Walk<'_>) {
    if draft.ha.replicates() == Some(false) {
        let remedy = "remove `l4_connection_updates: false`, or this";
        let persistence = draft.ha.persistence_updates.given();
        if let Some(given) = persistence.filter(|given| given.value) {
            let what = "nothing is replicated, so persistence is not either";
            walk.error(given.span, what, remedy);
        }
        if let Some(given) = &draft.records.given {
            let what = "nothing is replicated, so records are not either";
            walk.error(given.span, what, remedy);
        }
    }
}

fn interfaces(node: &NodeDraft, walk: &mut Walk<'_>) {
    let mut names = Seen::default();
    let mut devices = Seen::default();
    let mut addresses = Seen::default();
    for interface in &node.interfaces.list {
        names.once(walk, interface.name.given(), "an interface is named");
        devices.once(
            walk,
            interface.device.given(),
            "an interface uses the device",
        );
        for own in &interface.addresses.list {
            let own = At {
                value: own.value.address,
                span: own.span,
            };
            addresses.once(walk, Some(&own), "an interface has the address");
        }
        for partner in &interface.partners.list {
            addresses.once(walk, Some(partner), "an interface has the address");
        }
        one_source(interface, walk);
        partners(node, interface, walk);
        on_its_subnet(interface, walk);
    }
}

/// Advertisements of a family have one source. A further IPv4 address of this node would have no meaning;
/// of the partner, a further one of either family would be one that is never believed.
fn one_source(interface: &InterfaceDraft, walk: &mut Walk<'_>) {
    let own = interface.addresses.list.iter().map(|at| At {
        value: at.value.address,
        span: at.span,
    });
    let own: Vec<At<IpAddr>> = own.filter(|at| at.value.is_ipv4()).collect();
    let (v4, v6): (Vec<_>, Vec<_>) = interface
        .partners
        .list
        .iter()
        .partition(|at| at.value.is_ipv4());
    for (key, second) in [
        ("address", own.get(1)),
        ("partner", v4.get(1).copied()),
        ("partner", v6.get(1).copied()),
    ] {
        if let Some(second) = second {
            let family = family(second.value);
            walk.error(
                second.span,
                format!("a second {family} `{key}`"),
                format!(
                    "keep one: a node is known by one {family} address on each interface, the first \
                     of its `address`"
                ),
            );
        }
    }
}

/// Where HA checks run, the partner is known by an address of each family.
fn partners(node: &NodeDraft, interface: &InterfaceDraft, walk: &mut Walk<'_>) {
    if paired(node) != Some(true) || !interface.checks() || !interface.partners.known {
        return;
    }
    for v6 in [false, true] {
        let mut own = interface.addresses.list.iter();
        let own = own.find(|at| at.value.address.is_ipv6() == v6);
        let mut partners = interface.partners.list.iter();
        let missing = !partners.any(|at| at.value.is_ipv6() == v6);
        if let Some(own) = own.filter(|_| missing) {
            let which = if interface.partners.list.is_empty() {
                "partner's address"
            } else if v6 {
                "partner's IPv6 address"
            } else {
                "partner's IPv4 address"
            };
            walk.error(
                own.span,
                format!("HA checks run over this interface but the {which} on it is not given"),
                "add `partner:` with the address the other node has here",
            );
            return;
        }
    }
}

/// Partner and gateway must be neighbours.
fn on_its_subnet(interface: &InterfaceDraft, walk: &mut Walk<'_>) {
    for (key, neighbours) in [
        ("partner", &interface.partners),
        ("gateway", &interface.gateways),
    ] {
        for neighbour in &neighbours.list {
            if interface.is_unnumbered() {
                walk.error(
                    neighbour.span,
                    format!("`{key}` on an interface without an address"),
                    "add `address:`, or remove this key: a heartbeat link needs neither",
                );
            } else if interface.addresses.known {
                neighbour_on(&interface.addresses.list, key, neighbour, walk);
            }
        }
    }
    for gateway in &interface.gateways.list {
        let mut partners = interface.partners.list.iter();
        if partners.any(|partner| partner.value == gateway.value) {
            walk.error(
                gateway.span,
                "the gateway is the partner, so it could not tell a dead link from a dead partner",
                "write the address of the next router",
            );
        }
    }
}

fn neighbour_on(own: &[At<Cidr>], key: &str, neighbour: &At<IpAddr>, walk: &mut Walk<'_>) {
    let address = neighbour.value;
    let Some(like) = own
        .iter()
        .find(|own| own.value.address.is_ipv6() == address.is_ipv6())
    else {
        let family = family(address);
        return walk.error(
            neighbour.span,
            format!("{key} {address} is {family}, but this interface has no {family} `address`"),
            "add the node's own address of that family, or remove this one",
        );
    };
    let near = own.iter().any(|own| own.value.contains(address));
    if !near && (key != "gateway" || !is_link_local(address)) {
        walk.error(
            neighbour.span,
            format!("{key} {address} is not in the subnet of {}", like.value),
            "write an address in that subnet, or correct the prefix length",
        );
    } else if key == "gateway" && own.iter().any(|own| own.value.address == address) {
        walk.error(
            neighbour.span,
            format!("gateway {address} is this node's own address"),
            "write the address of the next router",
        );
    }
}

fn ha_checks(node: &NodeDraft, draft: &Draft, walk: &mut Walk<'_>) {
    let all = &node.interfaces;
    let readable = all.list.iter().all(|i| !matches!(i.ha_checks, Field::Bad));
    if paired(node) != Some(true) || !all.known || !readable || all.list.is_empty() {
        return;
    }
    let mut checked = all.list.iter().filter(|i| i.checks()).peekable();
    if checked.peek().is_none() {
        walk.error(
            all.span,
            "HA checks run over no interface, so the nodes would not see each other",
            "add `ha_checks: true` to at least one interface",
        );
        return;
    }
    let shared = &draft.shared;
    let carries = |name: &String| {
        let mut names = shared.list.iter().map(|shared| shared.interface.value());
        names.any(|wanted| wanted.is_none_or(|wanted| wanted == name))
    };
    if shared.known
        && !shared.list.is_empty()
        && !checked.any(|i| i.name.value().is_none_or(carries))
    {
        walk.warn(
            all.span,
            "HA checks run over no interface with a shared address: a dead production link would \
             go unseen",
            "add `ha_checks: true` to an interface that has a shared address",
        );
    }
}

fn multicast(node: &NodeDraft, draft: &Draft, walk: &mut Walk<'_>) {
    let ha = &draft.ha;
    if let Some(group) = ha.multicast_group.given() {
        let (scoped, remedy) = match group.value {
            IpAddr::V4(v4) => (
                v4.octets()[0] == SCOPED,
                "use one from 239.0.0.0/8 (RFC 2365)",
            ),
            IpAddr::V6(v6) => (
                v6.octets()[1] & 0x0f <= SITE_LOCAL,
                "use one of link-local scope, for example `ff12::4549`",
            ),
        };
        if !scoped {
            walk.warn(
                group.span,
                format!("{} is not an administratively scoped group", group.value),
                format!("{remedy}, so that no router forwards it"),
            );
        }
    }
    if paired(node) != Some(true) || ha.replicates() != Some(true) || !node.interfaces.known {
        return;
    }
    let mut all = node.interfaces.list.iter();
    match &ha.multicast_interface {
        Field::Given(wanted) => match find(node, &wanted.value) {
            Some(interface) if interface.is_unnumbered() => walk.error(
                wanted.span,
                format!("`{}` is a heartbeat link without an address", wanted.value),
                "replication needs an interface with an address",
            ),
            Some(interface) => reached_over(interface, draft, walk),
            None => unknown_interface(node, wanted, walk),
        },
        Field::Absent if all.clone().any(InterfaceDraft::checks) => {
            if let Some(interface) = all.rfind(|i| i.checks() && !i.is_unnumbered()) {
                reached_over(interface, draft, walk);
            } else {
                walk.error(
                    node.interfaces.span,
                    "replication has no interface: none with HA checks has an address",
                    "add `multicast_interface:` under `ha` with the name of an interface that has \
                     an address, or `l4_connection_updates: false`",
                );
            }
        }
        Field::Absent | Field::Bad => {}
    }
}

/// The configuration travels between the nodes' own addresses.
fn update_interface(node: &NodeDraft, draft: &Draft, walk: &mut Walk<'_>) {
    let Field::Given(wanted) = &draft.ha.update_interface else {
        return;
    };
    if paired(node) != Some(true) || !node.interfaces.known {
        return;
    }
    let Some(interface) = find(node, &wanted.value) else {
        return unknown_interface(node, wanted, walk);
    };
    if interface.is_unnumbered() {
        walk.error(
            wanted.span,
            format!("`{}` is a heartbeat link without an address", wanted.value),
            "replication of the configuration needs an interface with an address",
        );
    } else if interface.partners.known && interface.partners.list.is_empty() {
        walk.error(
            wanted.span,
            format!("the partner's address on `{}` is not given", wanted.value),
            "add `partner:` to that interface, or name another one",
        );
    }
}

/// The group must be of a family that both nodes have on the interface.
fn reached_over(interface: &InterfaceDraft, draft: &Draft, walk: &mut Walk<'_>) {
    let Some(group) = draft.ha.multicast_group.given() else {
        return;
    };
    let v6 = group.value.is_ipv6();
    let mut own = interface.addresses.list.iter();
    if interface.addresses.known && !own.any(|own| own.value.address.is_ipv6() == v6) {
        walk.error(
            group.span,
            format!(
                "{} is {}, and the interface that replication uses has no such address",
                group.value,
                family(group.value)
            ),
            "write a group of the interface's family, or name another `multicast_interface`",
        );
    }
}

fn virtual_id(node: &NodeDraft, draft: &Draft, walk: &mut Walk<'_>) {
    if paired(node) != Some(true) {
        return;
    }
    let first = draft
        .shared
        .list
        .first()
        .map(|shared| shared.address.given());
    let (id, span) = match (draft.ha.virtual_id.given(), first) {
        (Some(at), _) => (at.value, at.span),
        (None, Some(Some(at))) if draft.ha.virtual_id.is_absent() => {
            (last_byte(at.value.address), at.span)
        }
        (None, None) if draft.ha.virtual_id.is_absent() && draft.shared.known => {
            walk.error(
                draft.ha.span,
                "`virtual_id` is not given and there is no shared address to derive it from",
                "add for example `virtual_id: 110`, unique on the LAN",
            );
            return;
        }
        _ => return,
    };
    if id == 0 {
        walk.error(
            span,
            "the virtual id derived from the first shared address would be 0",
            "add `virtual_id:` under `ha` with a number from 1 to 255, unique on the LAN",
        );
    } else if id <= COMMON_IDS {
        walk.warn(
            span,
            format!("virtual id {id} is one that VRRP routers commonly use"),
            format!(
                "set `virtual_id` to a number above {COMMON_IDS} that no CARP or VRRP device on \
                 the LAN uses"
            ),
        );
    }
}
