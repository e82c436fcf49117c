//! A short run of chaos, with a schedule of its own.

mod common;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use ha_tests::chaos::{self, Kind, Options};

fn main() -> ExitCode {
    common::run(
        &["ip", "nft", "cc"],
        &["ha-agent", "ha-demo", "ha-chaos"],
        &[("long_a_short_chaos_violates_nothing", short)],
    )
}

/// Faults of every sort: of the agent, the node, the network, the kernel, and the operator.
const KINDS: [Kind; 10] = [
    Kind::Kill,
    Kind::Freeze,
    Kind::PowerOff,
    Kind::OneWay,
    Kind::Apart,
    Kind::ClockJump,
    Kind::DiskFull,
    Kind::Edited,
    Kind::Configuration,
    Kind::Failover,
];

fn short() -> Result<()> {
    let output = tempfile::tempdir()?;
    let options = Options {
        minutes: 10,
        seed: Some(1),
        faults: Some(10),
        only: KINDS.to_vec(),
        connections: 200,
        young: 100,
        output: output.path().to_owned(),
        ..Options::default()
    };
    let report = chaos::torment(&options, 1)?;
    if !report.passed() {
        // What it left behind is for whoever looks into it.
        let kept = output.keep();
        anyhow::bail!("{}\nin {}", report.table(false), kept.display());
    }
    ensure!(report.episodes.len() == 10, "{report:?}");
    // Somebody was there to be lost, in every episode, and was looked at on the wire.
    ensure!(report.episodes.iter().all(|each| each.older.judged >= 100));
    ensure!(report.frames > 10_000, "{} frames", report.frames);
    Ok(())
}
