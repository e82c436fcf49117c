//! Named stories in the simulator.

use std::time::Duration;

use ha_agent::proto::carp::{Command, Role, RoleReason};
use ha_tests::sim::faults::Fault;
use ha_tests::sim::params::Weather;
use ha_tests::sim::{Params, World};

const TIMEOUT: Duration = Duration::from_millis(300);
/// What delays, late timers and clocks may add.
const SLACK: Duration = Duration::from_millis(3);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A pair that has been at peace for a while, with `node` active.
fn pair(active: usize) -> World {
    pair_with(active, Params::quiet(7))
}

fn pair_with(active: usize, params: Params) -> World {
    let mut world = World::dark(params);
    world.inject(Fault::Start(active));
    world.run(ms(10));
    world.inject(Fault::Start(1 - active));
    world.until(ms(2000), "both run", |world| {
        world.settled(0) || world.settled(1)
    });
    world.run(ms(1500));
    if !world.settled(active) {
        world.command(1 - active, Command::Failover);
        world.run(ms(3000));
    }
    assert!(world.settled(active));
    world
}

fn last_reason(world: &World, node: usize) -> Option<RoleReason> {
    world
        .changes
        .iter()
        .rev()
        .find(|(who, ..)| *who == node)
        .map(|(_, _, reason)| *reason)
}

fn cut_all(world: &mut World, from: usize) {
    for link in 0..2 {
        world.inject(Fault::Cut { from, link });
    }
}

fn mend_all(world: &mut World, from: usize) {
    for link in 0..2 {
        world.inject(Fault::Mend { from, link });
    }
}

#[test]
fn power_off_of_the_active_node() {
    let mut world = pair(0);
    world.inject(Fault::PowerOff(0));
    let took = world.until(ms(1000), "replaced", |world| world.is_open(1));
    assert!(took <= TIMEOUT + SLACK, "{took:?}");
    assert_eq!(last_reason(&world, 1), Some(RoleReason::PartnerSilent));
    world.run(ms(2000));
    world.inject(Fault::Start(0));
    world.run(ms(2000));
    assert!(
        world.settled(1),
        "the one that came back does not take over"
    );
    assert_eq!(world.host(0).table, world.host(1).table);
}

#[test]
fn kill_of_the_active_agent() {
    let mut world = pair(0);
    world.inject(Fault::KillAgent(0));
    assert!(world.is_open(0), "the kernel goes on till the lease ends");
    let took = world.until(ms(1000), "replaced", |world| world.is_open(1));
    assert!(took <= TIMEOUT + SLACK, "{took:?}");
    world.inject(Fault::Start(0));
    world.run(ms(2000));
    assert!(world.settled(1));
}

#[test]
fn killed_agent_that_restarts_at_once() {
    let mut world = pair(0);
    world.inject(Fault::KillAgent(0));
    world.run(ms(5));
    world.inject(Fault::Start(0));
    let took = world.until(ms(1000), "someone is active", |world| {
        world.is_open(0) || world.is_open(1)
    });
    assert!(took <= ms(20), "{took:?}");
    world.run(ms(1000));
    assert!(world.settled(1), "the one that held the table");
}

#[test]
fn freeze_and_thaw_of_the_active_agent() {
    let mut world = pair(0);
    world.inject(Fault::Freeze(0));
    let took = world.until(ms(1000), "replaced", |world| world.is_open(1));
    assert!(took <= TIMEOUT + SLACK, "{took:?}");
    world.run(ms(5000));
    world.inject(Fault::Thaw(0));
    world.run(ms(200));
    assert!(world.settled(1));
    assert_eq!(last_reason(&world, 0), Some(RoleReason::LostToPartner));
}

#[test]
fn short_freeze_of_the_active_agent_changes_nothing() {
    let mut world = pair(0);
    let before = world.changes.len();
    world.inject(Fault::Freeze(0));
    world.run(ms(150));
    world.inject(Fault::Thaw(0));
    world.run(ms(3000));
    assert!(world.settled(0));
    assert_eq!(world.changes.len(), before);
}

#[test]
fn both_freeze_longer_than_the_lease() {
    let mut world = pair(0);
    let before = world.changes.len();
    world.inject(Fault::Freeze(0));
    world.inject(Fault::Freeze(1));
    world.run(ms(2000));
    assert!(!world.is_open(0));
    world.inject(Fault::Thaw(1));
    world.run(ms(20));
    world.inject(Fault::Thaw(0));
    let took = world.until(ms(1000), "reopened", |world| world.settled(0));
    assert!(took <= ms(20), "{took:?}");
    assert_eq!(world.changes.len(), before, "the same term");
}

#[test]
fn active_node_is_not_heard() {
    let mut world = pair(0);
    cut_all(&mut world, 0);
    world.until(ms(1000), "replaced", |world| world.settled(1));
    world.run(ms(3000));
    assert!(world.settled(1));
    mend_all(&mut world, 0);
    world.run(ms(3000));
    assert!(world.settled(1));
}

#[test]
fn active_node_does_not_hear() {
    let mut world = pair(0);
    let before = world.changes.len();
    cut_all(&mut world, 1);
    world.run(ms(3000));
    assert!(world.settled(0));
    mend_all(&mut world, 1);
    world.run(ms(3000));
    assert!(world.settled(0));
    assert_eq!(world.changes.len(), before);
}

/// Both start while packets of one node do not arrive: there is still exactly one active node.
#[test]
fn start_with_a_one_way_link() {
    for deaf in 0..2 {
        let mut world = World::dark(Params::quiet(3));
        cut_all(&mut world, 1 - deaf);
        world.inject(Fault::Start(0));
        world.inject(Fault::Start(1));
        world.run(ms(5000));
        assert!(world.is_open(deaf), "the one that hears nothing takes over");
        assert!(!world.is_open(1 - deaf));
        mend_all(&mut world, 1 - deaf);
        world.run(ms(1000));
        assert!(world.settled(0) || world.settled(1));
    }
}

/// A standby that restarts on a one-way link hears nothing and takes over; the active node must not
/// take it for a recording and go on.
#[test]
fn restart_of_the_standby_behind_a_one_way_link() {
    let mut world = pair(0);
    world.inject(Fault::PowerOff(1));
    world.run(ms(2000));
    assert!(world.is_open(0));
    cut_all(&mut world, 0);
    world.inject(Fault::Start(1));
    world.until(ms(1000), "taken over", |world| world.is_open(1));
    world.run(ms(2000));
    assert!(world.is_open(1) && !world.is_open(0));
}

#[test]
fn split_and_heal() {
    let mut world = pair(0);
    cut_all(&mut world, 0);
    cut_all(&mut world, 1);
    world.run(ms(2000));
    assert!(
        world.is_open(0) && world.is_open(1),
        "nothing can prevent it"
    );
    mend_all(&mut world, 0);
    mend_all(&mut world, 1);
    let took = world.until(ms(1000), "settled", |world| {
        world.settled(0) || world.settled(1)
    });
    assert!(took <= ms(100) + SLACK, "one interval: {took:?}");
    assert!(world.settled(1), "the higher term wins");
    assert!(world.host(1).announced > world.host(0).announced);
}

/// Two that have never met believe each other only after a question and an answer; whenever in their
/// interval the network heals, one interval is enough for that too.
#[test]
fn split_of_strangers_heals() {
    for phase in (0..100).step_by(5) {
        let mut world = World::dark(Params::quiet(7));
        cut_all(&mut world, 0);
        cut_all(&mut world, 1);
        world.inject(Fault::Start(0));
        world.inject(Fault::Start(1));
        world.run(ms(2000 + phase));
        assert!(world.is_open(0) && world.is_open(1));
        let before = world.host(0).announced;
        mend_all(&mut world, 0);
        mend_all(&mut world, 1);
        let took = world.until(ms(1000), "settled and announced", |world| {
            world.settled(0) && world.host(0).announced > before
        });
        assert!(took <= ms(100) + SLACK, "phase {phase} ms: {took:?}");
    }
}

/// The one with the higher term hears the other, which cannot hear it and so cannot give in.
#[test]
fn split_that_heals_in_one_direction() {
    for deaf in 0..2 {
        let mut world = pair(0);
        cut_all(&mut world, 0);
        cut_all(&mut world, 1);
        world.run(ms(2000));
        assert!(world.is_open(0) && world.is_open(1));
        mend_all(&mut world, deaf);
        world.run(ms(200) + SLACK);
        assert!(
            world.is_open(deaf) && !world.is_open(1 - deaf),
            "the one that hears nothing goes on"
        );
        world.run(ms(2000));
        assert!(world.is_open(deaf) && !world.is_open(1 - deaf));
        mend_all(&mut world, 1 - deaf);
        world.run(ms(2000));
        assert!(world.settled(deaf));
    }
}

/// What a frozen agent's data plane did before its lease ended is told to it after it has been replaced.
#[test]
fn last_changes_of_a_frozen_active_node() {
    for seed in 0..20 {
        let mut world = pair_with(0, Params::quiet(seed));
        world.inject(Fault::Freeze(0));
        world.run(ms(2000));
        assert!(world.is_open(1));
        world.inject(Fault::Thaw(0));
        world.run(ms(3000));
        assert!(world.settled(1));
        assert_eq!(world.host(0).table, world.host(1).table, "seed {seed}");
    }
}

#[test]
fn replacement_of_the_active_agent() {
    let params = Params {
        reexec: true,
        ..Params::quiet(1)
    };
    for seed in 0..20 {
        let mut world = pair_with(
            0,
            Params {
                seed,
                ..params.clone()
            },
        );
        world.command(0, Command::Reexec);
        world.until(ms(1000), "gone", |world| world.host(0).agent.is_none());
        while world.host(0).agent.is_none() && world.is_open(0) {
            world.run(ms(1));
        }
        world.run(ms(3000));
        assert!(world.is_open(0) != world.is_open(1), "seed {seed}");
    }
}

/// The switch port of the active node dies with the carrier up; a cable is left.
#[test]
fn gateway_lost_on_the_active_node() {
    let mut world = pair(0);
    world.inject(Fault::Cut { from: 0, link: 0 });
    world.inject(Fault::Cut { from: 1, link: 0 });
    world.run(ms(1000));
    assert!(world.settled(0), "the cable carries the HELLOs");
    world.inject(Fault::Gateway {
        node: 0,
        link: 0,
        reachable: false,
    });
    let took = world.until(ms(1000), "handed over", |world| world.settled(1));
    assert!(
        took <= ms(155),
        "once it is clear that the gateway itself lives: {took:?}"
    );
    assert_eq!(last_reason(&world, 0), Some(RoleReason::PartnerFitter));
    world.run(ms(2000));
    assert!(world.settled(1));
}

#[test]
fn carrier_lost_on_the_active_node() {
    let mut world = pair(0);
    world.inject(Fault::Cut { from: 0, link: 0 });
    world.inject(Fault::Cut { from: 1, link: 0 });
    world.inject(Fault::Carrier {
        node: 0,
        link: 0,
        up: false,
    });
    let took = world.until(ms(1000), "handed over", |world| world.settled(1));
    assert!(took <= ms(5), "{took:?}");
}

/// All links of the active node die; it loses the gateway, so it does not stay active as well.
#[test]
fn isolated_active_node_closes() {
    let mut world = pair(0);
    for link in 0..2 {
        world.inject(Fault::Cut { from: 0, link });
        world.inject(Fault::Cut { from: 1, link });
    }
    world.run(ms(1000));
    world.inject(Fault::Gateway {
        node: 0,
        link: 0,
        reachable: false,
    });
    world.run(ms(100));
    assert!(!world.is_open(0) && world.is_open(1));
    assert_eq!(last_reason(&world, 0), Some(RoleReason::Isolated));
    world.run(ms(5000));
    assert!(!world.is_open(0) && world.is_open(1));
}

/// A gateway that both lose is no reason to move.
#[test]
fn gateway_lost_on_both() {
    let mut world = pair(0);
    for node in [0, 1] {
        world.inject(Fault::Gateway {
            node,
            link: 0,
            reachable: false,
        });
        world.run(ms(100));
    }
    world.run(ms(5000));
    assert!(world.settled(0));
    world.inject(Fault::PowerOff(0));
    let took = world.until(ms(1000), "replaced", |world| world.is_open(1));
    assert!(took <= TIMEOUT + SLACK, "{took:?}");
}

#[test]
fn planned_failover() {
    let mut world = pair(0);
    world.command(0, Command::Failover);
    let took = world.until(ms(1000), "handed over", |world| world.settled(1));
    assert!(took <= ms(2), "{took:?}");
    world.run(ms(3000));
    assert!(world.settled(1));
    world.command(1, Command::Failover);
    world.run(ms(100));
    assert!(world.settled(0));
}

#[test]
fn failover_with_the_release_lost_on_the_wire() {
    let mut world = pair(0);
    cut_all(&mut world, 0);
    world.command(0, Command::Failover);
    world.run(ms(60));
    assert!(
        !world.is_open(0) && !world.is_open(1),
        "all three copies are lost"
    );
    mend_all(&mut world, 0);
    let took = world.until(ms(1000), "taken", |world| world.settled(1));
    assert!(took <= ms(110), "the next HELLO says so too: {took:?}");
}

#[test]
fn failover_is_refused_without_a_partner() {
    let mut world = pair(0);
    world.inject(Fault::PowerOff(1));
    world.run(ms(1000));
    world.command(0, Command::Failover);
    world.run(ms(1000));
    assert!(world.is_open(0));
    assert_eq!(world.host(0).role(), Some(Role::Active));
}

#[test]
fn maintenance_of_the_active_node() {
    let mut world = pair(0);
    world.command(0, Command::Maintenance(true));
    world.run(ms(10));
    assert!(world.is_open(1) && !world.is_open(0));
    world.inject(Fault::PowerOff(1));
    world.run(ms(3000));
    assert!(!world.is_open(0), "it never takes over");
    world.command(0, Command::Maintenance(false));
    let took = world.until(ms(1000), "active again", |world| world.is_open(0));
    assert!(took <= TIMEOUT + SLACK, "{took:?}");
}

#[test]
fn stop_of_either_node() {
    for stopped in 0..2 {
        let mut world = pair(0);
        world.command(stopped, Command::Stop);
        let took = world.until(ms(1000), "the other one is active", |world| {
            world.is_open(1 - stopped) && !world.is_open(stopped)
        });
        assert!(took <= ms(2), "{took:?}");
    }
}

#[test]
fn both_start_together() {
    for seed in 0..50 {
        let mut world = World::dark(Params::quiet(seed));
        world.inject(Fault::Start(0));
        world.inject(Fault::Start(1));
        let took = world.until(ms(1000), "settled", |world| world.settled(0));
        assert!(took <= ms(100), "seed {seed}: {took:?}");
        world.run(ms(2000));
        assert!(world.settled(0));
        let promotions = world
            .changes
            .iter()
            .filter(|(_, role, _)| *role == Role::Active)
            .count();
        assert_eq!(promotions, 1, "seed {seed}");
    }
}

/// Both wait out their timeout deaf, then the links come up at the moment they claim.
#[test]
fn simultaneous_claims() {
    for offset in 0..40 {
        let mut world = World::dark(Params::quiet(offset));
        cut_all(&mut world, 0);
        cut_all(&mut world, 1);
        world.inject(Fault::Start(0));
        world.inject(Fault::Start(1));
        world.run(ms(280 + offset));
        mend_all(&mut world, 0);
        mend_all(&mut world, 1);
        world.run(ms(400));
        assert!(
            world.settled(0) || world.settled(1),
            "offset {offset} ms: {:?}",
            world.changes
        );
    }
}

/// An attacker sends everything it recorded, to anybody, on any link: nothing changes.
#[test]
fn replayed_packets_change_nothing() {
    let mut world = pair(0);
    let before = world.changes.len();
    for _ in 0..50 {
        world.inject(Fault::Replay(100));
        world.run(ms(100));
    }
    assert!(world.settled(0));
    assert_eq!(world.changes.len(), before);
    // They do not keep a dead node alive either.
    world.inject(Fault::PowerOff(0));
    for _ in 0..3 {
        world.inject(Fault::Replay(100));
        world.run(ms(100));
    }
    world.run(SLACK);
    assert!(world.is_open(1));
}

#[test]
fn preferred_node_returns_after_a_hold_down() {
    let params = Params {
        preferred: ha_agent::config::model::Preferred::First,
        hold_down: ms(3000),
        ..Params::quiet(5)
    };
    let mut world = pair_with(0, params);
    world.inject(Fault::PowerOff(0));
    world.run(ms(1000));
    world.inject(Fault::Start(0));
    world.run(ms(2500));
    assert!(world.settled(1), "not before it has been fit for a while");
    world.run(ms(1500));
    assert!(world.settled(0));
    assert_eq!(last_reason(&world, 1), Some(RoleReason::PartnerPreferred));
}

#[test]
fn bad_weather_moves_nothing() {
    let params = Params {
        weather: Weather {
            loss: 100_000,
            repeated: 50_000,
            unread: 0,
            delay: 1_000_000,
            jitter: 5_000_000,
        },
        ..Params::quiet(11)
    };
    let mut world = pair_with(0, params);
    let before = world.changes.len();
    world.run(ms(20_000));
    assert!(world.settled(0));
    assert_eq!(world.changes.len(), before);
}

#[test]
fn timing_extremes() {
    for (interval, timeout) in [(ms(4), ms(12)), (ms(255_000), ms(765_000))] {
        let params = Params {
            interval,
            timeout,
            lateness: 20_000,
            arrival: 0,
            ..Params::quiet(2)
        };
        let mut world = World::dark(params);
        world.inject(Fault::Start(0));
        world.inject(Fault::Start(1));
        world.run(timeout * 4);
        assert!(world.settled(0), "{interval:?}");
        let before = world.changes.len();
        world.run(timeout * 20);
        assert!(world.settled(0), "{interval:?}");
        assert_eq!(world.changes.len(), before, "{interval:?}");
        world.inject(Fault::PowerOff(0));
        let took = world.until(timeout * 2, "replaced", |world| world.is_open(1));
        assert!(took <= timeout + timeout / 1000 + SLACK, "{took:?}");
        world.run(timeout * 20);
        assert!(world.is_open(1));
    }
}

/// The shortest times that can be configured, with timers a millisecond late: a healthy pair neither
/// loses its lease nor moves its role.
#[test]
fn the_shortest_times_bear_late_timers() {
    let params = Params {
        interval: ms(4),
        timeout: ms(12),
        hold_down: ms(1000),
        lateness: 1_000_000,
        ..Params::quiet(4)
    };
    let mut world = pair_with(0, params);
    let before = world.changes.len();
    for _ in 0..200 {
        world.run(ms(100));
        assert!(world.settled(0));
    }
    assert_eq!(world.changes.len(), before);
    let agent = world.host(0).agent.as_ref();
    let counters = agent.map(|agent| agent.election.snapshot().counters);
    let lapsed = counters.and_then(|counters| counters.get("lease_lapsed").copied());
    assert_eq!(lapsed, Some(0));
}

/// The kernel closes the gate of a frozen node for an advertisement that its agent never gets, and the partner
/// is gone again when the agent runs: it must not believe its lease.
#[test]
fn a_kernel_that_knows_more_than_its_agent_strands_nobody() {
    let mut params = Params::quiet(7);
    params.weather.unread = 1_000_000;
    let mut world = pair_with(0, params);
    let term = world.host(0).kernel.term;
    world.inject(Fault::Freeze(0));
    world.until(ms(1000), "replaced", |world| world.is_open(1));
    world.run(ms(150));
    assert!(
        world.host(0).kernel.overtaken > term,
        "heard, but not by the agent"
    );
    world.inject(Fault::PowerOff(1));
    world.inject(Fault::Thaw(0));
    world.until(ms(1000), "it goes on", |world| world.is_open(0));
    assert!(world.host(0).kernel.term > term + 1, "in a term above both");
}
