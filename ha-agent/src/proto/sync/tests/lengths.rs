//! Packets that are longer than every Ethernet takes, on paths that take them and on others.

use std::time::Duration;

use super::sim::{Mischief, SECOND, World};
use crate::proto::sync::Lengths;

const LONG: Lengths = Lengths {
    sure: 1472,
    most: 8972,
};
/// Type of data packets.
const DATA: u8 = 1;

/// Two nodes whose interfaces take long packets, and a path that takes packets so long.
fn world(seed: u64, path: usize) -> World {
    let mut world = World::new(seed);
    world.config.lengths = LONG;
    world.faults.longest = path;
    world.recording = Some(Vec::new());
    world.resize(1 << 15);
    world
}

/// Length of the longest packet of records that the active node has sent since the last call.
fn longest(world: &mut World) -> usize {
    let sent = world.recording.replace(Vec::new()).unwrap();
    let data = sent
        .iter()
        .filter(|(from, bytes)| *from == world.active && bytes[3] == DATA);
    data.map(|(_, bytes)| bytes.len()).max().unwrap_or(0)
}

/// Has the standby ask for everything anew.
fn restart_standby(world: &mut World) {
    let standby = world.standby();
    world.start(standby);
    world.run(SECOND * 3);
    assert!(world.nodes[standby].ready && world.same_tables());
}

#[test]
fn packets_are_long_where_the_path_takes_them() {
    let mut world = world(130, LONG.most);
    world.fill(4000);
    world.run(SECOND);
    restart_standby(&mut world);
    assert!((8000..=LONG.most).contains(&longest(&mut world)));
    // What the other one hears it may send, too.
    world.swap(true);
    world.run(SECOND);
    restart_standby(&mut world);
    assert!(longest(&mut world) > 8000);
}

#[test]
fn packets_are_no_longer_than_the_path_takes() {
    for path in [LONG.sure, LONG.most - 1] {
        let mut world = world(131, path);
        world.fill(4000);
        world.run(SECOND);
        restart_standby(&mut world);
        assert!((1300..=LONG.sure).contains(&longest(&mut world)));
        let standby = world.snapshot(1).counters;
        assert_eq!((standby.skipped, standby.digests_differed), (0, 0));
    }
}

#[test]
fn a_path_that_takes_less_than_before_costs_what_was_under_way() {
    let mut world = world(132, LONG.most);
    world.fill(4000);
    world.run(SECOND);
    restart_standby(&mut world);
    let transfers = world.snapshot(0).counters.transfers_begun;
    world.faults.longest = LONG.sure;
    world.rate = 400;
    // Nothing that is sent one by one is long; the contents of buckets are.
    while world.snapshot(1).counters.skipped == 0 {
        for _ in 0..50 {
            world.mischief(1, Mischief::Forget);
        }
        world.run(Duration::from_millis(500));
    }
    world.run(SECOND * 2);
    longest(&mut world);
    world.run(SECOND * 5);
    assert!(longest(&mut world) <= LONG.sure);
    // So many repairs in a row did not help that the next one waits for half a minute.
    world.rate = 0;
    world.run(SECOND * 70);
    assert!(
        world.nodes[1].ready && world.same_tables(),
        "{:#?}",
        world.snapshot(1)
    );
    assert_eq!(world.snapshot(0).counters.transfers_begun, transfers);
    // Another session tries anew, and the next one knows.
    world.faults.longest = LONG.most;
    restart_standby(&mut world);
    restart_standby(&mut world);
    assert!(longest(&mut world) > 8000);
}
