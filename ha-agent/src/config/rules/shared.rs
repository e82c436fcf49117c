//! Rules of shared addresses.

use std::net::Ipv4Addr;

use super::super::model::Cidr4;
use super::super::sections::Draft;
use super::super::walk::{At, Walk};
use super::{Seen, find, unknown_interface};

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
