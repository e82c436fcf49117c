//! When the gate is open: echo, silence, alone, freezes.

use ha_agent::journal::Happened;
use ha_agent::proto::carp::trailer::WireRole;
use ha_agent::proto::carp::{Action, Alarm, Role, RoleReason};
use ha_common::carp::trailer_flags;

use crate::Case;
use crate::script::{CABLE, FRONT, INTERVAL, Script, TIMEOUT, ms};

pub(crate) const CASES: &[Case] = &[
    (
        1,
        "lone-start",
        "A node that hears nothing claims after the whole timeout, not before, and holds the gate by itself.\n\
        docs/protocol.md, What makes it safe: silence for a whole timeout.",
        lone_start,
    ),
    (
        2,
        "initial-wait",
        "A longer initial wait is waited out first.\n\
        docs/configuration.md, ha.initial_wait.",
        initial_wait,
    ),
    (
        3,
        "claim-opens-nothing",
        "Becoming active opens nothing: only the partner's echo of a packet sent in that role does.\n\
        docs/protocol.md, What makes it safe: a claim changes nothing until the partner has echoed it.",
        claim_opens_nothing,
    ),
    (
        4,
        "lease-from-sending",
        "The lease ends at the time of sending of the echoed packet plus the timeout, less 2 ms and a\n\
        thousandth; an echo that comes late grants only what is left.\n\
        docs/protocol.md, What makes it safe, first rule.",
        lease_from_sending,
    ),
    (
        5,
        "echo-of-another-role",
        "The echo of a packet that was sent before the claim grants nothing.\n\
        docs/protocol.md, What makes it safe: echoed it as standby.",
        echo_of_another_role,
    ),
    (
        6,
        "echo-in-a-question",
        "An echo in a packet that asks grants nothing: its sender has been deaf.\n\
        docs/protocol.md, Trailer and HELLO: flag 2.",
        echo_in_a_question,
    ),
    (
        7,
        "deaf-partner",
        "A partner that is heard but hears nothing: the lease ends, the gate closes, the node asks.\n\
        docs/protocol.md, What makes it safe, first two rules.",
        deaf_partner,
    ),
    (
        8,
        "dying-standby",
        "The standby dies: the active node is alone before its lease ends and the gate never closes.\n\
        docs/protocol.md, What makes it safe: a dying standby interrupts nothing.",
        dying_standby,
    ),
    (
        9,
        "alone-ends",
        "The standby comes back with a new epoch: the node is no longer alone, the echo lease goes on.\n\
        docs/protocol.md, What makes it safe.",
        alone_ends,
    ),
    (
        10,
        "silent-active",
        "The active partner falls silent: the standby is active one timeout after the last packet.\n\
        docs/protocol.md, What makes it safe: the standby's timer runs from the reception.",
        silent_active,
    ),
    (
        11,
        "reception-counts",
        "The timer runs from when the kernel received the packet, not from when the process saw it.\n\
        docs/protocol.md, What makes it safe, second rule.",
        reception_counts,
    ),
    (
        12,
        "longer-timeout-counts",
        "If the partner's timeout is longer, that one is waited for, and the difference is an alarm.\n\
        docs/protocol.md, Trailer and HELLO: timeout.",
        longer_timeout_counts,
    ),
    (
        13,
        "frozen-standby",
        "A standby that was frozen does not take silence for death: it listens first, and hears.\n\
        docs/protocol.md, What makes it safe.",
        frozen_standby,
    ),
    (
        14,
        "frozen-active-asks",
        "An active node frozen beyond its lease finds the gate closed, asks, and goes on in its term.\n\
        docs/protocol.md, Trailer and HELLO: flag 2 ask.",
        frozen_active_asks,
    ),
    (
        15,
        "thaw-to-a-new-active",
        "An active node thaws and hears that the partner is active in a later term: it stays closed.\n\
        docs/protocol.md, What makes it safe: the higher term stays.",
        thaw_to_a_new_active,
    ),
];

fn lone_start(script: &mut Script) {
    script.run(TIMEOUT - ms(1));
    assert_eq!(script.role(), Role::Init);
    assert!(!script.is_open());
    script.run(ms(1));
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerSilent));
    assert!(script.is_open() && script.snapshot().alone);
    script.run(ms(400));
    assert!(script.is_open());
}

fn initial_wait(script: &mut Script) {
    script.config.initial_wait = ms(700);
    script.run(ms(699));
    assert!(!script.is_open());
    script.run(ms(1));
    assert!(script.is_open());
}

fn claim_opens_nothing(script: &mut Script) {
    script.run(ms(10));
    script.hello(FRONT);
    assert_eq!(script.role(), Role::Active, "the better node claims");
    assert!(!script.is_open());
    script.run(ms(10));
    script.hello(FRONT);
    assert!(script.is_open(), "echoed");
}

fn lease_from_sending(script: &mut Script) {
    script.run(ms(10));
    script.hello(FRONT);
    let sent = script.now;
    let late = script.make_hello(FRONT);
    script.run(ms(80));
    script.receive(&late);
    // 300 ms less 2 ms and 0.3 ms.
    assert_eq!(
        script.gate(),
        Some(sent + ms(298) - std::time::Duration::from_micros(300))
    );
}

fn echo_of_another_role(script: &mut Script) {
    script.run(ms(10));
    script.echoes = false;
    script.hello(FRONT);
    assert_eq!(script.role(), Role::Active);
    script.run(ms(20));
    script.hello(FRONT);
    assert!(!script.is_open());
}

fn echo_in_a_question(script: &mut Script) {
    script.run(ms(10));
    script.hello(FRONT);
    script.run(ms(10));
    script.flag(trailer_flags::ASK, true);
    script.hello(FRONT);
    assert!(!script.is_open());
    script.flag(trailer_flags::ASK, false);
    script.hello(FRONT);
    assert!(script.is_open());
}

fn deaf_partner(script: &mut Script) {
    script.become_active();
    script.follows = false;
    script.echoes = false;
    script.beat(3);
    assert_eq!(script.role(), Role::Active);
    assert!(!script.is_open());
    assert_eq!(script.count("lease_lapsed"), 1);
    let from = script.sent.len();
    script.beat(1);
    assert!(
        script
            .bodies(from)
            .iter()
            .any(|(_, body)| body.flags & trailer_flags::ASK != 0)
    );
}

fn dying_standby(script: &mut Script) {
    script.become_active();
    script.follows = false;
    let from = script.actions.len();
    script.run(ms(700));
    assert!(script.is_open() && script.snapshot().alone);
    assert!(!script.actions[from..].contains(&Action::Gate(None)));
}

fn alone_ends(script: &mut Script) {
    dying_standby(script);
    script.partner.epoch = 0xcafe;
    script.partner.sequence = 0;
    script.hello(FRONT);
    assert!(!script.snapshot().alone);
    script.follows = true;
    script.run(ms(300));
    assert!(script.is_open() && !script.snapshot().alone);
}

fn silent_active(script: &mut Script) {
    script.become_standby(3);
    script.hello(CABLE);
    let heard = script.now;
    script.run(TIMEOUT - ms(1));
    assert!(!script.is_open());
    script.run(ms(1));
    assert_eq!(script.now, heard + TIMEOUT);
    assert!(script.is_open());
    assert_eq!(script.term(), 4);
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerSilent));
}

fn reception_counts(script: &mut Script) {
    script.become_standby(3);
    let packet = script.make_hello(FRONT);
    let received = script.now;
    script.now = script.now + ms(30);
    script.receive_at(&packet, received);
    script.run(TIMEOUT - ms(30));
    assert!(script.is_open());
}

fn longer_timeout_counts(script: &mut Script) {
    script.partner.timeout_us = 500_000;
    script.become_standby(3);
    assert!(script.has_alarm(Alarm::TimingDiffers));
    script.hello(FRONT);
    script.run(ms(499));
    assert!(!script.is_open());
    script.run(ms(1));
    assert!(script.is_open());
}

fn frozen_standby(script: &mut Script) {
    script.become_standby(3);
    script.freeze(ms(900));
    script.happen(Happened::Timer);
    assert_eq!(script.role(), Role::Standby);
    assert_eq!(script.count("stalled"), 1);
    script.run(ms(50));
    script.beat(2);
    assert_eq!(script.role(), Role::Standby);
}

fn frozen_active_asks(script: &mut Script) {
    script.become_active();
    let term = script.term();
    script.follows = false;
    script.freeze(ms(900));
    assert!(!script.is_open(), "by itself");
    let from = script.sent.len();
    script.happen(Happened::Timer);
    assert!(!script.is_open());
    assert!(
        script
            .bodies(from)
            .iter()
            .any(|(_, body)| body.flags & trailer_flags::ASK != 0)
    );
    script.run(ms(1));
    script.hello(FRONT);
    assert!(script.is_open());
    assert_eq!(script.term(), term);
}

fn thaw_to_a_new_active(script: &mut Script) {
    script.become_active();
    let term = script.term();
    script.follows = false;
    script.echoes = false;
    script.freeze(ms(900));
    script.partner.role = WireRole::Active;
    script.partner.term = term + 1;
    script.advert();
    assert_eq!(script.role(), Role::Standby);
    assert_eq!(script.last_reason(), Some(RoleReason::LostToPartner));
    script.run(INTERVAL);
    assert!(!script.is_open());
}
