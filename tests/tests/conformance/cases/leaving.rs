//! Giving the role up and taking it: release, bow-out, failover, stop, maintenance, pacified, replacement.

use ha_agent::proto::carp::trailer::WireRole;
use ha_agent::proto::carp::{Action, Command, Refusal, Role, RoleReason};
use ha_common::carp::trailer_flags;

use crate::Case;
use crate::script::{FRONT, Script, TIMEOUT, ms};

pub(crate) const CASES: &[Case] = &[
    (
        20,
        "release-is-taken",
        "A release by the active partner is taken at once, under a lease that its echo grants.\n\
        docs/protocol.md, Trailer and HELLO: flag 1 release.",
        release_is_taken,
    ),
    (
        21,
        "release-in-a-bow-out",
        "The same in an advertisement with 255/255, which other CARP implementations understand too.\n\
        docs/protocol.md, CARP advertisement; OpenBSD ip_carp.c sends it, ucarp honours it.",
        release_in_a_bow_out,
    ),
    (
        22,
        "stale-release",
        "A release that echoes nothing of this node's present role is not taken: it may be an old one.\n\
        docs/protocol.md, What makes it safe.",
        stale_release,
    ),
    (
        23,
        "release-while-active",
        "A partner that says release and active at once has not released.\n\
        docs/protocol.md, Trailer and HELLO: flag 1 release.",
        release_while_active,
    ),
    (
        24,
        "failover",
        "A planned hand-over: gate, addresses, then three times on every link the bow-out and the release.\n\
        docs/protocol.md, CARP advertisement: bow-out.",
        failover,
    ),
    (
        25,
        "failover-unclaimed",
        "Nobody takes what was released: after the timeout the node takes it back.\n\
        docs/protocol.md, What makes it safe.",
        failover_unclaimed,
    ),
    (
        26,
        "failover-refused",
        "Failover is refused without a partner that hears, is ready and takes part.\n\
        docs/configuration.md and docs/protocol.md: ready.",
        failover_refused,
    ),
    (
        27,
        "stop",
        "An active node that stops says so three times on every link and then does nothing more.\n\
        docs/protocol.md, CARP advertisement: bow-out.",
        stop,
    ),
    (
        28,
        "stop-of-a-standby",
        "A standby that stops sends no bow-out: it has nothing to give.\n\
        docs/protocol.md, CARP advertisement: bow-out.",
        stop_of_a_standby,
    ),
    (
        29,
        "maintenance-of-the-active",
        "Maintenance hands over first, and the node then never claims, whatever is silent.\n\
        docs/protocol.md, Trailer and HELLO: role 4 maintenance.",
        maintenance_of_the_active,
    ),
    (
        30,
        "maintenance-ends",
        "A node that takes part again waits a whole timeout before silence counts.\n\
        docs/protocol.md, What makes it safe.",
        maintenance_ends,
    ),
    (
        31,
        "passive-partner",
        "A partner in maintenance never claims, so it is replaced at once, under half a timeout of lease.\n\
        docs/protocol.md, What makes it safe.",
        passive_partner,
    ),
    (
        32,
        "pacified",
        "A pacified node takes no part until a person resumes it.\n\
        docs/protocol.md, Trailer and HELLO: role 3 pacified.",
        pacified,
    ),
    (
        33,
        "high-availability-off",
        "Mode off: the gate is open for good and nothing is sent.\n\
        docs/configuration.md, node.mode.",
        high_availability_off,
    ),
    (
        34,
        "replacement-granted",
        "An active node asks for the long lease in every packet; the partner's grant opens the gate that long.\n\
        docs/protocol.md, Trailer and HELLO: flags 8 and 16.",
        replacement_granted,
    ),
];

fn release_is_taken(script: &mut Script) {
    script.become_standby(3);
    script.release();
    script.hello(FRONT);
    assert!(script.is_open());
    assert_eq!(script.term(), 4);
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerReleased));
}

fn release_in_a_bow_out(script: &mut Script) {
    script.become_standby(3);
    script.release();
    let bow_out = script.make_advert(255, 255);
    script.receive(&bow_out);
    assert!(script.is_open());
}

fn stale_release(script: &mut Script) {
    script.become_standby(3);
    script.release();
    script.partner.echo_sequence = 1;
    script.echoes = false;
    script.hello(FRONT);
    assert!(!script.is_open());
}

fn release_while_active(script: &mut Script) {
    script.become_standby(3);
    script.flag(trailer_flags::RELEASE, true);
    script.hello(FRONT);
    assert!(!script.is_open());
    assert_eq!(script.role(), Role::Standby);
}

fn failover(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.hello(FRONT);
    script.follows = false;
    let (actions, sent) = (script.actions.len(), script.sent.len());
    script.command(Command::Failover);
    script.run(ms(90));
    assert!(!script.is_open());
    let closed = &script.actions[actions..];
    let place = |wanted: &Action| closed.iter().position(|action| action == wanted).unwrap();
    assert!(place(&Action::Gate(None)) < place(&Action::ReleaseAddresses));
    let bow_outs = script.sent[sent..]
        .iter()
        .filter(|packet| packet.advert && packet.payload[2] == 255 && packet.payload[5] == 255);
    assert_eq!(bow_outs.count(), 3);
    let releases = script.bodies(sent);
    assert!(
        releases
            .iter()
            .all(|(_, body)| body.flags & trailer_flags::RELEASE != 0)
    );
    assert!(releases.len() >= 9);
}

fn failover_unclaimed(script: &mut Script) {
    failover(script);
    script.beat(7);
    assert_eq!(script.role(), Role::Active);
    assert!(script.is_open());
}

fn failover_refused(script: &mut Script) {
    script.become_active();
    script.say("the partner is not ready");
    script.command(Command::Failover);
    assert_eq!(script.refusal(), Some(Refusal::PartnerNotReady));
    script.say("the partner is in maintenance");
    script.partner.role = WireRole::Maintenance;
    script.hello(FRONT);
    script.command(Command::Failover);
    assert_eq!(script.refusal(), Some(Refusal::PartnerPassive));
    script.say("the partner is gone");
    script.follows = false;
    script.run(ms(500));
    script.command(Command::Failover);
    assert_eq!(script.refusal(), Some(Refusal::PartnerUnheard));
    assert!(script.is_open());
}

fn stop(script: &mut Script) {
    script.become_active();
    script.follows = false;
    let sent = script.sent.len();
    script.command(Command::Stop);
    script.run(ms(500));
    assert_eq!(script.actions.last(), Some(&Action::Stopped));
    let adverts = script
        .bodies(sent)
        .iter()
        .filter(|(advert, _)| *advert)
        .count();
    assert_eq!(adverts, 3);
}

fn stop_of_a_standby(script: &mut Script) {
    script.become_standby(3);
    let sent = script.sent.len();
    script.command(Command::Stop);
    script.run(ms(500));
    assert_eq!(script.actions.last(), Some(&Action::Stopped));
    assert!(
        script
            .bodies(sent)
            .iter()
            .all(|(advert, body)| { !advert && body.role == WireRole::Maintenance })
    );
}

fn maintenance_of_the_active(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.hello(FRONT);
    script.follows = false;
    script.command(Command::Maintenance(true));
    assert_eq!(script.role(), Role::Maintenance);
    assert!(!script.is_open());
    script.run(ms(900));
    assert!(!script.is_open());
}

fn maintenance_ends(script: &mut Script) {
    script.become_standby(3);
    script.command(Command::Maintenance(true));
    script.run(ms(500));
    script.command(Command::Maintenance(false));
    assert_eq!(script.role(), Role::Standby);
    script.run(TIMEOUT - ms(1));
    assert!(!script.is_open());
    script.run(ms(1));
    assert!(script.is_open());
}

fn passive_partner(script: &mut Script) {
    script.become_standby(3);
    script.partner.role = WireRole::Maintenance;
    let heard = script.now;
    script.hello(FRONT);
    assert_eq!(script.gate(), Some(heard + TIMEOUT / 2));
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerPassive));
}

fn pacified(script: &mut Script) {
    script.config.start_pacified = true;
    script.run(ms(700));
    assert_eq!(script.role(), Role::Pacified);
    assert!(!script.is_open());
    script.command(Command::Resume);
    assert_eq!(script.role(), Role::Standby);
    script.run(TIMEOUT);
    assert!(script.is_open());
}

fn high_availability_off(script: &mut Script) {
    script.config.mode = ha_agent::config::model::Mode::Off;
    script.run(ms(700));
    assert!(script.is_open());
    assert!(script.sent.is_empty());
}

fn replacement_granted(script: &mut Script) {
    script.become_active();
    script.partner.ready = true;
    script.hello(FRONT);
    script.follows = false;
    let sent = script.sent.len();
    script.command(Command::Reexec);
    script.run(ms(50));
    assert!(
        script
            .bodies(sent)
            .iter()
            .any(|(_, body)| body.flags & trailer_flags::REEXEC_ASK != 0)
    );
    script.flag(trailer_flags::REEXEC_GRANT, true);
    script.hello(FRONT);
    assert!(script.actions.contains(&Action::Reexec(Ok(()))));
    assert!(script.gate() > Some(script.now + ms(1900)));
}
