//! Section `virtual_services`.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::model::{Health, Protocol, RealServer, Scheduler, VirtualService};
use super::super::tree::NodeId;
use super::super::walk::{At, Field, Items, Section, Walk};
use super::super::{network, values};

/// Bounds of `health.interval` and `health.timeout`.
const CHECK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(1));
const INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;
/// Most checks in a row that `rise` and `fall` may ask for.
const IN_A_ROW_MAX: u32 = 255;
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

struct HealthDraft {
    interval: Field<Duration>,
    timeout: Field<Duration>,
    rise: Field<u32>,
    fall: Field<u32>,
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
        health: health(walk, s),
        real_servers: walk.items(s, "real_servers", real_server),
    };
    service.check(walk);
    Some(service)
}

fn health(walk: &mut Walk<'_>, service: &Section<'_>) -> Field<HealthDraft> {
    const KEYS: &[&str] = &["type", "interval", "timeout", "rise", "fall"];
    const TYPES: &[(&str, Option<()>)] = &[
        ("tcp", Some(())),
        ("http", None),
        ("https", None),
        ("icmp", None),
        ("udp", None),
        ("dns", None),
    ];
    let at = match walk.map(service, "health") {
        Field::Given(at) => at,
        Field::Absent => return Field::Absent,
        Field::Bad => return Field::Bad,
    };
    let Some(section) = walk.section(at.value, "`health`", KEYS) else {
        return Field::Bad;
    };
    let s = &section;
    walk.required(s, "type", "tcp", |v| values::choice(v, "type", TYPES));
    let value = HealthDraft {
        interval: walk.value(s, "interval", |v| values::duration(v, CHECK.0, CHECK.1)),
        timeout: walk.value(s, "timeout", |v| values::duration(v, CHECK.0, CHECK.1)),
        rise: walk.value(s, "rise", |v| values::number(v, 1, IN_A_ROW_MAX)),
        fall: walk.value(s, "fall", |v| values::number(v, 1, IN_A_ROW_MAX)),
    };
    if let (Some(interval), Some(timeout)) = (
        value.interval.or_default(INTERVAL_DEFAULT),
        value.timeout.or_default(TIMEOUT_DEFAULT),
    ) && timeout > interval
    {
        walk.error(
            s.place("timeout"),
            format!(
                "a check may take {} but the next begins after {}",
                values::pretty(timeout),
                values::pretty(interval)
            ),
            "make the timeout at most as long as the interval",
        );
    }
    Field::Given(At {
        value,
        span: at.span,
    })
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
        if self.protocol.value() == Some(&Protocol::Udp)
            && let Some(health) = self.health.given()
        {
            walk.warn(
                health.span,
                "the health check connects by TCP to the port of a UDP service",
                "keep it only if the real servers listen there on TCP too",
            );
        }
    }

    pub(super) fn build(self) -> Option<VirtualService> {
        let health = match self.health {
            Field::Absent => None,
            Field::Bad => return None,
            Field::Given(at) => Some(Health {
                interval: at.value.interval.or(|| INTERVAL_DEFAULT)?,
                timeout: at.value.timeout.or(|| TIMEOUT_DEFAULT)?,
                rise: at.value.rise.or(|| RISE_DEFAULT)?,
                fall: at.value.fall.or(|| FALL_DEFAULT)?,
            }),
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
