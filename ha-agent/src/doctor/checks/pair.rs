//! The pair, as the running agent sees it: its alarms, and what its status says.

use crate::config::model::Mode;
use crate::doctor::facts::{Agent, Facts};
use crate::doctor::{Check, Report};
use crate::shell::alarms::Kind;
use crate::status::model::{RealServerState, Role, Services, Square, Status};

/// The check that an alarm belongs to.
pub(in crate::doctor) const fn check_of(kind: Kind) -> Check {
    match kind {
        Kind::ModeConflict => Check::ModeConflict,
        Kind::TermNotReserved
        | Kind::StartsUnreadable
        | Kind::ConfigurationNotStored
        | Kind::EventsNotStored => Check::StateDirectory,
        Kind::TimingDiffers
        | Kind::ConfigurationDiffers
        | Kind::ConfigurationChannel
        | Kind::ConfigurationRefused
        | Kind::ConfigurationLost
        | Kind::RestartNeeded => Check::SameConfiguration,
        Kind::CarpGroupDiffers
        | Kind::UnsignedPeer
        | Kind::VrrpSameVhid
        | Kind::CarpForeignVersion => Check::VirtualId,
        Kind::VersionMismatch => Check::Versions,
        Kind::DuplicateAddress => Check::DuplicateAddress,
        Kind::BadTag
        | Kind::UnknownKey
        | Kind::WrongSource
        | Kind::UnverifiedPartner
        | Kind::ConfigurationKey => Check::Keys,
        Kind::BothActive | Kind::Isolated => Check::OneActive,
        Kind::OneWayHearing | Kind::LinkSilent => Check::PartnerHeard,
        Kind::FamilySilent | Kind::MulticastBlocked => Check::Multicast,
        Kind::GuardMissing | Kind::XdpDetached | Kind::InterfaceGone => Check::DataPlane,
        Kind::VirtualMacBlocked => Check::VirtualMac,
        Kind::ReplicationNotStored => Check::Replication,
        Kind::Pacified => Check::Participation,
        Kind::NotListening => Check::Listening,
        Kind::EventsLost => Check::Load,
    }
}

/// Reports the alarms that belong to a check, with their own remedies. Returns whether there were any.
pub(super) fn alarmed(facts: &Facts, report: &mut Report, check: Check) -> bool {
    let Agent::Running { status, .. } = &facts.agent else {
        return false;
    };
    let belongs = |name: &str| {
        let mut kinds = Kind::ALL.iter();
        kinds.any(|kind| kind.as_str() == name && check_of(*kind) == check)
    };
    let mut any = false;
    for alarm in status.alarms.iter().filter(|alarm| belongs(&alarm.name)) {
        any = true;
        report.add(
            check,
            crate::doctor::Verdict::Fail,
            format_args!("{}: {}", alarm.name, alarm.evidence),
            &alarm.remedy,
        );
    }
    any
}

/// Checks that no alarm of which is well, and what they then say.
const BY_ALARM: [(Check, &str); 9] = [
    (Check::Load, "no event of the election was lost"),
    (Check::Multicast, "no alarm"),
    (Check::ModeConflict, "no alarm"),
    (Check::VirtualId, "no alarm"),
    (Check::DuplicateAddress, "no alarm"),
    (Check::Keys, "no alarm"),
    (Check::Versions, "no alarm"),
    (Check::Listening, "no alarm"),
    (
        Check::DataPlane,
        "attached to every interface that has an address, and guarded",
    ),
];

/// Checks of a pair that nobody can make without its agent.
const NEEDS_AGENT: [Check; 7] = [
    Check::PartnerHeard,
    Check::VirtualMac,
    Check::SameConfiguration,
    Check::OneActive,
    Check::Participation,
    Check::Replication,
    Check::Services,
];

pub(in crate::doctor) fn examine(facts: &Facts, report: &mut Report) {
    let Agent::Running { status, services } = &facts.agent else {
        for check in BY_ALARM.iter().map(|(check, _)| *check).chain(NEEDS_AGENT) {
            report.skip(check, "needs a running agent");
        }
        return;
    };
    for (check, well) in BY_ALARM {
        if !alarmed(facts, report, check) {
            report.pass(check, well);
        }
    }
    let paired = facts
        .config
        .as_ref()
        .is_ok_and(|config| config.node.mode != Mode::Off);
    if paired {
        pair(facts, status, report);
    } else {
        for check in NEEDS_AGENT
            .into_iter()
            .filter(|check| *check != Check::Services)
        {
            report.skip(check, "high availability is off");
        }
    }
    serve(services, report);
}

fn pair(facts: &Facts, status: &Status, report: &mut Report) {
    heard(facts, status, report);
    let virtual_mac = facts
        .config
        .as_ref()
        .is_ok_and(|config| config.ha.virtual_mac);
    if !alarmed(facts, report, Check::VirtualMac) {
        if virtual_mac {
            report.pass(Check::VirtualMac, "no alarm");
        } else {
            report.skip(Check::VirtualMac, "ha.virtual_mac is off");
        }
    }
    let partner = status.partner.as_ref();
    let differs = partner.is_some_and(|partner| partner.role.is_some() && !partner.config_in_sync);
    if !alarmed(facts, report, Check::SameConfiguration) {
        if differs {
            report.fail(Check::SameConfiguration, "the two versions differ");
        } else {
            report.pass(
                Check::SameConfiguration,
                format_args!("generation {}", status.config_generation),
            );
        }
    }
    if !alarmed(facts, report, Check::OneActive) {
        // What a partner said before it fell silent is not what it is.
        let heard = partner.filter(|partner| partner.square != Square::Red);
        let roles = [Some(status.role), heard.and_then(|partner| partner.role)];
        let active = roles
            .iter()
            .filter(|role| **role == Some(Role::Active))
            .count();
        match active {
            1 => report.pass(Check::OneActive, "one"),
            0 => report.fail(Check::OneActive, "none"),
            _ => report.fail(Check::OneActive, "both"),
        }
    }
    if !alarmed(facts, report, Check::Participation) {
        let aside = |role: Role| matches!(role, Role::Pacified | Role::Maintenance | Role::Off);
        let mut sides = [
            ("this node", Some(status.role)),
            ("the partner", partner.and_then(|p| p.role)),
        ]
        .into_iter()
        .filter_map(|(who, role)| Some((who, role.filter(|role| aside(*role))?)));
        match sides.next() {
            Some((who, role)) => report.warn(
                Check::Participation,
                format_args!("{who} is {}", role.as_str()),
            ),
            None => report.pass(Check::Participation, "both"),
        }
    }
    if !alarmed(facts, report, Check::Replication) {
        let on = facts
            .config
            .as_ref()
            .is_ok_and(|config| config.ha.l4_connection_updates);
        match (on, status.replication.ready) {
            (false, _) => report.skip(Check::Replication, "ha.l4_connection_updates is off"),
            (true, true) => report.pass(Check::Replication, "ready"),
            (true, false) => report.fail(Check::Replication, "not ready"),
        }
    }
}

/// Whether the partner is there, link by link.
fn heard(facts: &Facts, status: &Status, report: &mut Report) {
    if alarmed(facts, report, Check::PartnerHeard) {
        return;
    }
    let Some(partner) = &status.partner else {
        return report.fail(Check::PartnerHeard, "never");
    };
    let silent: Vec<&str> = partner
        .heard
        .iter()
        .filter(|(_, heard)| !**heard)
        .map(|(name, _)| name.as_str())
        .collect();
    if silent.is_empty() && partner.square != Square::Red {
        report.pass(Check::PartnerHeard, "on every link");
    } else if silent.len() < partner.heard.len() {
        report.fail(
            Check::PartnerHeard,
            format_args!("not on {}", silent.join(", ")),
        );
    } else {
        report.fail(Check::PartnerHeard, "on no link");
    }
}

fn serve(services: &Services, report: &mut Report) {
    if services.services.is_empty() {
        report.skip(Check::Services, "there is none");
    }
    for service in &services.services {
        let name = &service.name;
        let able = |state: RealServerState| {
            let all = service.real_servers.iter();
            all.filter(move |real| !real.last_resort && real.state == state)
        };
        let (up, down) = (
            able(RealServerState::Up).count(),
            able(RealServerState::Down).count(),
        );
        let why = able(RealServerState::Down).find_map(|real| {
            let reason = real.reason.as_deref()?;
            Some(format!(" ({}: {reason})", real.address))
        });
        let why = why.unwrap_or_default();
        if up == 0 {
            report.fail(Check::Services, format_args!("{name}: none{why}"));
        } else if down > 0 {
            report.warn(
                Check::Services,
                format_args!("{name}: {down} of {} are down{why}", up + down),
            );
        } else {
            report.pass(Check::Services, format_args!("{name}: {up} up"));
        }
    }
}
