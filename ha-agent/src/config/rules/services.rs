//! Rules of virtual services: where they listen, and what goes together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ha_common::maps::SERVICES_ENTRIES;
use ha_common::service::Forwarding;

use super::super::model::{Cidr, Ports, Protocol};
use super::super::sections::Draft;
use super::super::sections::services::{ServiceDraft, bits};
use super::super::walk::Walk;
use super::{Seen, family, servers};

/// TCP port of the node's own SSH.
const SSH_PORT: u16 = 22;

/// What services are put into.
pub(super) struct Surroundings {
    /// Addresses of the two nodes themselves, with whose they are.
    pub(super) own: Vec<(IpAddr, String)>,
    /// Shared addresses.
    pub(super) shared: Vec<Cidr>,
    /// Whether these are certainly all.
    pub(super) shared_known: bool,
    /// Networks of this node's interfaces; none if they are not all known.
    pub(super) subnets: Option<Vec<Cidr>>,
}

impl Surroundings {
    fn of(draft: &Draft) -> Self {
        let shared = &draft.shared;
        let interfaces_known = draft.node.as_ref().is_some_and(|n| n.interfaces.known)
            && draft.interfaces().all(|i| i.addresses.known);
        let subnets = || {
            let interfaces = draft.interfaces();
            interfaces.flat_map(|i| i.addresses.list.iter().map(|at| at.value))
        };
        Self {
            own: draft.own_addresses(),
            shared: shared
                .list
                .iter()
                .filter_map(|s| s.address.value().copied())
                .collect(),
            shared_known: shared.known && shared.list.iter().all(|s| s.address.value().is_some()),
            subnets: interfaces_known.then(|| subnets().collect()),
        }
    }

    /// Whether an address is a shared one.
    pub(super) fn is_shared(&self, address: IpAddr) -> bool {
        self.shared.iter().any(|cidr| cidr.address == address)
    }

    /// Whose own address this is, if it is a node's.
    pub(super) fn whose(&self, address: IpAddr) -> Option<&str> {
        let mut own = self.own.iter();
        own.find(|(own, _)| *own == address)
            .map(|(_, whose)| whose.as_str())
    }
}

pub(super) fn check(draft: &Draft, walk: &mut Walk<'_>) {
    let around = Surroundings::of(draft);
    let reserved = reserved_addresses(draft);
    let mut names = Seen::default();
    let mut listeners = Listeners::default();
    for service in &draft.services.list {
        names.once(walk, service.name.given(), "a virtual service is named");
        listeners.add(service, walk);
        address(service, &around, walk);
        update_port(service, draft, &reserved, walk);
        page_port(service, draft, walk);
        source(service, &around, walk);
        persistence(service, walk);
        servers::check(service, &around, walk);
    }
    if listeners.ports > SERVICES_ENTRIES as usize {
        walk.error(
            draft.services.span,
            format!(
                "the virtual services have {} ports together, more than a pair can hold: \
                 {SERVICES_ENTRIES}",
                listeners.ports
            ),
            "make ranges shorter, or give a service `port: any`, which counts once",
        );
    }
}

/// Shared addresses on the interface over which the configuration is replicated.
fn reserved_addresses(draft: &Draft) -> BTreeSet<IpAddr> {
    let default = || {
        let mut usable = draft.interfaces().rev();
        usable
            .find(|i| i.checks() && i.has_address())
            .and_then(|i| i.name.value().cloned())
    };
    let name = draft.ha.update_interface.value().cloned();
    let name = name.or_else(default);
    draft
        .shared
        .list
        .iter()
        .filter(|shared| shared.interface.value() == name.as_ref())
        .filter_map(|shared| shared.address.value().map(|cidr| cidr.address))
        .collect()
}

fn update_port(
    service: &ServiceDraft,
    draft: &Draft,
    reserved: &BTreeSet<IpAddr>,
    walk: &mut Walk<'_>,
) {
    let (Some(address), Some(ports)) = (service.address.value(), service.ports.given()) else {
        return;
    };
    let Some(port) = draft.ha.update_port() else {
        return;
    };
    if ports.value.contains(port)
        && service.protocol.or_default(Protocol::Tcp) == Some(Protocol::Tcp)
        && reserved.contains(address)
    {
        let remedy = match ports.value {
            Ports::One(_) => "choose another port, or an address on another interface",
            Ports::Range { .. } | Ports::Any => {
                "choose ports without it, or an address on another interface"
            }
        };
        walk.error(
            ports.span,
            format!(
                "TCP {port} on this interface is reserved for the pair's own configuration \
                 updates"
            ),
            remedy,
        );
    }
}

/// Packets of a service never come to the node itself, so that its web page is not there where the service is.
fn page_port(service: &ServiceDraft, draft: &Draft, walk: &mut Walk<'_>) {
    let (Some(address), Some(ports)) = (service.address.value(), service.ports.given()) else {
        return;
    };
    let web = draft.node.as_ref().and_then(|node| node.web.value());
    let (Some(web), Some(true)) = (web, service.is_enabled()) else {
        return;
    };
    let mut shared = draft.shared.list.iter();
    let on = shared.find(|shared| {
        let cidr = shared.address.value();
        cidr.is_some_and(|cidr| cidr.address == *address)
    });
    let Some(interface) = on.and_then(|shared| shared.interface.value()) else {
        return;
    };
    let mut pages = web.ports_at(*address, interface);
    if let Some(port) = pages.find(|port| ports.value.contains(*port))
        && service.protocol.or_default(Protocol::Tcp) == Some(Protocol::Tcp)
    {
        walk.warn(
            ports.span,
            format!("this service takes TCP {port} at {address}, where this node's web page would be"),
            "choose another port, here or for `node.web.listen`, or go without the page at this address",
        );
    }
}

/// Where services listen so far.
#[derive(Default)]
struct Listeners {
    taken: BTreeMap<(IpAddr, &'static str), Vec<Ports>>,
    ports: usize,
}

impl Listeners {
    /// A service with any port takes what the others of its address leave.
    fn add(&mut self, service: &ServiceDraft, walk: &mut Walk<'_>) {
        let (Some(address), Some(ports), Some(protocol)) = (
            service.address.value(),
            service.ports.given(),
            service.protocol.or_default(Protocol::Tcp),
        ) else {
            return;
        };
        self.ports += ports.value.numbers().len();
        let others = self.taken.entry((*address, protocol.as_str())).or_default();
        let clash = others.iter().find(|other| {
            let (here, there) = (ports.value.numbers(), other.numbers());
            here.start() <= there.end() && there.start() <= here.end()
        });
        let Some(other) = clash else {
            others.push(ports.value);
            return;
        };
        let (where_, protocol) = (address, protocol.as_str());
        let what = if *other == ports.value {
            format!(
                "another virtual service already listens on {where_}, {protocol} port {}",
                ports.value
            )
        } else {
            format!(
                "another virtual service listens on {where_}, {protocol} port {other}, which \
                 overlaps {}",
                ports.value
            )
        };
        walk.error(
            ports.span,
            what,
            "merge the two, or change one's address, port or protocol",
        );
    }
}

fn address(service: &ServiceDraft, around: &Surroundings, walk: &mut Walk<'_>) {
    let Some(at) = service.address.given() else {
        return;
    };
    if let Some(whose) = around.whose(at.value) {
        let ssh = service
            .ports
            .value()
            .is_some_and(|ports| ports.contains(SSH_PORT))
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
    } else if around.shared_known && !around.is_shared(at.value) {
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

/// The address that real servers see instead of the client's must come back to the active node.
fn source(service: &ServiceDraft, around: &Surroundings, walk: &mut Walk<'_>) {
    let (Some(at), Some(forwarding)) = (service.source.given(), service.forwarding()) else {
        return;
    };
    if matches!(forwarding, Forwarding::Nat | Forwarding::Dsr) {
        walk.error(
            at.span,
            format!(
                "`source` means nothing to a service with `forwarding: {}`",
                forwarding.as_str()
            ),
            "remove it, or choose `full_nat` or `tunnel`",
        );
    } else if let Some(service) = service.address.value()
        && service.is_ipv4() != at.value.is_ipv4()
    {
        walk.error(
            at.span,
            format!(
                "source {} is {}, but the service is {}",
                at.value,
                family(at.value),
                family(*service)
            ),
            "write a shared address of the service's family",
        );
    } else if around.shared_known && !around.is_shared(at.value) {
        walk.error(
            at.span,
            format!("source {} is not a shared address", at.value),
            "write one of `shared_addresses`: answers must reach whichever node is active",
        );
    }
}

fn persistence(service: &ServiceDraft, walk: &mut Walk<'_>) {
    let Some(persistence) = service.persistence.value() else {
        return;
    };
    if let (Some(address), Some(prefix)) = (service.address.value(), persistence.prefix.given())
        && prefix.value > bits(*address)
    {
        walk.error(
            prefix.span,
            format!(
                "a prefix of {} bits is longer than an {} address",
                prefix.value,
                family(*address)
            ),
            format!("write a number from 1 to {}", bits(*address)),
        );
    }
}
