//! Maps changed by other hands and events that were lost, in a simulated pair under traffic.

use std::time::Duration;

use super::sim::{MILLIS, SECOND, World};
use crate::datapath::family::FlowKey;
use crate::proto::rng::Rng;
use crate::proto::sync::{Found, Half, Remedy};

/// Entries that are spoilt on each node.
const SPOILT: usize = 20;

impl World {
    /// Walks through a node's map.
    fn pass(&mut self, node: usize) {
        let began = self.now;
        let node = &mut self.nodes[node];
        let Some(sync) = &mut node.sync else { return };
        sync.sweep_begin(began);
        for found in node.map.values() {
            for half in [Half::Forward, Half::Reverse] {
                sync.sweep_see(&found.key, &found.key, half, |known| known.agrees(found));
            }
        }
        sync.sweep_end();
    }

    /// Looks at the suspects that are due.
    fn look(&mut self, node: usize) {
        let now = self.now;
        let mut out = Vec::new();
        let Some(sync) = &mut self.nodes[node].sync else {
            return;
        };
        let map = &mut self.nodes[node].map;
        while let Some(suspect) = sync.sweep_next(now) {
            let key = suspect.place;
            let found = map.get(&key).map_or(Found::Nothing, |record| Found::Entry {
                record: *record,
                whole: true,
            });
            let Some(remedy) = sync.sweep_look(now, suspect, &key, found, now, &mut out) else {
                continue;
            };
            sync.sweep_repaired(&remedy);
            match remedy {
                Remedy::Store { record, .. } => {
                    map.insert(key, record);
                }
                Remedy::Remove => {
                    map.remove(&key);
                }
                Remedy::Mend => panic!("everything is whole here"),
            }
        }
        self.perform(node, out);
        if node == self.active {
            self.flush();
        }
    }

    /// Lets time pass, with a pass of both nodes each second.
    fn run_sweeping(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.pass(0);
            self.pass(1);
            for _ in 0..20 {
                self.run(MILLIS * 50);
                self.look(0);
                self.look(1);
            }
        }
    }

    /// Deletes and alters entries of a node's map, and invents some, behind its agent's back; their keys.
    fn spoil(&mut self, node: usize, rng: &mut Rng) -> Vec<FlowKey> {
        self.edited = true;
        let map = &mut self.nodes[node].map;
        let keys: Vec<_> = map.keys().copied().collect();
        let mut spoilt = Vec::new();
        for _ in 0..SPOILT {
            let key = keys[rng.below(keys.len() as u64) as usize];
            let Some(mut record) = map.remove(&key) else {
                continue;
            };
            match rng.below(3) {
                0 => {}
                1 => {
                    record.real_port ^= 1;
                    map.insert(key, record);
                }
                _ => {
                    let mut stranger = record;
                    stranger.key.dport ^= 0x0101;
                    map.insert(key, record);
                    map.insert(stranger.key, stranger);
                }
            }
            spoilt.push(key);
        }
        spoilt
    }
}

/// A pair under traffic whose maps are spoilt, the standby's and the active node's; with sweeps or without.
fn spoilt(seed: u64, sweeps: bool) -> World {
    let mut world = World::new(seed);
    let mut rng = Rng::new(seed ^ 0x5eed);
    world.fill(500);
    world.rate = 500;
    world.faults.loss_permille = 10 * rng.below(3);
    world.faults.delay_max = MILLIS;
    world.run(SECOND);
    for node in 0..2 {
        assert!(!world.spoil(node, &mut rng).is_empty());
    }
    if sweeps {
        world.run_sweeping(2);
        assert!(world.settle(Duration::from_secs(20)));
        world.run_sweeping(5);
    } else {
        world.run(SECOND * 2);
        assert!(world.settle(Duration::from_secs(20)));
    }
    world
}

#[test]
fn spoilt_maps_become_equal_again() {
    for seed in 0..8 {
        let mut world = spoilt(seed, true);
        assert!(world.same_tables(), "seed {seed}");
        world.converge(Duration::from_secs(20));
        let repaired = [0, 1].map(|node| world.snapshot(node).sweep);
        for sweep in repaired {
            assert!(sweep.repaired() > 0, "seed {seed}: {repaired:?}");
        }
        // Nothing is repaired where nothing is wrong.
        world.rate = 2000;
        world.run_sweeping(4);
        world.rate = 0;
        world.run_sweeping(4);
        let after = [0, 1].map(|node| world.snapshot(node).sweep.repaired());
        assert_eq!(after, repaired.map(|sweep| sweep.repaired()), "seed {seed}");
    }
}

/// The digests do not see it: what they compare are the shadows.
#[test]
fn without_sweeps_they_stay_apart() {
    for seed in 0..4 {
        let world = spoilt(seed, false);
        assert!(!world.same_tables(), "seed {seed}");
    }
}

/// The ring was full for a while: changes and deletions of which nobody was told.
#[test]
fn lost_events_are_found() {
    for seed in 0..5 {
        let mut world = World::new(seed);
        world.fill(300);
        world.run(SECOND);
        let lost: Vec<_> = world.nodes[0].map.keys().copied().step_by(7).collect();
        for (number, key) in lost.iter().enumerate() {
            if number % 2 == 0 {
                world.nodes[0].map.remove(key);
            } else if let Some(record) = world.nodes[0].map.get_mut(key) {
                record.version += 1;
                record.state = 2;
            }
        }
        world.run_sweeping(4);
        world.converge(Duration::from_secs(20));
        let sweep = world.snapshot(0).sweep;
        assert_eq!((sweep.told + sweep.told_gone) as usize, lost.len());
        assert_eq!(world.snapshot(1).sweep.repaired(), 0);
    }
}
