//! Many seeds, on as many cores as wanted.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::params::{Params, Sabotage};
use super::summary::Summary;
use super::world::World;

/// Violations of a sweep that are kept with their logs.
const LOGS: usize = 3;

/// Something that must never happen did.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What.
    pub what: String,
    /// Which seed.
    pub seed: u64,
    /// How to repeat it, and the last events.
    pub log: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.log)
    }
}

/// Runs a seed for that many steps under random faults.
///
/// # Errors
///
/// The first violation.
pub fn sweep(seed: u64, steps: u64, sabotage: Sabotage) -> Result<Summary, Box<Violation>> {
    let run = || {
        let mut world = World::new(Params::random(seed, sabotage));
        world.swept = true;
        world.torment(steps);
        world.summary()
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        payload.downcast::<Violation>().unwrap_or_else(|payload| {
            let what = payload
                .downcast::<String>()
                .map_or_else(|_other| "a machine panicked".to_owned(), |text| *text);
            let log = format!("seed {seed}: {what}");
            Box::new(Violation { what, seed, log })
        })
    })
}

/// What became of many seeds.
#[derive(Debug, Default)]
pub struct Sweep {
    /// What happened in those without a violation.
    pub total: Summary,
    /// Seeds with a violation, in order.
    pub violated: Vec<(u64, String)>,
    /// The logs of some of them.
    pub logs: Vec<Violation>,
}

/// Runs all these seeds, each for that many steps, on so many threads.
pub fn sweep_all(seeds: Range<u64>, steps: u64, threads: usize) -> Sweep {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut done = Sweep::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return done;
            }
            match sweep(seed, steps, Sabotage::None) {
                Ok(summary) => done.total += summary,
                Err(violation) => {
                    done.violated.push((seed, violation.what.clone()));
                    if done.logs.len() < LOGS {
                        done.logs.push(*violation);
                    }
                }
            }
        }
    };
    let mut all = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Sweep::default();
        for worker in workers {
            if let Ok(done) = worker.join() {
                all.total += done.total;
                all.violated.extend(done.violated);
                all.logs.extend(done.logs);
            }
        }
        all
    });
    all.violated.sort();
    all.logs.sort_by_key(|violation| violation.seed);
    all.logs.truncate(LOGS);
    all
}
