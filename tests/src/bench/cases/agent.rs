//! The agent alone dies or freezes; host, kernel and data plane live on.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{Bench, Subjects, ours};
use crate::bench::figure::{Promise, Row};
use crate::clock::now_ns;

/// keepalived's takeover and ours fit many times.
const WATCH: Duration = Duration::from_millis(500);
/// ucarp waits three intervals and reads packets in batches of a second.
const WATCH_UCARP: Duration = Duration::from_secs(5);
/// It takes long and does the same each time.
const RUNS_UCARP: usize = 5;

const fn rows(case: &'static str, who: &'static str, gap: Promise, holders: Promise) -> [Row; 2] {
    [
        Row {
            case,
            who,
            what: "gap",
            unit: "ms",
            promise: gap,
        },
        Row {
            case,
            who,
            what: "nodes that answer ARP at the end",
            unit: "nodes",
            promise: holders,
        },
    ]
}

/// SIGKILL.
pub(super) fn kill(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "agent-kill";
    let mut subjects = common(bench)?;
    subjects.extend(bench.ucarp("ucarp 1 s")?);
    let runs = bench.options.runs();
    let watches = [WATCH, WATCH, WATCH_UCARP];
    let limits = [runs, runs, runs.min(RUNS_UCARP)];
    let rows = [
        rows(
            CASE,
            "ha-agent 10/30 ms",
            Promise::MedianAtMost(10.0),
            Promise::Always(1.0),
        ),
        rows(CASE, "keepalived 10 ms", Promise::Nothing, Promise::Nothing),
        rows(CASE, "ucarp 1 s", Promise::Nothing, Promise::Nothing),
    ];
    for run in 0..runs {
        let turns = subjects.iter_mut().zip(&rows).zip(watches).zip(limits);
        for (((subject, [gap, nodes]), watch), _) in turns.filter(|(_, limit)| run < *limit) {
            let active = subject.settle()?;
            let struck = bench.strike(subject.as_mut(), watch, |subject| {
                let at = now_ns();
                subject.kill(active)?;
                Ok(at)
            })?;
            let holders = subject.holders()?;
            subject.start(active)?;
            bench.progress(
                run,
                gap.who,
                &format!("{:.2} ms, {holders} hold", struck.gap_ms),
            );
            bench.report.add(gap, struck.gap_ms, struck.stall_ms);
            bench.report.add(nodes, holders as f64, struck.stall_ms);
        }
    }
    Ok(())
}

/// SIGSTOP, and SIGCONT after the holders were counted.
pub(super) fn freeze(bench: &mut Bench<'_>) -> Result<()> {
    const CASE: &str = "agent-freeze";
    let mut subjects = common(bench)?;
    let rows = [
        rows(
            CASE,
            "ha-agent 10/30 ms",
            Promise::MedianAtMost(10.0),
            Promise::Always(1.0),
        ),
        rows(CASE, "keepalived 10 ms", Promise::Nothing, Promise::Nothing),
    ];
    for run in 0..bench.options.runs() {
        for (subject, [gap, nodes]) in subjects.iter_mut().zip(&rows) {
            let active = subject.settle()?;
            let struck = bench.strike(subject.as_mut(), WATCH, |subject| {
                let at = now_ns();
                subject.signal(active, Signal::SIGSTOP)?;
                Ok(at)
            })?;
            let holders = subject.holders()?;
            subject.signal(active, Signal::SIGCONT)?;
            bench.progress(
                run,
                gap.who,
                &format!("{:.2} ms, {holders} hold", struck.gap_ms),
            );
            bench.report.add(gap, struck.gap_ms, struck.stall_ms);
            bench.report.add(nodes, holders as f64, struck.stall_ms);
        }
    }
    Ok(())
}

fn common(bench: &Bench<'_>) -> Result<Subjects> {
    let mut subjects: Subjects = vec![ours("ha-agent 10/30 ms", 10, 30)?];
    subjects.extend(bench.keepalived("keepalived 10 ms", "0.01")?);
    Ok(subjects)
}
