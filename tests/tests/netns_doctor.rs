//! `ha-agent doctor` against a real pair: nothing to complain of, then one thing after the other broken and
//! mended again.

mod common;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_tests::clock::now_ns;
use ha_tests::rig::config::{self, PairConfig, SHARED_FRONT};
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::switch::Cut;
use serde_json::Value;

fn main() -> ExitCode {
    common::run(
        &["ip"],
        &["ha-agent"],
        &[("each_fault_is_found_and_its_end_too", faults)],
    )
}

/// The worst verdict of each check, and the exit code.
type Found = (BTreeMap<String, String>, i32);

fn doctor(node: &Node) -> Result<Found> {
    let mut command = Command::new(locate::program("ha-agent")?);
    command
        .arg("-f")
        .arg(node.config_file())
        .args(["doctor", "--json"]);
    let output = node.netns.run(|| Ok(command.output()?))?;
    let printed: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let rank = |verdict: &str| {
        ["skip", "pass", "warn", "fail"]
            .iter()
            .position(|v| *v == verdict)
    };
    let mut worst = BTreeMap::new();
    let findings = printed.get("findings").and_then(Value::as_array);
    for finding in findings.context("no findings")? {
        let text = |name: &str| {
            let field = finding.get(name).and_then(Value::as_str);
            field.unwrap_or_default().to_owned()
        };
        let verdict = text("verdict");
        ensure!(!text("evidence").is_empty(), "{finding}");
        ensure!(
            (rank(&verdict) > rank("pass")) != text("remedy").is_empty(),
            "{finding}"
        );
        let slot = worst
            .entry(text("check"))
            .or_insert_with(|| verdict.clone());
        if rank(&verdict) > rank(slot) {
            *slot = verdict;
        }
    }
    Ok((worst, output.status.code().context("killed")?))
}

fn verdict(node: &Node, check: &str) -> Result<String> {
    let (found, _) = doctor(node)?;
    found
        .get(check)
        .cloned()
        .with_context(|| format!("no {check}"))
}

/// Some of what the doctor sees comes a moment after the fault.
fn becomes(node: &Node, check: &str, wanted: &str) -> Result<()> {
    let end = now_ns() + 30_000_000_000;
    loop {
        let found = verdict(node, check)?;
        if found == wanted {
            return Ok(());
        }
        if now_ns() > end {
            bail!(
                "{check} of lb{} is {found}, not {wanted}: {:#?}",
                node.number,
                doctor(node)?
            );
        }
        sleep(Duration::from_millis(200));
    }
}

fn faults() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        interval: Duration::from_millis(300),
        timeout: Duration::from_secs(2),
        cable: true,
        ..PairConfig::default()
    })?;
    // Before the agent runs, what it would meet can be looked at all the same.
    let (found, code) = doctor(&pair.nodes[0])?;
    assert_eq!(code, 2, "{found:?}");
    for (check, wanted) in [
        ("agent", "fail"),
        ("secrets", "pass"),
        ("device", "pass"),
        ("partner_reachable", "pass"),
        ("gateway", "pass"),
        ("packet_length", "pass"),
        ("replication", "skip"),
    ] {
        assert_eq!(
            found.get(check).map(String::as_str),
            Some(wanted),
            "{check}"
        );
    }

    pair.start()?;
    pair.wait_in_sync()?;
    let active = pair.active()?;
    let (here, there) = match &pair.nodes {
        [first, second] if active == 0 => (first, second),
        [first, second] => (second, first),
    };
    for node in [here, there] {
        becomes(node, "replication", "pass")?;
        let (found, code) = doctor(node)?;
        let failed: Vec<_> = found
            .iter()
            .filter(|(_, verdict)| *verdict == "fail")
            .collect();
        ensure!(failed.is_empty() && code < 2, "{code}: {failed:?}");
    }
    assert_eq!(verdict(here, "returns")?, "pass");

    let partner = config::back(there.number).to_string();
    let said = here.command(&["ping", &partner, "-i", "back", "-c", "2"])?;
    ensure!(said.ends_with("2 sent, 2 received\n"), "{said}");

    let forward = |value| here.netns.sysctl("net/ipv4/ip_forward", value);
    forward("0")?;
    becomes(here, "kernel_settings", "fail")?;
    forward("1")?;
    becomes(here, "kernel_settings", "pass")?;

    // A gateway that does not heed gratuitous ARP.
    let neighbour = format!("{SHARED_FRONT} dev front");
    pair.client.ip(&format!(
        "neigh replace {neighbour} lladdr 02:00:00:00:77:77 nud permanent"
    ))?;
    becomes(here, "returns", "fail")?;
    pair.client.ip(&format!("neigh del {neighbour}"))?;
    becomes(here, "returns", "pass")?;

    let narrow = |mtu: u32| {
        pair.switch
            .netns()
            .ip(&format!("link set {} mtu {mtu}", there.back.name()))
    };
    narrow(1300)?;
    becomes(here, "packet_length", "fail")?;
    becomes(here, "partner_reachable", "pass")?;
    narrow(1500)?;
    becomes(here, "packet_length", "pass")?;

    // The cable alone moves nothing, and is told.
    let cable = here.cable.as_ref().context("no cable")?;
    cable.cut(Cut::Both);
    becomes(here, "partner_heard", "fail")?;
    cable.cut(Cut::Nothing);
    becomes(here, "partner_heard", "pass")?;

    pair.client.ip("link set front down")?;
    becomes(here, "gateway", "fail")?;
    pair.client.ip("link set front up")?;
    becomes(here, "gateway", "pass")?;
    Ok(())
}
