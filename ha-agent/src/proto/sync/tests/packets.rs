//! Hostile packets: none of them changes anything.

use proptest::collection::vec;
use proptest::prelude::*;

use super::sim::{Faults, MILLIS, SECOND, World};
use super::{any_record, salt};
use crate::keys::{PairKey, PairKeys};
use crate::proto::rng::Rng;
use crate::proto::sync::record::{Item, ItemError, LONGEST, Record};
use crate::proto::sync::short::{Items, Ways, short_len};
use crate::proto::sync::wire::Kind;
use crate::proto::sync::{Action, Change, Counters, Destination, Input, Sync, SyncConfig};
use crate::proto::time::Instant;

/// What must not change: everything but the counters of packets without effect.
fn state(world: &World, node: usize) -> String {
    let snapshot = world.snapshot(node);
    let kept = Counters {
        malformed: 0,
        other_version: 0,
        other_cluster: 0,
        reflected: 0,
        unknown_key: 0,
        auth_failed: 0,
        replayed: 0,
        overtaken: 0,
        unconfirmed_session: 0,
        wrong_challenge: 0,
        stale_term: 0,
        other_role: 0,
        rate_limited: 0,
        duplicates: 0,
        received_packets: 0,
        ..snapshot.counters
    };
    format!(
        "{:?} {kept:?}",
        (
            world.nodes[node].ready,
            snapshot.entries,
            snapshot.outstanding,
            world.nodes[node].applied
        )
    )
}

fn recorded_pair() -> (World, Vec<(usize, Vec<u8>)>) {
    let mut world = World::new(20);
    world.recording = Some(Vec::new());
    world.fill(50);
    world.rate = 1000;
    world.run(SECOND);
    world.rate = 0;
    world.converge(SECOND);
    let recording = world.recording.take().unwrap();
    (world, recording)
}

#[test]
fn a_replay_of_everything_changes_nothing() {
    let (mut world, recording) = recorded_pair();
    let before = [state(&world, 0), state(&world, 1)];
    for (from, bytes) in &recording {
        world.packet(1 - from, bytes);
    }
    assert_eq!(before, [state(&world, 0), state(&world, 1)]);
    let [active, standby] = [0, 1].map(|node| world.snapshot(node).counters);
    assert!(active.replayed > 0 && standby.replayed > 0 && standby.duplicates > 0);
}

#[test]
fn a_replay_of_a_session_after_a_restart_changes_nothing() {
    let (mut world, recording) = recorded_pair();
    // The active node is cut off, so that only the recording speaks.
    world.faults.cut = [true, true];
    world.nodes[1].sync = None;
    world.nodes[1].map.clear();
    world.start(1);
    for (from, bytes) in &recording {
        if *from == 0 {
            world.run(MILLIS);
            world.packet(1, bytes);
        }
    }
    assert!(world.nodes[1].map.is_empty() && !world.nodes[1].ready);
    let counters = world.snapshot(1).counters;
    assert!(counters.unconfirmed_session > 0 && counters.wrong_challenge > 0);
    assert_eq!(counters.received_records, 0);
    world.converge(SECOND * 3);
}

#[test]
fn recorded_hellos_do_not_make_a_listener() {
    let (mut world, recording) = recorded_pair();
    // The active node restarts and is active again; the partner is dead.
    world.faults.cut = [true, true];
    world.start(0);
    world.term += 1;
    world.role(0, true);
    for (from, bytes) in &recording {
        if *from == 1 {
            world.packet(0, bytes);
        }
    }
    world.run(MILLIS * 100);
    let active = world.snapshot(0);
    assert!(!active.partner_heard);
    assert_eq!(active.counters.sent_packets, 0);
}

#[test]
fn reflections_foreign_pairs_and_foreign_keys_are_counted() {
    let (mut world, recording) = recorded_pair();
    let before = state(&world, 1);
    for (from, bytes) in &recording {
        if *from == 1 {
            world.packet(1, bytes);
        } else {
            let mut foreign = bytes.clone();
            foreign[7] ^= 1;
            world.packet(1, &foreign);
            let mut later = bytes.clone();
            later[2] = 2;
            world.packet(1, &later);
        }
    }
    let counters = world.snapshot(1).counters;
    assert!(counters.reflected > 0 && counters.other_cluster > 0 && counters.other_version > 0);
    assert_eq!(before, state(&world, 1));
}

#[test]
fn an_earlier_term_is_ignored() {
    let mut world = World::new(21);
    world.fill(10);
    world.run(SECOND);
    // Node 0 is frozen, misses its removal from office, and thaws.
    world.term += 5;
    world.role(1, false);
    assert!(!world.nodes[1].ready);
    world.fill(10);
    world.run(SECOND * 2);
    assert_eq!(world.nodes[1].map.len(), 10);
    assert!(!world.nodes[1].ready);
    assert!(world.snapshot(1).counters.stale_term > 0);
}

#[test]
fn either_of_two_keys_opens() {
    let now = Instant::from_nanos(1_000_000_000);
    let [old, new] = [PairKey::new(1, [1; 32]), PairKey::new(2, [2; 32])];
    let mut rng = Rng::new(1);
    let mut node = |id, keys| {
        let salt = salt(&mut rng);
        let mut config = SyncConfig::new(id, 1);
        config.max_entries = 16;
        Sync::new(
            config,
            PairKeys::new(keys),
            salt,
            Rng::new(u64::from(id)),
            now,
        )
    };
    let mut active = node(1, vec![old.clone(), new.clone()]);
    let mut standby = node(2, vec![new, old]);
    let mut stranger = node(2, vec![PairKey::new(9, [9; 32])]);
    let mut out = Vec::new();
    let role = Input::Role {
        active: true,
        term: 1,
        salt: [9; 16],
    };
    active.handle_input(now, role, &mut out);
    for action in out.drain(..) {
        if let Action::Send { bytes, .. } = action {
            standby.handle_input(now, Input::Packet { bytes: &bytes }, &mut Vec::new());
            stranger.handle_input(now, Input::Packet { bytes: &bytes }, &mut Vec::new());
        }
    }
    assert_eq!(standby.snapshot().counters.unconfirmed_session, 1);
    assert_eq!(stranger.snapshot().counters.unknown_key, 1);
    standby.handle_timeout(now, &mut out);
    for action in out.drain(..) {
        if let Action::Send { bytes, .. } = action {
            active.handle_input(now, Input::Packet { bytes: &bytes }, &mut Vec::new());
        }
    }
    assert_eq!(
        active.snapshot().counters.auth_failed + active.snapshot().counters.unknown_key,
        0
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_change_nothing(packets in vec(vec(any::<u8>(), 0..200), 1..20)) {
        let mut world = World::new(22);
        world.fill(5);
        world.run(MILLIS * 100);
        world.faults = Faults { cut: [true, true], ..Faults::NONE };
        let before = [state(&world, 0), state(&world, 1)];
        for packet in packets {
            // Half of them look right at first sight.
            let mut dressed = vec![b'H', b'S', 1];
            dressed.extend_from_slice(&packet);
            for node in [0, 1] {
                world.packet(node, &packet);
                world.packet(node, &dressed);
            }
        }
        prop_assert_eq!(before, [state(&world, 0), state(&world, 1)]);
    }

    #[test]
    fn flipped_bits_change_nothing(flips in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..60)) {
        let (mut world, recording) = recorded_pair();
        let before = [state(&world, 0), state(&world, 1)];
        for (which, bit) in flips {
            let (from, bytes) = which.get(&recording);
            let mut bytes = bytes.clone();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            world.packet(1 - from, &bytes);
        }
        prop_assert_eq!(before, [state(&world, 0), state(&world, 1)]);
    }

    #[test]
    fn genuine_nonsense_does_no_harm(
        bodies in vec((0_u8..6, vec(prop_oneof![
            Just(0_u8), Just(1), Just(2), Just(0x10), Just(0x11), Just(0x82), Just(0x84), Just(0x87), Just(0x88), Just(0x89), Just(255), any::<u8>(),
        ], 0..120)), 1..40),
    ) {
        let mut world = World::new(23);
        world.fill(50);
        world.run(SECOND);
        for (kind, body) in bodies {
            let from = usize::from(kind >= 3);
            let context = world.nodes[from].sync.as_mut().unwrap().context_mut();
            let mut out = Vec::new();
            let control = [Kind::Heartbeat, Kind::Welcome, Kind::Hello, Kind::Nack, Kind::Ask];
            if let Some(index) = usize::from(kind).checked_sub(1) {
                context.send_control(control[index], &body, Destination::Group, &mut out);
            } else {
                let bytes = context.seal_data(&body).unwrap().1;
                out.push(Action::Send { to: Destination::Group, bytes });
            }
            for action in out {
                if let Action::Send { bytes, .. } = action {
                    world.packet(1 - from, &bytes);
                }
            }
            world.run(MILLIS);
        }
        world.run(SECOND);
        prop_assert!(world.snapshot(1).outstanding <= 1024);
        // A session that starts afresh ends the matter.
        world.term += 1;
        world.role(0, true);
        world.converge(SECOND * 5);
    }

    #[test]
    fn the_record_parser_is_total(bytes in vec(any::<u8>(), 0..100)) {
        let items = Items::new(&bytes).map_while(Result::ok).count();
        prop_assert!(items <= bytes.len());
    }

    #[test]
    fn records_survive_the_wire(client in any::<u32>(), version in any::<u16>(), state in any::<u8>()) {
        let mut put = any_record(client & 0xff_ffff, version);
        put.state = state;
        for change in [Change::Put(put), Change::Delete(put.key)] {
            let item = Item::Change(change);
            let mut body = vec![0x99, 2, 7, 7];
            item.encode(&mut body);
            prop_assert_eq!(body.len(), 4 + change.len());
            prop_assert!(change.len() <= LONGEST);
            prop_assert!(Items::new(&body).eq([Ok(item)]));
            // A later version may say more of it, if it carries its length.
            if item.is_skippable() {
                body[5] += 3;
                body.extend([1, 2, 3]);
                prop_assert!(Items::new(&body).eq([Ok(item)]));
            }
        }
    }
}

#[test]
fn a_packet_says_once_what_its_connections_have_in_common() {
    let changes: Vec<Change> = (0..2000)
        .flat_map(|client| {
            let put = any_record(client, client as u16);
            let later = Record { state: 3, ..put };
            let other = Record {
                real_port: client as u16,
                ..put
            };
            let puts = [put, later, other].map(Change::Put);
            puts.into_iter().chain([Change::Delete(put.key)])
        })
        .collect();
    let mut ways = Ways::default();
    let (mut body, mut short, mut full) = (Vec::new(), 0, 0);
    for change in &changes {
        let from = body.len();
        if ways.encode(change, &mut body) {
            assert_eq!(body.len() - from, short_len(change));
            short += 1;
        } else {
            assert_eq!(body.len() - from, change.len());
            full += 1;
        }
    }
    // Half of them have a stand-in, and of these the deletion alone is short; of the others, what has a port of
    // its own is not.
    assert!(short > 3900 && full > 3900, "{short} {full}");
    let wanted = changes.into_iter().map(|change| Ok(Item::Change(change)));
    assert!(Items::new(&body).eq(wanted));
    // A way that no record has named.
    assert!(Items::new(&[4, 0, 10, 0, 0, 1, 4, 0]).eq([Err(ItemError::Truncated)]));
}

#[test]
fn names_are_read_if_they_are_there() {
    use super::super::wire::{Hello, Welcome, append_name, name};
    let mut body = Vec::new();
    Hello::default().encode(&mut body);
    assert_eq!(body.len(), Hello::LEN);
    assert_eq!(name(&body, Hello::LEN), None, "an older version");
    append_name(&mut body, "lb1");
    assert_eq!(name(&body, Hello::LEN).as_deref(), Some("lb1"));
    body.push(7);
    assert_eq!(
        name(&body, Hello::LEN).as_deref(),
        Some("lb1"),
        "a newer one"
    );
    for bad in [&[0][..], &[4, b'l'], &[1, 7], &[1, 0xff], &[200]] {
        let body = [&[0; Welcome::LEN][..], bad].concat();
        assert_eq!(name(&body, Welcome::LEN), None);
    }
    let mut long = Vec::new();
    append_name(&mut long, &"x".repeat(64));
    assert!(long.is_empty());
}
