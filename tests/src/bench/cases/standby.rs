//! Faults that the active node's clients must not notice.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Subject, timing};
use crate::bench::figure::{Promise, Row};
use crate::bench::subject::Ours;
use crate::clock::now_ns;
use crate::rig::config::PairConfig;
use crate::rig::switch::Cut;

/// Ten timeouts.
const WATCH: Duration = Duration::from_millis(300);
const WHO: &str = "ha-agent 10/30 ms";
/// Links that carry none of the active node's clients: whose (the standby's or the active node's), which
/// port of that node's, and the name.
const LINKS: [(bool, usize, &str); 4] = [
    (true, 0, "front"),
    (true, 1, "back"),
    (true, 2, "cable"),
    (false, 2, "active's cable"),
];

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: "standby",
        who: WHO,
        what,
        unit,
        promise,
    }
}

const GAP: Row = row(
    "gap, standby killed or a link cut",
    "ms",
    Promise::MedianAtMost(2.0),
);
const LOST: Row = row("probes lost", "count", Promise::Always(0.0));
const MOVED: Row = row("role changes", "count", Promise::Always(0.0));

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let config = PairConfig {
        cable: true,
        ..timing(10, 30)
    };
    let mut pair = Ours::start(WHO, config)?;
    let subject: &mut dyn Subject = &mut pair;
    for run in 0..bench.options.runs() {
        let mut words = Vec::new();
        let active = subject.settle()?;
        let standby = 1 - active;
        for (of_standby, index, link) in LINKS {
            let node = if of_standby { standby } else { active };
            for cut in [Cut::Both, Cut::FromNode, Cut::ToNode] {
                let gap = quietly(bench, subject, active, |subject| {
                    let at = now_ns();
                    if let Some(port) = subject.node(node)?.ports().nth(index) {
                        port.cut(cut);
                    }
                    Ok(at)
                })?;
                words.push(format!("{link} {cut:?} {gap:.1}"));
                subject.node(node)?.cut(Cut::Nothing);
            }
        }
        let gap = quietly(bench, subject, active, |subject| {
            let at = now_ns();
            subject.kill(standby)?;
            Ok(at)
        })?;
        words.push(format!("kill {gap:.1}"));
        subject.start(standby)?;
        bench.progress(run, WHO, &format!("{} ms", words.join(", ")));
    }
    Ok(())
}

/// Injects a fault that nobody may notice; returns the gap in milliseconds.
fn quietly(
    bench: &mut Bench<'_>,
    subject: &mut dyn Subject,
    active: usize,
    fault: impl FnOnce(&mut dyn Subject) -> Result<u64>,
) -> Result<f64> {
    let before = subject.settle()?;
    let struck = bench.strike(subject, WATCH, fault)?;
    let role = subject.node(active)?.role();
    let moved = before != active || role != Some(ha_agent::status::model::Role::Active);
    bench.report.add(&GAP, struck.gap_ms, struck.stall_ms);
    bench.report.add(&LOST, struck.lost as f64, struck.stall_ms);
    bench.report.add(&MOVED, f64::from(moved), struck.stall_ms);
    Ok(struck.gap_ms)
}
