//! The active node is gone at once, with its carriers up: without power behind a switch, or hung.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{Bench, Subject, Subjects, ours, say};
use crate::bench::figure::{Promise, Row};
use crate::clock::now_ns;
use crate::rig::switch::Cut;

const WATCH: Duration = Duration::from_millis(400);

const fn row(case: &'static str, who: &'static str, promise: Promise) -> Row {
    Row {
        case,
        who,
        what: "gap",
        unit: "ms",
        promise,
    }
}

/// Cut off, and its agent dead: it has to be started again.
pub(super) fn off(bench: &mut Bench<'_>) -> Result<()> {
    let rows = [
        row(
            "power-off",
            "ha-agent 10/30 ms",
            Promise::MedianAtMost(30.0),
        ),
        row("power-off", "ha-agent 4/12 ms", Promise::MedianAtMost(15.0)),
        row("power-off", "keepalived 10 ms", Promise::Nothing),
    ];
    let mut subjects: Subjects = vec![
        ours("ha-agent 10/30 ms", 10, 30)?,
        ours("ha-agent 4/12 ms", 4, 12)?,
    ];
    subjects.extend(bench.keepalived("keepalived 10 ms", "0.01")?);
    in_turn(bench, &mut subjects, &rows, |bench, subject| {
        let active = subject.settle()?;
        let struck = bench.strike(subject, WATCH, |subject| {
            let at = now_ns();
            subject.node(active)?.cut(Cut::Both);
            subject.kill(active)?;
            Ok(at)
        })?;
        subject.node(active)?.cut(Cut::Nothing);
        subject.start(active)?;
        Ok((struck.gap_ms, struck.stall_ms))
    })
}

/// Cut off, and its agent frozen: it comes back by itself.
pub(super) fn hang(bench: &mut Bench<'_>) -> Result<()> {
    let rows = [
        row("hang", "ha-agent 10/30 ms", Promise::MedianAtMost(30.0)),
        row("hang", "keepalived 10 ms", Promise::Nothing),
    ];
    let mut subjects: Subjects = vec![ours("ha-agent 10/30 ms", 10, 30)?];
    subjects.extend(bench.keepalived("keepalived 10 ms", "0.01")?);
    in_turn(bench, &mut subjects, &rows, |bench, subject| {
        let active = subject.settle()?;
        let struck = bench.strike(subject, WATCH, |subject| {
            let at = now_ns();
            subject.node(active)?.cut(Cut::Both);
            subject.signal(active, Signal::SIGSTOP)?;
            Ok(at)
        })?;
        subject.node(active)?.cut(Cut::Nothing);
        subject.signal(active, Signal::SIGCONT)?;
        Ok((struck.gap_ms, struck.stall_ms))
    })
}

/// Strikes all subjects in turn, run after run; each run gives a value and the stall in it.
fn in_turn(
    bench: &mut Bench<'_>,
    subjects: &mut Subjects,
    rows: &[Row],
    run: impl Fn(&Bench<'_>, &mut dyn Subject) -> Result<(f64, f64)>,
) -> Result<()> {
    let runs = bench.options.runs_by_chance();
    for number in 1..=runs {
        for (subject, row) in subjects.iter_mut().zip(rows) {
            let (value, stall_ms) = run(bench, subject.as_mut())?;
            say(&format!("  {number}/{runs} {}: {value:.2} ms", row.who));
            bench.report.add(row, value, stall_ms);
        }
    }
    Ok(())
}
