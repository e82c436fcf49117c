//! The active node is gone under connections: this project's pair, and a pair of conntrackd and nftables whose
//! standby does at once what keepalived's script for it does.
//!
//! Its nodes are struck without the time that keepalived needs to notice, which is in its favour.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::kills::{self, Outcome, Scene};
use super::rival::Rival;
use super::{Bench, CONNTRACKD};
use crate::bench::{AGENT, Promise, Row, say};
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::rig::config::Scheduler;
use crate::traffic::crowd::{Crowd, Manner, Verdict};

pub(super) const CASE: &str = "one kill: rr, beside conntrackd";
const CONNECTIONS: usize = 2000;

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let runs = bench.options.runs();
    for run in 1..=runs {
        let from = now_ns();
        let mut outcome = Outcome::default();
        let mut scene = Scene::start(CONNECTIONS, Scheduler::Rr, false, kills::OLD)?;
        scene.kill(&mut outcome)?;
        drop(scene);
        note(bench, AGENT, outcome.verdict, from);
        if !bench.options.alone {
            let from = now_ns();
            let verdict = conntrackd()?;
            note(bench, CONNTRACKD, verdict, from);
        }
        say(&format!("  {run}/{runs}"));
    }
    Ok(())
}

/// What [`Scene::kill`] does, to the other pair.
fn conntrackd() -> Result<Verdict> {
    let rival = Rival::start()?;
    let crowd = Crowd::start(&rival.pair.client, SERVICE)?;
    crowd.open(CONNECTIONS, &Manner::LIVELY, 2000);
    crowd.wait_complete()?;
    let young = kills::begun_around_a_kill();
    crowd.close(young);
    crowd.open(young, &Manner::LIVELY, kills::RATE);
    thread::sleep(kills::BEFORE + Duration::from_millis(kills::SPREAD_MS / 2));
    let killed = now_ns();
    rival.take_over()?;
    let verdict = crowd.judge(killed, now_ns(), kills::OLD)?;
    ensure!(
        verdict.older.connections > 0 && verdict.older.lost() < verdict.older.connections,
        "conntrackd's standby has not taken over: {verdict:?}"
    );
    crowd.finish()?;
    Ok(verdict)
}

fn note(bench: &mut Bench<'_>, who: &'static str, verdict: Verdict, from: u64) {
    let stalled = bench.stalls.longest_ms(&(from..now_ns()));
    let lost = if who == AGENT {
        Promise::Always(0.0)
    } else {
        Promise::Nothing
    };
    let (older, younger) = (verdict.older, verdict.younger);
    for (what, promise, value) in [
        (
            "connections older than 5 ms",
            Promise::Nothing,
            older.connections,
        ),
        ("of these lost", lost, older.lost()),
        ("younger than 5 ms", Promise::Nothing, younger.connections),
        ("of these lost, too", Promise::Nothing, younger.lost()),
    ] {
        let row = Row {
            case: CASE,
            who,
            what,
            unit: "count",
            promise,
        };
        bench.note(row, value as f64, stalled);
    }
}
