//! What a pair goes through.

use super::super::*;
use super::pair::*;
use crate::proto::time::Instant;

#[test]
fn both_start_and_the_first_becomes_active_at_once() {
    let mut pair = Pair::new();
    pair.until(INTERVAL / 2, |pair| pair.settled(0));
    assert_eq!(
        pair.reasons(0),
        [
            RoleReason::Started,
            RoleReason::PartnerFound,
            RoleReason::BetterThanPartner
        ]
    );
    pair.run(ms(2000));
    assert!(pair.settled(0));
    assert_eq!(pair.term(1), pair.term(0));
    assert_eq!(pair.reasons(0).len(), 3, "nothing changes without a cause");
}

#[test]
fn a_node_without_partner_waits_the_timeout() {
    let mut pair = Pair::new();
    pair.power_off(1);
    let took = pair.until(ms(1000), |pair| pair.open(0));
    assert_eq!(took, TIMEOUT);
    pair.run(ms(5000));
    assert!(pair.open(0));
    assert_eq!(
        pair.reasons(0),
        [RoleReason::Started, RoleReason::PartnerSilent]
    );
}

#[test]
fn the_standby_replaces_a_dead_active_node_after_the_timeout() {
    let mut pair = Pair::new();
    pair.run(ms(1050));
    pair.power_off(0);
    let took = pair.until(ms(1000), |pair| pair.open(1));
    assert!(took <= TIMEOUT && took + INTERVAL >= TIMEOUT, "{took:?}");
    assert_eq!(pair.reasons(1).last(), Some(&RoleReason::PartnerSilent));
    pair.run(ms(5000));
    assert!(pair.open(1));
}

#[test]
fn a_dying_standby_does_not_close_the_gate() {
    for millis in (1000..1120).step_by(7) {
        let mut pair = Pair::new();
        pair.run(ms(millis));
        pair.power_off(1);
        let before = pair.log.len();
        pair.run(ms(5000));
        assert!(pair.open(0));
        assert!(
            pair.log[before..]
                .iter()
                .all(|(_, action)| !matches!(action, Action::Gate(None))),
            "{millis}: {:?}",
            &pair.log[before..]
        );
    }
}

#[test]
fn failover_hands_over_at_once_and_does_not_come_back() {
    let mut pair = Pair::new();
    pair.run(ms(500));
    pair.input(1, Input::Ready(true));
    pair.run(ms(200));
    let term = pair.term(0);
    pair.command(0, Command::Failover);
    assert!(pair.settled(1));
    assert!(pair.term(1) > term);
    pair.run(ms(5000));
    assert!(pair.settled(1));
    assert_eq!(pair.reasons(1).last(), Some(&RoleReason::PartnerReleased));
}

#[test]
fn stop_hands_over_and_ends() {
    let mut pair = Pair::new();
    pair.run(ms(500));
    pair.command(0, Command::Stop);
    assert!(pair.open(1) && !pair.open(0));
    pair.run(ms(100));
    assert!(pair.log.contains(&(0, Action::Stopped)));
    assert_eq!(pair.nodes[0].as_ref().unwrap().poll_timeout(), None);
    pair.run(ms(5000));
    assert!(pair.open(1));
    assert!(!pair.log.contains(&(1, Action::Gate(None))) || pair.open(1));
}

/// What lets established connections pass for a moment, and what does not.
#[test]
fn hand_over_needs_an_heir() {
    let handed_over = |pair: &Pair| {
        let handed = |(node, action): &&(usize, Action)| {
            *node == 0 && matches!(action, Action::HandOver { .. })
        };
        pair.log.iter().filter(handed).count()
    };
    for (command, heir) in [
        (Command::Failover, true),
        (Command::Stop, true),
        (Command::Maintenance(true), true),
        (Command::Stop, false),
        (Command::Maintenance(true), false),
    ] {
        let mut pair = Pair::new();
        pair.run(ms(500));
        pair.input(1, Input::Ready(true));
        pair.run(ms(200));
        if !heir {
            pair.power_off(1);
            pair.run(ms(1000));
        }
        assert!(pair.open(0));
        let begun = pair.now;
        pair.command(0, command);
        assert_eq!(handed_over(&pair), usize::from(heir), "{command:?}");
        assert_eq!(pair.open(1), heir);
        if command == Command::Stop {
            let stopped = |pair: &Pair| pair.log.contains(&(0, Action::Stopped));
            pair.until(ms(200), stopped);
            let least = if heir { ms(50) } else { ms(0) };
            assert!(
                pair.now.since(begun) >= least,
                "it ends after the hand-over"
            );
        }
    }
}

#[test]
fn losing_a_contest_hands_nothing_over() {
    let mut pair = Pair::new();
    pair.run(ms(500));
    pair.cut = [[true; 2]; 2];
    pair.frozen[0] = true;
    pair.until(ms(1000), |pair| pair.open(1));
    pair.frozen[0] = false;
    pair.cut = [[false; 2]; 2];
    pair.until(ms(1000), |pair| pair.settled(1));
    let handed = |(_, action): &(usize, Action)| matches!(action, Action::HandOver { .. });
    assert!(!pair.log.iter().any(handed));
}

#[test]
fn high_availability_off_is_always_open() {
    let mut pair = Pair::with(|node| ElectionConfig {
        mode: crate::config::model::Mode::Off,
        ..config(node)
    });
    pair.power_off(1);
    pair.run(ms(1000));
    assert_eq!(pair.gates[0], Some(Instant::from_nanos(u64::MAX)));
    assert!(pair.sent.is_empty());
}

#[test]
fn a_frozen_node_goes_standby_when_it_thaws() {
    let mut pair = Pair::new();
    pair.run(ms(1000));
    pair.frozen[0] = true;
    let took = pair.until(ms(1000), |pair| pair.open(1));
    assert!(took <= TIMEOUT, "{took:?}");
    assert!(!pair.open(0));
    pair.run(ms(1000));
    pair.thaw(0);
    pair.run(ms(50));
    assert!(pair.settled(1));
}

#[test]
fn a_short_freeze_ends_in_the_same_term() {
    let mut pair = Pair::new();
    pair.run(ms(1010));
    let term = pair.term(0);
    pair.frozen = [true, true];
    pair.run(ms(400));
    assert!(!pair.open(0), "the lease ends by itself");
    pair.frozen = [false, false];
    pair.thaw(0);
    pair.run(ms(50));
    assert!(pair.settled(0));
    assert_eq!(pair.term(0), term);
    assert_eq!(pair.reasons(1).last(), Some(&RoleReason::PartnerFound));
}

/// A link that comes and goes moves the role once; what has only just come back attracts nothing.
#[test]
fn a_flapping_link_does_not_make_the_role_flap() {
    let mut pair = Pair::new();
    pair.run(ms(1000));
    pair.input(1, Input::Ready(true));
    pair.run(ms(100));
    let carrier = |up| Input::Carrier { link: 0, up };
    pair.input(0, carrier(false));
    assert!(pair.settled(1), "at once, at any timeout");
    pair.input(0, Input::Ready(true));
    for _ in 0..10 {
        pair.run(ms(70));
        pair.input(0, carrier(true));
        pair.run(ms(70));
        pair.input(0, carrier(false));
        assert!(pair.settled(1));
    }
    pair.input(0, carrier(true));
    pair.run(HOLD_DOWN * 4 / 5);
    assert!(
        pair.settled(1),
        "it has not proven itself, and nothing is wrong here"
    );
    pair.input(1, carrier(false));
    assert!(
        pair.settled(0),
        "what is only just back is better than what is gone"
    );
    assert_eq!(
        pair.reasons(1).last(),
        Some(&RoleReason::PartnerFitter),
        "and at once"
    );
    let before = pair.reasons(0).len();
    pair.run(HOLD_DOWN * 2);
    assert_eq!(pair.reasons(0).len(), before);
}

/// Of two standbys the one whose link never failed is the better one.
#[test]
fn of_two_standbys_the_one_without_a_recent_failure_becomes_active() {
    let mut pair = Pair::with(|node| ElectionConfig {
        start_maintenance: true,
        ..config(node)
    });
    let carrier = |up| Input::Carrier { link: 0, up };
    pair.input(0, carrier(false));
    pair.run(ms(1000));
    pair.input(0, carrier(true));
    pair.command(0, Command::Resume);
    pair.command(1, Command::Resume);
    pair.run(ms(200));
    assert!(pair.settled(1), "the first node's link came back just now");
}

/// An active node uses what works at this moment; that it failed before is no reason to give up.
#[test]
fn an_active_node_does_not_hold_its_own_links_down() {
    let mut pair = Pair::new();
    pair.run(ms(1000));
    pair.input(1, Input::Ready(true));
    pair.run(ms(100));
    let carrier = |up| Input::Carrier { link: 0, up };
    // The switch restarts, and the standby's port is the first one that works again.
    pair.input(1, carrier(false));
    pair.run(INTERVAL / 8);
    pair.input(0, carrier(false));
    pair.run(ms(500));
    assert!(pair.settled(0));
    pair.input(1, carrier(true));
    assert!(pair.settled(1), "what works goes before what does not");
    pair.run(ms(50));
    pair.input(0, carrier(true));
    let before = pair.reasons(1).len();
    pair.run(HOLD_DOWN * 3);
    assert!(pair.settled(1));
    assert_eq!(pair.reasons(1).len(), before);
}

#[test]
fn the_preferred_node_waits_until_it_has_been_fit_for_long() {
    let mut pair = Pair::with(|node| ElectionConfig {
        preferred: crate::config::model::Preferred::First,
        ..config(node)
    });
    pair.input(0, Input::Ready(true));
    pair.run(ms(1000));
    pair.command(0, Command::Failover);
    pair.input(1, Input::Ready(true));
    pair.run(ms(50));
    pair.command(0, Command::Failover);
    pair.run(ms(5000));
    assert!(pair.settled(0));
    // It restarts: without the table it gets nothing back, however long it waits.
    pair.power_off(0);
    pair.run(ms(1000));
    pair.start(
        0,
        ElectionConfig {
            preferred: crate::config::model::Preferred::First,
            ..config(0)
        },
        2000,
    );
    pair.run(HOLD_DOWN * 4);
    assert!(pair.settled(1), "no preemption before it is ready");
    pair.input(0, Input::Ready(true));
    pair.run(HOLD_DOWN * 8 / 9);
    assert!(pair.settled(1));
    pair.run(ms(300));
    assert!(pair.settled(0));
    assert_eq!(pair.reasons(1).last(), Some(&RoleReason::PartnerPreferred));
}

/// A preferred node can wait; one that is needed cannot.
#[test]
fn the_role_is_not_given_back_while_a_stranger_has_a_shared_address() {
    let preferred = |node| ElectionConfig {
        preferred: crate::config::model::Preferred::First,
        ..config(node)
    };
    let mut pair = Pair::with(preferred);
    pair.run(ms(1000));
    pair.power_off(0);
    pair.run(ms(1000));
    pair.start(0, preferred(0), 2000);
    pair.input(1, Input::Disputed(true));
    pair.run(ms(1000));
    pair.input(0, Input::Ready(true));
    pair.run(HOLD_DOWN * 4);
    assert!(pair.settled(1));
    pair.input(1, Input::Disputed(false));
    pair.run(HOLD_DOWN * 8 / 9);
    assert!(pair.settled(1), "the hold-down begins anew");
    pair.run(HOLD_DOWN);
    assert!(pair.settled(0));
    pair.input(0, Input::Disputed(true));
    pair.input(1, Input::Ready(true));
    pair.power_off(0);
    pair.run(ms(1000));
    assert!(pair.open(1));
}

#[test]
fn initial_wait_counts_only_for_a_node_that_is_alone() {
    let patient = |node| ElectionConfig {
        initial_wait: ms(2000),
        ..config(node)
    };
    let mut pair = Pair::with(patient);
    pair.until(INTERVAL / 2, |pair| pair.settled(0));
    let mut pair = Pair::with(patient);
    pair.power_off(1);
    let took = pair.until(ms(5000), |pair| pair.open(0));
    assert_eq!(took, ms(2000));
}

/// A partner that is up makes the wait pointless, so it must not delay a takeover later.
#[test]
fn initial_wait_is_over_once_the_partner_is_heard() {
    let mut pair = Pair::with(|node| ElectionConfig {
        initial_wait: ms(5000),
        ..config(node)
    });
    pair.until(INTERVAL, |pair| pair.settled(0));
    pair.run(INTERVAL * 2);
    pair.power_off(0);
    let took = pair.until(ms(5000), |pair| pair.open(1));
    assert!(took <= TIMEOUT + INTERVAL / 10, "{took:?}");
}
