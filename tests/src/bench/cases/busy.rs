//! No fault at all, for long, while other work takes every core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use ha_agent::status::model::Role;

use super::{Bench, Subject, timing};
use crate::bench::figure::{Promise, Row};
use crate::bench::say;
use crate::bench::subject::Ours;
use crate::clock::now_ns;

const WHO: &str = "ha-agent 10/30 ms";
const TIMEOUT_NS: u64 = 30_000_000;
/// Busy threads for each core.
const HOGS: usize = 2;
const STEP: Duration = Duration::from_secs(5);

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: "busy",
        who: WHO,
        what,
        unit,
        promise,
    }
}

/// Threads that never rest.
struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..HOGS * thread::available_parallelism()?.get() {
            let stop = Arc::clone(&stop);
            let spin = move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            threads.push(thread::Builder::new().name("hog".to_owned()).spawn(spin)?);
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing to say.
            let _ended = thread.join();
        }
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let mut ours = Ours::start(WHO, timing(10, 30))?;
    let pair: &mut dyn Subject = &mut ours;
    pair.settle()?;
    let logged = |pair: &dyn Subject| -> usize {
        let nodes = &pair.pair().nodes;
        nodes
            .iter()
            .map(|n| n.log().matches("role change").count())
            .sum()
    };
    let before = logged(pair);
    let hogs = Hogs::start()?;
    let (from, end) = (
        now_ns(),
        now_ns() + u64::try_from(bench.options.busy_for().as_nanos())?,
    );
    let (mut both, mut longest_gap) = (0usize, 0u64);
    pair.pulse().forget();
    while now_ns() < end {
        let step = now_ns();
        thread::sleep(STEP);
        longest_gap = longest_gap.max(pair.pulse().seen(step..now_ns()).gap_ns);
        pair.pulse().forget();
        let roles = pair.pair().roles();
        both += usize::from(roles == [Some(Role::Active), Some(Role::Active)]);
        say(&format!(
            "  {:.0} s: roles {roles:?}, {} changes so far",
            (now_ns() - from) as f64 / 1e9,
            logged(pair) - before
        ));
    }
    let time = from..now_ns();
    drop(hogs);
    let stalls = bench.stalls.within(&time);
    let long = stalls
        .iter()
        .filter(|stall| stall.to_ns - stall.from_ns > TIMEOUT_NS)
        .count();
    let changes = logged(pair) - before;
    let longest = bench.stalls.longest_ms(&time);
    let seconds = (time.end - time.start) as f64 / 1e9;
    for (row, value) in [
        (row("time under load", "s", Promise::Nothing), seconds),
        (
            row(
                "role changes logged by both nodes",
                "count",
                Promise::Nothing,
            ),
            changes as f64,
        ),
        (
            row(
                "stalls of a core beyond the timeout",
                "count",
                Promise::Nothing,
            ),
            long as f64,
        ),
        // A takeover and the way back are logged by both nodes: four lines for one stall.
        (
            row(
                "role changes that no stall explains",
                "count",
                Promise::Always(0.0),
            ),
            changes.saturating_sub(4 * long) as f64,
        ),
        (
            row("times both said active", "count", Promise::Always(0.0)),
            both as f64,
        ),
        (
            row("longest gap", "ms", Promise::Nothing),
            longest_gap as f64 / 1e6,
        ),
    ] {
        bench.report.add(&row, value, longest);
    }
    Ok(())
}
