//! The result: figures, and in words what is wrong with them.

use ha_agent::status::model::Role;
use serde::Serialize;

use super::{Fault, NEW_RATE_MIN, Options};
use crate::rig::config::Scheduler;
use crate::rig::stalls::Stall;
use crate::traffic::client::request_every_ns;
use crate::traffic::report::{Age, TcpReport, UdpReport};

/// The result of a demonstration.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Version of this form.
    pub schema_version: u32,
    /// What was injected.
    pub fault: Fault,
    /// `mh` or `rr`.
    pub scheduler: &'static str,
    /// Whether connections were replicated.
    pub replication: bool,
    /// Whether the real servers were changed before the fault.
    pub servers_changed: bool,
    /// Time between advertisements.
    pub interval_ms: u128,
    /// How long the partner must be silent.
    pub timeout_ms: u128,
    /// Active before the fault.
    pub active_before: String,
    /// Active at the end: all that say so.
    pub active_after: Vec<String>,
    /// New connections a second that were established before the fault.
    pub new_connections_per_second: f64,
    /// Time between two requests of a connection, which is part of its gap.
    pub request_every_ms: u64,
    /// Connections.
    pub tcp: TcpReport,
    /// Probes.
    pub udp: UdpReport,
    /// Longest stalls of the machine from the fault on, in milliseconds.
    pub stalls_ms: Vec<f64>,
    /// Whether everything survived.
    pub passed: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// What was seen in a run.
pub(super) struct Seen {
    /// Index of the node that was active.
    pub(super) before: usize,
    /// Roles at the end.
    pub(super) roles: [Option<Role>; 2],
    /// New connections a second.
    pub(super) rate: f64,
    pub(super) stalls: Vec<Stall>,
    pub(super) tcp: TcpReport,
    pub(super) udp: UdpReport,
    /// What went wrong after the fault, in words.
    pub(super) faults_after: Vec<String>,
    pub(super) fault_ns: u64,
}

impl Outcome {
    pub(super) fn new(options: &Options, seen: &Seen) -> Self {
        let active_after: Vec<String> = (1..)
            .zip(&seen.roles)
            .filter(|(_, role)| **role == Some(Role::Active))
            .map(|(number, _)| format!("lb{number}"))
            .collect();
        let mut stalls_ms: Vec<f64> = seen
            .stalls
            .iter()
            .filter(|stall| stall.to_ns > seen.fault_ns)
            .map(|stall| (stall.to_ns - stall.from_ns) as f64 / 1e6)
            .collect();
        stalls_ms.sort_by(|a, b| b.total_cmp(a));
        stalls_ms.truncate(10);
        let reasons = reasons(options, seen);
        Self {
            schema_version: 1,
            fault: options.fault,
            scheduler: options.scheduler.as_str(),
            replication: !options.no_replication,
            servers_changed: options.change_servers,
            interval_ms: options.interval.as_millis(),
            timeout_ms: options.timeout.as_millis(),
            active_before: format!("lb{}", seen.before + 1),
            active_after,
            new_connections_per_second: seen.rate,
            request_every_ms: request_every_ns(seen.tcp.connections) / 1_000_000,
            tcp: seen.tcp.clone(),
            udp: seen.udp.clone(),
            stalls_ms,
            passed: reasons.is_empty(),
            reasons,
        }
    }
}

/// Everything that keeps the run from being a success.
fn reasons(options: &Options, seen: &Seen) -> Vec<String> {
    let mut reasons = seen.faults_after.clone();
    let (tcp, udp) = (&seen.tcp, &seen.udp);
    let mut unless = |fine: bool, reason: String| {
        if !fine {
            reasons.push(reason);
        }
    };
    for (count, what) in [
        (tcp.reset, "were reset"),
        (tcp.corrupted, "got wrong bytes"),
        (tcp.lost, "were lost (no checked payload for 5 s)"),
    ] {
        unless(
            count == 0,
            format!("{count} of {} connections {what}", tcp.connections),
        );
    }
    unless(
        tcp.broken_before == 0,
        format!("{} connections broke before the fault", tcp.broken_before),
    );
    for class in &tcp.classes {
        match class.age {
            // Without a table of half-open connections only the hash leads their last handshake
            // packet to the right server, so with another scheduler a refusal is no surprise.
            Age::Opening => unless(
                class.corrupted == 0 && (class.reset == 0 || options.scheduler == Scheduler::Rr),
                format!(
                    "of {} connections that were still opening {} were reset and {} corrupted",
                    class.connections, class.reset, class.corrupted
                ),
            ),
            Age::Newest | Age::New | Age::Recent | Age::Older => unless(
                class.connections > 0,
                format!(
                    "no connection was {} old at the fault, so nothing is shown for those",
                    class.age.as_str()
                ),
            ),
        }
    }
    unless(
        seen.rate >= NEW_RATE_MIN,
        format!(
            "only {:.0} new connections a second were reached before the fault",
            seen.rate
        ),
    );
    for (count, what) in [
        (udp.lost_flows, "were not answered again"),
        (udp.moved_flows, "were answered by another real server"),
    ] {
        unless(
            count == 0,
            format!("{count} of {} UDP flows {what}", udp.flows),
        );
    }
    unless(
        udp.wrong_answers == 0,
        format!("{} UDP answers were wrong", udp.wrong_answers),
    );
    let number = seen.before + 1;
    let role = |index: usize| seen.roles.get(index).copied().flatten();
    unless(
        role(1 - seen.before) == Some(Role::Active),
        format!("lb{} did not take over", 3 - number),
    );
    unless(
        role(seen.before) != Some(Role::Active),
        format!("lb{number} is still active"),
    );
    unless(
        !options.fault.spares_agent() || role(seen.before).is_some(),
        format!("the agent of lb{number} does not answer"),
    );
    reasons
}
