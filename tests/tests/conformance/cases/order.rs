//! Which of the two nodes should be active.

use ha_agent::config::model::{Mode, Preferred};
use ha_agent::journal::Happened;
use ha_agent::proto::carp::trailer::WireRole;
use ha_agent::proto::carp::{Action, Alarm, Role, RoleReason};

use crate::Case;
use crate::script::{FRONT, HOLD_DOWN, INTERVAL, Script, TIMEOUT, ms};

pub(crate) const CASES: &[Case] = &[
    (
        40,
        "first-node-claims",
        "Two equal standbys: the first node claims.\n\
        docs/protocol.md, Trailer and HELLO: mode.",
        first_node_claims,
    ),
    (
        41,
        "second-node-waits",
        "The second node does not, and takes the role if the favoured partner leaves it for a timeout.\n\
        docs/protocol.md, Trailer and HELLO: mode.",
        second_node_waits,
    ),
    (
        42,
        "ready-goes-first",
        "A partner with the connections is favoured over the first node without them.\n\
        docs/protocol.md, Trailer and HELLO: ready.",
        ready_goes_first,
    ),
    (
        43,
        "no-preemption",
        "The first node comes back and finds the second active: nothing moves.\n\
        docs/configuration.md, ha.preferred: none.",
        no_preemption,
    ),
    (
        44,
        "preferred-hold-down",
        "A preferred partner gets the role back when it is ready and has been fit for the hold-down.\n\
        docs/configuration.md, ha.preferred.",
        preferred_hold_down,
    ),
    (
        45,
        "higher-term-stays",
        "Two active nodes: the one with the lower term gives way.\n\
        docs/protocol.md, What makes it safe: between two active nodes the higher term stays.",
        higher_term_stays,
    ),
    (
        46,
        "lower-term-leaves",
        "The one with the higher term stays, raises the alarm, and announces its addresses again; once more when\n\
        the conflict ends.\n\
        docs/protocol.md, What makes it safe.",
        lower_term_leaves,
    ),
    (
        47,
        "equal-terms",
        "Equal terms: the order decides, and the second node gives way.\n\
        docs/protocol.md, What makes it safe.",
        equal_terms,
    ),
    (
        48,
        "overtaken-term",
        "A standby that knows a higher term: the active node takes a new one above it.\n\
        docs/protocol.md, Trailer and HELLO: term.",
        overtaken_term,
    ),
    (
        49,
        "reserved-terms",
        "A restarted node starts above every term it reserved; without a disk the term is used, and an alarm says so.\n\
        docs/protocol.md, Trailer and HELLO: term.",
        reserved_terms,
    ),
    (
        50,
        "mode-conflict",
        "Both nodes have the same mode: the one that came later stays standby, and both say so.\n\
        docs/configuration.md, node.mode.",
        mode_conflict,
    ),
    (
        51,
        "configurations-differ",
        "Another configuration generation: an alarm, and the partner does not count as ready.\n\
        docs/protocol.md, Trailer and HELLO: configuration generation.",
        configurations_differ,
    ),
    (
        52,
        "overtaken-unheard",
        "The data plane has heard the partner as active in a higher term and closed the gate, but the advertisement was\n\
        lost on its way to the machine: it closes too, asks, and opens only above that term.\n\
        docs/protocol.md, What XDP checks.",
        overtaken_unheard,
    ),
    (
        53,
        "overtaken-and-silent",
        "The same, and nothing more is heard of the partner: a whole timeout passes before this node goes on, in a term\n\
        above the partner's.\n\
        docs/protocol.md, What XDP checks.",
        overtaken_and_silent,
    ),
];

fn first_node_claims(script: &mut Script) {
    script.follows = true;
    script.run(ms(60));
    assert_eq!(script.last_reason(), Some(RoleReason::BetterThanPartner));
    assert!(script.is_open());
}

fn second_node_waits(script: &mut Script) {
    script.config.mode = Mode::Second;
    script.partner.mode = 1;
    script.run(ms(10));
    script.beat(2);
    assert_eq!(script.role(), Role::Standby);
    script.beat(2);
    assert_eq!(script.last_reason(), Some(RoleReason::Unclaimed));
}

fn ready_goes_first(script: &mut Script) {
    script.partner.ready = true;
    script.run(ms(10));
    script.beat(2);
    assert_eq!(script.role(), Role::Standby);
    script.partner.role = WireRole::Active;
    script.partner.term = 1;
    script.beat(2);
    assert_eq!(script.role(), Role::Standby);
}

fn no_preemption(script: &mut Script) {
    script.become_standby(3);
    script.happen(Happened::Ready(true));
    script.beat(6);
    assert_eq!(script.role(), Role::Standby);
}

fn preferred_hold_down(script: &mut Script) {
    script.config.preferred = Preferred::Second;
    script.become_active();
    script.partner.preferred = 2;
    script.run(ms(200));
    script.say("ready from now on");
    script.partner.ready = true;
    let fit = script.now;
    script.run(HOLD_DOWN - ms(50));
    assert_eq!(script.role(), Role::Active, "not before");
    while script.role() == Role::Active && script.now < fit + HOLD_DOWN * 2 {
        script.run(ms(10));
    }
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerPreferred));
}

fn higher_term_stays(script: &mut Script) {
    script.become_active();
    script.follows = false;
    script.partner.role = WireRole::Active;
    script.partner.term = script.term() + 1;
    let from = script.actions.len();
    script.advert();
    assert_eq!(script.role(), Role::Standby);
    assert_eq!(script.last_reason(), Some(RoleReason::LostToPartner));
    assert!(script.actions[from..].contains(&Action::ReleaseAddresses));
}

fn lower_term_leaves(script: &mut Script) {
    script.first_term = 10;
    script.become_active();
    script.follows = false;
    script.learns = false;
    script.run(ms(100));
    script.partner.role = WireRole::Active;
    script.partner.term = 2;
    let before = script.announcements();
    script.advert();
    assert_eq!(script.role(), Role::Active);
    assert!(script.has_alarm(Alarm::BothActive));
    assert_eq!(script.announcements(), before + 1, "at once");
    script.say("the partner gives way");
    script.partner.role = WireRole::Standby;
    script.hello(FRONT);
    assert!(!script.has_alarm(Alarm::BothActive));
    assert_eq!(
        script.announcements(),
        before + 2,
        "its caches are put right"
    );
    script.follows = true;
    script.run(INTERVAL * 3);
    assert_eq!(script.announcements(), before + 3, "and once more");
}

fn equal_terms(script: &mut Script) {
    script.config.mode = Mode::Second;
    script.partner.mode = 1;
    script.run(TIMEOUT);
    assert!(script.is_open());
    script.partner.role = WireRole::Active;
    script.partner.term = script.term();
    script.partner.ready = true;
    script.advert();
    assert_eq!(script.role(), Role::Standby);
}

fn overtaken_term(script: &mut Script) {
    script.become_active();
    script.follows = false;
    script.partner.term = 40;
    script.hello(FRONT);
    assert_eq!(script.term(), 41);
    assert_eq!(script.last_reason(), Some(RoleReason::TermOvertaken));
}

fn reserved_terms(script: &mut Script) {
    script.first_term = 5000;
    script.disk_works = false;
    script.run(TIMEOUT);
    assert_eq!(script.term(), 5000);
    assert!(script.is_open());
    // A disk is not as quick as an election.
    assert!(!script.has_alarm(Alarm::TermNotReserved));
    script.run(ms(2000));
    assert!(script.has_alarm(Alarm::TermNotReserved));
    // It is the term's alarm, not the role's.
    script.partner.role = WireRole::Active;
    script.partner.term = 6000;
    script.advert();
    assert_eq!(script.role(), Role::Standby);
    assert!(script.has_alarm(Alarm::TermNotReserved));
    script.happen(Happened::TermReserved(7000));
    assert!(!script.has_alarm(Alarm::TermNotReserved));
}

fn mode_conflict(script: &mut Script) {
    script.partner.mode = 1;
    script.partner.epoch = 1;
    script.run(ms(10));
    script.beat(6);
    assert_eq!(script.role(), Role::Standby);
    assert!(script.has_alarm(Alarm::ModeConflict));
}

fn configurations_differ(script: &mut Script) {
    script.partner.generation = 2;
    script.partner.ready = true;
    script.become_active();
    assert!(script.has_alarm(Alarm::ConfigurationDiffers));
    script.run(ms(300));
    assert_eq!(script.role(), Role::Active);
    assert!(!script.snapshot().partner.unwrap().ready);
    script.happen(Happened::Generation(2));
    script.hello(FRONT);
    assert!(!script.has_alarm(Alarm::ConfigurationDiffers));
}

fn overtaken_unheard(script: &mut Script) {
    script.become_active();
    let before = script.term();
    script.happen(Happened::Overtaken(before));
    assert!(script.is_open(), "its own term");
    script.follows = false;
    script.happen(Happened::Overtaken(before + 5));
    assert!(!script.is_open());
    assert_eq!(script.role(), Role::Active);
    script.hello(FRONT);
    assert_eq!(script.last_reason(), Some(RoleReason::TermOvertaken));
    assert!(!script.is_open(), "nothing of the new term has been echoed");
    script.beat(2);
    assert!(script.is_open() && script.term() > before + 5);
}

fn overtaken_and_silent(script: &mut Script) {
    script.become_active();
    let before = script.term();
    script.follows = false;
    script.happen(Happened::Overtaken(before + 5));
    script.run(TIMEOUT - ms(1));
    assert!(!script.is_open());
    script.run(TIMEOUT);
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerSilent));
    assert!(script.is_open());
    assert_eq!(script.term(), before + 6);
}
