//! Rules of shared addresses.

use std::net::IpAddr;

use super::super::model::Cidr;
use super::super::sections::Draft;
use super::super::walk::{At, Walk};
use super::{Seen, family, find, is_link_local, unknown_interface};

pub(super) fn check(draft: &Draft, walk: &mut Walk<'_>) {
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
        if interface.is_unnumbered() {
            walk.error(
                name.span,
                format!(
                    "`{}` is a heartbeat link without an address and cannot carry a shared one",
                    name.value
                ),
                "add `address:` to the interface, or name another",
            );
        }
        if let Some(at) = &address
            && interface.addresses.known
            && interface.has_address()
        {
            in_subnet(&interface.addresses.list, at, &name.value, walk);
        }
        let mut gateways = interface.gateways.list.iter();
        if let Some(at) = &address
            && gateways.any(|gateway| gateway.value == at.value)
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

/// The node's own address on the link is what the shared one's advertisements come from, and what gives
/// the link its route to the subnet. A link-local shared address needs only the family.
fn in_subnet(own: &[At<Cidr>], at: &At<IpAddr>, name: &str, walk: &mut Walk<'_>) {
    let mut like = own.iter().map(|own| own.value);
    let Some(first) = like.find(|own| own.address.is_ipv6() == at.value.is_ipv6()) else {
        let family = family(at.value);
        return walk.error(
            at.span,
            format!(
                "shared address {} is {family}, but `{name}` has no {family} address",
                at.value
            ),
            "add the node's own and the partner's address of that family to the interface",
        );
    };
    if !own.iter().any(|own| own.value.contains(at.value)) && !is_link_local(at.value) {
        walk.error(
            at.span,
            format!(
                "shared address {} is not in the subnet of `{name}`, {first}",
                at.value
            ),
            "write an address in that subnet, or name another interface",
        );
    }
}
