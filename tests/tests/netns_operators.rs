//! Operators with a stock OpenSSH client on the configuration channel: what they may do, and that it is all they may do.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::events::EventPage;
use ha_agent::status::model::{Role, Status};
use ha_tests::clock::{PATIENCE, until};
use ha_tests::rig::config;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::pair::{Node, Pair};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

/// What OpenSSH's client ends with when it got nowhere: ssh(1).
const NOWHERE: Option<i32> = Some(255);

fn main() -> ExitCode {
    common::run(
        &["ip", "nft", "ssh", "ssh-keygen"],
        &["ha-agent"],
        &[("operators_do_three_things_and_nothing_else", operators)],
    )
}

/// A host on the back network, with keys of its own.
struct Desk<'a> {
    pair: &'a Pair,
    home: TempDir,
}

impl Desk<'_> {
    fn key(&self, name: &str) -> Result<String> {
        let file = self.home.path().join(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]);
        ensure!(command.arg(&file).status()?.success(), "no key");
        Ok(fs::read_to_string(file.with_extension("pub"))?)
    }

    fn ssh(&self, who: &str, node: &Node, user: &str, words: &[&str]) -> Result<Output> {
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        let mut command = Command::new("ssh");
        command.args(["-F", "/dev/null", "-T", "-p", "6973"]);
        command.args([
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "IdentityAgent=none",
        ]);
        // The first key that is seen is the host's for good.
        command.args(["-o", "StrictHostKeyChecking=accept-new"]);
        command.arg("-o").arg(option(
            "UserKnownHostsFile",
            &self.home.path().join("known_hosts"),
        ));
        command.arg("-i").arg(self.home.path().join(who));
        let (flags, rest): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| **word == "-s");
        command.args(flags);
        command.arg(format!("{user}@{}", config::back(node.number)));
        command.args(rest);
        let host = self.pair.reals.first().context("no host")?;
        let netns = fs::File::open(host.path())?;
        // SAFETY: between fork and exec only `setns`, a system call, is made; nothing allocates.
        unsafe { command.pre_exec(move || Ok(setns(&netns, CloneFlags::CLONE_NEWNET)?)) };
        Ok(command.stdin(std::process::Stdio::null()).output()?)
    }

    fn says(&self, node: &Node, words: &[&str]) -> Result<String> {
        let output = self.ssh("alice", node, "operator", words)?;
        ensure!(output.status.success(), "{words:?}: {}", said(&output));
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn operators() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        node: vec!["operators_file: '{dir}/operators'"],
        ..PairConfig::default()
    })?;
    pair.start()?;
    pair.wait_in_sync()?;
    let active = pair.active()?;
    let desk = Desk {
        pair: &pair,
        home: tempfile::tempdir()?,
    };
    let alice = desk.key("alice")?;
    desk.key("mallory")?;
    let node = pair.nodes.get(active).context("no such node")?;
    let file = node.dir().join("operators");
    let counted = |node: &Node| -> Result<_> {
        let status = node.status()?;
        Ok(status.configuration.context("no configuration")?.channel)
    };

    // Nobody yet: the file is not there.
    let output = desk.ssh("alice", node, "operator", &["status"])?;
    ensure!(output.status.code() == NOWHERE, "{}", said(&output));
    fs::write(&file, &alice)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;

    let text = desk.says(node, &["status"])?;
    let name = format!("lb{}", node.number);
    ensure!(text.contains(&name) && text.contains("active"), "{text}");
    let status: Status = serde_json::from_str(&desk.says(node, &["status", "--json"])?)?;
    ensure!(status.node.name == name && status.role == Role::Active);
    let shown = desk.says(node, &["config", "show"])?;
    ensure!(shown == fs::read_to_string(node.config_file())?, "{shown}");

    // Everything else an SSH client can want.
    for words in [
        &["reload"][..],
        &["status;", "reboot"],
        &["config"],
        &["maintenance", "on"],
        &["/bin/sh"],
        &[""],
    ] {
        let output = desk.ssh("alice", node, "operator", words)?;
        ensure!(!output.status.success(), "{words:?}: {}", said(&output));
    }
    let output = desk.ssh("alice", node, "operator", &["stop"])?;
    ensure!(output.status.code() == Some(2), "{}", said(&output));
    ensure!(
        said(&output).contains("an operator may say: status"),
        "{}",
        said(&output)
    );
    for words in [
        &["-s", "sftp"][..],
        &["-s", "ha-agent-configuration"],
        &["-s", "ha-agent-pairing"],
        &[],
    ] {
        let output = desk.ssh("alice", node, "operator", words)?;
        ensure!(
            !output.status.success() && output.stdout.is_empty(),
            "{words:?}: {}",
            said(&output)
        );
    }
    // Neither somebody else, nor an operator as somebody else.
    for (who, user) in [
        ("mallory", "operator"),
        ("alice", "root"),
        ("mallory", "ha-agent"),
    ] {
        let output = desk.ssh(who, node, user, &["status"])?;
        ensure!(output.status.code() == NOWHERE, "{who}: {}", said(&output));
    }
    let channel = counted(node)?;
    ensure!(
        channel.operators >= 10 && channel.operators_refused >= 2,
        "{channel:?}"
    );
    ensure!(channel.malformed == 0, "{channel:?}");
    ensure!(node.role() == Some(Role::Active) && node.in_sync());

    // A failover, and who wanted it.
    let other = pair.nodes.get(1 - active).context("no such node")?;
    let text = desk.says(node, &["failover"])?;
    ensure!(text.contains("took over"), "{text}");
    other.wait_role(Role::Active, PATIENCE)?;
    let output = desk.ssh("alice", node, "operator", &["failover"])?;
    ensure!(
        output.status.code() == Some(1) && said(&output).contains("not active"),
        "{}",
        said(&output)
    );
    // It is written a moment after the answer.
    for (kind, what) in [
        ("command", "failover"),
        ("command_refused", "failover"),
        ("command_refused", "something else"),
    ] {
        until(&format!("{kind} {what} of alice in the history"), || {
            let page: EventPage = serde_json::from_str(&node.command(&["events", "--json"])?)?;
            let wanted = (kind, what, "operator alice");
            let mut events = page.events.iter();
            Ok(events.any(|event| (&*event.event, &*event.what, &*event.who) == wanted))
        })?;
    }

    // Who leaves the file is out at once.
    fs::write(&file, "# Nobody.\n")?;
    let output = desk.ssh("alice", node, "operator", &["status"])?;
    ensure!(output.status.code() == NOWHERE, "{}", said(&output));
    // And so is everybody if others may write it.
    fs::write(&file, &alice)?;
    desk.says(node, &["status"])?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    let output = desk.ssh("alice", node, "operator", &["status"])?;
    ensure!(output.status.code() == NOWHERE, "{}", said(&output));
    Ok(())
}
