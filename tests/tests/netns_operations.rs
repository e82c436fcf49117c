//! Backup and restore, reset, reboot and shutdown against a running pair.

mod common;

use std::fs;
use std::process::{Command, ExitCode, Output};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::clock::now_ns;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::systemctl::Systemctl;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip"],
        &["ha-agent"],
        &[
            ("a_restore_is_taken_over_or_undone", restore),
            ("a_reboot_hands_over_first", reboot),
            ("a_reset_hands_over_and_leaves_nothing", reset),
        ],
    )
}

const PATIENCE: Duration = Duration::from_secs(20);

fn whole() -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        ..PairConfig::default()
    })?;
    pair.start()?;
    Ok(pair)
}

/// What a command did, good or not.
fn command(node: &Node, words: &[&str], path: &str) -> Result<Output> {
    let mut command = Command::new(locate::program("ha-agent")?);
    command
        .args(words)
        .arg("-f")
        .arg(node.config_file())
        .env("PATH", path);
    node.netns.run(|| Ok(command.output()?))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// A restore that must not change anything.
fn refused(node: &Node, words: &[&str], why: &str) -> Result<()> {
    let before = fs::read_to_string(node.config_file())?;
    let services = serde_json::to_string(&node.services()?.services.len())?;
    let output = command(node, words, "")?;
    ensure!(!output.status.success(), "{}", said(&output));
    ensure!(said(&output).contains(why), "{}", said(&output));
    ensure!(
        fs::read_to_string(node.config_file())? == before,
        "another file"
    );
    ensure!(serde_json::to_string(&node.services()?.services.len())? == services);
    Ok(())
}

fn restore() -> Result<()> {
    let mut pair = whole()?;
    // What both nodes have alike changes on the active one.
    let (first, second) = pair.active_and_standby()?;
    let (first, second) = (&*first, &*second);
    let (dir, config) = (first.dir(), first.config_file());
    let file = |name: &str| dir.join(name);
    let good = file("good.backup");
    let name = good.to_str().context("text")?;
    let done = first.command(&["backup", name])?;
    ensure!(done.contains("pair.key"), "{done}");
    let backup = fs::read_to_string(&good)?;
    let key = fs::read_to_string(file("pair.key"))?;
    let secret = key.split_whitespace().nth(1).context("no key")?;
    ensure!(backup.contains("virtual_services:") && !backup.contains(secret));
    ensure!(first.command(&["backup", name]).is_err(), "overwritten");
    // A backup is of what is in force, not of what somebody is editing.
    let text = fs::read_to_string(&config)?;
    fs::write(&config, text.replace("port: 80\n", "port: 81\n"))?;
    let edited = first.command(&["backup"])?;
    ensure!(edited.ends_with(&text), "{edited}");

    // Other services by now; the backup's come back without a restart.
    first.reload()?;
    ensure!(first.command(&["backup"])?.contains("port: 81\n"));
    let dry = first.command(&["restore", name, "--dry-run"])?;
    ensure!(
        dry.contains("port 81 to 80") && dry.contains("not changed"),
        "{dry}"
    );
    ensure!(fs::read_to_string(&config)?.contains("port: 81\n"));
    let process = first.status()?.process;
    let done = first.command(&["restore", name])?;
    ensure!(done.contains("restored"), "{done}");
    ensure!(fs::read_to_string(&config)? == text);
    ensure!(first.command(&["backup"])?.ends_with(&text));
    ensure!(first.status()?.process == process);
    ensure!(fs::read_to_string(file("ha-agent.yaml.old"))?.contains("port: 81\n"));

    // A name that no service has is a mistake, not a service without connections.
    refused(
        first,
        &["connections", "--service", "nope"],
        "no virtual service `nope`",
    )?;

    // What cannot be taken over is refused as a whole.
    let other = file("other.backup");
    let other_name = other.to_str().context("text")?;
    fs::write(&config, text.replace("virtual_id: 77", "virtual_id: 78"))?;
    stopped_backup(first, other_name)?;
    fs::write(&config, &text)?;
    refused(first, &["restore", other_name], "cannot take this over")?;
    fs::write(&other, backup.replace("port: 80\n", "port: 82\n"))?;
    refused(first, &["restore", other_name], "checksum")?;
    // The other node's own section stays the other node's; the rest it has already.
    in_sync(first, second)?;
    refused(second, &["restore", name], "`node`")?;
    let done = second.command(&["restore", name, "--part", "pair", "--part", "services"])?;
    ensure!(done.contains("nothing changes"), "{done}");
    let own = format!("name: lb{}", second.number);
    ensure!(fs::read_to_string(second.config_file())?.contains(&own));
    fs::write(&other, first.command(&["backup"])?)?;
    first.command(&["restore", other_name])?;
    // Something else of the pair's is for the active node alone.
    fs::write(&config, text.replace("port: 80\n", "port: 81\n"))?;
    fs::remove_file(&other)?;
    stopped_backup(first, other_name)?;
    fs::write(&config, &text)?;
    in_sync(first, second)?;
    let parts = ["restore", other_name, "--part", "services"];
    refused(second, &parts, "this node is not active")?;
    let done = first.command(&parts)?;
    ensure!(done.contains("port 80 to 81"), "{done}");
    Ok(())
}

/// Waits until both nodes have the same configuration.
fn in_sync(first: &Node, second: &Node) -> Result<()> {
    let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
    let one = |node: &Node| {
        let partner = node.status().ok().and_then(|status| status.partner);
        partner.is_some_and(|partner| partner.config_in_sync)
    };
    while !(one(first) && one(second)) {
        ensure!(now_ns() < end, "not in sync:\n{}", second.log());
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A backup of what the file says, whatever is in force.
fn stopped_backup(node: &Node, name: &str) -> Result<()> {
    let mut command = Command::new(locate::program("ha-agent")?);
    command.args(["backup", name, "--socket", "/nonexistent", "-f"]);
    let output = command.arg(node.config_file()).output()?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(())
}

fn reboot() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let (node, partner) = pair.active_and_standby()?;
    let systemctl = Systemctl::make(node.dir())?;
    let path = systemctl.path()?;

    let unsure = command(node, &["node", "reboot"], path)?;
    ensure!(unsure.status.code() == Some(2), "{}", said(&unsure));
    ensure!(systemctl.asked()?.is_empty() && node.role() == Some(Role::Active));

    // Nobody could take over: nothing happens, unless it is forced.
    partner.signal(Signal::SIGTERM)?;
    ensure!(
        partner
            .agent
            .as_mut()
            .context("no agent")?
            .wait(PATIENCE)?
            .success()
    );
    let refused = command(node, &["node", "reboot", "--yes"], path)?;
    ensure!(refused.status.code() == Some(1), "{}", said(&refused));
    ensure!(said(&refused).contains("--force"), "{}", said(&refused));
    ensure!(systemctl.asked()?.is_empty() && node.role() == Some(Role::Active));
    let forced = command(node, &["node", "shutdown", "--yes", "--force"], path)?;
    ensure!(forced.status.success(), "{}", said(&forced));
    ensure!(systemctl.asked()? == "poweroff\n");

    partner.start()?;
    pair.wait_whole()?;
    let (node, partner) = pair.active_and_standby()?;
    let done = command(node, &["node", "reboot", "--yes"], path)?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(said(&done).contains("took over within"), "{}", said(&done));
    ensure!(systemctl.asked()? == "reboot\n");
    ensure!(partner.role() == Some(Role::Active));
    assert_eq!(pair.active()?, 1 - active);

    // A standby just goes; without an agent that is to be said.
    let node = pair.nodes.get_mut(active).context("no such node")?;
    ensure!(
        command(node, &["node", "shutdown", "--yes"], path)?
            .status
            .success()
    );
    ensure!(systemctl.asked()? == "poweroff\n");
    node.kill()?;
    let absent = command(node, &["node", "reboot", "--yes"], path)?;
    ensure!(absent.status.code() == Some(3), "{}", said(&absent));
    ensure!(systemctl.asked()?.is_empty());
    // No systemctl: it says so after the hand-over, and fails.
    let missing = command(
        node,
        &["node", "reboot", "--yes", "--force"],
        "/nonexistent",
    )?;
    ensure!(missing.status.code() == Some(1), "{}", said(&missing));
    Ok(())
}

fn reset() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let node = pair.nodes.get_mut(active).context("no such node")?;
    let unsure = command(node, &["reset"], "")?;
    ensure!(unsure.status.code() == Some(1), "{}", said(&unsure));
    for named in ["ha-agent.yaml", "pair.key", "state", "--yes"] {
        ensure!(said(&unsure).contains(named), "{named}: {}", said(&unsure));
    }
    ensure!(node.role() == Some(Role::Active) && node.config_file().exists());

    let done = command(node, &["reset", "--yes"], "")?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(said(&done).contains("took over within"), "{}", said(&done));
    // In order: a service manager that restarts on failure leaves it alone.
    ensure!(
        node.agent
            .as_mut()
            .context("no agent")?
            .wait(PATIENCE)?
            .success()
    );
    ensure!(!node.config_file().exists() && !node.dir().join("pair.key").exists());
    ensure!(fs::read_dir(node.dir().join("state"))?.next().is_none());
    ensure!(!node.bpf_dir().exists());
    let partner = pair.nodes.get(1 - active).context("no such node")?;
    ensure!(partner.role() == Some(Role::Active));

    // Without an agent, and with what a crash left in the kernel.
    let node = pair.nodes.get_mut(1 - active).context("no such node")?;
    node.kill()?;
    ensure!(node.bpf_dir().exists());
    let done = command(node, &["reset", "--yes"], "")?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(!node.config_file().exists() && !node.bpf_dir().exists());
    let again = command(node, &["reset", "--yes"], "")?;
    ensure!(again.status.code() == Some(78), "{}", said(&again));
    Ok(())
}
