//! Rules between sections: what each value means for the others.
//!
//! A rule speaks only about values that could be read, so that one mistake is reported once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ha_common::maps::{ADDRS_ENTRIES, REALS_ENTRIES, SERVICES_ENTRIES};

use super::diagnostic::Span;
use super::model::{Cidr4, Mode, Protocol};
use super::sections::Draft;
use super::sections::node::{InterfaceDraft, NodeDraft};
use super::sections::services::ServiceDraft;
use super::walk::{At, Field, Walk};

/// TCP port of the pair's configuration channel.
const UPDATE_PORT: u16 = 6973;
/// TCP port of the node's own SSH.
const SSH_PORT: u16 = 22;
/// Virtual ids that other equipment commonly uses.
const COMMON_IDS: u8 = 10;
/// First octet of administratively scoped groups (RFC 2365).
const SCOPED: u8 = 239;

pub(crate) fn check(draft: &Draft, walk: &mut Walk<'_>) {
    if let Some(node) = &draft.node {
        interfaces(node, walk);
        ha_checks(node, draft, walk);
        multicast(node, draft, walk);
    }
    virtual_id(draft, walk);
    shared_addresses(draft, walk);
    services(draft, walk);
    sizes(draft, walk);
}

/// Whether the node belongs to a pair; unknown if the mode was refused.
fn paired(node: &NodeDraft) -> Option<bool> {
    node.mode.value().map(|mode| *mode != Mode::Off)
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
        let own = interface.address.given().map(|at| At {
            value: at.value.address,
            span: at.span,
        });
        addresses.once(walk, own.as_ref(), "an interface has the address");
        let partner = interface.partner.given();
        addresses.once(walk, partner, "an interface has the address");
        on_its_subnet(interface, walk);
        if paired(node) == Some(true)
            && let Some(address) = interface.address.given()
            && interface.checks()
            && interface.partner.is_absent()
        {
            walk.error(
                address.span,
                "HA checks run over this interface but the partner's address on it is not given",
                "add `partner:` with the address the other node has here",
            );
        }
    }
}

/// Partner and gateway must be neighbours.
fn on_its_subnet(interface: &InterfaceDraft, walk: &mut Walk<'_>) {
    let neighbours = [
        ("partner", interface.partner.given()),
        ("gateway", interface.gateway.given()),
    ];
    for (key, neighbour) in neighbours {
        let Some(neighbour) = neighbour else { continue };
        if interface.address.is_absent() {
            walk.error(
                neighbour.span,
                format!("`{key}` on an interface without an address"),
                "add `address:`, or remove this key: a heartbeat link needs neither",
            );
        } else if let Some(own) = interface.address.value() {
            if !own.contains(neighbour.value) {
                walk.error(
                    neighbour.span,
                    format!("{key} {} is not in the subnet of {own}", neighbour.value),
                    "write an address in that subnet, or correct the prefix length",
                );
            } else if own.address == neighbour.value && key == "gateway" {
                walk.error(
                    neighbour.span,
                    format!("gateway {} is this node's own address", neighbour.value),
                    "write the address of the next router",
                );
            }
        }
    }
    if let (Some(partner), Some(gateway)) = (interface.partner.value(), interface.gateway.given())
        && *partner == gateway.value
    {
        walk.error(
            gateway.span,
            "the gateway is the partner, so it could not tell a dead link from a dead partner",
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
    if let Some(group) = ha.multicast_group.given()
        && group.value.octets().first() != Some(&SCOPED)
    {
        walk.warn(
            group.span,
            format!("{} is not an administratively scoped group", group.value),
            "use one from 239.0.0.0/8 (RFC 2365), so that no router forwards it",
        );
    }
    if paired(node) != Some(true) || ha.replicates() != Some(true) || !node.interfaces.known {
        return;
    }
    let mut all = node.interfaces.list.iter();
    match &ha.multicast_interface {
        Field::Given(wanted) => match find(node, &wanted.value) {
            Some(interface) if interface.address.is_absent() => walk.error(
                wanted.span,
                format!("`{}` is a heartbeat link without an address", wanted.value),
                "replication needs an interface with an address",
            ),
            Some(_) => {}
            None => unknown_interface(node, wanted, walk),
        },
        Field::Absent if all.clone().any(InterfaceDraft::checks) => {
            if !all.any(|i| i.checks() && !i.address.is_absent()) {
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

fn find<'d>(node: &'d NodeDraft, name: &str) -> Option<&'d InterfaceDraft> {
    let mut all = node.interfaces.list.iter();
    all.find(|i| i.name.value().is_some_and(|n| n == name))
}

fn unknown_interface(node: &NodeDraft, wanted: &At<String>, walk: &mut Walk<'_>) {
    let all = &node.interfaces;
    // One that could not be read may be the one that is meant.
    if !all.known || all.list.iter().any(|i| i.name.value().is_none()) {
        return;
    }
    let names: Vec<&str> = all
        .list
        .iter()
        .filter_map(|i| i.name.value().map(String::as_str))
        .collect();
    let device = all
        .list
        .iter()
        .any(|i| i.device.value() == Some(&wanted.value));
    let remedy = if device {
        "write the interface's `name`, not its device"
    } else {
        "write one of the names under `node.interfaces`"
    };
    walk.error(
        wanted.span,
        format!("there is no interface named `{}`", wanted.value),
        format!("{remedy}: {}", names.join(", ")),
    );
}

fn virtual_id(draft: &Draft, walk: &mut Walk<'_>) {
    let Some(true) = draft.node.as_ref().and_then(paired) else {
        return;
    };
    let first = draft
        .shared
        .list
        .first()
        .map(|shared| shared.address.given());
    let (id, span) = match (draft.ha.virtual_id.given(), first) {
        (Some(at), _) => (at.value, at.span),
        (None, Some(Some(at))) if draft.ha.virtual_id.is_absent() => {
            let [.., last] = at.value.address.octets();
            (last, at.span)
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

fn shared_addresses(draft: &Draft, walk: &mut Walk<'_>) {
    let own = draft.own_addresses();
    let mut seen = Seen::default();
    for shared in &draft.shared.list {
        let address = shared.address.given().map(|at| At {
            value: at.value.address,
            span: at.span,
        });
        seen.once(walk, address.as_ref(), "a shared address is");
        if let Some(at) = &address
            && let Some((_, whose)) = own.iter().find(|(own, _)| *own == at.value)
        {
            walk.error(
                at.span,
                format!("shared address {} is {whose}", at.value),
                "give the pair an address of its own: three addresses per subnet",
            );
        }
        let (Some(node), Some(name)) = (&draft.node, shared.interface.given()) else {
            continue;
        };
        let Some(interface) = find(node, &name.value) else {
            unknown_interface(node, name, walk);
            continue;
        };
        if interface.address.is_absent() {
            walk.error(
                name.span,
                format!(
                    "`{}` is a heartbeat link without an address and cannot carry a shared one",
                    name.value
                ),
                "add `address:` to the interface, or name another",
            );
        }
        if let (Some(own), Some(at)) = (interface.address.value(), &address) {
            in_subnet(*own, at, &name.value, walk);
        }
        if let (Some(gateway), Some(at)) = (interface.gateway.value(), &address)
            && *gateway == at.value
        {
            walk.error(
                at.span,
                format!(
                    "shared address {} is the gateway of `{}`",
                    at.value, name.value
                ),
                "give the pair an address of its own",
            );
        }
    }
}

fn in_subnet(own: Cidr4, at: &At<Ipv4Addr>, name: &str, walk: &mut Walk<'_>) {
    if !own.contains(at.value) {
        walk.error(
            at.span,
            format!(
                "shared address {} is not in the subnet of `{name}`, {own}",
                at.value
            ),
            "write an address in that subnet, or name another interface",
        );
    }
}

fn services(draft: &Draft, walk: &mut Walk<'_>) {
    let own = draft.own_addresses();
    let shared: BTreeSet<Ipv4Addr> = draft
        .shared
        .list
        .iter()
        .filter_map(|shared| shared.address.value().map(|cidr| cidr.address))
        .collect();
    let shared_known = draft.shared.known
        && draft
            .shared
            .list
            .iter()
            .all(|s| s.address.value().is_some());
    let reserved = reserved_addresses(draft);
    let interfaces_known = draft
        .node
        .as_ref()
        .is_some_and(|node| node.interfaces.known);
    let subnets: Option<Vec<Cidr4>> = draft
        .interfaces()
        .filter(|i| !i.address.is_absent())
        .map(|i| i.address.value().copied())
        .collect();
    let subnets = subnets.filter(|_| interfaces_known).unwrap_or_default();
    let mut names = Seen::default();
    let mut listeners = Seen::default();
    for service in &draft.services.list {
        names.once(walk, service.name.given(), "a virtual service is named");
        listener(service, &mut listeners, walk);
        address(service, &own, &shared, shared_known, walk);
        if let (Some(at), Some(port)) = (service.address.value(), service.port.given())
            && port.value == UPDATE_PORT
            && service.protocol.or_default(Protocol::Tcp) == Some(Protocol::Tcp)
            && reserved.contains(at)
        {
            walk.error(
                port.span,
                format!(
                    "TCP {UPDATE_PORT} on this interface is reserved for the pair's own \
                     configuration updates"
                ),
                "choose another port, or an address on another interface",
            );
        }
        real_servers(service, &own, &shared, &subnets, walk);
    }
}

/// Shared addresses on the interface that the pair's own traffic uses.
fn reserved_addresses(draft: &Draft) -> BTreeSet<Ipv4Addr> {
    let default = || {
        let mut usable = draft.interfaces().rev();
        usable
            .find(|i| i.checks() && i.address.given().is_some())
            .and_then(|i| i.name.value().cloned())
    };
    let name = draft.ha.multicast_interface.value().cloned();
    let name = name.or_else(default);
    draft
        .shared
        .list
        .iter()
        .filter(|shared| shared.interface.value() == name.as_ref())
        .filter_map(|shared| shared.address.value().map(|cidr| cidr.address))
        .collect()
}

fn listener(
    service: &ServiceDraft,
    seen: &mut Seen<(Ipv4Addr, u16, &'static str)>,
    walk: &mut Walk<'_>,
) {
    let (Some(address), Some(port), Some(protocol)) = (
        service.address.value(),
        service.port.given(),
        service.protocol.or_default(Protocol::Tcp),
    ) else {
        return;
    };
    let value = (*address, port.value, protocol.as_str());
    let span = port.span;
    if !seen.first(value) {
        walk.error(
            span,
            format!(
                "another virtual service already listens on {address}, {} port {}",
                protocol.as_str(),
                port.value
            ),
            "merge the two, or change one's address, port or protocol",
        );
    }
}

fn address(
    service: &ServiceDraft,
    own: &[(Ipv4Addr, String)],
    shared: &BTreeSet<Ipv4Addr>,
    shared_known: bool,
    walk: &mut Walk<'_>,
) {
    let Some(at) = service.address.given() else {
        return;
    };
    if let Some((_, whose)) = own.iter().find(|(address, _)| *address == at.value) {
        let ssh = service.port.value() == Some(&SSH_PORT)
            && service.protocol.or_default(Protocol::Tcp) == Some(Protocol::Tcp);
        let note = if ssh {
            ", and TCP 22 there is the node's own SSH"
        } else {
            ""
        };
        walk.error(
            at.span,
            format!("{} is {whose}{note}", at.value),
            "a virtual service listens on a shared address",
        );
    } else if shared_known && !shared.contains(&at.value) {
        walk.error(
            at.span,
            format!("{} is not a shared address", at.value),
            format!(
                "add `- {{ interface: ..., address: {}/.. }}` to `shared_addresses`, or use one of \
                 those",
                at.value
            ),
        );
    }
}

fn real_servers(
    service: &ServiceDraft,
    own: &[(Ipv4Addr, String)],
    shared: &BTreeSet<Ipv4Addr>,
    subnets: &[Cidr4],
    walk: &mut Walk<'_>,
) {
    let mut seen = Seen::default();
    for real in &service.real_servers.list {
        let Some(address) = real.address.given() else {
            continue;
        };
        if let Some(port) = real.port.value()
            && !seen.first((address.value, *port))
        {
            walk.error(
                address.span,
                format!(
                    "real server {}:{port} is listed twice in this service",
                    address.value
                ),
                "keep one of the two; `weight` gives it a larger share",
            );
        }
        if shared.contains(&address.value) {
            walk.error(
                address.span,
                format!("{} is a shared address", address.value),
                "write the real server's own address",
            );
        } else if let Some((_, whose)) = own.iter().find(|(own, _)| *own == address.value) {
            walk.error(
                address.span,
                format!("{} is {whose}", address.value),
                "a real server is a host behind the pair",
            );
        } else if !subnets.is_empty() && !subnets.iter().any(|s| s.contains(address.value)) {
            walk.warn(
                address.span,
                format!("{} is in the subnet of no interface", address.value),
                "its answers must come back through the active node: check its routes",
            );
        }
    }
}

/// The data plane's tables are of fixed size.
fn sizes(draft: &Draft, walk: &mut Walk<'_>) {
    let mut check = |count: usize, most: u32, span: Span, what: &str| {
        if count > most as usize {
            walk.error(
                span,
                format!("{count} {what}; the data plane holds {most}"),
                "remove some, or spread them over several pairs",
            );
        }
    };
    check(
        draft.services.list.len(),
        SERVICES_ENTRIES,
        draft.services.span,
        "virtual services",
    );
    let reals = draft
        .services
        .list
        .iter()
        .map(|s| s.real_servers.list.len());
    let reals = reals.sum();
    // Id 0 is never given out.
    check(
        reals,
        REALS_ENTRIES - 1,
        draft.services.span,
        "real servers",
    );
    let own = draft.own_addresses().len();
    check(
        draft.shared.list.len() + own,
        ADDRS_ENTRIES,
        draft.shared.span,
        "addresses",
    );
}

/// Values that may occur once.
struct Seen<T>(BTreeSet<T>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Ord + Clone> Seen<T> {
    /// Whether the value had not been seen.
    fn first(&mut self, value: T) -> bool {
        self.0.insert(value)
    }
}

impl<T: Ord + Clone + std::fmt::Display> Seen<T> {
    fn once(&mut self, walk: &mut Walk<'_>, at: Option<&At<T>>, what: &str) {
        let Some(at) = at else { return };
        if !self.first(at.value.clone()) {
            walk.error(
                at.span,
                format!("{what} {} twice", at.value),
                "each must occur once",
            );
        }
    }
}
