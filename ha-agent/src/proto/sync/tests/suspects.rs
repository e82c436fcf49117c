//! The sweep of one machine: what is believed, what is told, what is repaired.

use std::time::Duration;

use super::{machine, record};
use crate::datapath::family::FlowKey;
use crate::proto::sync::sweep::SETTLE;
use crate::proto::sync::{Change, Found, Half, Input, Record, Remedy, Sweeps, Sync};
use crate::proto::time::Instant;

const MILLIS: Duration = Duration::from_millis(1);

/// A machine in a role whose table holds connections 0 to 9.
fn filled(active: bool) -> (Sync, Instant) {
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut sync = machine(now);
    let records = (0..10).map(|client| record(client, 1)).collect();
    sync.handle_input(now, Input::Load(records), &mut Vec::new());
    if active {
        let role = Input::Role {
            active,
            term: 1,
            salt: [9; 16],
        };
        sync.handle_input(now, role, &mut Vec::new());
    }
    now = now + MILLIS;
    (sync, now)
}

fn counted(sync: &Sync) -> Sweeps {
    sync.snapshot().sweep
}

/// A pass over a map that holds these connections, whole.
fn pass(sync: &mut Sync, now: Instant, map: &[Record]) {
    sync.sweep_begin(now);
    for found in map {
        for half in [Half::Forward, Half::Reverse] {
            sync.sweep_see(&found.key, &found.key, half, |known| known.agrees(found));
        }
    }
    sync.sweep_end();
}

/// Looks at everything that is due.
fn look(sync: &mut Sync, now: Instant, map: &[Record]) -> Vec<(FlowKey, Remedy)> {
    let mut remedies = Vec::new();
    while let Some(suspect) = sync.sweep_next(now) {
        let key = suspect.place;
        let record = map.iter().find(|record| record.key == key);
        let found = record.map_or(Found::Nothing, |record| Found::Entry {
            record: *record,
            whole: true,
        });
        let remedy = sync.sweep_look(now, suspect, &key, found, now, &mut Vec::new());
        remedies.extend(remedy.map(|remedy| (key, remedy)));
    }
    remedies
}

/// A map that lacks connection 0, has connection 1 otherwise, and one more.
fn spoilt() -> Vec<Record> {
    let mut map: Vec<_> = (1..11).map(|client| record(client, 1)).collect();
    map[0].version = 2;
    map
}

#[test]
fn the_table_of_an_active_node_follows_its_map() {
    let (mut sync, now) = filled(true);
    let map = spoilt();
    pass(&mut sync, now, &map);
    assert_eq!(look(&mut sync, now, &map), []);
    assert_eq!(sync.sweep_due(), Some(now + SETTLE));
    let left = record(0, 1);
    assert_eq!(
        look(&mut sync, now + SETTLE, &map),
        [(left.key, Remedy::Remove)]
    );
    assert_eq!(sync.record(&left.key), None);
    for found in &map {
        assert_eq!(sync.record(&found.key), Some(*found));
    }
    let counts = counted(&sync);
    assert_eq!((counts.told, counts.told_gone, counts.passes), (2, 1, 1));
    // Nothing is left to do.
    pass(&mut sync, now + SETTLE * 2, &map);
    assert_eq!(look(&mut sync, now + SETTLE * 2, &map), []);
    assert_eq!(sync.sweep_due(), None);
}

#[test]
fn the_map_of_a_standby_follows_its_table() {
    let (mut sync, now) = filled(false);
    let map = spoilt();
    pass(&mut sync, now, &map);
    assert_eq!(look(&mut sync, now, &map), []);
    let mut remedies = look(&mut sync, now + SETTLE, &map);
    remedies.sort_by_key(|(key, _)| *key);
    let store = |client, replaces| {
        let record = record(client, 1);
        (record.key, Remedy::Store { record, replaces })
    };
    let stray = (record(10, 1).key, Remedy::Remove);
    let mut wanted = [store(0, false), store(1, true), stray];
    wanted.sort_by_key(|(key, _)| *key);
    assert_eq!(remedies, wanted);
    for (_, remedy) in &remedies {
        sync.sweep_repaired(remedy);
    }
    let counts = counted(&sync);
    assert_eq!(
        (counts.restored, counts.replaced, counts.removed),
        (1, 1, 1)
    );
    assert_eq!(counts.repaired(), 3);
    // The table is as it was.
    assert_eq!(sync.record(&record(10, 1).key), None);
}

/// A change whose announcement arrives between the two looks is none of the sweep's business.
#[test]
fn what_is_under_way_is_left_alone() {
    let (mut sync, now) = filled(true);
    let mut map: Vec<_> = (0..11).map(|client| record(client, 1)).collect();
    pass(&mut sync, now, &map);
    assert_eq!(look(&mut sync, now, &map), []);
    let change = Change::Put(record(10, 1));
    sync.handle_input(now, Input::Local { change, at: now }, &mut Vec::new());
    assert_eq!(look(&mut sync, now + SETTLE, &map), []);
    let counts = counted(&sync);
    assert_eq!((counts.repaired(), counts.in_flight), (0, 1));

    // One that changes again and again is not believed either, as long as it does.
    for version in 2..6 {
        map[3].version = version;
        pass(&mut sync, now + SETTLE * u32::from(version), &map);
        let at = now + SETTLE * u32::from(version);
        assert_eq!(look(&mut sync, at, &map), []);
        assert_eq!(counted(&sync).told, 0);
    }
    look(&mut sync, now + SETTLE * 6, &map);
    assert_eq!(counted(&sync).told, 1);
}

#[test]
fn another_role_forgets_what_the_last_one_suspected() {
    let (mut sync, now) = filled(false);
    let map = spoilt();
    pass(&mut sync, now, &map);
    look(&mut sync, now, &map);
    let role = Input::Role {
        active: true,
        term: 3,
        salt: [8; 16],
    };
    sync.handle_input(now, role, &mut Vec::new());
    assert_eq!(look(&mut sync, now + SETTLE, &map), []);
    assert_eq!(counted(&sync).repaired(), 0);
    assert_eq!(sync.record(&record(0, 1).key), Some(record(0, 1)));
}

#[test]
fn a_lost_half_is_noticed_and_what_is_new_is_not_missed() {
    let (mut sync, now) = filled(true);
    // Newer than the beginning of the pass, and not in what the walk has read.
    let change = Change::Put(record(20, 1));
    let at = now + MILLIS;
    sync.handle_input(at, Input::Local { change, at }, &mut Vec::new());
    sync.sweep_begin(now);
    for client in 0..10 {
        let key = record(client, 1).key;
        sync.sweep_see(&key, &key, Half::Forward, |_| true);
        if client != 5 {
            sync.sweep_see(&key, &key, Half::Reverse, |_| true);
        }
    }
    sync.sweep_end();
    let suspect = sync.sweep_next(at).unwrap();
    assert_eq!(
        (suspect.place, suspect.half),
        (record(5, 1).key, Half::Forward)
    );
    assert!(sync.sweep_next(at).is_none());
    let found = Found::Entry {
        record: record(5, 1),
        whole: false,
    };
    let key = suspect.place;
    let first = sync.sweep_look(at, suspect, &key, found, at, &mut Vec::new());
    assert_eq!(first, None);
    let again = sync.sweep_next(at + SETTLE).unwrap();
    let second = sync.sweep_look(at + SETTLE, again, &key, found, at, &mut Vec::new());
    assert_eq!(second, Some(Remedy::Mend));
    assert_eq!(counted(&sync).told, 0);
}
