//! `cargo xtask test`, `tidy` and `sim`.

use std::env;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::thread;

use anyhow::{Result, bail};
use clap::Args;

use crate::build::Profile;
use crate::workspace::{bpf, cargo, root, run, say};
use crate::{build, counters, setup};

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Everything, as CI runs it; without it the longest namespace runs are left out.
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Options of `cargo xtask tidy`.
#[derive(Debug, Args)]
pub(crate) struct TidyArgs {
    /// Rewrite what can be rewritten (formatting, generated documents).
    #[arg(long)]
    fix: bool,
}

/// Sets up, builds and runs the tests.
pub(crate) fn test(args: &TestArgs) -> Result<()> {
    setup::setup_all()?;
    build::build(Profile::Dev)?;
    build::build_faulty()?;
    if args.filter.is_none() {
        tidy(&TidyArgs { fix: false })?;
    }
    say("running the tests");
    let mut command = cargo();
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        .env("HA_BPF_DIR", bpf())
        .env("HA_BIN_DIR", Profile::Dev.programs())
        .env("HA_TEST_ALL", if args.all { "1" } else { "0" });
    if let Some(filter) = &args.filter {
        command.args(["--", filter]);
    }
    run(&mut command)
}

/// Formatting, lints, layering and generated documents.
pub(crate) fn tidy(args: &TidyArgs) -> Result<()> {
    build::build_ebpf()?;
    if args.fix {
        run(cargo().args(["fmt", "--all"]))?;
    }
    run(cargo().args(["fmt", "--all", "--check"]))?;
    counters::check(args.fix)?;
    run(cargo()
        .args([
            "clippy",
            "--locked",
            "--quiet",
            "--workspace",
            "--all-targets",
        ])
        .args(["--", "--deny", "warnings"]))?;
    let mut faults = Vec::new();
    layering(&root().join("ha-agent/src/proto"), &mut faults)?;
    layering(&root().join("ha-common/src"), &mut faults)?;
    if !faults.is_empty() {
        bail!("layering:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// The core may not know sockets, files, clocks or threads.
fn layering(directory: &Path, faults: &mut Vec<String>) -> Result<()> {
    const FORBIDDEN: &[&str] = &[
        "tokio",
        "std::fs",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "UdpSocket",
        "TcpStream",
        "println!",
    ];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // Tests may print what they saw.
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            layering(&path, faults)?;
            continue;
        }
        for (number, line) in fs::read_to_string(&path)?.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in FORBIDDEN.iter().filter(|word| code.contains(**word)) {
                faults.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    Ok(())
}

/// A log of an election, through the machine as it is now.
pub(crate) fn replay(log: &Path) -> Result<()> {
    build::build_ebpf()?;
    run(cargo()
        .args(["run", "--locked", "--quiet", "--package", "ha-agent", "--"])
        .arg("replay")
        .arg(log))
}

/// Many seeds of the simulator, optimised.
pub(crate) fn sim(seed: u64, seeds: u64) -> Result<()> {
    build::build_ebpf()?;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut command = cargo();
    command
        .args([
            "test",
            "--locked",
            "--release",
            "--package",
            "ha-tests",
            "--test",
            "sim_sweep",
        ])
        .args(["no_seed_violates_anything", "--", "--nocapture"])
        .env("HA_SIM_SEED", seed.to_string())
        .env("HA_SIM_SEEDS", seeds.to_string())
        .env("HA_SIM_THREADS", threads.to_string());
    if let Ok(steps) = env::var("HA_SIM_STEPS") {
        command.env("HA_SIM_STEPS", steps);
    }
    run(&mut command)
}
