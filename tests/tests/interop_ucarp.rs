//! The real `ucarp` as partner, in both directions.
//!
//! `ucarp` reads packets in batches of up to a second and checks its timers once an advertisement
//! interval, so its takeover may come seconds after the formula says; ours may not.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::clock::{now_ns, until};
use ha_tests::rig::config::{self, PairConfig, SHARED_FRONT, VHID, file_with_foreign_partner};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::process::Process;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "ucarp"],
        &["ha-agent", "ha-demo"],
        &[
            ("ucarp_stays_backup_until_we_stop", ucarp_as_backup),
            ("we_take_over_when_ucarp_stops", ucarp_as_master),
        ],
    )
}

const PASSPHRASE: &str = "interoperable";
/// Long enough for a backup to have taken over by CARP's formula, batches and checks included.
const LONG: Duration = Duration::from_secs(7);

/// Our agent's files on lb1 for a foreign partner on lb2.
fn pair() -> Result<Pair> {
    let pair = Pair::build(PairConfig::default())?;
    let node = &pair.nodes[0];
    let dir = node.dir();
    let passphrase = dir.join("carp.passphrase");
    fs::write(&passphrase, PASSPHRASE)?;
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600))?;
    fs::write(
        node.config_file(),
        file_with_foreign_partner(node.number, dir),
    )?;
    Ok(pair)
}

/// Starts `ucarp` on a node.
fn ucarp(node: &Node) -> Result<Process> {
    let script = |name: &str, verb: &str| -> Result<PathBuf> {
        let path = node.dir().join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\nexec ip address {verb} {SHARED_FRONT}/24 dev front\n"),
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(path)
    };
    let mut command = Command::new("ucarp");
    command
        .args(["--interface", "front"])
        .args(["--srcip", &config::front(node.number).to_string()])
        .args(["--vhid", &VHID.to_string()])
        .args(["--pass", PASSPHRASE])
        .args(["--addr", &SHARED_FRONT.to_string()])
        .args(["--advbase", "1", "--advskew", "50", "--deadratio", "3"])
        .args(["--shutdown"])
        .arg(format!("--upscript={}", script("up", "add")?.display()))
        .arg(format!("--downscript={}", script("down", "del")?.display()));
    Process::start(
        "ucarp",
        &node.netns,
        &mut command,
        &node.dir().join("ucarp.log"),
    )
}

/// Waits until a node has the shared address; returns how long it took.
fn wait_address(node: &Node, limit: Duration) -> Result<()> {
    let from = now_ns();
    loop {
        let waited = Duration::from_nanos(now_ns() - from);
        if node.has_address(SHARED_FRONT)? {
            return Ok(());
        }
        ensure!(
            waited < limit,
            "lb{} does not have the address after {limit:?}\n{}",
            node.number,
            node.log()
        );
        sleep(Duration::from_millis(20));
    }
}

fn ucarp_as_backup() -> Result<()> {
    let mut pair = pair()?;
    let [ours, theirs] = &mut pair.nodes;
    ours.start()?;
    ours.wait_role(Role::Active, Duration::from_secs(20))?;
    wait_address(ours, Duration::from_secs(20))?;

    let ucarp = ucarp(theirs)?;
    sleep(LONG);
    ensure!(
        !theirs.has_address(SHARED_FRONT)?,
        "ucarp took over from us:\n{}",
        ucarp.log()
    );
    ensure!(ours.role() == Some(Role::Active), "{:?}", ours.role());

    ours.signal(Signal::SIGTERM)?;
    wait_address(theirs, LONG)?;
    until("our address gone", || Ok(!ours.has_address(SHARED_FRONT)?))?;
    Ok(())
}

fn ucarp_as_master() -> Result<()> {
    let mut pair = pair()?;
    let [ours, theirs] = &mut pair.nodes;
    let mut ucarp = ucarp(theirs)?;
    wait_address(theirs, LONG)?;

    ours.start()?;
    ours.wait_role(Role::Standby, Duration::from_secs(20))?;
    sleep(LONG);
    ensure!(
        ours.role() == Some(Role::Standby) && !ours.has_address(SHARED_FRONT)?,
        "we took over from ucarp: {:?}\n{}",
        ours.role(),
        ours.log()
    );

    let killed = now_ns();
    ucarp.kill()?;
    // 3 × (advbase + advskew / 256) of what ucarp advertised, from its last advertisement on, plus a
    // second in which it might have been sent; ten for a machine that stalls.
    let formula = Duration::from_millis(3 * (1000 + 50 * 1000 / 256));
    wait_address(ours, formula + Duration::from_secs(10))?;
    let waited = Duration::from_nanos(now_ns() - killed);
    ensure!(waited > Duration::from_secs(1), "after {waited:?} already");
    Ok(())
}
