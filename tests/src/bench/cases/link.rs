//! Only the back link of the active node fails: its carrier is gone, everything else works.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Subjects, ours};
use crate::bench::figure::{Promise, Row};
use crate::rig::link;

const WATCH: Duration = Duration::from_millis(700);

const fn row(who: &'static str, promise: Promise) -> Row {
    Row {
        case: "back-link",
        who,
        what: "gap",
        unit: "ms",
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let rows = [
        row("ha-agent 100/300 ms", Promise::MedianAtMost(10.0)),
        row("ha-agent 1/9 s", Promise::MedianAtMost(10.0)),
        row("keepalived 50 ms", Promise::Nothing),
    ];
    let mut subjects: Subjects = vec![
        ours("ha-agent 100/300 ms", 100, 300)?,
        ours("ha-agent 1/9 s", 1000, 9000)?,
    ];
    subjects.extend(bench.keepalived("keepalived 50 ms", "0.05")?);
    for run in 0..bench.options.runs() {
        for (subject, row) in subjects.iter_mut().zip(&rows) {
            let active = subject.settle()?;
            let port = subject.node(active)?.back.name().to_owned();
            let switch = subject.pair().switch.netns().clone();
            let struck = bench.strike(subject.as_mut(), WATCH, |_| {
                link::set_up(&switch, &port, false)
            })?;
            link::set_up(&switch, &port, true)?;
            bench.progress(run, row.who, &format!("{:.2} ms", struck.gap_ms));
            bench.report.add(row, struck.gap_ms, struck.stall_ms);
        }
    }
    Ok(())
}
