//! Stories of repair and of overload.

use std::time::Duration;

use super::sim::{MILLIS, Mischief, SECOND, World};
use super::{any_record, record};
use crate::proto::sync::ask::{Ask, What};
use crate::proto::sync::buckets::{Bucket, BucketSet};
use crate::proto::sync::record::Class;
use crate::proto::sync::wire::Kind;
use crate::proto::sync::{Action, ByClass, Destination};

#[test]
fn a_single_wrong_entry_costs_little() {
    let mut world = World::new(50);
    world.resize(100_000);
    world.fill(100_000);
    world.converge(SECOND * 20);
    let before = world.snapshot(0).counters;
    assert!(world.mischief(1, Mischief::Forget));
    world.run(SECOND);
    let after = world.snapshot(0).counters;
    assert!(world.nodes[1].ready && world.same_tables());
    assert_eq!(after.buckets_sent - before.buckets_sent, 1);
    assert_eq!(after.transfers_begun, before.transfers_begun);
    // Two packets of sums, and one of 4096 buckets.
    let bytes = after.bucket_bytes - before.bucket_bytes;
    assert!(bytes < 4000, "{bytes} bytes");
    let standby = world.snapshot(1).counters;
    assert_eq!((standby.mends_done, standby.buckets_mended), (1, 1));
    assert_eq!(standby.mended.total(), 1);
    // Nothing else was written again.
    assert_eq!(world.nodes[1].applied, 100_001);
}

#[test]
fn a_standby_that_differs_is_not_ready_until_it_is_mended() {
    let mut world = World::new(51);
    world.fill(500);
    world.converge(SECOND);
    world.mischief(1, Mischief::Forget);
    // Requests do not come through.
    world.faults.loss_permille = 0;
    world.faults.delay_min = MILLIS * 100;
    world.faults.delay_max = MILLIS * 100;
    world.run(MILLIS * 450);
    assert!(!world.nodes[1].ready);
    assert!(world.snapshot(1).repair_buckets.is_some());
    world.converge(SECOND * 2);
}

#[test]
fn every_kind_of_silent_error_is_mended_under_traffic() {
    for (seed, mischief) in [
        (1, Mischief::Forget),
        (2, Mischief::Lose),
        (3, Mischief::Alter),
    ] {
        let mut world = World::new(60 + seed);
        world.fill(2000);
        world.rate = 1000;
        world.run(SECOND);
        for _ in 0..20 {
            assert!(world.mischief(1, mischief));
        }
        world.run(SECOND * 5);
        world.heal(SECOND * 27);
        let active = world.snapshot(0).counters;
        assert_eq!(active.transfers_begun, 1, "{mischief:?}: {active:#?}");
    }
}

#[test]
fn what_the_active_node_forgets_to_say_is_found() {
    let mut world = World::new(70);
    world.fill(2000);
    world.run(SECOND);
    world.sabotage_node(0, |sabotage| sabotage.mute = true);
    world.rate = 1000;
    world.run(SECOND);
    world.rate = 0;
    world.sabotage_node(0, |sabotage| sabotage.mute = false);
    assert!(!world.same_tables());
    // And some of them have vanished before anything was said.
    for _ in 0..20 {
        assert!(world.mischief(0, Mischief::Lose));
    }
    world.heal(SECOND * 27);
    let active = world.snapshot(0).counters;
    assert!(active.unsaid_found.unique > 0 && active.unsaid_found.recomputable > 0);
    assert!(active.audit_corrected > 0);
    assert_eq!(active.transfers_begun, 1);
}

#[test]
fn packets_lost_for_good_cost_the_buckets_that_they_changed() {
    let mut world = World::new(80);
    world.config.retain_bytes = 8000;
    world.start(0);
    world.term += 1;
    world.role(0, true);
    world.fill(4000);
    world.converge(SECOND * 5);
    world.faults.cut = [true, false];
    world.rate = 2000;
    world.run(MILLIS * 300);
    world.faults.cut = [false; 2];
    world.run(MILLIS * 100);
    world.converge(SECOND * 5);
    let [active, standby] = [0, 1].map(|node| world.snapshot(node).counters);
    assert!(standby.skipped > 0 && standby.mends_done > 0);
    assert_eq!(active.transfers_begun, 1, "{active:#?}");
    assert!(active.bucket_records.total() < 2000);
}

#[test]
fn when_most_of_the_table_differs_a_full_transfer_is_the_repair() {
    let mut world = World::new(81);
    world.fill(8000);
    world.converge(SECOND * 5);
    for _ in 0..7000 {
        world.mischief(1, Mischief::Forget);
    }
    world.heal(SECOND);
    let active = world.snapshot(0).counters;
    assert_eq!((active.transfers_begun, active.buckets_sent), (2, 0));
}

/// Two nodes whose stream may run 32 packets ahead, and what only this node knows 16 more.
fn narrow(seed: u64) -> World {
    let mut world = World::new(seed);
    world.config.retain_packets = 64;
    world.start(0);
    world.term += 1;
    world.role(0, true);
    world.run(SECOND);
    world.fill(10);
    world.converge(SECOND);
    world
}

/// As many changes of each class, one packet each.
fn changes(world: &mut World, clients: std::ops::Range<u32>) {
    for client in clients {
        for client in [4 * client, 4 * client + 2] {
            world.put(any_record(1000 + client, 1));
            world.flush();
            world.run(MILLIS);
        }
    }
}

#[test]
fn under_overload_what_the_partner_could_recompute_waits() {
    assert_eq!(any_record(0, 1).class(), Class::Recomputable);
    assert_eq!(any_record(2, 1).class(), Class::Unique);
    let mut world = narrow(90);
    // The partner is heard, but hears nothing.
    world.faults.cut = [true, false];
    changes(&mut world, 0..20);
    let active = world.snapshot(0);
    assert_eq!(active.waiting.unique, 0, "{active:#?}");
    assert!((1..=10).contains(&active.waiting.recomputable));
    assert!(active.oldest_waiting_us.unwrap() >= 1000);
    changes(&mut world, 20..100);
    let active = world.snapshot(0);
    assert!(active.waiting.unique > 0 && active.waiting.recomputable > 60);
    assert_eq!(active.waiting, active.counters.deferred);
    world.faults.cut = [false; 2];
    world.converge(SECOND * 2);
    let active = world.snapshot(0);
    assert_eq!(active.waiting, ByClass::default());
    assert_eq!(active.oldest_waiting_us, None);
    assert_eq!(active.counters.transfers_begun, 1);
    assert_eq!(world.snapshot(1).counters.digests_differed, 0);
    assert_eq!(active.counters.overflowed, ByClass::default());
}

#[test]
fn what_cannot_even_wait_is_found_again() {
    let mut world = narrow(91);
    world.fill(3000);
    world.converge(SECOND * 5);
    world.faults.cut = [true, true];
    world.run(SECOND * 2);
    // More than the outbox holds, of new ones, changed ones and deleted ones.
    world.rate = 5000;
    world.run(SECOND);
    world.rate = 0;
    let active = world.snapshot(0).counters;
    assert!(active.overflowed.unique > 0 && active.overflowed.recomputable > 0);
    world.faults.cut = [false; 2];
    world.converge(SECOND * 5);
    let active = world.snapshot(0).counters;
    assert_eq!((active.listeners_lost, active.listeners_resumed), (1, 1));
    assert_eq!(active.transfers_begun, 1, "{active:#?}");
    assert!(active.buckets_sent > 0, "deletions were lost");
    assert_eq!(world.snapshot(1).counters.digests_differed, 0);
}

/// Fills, loses packets for good, spoils, exchanges roles; what is left must be equal.
fn live_with_older_node(older: usize) {
    let mut world = World::new(100 + older as u64);
    // A version that knows of no buckets knows of no records either.
    world.records = false;
    world.config.retain_bytes = 100_000;
    for node in [0, 1] {
        world.start(node);
    }
    world.sabotage_node(older, |sabotage| sabotage.second_version = true);
    world.term += 1;
    world.role(0, true);
    // A full transfer fits into what is kept for repetition.
    world.fill(200);
    world.converge(SECOND * 5);
    for _ in 0..2 {
        world.faults.cut[world.active] = true;
        world.rate = 8000;
        world.run(MILLIS * 500);
        world.faults.cut = [false; 2];
        world.converge(SECOND * 5);
        // More than can wait is lost, too.
        world.faults.cut = [true; 2];
        world.run(MILLIS * 1200);
        world.rate = 5000;
        world.run(MILLIS * 300);
        world.converge(SECOND * 5);
        world.mischief(world.standby(), Mischief::Forget);
        world.heal(SECOND * 2);
        world.swap(true);
        world.converge(SECOND * 5);
    }
    for node in [0, 1] {
        let counters = world.snapshot(node).counters;
        assert_eq!((counters.asks, counters.asks_sent), (0, 0));
        assert_eq!((counters.buckets_sent, counters.malformed), (0, 0));
        assert!(counters.transfers_begun > 1);
    }
}

#[test]
fn an_older_standby_is_repaired_by_full_transfers() {
    live_with_older_node(1);
}

#[test]
fn an_older_active_node_is_not_asked_for_buckets() {
    live_with_older_node(0);
}

#[test]
fn requests_are_answered_at_a_bounded_rate() {
    let mut world = World::new(110);
    world.fill(3000);
    world.converge(SECOND * 5);
    let session = world.nodes[0].sync.as_mut().unwrap().context_mut();
    let stream = session.session_id();
    let before = world.snapshot(0).counters;
    let mut buckets = BucketSet::new();
    Bucket::all().for_each(|bucket| buckets.insert(bucket));
    for _ in 0..500 {
        for what in [What::Sums, What::Contents] {
            let mut body = Vec::new();
            let buckets = buckets.clone();
            Ask {
                stream,
                what,
                buckets,
            }
            .encode(&mut body);
            let context = world.nodes[1].sync.as_mut().unwrap().context_mut();
            let mut out = Vec::new();
            context.send_control(Kind::Ask, &body, Destination::Partner, &mut out);
            for action in out {
                if let Action::Send { bytes, .. } = action {
                    world.packet(0, &bytes);
                }
            }
        }
        world.run(MILLIS);
    }
    let after = world.snapshot(0).counters;
    assert_eq!(after.asks - before.asks, 1000);
    assert!(after.asks_deferred - before.asks_deferred > 970);
    let bytes = after.bucket_bytes - before.bucket_bytes;
    assert!(bytes < 4_000_000, "{bytes} bytes");
    world.converge(SECOND * 5);
}

#[test]
fn a_promotion_in_the_middle_of_a_repair_keeps_what_is_there() {
    let mut world = World::new(120);
    world.resize(100_000);
    world.fill(60_000);
    world.converge(SECOND * 20);
    for _ in 0..1500 {
        world.mischief(1, Mischief::Forget);
    }
    let missing = world.nodes[0].map.len() - world.nodes[1].map.len();
    let begun = |world: &World| world.snapshot(1).counters.buckets_mended > 5;
    while !begun(&world) {
        world.run(Duration::from_micros(100));
    }
    world.nodes[0].sync = None;
    world.swap(false);
    let kept = world.nodes[1].map.len();
    assert!(kept > 60_000 - missing && kept < 60_000);
    world.put(record(7, 9));
    world.start(0);
    world.converge(SECOND * 20);
    assert_eq!(world.nodes[0].map.len(), kept + 1);
}
