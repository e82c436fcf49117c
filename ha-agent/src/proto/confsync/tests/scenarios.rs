use std::time::Duration;

use super::sim::{Faults, World, hash};
use super::wire::claim;
use crate::proto::confsync::*;
use crate::proto::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes that agree; the first one is active.
fn settled(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run(2 * SECOND);
    assert!(world.agreed());
    assert!(world.is_active(0) && !world.is_active(1));
    world
}

fn active(world: &World) -> usize {
    usize::from(!world.is_active(0))
}

#[test]
fn equal_files_need_no_transfer() {
    let world = settled(1);
    for host in &world.hosts {
        let snapshot = host.machine.as_ref().unwrap().snapshot();
        assert_eq!(snapshot.version.generation, 1);
        assert_eq!(snapshot.counters.applied, 0);
        assert!(host.disk.lost.is_empty());
    }
}

#[test]
fn an_edit_is_there_at_once() {
    let mut world = settled(2);
    assert!(world.edit(0));
    world.run(Duration::from_millis(10));
    assert!(world.agreed());
    assert_eq!(world.hosts[1].disk.file, world.hosts[0].disk.file);
    assert!(world.hosts[1].disk.lost.is_empty());
}

#[test]
fn only_the_active_node_is_edited() {
    let mut world = settled(3);
    assert!(!world.edit(1));
    world.fail_over();
    assert!(world.edit(1) && !world.edit(0));
    world.run(SECOND);
    assert!(world.agreed());
}

#[test]
fn nodes_that_agree_ask_every_two_minutes() {
    let mut world = settled(4);
    let asked = |world: &World| {
        let machine = world.hosts[1].machine.as_ref().unwrap();
        machine.snapshot().counters.asked
    };
    let before = asked(&world);
    world.run(10 * RECONCILE);
    let during = asked(&world) - before;
    assert!((9..=11).contains(&during), "{during}");
}

#[test]
fn a_cut_channel_is_tried_every_second() {
    let mut world = settled(5);
    world.channel = false;
    world.edit(0);
    world.run(30 * SECOND);
    assert!(!world.agreed());
    let snapshot = world.hosts[0].machine.as_ref().unwrap().snapshot();
    assert!((10..=31).contains(&snapshot.failures), "{snapshot:?}");
    assert!(!snapshot.in_sync);
    world.channel = true;
    world.run(3 * SECOND);
    assert!(world.agreed());
}

#[test]
fn many_edits_while_the_partner_is_away_are_no_lost_work() {
    let mut world = settled(6);
    world.crash(1);
    for _ in 0..100 {
        assert!(world.edit(0));
        world.run(SECOND);
    }
    world.heal();
    assert!(world.hosts[1].disk.lost.is_empty());
}

#[test]
fn after_a_split_the_higher_generation_wins() {
    for (edits, winner) in [([1, 2], 1), ([2, 1], 0)] {
        let mut world = settled(7);
        world.channel = false;
        world.set_links(false);
        world.run(SECOND);
        assert!(world.is_active(0) && world.is_active(1));
        for (at, count) in edits.into_iter().enumerate() {
            for _ in 0..count {
                assert!(world.edit(at));
            }
        }
        let wanted = world.hosts[winner].disk.file.clone();
        let loser = world.hosts[1 - winner].disk.file.clone();
        world.heal();
        assert_eq!(world.hosts[0].disk.file, wanted);
        assert!(world.hosts[1 - winner].disk.lost.contains(&loser));
        assert!(world.hosts[winner].disk.lost.is_empty());
    }
}

#[test]
fn after_a_split_the_active_node_wins_a_draw() {
    for stays in [0, 1] {
        let mut world = settled(8);
        if stays == 1 {
            world.fail_over();
        }
        world.channel = false;
        world.set_links(false);
        world.run(SECOND);
        assert!(world.edit(0) && world.edit(1));
        world.set_links(true);
        world.run(SECOND);
        if active(&world) != stays {
            world.fail_over();
        }
        let wanted = world.hosts[stays].disk.file.clone();
        world.heal();
        assert_eq!(world.hosts[0].disk.file, wanted);
        assert_eq!(world.hosts[1 - stays].disk.lost.len(), 1);
    }
}

#[test]
fn a_node_that_was_replaced_takes_what_the_pair_has() {
    let mut world = settled(9);
    for _ in 0..5 {
        world.edit(0);
    }
    world.crash(0);
    world.run(SECOND);
    // Its disk is new, and so is its file.
    world.crash(1);
    world.hosts[1].disk.record = None;
    world.edit(1);
    world.start(1);
    world.run(2 * SECOND);
    assert!(world.is_active(1), "alone, with a file of its own");
    let wanted = world.hosts[0].disk.file.clone();
    world.heal();
    assert_eq!(world.hosts[1].disk.file, wanted);
    assert_eq!(world.hosts[1].disk.lost.len(), 1);
}

#[test]
fn a_file_changed_while_nothing_ran_counts_where_nobody_is_active() {
    let mut world = settled(10);
    world.crash(0);
    world.crash(1);
    world.edit(1);
    let wanted = world.hosts[1].disk.file.clone();
    world.heal();
    assert_eq!(world.hosts[0].disk.file, wanted);
    assert!(world.hosts[0].disk.lost.is_empty());
}

#[test]
fn a_file_changed_while_the_partner_is_active_is_kept_but_does_not_count() {
    let mut world = settled(11);
    world.crash(1);
    world.edit(1);
    let refused = world.hosts[1].disk.file.clone();
    let wanted = world.hosts[0].disk.file.clone();
    world.heal();
    assert_eq!(world.hosts[1].disk.file, wanted);
    assert!(world.hosts[1].disk.lost.contains(&refused));
}

/// The story of an edit, with a crash at each step of each node.
#[test]
fn a_crash_at_any_step_leaves_one_of_the_two_whole_versions() {
    for at in [0, 1] {
        for step in 1.. {
            let mut world = settled(12);
            let old = world.hosts[0].disk.file.clone();
            world.crash_at = Some((at, world.steps[at] + step));
            world.edit(0);
            let new = world.hosts[0].disk.file.clone();
            world.run(5 * SECOND);
            let crashed = world.hosts[at].machine.is_none();
            for host in &world.hosts {
                assert!([&old, &new].contains(&&host.disk.file));
            }
            world.start(at);
            world.heal();
            let file = &world.hosts[0].disk.file;
            assert!([&old, &new].contains(&file));
            if !crashed {
                assert!(step > 2, "no steps");
                break;
            }
        }
    }
}

#[test]
fn what_cannot_be_applied_changes_nothing_and_is_told() {
    let mut world = settled(13);
    let old = world.hosts[1].disk.file.clone();
    world.faults.refusal = 100;
    world.edit(0);
    world.run(30 * SECOND);
    assert_eq!(world.hosts[1].disk.file, old);
    let [here, there] = world
        .hosts
        .each_ref()
        .map(|host| host.machine.as_ref().unwrap().snapshot());
    assert_eq!(here.refused.as_deref(), Some("cannot"));
    assert_eq!(there.not_applied.as_deref(), Some("cannot"));
    assert!((2..=5).contains(&there.counters.not_applied), "{there:?}");
    world.heal_slowly();
    let [here, there] = world
        .hosts
        .each_ref()
        .map(|host| host.machine.as_ref().unwrap().snapshot());
    assert_eq!((here.refused, there.not_applied), (None, None));
}

#[test]
fn whatever_happens_both_agree_in_the_end() {
    for seed in 0..400 {
        let mut world = settled(seed);
        world.faults = Faults {
            loss: 20,
            duplication: 20,
            crash: 2,
            refusal: 5,
            slow_ms: 300,
        };
        for _ in 0..60 {
            match world.below(12) {
                0..4 => {
                    let at = active(&world);
                    world.edit(at);
                }
                4 => {
                    let at = usize::from(world.below(2) == 1);
                    world.edit(at);
                }
                5 => world.channel = !world.channel,
                6 => {
                    let on = !world.links;
                    world.set_links(on);
                }
                7 => world.fail_over(),
                8 => {
                    let at = usize::from(world.below(2) == 1);
                    world.crash(at);
                }
                _ => {
                    world.start(0);
                    world.start(1);
                }
            }
            let pause = world.below(1500);
            world.run(Duration::from_millis(pause));
        }
        world.heal_slowly();
    }
}

/// Without a split, a crash or a change behind the agent's back, the last edit is the one that stays.
#[test]
fn no_edit_is_lost_on_a_bad_channel() {
    for seed in 0..200 {
        let mut world = settled(seed);
        world.faults = Faults {
            loss: 30,
            duplication: 30,
            slow_ms: 900,
            ..Faults::default()
        };
        let mut last = world.hosts[0].disk.file.clone();
        for _ in 0..40 {
            match world.below(6) {
                0 => world.channel = !world.channel,
                1 if world.agreed() => world.fail_over(),
                _ => {
                    let at = active(&world);
                    if world.edit(at) {
                        last.clone_from(&world.hosts[at].disk.file);
                    }
                }
            }
            let pause = world.below(2500);
            world.run(Duration::from_millis(pause));
        }
        world.heal();
        assert_eq!(world.hosts[0].disk.file, last, "seed {seed}");
        assert!(world.hosts.iter().all(|host| host.disk.lost.is_empty()));
    }
}

#[test]
fn a_version_of_the_same_generation_is_never_taken() {
    let document = "mine".to_owned();
    let start = Start {
        name: "lb2".to_owned(),
        first: false,
        record: Record {
            version: Version {
                generation: 5,
                hash: hash(&document),
            },
            ancestors: Vec::new(),
        },
        hash: hash(&document),
        document,
    };
    let now = Instant::from_nanos(1);
    for generation in 0..=5 {
        let mut machine = ConfSync::new(start.clone(), now);
        let mut out = Vec::new();
        let request = Request::Offer(claim(generation), "theirs".to_owned());
        machine.handle_input(now, Input::Request { id: 1, request }, &mut out);
        let applies = |action: &Action| matches!(action, Action::Apply { .. });
        assert!(!out.iter().any(applies), "{generation}: {out:?}");
    }
}
