//! Stalls of the machine, core by core: on each a real-time thread that wants to run every
//! millisecond. When it could not, nothing that an agent is made of could run there either.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::clock::{now_ns, sleep_until};
use crate::traffic::run_first;

const PERIOD_NS: u64 = 1_000_000;
/// Shorter ones matter to none of the figures.
const WORTH_NOTING_NS: u64 = 2_000_000;
/// Above every thread of an agent or a rival.
const PRIORITY: i32 = 80;

/// A time in which a core ran nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stall {
    /// Which core.
    pub(crate) core: usize,
    /// From when to when.
    pub(crate) from_ns: u64,
    /// Its end.
    pub(crate) to_ns: u64,
}

/// The running detector.
#[derive(Debug)]
pub(crate) struct CoreStalls {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<Stall>>>,
    threads: Vec<JoinHandle<()>>,
}

impl CoreStalls {
    /// Starts one thread on each core.
    pub(crate) fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let found = Arc::<Mutex<Vec<Stall>>>::default();
        let mut threads = Vec::new();
        for core in 0..thread::available_parallelism()?.get() {
            let (stop, found) = (Arc::clone(&stop), Arc::clone(&found));
            threads.push(
                thread::Builder::new()
                    .name(format!("stalls-{core}"))
                    .spawn(move || watch(core, &stop, &found))?,
            );
        }
        Ok(Self {
            stop,
            found,
            threads,
        })
    }

    /// All stalls that overlap a stretch of time.
    pub(crate) fn within(&self, time: &Range<u64>) -> Vec<Stall> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let overlap = |stall: &&Stall| stall.from_ns < time.end && stall.to_ns > time.start;
        found.iter().filter(overlap).copied().collect()
    }

    /// The longest of them, zero if there is none.
    pub(crate) fn longest_ns(&self, time: &Range<u64>) -> u64 {
        let stalls = self.within(time);
        let longest = stalls.iter().map(|stall| stall.to_ns - stall.from_ns).max();
        longest.unwrap_or_default()
    }

    /// The same in milliseconds.
    pub(crate) fn longest_ms(&self, time: &Range<u64>) -> f64 {
        self.longest_ns(time) as f64 / 1e6
    }
}

impl Drop for CoreStalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing more to say.
            let _ended = thread.join();
        }
    }
}

fn watch(core: usize, stop: &AtomicBool, found: &Mutex<Vec<Stall>>) {
    let mut cores = CpuSet::new();
    // Without pinning or priority it finds more stalls than there are, never fewer.
    let _unpinned = cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
    let _ordinary = run_first(PRIORITY);
    let mut due = now_ns() + PERIOD_NS;
    while !stop.load(Ordering::Relaxed) {
        sleep_until(due);
        let now = now_ns();
        if now - due >= WORTH_NOTING_NS {
            let stall = Stall {
                core,
                from_ns: due,
                to_ns: now,
            };
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.push(stall);
        }
        due = now + PERIOD_NS;
    }
}
