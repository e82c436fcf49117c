//! Only the back link of the active node fails: its carrier is gone, everything else works.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, HOLD_DOWN, Subjects, ours};
use crate::bench::figure::{Promise, Row};
use crate::bench::strike::REST_GAP;
use crate::rig::link;

const WATCH: Duration = Duration::from_millis(700);
/// Longest time from one HELLO of a standby to the next, with the slowest timing measured here: what
/// the active node knows of the standby's links is as old as that.
const NEWS: Duration = Duration::from_millis(1250);

const fn row(who: &'static str, what: &'static str, promise: Promise) -> Row {
    Row {
        case: "back-link",
        who,
        what,
        unit: "ms",
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let rows = [
        row("ha-agent 100/300 ms", "gap", Promise::MedianAtMost(10.0)),
        row("ha-agent 1/9 s", "gap", Promise::MedianAtMost(10.0)),
        row("keepalived 50 ms", "gap", Promise::Nothing),
    ];
    let mut subjects: Subjects = vec![
        ours("ha-agent 100/300 ms", 100, 300)?,
        ours("ha-agent 1/9 s", 1000, 9000)?,
    ];
    subjects.extend(bench.keepalived("keepalived 50 ms", "0.05")?);
    for run in 0..bench.options.runs() {
        for (subject, row) in subjects.iter_mut().zip(&rows) {
            let active = subject.settle()?;
            let rest_ms = Bench::rest(subject.as_ref(), WATCH);
            let port = subject.node(active)?.back.name().to_owned();
            let switch = subject.pair().switch.netns().clone();
            let struck = bench.strike(subject.as_mut(), WATCH, |_| {
                link::set_up(&switch, &port, false)
            })?;
            link::set_up(&switch, &port, true)?;
            bench.progress(run, row.who, &format!("{:.2} ms", struck.gap_ms));
            bench.report.add(row, struck.gap_ms, struck.stall_ms);
            let rest = self::row(row.who, REST_GAP, Promise::Nothing);
            bench.report.add(&rest, rest_ms, 0.0);
        }
        // The links that were healed must count again before the next ones fail.
        std::thread::sleep(HOLD_DOWN + NEWS);
    }
    Ok(())
}
