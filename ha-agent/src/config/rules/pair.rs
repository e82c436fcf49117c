//! Rules of the node's interfaces and of what makes two nodes a pair.

use super::super::sections::Draft;
use super::super::sections::node::{InterfaceDraft, NodeDraft};
use super::super::walk::{At, Field, Walk};
use super::{Seen, find, paired, unknown_interface};

/// Virtual ids that other equipment commonly uses.
const COMMON_IDS: u8 = 10;
/// First octet of administratively scoped groups (RFC 2365).
const SCOPED: u8 = 239;

pub(super) fn check(node: &NodeDraft, draft: &Draft, walk: &mut Walk<'_>) {
    interfaces(node, walk);
    ha_checks(node, draft, walk);
    multicast(node, draft, walk);
    virtual_id(node, draft, walk);
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
