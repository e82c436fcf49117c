//! Interval and timeout change under a running pair.

use std::time::Duration;

use super::super::*;
use super::pair::{HOLD_DOWN, INTERVAL, Pair, TIMEOUT, ms};
use super::scripted::Scripted;
use crate::config::model::CarpAuth;

fn settings(interval: Duration, timeout: Duration) -> Settings {
    Settings {
        interval,
        timeout,
        hold_down: HOLD_DOWN,
        auth: CarpAuth::Enforce,
    }
}

fn settled() -> Pair {
    let mut pair = Pair::new();
    pair.until(ms(1000), |pair| pair.settled(0));
    pair.run(TIMEOUT);
    pair
}

fn differs(pair: &Pair, node: usize) -> bool {
    let alarms = pair.nodes[node].as_ref().unwrap().snapshot().alarms;
    alarms.iter().any(|each| each.alarm == Alarm::TimingDiffers)
}

/// Shorter and longer, the active node first and the standby first: nothing moves, the gate never closes, and
/// afterwards the pair fails over in the new time.
#[test]
fn a_change_on_one_node_after_the_other_moves_nothing() {
    let (slow, fast) = ((INTERVAL, TIMEOUT), (INTERVAL / 2, TIMEOUT / 2));
    for first in 0..2 {
        let mut pair = settled();
        let mark = pair.log.len();
        for (interval, timeout) in [fast, slow, fast] {
            for node in [first, 1 - first] {
                pair.input(node, Input::Settings(settings(interval, timeout)));
                for _ in 0..60 {
                    pair.run(ms(10));
                    assert!(pair.settled(0));
                }
                assert_eq!(differs(&pair, 0), node == first);
                assert_eq!(differs(&pair, 1), node == first);
            }
        }
        let moved =
            pair.log.iter().skip(mark).any(|(_, action)| {
                matches!(action, Action::RoleChanged { .. } | Action::Gate(None))
            });
        assert!(!moved);
        pair.power_off(0);
        let took = pair.until(ms(1000), |pair| pair.open(1));
        assert!(took <= TIMEOUT / 2, "{took:?}");
    }
}

/// A shorter timeout ends the lease that is running, since the partner will wait no longer than that.
#[test]
fn a_shorter_timeout_caps_the_open_gate() {
    let mut pair = settled();
    pair.frozen[1] = true;
    let gate = pair.gates[0].unwrap();
    assert!(gate > pair.now + TIMEOUT / 3);
    pair.input(0, Input::Settings(settings(INTERVAL / 10, TIMEOUT / 10)));
    assert!(pair.gates[0].unwrap() < pair.now + TIMEOUT / 10);
}

/// As long as the partner has not heard of a longer timeout, it waits for the shorter one only.
#[test]
fn a_longer_timeout_extends_nothing_before_the_partner_knows() {
    let mut pair = settled();
    pair.cut[0] = [true; 2];
    pair.input(0, Input::Settings(settings(INTERVAL * 10, TIMEOUT * 10)));
    let mut last = pair.gates[0];
    pair.until(TIMEOUT + ms(1), |pair| pair.open(1));
    last = last.max(pair.gates[0]);
    assert!(
        last.unwrap() <= pair.now,
        "the partner would not have waited"
    );
    // It knows: now its wait is as long as the lease.
    let mut pair = settled();
    pair.input(0, Input::Settings(settings(INTERVAL * 10, TIMEOUT * 10)));
    pair.run(ms(50));
    pair.power_off(0);
    let took = pair.until(TIMEOUT * 11, |pair| pair.open(1));
    assert!(took > TIMEOUT * 9, "{took:?}");
}

/// Whatever the partner tells of its pace, the machine keeps its own bounds.
#[test]
fn a_partner_with_another_pace_is_met_half_way() {
    let mut node = Scripted::new();
    for _ in 0..3 {
        node.say(|body| (body.interval_us, body.timeout_us) = (10_000, 30_000));
        node.run(ms(5));
    }
    assert!(node.is_open());
    let left = node.gate.unwrap().since(node.now);
    assert!(left < ms(30), "{left:?}");
    let before = node.machine.snapshot().counters["hello_sent"];
    for _ in 0..20 {
        node.say(|body| (body.interval_us, body.timeout_us) = (10_000, 30_000));
        node.run(ms(10));
        assert!(node.is_open());
    }
    let sent = node.machine.snapshot().counters["hello_sent"] - before;
    assert!(sent >= 2 * 18, "{sent} HELLOs on two links in 200 ms");
}

#[test]
fn what_is_demanded_of_advertisements_can_change() {
    let mut pair = settled();
    for auth in [CarpAuth::Permissive, CarpAuth::Off, CarpAuth::Enforce] {
        let settings = Settings {
            auth,
            ..settings(INTERVAL, TIMEOUT)
        };
        for node in 0..2 {
            pair.input(node, Input::Settings(settings));
            pair.run(TIMEOUT);
            assert!(pair.settled(0));
        }
        let config = pair.nodes[0].as_ref().unwrap().config();
        assert_eq!(config.auth, auth);
    }
}
