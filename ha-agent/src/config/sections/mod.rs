//! The sections of the file, each read into a draft: its values as far as they could be read, with
//! their places, so that the rules between sections can be checked although some values are bad.

pub(crate) mod ha;
mod health;
pub(crate) mod node;
mod observe;
pub(crate) mod records;
pub(crate) mod services;

use std::net::IpAddr;

use super::model::{Cidr, Config, Limits, SharedAddress};
use super::network;
use super::tree::NodeId;
use super::values::{self, Fault, Parsed, Scalar};
use super::walk::{Field, Items, Section, Walk};
use ha::HaDraft;
use node::{InterfaceDraft, NodeDraft};
use records::RecordsDraft;
use services::ServiceDraft;

/// Version of the file's format.
const VERSION: u32 = 1;
/// Connections the tables hold unless configured otherwise.
const CONNECTIONS: u32 = ha_common::maps::CONNS4_ENTRIES / 2;
const CONNECTIONS_IPV6: u32 = ha_common::maps::CONNS6_ENTRIES / 2;
/// Bounds of `limits.connections` and `limits.connections_ipv6`: the upper one is some 5 GiB of kernel
/// memory.
const CONNECTIONS_RANGE: (u32, u32) = (1024, 16 << 20);
/// `limits.new_flows` unless configured otherwise: a CPU that does nothing else makes some million
/// entries a second.
const NEW_FLOWS: u32 = 100_000;
/// Greatest `limits.new_flows`: more than a CPU receives.
const NEW_FLOWS_MAX: u32 = 100_000_000;

/// A whole file.
pub(crate) struct Draft {
    pub(crate) node: Option<NodeDraft>,
    pub(crate) ha: HaDraft,
    pub(crate) shared: Items<SharedDraft>,
    pub(crate) services: Items<ServiceDraft>,
    limits: LimitsDraft,
    pub(crate) records: RecordsDraft,
}

struct LimitsDraft {
    connections: Field<u32>,
    connections_ipv6: Field<u32>,
    new_flows: Field<u32>,
}

/// `shared_addresses[]`.
pub(crate) struct SharedDraft {
    pub(crate) interface: Field<String>,
    pub(crate) address: Field<Cidr>,
}

impl Draft {
    pub(crate) fn read(walk: &mut Walk<'_>, root: NodeId) -> Option<Self> {
        const KEYS: &[&str] = &[
            "version",
            "node",
            "ha",
            "shared_addresses",
            "virtual_services",
            "limits",
            "records",
        ];
        let top = walk.section(root, "the file", KEYS)?;
        walk.required(&top, "version", "1", version);
        let node = match walk.map(&top, "node") {
            Field::Given(at) => node::read(walk, at.value),
            Field::Absent => {
                walk.missing(
                    &top,
                    "node",
                    "{ name: lb1, mode: first, interfaces: [...] }",
                );
                None
            }
            Field::Bad => None,
        };
        let ha = ha::read(walk, &top);
        let shared = walk.items(&top, "shared_addresses", shared);
        let services = walk.items(&top, "virtual_services", services::read);
        let limits = limits(walk, &top);
        let records = records::read(walk, &top);
        Some(Self {
            node,
            ha,
            shared,
            services,
            limits,
            records,
        })
    }

    /// The configuration; `None` if any value was refused.
    pub(crate) fn build(self) -> Option<Config> {
        let shared_addresses = self
            .shared
            .list
            .into_iter()
            .map(|shared| {
                Some(SharedAddress {
                    interface: shared.interface.or(String::new)?,
                    address: shared.address.given()?.value,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let node = self.node?.build()?;
        let (mut virtual_services, mut disabled_services) = (Vec::new(), Vec::new());
        let shared: Vec<Cidr> = shared_addresses.iter().map(|at| at.address).collect();
        for service in self.services.list {
            if service.is_enabled()? {
                virtual_services.push(service.build(&shared)?);
            } else {
                disabled_services.push(service.build(&shared)?);
            }
        }
        Some(Config {
            ha: self.ha.build(&node, &shared_addresses)?,
            node,
            shared_addresses,
            virtual_services,
            disabled_services,
            limits: self.limits.build()?,
            records: self.records.build()?,
        })
    }

    /// The interfaces that could be read.
    pub(crate) fn interfaces(&self) -> impl DoubleEndedIterator<Item = &InterfaceDraft> {
        self.node.iter().flat_map(|node| &node.interfaces.list)
    }

    /// Every address known to belong to one of the two nodes themselves, with whose it is.
    pub(crate) fn own_addresses(&self) -> Vec<(IpAddr, String)> {
        let mut own = Vec::new();
        for interface in self.interfaces() {
            let name = interface.name.value().map_or("?", String::as_str);
            own.extend(interface.addresses.list.iter().map(|at| {
                let whose = format!("this node's own address on {name}");
                (at.value.address, whose)
            }));
            own.extend(interface.partners.list.iter().map(|at| {
                let whose = format!("the partner's own address on {name}");
                (at.value, whose)
            }));
        }
        own
    }
}

fn version(scalar: Scalar<'_>) -> Parsed<()> {
    match values::number(scalar, 0, u32::MAX)? {
        VERSION => Ok(()),
        other => Err(Fault::new(
            format!("version {other} of the format is not known to this agent"),
            format!("write `version: {VERSION}`, or use an agent that knows version {other}"),
        )),
    }
}

fn shared(walk: &mut Walk<'_>, id: NodeId) -> Option<SharedDraft> {
    let section = walk.section(id, "this shared address", &["interface", "address"])?;
    Some(SharedDraft {
        interface: walk.required(&section, "interface", "front", values::name),
        address: walk.required(&section, "address", "10.0.0.100/24", network::cidr),
    })
}

fn limits(walk: &mut Walk<'_>, top: &Section<'_>) -> LimitsDraft {
    const KEYS: &[&str] = &["connections", "connections_ipv6", "new_flows"];
    let section = match walk.map(top, "limits") {
        Field::Absent => return LimitsDraft::all(|| Field::Absent),
        Field::Given(at) => walk.section(at.value, "limits", KEYS),
        Field::Bad => None,
    };
    let Some(section) = section else {
        return LimitsDraft::all(|| Field::Bad);
    };
    let mut number = |key, low, high| walk.value(&section, key, |v| values::number(v, low, high));
    let (low, high) = CONNECTIONS_RANGE;
    LimitsDraft {
        connections: number("connections", low, high),
        connections_ipv6: number("connections_ipv6", low, high),
        new_flows: number("new_flows", 0, NEW_FLOWS_MAX),
    }
}

impl LimitsDraft {
    fn all(field: impl Fn() -> Field<u32>) -> Self {
        Self {
            connections: field(),
            connections_ipv6: field(),
            new_flows: field(),
        }
    }

    fn build(self) -> Option<Limits> {
        Some(Limits {
            connections: self.connections.or(|| CONNECTIONS)?,
            connections_ipv6: self.connections_ipv6.or(|| CONNECTIONS_IPV6)?,
            new_flows: self.new_flows.or(|| NEW_FLOWS)?,
        })
    }
}

/// An optional value: `None` if it was refused, `Some(None)` if it is absent.
#[expect(clippy::option_option, reason = "refused and absent are different")]
fn optional<T>(field: Field<T>) -> Option<Option<T>> {
    match field {
        Field::Absent => Some(None),
        Field::Bad => None,
        Field::Given(at) => Some(Some(at.value)),
    }
}
