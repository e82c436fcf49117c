//! The benchmark itself: does it measure what it says? No times are judged here.

#![expect(
    clippy::indexing_slicing,
    reason = "serde_json gives null for what is not there, which no check here takes"
)]

mod common;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use ha_tests::rig::locate;
use serde_json::Value;

fn main() -> ExitCode {
    common::run(
        &["ip"],
        &["ha-agent", "ha-demo", "ha-bench", "ha-link"],
        &[
            ("a_quick_run_fills_every_figure_of_its_case", quick),
            ("a_syn_flood_costs_no_live_connection", syn_flood),
            ("a_device_at_the_end_of_a_wire_is_measured", link),
        ],
    )
}

/// Runs one case quickly; what it wrote.
fn run(case: &str) -> Result<Value> {
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("failover.json");
    // Its exit code tells whether promises about time were kept, which is not the question.
    let ended = Command::new(locate::program("ha-bench")?)
        .args(["--quick", "--alone", "--only", case, "--json"])
        .arg("--output")
        .arg(&output)
        .output()?;
    let printed: Value = serde_json::from_slice(&ended.stdout)
        .with_context(|| String::from_utf8_lossy(&ended.stderr).into_owned())?;
    let written: Value = serde_json::from_slice(&std::fs::read(&output)?)?;
    assert_eq!(printed["figures"], written["figures"]);
    ensure!(
        printed["failures"].as_array().is_some_and(Vec::is_empty),
        "{printed:#}"
    );
    Ok(printed)
}

/// Ten seconds; how fast the flood must be is for the bench to judge.
fn syn_flood() -> Result<()> {
    let printed = run("syn-flood")?;
    let figures = printed["figures"].as_array().context("no figures")?;
    let median = |what: &str| {
        let figure = figures.iter().find(|figure| figure["what"] == what);
        let figure = figure.with_context(|| format!("no {what} in {printed:#}"))?;
        anyhow::Ok(&figure["summary"]["median"])
    };
    ensure!(*median("live connections")? == 1000.0, "{printed:#}");
    ensure!(*median("connections lost")? == 0.0, "{printed:#}");
    ensure!(*median("role changes")? == 0.0, "{printed:#}");
    for (what, least) in [
        ("connection requests sent", 50_000.0),
        ("of these forwarded", 30_000.0),
    ] {
        let enough = median(what)?.as_f64().is_some_and(|value| value > least);
        ensure!(enough, "{printed:#}");
    }
    Ok(())
}

/// The data plane between two veth pairs stands in for the device.
fn link() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("link.json");
    let ended = Command::new(locate::program("ha-link")?)
        .args(["--lab", "--seconds", "0.2", "--json"])
        .args(["--frame", "imix", "--flows", "64", "--flows", "0"])
        .arg("--output")
        .arg(&output)
        .output()?;
    let printed: Value = serde_json::from_slice(&ended.stdout)
        .with_context(|| String::from_utf8_lossy(&ended.stderr).into_owned())?;
    ensure!(
        printed["failures"].as_array().is_some_and(Vec::is_empty),
        "{printed:#}"
    );
    let value = |case: &str, what: &str| {
        let mut figures = printed["figures"].as_array()?.iter();
        let figure = figures.find(|figure| figure["case"] == case && figure["what"] == what)?;
        figure["summary"]["median"].as_f64()
    };
    for case in ["IMIX, 64 flows", "IMIX, each frame a new flow"] {
        let fastest = value(case, "the generator's highest rate");
        ensure!(fastest.is_some_and(|rate| rate > 1000.0), "{printed:#}");
        let found = value(case, "throughput without loss");
        ensure!(found <= fastest && found.is_some(), "{printed:#}");
    }
    // Whatever else this machine does, some rate loses nothing, and a frame takes time.
    let case = "IMIX, 64 flows";
    ensure!(
        value(case, "throughput without loss") > Some(0.0),
        "{printed:#}"
    );
    let [half, tail] =
        ["latency p50 at 50 %", "latency p99.9 at 50 %"].map(|what| value(case, what));
    ensure!(half > Some(0.0) && half <= tail, "{printed:#}");
    Ok(())
}

fn quick() -> Result<()> {
    let printed = run("planned")?;
    let figures = printed["figures"].as_array().context("no figures")?;
    let gaps: Vec<&Value> = figures.iter().filter(|f| f["what"] == "gap").collect();
    ensure!(!gaps.is_empty(), "{printed:#}");
    for gap in gaps {
        let summary = &gap["summary"];
        let value = |name: &str| summary[name].as_f64().with_context(|| format!("no {name}"));
        ensure!(summary["n"] == 2, "{gap:#}");
        let (min, median, max) = (value("min")?, value("median")?, value("max")?);
        ensure!(0.0 < min && min <= median && median <= max, "{gap:#}");
        // A client that was never served would see all of each run as one gap.
        ensure!(min < 500.0, "{gap:#}");
    }
    let lost = figures
        .iter()
        .filter(|figure| figure["what"] == "connections lost in all runs");
    for figure in lost {
        ensure!(figure["summary"]["max"] == 0.0, "{figure:#}");
    }
    Ok(())
}
