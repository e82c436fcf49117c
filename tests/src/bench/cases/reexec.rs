//! The active node's agent is replaced by another program under connections, as an upgrade does it.

use std::time::Duration;

use anyhow::Result;
use ha_agent::status::model::Role;

use super::connections::Connections;
use super::{Bench, Subject, timing};
use crate::bench::figure::{Promise, Row};
use crate::bench::strike::REST_GAP;
use crate::bench::subject::Ours;

const WHO: &str = "ha-agent 10/30 ms";
const CONNECTIONS: usize = 1_000;
/// Beyond the lease under which an agent is replaced.
const WATCH: Duration = Duration::from_millis(2_500);

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: "reexec",
        who: WHO,
        what,
        unit,
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let mut ours = Ours::start_installed(WHO, timing(10, 30))?;
    let subject: &mut dyn Subject = &mut ours;
    subject.settle()?;
    let connections = Connections::open(subject, CONNECTIONS)?;
    for run in 0..bench.options.runs() {
        let subject: &mut dyn Subject = &mut ours;
        let active = subject.settle()?;
        ours.install(active)?;
        let subject: &mut dyn Subject = &mut ours;
        let rest_ms = Bench::rest(subject, WATCH);
        let before = subject.node(active)?.status()?;
        let late = connections.timeouts()?;
        let struck = bench.strike(subject, WATCH, |subject| subject.node(active)?.reexec())?;
        let late = connections.timeouts()? - late;
        let after = subject.node(active)?.status()?;
        let moved = after.role != Role::Active || after.term != before.term;
        bench.progress(
            run,
            WHO,
            &format!(
                "{:.2} ms (at rest {rest_ms:.2}), moved: {moved}, {late} retransmission timeouts",
                struck.gap_ms
            ),
        );
        for (row, value) in [
            (row("gap", "ms", Promise::MedianAtMost(5.0)), struck.gap_ms),
            (row(REST_GAP, "ms", Promise::Nothing), rest_ms),
            (
                row("role changes", "count", Promise::Always(0.0)),
                f64::from(moved),
            ),
            (
                row("retransmission timeouts", "count", Promise::Nothing),
                late as f64,
            ),
        ] {
            bench.report.add(&row, value, struck.stall_ms);
        }
    }
    let lost = row(
        "connections lost in all runs",
        "count",
        Promise::Always(0.0),
    );
    bench.report.add(&lost, connections.lost()? as f64, 0.0);
    Ok(())
}
