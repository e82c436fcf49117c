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
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use bpf::family::Family;
use bpf::lab::{BACK, Lab, MTU, NODE_BACK_MAC, Setting, USUAL};
use bpf::routes::{NEIGHBOUR, NEIGHBOUR_MAC, SILENT};
use bpf::world::Place;
use bpf::{Instance, agreement, budget, cases, lengths, mutation, routes};
use clap::Parser as _;
use ha_common::reason::Reason;
use ha_common::service::Forwarding;
use ha_tests::gauge;
use ha_tests::packet::{Mac, mapped};
use ha_tests::rig::locate;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sched::{CloneFlags, unshare};

/// Random sequences compared between kernel and host.
const SEEDS: u64 = 24;

const METHODS: [Forwarding; 4] = [
    Forwarding::Nat,
    Forwarding::FullNat,
    Forwarding::Dsr,
    Forwarding::Tunnel,
];

/// A test that makes its own cases.
type WholeTest = fn(&Place) -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let kernel = kernel();
    let mut trials = Vec::new();
    for case in cases() {
        let name = case.name();
        trials.push(trial(
            format!("host::{name}"),
            Ok(Place::Host),
            move |place| run(place, &case).map(drop),
        ));
        trials.push(trial(
            format!("kernel::{name}"),
            kernel.clone(),
            move |place| run(place, &case).map(drop),
        ));
    }
    let more: [(&str, WholeTest); 3] = [
        ("every_length_gives_a_verdict", every_length),
        ("what_is_broken_gives_a_verdict", mutations),
        ("every_reason_has_a_case", every_reason),
    ];
    for (name, test) in more {
        trials.push(trial(format!("host::{name}"), Ok(Place::Host), test));
        trials.push(trial(format!("kernel::{name}"), kernel.clone(), test));
    }
    let more: [(&str, WholeTest); 4] = [
        ("agrees_with_the_host", agrees),
        ("what_the_kernel_can_route_is_sent_at_once", routes::hit),
        ("programs_stay_within_their_budget", |_| budget::check()),
        ("the_bench_finds_every_packet_where_it_belongs", |_| bench()),
    ];
    for (name, test) in more {
        trials.push(trial(format!("kernel::{name}"), kernel.clone(), test));
    }
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
    interfaces().map_err(|error| format!("{error:#}"))?;
    locate::bpf_object("ha_xdp")
        .map(Place::kernel)
        .map_err(|error| error.to_string())
}

/// Moves the process, which has no other thread yet, to where the interfaces that the cases name exist
/// and take packets as long as on the host, and where the kernel is a router with one neighbour.
fn interfaces() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot leave the network namespace")?;
    for family in ["ipv4", "ipv6"] {
        let forwarding = format!("/proc/sys/net/{family}/conf/all/forwarding");
        fs::write(&forwarding, "1").context(forwarding)?;
    }
    let mac = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut script = format!(
        "link set lo mtu {MTU} up\nlink add back index {BACK} address {} mtu {MTU} type veth peer name back-peer\n\
         link set back up\nlink set back-peer up\n",
        mac(NODE_BACK_MAC)
    );
    for address in [IpAddr::from(NEIGHBOUR), mapped(NEIGHBOUR).into()] {
        let lladdr = mac(NEIGHBOUR_MAC);
        writeln!(script, "route add {address} dev back")?;
        writeln!(script, "neighbour add {address} lladdr {lladdr} dev back")?;
    }
    for address in [IpAddr::from(SILENT), mapped(SILENT).into()] {
        writeln!(script, "route add {address} dev back")?;
    }
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    if let Some(mut input) = ip.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    ensure!(ip.wait()?.success(), "ip failed");
    Ok(())
}

/// Plays a case; where that might matter, a second time behind other rubbish.
fn run(place: &Place, instance: &Instance) -> Result<Vec<Reason>> {
    let (_, _, play) = instance.case;
    let mut lab = Lab::new(place, instance.setting)?;
    play(&mut lab)?;
    let mut seen = std::mem::take(&mut lab.seen);
    drop(lab);
    if let Some(place) = place.behind_rubbish() {
        let mut lab = Lab::new(&place, instance.setting)?;
        play(&mut lab).context("behind rubbish")?;
        seen.append(&mut lab.seen);
    }
    Ok(seen)
}

fn lab(place: &Place, family: Family, method: Forwarding) -> Result<Lab> {
    let setting = Setting {
        family,
        method,
        sizes: USUAL,
    };
    Lab::new(place, setting)
}

fn every_length(place: &Place) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        for method in METHODS {
            let ran = lengths::sweep(&mut lab(place, family, method)?)?;
            ensure!(ran > 10_000, "only {ran} frames");
        }
    }
    Ok(())
}

fn mutations(place: &Place) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        for method in METHODS {
            mutation::sweep(&mut lab(place, family, method)?)?;
        }
    }
    Ok(())
}

fn every_reason(place: &Place) -> Result<()> {
    let mut seen = BTreeSet::new();
    for case in cases() {
        seen.extend(run(place, &case).with_context(|| case.name())?);
    }
    if let Place::Host = place {
        // It has no programs that could be missing.
        seen.insert(Reason::StageMissing);
    }
    if !lab(place, Family::V4, Forwarding::Nat)?.world.crowd() {
        seen.insert(Reason::NoHeadroom);
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
    ensure!(seen.len() > 20, "only {seen:?}");
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
