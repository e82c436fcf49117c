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
        &["ha-agent", "ha-demo", "ha-bench"],
        &[
            ("a_quick_run_fills_every_figure_of_its_case", quick),
            ("a_syn_flood_costs_no_live_connection", syn_flood),
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

fn quick() -> Result<()> {
    let printed = run("planned")?;
    let figures = printed["figures"].as_array().context("no figures")?;
    let gaps: Vec<&Value> = figures.iter().filter(|f| f["what"] == "gap").collect();
    ensure!(!gaps.is_empty(), "{printed:#}");
    for gap in gaps {
        let summary = &gap["summary"];
        let value = |name: &str| summary[name].as_f64().with_context(|| format!("no {name}"));
        ensure!(summary["n"] == 3, "{gap:#}");
        let (min, median, max) = (value("min")?, value("median")?, value("max")?);
        ensure!(0.0 < min && min <= median && median <= max, "{gap:#}");
        // A client that was never served would see the whole run as one gap.
        ensure!(median < 500.0, "{gap:#}");
    }
    let lost = figures
        .iter()
        .filter(|figure| figure["what"] == "connections lost in all runs");
    for figure in lost {
        ensure!(figure["summary"]["max"] == 0.0, "{figure:#}");
    }
    Ok(())
}
