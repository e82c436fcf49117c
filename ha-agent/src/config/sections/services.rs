//! Section `virtual_services`.

use std::net::IpAddr;
use std::time::Duration;

use ha_common::service::{Forwarding, Scheduler};

use super::super::model::{
    Cidr, OnDown, Persistence, Ports, Protocol, RealServer, Timeouts, VirtualService,
};
use super::super::tree::NodeId;
use super::super::walk::{At, Field, Items, Section, Walk};
use super::super::{network, values};
use super::health::{self, HealthDraft};
use super::optional;

/// Greatest weight: Maglev tables have some thousand slots, finer shares have no effect.
const WEIGHT_MAX: u32 = 65_535;
/// Bounds of `persistence.timeout`.
const PERSISTENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));
/// Bounds of idle times. Movement is noted once a second, so a shorter time would end what moves; the
/// upper bound is a week.
const IDLE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_hours(168));

pub(crate) struct ServiceDraft {
    pub(crate) name: Field<String>,
    pub(crate) address: Field<IpAddr>,
    pub(crate) ports: Field<Ports>,
    pub(crate) protocol: Field<Protocol>,
    pub(crate) forwarding: Field<Forwarding>,
    pub(crate) scheduler: Field<Scheduler>,
    pub(crate) source: Field<IpAddr>,
    pub(crate) persistence: Field<PersistenceDraft>,
    pub(crate) health: Field<HealthDraft>,
    pub(crate) real_servers: Items<RealDraft>,
    pub(crate) last_resort: Field<RealDraft>,
    on_down: Field<OnDown>,
    timeouts: TimeoutsDraft,
    resteer: Field<bool>,
    enabled: Field<bool>,
}

pub(crate) struct RealDraft {
    pub(crate) address: Field<IpAddr>,
    pub(crate) port: Field<u16>,
    weight: Field<u32>,
    connections: Field<u32>,
}

pub(crate) struct PersistenceDraft {
    timeout: Field<Duration>,
    pub(crate) prefix: Field<u8>,
}

struct TimeoutsDraft {
    established: Field<Duration>,
    closing: Field<Duration>,
    closed: Field<Duration>,
    udp: Field<Duration>,
}

pub(crate) fn read(walk: &mut Walk<'_>, id: NodeId) -> Option<ServiceDraft> {
    const KEYS: &[&str] = &[
        "name",
        "address",
        "port",
        "protocol",
        "forwarding",
        "scheduler",
        "source",
        "persistence",
        "health",
        "real_servers",
        "last_resort",
        "on_down",
        "timeouts",
        "resteer",
        "enabled",
    ];
    const PROTOCOLS: &[(&str, Protocol)] = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    const FORWARDING: &[(&str, Forwarding)] = &[
        ("nat", Forwarding::Nat),
        ("full_nat", Forwarding::FullNat),
        ("dsr", Forwarding::Dsr),
        ("tunnel", Forwarding::Tunnel),
    ];
    const SCHEDULERS: &[(&str, Scheduler)] = &[
        ("mh", Scheduler::Mh),
        ("rr", Scheduler::Rr),
        ("wrr", Scheduler::Wrr),
        ("lc", Scheduler::Lc),
        ("wlc", Scheduler::Wlc),
        ("sh", Scheduler::Sh),
    ];
    const ON_DOWN: &[(&str, OnDown)] = &[("keep", OnDown::Keep), ("reset", OnDown::Reset)];
    let section = walk.section(id, "this virtual service", KEYS)?;
    let s = &section;
    let service = ServiceDraft {
        name: walk.required(s, "name", "web", values::name),
        address: walk.required(s, "address", "10.0.0.100", network::address),
        ports: walk.required(s, "port", "80", values::ports),
        protocol: walk.value(s, "protocol", |v| values::choice(v, "protocol", PROTOCOLS)),
        forwarding: walk.value(s, "forwarding", |v| {
            values::choice(v, "forwarding", FORWARDING)
        }),
        scheduler: walk.value(s, "scheduler", |v| {
            values::choice(v, "scheduler", SCHEDULERS)
        }),
        source: walk.value(s, "source", network::address),
        persistence: persistence(walk, s),
        health: health::read(walk, s),
        real_servers: walk.items(s, "real_servers", real_server),
        last_resort: last_resort(walk, s),
        on_down: walk.value(s, "on_down", |v| values::choice(v, "on_down", ON_DOWN)),
        timeouts: timeouts(walk, s),
        resteer: walk.value(s, "resteer", values::boolean),
        enabled: walk.value(s, "enabled", values::boolean),
    };
    service.check(walk);
    Some(service)
}

fn real_server(walk: &mut Walk<'_>, id: NodeId) -> Option<RealDraft> {
    const KEYS: &[&str] = &["address", "port", "weight", "connections"];
    let section = walk.section(id, "this real server", KEYS)?;
    Some(RealDraft {
        address: walk.required(&section, "address", "10.1.0.21", network::address),
        port: walk.value(&section, "port", |v| values::number(v, 1, u16::MAX)),
        weight: walk.value(&section, "weight", |v| values::number(v, 0, WEIGHT_MAX)),
        connections: walk.value(&section, "connections", |v| values::number(v, 0, u32::MAX)),
    })
}

fn last_resort(walk: &mut Walk<'_>, service: &Section<'_>) -> Field<RealDraft> {
    sub_map(
        walk,
        service,
        "last_resort",
        &["address", "port"],
        |walk, section| RealDraft {
            address: walk.required(section, "address", "10.1.0.99", network::address),
            port: walk.value(section, "port", |v| values::number(v, 1, u16::MAX)),
            weight: Field::Absent,
            connections: Field::Absent,
        },
    )
}

fn persistence(walk: &mut Walk<'_>, service: &Section<'_>) -> Field<PersistenceDraft> {
    sub_map(
        walk,
        service,
        "persistence",
        &["timeout", "prefix"],
        |walk, section| PersistenceDraft {
            timeout: walk.required(section, "timeout", "300s", |v| {
                values::duration(v, PERSISTENCE.0, PERSISTENCE.1)
            }),
            prefix: walk.value(section, "prefix", |v| values::number(v, 1, 128)),
        },
    )
}

fn timeouts(walk: &mut Walk<'_>, service: &Section<'_>) -> TimeoutsDraft {
    const KEYS: &[&str] = &["established", "closing", "closed", "udp"];
    let read = sub_map(walk, service, "timeouts", KEYS, |walk, section| {
        let mut idle = |key| walk.value(section, key, |v| values::duration(v, IDLE.0, IDLE.1));
        TimeoutsDraft {
            established: idle("established"),
            closing: idle("closing"),
            closed: idle("closed"),
            udp: idle("udp"),
        }
    });
    match read {
        Field::Given(at) => at.value,
        Field::Absent => TimeoutsDraft::all(|| Field::Absent),
        Field::Bad => TimeoutsDraft::all(|| Field::Bad),
    }
}

/// Reads a map under a key.
fn sub_map<T>(
    walk: &mut Walk<'_>,
    section: &Section<'_>,
    key: &'static str,
    known: &[&'static str],
    read: impl FnOnce(&mut Walk<'_>, &Section<'_>) -> T,
) -> Field<T> {
    let at = match walk.map(section, key) {
        Field::Given(at) => at,
        Field::Absent => return Field::Absent,
        Field::Bad => return Field::Bad,
    };
    match walk.section(at.value, &format!("`{key}`"), known) {
        Some(section) => Field::Given(At {
            value: read(walk, &section),
            span: at.span,
        }),
        None => Field::Bad,
    }
}

/// The shared address from which packets are sent to a real server, if it is not the client's: the one
/// that is asked for, else that of the real server's network, else, of a tunnel, the service's own.
pub(crate) fn source_of(
    forwarding: Forwarding,
    service: IpAddr,
    server: IpAddr,
    given: Option<IpAddr>,
    shared: impl IntoIterator<Item = Cidr>,
) -> Option<IpAddr> {
    let beside = || {
        let mut shared = shared.into_iter();
        shared
            .find(|cidr| cidr.contains(server))
            .map(|cidr| cidr.address)
    };
    match forwarding {
        Forwarding::Nat | Forwarding::Dsr => None,
        Forwarding::FullNat => given.or_else(beside),
        Forwarding::Tunnel => given.or_else(beside).or(Some(service)),
    }
}

impl ServiceDraft {
    /// Whether the service is in force, unless that was refused.
    pub(crate) fn is_enabled(&self) -> Option<bool> {
        self.enabled.or_default(true)
    }

    /// How packets reach the real servers, unless that was refused.
    pub(crate) fn forwarding(&self) -> Option<Forwarding> {
        self.forwarding.or_default(Forwarding::Nat)
    }

    /// Everybody it may forward to.
    pub(crate) fn all_servers(&self) -> impl Iterator<Item = &RealDraft> {
        self.real_servers
            .list
            .iter()
            .chain(self.last_resort.value())
    }

    fn check(&self, walk: &mut Walk<'_>) {
        let reals = &self.real_servers;
        if reals.known && reals.list.is_empty() {
            if self.last_resort.is_absent() {
                walk.warn(
                    reals.span,
                    "this virtual service has no real server, so its packets are dropped",
                    "add one, for example `- { address: 10.1.0.21, port: 8080 }`",
                );
            }
        } else if reals.known && reals.list.iter().all(|r| r.weight.value() == Some(&0)) {
            let fate = if self.last_resort.is_absent() {
                "are dropped"
            } else {
                "go to the last resort"
            };
            walk.warn(
                reals.span,
                format!("every real server of this service is draining, so new connections {fate}"),
                "give at least one a weight above 0",
            );
        }
        self.check_health(walk);
        self.check_one_way(walk);
    }

    fn check_health(&self, walk: &mut Walk<'_>) {
        let Some(health) = self.health.given() else {
            return;
        };
        if let Some(protocol) = self.protocol.or_default(Protocol::Tcp)
            && health.value.is_odd_for(protocol)
        {
            walk.warn(
                health.span,
                "the health check connects by TCP to the port of a UDP service",
                "choose the type `udp` or `icmp`, or say at which `port` the real servers listen on TCP",
            );
        }
        if let Some(Ports::Range { .. } | Ports::Any) = self.ports.value()
            && health.value.needs_port()
        {
            walk.error(
                health.span,
                "a service with several ports does not say which of them is to be checked",
                "add `port:` to the health check, or choose the type `icmp`",
            );
        }
    }

    /// What a balancer cannot know that sees the clients' packets only.
    fn check_one_way(&self, walk: &mut Walk<'_>) {
        let (Some(Forwarding::Dsr | Forwarding::Tunnel), Some(at)) =
            (self.forwarding(), self.scheduler.given())
        else {
            return;
        };
        if matches!(at.value, Scheduler::Lc | Scheduler::Wlc) {
            walk.warn(
                at.span,
                "answers do not come back this way, so a connection that only the real server has \
                 closed counts until its idle time is over",
                "choose `mh` or `wrr`, or shorten `timeouts`",
            );
        }
    }

    pub(super) fn build(self, shared: &[Cidr]) -> Option<VirtualService> {
        let forwarding = self.forwarding()?;
        let health = match self.health {
            Field::Absent => None,
            Field::Bad => return None,
            Field::Given(at) => Some(at.value.build()?),
        };
        let address = self.address.given()?.value;
        let source = optional(self.source)?;
        let server = |server: RealDraft| {
            let to = server.address.given()?.value;
            Some(RealServer {
                address: to,
                port: optional(server.port)?,
                weight: server.weight.or(|| 1)?,
                connections_max: server.connections.or(|| 0)?,
                source: source_of(forwarding, address, to, source, shared.iter().copied()),
            })
        };
        let last_resort = match self.last_resort {
            Field::Absent => None,
            Field::Bad => return None,
            Field::Given(at) => Some(server(at.value)?),
        };
        let persistence = match self.persistence {
            Field::Absent => None,
            Field::Bad => return None,
            Field::Given(at) => Some(Persistence {
                timeout: at.value.timeout.given()?.value,
                prefix: at.value.prefix.or(|| bits(address))?,
            }),
        };
        let reals = self.real_servers.list.into_iter().map(server);
        Some(VirtualService {
            name: self.name.or(String::new)?,
            address,
            ports: self.ports.given()?.value,
            protocol: self.protocol.or(|| Protocol::Tcp)?,
            forwarding,
            scheduler: self.scheduler.or(|| Scheduler::Mh)?,
            persistence,
            health,
            real_servers: reals.collect::<Option<Vec<_>>>()?,
            last_resort,
            on_down: self.on_down.or(|| OnDown::Keep)?,
            timeouts: self.timeouts.build()?,
            resteer: self.resteer.or(|| true)?,
        })
    }
}

impl TimeoutsDraft {
    fn all(field: impl Fn() -> Field<Duration>) -> Self {
        Self {
            established: field(),
            closing: field(),
            closed: field(),
            udp: field(),
        }
    }

    fn build(self) -> Option<Timeouts> {
        let usual = Timeouts::default();
        Some(Timeouts {
            established: self.established.or(|| usual.established)?,
            closing: self.closing.or(|| usual.closing)?,
            closed: self.closed.or(|| usual.closed)?,
            udp: self.udp.or(|| usual.udp)?,
        })
    }
}

/// Length of an address.
pub(crate) const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
