//! Stories, and sweeps over seeds.

use std::ops::Range;
use std::time::Duration;

use super::record;
use super::sim::{Faults, MILLIS, Mischief, SECOND, World};
use crate::proto::rng::Rng;
use crate::proto::sync::Input;
use crate::proto::sync::record::Part;

/// Seeds of each sweep: 40, or as many as `HA_SYNC_SEEDS` says, from `HA_SYNC_SEED` on.
fn seeds(share: u64) -> Range<u64> {
    let number = |name, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number of seeds"))
    };
    let first = number("HA_SYNC_SEED", 0);
    first..first + (number("HA_SYNC_SEEDS", 40) * share).div_ceil(4)
}

fn faults(rng: &mut Rng, loss_percent: u64) -> Faults {
    let spread = [10, 200, 3000][rng.below(3) as usize];
    let delay = [50, 500, 5000][rng.below(3) as usize];
    Faults {
        loss_permille: loss_percent * 10,
        corrupt_percent: 0,
        duplicate_percent: rng.below(2) * 5,
        delay_min: Duration::from_micros(delay),
        delay_max: Duration::from_micros(delay + spread),
        ..Faults::NONE
    }
}

#[test]
fn a_quiet_pair_becomes_ready_and_stays_so() {
    let mut world = World::new(1);
    world.run(MILLIS * 50);
    assert!(world.nodes[0].ready && world.nodes[1].ready);
    world.run(SECOND * 20);
    assert!(world.nodes[1].ready);
    let active = world.snapshot(0);
    let standby = world.snapshot(1);
    assert_eq!(active.counters.transfers_begun, 1);
    assert!(standby.counters.digests_compared > 50);
    assert_eq!(standby.counters.digests_differed, 0);
    assert!(active.ready && active.partner_heard && standby.partner_heard);
}

#[test]
fn a_connection_is_protected_within_a_millisecond() {
    let mut world = World::new(2);
    world.run(SECOND);
    for client in 0..1000 {
        world.put(record(client, 1));
        world.flush();
        world.run(Duration::from_micros(400));
        assert!(world.nodes[1].map.contains_key(&record(client, 1).key));
    }
    let lag = world.snapshot(0);
    assert!(lag.lag_us_p99.unwrap() < 500, "{lag:#?}");
    assert!(
        lag.lag_us_p50.unwrap() >= 100,
        "a round trip cannot be faster"
    );
}

#[test]
fn changes_that_cancel_out_are_never_sent() {
    let mut world = World::new(3);
    world.run(SECOND);
    let before = world.snapshot(0).counters;
    world.put(record(1, 1));
    world.put(record(1, 2));
    world.delete(record(1, 2).key);
    world.put(record(2, 1));
    world.put(record(2, 2));
    world.flush();
    let after = world.snapshot(0).counters;
    assert_eq!(after.sent_records - before.sent_records, 1);
    assert_eq!(after.coalesced.total() - before.coalesced.total(), 3);
    world.converge(SECOND);
    assert_eq!(world.nodes[1].map.values().next(), Some(&record(2, 2)));
}

#[test]
fn changes_that_would_wait_for_each_other_need_not_be_told_one_by_one() {
    let mut world = World::new(5);
    let gathers_until = |world: &World| {
        let sync = world.nodes[0].sync.as_ref().unwrap();
        sync.gathers_until().filter(|until| *until > world.now)
    };
    world.run(SECOND);
    assert_eq!(gathers_until(&world), None, "the first leaves at once");
    world.put(record(1, 1));
    world.flush();
    let sent = world.snapshot(0).counters.sent_packets;
    let until = gathers_until(&world).expect("others have just left");
    assert_eq!(until, world.now + world.config.flush_spacing);
    for client in 2..5 {
        world.put(record(client, 1));
        world.flush();
    }
    assert_eq!(world.snapshot(0).counters.sent_packets, sent);
    world.run(2 * world.config.flush_spacing);
    assert_eq!(world.snapshot(0).counters.sent_packets, sent + 1);
    world.converge(SECOND);
}

#[test]
fn a_connection_reborn_within_a_packet_survives() {
    let mut world = World::new(4);
    world.run(SECOND);
    world.put(record(1, 1));
    world.flush();
    world.run(MILLIS * 5);
    world.delete(record(1, 1).key);
    world.put(record(1, 7));
    world.put(record(2, 1));
    world.delete(record(2, 1).key);
    world.put(record(2, 2));
    world.flush();
    world.converge(SECOND);
    assert_eq!(world.nodes[1].map.len(), 2);
    assert_eq!(world.snapshot(0).counters.transfers_begun, 1);
}

#[test]
fn outdated_events_lose() {
    let mut world = World::new(5);
    world.run(SECOND);
    world.put(record(1, 5));
    let (change, at) = (
        crate::proto::sync::Change::Delete(record(1, 1).key),
        world.now - MILLIS,
    );
    world.input(0, Input::Local { change, at });
    world.converge(SECOND);
    assert_eq!(world.nodes[1].map.len(), 1);
    assert_eq!(world.snapshot(0).counters.local_outdated, 1);
}

#[test]
fn a_lost_last_packet_is_noticed_soon() {
    let mut world = World::new(6);
    world.run(SECOND);
    world.faults.cut[0] = true;
    world.put(record(1, 1));
    world.flush();
    world.faults.cut[0] = false;
    world.run(MILLIS * 5);
    assert_eq!(world.nodes[1].map.len(), 1);
    assert_eq!(world.snapshot(1).counters.repaired, 1);
}

#[test]
fn lossy_networks_converge_without_a_second_transfer() {
    for loss in [0, 1, 5, 20] {
        let (mut repeated, mut stream) = (0, 0);
        for seed in seeds(4) {
            let mut world = World::new(seed << 8 | loss);
            world.run(MILLIS * 100);
            world.faults = faults(&mut Rng::new(seed), loss);
            world.rate = 4000;
            world.run(MILLIS * 300);
            world.converge(SECOND * 5);
            let active = world.snapshot(0).counters;
            let standby = world.snapshot(1).counters;
            assert_eq!(
                active.transfers_begun, 1,
                "loss {loss} seed {seed}: {active:#?}"
            );
            assert_eq!(standby.digests_differed, 0, "loss {loss} seed {seed}");
            repeated += active.repeated_bytes;
            stream += active.sent_bytes;
        }
        println!("loss {loss} %: stream {stream} bytes, repeated {repeated}");
        assert!(repeated < stream, "loss {loss}: {repeated} of {stream}");
    }
}

#[test]
fn long_ways_cost_no_more_repair() {
    for seed in seeds(1) {
        let mut world = World::new(seed);
        world.run(MILLIS * 100);
        world.faults = Faults {
            loss_permille: 50,
            delay_min: MILLIS * 40,
            delay_max: MILLIS * 41,
            ..Faults::NONE
        };
        world.rate = 2000;
        world.run(SECOND * 3);
        world.converge(SECOND * 5);
        let active = world.snapshot(0).counters;
        assert_eq!(active.transfers_begun, 1);
        assert!(
            active.repeated_bytes < active.sent_bytes / 2,
            "seed {seed}: {active:#?}"
        );
    }
}

#[test]
fn an_active_node_that_restarts_is_followed() {
    let mut world = World::new(12);
    world.fill(500);
    world.rate = 3000;
    world.run(SECOND);
    world.rate = 0;
    // Nobody tells the standby: it has to find out by itself.
    world.term += 1;
    world.nodes[0].sync = None;
    world.run(MILLIS * 100);
    world.start(0);
    world.role(0, true);
    world.run(SECOND);
    assert!(world.nodes[1].ready);
    world.converge(SECOND);
}

#[test]
fn outages_end_in_equal_tables_and_little_repair() {
    for (case, outage) in [MILLIS * 100, MILLIS * 700, SECOND * 3, SECOND * 60]
        .into_iter()
        .enumerate()
    {
        for seed in seeds(1) {
            let mut world = World::new(1000 + seed);
            world.run(MILLIS * 100);
            world.faults = faults(&mut Rng::new(seed), seed % 3);
            world.rate = if outage > SECOND * 10 { 200 } else { 2000 };
            world.run(MILLIS * 300);
            // Both ways, or one of them.
            world.faults.cut = [seed % 3 != 1, seed % 3 != 2];
            world.run(outage);
            if outage > SECOND * 2 {
                assert!(!world.nodes[1].ready, "case {case} seed {seed}");
            }
            world.faults.cut = [false; 2];
            world.run(MILLIS * 300);
            world.converge(SECOND * 5);
            let active = world.snapshot(0).counters;
            assert!(active.repeated_bytes < 3 * active.sent_bytes, "{active:#?}");
        }
    }
}

#[test]
fn a_standby_that_joins_late_gets_the_whole_table_under_traffic() {
    for seed in seeds(1) {
        let mut world = World::new(seed);
        world.nodes[1].sync = None;
        world.fill(5000);
        world.rate = 5000;
        world.run(SECOND);
        world.faults = faults(&mut Rng::new(seed), seed % 6);
        world.start(1);
        world.run(SECOND);
        world.converge(SECOND * 5);
        assert_eq!(world.snapshot(0).counters.transfers_begun, 1, "seed {seed}");
    }
}

#[test]
fn stale_entries_of_a_returning_node_are_swept() {
    let mut world = World::new(8);
    world.fill(3000);
    world.converge(SECOND * 5);
    // Node 0 dies; its map stays.
    world.nodes[0].sync = None;
    world.run(MILLIS * 300);
    world.swap(false);
    let keys: Vec<_> = world.nodes[1].map.keys().copied().take(1000).collect();
    for key in keys {
        world.delete(key);
    }
    world.fill(500);
    world.run(SECOND);
    assert_eq!(world.nodes[0].map.len(), 3000);
    world.start(0);
    world.converge(SECOND * 5);
    assert_eq!(world.nodes[0].map.len(), 2500);
    assert_eq!(world.snapshot(0).counters.swept, 1000);
    // What did not change was not written again.
    assert_eq!(world.nodes[0].applied, 1500);
}

#[test]
fn promotion_applies_what_waits_behind_a_gap() {
    let mut world = World::new(9);
    world.run(SECOND);
    world.faults.cut = [true, true];
    world.put(record(1, 1));
    world.flush();
    world.run(MILLIS);
    world.faults.cut = [false, true];
    world.put(record(2, 1));
    world.flush();
    world.run(MILLIS);
    assert_eq!(world.nodes[1].map.len(), 0);
    world.nodes[0].sync = None;
    world.swap(false);
    assert_eq!(world.nodes[1].map.len(), 1);
    assert_eq!(world.snapshot(1).counters.salvaged, 1);
}

#[test]
fn events_that_outrun_the_news_of_the_promotion_count() {
    let mut world = World::new(11);
    world.fill(5);
    world.run(SECOND);
    world.nodes[0].sync = None;
    // The gate is open already; its first event comes before the role.
    world.active = 1;
    world.put(record(100, 1));
    world.run(MILLIS);
    world.term += 1;
    world.role(1, true);
    assert_eq!(world.snapshot(1).entries, 6);
    world.start(0);
    world.converge(SECOND * 2);
    assert_eq!(world.nodes[0].map.len(), 6);
}

#[test]
fn random_lives_converge() {
    for seed in seeds(16) {
        let mut rng = Rng::new(seed);
        let mut world = World::new(seed);
        // Half of the lives are spoilt by more than the network.
        let spoilt = seed % 2 == 1;
        world.fill(rng.below(1000) as u32);
        for _ in 0..6 {
            world.rate = [0, 300, 3000][rng.below(3) as usize];
            let loss = [0, 1, 5, 20][rng.below(4) as usize];
            world.faults = faults(&mut rng, loss);
            let pause = MILLIS * (rng.below(600) as u32);
            if spoilt {
                world.faults.corrupt_percent = 5;
                let mischief = [Mischief::Forget, Mischief::Lose, Mischief::Alter];
                world.mischief(world.standby(), mischief[rng.below(3) as usize]);
            }
            match rng.below(8) {
                0 => world.swap(true),
                1 => {
                    // The standby's agent restarts, with its map or without.
                    let standby = world.standby();
                    world.nodes[standby].sync = None;
                    world.run(pause);
                    if rng.below(2) == 0 {
                        world.nodes[standby].map.clear();
                    }
                    world.start(standby);
                }
                2 => {
                    // The active node dies and comes back.
                    let old = world.active;
                    world.nodes[old].sync = None;
                    world.swap(false);
                    world.run(pause);
                    world.start(old);
                }
                3 => {
                    // Both believe in themselves for a while.
                    world.faults.cut = [true, true];
                    let old = world.active;
                    world.swap(false);
                    world.run(pause);
                    world.faults.cut = [false, false];
                    world.run(MILLIS * 20);
                    world.role(old, false);
                }
                4 => world.faults.cut = [true, rng.below(2) == 0],
                5 => world.faults.cut = [false, true],
                6 => world.nodes[rng.below(2) as usize].frozen = world.now + pause * 3,
                _ => {}
            }
            world.run(pause);
            world.faults.cut = [false, false];
        }
        if spoilt {
            world.heal(SECOND * 30);
            continue;
        }
        world.converge(SECOND * 10);
        let counters = world.snapshot(world.standby()).counters;
        assert_eq!(counters.digests_differed, 0, "seed {seed}");
        assert_eq!(counters.auth_failed + counters.malformed, 0, "seed {seed}");
    }
}

#[test]
fn a_full_standby_says_so() {
    let mut world = World::new(10);
    world.nodes[1].sync = None;
    world.config.max_entries = 100;
    world.start(1);
    world.fill(101);
    assert!(!world.settle(SECOND * 20));
    let standby = world.snapshot(1);
    assert_eq!(standby.entries, 100);
    assert!(standby.dropped > 0 && standby.counters.digests_differed > 0);
    // It asks again, but ever less often.
    assert!(world.snapshot(0).counters.transfers_begun < 8);
    let first = record(0, 1).key;
    world.delete(first);
    world.flush();
    world.converge(SECOND * 40);
}

/// The new key second on both nodes, then first, then alone: the tables stay equal.
#[test]
fn keys_are_rotated_under_traffic() {
    let mut world = World::new(9);
    world.fill(300);
    world.converge(SECOND * 5);
    for keys in [&[1, 2][..], &[2, 1], &[2]] {
        for node in [1, 0] {
            world.keys(node, keys);
            world.fill(50);
            world.run(MILLIS * 50);
            world.converge(SECOND * 5);
        }
    }
    world.swap(true);
    world.fill(50);
    world.converge(SECOND * 5);
    // The old key is worth nothing any more.
    world.keys(0, &[1]);
    world.fill(50);
    assert!(!world.settle(SECOND * 5));
    world.keys(0, &[2]);
    world.converge(SECOND * 5);
}

#[test]
fn a_standby_of_the_first_version_holds_what_it_knows() {
    let mut world = World::new(30);
    world.sabotage_node(1, |sabotage| sabotage.first_version = true);
    world.fill(200);
    world.rate = 2000;
    world.run(SECOND * 3);
    world.rate = 0;
    assert!(world.settle(SECOND * 10), "{:#?}", world.snapshot(1));
    let basic: Vec<_> = world.nodes[0]
        .map
        .values()
        .filter(|record| record.part() == Part::Basic)
        .collect();
    assert!(basic.len() > 20 && basic.len() < world.nodes[0].map.len());
    assert!(world.nodes[1].map.values().eq(basic));
    let standby = world.snapshot(1).counters;
    assert_eq!(standby.unreadable_records, 0);

    // It takes over, and the node of this version follows it.
    world.swap(true);
    world.fill(20);
    assert!(world.settle(SECOND * 10), "{:#?}", world.snapshot(0));
}
