//! Rules of the real servers of a virtual service.

use std::net::IpAddr;

use ha_common::service::Forwarding;

use super::super::model::Ports;
use super::super::sections::services::{RealDraft, ServiceDraft, source_of};
use super::super::walk::{At, Walk};
use super::services::Surroundings;
use super::{Seen, family, is_link_local};

pub(super) fn check(service: &ServiceDraft, around: &Surroundings, walk: &mut Walk<'_>) {
    let mut seen = Seen::default();
    for real in service.all_servers() {
        port(service, real, walk);
        let Some(address) = real.address.given() else {
            continue;
        };
        once(service, real, address, &mut seen, walk);
        if around.is_shared(address.value) {
            walk.error(
                address.span,
                format!("{} is a shared address", address.value),
                "write the real server's own address",
            );
        } else if let Some(whose) = around.whose(address.value) {
            walk.error(
                address.span,
                format!("{} is {whose}", address.value),
                "a real server is a host behind the pair",
            );
        } else if same_family(service, address, walk) {
            way(service, address, around, walk);
        }
    }
}

/// A real server has one place in a service.
fn once(
    service: &ServiceDraft,
    real: &RealDraft,
    address: &At<IpAddr>,
    seen: &mut Seen<(IpAddr, u16)>,
    walk: &mut Walk<'_>,
) {
    // Without a port of its own it has that of the packet, which is the service's.
    let own = real.port.value().copied();
    let packets = || service.ports.value().map(|ports| *ports.numbers().start());
    let absent = real.port.or_default(0).is_some();
    let Some(port) = own.or_else(|| packets().filter(|_| absent)) else {
        return;
    };
    if !seen.first((address.value, port)) {
        let last_resort = service
            .last_resort
            .value()
            .is_some_and(|last| std::ptr::eq(last, real));
        let remedy = if last_resort {
            "the last resort is for when no real server is left: name another"
        } else {
            "keep one of the two; `weight` gives it a larger share"
        };
        let name = match real.port.value() {
            Some(port) => std::net::SocketAddr::new(address.value, *port).to_string(),
            None => address.value.to_string(),
        };
        walk.error(
            address.span,
            format!("real server {name} is listed twice in this service"),
            remedy,
        );
    }
}

/// The port is rewritten only where the destination is, and then to one port.
fn port(service: &ServiceDraft, real: &RealDraft, walk: &mut Walk<'_>) {
    let (Some(at), Some(ports), Some(forwarding)) = (
        real.port.given(),
        service.ports.value(),
        service.forwarding(),
    ) else {
        return;
    };
    match (ports, forwarding) {
        (Ports::Range { .. } | Ports::Any, _) => walk.error(
            at.span,
            "a real server of a service with several ports gets packets at the port they were sent to",
            "remove `port`",
        ),
        (Ports::One(_), Forwarding::Nat | Forwarding::FullNat) => {}
        (Ports::One(port), Forwarding::Dsr | Forwarding::Tunnel) if at.value == *port => {}
        (Ports::One(port), Forwarding::Dsr | Forwarding::Tunnel) => walk.error(
            at.span,
            format!(
                "with `forwarding: {}` packets reach the real server as they were sent, at port {port}",
                forwarding.as_str()
            ),
            "remove `port`, or choose `nat` or `full_nat`",
        ),
    }
}

fn same_family(service: &ServiceDraft, at: &At<IpAddr>, walk: &mut Walk<'_>) -> bool {
    let Some(listens) = service.address.value() else {
        return false;
    };
    if listens.is_ipv4() != at.value.is_ipv4() {
        walk.error(
            at.span,
            format!(
                "real server {} is {}, but the service is {}",
                at.value,
                family(at.value),
                family(*listens)
            ),
            "write an address of the service's family, or give the real server a service of its own",
        );
        return false;
    }
    true
}

/// How packets get there, and answers back.
fn way(service: &ServiceDraft, at: &At<IpAddr>, around: &Surroundings, walk: &mut Walk<'_>) {
    if is_link_local(at.value) {
        walk.error(
            at.span,
            format!(
                "{} is link-local, which does not say on which interface",
                at.value
            ),
            "write an address of the real server that is unique",
        );
        return;
    }
    let Some(forwarding) = service.forwarding() else {
        return;
    };
    let near = around
        .subnets
        .as_ref()
        .is_none_or(|subnets| subnets.iter().any(|subnet| subnet.contains(at.value)));
    match forwarding {
        // Without any network there is nothing that it could be in, which is reported elsewhere.
        Forwarding::Nat if !near && around.subnets.as_ref().is_some_and(|s| !s.is_empty()) => {
            walk.warn(
                at.span,
                format!("{} is in the subnet of no interface", at.value),
                "its answers must come back through the active node: check its routes",
            );
        }
        Forwarding::Dsr if !near => walk.error(
            at.span,
            format!(
                "{} is in the subnet of no interface, and with `forwarding: dsr` a real server must be \
                 a neighbour",
                at.value
            ),
            "write an address in the subnet of an interface, or choose `tunnel`",
        ),
        Forwarding::FullNat => full_nat(service, at, around, walk),
        Forwarding::Nat | Forwarding::Dsr | Forwarding::Tunnel => {}
    }
}

fn full_nat(service: &ServiceDraft, at: &At<IpAddr>, around: &Surroundings, walk: &mut Walk<'_>) {
    let Some(listens) = service.address.value() else {
        return;
    };
    if !service.source.is_absent() || !around.shared_known {
        return;
    }
    let shared = around.shared.iter().copied();
    if source_of(Forwarding::FullNat, *listens, at.value, None, shared).is_none() {
        walk.error(
            at.span,
            format!(
                "no shared address is in the network of {}, so it is not known what stands in for \
                 clients there",
                at.value
            ),
            "add `source:` with a shared address to the service",
        );
    }
}
