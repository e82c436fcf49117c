//! The data plane, frame by frame: `BPF_PROG_TEST_RUN` in the kernel, and the same cases on the host.
//!
//! The kernel's half needs root and the object of `cargo xtask build-ebpf`. Where it cannot run it is
//! counted as ignored, with the reason in its name; in CI that is a failure.

#![expect(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "test code outside of test functions: what is not expected fails its case"
)]

mod bpf;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bpf::lab::{Case, Lab, USUAL};
use bpf::world::Place;
use bpf::{agreement, cases, lengths};
use clap::Parser as _;
use ha_common::reason::Reason;
use ha_tests::gauge;
use ha_tests::rig::locate;
use libtest_mimic::{Arguments, Failed, Trial};

/// Random sequences compared between kernel and host.
const SEEDS: u64 = 24;

/// A test that makes its own cases.
type WholeTest = fn(&Place) -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let kernel = kernel();
    let mut trials = Vec::new();
    for case in cases() {
        trials.push(trial(
            format!("host::{}", case.0),
            Ok(Place::Host),
            move |place| run(place, case).map(drop),
        ));
        trials.push(trial(
            format!("kernel::{}", case.0),
            kernel.clone(),
            move |place| run(place, case).map(drop),
        ));
    }
    let more: [(&str, WholeTest); 2] = [
        ("every_length_gives_a_verdict", every_length),
        ("every_reason_has_a_case", every_reason),
    ];
    for (name, test) in more {
        trials.push(trial(format!("host::{name}"), Ok(Place::Host), test));
        trials.push(trial(format!("kernel::{name}"), kernel.clone(), test));
    }
    trials.push(trial(
        "kernel::the_bench_finds_every_packet_where_it_belongs".into(),
        kernel.clone(),
        |_| bench(),
    ));
    trials.push(trial("kernel::agrees_with_the_host".into(), kernel, agrees));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(
    name: String,
    place: Result<Place, String>,
    test: impl Fn(&Place) -> Result<()> + Send + 'static,
) -> Trial {
    let forbidden = std::env::var_os("CI").is_some();
    let (name, skipped) = match &place {
        Ok(_) => (name, false),
        Err(reason) => (format!("{name} (cannot run: {reason})"), !forbidden),
    };
    Trial::test(name, move || {
        let place = place.map_err(Failed::from)?;
        test(&place).map_err(|error| Failed::from(format!("{error:#}")))
    })
    .with_ignored_flag(skipped)
}

/// The kernel as a place to run cases in, or why it is none.
fn kernel() -> Result<Place, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    locate::bpf_object("ha_xdp")
        .map(Place::kernel)
        .map_err(|error| error.to_string())
}

fn run(place: &Place, (_, sizes, play): &Case) -> Result<Vec<Reason>> {
    let mut lab = Lab::new(place, *sizes)?;
    play(&mut lab)?;
    Ok(lab.seen)
}

fn every_length(place: &Place) -> Result<()> {
    let mut lab = Lab::new(place, USUAL)?;
    let ran = lengths::sweep(&mut lab)?;
    ensure!(ran > 10_000, "only {ran} frames");
    Ok(())
}

fn every_reason(place: &Place) -> Result<()> {
    let mut seen = BTreeSet::new();
    for case in cases() {
        seen.extend(run(place, case)?);
    }
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !seen.contains(reason))
        .collect();
    ensure!(missing.is_empty(), "no case for {missing:?}");
    Ok(())
}

fn agrees(place: &Place) -> Result<()> {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        seen.extend(agreement::compare(place, seed)?);
    }
    ensure!(seen.len() > 15, "only {seen:?}");
    Ok(())
}

/// Far too few packets to measure anything by, but each case checks what became of them.
fn bench() -> Result<()> {
    gauge::measure(&gauge::Options::parse_from([
        "datapath",
        "--runs=1",
        "--packets=500",
    ]))?;
    Ok(())
}
