//! Rules between sections: what each value means for the others.
//!
//! A rule speaks only about values that could be read, so that one mistake is reported once.

mod pair;
mod servers;
mod services;
mod shared;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ha_common::maps::{ADDRS_ENTRIES, REALS_ENTRIES, SERVICES_MAX};

use super::model::Mode;
use super::sections::Draft;
use super::sections::node::{InterfaceDraft, NodeDraft};
use super::walk::{At, Walk};

/// Most interfaces: the health of each is two bits of 32 in advertisements.
const INTERFACES_MAX: u32 = 16;

pub(crate) fn check(draft: &Draft, walk: &mut Walk<'_>) {
    if !sizes(draft, walk) {
        return;
    }
    if let Some(node) = &draft.node {
        pair::check(node, draft, walk);
    }
    shared::check(draft, walk);
    services::check(draft, walk);
}

/// Whether the node belongs to a pair; unknown if the mode was refused.
fn paired(node: &NodeDraft) -> Option<bool> {
    node.mode.value().map(|mode| *mode != Mode::Off)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
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

/// Whether everything fits into the data plane's tables, which are of fixed size.
fn sizes(draft: &Draft, walk: &mut Walk<'_>) -> bool {
    let services = &draft.services;
    let reals = services.list.iter().map(|s| s.all_servers().count());
    let mut sizes = vec![
        (
            services.list.len(),
            SERVICES_MAX,
            services.span,
            "virtual services",
        ),
        // Id 0 is never given out.
        (
            reals.sum(),
            REALS_ENTRIES - 1,
            services.span,
            "real servers",
        ),
        (
            draft.shared.list.len() + draft.own_addresses().len(),
            ADDRS_ENTRIES,
            draft.shared.span,
            "addresses",
        ),
    ];
    if let Some(node) = &draft.node {
        let interfaces = &node.interfaces;
        sizes.push((
            interfaces.list.len(),
            INTERFACES_MAX,
            interfaces.span,
            "interfaces",
        ));
    }
    let mut fits = true;
    for (count, most, span, what) in sizes {
        if count > most as usize {
            fits = false;
            walk.error(
                span,
                format!("{count} {what} are more than a pair can hold: {most}"),
                "remove some, or spread them over several pairs",
            );
        }
    }
    fits
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
