//! A planned hand-over under connections that talk all the time.

use std::time::Duration;

use anyhow::Result;

use super::connections::Connections;
use super::{Bench, Subject, Subjects, ours};
use crate::bench::figure::{Promise, Row};
use crate::bench::strike::REST_GAP;
use crate::clock::now_ns;

/// Connections that stand during all runs.
const CONNECTIONS: usize = 500;
const WATCH: Duration = Duration::from_millis(600);
const CASE: &str = "planned";

const fn row(who: &'static str, what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: CASE,
        who,
        what,
        unit,
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    for (who, interval, timeout) in [
        ("ha-agent 10/30 ms", 10, 30),
        ("ha-agent 1/3 s", 1000, 3000),
    ] {
        with_connections(bench, ours(who, interval, timeout)?.as_mut())?;
    }
    let mut rivals: Subjects = bench.keepalived("keepalived 10 ms", "0.01")?;
    for run in 0..bench.options.runs() {
        for rival in &mut rivals {
            let active = rival.settle()?;
            let rest_ms = Bench::rest(rival.as_ref(), WATCH);
            let struck = bench.strike(rival.as_mut(), WATCH, |rival| {
                let at = now_ns();
                rival.hand_over(active)?;
                Ok(at)
            })?;
            rival.start(active)?;
            let who = "keepalived 10 ms";
            bench.progress(run, who, &format!("{:.2} ms", struck.gap_ms));
            let gap = row(who, "gap", "ms", Promise::Nothing);
            bench.report.add(&gap, struck.gap_ms, struck.stall_ms);
            let rest = row(who, REST_GAP, "ms", Promise::Nothing);
            bench.report.add(&rest, rest_ms, 0.0);
        }
    }
    Ok(())
}

fn with_connections(bench: &mut Bench<'_>, subject: &mut dyn Subject) -> Result<()> {
    let who = subject.name();
    subject.settle()?;
    let connections = Connections::open(subject, CONNECTIONS)?;
    for run in 0..bench.options.runs() {
        let active = subject.settle()?;
        let rest_ms = Bench::rest(subject, WATCH);
        let before = connections.timeouts()?;
        let struck = bench.strike(subject, WATCH, |subject| {
            let at = now_ns();
            subject.hand_over(active)?;
            Ok(at)
        })?;
        let late = connections.timeouts()? - before;
        bench.progress(
            run,
            who,
            &format!(
                "{:.2} ms (at rest {rest_ms:.2}), {late} retransmission timeouts",
                struck.gap_ms
            ),
        );
        let gap = row(who, "gap", "ms", Promise::MedianAtMost(3.0));
        bench.report.add(&gap, struck.gap_ms, struck.stall_ms);
        let rest = row(who, REST_GAP, "ms", Promise::Nothing);
        bench.report.add(&rest, rest_ms, 0.0);
        let late_row = row(
            who,
            "retransmission timeouts",
            "count",
            Promise::Always(0.0),
        );
        bench.report.add(&late_row, late as f64, struck.stall_ms);
    }
    let lost = row(
        who,
        "connections lost in all runs",
        "count",
        Promise::Always(0.0),
    );
    bench.report.add(&lost, connections.lost()? as f64, 0.0);
    Ok(())
}
