//! Section `virtual_services`.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::model::{Protocol, RealServer, Scheduler, VirtualService};
use super::super::tree::NodeId;
use super::super::walk::{Field, Items, Walk};
use super::super::{network, values};
use super::health::{self, HealthDraft};

/// Greatest weight: Maglev tables have some thousand slots, finer shares have no effect.
const WEIGHT_MAX: u32 = 65_535;

pub(crate) struct ServiceDraft {
    pub(crate) name: Field<String>,
    pub(crate) address: Field<Ipv4Addr>,
    pub(crate) port: Field<u16>,
    pub(crate) protocol: Field<Protocol>,
    scheduler: Field<Scheduler>,
    resteer: Field<bool>,
    health: Field<HealthDraft>,
    pub(crate) real_servers: Items<RealDraft>,
}

pub(crate) struct RealDraft {
    pub(crate) address: Field<Ipv4Addr>,
    pub(crate) port: Field<u16>,
    weight: Field<u32>,
}

pub(crate) fn read(walk: &mut Walk<'_>, id: NodeId) -> Option<ServiceDraft> {
    const KEYS: &[&str] = &[
        "name",
        "address",
        "port",
        "protocol",
        "forwarding",
        "scheduler",
        "persistence",
        "health",
        "real_servers",
        "resteer",
    ];
    const PROTOCOLS: &[(&str, Option<Protocol>)] =
        &[("tcp", Some(Protocol::Tcp)), ("udp", Some(Protocol::Udp))];
    const FORWARDING: &[(&str, Option<()>)] = &[
        ("nat", Some(())),
        ("dsr", None),
        ("tunnel", None),
        ("full_nat", None),
    ];
    const SCHEDULERS: &[(&str, Option<Scheduler>)] = &[
        ("mh", Some(Scheduler::Mh)),
        ("rr", Some(Scheduler::Rr)),
        ("wrr", None),
        ("lc", None),
        ("wlc", None),
        ("sh", None),
    ];
    let section = walk.section(id, "this virtual service", KEYS)?;
    let s = &section;
    walk.value(s, "forwarding", |v| {
        values::choice(v, "forwarding", FORWARDING)
    });
    if let Field::Given(at) = walk.map(s, "persistence") {
        if let Some(persistence) = walk.section(at.value, "`persistence`", &["timeout"]) {
            walk.value(&persistence, "timeout", |v| {
                values::duration(v, Duration::from_secs(1), Duration::from_hours(24))
            });
        }
        walk.error(
            at.span,
            "`persistence` is not yet supported",
            "remove the key; `scheduler: mh` keeps a client's connection on its real server",
        );
    }
    let service = ServiceDraft {
        name: walk.required(s, "name", "web", values::name),
        address: walk.required(s, "address", "10.0.0.100", network::balanced),
        port: walk.required(s, "port", "80", |v| values::number(v, 1, u16::MAX)),
        protocol: walk.value(s, "protocol", |v| values::choice(v, "protocol", PROTOCOLS)),
        scheduler: walk.value(s, "scheduler", |v| {
            values::choice(v, "scheduler", SCHEDULERS)
        }),
        resteer: walk.value(s, "resteer", values::boolean),
        health: health::read(walk, s),
        real_servers: walk.items(s, "real_servers", real_server),
    };
    service.check(walk);
    Some(service)
}

fn real_server(walk: &mut Walk<'_>, id: NodeId) -> Option<RealDraft> {
    let section = walk.section(id, "this real server", &["address", "port", "weight"])?;
    Some(RealDraft {
        address: walk.required(&section, "address", "10.1.0.21", network::balanced),
        port: walk.required(&section, "port", "8080", |v| values::number(v, 1, u16::MAX)),
        weight: walk.value(&section, "weight", |v| values::number(v, 0, WEIGHT_MAX)),
    })
}

impl ServiceDraft {
    fn check(&self, walk: &mut Walk<'_>) {
        let reals = &self.real_servers;
        if reals.known && reals.list.is_empty() {
            walk.warn(
                reals.span,
                "this virtual service has no real server, so its packets are dropped",
                "add one, for example `- { address: 10.1.0.21, port: 8080 }`",
            );
        } else if reals.known && reals.list.iter().all(|r| r.weight.value() == Some(&0)) {
            walk.warn(
                reals.span,
                "every real server of this service is draining, so new connections are dropped",
                "give at least one a weight above 0",
            );
        }
        if let (Some(protocol), Some(health)) =
            (self.protocol.or_default(Protocol::Tcp), self.health.given())
            && health.value.is_odd_for(protocol)
        {
            walk.warn(
                health.span,
                "the health check connects by TCP to the port of a UDP service",
                "choose the type `udp` or `icmp`, or say at which `port` the real servers listen on TCP",
            );
        }
    }

    pub(super) fn build(self) -> Option<VirtualService> {
        let health = match self.health {
            Field::Absent => None,
            Field::Bad => return None,
            Field::Given(at) => Some(at.value.build()?),
        };
        Some(VirtualService {
            name: self.name.or(String::new)?,
            address: self.address.given()?.value,
            port: self.port.given()?.value,
            protocol: self.protocol.or(|| Protocol::Tcp)?,
            scheduler: self.scheduler.or(|| Scheduler::Mh)?,
            health,
            real_servers: self
                .real_servers
                .list
                .into_iter()
                .map(|real| {
                    Some(RealServer {
                        address: real.address.given()?.value,
                        port: real.port.given()?.value,
                        weight: real.weight.or(|| 1)?,
                    })
                })
                .collect::<Option<Vec<_>>>()?,
            resteer: self.resteer.or(|| true)?,
        })
    }
}
