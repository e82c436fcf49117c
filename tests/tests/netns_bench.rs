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
        &[("a_quick_run_fills_every_figure_of_its_case", quick)],
    )
}

fn quick() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("failover.json");
    // Its exit code tells whether promises about time were kept, which is not the question.
    let ended = Command::new(locate::program("ha-bench")?)
        .args(["--quick", "--alone", "--only", "planned", "--json"])
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
