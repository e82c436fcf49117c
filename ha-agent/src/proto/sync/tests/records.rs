//! Records that are no connections, over the whole stream.

use std::time::Duration;

use super::sim::{MILLIS, SECOND, World};
use crate::proto::records::{Gone, REFRESH_MAX, Refusal, Stamp, Telling, Told};

const TTL: Option<Duration> = Some(Duration::from_secs(10));

#[test]
fn a_record_reaches_the_standby_and_outlives_the_active_node() {
    let mut world = World::new(40);
    world.run(SECOND);
    world.write("sessions", "a", "one", None).unwrap();
    world.run(MILLIS);
    assert_eq!(world.read(1, "sessions", "a").as_deref(), Some("one"));
    world.nodes[0].sync = None;
    world.swap(false);
    assert_eq!(world.read(1, "sessions", "a").as_deref(), Some("one"));
    // The new active node's word is later than the old one's.
    let stamp = world.write("sessions", "a", "two", None).unwrap();
    assert!(stamp.term == 2 && stamp.version == 2, "{stamp}");
    world.start(0);
    world.converge(SECOND * 5);
    assert_eq!(world.read(0, "sessions", "a").as_deref(), Some("two"));
}

#[test]
fn a_full_transfer_says_records_and_sweeps_those_it_does_not_say() {
    let mut world = World::new(41);
    world.nodes[1].sync = None;
    for key in 0..400 {
        world
            .write("sessions", &format!("{key}"), "v", None)
            .unwrap();
    }
    world.start(1);
    world.converge(SECOND * 5);
    assert_eq!(world.snapshot(1).records.namespaces[1].records, 400);

    // Cut off, the old active node writes what nobody hears.
    world.faults.cut = [true, true];
    world.run(SECOND * 2);
    world.write_on(0, "sessions", "lost", "v", None).unwrap();
    world
        .write_on(0, "sessions", "1", "also lost", None)
        .unwrap();
    world.swap(false);
    world.erase("sessions", "0");
    world.write("sessions", "2", "kept", None).unwrap();
    world.run(SECOND);
    world.faults.cut = [false; 2];
    world.role(0, false);
    world.converge(SECOND * 5);
    assert_eq!(world.read(0, "sessions", "lost"), None);
    assert_eq!(world.read(0, "sessions", "0"), None);
    assert_eq!(world.read(0, "sessions", "1").as_deref(), Some("v"));
    assert_eq!(world.read(0, "sessions", "2").as_deref(), Some("kept"));
    assert_eq!(world.snapshot(0).records.counters.swept, 2);
    assert_eq!(world.snapshot(0).records.counters.digests_differed, 0);
}

#[test]
fn lives_end_on_both_nodes_and_cross_as_ages() {
    let mut world = World::new(42);
    world.run(SECOND);
    world.write("sessions", "a", "v", TTL).unwrap();
    world.run(SECOND * 6);
    // The standby restarts: what it is told of is six seconds old.
    world.nodes[1].sync = None;
    world.start(1);
    world.run(SECOND * 3);
    assert_eq!(world.read(1, "sessions", "a").as_deref(), Some("v"));
    world.run(MILLIS * 1300);
    assert_eq!(world.read(0, "sessions", "a"), None);
    assert_eq!(world.read(1, "sessions", "a"), None);
    world.converge(SECOND);
    assert_eq!(world.snapshot(0).records.counters.expired, 1);
    assert_eq!(world.snapshot(1).records.namespaces[1].records, 0);
}

#[test]
fn a_standby_hides_what_is_over_and_ends_it_once_it_is_active() {
    let mut world = World::new(43);
    world.run(SECOND);
    world.write("sessions", "a", "v", TTL).unwrap();
    world.run(SECOND);
    world.nodes[0].sync = None;
    world.run(SECOND * 10);
    assert_eq!(world.read(1, "sessions", "a"), None);
    assert_eq!(world.snapshot(1).records.namespaces[1].records, 1);
    world.swap(false);
    world.run(SECOND);
    assert_eq!(world.snapshot(1).records.counters.expired, 1);
    assert_eq!(world.snapshot(1).records.namespaces[1].records, 0);
}

#[test]
fn constant_hits_cost_next_to_nothing() {
    let mut world = World::new(44);
    world.run(SECOND);
    let life = Some(SECOND * 300);
    let sent = |world: &World| world.snapshot(0).records.counters.sent;
    for _ in 0..10_000 {
        world.write("sessions", "a", "same", life).unwrap();
        world.run(MILLIS * 10);
    }
    assert!(
        sent(&world) <= 1 + 100 / REFRESH_MAX.as_secs(),
        "{}",
        sent(&world)
    );
    // It has not ended on the standby either.
    assert!(world.read(1, "sessions", "a").is_some());
    let before = sent(&world);
    for hit in 0..1000 {
        world
            .write("sessions", "a", &format!("{hit}"), life)
            .unwrap();
        world.run(MILLIS);
    }
    assert!((9..=12).contains(&(sent(&world) - before)));
    world.run(MILLIS * 101);
    assert_eq!(world.read(1, "sessions", "a").as_deref(), Some("999"));
    world.converge(SECOND);
}

#[test]
fn writers_are_refused_by_role_and_quota() {
    let mut world = World::new(45);
    world.run(SECOND);
    let refusal = world.write_on(1, "sessions", "a", "v", None);
    assert_eq!(refusal, Err(Refusal::NotActive));
    for key in 0..100 {
        world.write("few", &format!("{key}"), "v", None).unwrap();
    }
    let full = Refusal::Records {
        namespace: "few".to_owned(),
        records: 100,
    };
    assert_eq!(world.write("few", "one more", "v", None), Err(full));
    // What is there may change.
    world.write("few", "7", "w", None).unwrap();
    world.erase("few", "8");
    world.write("few", "one more", "v", None).unwrap();
    world.converge(SECOND);
    let records = world.snapshot(0).records;
    assert_eq!(
        (
            records.namespaces[0].refused,
            records.counters.refused_quota
        ),
        (1, 1)
    );
    assert_eq!(world.snapshot(1).records.counters.refused_not_active, 1);
}

#[test]
fn a_receiver_without_quotas_is_no_less_complete() {
    let mut world = World::new(46);
    world.nodes[1].sync.as_mut().unwrap().set_quotas([]);
    world.run(SECOND);
    world.write("few", "a", "v", None).unwrap();
    world.converge(SECOND);
    assert_eq!(world.read(1, "few", "a").as_deref(), Some("v"));
}

#[test]
fn a_partner_that_knows_connections_only_is_ready_without() {
    let mut world = World::new(47);
    world.sabotage_node(1, |sabotage| sabotage.no_records = true);
    world.rate = 2000;
    world.run(SECOND * 2);
    assert!(world.settle(SECOND * 5), "{:#?}", world.snapshot(1));
    assert!(world.same_tables());
    assert!(world.snapshot(0).records.counters.sent > 100);
    assert_eq!(world.snapshot(1).records.counters.received, 0);
    let counters = world.snapshot(1).counters;
    assert_eq!(
        (counters.digests_differed, counters.unreadable_records),
        (0, 0)
    );

    // It takes over, and this version's node follows it.
    world.swap(true);
    world.fill(20);
    assert!(world.settle(SECOND * 5), "{:#?}", world.snapshot(0));
}

#[test]
fn a_lost_record_is_found_by_the_digest_alone() {
    let mut world = World::new(48);
    world.write("sessions", "a", "v", None).unwrap();
    world.run(SECOND);
    world.sabotage_node(1, |sabotage| sabotage.no_records = true);
    world.write("sessions", "a", "w", None).unwrap();
    world.run(SECOND);
    assert_eq!(world.read(1, "sessions", "a").as_deref(), Some("v"));
    world.sabotage_node(1, |sabotage| sabotage.no_records = false);
    world.run(SECOND * 2);
    assert_eq!(world.read(1, "sessions", "a").as_deref(), Some("w"));
    let counters = world.snapshot(1).records.counters;
    assert_eq!((counters.digests_differed, counters.repairs), (1, 1));
    assert_eq!((counters.repaired, counters.swept), (1, 0));
    world.converge(SECOND);
    assert_eq!(world.snapshot(0).counters.transfers_begun, 1);
}

/// Two nodes with connections and as many records, a quarter of which are over in two seconds.
fn filled(seed: u64, configure: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(seed);
    configure(&mut world);
    world.resize(1 << 13);
    world.fill(400);
    for key in 0..400 {
        let ttl = (key % 4 == 0).then_some(SECOND * 2);
        let key = format!("{key:03}");
        world.write("sessions", &key, "right", ttl).unwrap();
    }
    world.converge(SECOND * 5);
    assert_eq!(world.snapshot(1).records.namespaces[1].records, 400);
    world
}

/// One is gone, one is another, and one is there, all without a word of the partner's.
fn spoil(world: &mut World) {
    let stamp = Stamp {
        term: 9,
        version: 9,
    };
    let telling = |key| {
        Told::Put(Telling {
            namespace: "sessions",
            key,
            value: b"wrong",
            stamp,
            ttl: None,
            age: Duration::ZERO,
        })
    };
    let gone = Gone {
        namespace: "sessions",
        key: b"101",
        stamp,
    };
    let standby = world.standby();
    for told in [
        Told::Delete(gone),
        telling(&b"102"[..]),
        telling(&b"too many"[..]),
    ] {
        world.mishear(standby, &told);
    }
}

#[test]
fn a_repair_says_all_records_and_sweeps_those_it_does_not_say() {
    let mut world = filled(50, |_| {});
    let (before, applied) = (world.snapshot(0), world.nodes[1].applied);
    spoil(&mut world);
    world.run(MILLIS * 260);
    assert!(!world.nodes[1].ready || world.read(1, "sessions", "too many").is_none());
    world.converge(SECOND);
    assert_eq!(world.read(1, "sessions", "101").as_deref(), Some("right"));
    assert_eq!(world.read(1, "sessions", "102").as_deref(), Some("right"));
    assert_eq!(world.read(1, "sessions", "too many"), None);
    let (after, standby) = (world.snapshot(0), world.snapshot(1).records.counters);
    assert_eq!((standby.repaired, standby.swept), (2, 1));
    assert_eq!((standby.repairs, standby.repairs_failed), (1, 0));
    // It is no matter of the connections.
    assert_eq!(
        after.counters.transfers_begun,
        before.counters.transfers_begun
    );
    assert_eq!(world.snapshot(1).counters.mends_begun, 0);
    assert_eq!(world.nodes[1].applied, applied);
    let bytes = after.counters.bucket_bytes - before.counters.bucket_bytes;
    assert!(bytes < 400 * 80, "{bytes} bytes");
}

#[test]
fn a_repair_is_exact_under_traffic_and_loss() {
    for seed in 51..61 {
        let mut world = filled(seed, |_| {});
        world.faults.loss_permille = 50;
        world.faults.delay_max = MILLIS * 3;
        world.rate = 3000;
        for _ in 0..5 {
            spoil(&mut world);
            world.run(SECOND);
        }
        world.heal(SECOND * 5);
        assert!(world.snapshot(1).records.counters.repairs > 0);
        let transfers = world.snapshot(0).counters.transfers_begun;
        assert_eq!(transfers, 1, "{seed}: {:#?}", world.snapshot(1));
    }
}

/// Until some records were heard again and others not.
fn in_the_middle_of_a_repair(world: &mut World) {
    spoil(world);
    world.faults.delay_max = MILLIS * 20;
    let heard = |world: &World| world.snapshot(1).records.counters.received;
    let before = heard(world);
    while heard(world) == before {
        world.run(Duration::from_micros(20));
    }
    assert!(heard(world) < before + 300, "it is over");
}

#[test]
fn a_repair_that_lost_packets_for_good_removes_nothing_and_begins_anew() {
    let mut world = filled(61, |world| world.config.retain_bytes = 60_000);
    in_the_middle_of_a_repair(&mut world);
    world.lose_packets();
    world.faults.cut = [true, false];
    world.rate = 20_000;
    world.run(MILLIS * 300);
    world.faults.cut = [false; 2];
    world.converge(SECOND * 5);
    let [active, standby] = [0, 1].map(|node| world.snapshot(node));
    assert!(standby.counters.skipped > 0, "{standby:#?}");
    assert_eq!(active.counters.transfers_begun, 1);
    assert_eq!(standby.records.counters.repairs_failed, 0);
    assert_eq!(world.read(1, "sessions", "too many"), None);
}

#[test]
fn a_promotion_in_the_middle_of_a_repair_keeps_all_records() {
    let mut world = filled(62, |_| {});
    in_the_middle_of_a_repair(&mut world);
    world.nodes[0].sync = None;
    world.lose_packets();
    world.swap(false);
    world.run(SECOND);
    for key in 102..200 {
        assert!(
            world
                .read(1, "sessions", &format!("{}", 2 * key - 101))
                .is_some()
        );
    }
    world.start(0);
    world.converge(SECOND * 5);
}

/// In either role.
#[test]
fn with_a_node_that_knows_no_repair_a_full_transfer_is_it() {
    for older in [0, 1] {
        let mut world = filled(63, |_| {});
        world.sabotage_node(older, |sabotage| sabotage.third_version = true);
        world.run(SECOND);
        for _ in 0..2 {
            let active = world.active;
            let before = world.snapshot(active).counters.transfers_begun;
            spoil(&mut world);
            world.heal(SECOND * 2);
            let after = world.snapshot(active).counters.transfers_begun;
            assert_eq!(after, before + 1);
            world.swap(true);
            world.converge(SECOND * 5);
        }
        for node in [0, 1] {
            let counters = world.snapshot(node).counters;
            assert_eq!((counters.asks, counters.asks_sent), (0, 0));
            assert_eq!(world.snapshot(node).records.counters.repairs, 0);
        }
    }
}
