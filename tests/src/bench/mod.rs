//! `cargo xtask bench failover`: what clients notice of every kind of fault, beside keepalived and
//! ucarp, in the same network and in turn.
//!
//! The gap is the longest silence of one UDP flow with a probe each 200 µs, by the receive stamps of
//! the client's kernel. This project's agents are probed through a service, at a real server; rivals at
//! the shared address itself. Faults fall on random phases of whatever is periodic. Stalls of the
//! machine that fall into a run are printed beside it; no run is left out.

mod cases;
mod figure;
mod options;
mod origin;
mod report;
mod stalls;
mod strike;
mod subject;

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;

pub use figure::{Figure, Promise, Row, Summary};
pub use options::{Case, Options};
pub use origin::Origin;
pub(crate) use origin::typed;
pub(crate) use report::AGENT;
pub use report::Report;

use crate::clock::now_ns;
pub(crate) use stalls::CoreStalls;

/// One run of the benchmark.
pub(crate) struct Bench<'a> {
    options: &'a Options,
    stalls: CoreStalls,
    report: Report,
}

/// Measures what the options ask for, shows and writes it; whether every promise was kept.
pub fn run(options: &Options) -> Result<bool> {
    let from = now_ns();
    let mut bench = Bench {
        options,
        stalls: CoreStalls::start()?,
        report: Report::default(),
    };
    let estimate = |cases: &[Case]| -> f64 {
        let all = cases.iter().map(|case| options.estimate(*case));
        all.sum::<Duration>().as_secs_f64() / 60.0
    };
    let cases = options.cases();
    for (done, case) in cases.iter().copied().enumerate() {
        let name = case.name();
        let left = estimate(cases.get(done..).unwrap_or_default());
        say(&format!(
            "{name} ({} of {}, about {left:.0} min left): {}",
            done + 1,
            cases.len(),
            case.title()
        ));
        let began = now_ns();
        if let Err(error) = cases::measure(case, &mut bench) {
            say(&format!("{name}: {error:#}"));
            bench.report.fail(name, format!("{error:#}"));
        }
        say(&format!("{name}: {:.0} s", seconds_since(began)));
    }
    let report = &bench.report;
    let seconds = seconds_since(from);
    report.publish("failover", seconds, options.json, &options.output)?;
    Ok(report.all_kept())
}

fn seconds_since(ns: u64) -> f64 {
    (now_ns() - ns) as f64 / 1e9
}

/// Tells the person at the terminal how things go.
pub(crate) fn say(message: &str) {
    // Nobody is left to tell if standard error is gone.
    let _gone = writeln!(std::io::stderr(), "{message}");
}
