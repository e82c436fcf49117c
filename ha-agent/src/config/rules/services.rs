//! Rules of virtual services and their real servers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::super::model::{Cidr, Protocol};
use super::super::sections::Draft;
use super::super::sections::services::ServiceDraft;
use super::super::walk::Walk;
use super::Seen;

/// TCP port of the pair's configuration channel.
const UPDATE_PORT: u16 = 6973;
/// TCP port of the node's own SSH.
const SSH_PORT: u16 = 22;

pub(super) fn check(draft: &Draft, walk: &mut Walk<'_>) {
    let own = draft.own_addresses();
    let shared: BTreeSet<IpAddr> = draft
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
    let subnets_known = interfaces_known && draft.interfaces().all(|i| i.addresses.known);
    let subnets: Vec<Cidr> = draft
        .interfaces()
        .filter(|_| subnets_known)
        .flat_map(|i| i.addresses.list.iter().map(|at| at.value))
        .collect();
    let mut names = Seen::default();
    let mut listeners = Seen::default();
    for service in &draft.services.list {
        names.once(walk, service.name.given(), "a virtual service is named");
        listener(service, &mut listeners, walk);
        address(service, &own, &shared, shared_known, walk);
        if let (Some(at), Some(port)) = (service.address.value(), service.port.given())
            && port.value == UPDATE_PORT
            && service.protocol.or_default(Protocol::Tcp) == Some(Protocol::Tcp)
            && reserved.contains(&IpAddr::V4(*at))
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
fn reserved_addresses(draft: &Draft) -> BTreeSet<IpAddr> {
    let default = || {
        let mut usable = draft.interfaces().rev();
        usable
            .find(|i| i.checks() && i.has_address())
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
    own: &[(IpAddr, String)],
    shared: &BTreeSet<IpAddr>,
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
    } else if shared_known && !shared.contains(&IpAddr::V4(at.value)) {
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
    own: &[(IpAddr, String)],
    shared: &BTreeSet<IpAddr>,
    subnets: &[Cidr],
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
        if shared.contains(&IpAddr::V4(address.value)) {
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
        } else if !subnets.is_empty() && !subnets.iter().any(|s| s.contains(address.value.into())) {
            walk.warn(
                address.span,
                format!("{} is in the subnet of no interface", address.value),
                "its answers must come back through the active node: check its routes",
            );
        }
    }
}
