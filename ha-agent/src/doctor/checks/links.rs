//! Interfaces, cables, and the hosts on the other end.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::model::{Cidr, Config};
use crate::datapath::attach::XdpMode;
use crate::doctor::facts::{Agent, Facts, Heard, InterfaceFacts, LinkFacts};
use crate::doctor::{Check, Report, Verdict};

/// Longest time an echo of the partner may take: what the pair's timing was made for.
const LATENCY_MAX: Duration = Duration::from_millis(100);
/// Slowest link that is not worth a question, in megabits a second.
const SPEED_MIN: u32 = 1000;

pub(in crate::doctor) fn examine(facts: &Facts, report: &mut Report) {
    let Ok(config) = &facts.config else {
        for check in [
            Check::Device,
            Check::Carrier,
            Check::PartnerReachable,
            Check::Gateway,
        ] {
            report.skip(check, "no configuration");
        }
        return;
    };
    for interface in &facts.interfaces {
        let Some(link) = &interface.link else {
            report.fail(
                Check::Device,
                format_args!(
                    "{}: there is no device {}",
                    interface.name, interface.device
                ),
            );
            continue;
        };
        device(config, interface, link, report);
        if !link.carrier {
            report.fail(Check::Carrier, format_args!("{}: none", interface.name));
            continue;
        }
        report.pass(
            Check::Carrier,
            format_args!("{}: there is one", interface.name),
        );
        hardware(facts, interface, link, report);
        echoes(interface, report);
    }
}

fn device(config: &Config, interface: &InterfaceFacts, link: &LinkFacts, report: &mut Report) {
    let own = config
        .node
        .interfaces
        .iter()
        .find(|each| each.name == interface.name)
        .map_or(&[][..], |each| &each.addresses);
    let missing: Vec<String> = own
        .iter()
        .filter(|own| !link.addresses.contains(own))
        .map(Cidr::to_string)
        .collect();
    let name = &interface.name;
    if missing.is_empty() {
        report.pass(Check::Device, format_args!("{name}: {}", interface.device));
    } else {
        report.fail(
            Check::Device,
            format_args!(
                "{name}: {} does not have {}",
                interface.device,
                missing.join(", ")
            ),
        );
    }
}

fn hardware(facts: &Facts, interface: &InterfaceFacts, link: &LinkFacts, report: &mut Report) {
    let name = &interface.name;
    match (link.speed, link.duplex) {
        (_, Some("half")) => report.fail(Check::LinkSpeed, format_args!("{name}: half duplex")),
        (Some(speed @ ..SPEED_MIN), _) => {
            report.warn(Check::LinkSpeed, format_args!("{name}: {speed} Mbit/s"));
        }
        (Some(speed), _) => report.pass(Check::LinkSpeed, format_args!("{name}: {speed} Mbit/s")),
        (None, _) => report.skip(Check::LinkSpeed, format_args!("{name}: it does not tell")),
    }
    let driver = link.driver.as_deref().unwrap_or("driver unknown");
    match link.xdp {
        Some(XdpMode::Generic) => report.warn(
            Check::Driver,
            format_args!("{name}: {driver}, XDP in the generic path"),
        ),
        Some(mode) => report.pass(
            Check::Driver,
            format_args!("{name}: {driver}, XDP {}", mode.as_str()),
        ),
        None => report.skip(
            Check::Driver,
            format_args!("{name}: {driver}; nothing is attached, so it is not known"),
        ),
    }
    let processors = facts.machine.processors;
    match link.queues {
        Some(1) if processors > 1 => report.warn(
            Check::Queues,
            format_args!("{name}: one receive queue, {processors} processors"),
        ),
        Some(queues) => report.pass(
            Check::Queues,
            format_args!("{name}: {queues} receive queues, {processors} processors"),
        ),
        None => report.skip(Check::Queues, format_args!("{name}: it does not tell")),
    }
    match link.merges {
        Some(true) => report.fail(Check::LargeReceive, format_args!("{name}: LRO is on")),
        Some(false) => report.pass(Check::LargeReceive, format_args!("{name}: off")),
        None => report.skip(
            Check::LargeReceive,
            format_args!("{name}: it does not tell"),
        ),
    }
}

fn echoes(interface: &InterfaceFacts, report: &mut Report) {
    let name = &interface.name;
    for heard in &interface.partners {
        let host = heard.host;
        match &heard.answer {
            Ok(took) if *took > LATENCY_MAX => report.warn(
                Check::PartnerReachable,
                format_args!("{name}: {host} after {}", milliseconds(*took)),
            ),
            Ok(took) => report.pass(
                Check::PartnerReachable,
                format_args!("{name}: {host} after {}", milliseconds(*took)),
            ),
            Err(why) => report.fail(
                Check::PartnerReachable,
                format_args!("{name}: {host}: {why}"),
            ),
        }
    }
    // Short packets must arrive before long ones tell anything.
    let reached = |host: &IpAddr| {
        let mut short = interface.partners.iter();
        short.any(|heard| heard.host == *host && heard.is_some())
    };
    let long: Vec<&Heard> = (interface.wide.iter())
        .filter(|heard| reached(&heard.host))
        .collect();
    answers(Check::PacketLength, Verdict::Fail, name, &long, report);
    one_of(Check::Gateway, name, &interface.gateways, report);
    let known = |host: &IpAddr| {
        let mut asked = interface.gateways.iter();
        asked.any(|heard| heard.host == *host && heard.is_some())
    };
    let returns: Vec<&Heard> = (interface.returns.iter())
        .filter(|heard| known(&heard.host))
        .collect();
    answers(Check::Returns, Verdict::Fail, name, &returns, report);
}

fn answers(check: Check, otherwise: Verdict, name: &str, all: &[&Heard], report: &mut Report) {
    for Heard { host, answer } in all.iter().copied() {
        let (verdict, evidence): (_, &dyn Display) = match answer {
            Ok(_) => (Verdict::Pass, &"answers"),
            Err(why) => (otherwise, why),
        };
        report.add(
            check,
            verdict,
            format_args!("{name}: {host}: {evidence}"),
            check.remedy(),
        );
    }
}

/// A link counts as good if one of its gateways answers.
fn one_of(check: Check, name: &str, all: &[Heard], report: &mut Report) {
    let otherwise = if all.iter().any(Heard::is_some) {
        Verdict::Warn
    } else {
        Verdict::Fail
    };
    answers(
        check,
        otherwise,
        name,
        &all.iter().collect::<Vec<_>>(),
        report,
    );
}

fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

/// Whether the returns of a shared address are asked for: only the node that holds it gets them.
pub(in crate::doctor) fn holds_addresses(agent: &Agent) -> bool {
    use crate::status::model::Role;
    matches!(agent, Agent::Running { status, .. } if matches!(status.role, Role::Active | Role::Off))
}
