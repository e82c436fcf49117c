//! A run as figures of a benchmark, for the page of benchmarks: each episode is a run of its first fault.

use std::collections::BTreeMap;

use super::report::{Outcome, Report};
use super::schedule::Row as Fault;
use crate::bench::{self, AGENT, Promise, Row};

/// All episodes together.
const ALL: &str = "all faults";

/// Of all episodes.
pub(super) fn figures(report: &Report) -> bench::Report {
    let mut figures = bench::Report::default();
    let mut by_fault = BTreeMap::<Fault, Vec<&Outcome>>::new();
    for outcome in &report.episodes {
        let fault = outcome.episode.first.row();
        by_fault.entry(fault).or_default().push(outcome);
    }
    for (fault, outcomes) in by_fault {
        for outcome in outcomes {
            add(&mut figures, fault, outcome);
        }
    }
    let faults = report.episodes.iter().map(|o| o.episode.faults().count());
    let judged: u64 = report.episodes.iter().map(|o| o.older.judged).sum();
    for (what, promise, value) in [
        ("faults", Promise::Nothing, faults.sum::<usize>() as u64),
        ("frames looked at", Promise::Nothing, report.frames),
        ("connections judged", Promise::Nothing, judged),
        (
            "instants with two nodes that claim the addresses",
            Promise::Always(0.0),
            report.two_active as u64,
        ),
        (
            "episodes of total mutual deafness with two such nodes",
            Promise::Nothing,
            report.two_active_deaf as u64,
        ),
        ("wrong bytes", Promise::Always(0.0), report.corrupted),
        (
            "idle connections judged at the end",
            Promise::Nothing,
            report.idle.judged,
        ),
        ("of these lost", Promise::Always(0.0), report.idle.lost()),
    ] {
        let row = Row {
            case: ALL,
            who: AGENT,
            what,
            unit: "count",
            promise,
        };
        figures.add(&row, value as f64, 0.0);
    }
    if let Some(why) = &report.broken_off {
        figures.fail(ALL, why.clone());
    }
    figures
}

fn add(figures: &mut bench::Report, fault: Fault, outcome: &Outcome) {
    let excused = outcome
        .episode
        .faults()
        .any(|fault| fault.kind.may_lose().is_some());
    let lost = if excused {
        ("connections lost, where some may be", Promise::Nothing)
    } else {
        ("connections lost", Promise::Always(0.0))
    };
    for ((what, promise), unit, value) in [
        (("gap", Promise::Nothing), "ms", outcome.gap_ms),
        (lost, "count", outcome.older.lost() as f64),
        (
            ("rules broken", Promise::Always(0.0)),
            "count",
            outcome.violations.len() as f64,
        ),
    ] {
        let row = Row {
            case: fault.title(),
            who: fault.victim(),
            what,
            unit,
            promise,
        };
        figures.add(&row, value, outcome.stall_ms);
    }
}
