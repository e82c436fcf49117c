//! The election as the status shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::{Alarm, Evidence, Refusal, Role, RoleReason};
use super::machine::Election;
use super::trailer::WireRole;
use crate::config::model::Mode;

/// A change of role, or of an active node's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Monotonic nanoseconds.
    pub at_ns: u64,
    /// Old role.
    pub from: Role,
    /// New role.
    pub to: Role,
    /// Why.
    pub reason: RoleReason,
    /// Term after it.
    pub term: u64,
}

/// What is known of the partner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartnerSnapshot {
    /// Heard within the timeout.
    pub heard: bool,
    /// It hears this node.
    pub hears_us: bool,
    /// Its role in its newest packet.
    pub role: WireRole,
    /// Highest term it knows.
    pub term: u64,
    /// Its table is equal to this node's.
    pub ready: bool,
    /// Its place in the pair.
    pub mode: &'static str,
    /// Its configuration generation.
    pub generation: u64,
    /// Time since it was last heard.
    pub silent_for: Duration,
}

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct LinkSnapshot {
    /// Logical name.
    pub name: String,
    /// Has shared addresses.
    pub production: bool,
    /// Has a carrier.
    pub carrier: bool,
    /// Its gateway answers; `None` if it has none.
    pub gateway: Option<bool>,
    /// The partner was heard on it within the timeout.
    pub heard: bool,
    /// The partner said that it hears this node on it.
    pub heard_by_partner: bool,
    /// The partner was heard on it, but for a while by unicast only.
    pub multicast_blocked: bool,
    /// Time since the partner was last heard on it.
    pub silent_for: Option<Duration>,
}

/// A peer that knows no trailer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignSnapshot {
    /// Link it was heard on.
    pub link: String,
    /// Its address.
    pub address: std::net::IpAddr,
    /// Its `advbase`.
    pub advbase: u8,
    /// Its `advskew`.
    pub advskew: u8,
    /// Time since it was last heard.
    pub silent_for: Duration,
}

/// A lasting condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlarmSnapshot {
    /// Which.
    pub alarm: Alarm,
    /// For how long.
    pub since: Duration,
    /// What it rests on.
    pub evidence: Evidence,
}

/// Everything a person may want to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Role.
    pub role: Role,
    /// Time in it.
    pub since: Duration,
    /// Own term if active, else the highest known.
    pub term: u64,
    /// The gate is open.
    pub gate_open: bool,
    /// What is left of the lease; `None` if the gate is closed or always open.
    pub lease_left: Option<Duration>,
    /// Active and nothing is heard from the partner.
    pub alone: bool,
    /// Own table is equal to the partner's.
    pub ready: bool,
    /// Why a failover would be refused now.
    pub failover_refused: Option<Refusal>,
    /// Own configuration generation.
    pub generation: u64,
    /// The partner, if it was heard since the start.
    pub partner: Option<PartnerSnapshot>,
    /// A trailer-less peer, if one is heard.
    pub foreign: Option<ForeignSnapshot>,
    /// Links in the order of the configuration.
    pub links: Vec<LinkSnapshot>,
    /// Lasting conditions.
    pub alarms: Vec<AlarmSnapshot>,
    /// Counters by name.
    pub counters: BTreeMap<&'static str, u64>,
    /// The last transitions, the newest last.
    pub transitions: Vec<Transition>,
}

impl Election {
    /// The partner's role in its newest packet.
    pub fn partner_role(&self) -> Option<WireRole> {
        Some(self.peers.partner()?.body.role)
    }

    /// The state at the last call.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.now;
        let partner = self.peers.partner();
        let always = self.config.mode == Mode::Off;
        Snapshot {
            role: self.role,
            since: now.since(self.since),
            term: self.term,
            gate_open: self.gate.is_some_and(|until| until > now),
            lease_left: self
                .gate
                .filter(|until| *until > now && !always)
                .map(|until| until.since(now)),
            alone: self.alone,
            ready: self.says_ready(),
            failover_refused: self.failover_refusal(),
            generation: self.config.generation,
            partner: partner.map(|partner| PartnerSnapshot {
                heard: self.partner_heard().is_some(),
                hears_us: self.hears_us(partner),
                role: partner.body.role,
                term: partner.body.term,
                ready: self.partner_ready(&partner.body),
                mode: if partner.body.mode == 1 {
                    "first"
                } else {
                    "second"
                },
                generation: partner.body.generation,
                silent_for: now.since(partner.heard),
            }),
            foreign: self.foreign.map(|foreign| {
                let [advbase, advskew] = foreign.ticks.to_be_bytes();
                ForeignSnapshot {
                    link: self
                        .links
                        .get(foreign.link)
                        .map(|link| link.config.name.clone())
                        .unwrap_or_default(),
                    address: foreign.source,
                    advbase,
                    advskew,
                    silent_for: now.since(foreign.heard),
                }
            }),
            links: self
                .links
                .iter()
                .enumerate()
                .map(|(index, link)| {
                    let heard_at = self.peers.heard_on(index);
                    LinkSnapshot {
                        name: link.config.name.clone(),
                        production: link.config.is_production(),
                        carrier: link.carrier.works(),
                        gateway: link.config.has_gateway.then_some(link.gateway.works()),
                        heard: self.hears_on(index),
                        heard_by_partner: partner
                            .is_some_and(|partner| partner.body.heard >> link.bit & 1 != 0),
                        multicast_blocked: self.hears_on(index)
                            && !link.multicast.0
                            && now >= link.multicast.1 + self.timing.timeout * 2,
                        silent_for: heard_at.map(|at| now.since(at)),
                    }
                })
                .collect(),
            alarms: self
                .alarms
                .iter()
                .map(|(alarm, raised)| AlarmSnapshot {
                    alarm: *alarm,
                    since: now.since(raised.since),
                    evidence: raised.evidence.clone(),
                })
                .collect(),
            counters: self.counters.by_name(),
            transitions: self.transitions.iter().copied().collect(),
        }
    }
}
