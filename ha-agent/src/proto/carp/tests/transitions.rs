//! Every role against everything that may happen to it.

use ha_common::carp::trailer_flags;

use super::super::trailer::WireRole;
use super::super::*;
use super::pair::{INTERVAL, TIMEOUT};
use super::scripted::Scripted;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    ActiveInHigherTerm,
    ActiveInLowerTerm,
    Standby,
    BetterStandby,
    Release,
    Passive,
    Silence,
    CarrierLost,
    Failover,
    Maintain,
    Resume,
    Stop,
}

fn in_role(role: Role) -> Scripted {
    let mut node = Scripted::new();
    match role {
        Role::Init | Role::Off => {}
        Role::Active => {
            node.say(|_| ());
            node.say(|_| ());
        }
        Role::Standby | Role::Maintenance | Role::Pacified => {
            node.say(|body| (body.role, body.term) = (WireRole::Active, 5));
            // It has said so.
            node.run(INTERVAL / 4);
        }
    }
    if role == Role::Maintenance {
        node.call(Some(Input::Command(Command::Maintenance(true))));
    }
    assert_eq!(node.role, role);
    assert_eq!(node.is_open(), role == Role::Active);
    node
}

fn happen(node: &mut Scripted, event: Event) {
    let command = |command| Some(Input::Command(command));
    match event {
        Event::ActiveInHigherTerm => {
            node.say(|body| (body.role, body.term) = (WireRole::Active, 900));
        }
        Event::ActiveInLowerTerm => {
            node.say(|body| (body.role, body.term) = (WireRole::Active, 0));
        }
        Event::Standby => node.say(|_| ()),
        // This node lost its gateway, and the partner did not.
        Event::BetterStandby => {
            node.call(Some(Input::Gateway {
                link: 0,
                reachable: false,
            }));
            node.run(TIMEOUT / 2);
            node.say(|_| ());
        }
        Event::Release => node.say(|body| body.flags = trailer_flags::RELEASE),
        Event::Passive => node.say(|body| body.role = WireRole::Maintenance),
        Event::Silence => node.run(TIMEOUT * 2),
        Event::CarrierLost => node.call(Some(Input::Carrier { link: 0, up: false })),
        Event::Failover => node.call(command(Command::Failover)),
        Event::Maintain => node.call(command(Command::Maintenance(true))),
        Event::Resume => node.call(command(Command::Resume)),
        Event::Stop => node.call(command(Command::Stop)),
    }
}

/// Role before, what happens, role after, whether the gate is open then, and why the role is what it is.
type Row = (Role, Event, Role, bool, RoleReason);

const TABLE: &[Row] = {
    use Event::{
        ActiveInHigherTerm, ActiveInLowerTerm, BetterStandby, CarrierLost, Failover, Maintain,
        Passive, Release, Resume, Silence, Standby, Stop,
    };
    use Role::{Active, Init, Maintenance, Off, Standby as Watches};
    &[
        (
            Init,
            ActiveInHigherTerm,
            Watches,
            false,
            RoleReason::PartnerFound,
        ),
        (
            Init,
            ActiveInLowerTerm,
            Watches,
            false,
            RoleReason::PartnerFound,
        ),
        (Init, Standby, Active, false, RoleReason::BetterThanPartner),
        (
            Init,
            BetterStandby,
            Watches,
            false,
            RoleReason::PartnerFound,
        ),
        (Init, Release, Active, true, RoleReason::PartnerReleased),
        (Init, Passive, Active, true, RoleReason::PartnerPassive),
        (Init, Silence, Active, true, RoleReason::PartnerSilent),
        (Init, CarrierLost, Init, false, RoleReason::Started),
        (Init, Failover, Init, false, RoleReason::Started),
        (Init, Maintain, Maintenance, false, RoleReason::Maintenance),
        (Init, Resume, Init, false, RoleReason::Started),
        (Init, Stop, Off, false, RoleReason::Stopping),
        (
            Watches,
            ActiveInHigherTerm,
            Watches,
            false,
            RoleReason::PartnerFound,
        ),
        (
            Watches,
            ActiveInLowerTerm,
            Watches,
            false,
            RoleReason::PartnerFound,
        ),
        (
            Watches,
            Standby,
            Active,
            false,
            RoleReason::BetterThanPartner,
        ),
        (
            Watches,
            BetterStandby,
            Watches,
            false,
            RoleReason::PartnerFound,
        ),
        (Watches, Release, Active, true, RoleReason::PartnerReleased),
        (Watches, Passive, Active, true, RoleReason::PartnerPassive),
        (Watches, Silence, Active, true, RoleReason::PartnerSilent),
        (
            Watches,
            CarrierLost,
            Watches,
            false,
            RoleReason::PartnerFound,
        ),
        (Watches, Failover, Watches, false, RoleReason::PartnerFound),
        (
            Watches,
            Maintain,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (Watches, Resume, Watches, false, RoleReason::PartnerFound),
        (Watches, Stop, Off, false, RoleReason::Stopping),
        (
            Active,
            ActiveInHigherTerm,
            Watches,
            false,
            RoleReason::LostToPartner,
        ),
        (
            Active,
            ActiveInLowerTerm,
            Active,
            true,
            RoleReason::BetterThanPartner,
        ),
        (Active, Standby, Active, true, RoleReason::BetterThanPartner),
        (
            Active,
            BetterStandby,
            Watches,
            false,
            RoleReason::PartnerFitter,
        ),
        (Active, Release, Active, true, RoleReason::BetterThanPartner),
        (Active, Passive, Active, true, RoleReason::BetterThanPartner),
        (Active, Silence, Active, true, RoleReason::BetterThanPartner),
        (
            Active,
            CarrierLost,
            Watches,
            false,
            RoleReason::PartnerFitter,
        ),
        (Active, Failover, Watches, false, RoleReason::Failover),
        (
            Active,
            Maintain,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (Active, Resume, Active, true, RoleReason::BetterThanPartner),
        (Active, Stop, Off, false, RoleReason::Stopping),
        (
            Maintenance,
            ActiveInHigherTerm,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            ActiveInLowerTerm,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            Standby,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            BetterStandby,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            Release,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            Passive,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            Silence,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            CarrierLost,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            Failover,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (
            Maintenance,
            Maintain,
            Maintenance,
            false,
            RoleReason::Maintenance,
        ),
        (Maintenance, Resume, Watches, false, RoleReason::Resumed),
        (Maintenance, Stop, Off, false, RoleReason::Stopping),
    ]
};

#[test]
fn every_role_and_everything_that_happens_to_it() {
    let mut wrong = Vec::new();
    for (from, event, to, open, reason) in TABLE {
        let mut node = in_role(*from);
        happen(&mut node, *event);
        let found = (node.role, node.is_open(), node.reason());
        if found != (*to, *open, Some(*reason)) {
            wrong.push(format!("{from:?} {event:?}: {found:?}"));
        }
        let released = *from == Role::Active && !node.is_open();
        let planned = !matches!(event, Event::ActiveInHigherTerm);
        let handed = |action: &&Action| matches!(action, Action::HandOver { .. });
        let hands_over = node.out.iter().any(|action| handed(&action));
        if hands_over != (released && planned) {
            wrong.push(format!("{from:?} {event:?}: hands over {hands_over}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
