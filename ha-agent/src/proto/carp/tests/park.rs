//! Replacing an agent in place, and nodes that take no part.

use std::time::Duration;

use super::super::park::SETTLING;
use super::super::*;
use super::pair::*;
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// A settled pair whose standby is ready.
fn ready_pair() -> Pair {
    let mut pair = Pair::new();
    pair.run(ms(500));
    pair.input(1, Input::Ready(true));
    pair.run(ms(230));
    assert!(pair.settled(0));
    pair
}

/// Stops feeding a node and returns its state as a file would hold it.
fn park(pair: &mut Pair, node: usize) -> Vec<u8> {
    pair.command(node, Command::Reexec);
    assert_eq!(granted(pair, node), Some(Ok(())));
    let parked = pair.nodes[node].as_ref().unwrap().park();
    serde_json::to_vec(&parked).unwrap()
}

fn granted(pair: &Pair, node: usize) -> Option<Result<(), Refusal>> {
    pair.log.iter().rev().find_map(|(from, action)| {
        let Action::Reexec(result) = action else {
            return None;
        };
        (*from == node).then_some(*result)
    })
}

/// Continues with the state, as a new program: what arrived meanwhile was lost.
fn resume(pair: &mut Pair, node: usize, state: &[u8], config: ElectionConfig) {
    let parked: Parked = serde_json::from_slice(state).unwrap();
    pair.drop_waiting(node);
    pair.frozen[node] = false;
    let machine = Election::resume(config, keys(), Rng::new(99), 1024, parked, pair.now);
    pair.nodes[node] = Some(machine.unwrap());
}

fn closed_since(pair: &Pair, mark: usize) -> bool {
    pair.log[mark..].contains(&(0, Action::Gate(None)))
}

#[test]
fn the_active_node_keeps_role_term_and_gate() {
    for gone in [1, 150, 900, 1900] {
        let mut pair = ready_pair();
        let (term, mark) = (pair.term(0), pair.log.len());
        let state = park(&mut pair, 0);
        let end = pair.now + ms(gone);
        while pair.now < end {
            pair.run(ms(1));
            assert!(pair.open(0), "the gate outlasts the replacement");
            assert_eq!(pair.role(1), Some(Role::Standby));
        }
        resume(&mut pair, 0, &state, config(0));
        pair.run(ms(3000));
        assert!(pair.settled(0));
        assert!(!closed_since(&pair, mark), "{gone}");
        assert_eq!(pair.term(0), term);
        assert_eq!(pair.reasons(0).last(), Some(&RoleReason::Replaced));
        assert_eq!(pair.reasons(1).len(), 2, "the standby saw no change");
        // The long lease is over: a dead node is replaced as fast as ever.
        pair.power_off(0);
        let took = pair.until(ms(1000), |pair| pair.open(1));
        assert!(took <= TIMEOUT, "{took:?}");
    }
}

/// The answer to the new program's question comes so late that it grants nothing: the long lease goes on, and
/// so must the partner's long wait.
#[test]
fn an_answer_that_comes_too_late_ends_nothing() {
    let mut pair = ready_pair();
    let state = park(&mut pair, 0);
    resume(&mut pair, 0, &state, config(0));
    pair.cut[1] = [true; 2];
    pair.run(ms(5));
    let answer = pair.sent.iter().rfind(|packet| packet.from == 1).cloned();
    pair.frozen[0] = true;
    pair.run(SETTLING + TIMEOUT);
    pair.frozen[0] = false;
    pair.hand(0, &answer.unwrap());
    pair.run(ms(20));
    assert!(pair.open(0), "its lease is not over");
    pair.frozen[0] = true;
    // The pair checks that never two gates are open.
    pair.run(REEXEC_LEASE * 2);
    assert!(pair.open(1));
}

/// What a start does to the machine may keep the new program from speaking, or its partner from being heard,
/// for longer than a timeout.
#[test]
fn a_start_that_stalls_moves_no_role() {
    for gone in [1, 300, 1000] {
        let mut pair = ready_pair();
        let (term, mark) = (pair.term(0), pair.log.len());
        let state = park(&mut pair, 0);
        pair.run(ms(gone));
        resume(&mut pair, 0, &state, config(0));
        pair.run(ms(20));
        pair.frozen[0] = true;
        pair.run(TIMEOUT + ms(100));
        pair.frozen[0] = false;
        assert!(pair.open(0), "{gone}: closed by the stall");
        pair.run(ms(20));
        pair.cut[1] = [true; 2];
        pair.run(TIMEOUT);
        pair.cut[1] = [false; 2];
        pair.run(ms(2000));
        assert!(pair.settled(0), "{gone}");
        assert!(!closed_since(&pair, mark), "{gone}");
        assert_eq!(pair.term(0), term);
        // Then all is as ever.
        pair.power_off(0);
        let took = pair.until(ms(1000), |pair| pair.open(1));
        assert!(took <= TIMEOUT, "{took:?}");
    }
}

/// The partner takes no part and was frozen, so the node was alone until its answer came: what it is granted
/// is no lease of a node alone, whether or not the partner is taken back then.
#[test]
fn a_partner_that_takes_no_part_grants_all_the_same() {
    for (frozen, taken_back) in [(60, true), (130, true), (130, false), (250, true)] {
        let mut pair = Pair::with(|node| ElectionConfig {
            start_pacified: node == 1,
            ..config(node)
        });
        pair.run(ms(500));
        pair.input(1, Input::Ready(true));
        pair.run(ms(230));
        assert_eq!(pair.role(1), Some(Role::Pacified));
        pair.frozen[1] = true;
        pair.command(0, Command::Reexec);
        pair.run(ms(frozen));
        assert_eq!(granted(&pair, 0), None);
        let mark = pair.log.len();
        pair.thaw(1);
        pair.until(ms(100), |pair| granted(pair, 0).is_some());
        assert_eq!(granted(&pair, 0), Some(Ok(())));
        let state = serde_json::to_vec(&pair.nodes[0].as_ref().unwrap().park()).unwrap();
        if taken_back {
            pair.command(1, Command::Resume);
        }
        // The lease counts from the question.
        pair.run(REEXEC_LEASE.saturating_sub(ms(frozen + 20)));
        assert!(pair.open(0), "{frozen}: closed during the replacement");
        resume(&mut pair, 0, &state, config(0));
        pair.run(ms(2000));
        assert!(pair.open(0) && !closed_since(&pair, mark), "{frozen}");
    }
}

#[test]
fn a_new_program_that_never_comes_is_replaced_after_the_grant() {
    let mut pair = ready_pair();
    park(&mut pair, 0);
    // The pair asserts at each step that there are never two open gates.
    let took = pair.until(ms(5000), |pair| pair.open(1));
    assert!(took > REEXEC_LEASE * 9 / 10 && took <= REEXEC_LEASE + TIMEOUT);
    assert!(!pair.open(0));
}

#[test]
fn a_new_program_that_comes_late_finds_its_gate_closed() {
    let mut pair = ready_pair();
    let state = park(&mut pair, 0);
    pair.until(ms(5000), |pair| pair.open(1));
    resume(&mut pair, 0, &state, config(0));
    pair.run(ms(1000));
    assert!(pair.settled(1));
    assert_eq!(pair.reasons(0).last(), Some(&RoleReason::LostToPartner));
}

#[test]
fn if_the_program_cannot_be_executed_all_is_as_before() {
    let mut pair = ready_pair();
    let mark = pair.log.len();
    park(&mut pair, 0);
    pair.thaw(0);
    pair.run(ms(300));
    assert!(pair.settled(0) && !closed_since(&pair, mark));
    pair.power_off(0);
    let took = pair.until(ms(1000), |pair| pair.open(1));
    assert!(
        took <= TIMEOUT,
        "the standby waits no longer than ever: {took:?}"
    );
}

#[test]
fn a_standby_that_dies_meanwhile_interrupts_nothing() {
    let mut pair = ready_pair();
    let mark = pair.log.len();
    let state = park(&mut pair, 0);
    pair.power_off(1);
    pair.run(ms(700));
    resume(&mut pair, 0, &state, config(0));
    pair.run(ms(5000));
    assert!(pair.open(0) && !closed_since(&pair, mark));
}

#[test]
fn a_standby_stops_only_when_its_grant_is_over() {
    let mut pair = ready_pair();
    park(&mut pair, 0);
    pair.command(1, Command::Stop);
    pair.run(REEXEC_LEASE * 199 / 200);
    assert!(!pair.log.contains(&(1, Action::Stopped)));
    pair.run(ms(20));
    assert!(pair.log.contains(&(1, Action::Stopped)));
}

#[test]
fn a_replaced_standby_is_missed_by_nobody() {
    for gone in [10, 250, 2000] {
        let mut pair = ready_pair();
        let mark = pair.log.len();
        let state = park(&mut pair, 1);
        pair.run(ms(gone));
        resume(&mut pair, 1, &state, config(1));
        pair.run(ms(1000));
        assert!(pair.settled(0) && !closed_since(&pair, mark));
        // Once the new program's replication has the connections, it can take over.
        pair.input(1, Input::Ready(true));
        pair.run(ms(200));
        pair.command(0, Command::Failover);
        assert!(pair.settled(1));
    }
}

#[test]
fn without_a_grant_nothing_is_given_up() {
    let refused = |pair: &mut Pair| {
        pair.command(0, Command::Reexec);
        pair.run(ms(1100));
        granted(pair, 0)
    };
    let mut pair = Pair::new();
    pair.run(ms(500));
    assert_eq!(refused(&mut pair), Some(Err(Refusal::PartnerNotReady)));
    assert!(pair.open(0));
    pair.power_off(1);
    pair.run(ms(1000));
    assert_eq!(refused(&mut pair), Some(Err(Refusal::PartnerUnheard)));
    assert!(pair.open(0));
    let mut pair = ready_pair();
    pair.cut[0] = [true, true];
    let refusal = refused(&mut pair);
    assert_eq!(
        refusal,
        Some(Err(Refusal::NotGranted)),
        "nobody heard it ask"
    );
}

#[test]
fn state_of_another_kind_is_refused() {
    let mut pair = ready_pair();
    let state = park(&mut pair, 0);
    let with = |change: fn(&mut serde_json::Value), config: ElectionConfig| {
        let mut value = serde_json::from_slice(&state).unwrap();
        change(&mut value);
        let parked = serde_json::from_value(value).unwrap();
        let now = Instant::from_nanos(1);
        Election::resume(config, keys(), Rng::new(1), 0, parked, now).map(drop)
    };
    assert_eq!(with(|_| {}, config(0)), Ok(()));
    let other = |value: &mut serde_json::Value| value["layout"] = 99.into();
    assert_eq!(with(other, config(0)), Err(ResumeError::Layout(99)));
    assert_eq!(with(|_| {}, config(1)), Err(ResumeError::Configuration));
    let mut fewer = config(0);
    fewer.links.pop();
    assert_eq!(with(|_| {}, fewer), Err(ResumeError::Configuration));
}

#[test]
fn a_pacified_node_takes_no_part_until_resumed() {
    let mut pair = Pair::with(|node| ElectionConfig {
        start_pacified: node == 1,
        ..config(node)
    });
    pair.run(ms(1000));
    assert!(pair.open(0));
    assert_eq!(pair.role(1), Some(Role::Pacified));
    pair.command(1, Command::Maintenance(true));
    assert!(pair.log.contains(&(1, Action::Refused(Refusal::Pacified))));
    pair.power_off(0);
    pair.run(Duration::from_mins(1));
    assert_eq!(pair.role(1), Some(Role::Pacified));
    pair.command(1, Command::Resume);
    let took = pair.until(ms(1000), |pair| pair.open(1));
    assert!(took <= TIMEOUT + ms(10), "{took:?}");
    let reasons = pair.reasons(1);
    assert_eq!(reasons[..2], [RoleReason::Pacified, RoleReason::Resumed]);
}

#[test]
fn maintenance_ends_no_service_unless_told_to() {
    let mut pair = Pair::with(|node| ElectionConfig {
        start_maintenance: node == 1,
        ..config(node)
    });
    pair.run(ms(1000));
    assert_eq!(pair.role(1), Some(Role::Maintenance));
    pair.command(0, Command::Maintenance(true));
    assert!(pair.open(0));
    assert!(
        pair.log
            .contains(&(0, Action::Refused(Refusal::PartnerPassive)))
    );
    pair.command(0, Command::MaintenanceAnyway);
    assert!(!pair.open(0));
    pair.command(1, Command::Resume);
    pair.until(ms(1000), |pair| pair.open(1));
}
