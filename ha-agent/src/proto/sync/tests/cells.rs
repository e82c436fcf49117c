//! Every kind of network through every kind of outage, and proof that these tests notice if a part of
//! the protocol is missing.

use std::time::Duration;

use super::Sabotage;
use super::sim::{Faults, MILLIS, Mischief, SECOND, World};

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
struct Cell {
    loss_permille: u64,
    reorder: bool,
    duplicate_percent: u64,
    outage: Duration,
    /// Shortest time a packet takes.
    delay: Duration,
    mischief: Option<Mischief>,
    seed: u64,
}

impl Cell {
    const fn new(loss_permille: u64) -> Self {
        Self {
            loss_permille,
            reorder: true,
            duplicate_percent: 0,
            outage: MILLIS,
            delay: Duration::from_micros(50),
            mischief: None,
            seed: 1,
        }
    }

    const fn faults(&self) -> Faults {
        let spread = if self.reorder { 3000 } else { 0 };
        Faults {
            loss_permille: self.loss_permille,
            corrupt_percent: 0,
            duplicate_percent: self.duplicate_percent,
            delay_min: self.delay,
            delay_max: self.delay.saturating_add(Duration::from_micros(spread)),
            ..Faults::NONE
        }
    }

    /// Plays it; what is wrong in the end.
    fn play(&self, sabotage: Sabotage) -> Result<(), String> {
        let mut world = World::new(self.seed);
        world.sabotage = sabotage;
        world.start(0);
        world.start(1);
        world.term += 1;
        world.role(0, true);
        world.run(MILLIS * 100);
        world.faults = self.faults();
        world.rate = if self.outage > SECOND * 10 { 200 } else { 2000 };
        world.run(MILLIS * 500);
        // Both ways, or one of them.
        world.faults.cut = [self.seed % 3 != 1, self.seed % 3 != 2];
        world.run(self.outage);
        world.faults.cut = [false; 2];
        world.run(MILLIS * 500);
        if let Some(mischief) = self.mischief {
            // Not to a connection that is about to change anyhow.
            world.rate = 0;
            world.run(SECOND);
            assert!(world.mischief(1, mischief));
            world.run(SECOND * 30);
        }
        self.judge(&mut world)
    }

    fn judge(&self, world: &mut World) -> Result<(), String> {
        let settled = world.settle(SECOND * 5);
        let [active, standby] = [0, 1].map(|node| world.snapshot(node).counters);
        let bulk = active.transfer_bytes + active.bucket_bytes;
        let repair = active.repeated_bytes + bulk;
        let stream = active.sent_bytes - bulk;
        let rules = [
            (settled, "the standby is ready"),
            (world.same_tables(), "the tables are equal"),
            (world.same_shadows(), "so are the nodes' own copies"),
            (world.settle_records(), "so are the records"),
            (repair < 3 * stream, "repair costs less than three streams"),
            (
                standby.digests_differed <= u64::from(self.mischief.is_some()),
                "digests differ only where something was spoilt",
            ),
            (
                standby.skipped * 20 <= standby.received_packets,
                "lost packets are repeated",
            ),
            (
                active.transfers_begun == 1,
                "one full transfer, in the beginning",
            ),
        ];
        let broken: Vec<_> = rules
            .iter()
            .filter(|(kept, _rule)| !kept)
            .map(|(_kept, rule)| *rule)
            .collect();
        if broken.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{self:?}: not true: {broken:?}; repair {repair} B, stream {stream} B, {active:#?} {standby:#?}"
        ))
    }
}

fn sweep(outage: Duration) {
    let mut seed = 0;
    for loss_permille in [0, 1, 10, 50, 200] {
        for reorder in [false, true] {
            for duplicate_percent in [0, 5] {
                seed += 1;
                let cell = Cell {
                    reorder,
                    duplicate_percent,
                    outage,
                    seed,
                    ..Cell::new(loss_permille)
                };
                cell.play(Sabotage::default()).unwrap();
            }
        }
    }
}

#[test]
fn short_outages_leave_nothing_behind() {
    sweep(MILLIS * 100);
}

#[test]
fn outages_longer_than_the_partner_is_waited_for_leave_nothing_behind() {
    sweep(SECOND * 3);
}

#[test]
fn outages_longer_than_changes_can_wait_leave_nothing_behind() {
    sweep(SECOND * 60);
}

#[test]
fn what_goes_wrong_silently_is_found_in_any_network() {
    for loss_permille in [0, 50] {
        for mischief in [
            Mischief::Forget,
            Mischief::Lose,
            Mischief::Alter,
            Mischief::ForgetRecord,
        ] {
            let cell = Cell {
                mischief: Some(mischief),
                ..Cell::new(loss_permille)
            };
            cell.play(Sabotage::default()).unwrap();
        }
    }
}

/// Each mutation in a cell that is played well without it.
#[test]
fn the_tests_notice_a_missing_mechanism() {
    let whole = Sabotage::default();
    let lossy = Cell::new(50);
    let lossier = Cell::new(200);
    let far = Cell {
        delay: MILLIS * 40,
        ..Cell::new(200)
    };
    let spoilt = |mischief| Cell {
        mischief: Some(mischief),
        ..Cell::new(0)
    };
    let mutations = [
        (
            lossier,
            Sabotage {
                no_nacks: true,
                ..whole
            },
        ),
        (
            lossy,
            Sabotage {
                no_deletes: true,
                ..whole
            },
        ),
        (
            far,
            Sabotage {
                no_backoff: true,
                ..whole
            },
        ),
        (
            spoilt(Mischief::Forget),
            Sabotage {
                no_digests: true,
                ..whole
            },
        ),
        (
            spoilt(Mischief::Alter),
            Sabotage {
                no_audit: true,
                ..whole
            },
        ),
        (
            spoilt(Mischief::Lose),
            Sabotage {
                no_audit: true,
                ..whole
            },
        ),
        (
            spoilt(Mischief::ForgetRecord),
            Sabotage {
                no_digests: true,
                ..whole
            },
        ),
        // Without the repair of buckets, or that of records, a full transfer is the only one.
        (
            spoilt(Mischief::ForgetRecord),
            Sabotage {
                third_version: true,
                ..whole
            },
        ),
        (
            spoilt(Mischief::Forget),
            Sabotage {
                second_version: true,
                ..whole
            },
        ),
    ];
    for (cell, sabotage) in mutations {
        cell.play(whole).unwrap();
        let played = cell.play(sabotage);
        assert!(played.is_err(), "nothing noticed: {sabotage:?}");
    }
}
