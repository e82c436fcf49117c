//! How long a takeover takes with a small table and with a large one: nothing is to be done for each
//! connection.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_agent::proto::rng::Rng;
use ha_agent::status::model::Role;

use super::{Bench, bulk, percentile};
use crate::bench::{AGENT, Promise, Row, say};
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::gauge::million::CONNECTIONS;
use crate::rig::config::PairConfig;
use crate::rig::conns::Conns;
use crate::rig::pair::Pair;
use crate::traffic::pulse::Pulse;

pub(super) const CASE: &str = "kills: takeover by size of the table";

/// How long clients are watched before and after a kill.
const BEFORE: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_millis(1500);

/// Kills the active nodes of a pair in turn, and notes how long clients had no answer each time.
fn kill(bench: &mut Bench<'_>, pair: &mut Pair, what: &'static str) -> Result<Vec<u64>> {
    let pulse = Pulse::start(&pair.client, SERVICE)?;
    let mut rng = Rng::new(now_ns());
    let mut gaps = Vec::new();
    for _ in 0..if bench.options.quick { 3 } else { 11 } {
        pulse.forget();
        thread::sleep(BEFORE + Duration::from_millis(rng.below(100)));
        let (active, standby) = pair.active_and_standby()?;
        let killed = now_ns();
        active.kill()?;
        thread::sleep(AFTER);
        standby.wait_role(Role::Active, Duration::from_secs(5))?;
        let to = killed + AFTER.as_nanos() as u64;
        let gap = pulse.seen(killed - BEFORE.as_nanos() as u64..to).gap_ns;
        let stalled = bench.stalls.longest_ms(&(killed..to));
        say(&format!("  {what}: {:.1} ms", gap as f64 / 1e6));
        bench.note(row(what, "ms", Promise::Nothing), gap as f64 / 1e6, stalled);
        gaps.push(gap);
        for node in &mut pair.nodes {
            if node.agent.is_none() {
                node.start()?;
            }
        }
        pair.wait_whole()?;
    }
    gaps.sort_unstable();
    Ok(gaps)
}

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: CASE,
        who: AGENT,
        what,
        unit,
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let (mut pair, _stream) = bulk::alone(PairConfig::default())?;
    pair.nodes[1].start()?;
    pair.wait_whole()?;
    let few = kill(bench, &mut pair, "gap, a handful of connections")?;

    let (first, second) = pair.active_and_standby()?;
    second.kill()?;
    bulk::begin_with_a_million(first)?;
    second.start()?;
    pair.wait_whole()?;
    for node in &pair.nodes {
        let entries = Conns::open(node)?.all()?.len();
        ensure!(entries as u32 > CONNECTIONS, "{entries} entries only");
    }
    let many = kill(bench, &mut pair, "gap, a million connections")?;
    let grown = percentile(&many, 50) - percentile(&few, 50);
    // The kernel's own tracker, committed entry by entry, takes 8000.
    bench.note(
        row(
            "growth of the median with each connection",
            "ns",
            Promise::NeverMoreThan(100.0),
        ),
        grown / f64::from(CONNECTIONS),
        0.0,
    );
    Ok(())
}
