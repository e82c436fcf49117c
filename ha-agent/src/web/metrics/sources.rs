//! Where the values come from.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value as Json;

use super::Samples;
use super::family::Family as F;
use crate::control::Count;
use crate::events::Numbers;
use crate::proto::carp::Snapshot;
use crate::proto::sync::SyncSnapshot;
use crate::services::expiry::Census;
use crate::shell::alarms;
use crate::shell::election;
use crate::shell::hooks::Outcomes;
use crate::shell::replication;
use crate::shell::tallies::Tallied;
use crate::status::model::{
    Counters, RealServerState, RealServerStatus, Role, Services, Square, Status, TrafficStatus,
    XdpMode,
};

/// What was counted at a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub name: String,
    /// Connections accepted.
    pub connections: u64,
    /// Those that had to give way to others.
    pub displaced: u64,
    /// Those that came to an address at which there is nothing for them.
    pub turned_away: u64,
}

/// Everything that is measured, as it is at one moment.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The state.
    pub status: &'a Status,
    /// The election's account.
    pub election: &'a election::Published,
    /// The replication thread's, if there is one.
    pub replication: Option<&'a replication::Published>,
    /// The last walk through the connection tables.
    pub census: &'a Census,
    /// Entries that the tables can hold, IPv4 and IPv6.
    pub entries_max: (u64, u64),
    /// What the data plane has counted.
    pub counters: &'a Counters,
    /// Virtual services.
    pub services: &'a Services,
    /// Changes of role, reloads.
    pub tallied: &'a Tallied,
    /// How many alarms of each kind stand.
    pub alarms: &'a [(alarms::Kind, usize)],
    /// The event history.
    pub events: Numbers,
    /// What came of notify commands, if there is one.
    pub hooks: Option<Outcomes>,
    /// The control socket.
    pub control: Count,
    /// The listeners.
    pub listeners: &'a [Listener],
}

impl Sources<'_> {
    /// All samples.
    pub fn samples(&self) -> Samples {
        let mut to = Samples::default();
        self.node(&mut to);
        self.partner(&mut to);
        self.interfaces(&mut to);
        self.election(&mut to);
        self.datapath(&mut to);
        for service in &self.services.services {
            let listen = &service.listen;
            let labels = [
                &service.name,
                listen,
                &service.protocol,
                &service.forwarding,
                &service.scheduler,
            ];
            to.count(F::ServiceInfo, &labels.map(String::as_str), 1);
            // One that left the configuration has no name any more.
            let name = if service.name.is_empty() {
                listen
            } else {
                &service.name
            };
            for real in &service.real_servers {
                real_server(name, real, &mut to);
            }
        }
        if let Some(published) = self.replication {
            replication(published, &mut to);
        }
        self.rest(&mut to);
        to
    }

    fn node(&self, to: &mut Samples) {
        let Self {
            status, election, ..
        } = self;
        let snapshot = &election.election;
        let partner = status.partner.as_ref();
        let partner_name = partner.and_then(|partner| partner.name.as_deref());
        let mode = name_of(&status.node.mode);
        to.count(F::BuildInfo, &[&status.version], 1);
        let names = [status.node.name.as_str(), &mode, partner_name.unwrap_or("")];
        to.count(F::NodeInfo, &names, 1);
        to.number(F::StartTime, &[], self.tallied.started.as_secs_f64());
        for role in ROLES {
            to.flag(F::Role, &[role.as_str()], role == status.role);
        }
        to.number(F::RoleSeconds, &[], status.since_seconds);
        for (change, count) in &self.tallied.role_changes {
            let [from, to_role, reason] = change;
            to.count(F::RoleChanges, &[from, to_role, reason], *count);
        }
        squares("own", status.square, to);
        to.count(F::Term, &[], status.term);
        to.flag(F::GateOpen, &[], snapshot.gate_open);
        if let Some(left) = snapshot.lease_left {
            to.number(F::LeaseSeconds, &[], left.as_secs_f64());
        }
        to.flag(F::Alone, &[], snapshot.alone);
        for (kind, count) in self.alarms {
            to.count(F::Alarms, &[kind.as_str()], *count as u64);
        }
        to.count(F::ConfigGeneration, &[], status.config_generation);
        if let Some(configuration) = &status.configuration {
            for (event, count) in numbers(&configuration.progress) {
                to.count(F::ConfigExchanges, &[&event], count);
            }
            for (event, count) in numbers(&configuration.channel) {
                to.count(F::ConfigChannel, &[&event], count);
            }
            let changes = configuration.restart_needed.len() as u64;
            to.count(F::ConfigRestartNeeded, &[], changes);
        }
        to.flag(F::ReloadOk, &[], self.tallied.reload_ok);
        to.number(F::ReloadTime, &[], self.tallied.reloaded.as_secs_f64());
    }

    fn partner(&self, to: &mut Samples) {
        let Some(partner) = &self.status.partner else {
            return;
        };
        squares("partner", partner.square, to);
        to.flag(F::ConfigInSync, &[], partner.config_in_sync);
        for role in ROLES {
            to.flag(F::PartnerRole, &[role.as_str()], Some(role) == partner.role);
        }
        let known = self.election.election.partner.as_ref();
        to.flag(F::PartnerHeard, &[], known.is_some_and(|known| known.heard));
        to.flag(
            F::PartnerHears,
            &[],
            known.is_some_and(|known| known.hears_us),
        );
        to.flag(F::PartnerReady, &[], known.is_some_and(|known| known.ready));
        if let Some(known) = known {
            to.number(F::PartnerSilentSeconds, &[], known.silent_for.as_secs_f64());
        }
    }

    fn interfaces(&self, to: &mut Samples) {
        for interface in &self.status.interfaces {
            let (name, device) = (interface.name.as_str(), interface.device.as_str());
            to.flag(F::InterfaceCarrier, &[name, device], interface.carrier);
            for mode in [XdpMode::Native, XdpMode::Generic, XdpMode::None] {
                let labels = [name, device, mode.as_str()];
                to.flag(F::InterfaceXdp, &labels, mode == interface.xdp_mode);
            }
            if let Some(reachable) = interface.gateway_reachable {
                to.flag(F::InterfaceGateway, &[name], reachable);
            }
        }
        for link in &self.election.election.links {
            let name = [link.name.as_str()];
            to.flag(F::LinkHeard, &name, link.heard);
            to.flag(F::LinkHeardByPartner, &name, link.heard_by_partner);
            to.flag(F::LinkMulticastBlocked, &name, link.multicast_blocked);
            if let Some(silent) = link.silent_for {
                to.number(F::LinkSilentSeconds, &name, silent.as_secs_f64());
            }
        }
    }

    fn election(&self, to: &mut Samples) {
        counted_by_election(&self.election.election, to);
        let lateness = self.election.lateness;
        to.count(F::ElectionTimers, &[], lateness.timers);
        to.count(F::ElectionTimersLate, &[], lateness.late);
        let latest = Duration::from_micros(lateness.max_us);
        to.number(F::ElectionLatenessMax, &[], latest.as_secs_f64());
        to.count(F::ElectionSendErrors, &[], self.election.send_errors);
        to.count(F::ElectionEventsLost, &[], self.election.events_lost);
    }

    fn datapath(&self, to: &mut Samples) {
        for counter in &self.counters.counters {
            match &counter.verdict {
                Some(verdict) => {
                    to.count(F::DatapathPackets, &[&counter.name, verdict], counter.value);
                }
                None => to.count(F::DatapathEvents, &[&counter.name], counter.value),
            }
        }
        let table = &self.status.connections;
        to.count(F::Connections, &["established"], table.established);
        to.count(F::Connections, &["half_open"], table.embryonic);
        to.count(F::ConnectionsMax, &[], table.max);
        to.count(F::TableEntries, &["ipv4"], self.census.entries);
        to.count(F::TableEntries, &["ipv6"], self.census.entries_ipv6);
        let (max4, max6) = self.entries_max;
        to.count(F::TableEntriesMax, &["ipv4"], max4);
        to.count(F::TableEntriesMax, &["ipv6"], max6);
    }

    fn rest(&self, to: &mut Samples) {
        if let Some(records) = &self.status.records {
            for space in &records.table.namespaces {
                let name = [space.name.as_str()];
                to.count(F::Records, &name, space.records);
                to.count(F::RecordsBytes, &name, space.bytes);
                to.count(F::RecordsRefused, &name, space.refused);
                if let Some(quota) = space.quota {
                    to.count(F::RecordsMax, &name, quota.records.into());
                    to.count(F::RecordsBytesMax, &name, quota.bytes);
                }
            }
            to.count(F::RecordsWaiting, &[], records.table.waiting);
            for (name, value) in numbers(&records.table.counters) {
                to.count(F::RecordsEvents, &[&name], value);
            }
            for (name, value) in numbers(&records.clients) {
                let result = name.trim_start_matches("clients_");
                to.count(F::PersistentClients, &[result], value);
            }
        }
        let Numbers {
            recorded,
            stored,
            lost,
        } = self.events;
        to.count(F::Events, &["recorded"], recorded);
        to.count(F::Events, &["stored"], stored);
        to.count(F::Events, &["lost"], lost);
        if let Some(outcomes) = self.hooks {
            let Outcomes {
                done,
                failed,
                timed_out,
                not_started,
                passed_over,
                waiting,
            } = outcomes;
            for (result, count) in [
                ("done", done),
                ("failed", failed),
                ("timed_out", timed_out),
                ("not_started", not_started),
            ] {
                to.count(F::NotifyRuns, &[result], count);
            }
            to.count(F::NotifyPassedOver, &[], passed_over);
            to.count(F::NotifyWaiting, &[], waiting);
        }
        for (event, count) in numbers(&self.control) {
            to.count(F::ControlEvents, &[&event], count);
        }
        for listener in self.listeners {
            to.count(F::HttpConnections, &[&listener.name], listener.connections);
            to.count(F::HttpDisplaced, &[&listener.name], listener.displaced);
            to.count(F::HttpTurnedAway, &[&listener.name], listener.turned_away);
        }
    }
}

const ROLES: [Role; 6] = [
    Role::Off,
    Role::Init,
    Role::Standby,
    Role::Active,
    Role::Pacified,
    Role::Maintenance,
];

fn squares(node: &str, has: Square, to: &mut Samples) {
    for square in [
        Square::Green,
        Square::Red,
        Square::Yellow,
        Square::Blue,
        Square::Grey,
        Square::None,
    ] {
        to.flag(F::Square, &[node, square.as_str()], square == has);
    }
}

/// Counters of the election: what was sent, accepted and dropped, and the rest, by their names.
fn counted_by_election(snapshot: &Snapshot, to: &mut Samples) {
    for (name, value) in &snapshot.counters {
        if let Some(packet) = name.strip_suffix("_sent") {
            to.count(F::ElectionSent, &[packet], *value);
        } else if let Some(packet) = name.strip_suffix("_accepted") {
            to.count(F::ElectionAccepted, &[packet], *value);
        } else if let Some(reason) = name.strip_prefix("dropped_") {
            to.count(F::ElectionDropped, &[reason], *value);
        } else {
            to.count(F::ElectionIncidents, &[name], *value);
        }
    }
}

fn real_server(service: &str, real: &RealServerStatus, to: &mut Samples) {
    let is = [service, real.address.as_str()];
    let [service, address] = is;
    for state in [
        RealServerState::Up,
        RealServerState::Draining,
        RealServerState::Down,
    ] {
        let labels = [service, address, state.as_str()];
        to.flag(F::RealState, &labels, state == real.state);
    }
    to.flag(F::RealOwnCheck, &is, real.own_check.is_some());
    to.count(F::RealWeight, &is, real.weight.into());
    to.count(F::RealConnections, &is, real.connections);
    if let Some(max) = real.connections_max {
        to.count(F::RealConnectionsMax, &is, max.into());
    }
    let TrafficStatus {
        connections,
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
        dropped,
    } = real.traffic;
    to.count(F::RealConnectionsMade, &is, connections);
    for (direction, packets, bytes) in [
        ("in", packets_in, bytes_in),
        ("out", packets_out, bytes_out),
    ] {
        to.count(F::RealPackets, &[service, address, direction], packets);
        to.count(F::RealBytes, &[service, address, direction], bytes);
    }
    to.count(F::RealDropped, &is, dropped);
}

fn replication(published: &replication::Published, to: &mut Samples) {
    let sync: &SyncSnapshot = &published.sync;
    to.flag(F::ReplicationReady, &[], sync.ready);
    let micros = |micros: u64| Duration::from_micros(micros).as_secs_f64();
    for (quantile, lag) in [("0.5", sync.lag_us_p50), ("0.99", sync.lag_us_p99)] {
        if let Some(lag) = lag {
            to.number(F::ReplicationLag, &[quantile], micros(lag));
        }
    }
    to.count(F::ReplicationEntries, &[], sync.entries);
    to.count(F::ReplicationOutstanding, &[], sync.outstanding);
    for (class, waiting) in numbers(&sync.waiting) {
        to.count(F::ReplicationWaiting, &[&class], waiting);
    }
    let oldest = sync.oldest_waiting_us.unwrap_or(0);
    to.number(F::ReplicationOldest, &[], micros(oldest));
    if let Some(buckets) = sync.repair_buckets {
        to.count(F::ReplicationRepair, &[], buckets);
    }
    if let Some(transfer) = sync.transfer {
        to.count(F::ReplicationTransfer, &["done"], transfer.done);
        to.count(F::ReplicationTransfer, &["total"], transfer.total);
    }
    for (name, value) in numbers(&sync.counters) {
        match name.strip_suffix("_bytes") {
            Some(event) => to.count(F::ReplicationBytes, &[event], value),
            None => to.count(F::ReplicationEvents, &[&name], value),
        }
    }
    for (name, classes) in members(&sync.counters) {
        for (class, value) in numbers(&classes) {
            to.count(F::ReplicationClassEvents, &[&name, &class], value);
        }
    }
    for (name, value) in numbers(&sync.sweep) {
        to.count(F::ReplicationSweep, &[&name], value);
    }
    for (error, count) in [
        ("apply", published.apply_errors),
        ("send", published.send_errors),
        ("too_long", published.too_long),
        ("bad_event", published.bad_events),
    ] {
        to.count(F::ReplicationErrors, &[error], count);
    }
}

/// The members of a structure of counters: whoever adds one exports it.
fn members(of: &impl Serialize) -> Vec<(String, Json)> {
    match serde_json::to_value(of) {
        Ok(Json::Object(members)) => members.into_iter().collect(),
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// Those that are numbers.
fn numbers(of: &impl Serialize) -> Vec<(String, u64)> {
    let members = members(of).into_iter();
    members
        .filter_map(|(name, value)| Some((name, value.as_u64()?)))
        .collect()
}

fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Json::String(name)) => name,
        Ok(_) | Err(_) => String::new(),
    }
}
