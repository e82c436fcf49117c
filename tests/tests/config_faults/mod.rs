//! What goes wrong with a configuration: mistakes, crashes, strangers, full disks.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::fault;
use ha_agent::keys::PairKeys;
use ha_tests::clock::{now_ns, until};
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::load::Load;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{
    CONFIG, NO_NODE, PATIENCE, alarmed, configuration, nth, nth_mut, said, servers, standing,
    weight, whole,
};

/// One file, twelve mistakes of twelve kinds; each with a piece of what is said of it.
const MISTAKES: [(&str, &str, &str); 12] = [
    (
        "version: 1\n",
        "version: 9\n",
        "version 9 of the format is not known",
    ),
    ("  name: lb", "  nome: x\n  name: lb", "unknown key `nome`"),
    (
        "pacify: { restarts: 0 }",
        "pacify: { restarts: 99 }",
        "99 is out of range",
    ),
    (
        "  virtual_id: 77\n",
        "  virtual_id: 777\n",
        "777 is out of range",
    ),
    (
        "  timeout: 1000ms\n",
        "  timeout: 1000\n",
        "`1000` is not a duration",
    ),
    (
        "  transport: auto\n",
        "  transport: pigeon\n",
        "`transport: pigeon` is not known",
    ),
    (
        "  virtual_mac: false\n",
        "  virtual_mac: no\n",
        "`no` is neither true nor false",
    ),
    (
        "  multicast_interface: back\n",
        "  multicast_interface: rear\n",
        "no interface named `rear`",
    ),
    (
        "address: 10.77.2.1/24",
        "address: 10.77.9.1/24",
        "shared address 10.77.9.1 is not in the subnet",
    ),
    (
        "    port: 80\n",
        "    port: 70000\n",
        "70000 is out of range",
    ),
    (
        "    scheduler: mh\n",
        "    scheduler: best\n",
        "`scheduler: best` is not known",
    ),
    (
        "port: 8080, weight: 1 }",
        "port: 8080, wieght: 1 }",
        "unknown key `wieght`",
    ),
];

pub(crate) fn mistakes() -> Result<()> {
    let pair = whole()?;
    let node = nth(&pair, pair.active()?)?;
    let load = Load::start(&pair.client, SERVICE, 50)?;
    let before = pair.nodes.each_ref().map(Node::status);
    let good = fs::read_to_string(node.config_file())?;
    let mut text = good.clone();
    for (right, wrong, _) in MISTAKES {
        ensure!(text.contains(right), "{right} is not in {text}");
        text = text.replacen(right, wrong, 1);
    }
    fs::write(node.config_file(), &text)?;
    let file = node.config_file().display().to_string();
    let check = {
        let mut command = Command::new(locate::program("ha-agent")?);
        let output = command.args(["check-config", "-f", &file]).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    for (code, text) in [check, said(node, &["reload"])?] {
        ensure!(code == Some(CONFIG), "{code:?}: {text}");
        let located = text.lines().filter(|line| line.contains(": error: "));
        let located: Vec<_> = located.collect();
        ensure!(
            located.len() == 12,
            "{} errors: {located:#?}",
            located.len()
        );
        for (_, _, wanted) in MISTAKES {
            let line = located.iter().find(|line| line.contains(wanted));
            let line = line.with_context(|| format!("no {wanted} in {located:#?}"))?;
            let place = line.strip_prefix(&format!("{file}:")).context("no file")?;
            let mut numbers = place.split(':').map(str::parse::<u32>);
            let (row, column) = (numbers.next(), numbers.next());
            ensure!(
                matches!((row, column), (Some(Ok(1..)), Some(Ok(1..)))),
                "{line}"
            );
        }
    }

    // Neither does a file that is hostile rather than wrong.
    let bomb = {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let item = format!("*a{},", n - 1).repeat(10);
            writeln!(bomb, "a{n}: &a{n} [{item}]")?;
        }
        bomb
    };
    let long = format!(
        "{good}# {}\nx: [{}]\n",
        "y".repeat(5 << 20),
        "1,".repeat(5 << 19)
    );
    for (hostile, wanted) in [(bomb, "too many values"), (long, "too many values")] {
        fs::write(node.config_file(), hostile)?;
        let (code, text) = said(node, &["reload"])?;
        ensure!(
            code == Some(CONFIG) && text.contains(wanted),
            "{code:?}: {text:.2000}"
        );
    }
    fs::write(node.config_file(), &good)?;
    ensure!(node.command(&["reload"])? == "nothing changed\n");

    for (before, node) in before.into_iter().zip(&pair.nodes) {
        let (before, after) = (before?, node.status()?);
        assert_eq!(standing(&before), standing(&after));
        ensure!(after.alarms.is_empty() && node.in_sync());
    }
    let at = now_ns();
    load.fault_at(at);
    let (tcp, _) = load.finish(at, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    Ok(())
}

/// The standby is killed at each step of taking over an edit, with an edit of its own in the file.
pub(crate) fn crash() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let standby = 1 - active;
    let mut number = 10;
    for point in fault::APPLY {
        nth_mut(&mut pair, standby)?.kill()?;
        nth_mut(&mut pair, standby)?.start_dying(point)?;
        pair.wait_whole()?;
        pair.wait_in_sync()?;
        number += 2;
        pair.config.servers = servers(number);
        nth(&pair, standby)?.write_config(&pair.config)?;
        let own = fs::read_to_string(nth(&pair, standby)?.config_file())?;
        pair.config.servers = servers(number + 1);
        nth(&pair, active)?.write_config(&pair.config)?;
        nth(&pair, active)?.reload()?;
        let agent = nth_mut(&mut pair, standby)?
            .agent
            .as_mut()
            .context("no agent")?;
        agent
            .wait(PATIENCE)
            .with_context(|| format!("at {point}"))?;
        let file = fs::read_to_string(nth(&pair, standby)?.config_file())?;
        let new = own.replace(
            &format!("weight: {number} "),
            &format!("weight: {} ", number + 1),
        );
        ensure!(file == own || file == new, "at {point}: {file}");
        nth_mut(&mut pair, standby)?.start()?;
        pair.wait_whole()?;
        pair.wait_in_sync()?;
        let file = fs::read_to_string(nth(&pair, standby)?.config_file())?;
        ensure!(file == new, "after {point}: {file}");
        ensure!(
            weight(nth(&pair, standby)?, 2)? == Some(number + 1),
            "after {point}"
        );
        ensure!(pair.active()? == active, "the role moved at {point}");
        let beside = fs::read_dir(nth(&pair, standby)?.dir())?;
        for entry in beside {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(name != "ha-agent.yaml.new", "left behind after {point}");
        }
        let lost = configuration(nth(&pair, standby)?)?.lost;
        ensure!(
            !lost.is_empty(),
            "the standby's own edit is gone after {point}"
        );
        for kept in lost {
            fs::remove_file(kept)?;
        }
    }
    Ok(())
}

pub(crate) fn stranger() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        ..PairConfig::default()
    })?;
    let key = pair.nodes[1].dir().join("pair.key");
    fs::remove_file(&key)?;
    PairKeys::generate(&key)?;
    pair.config.servers = servers(3);
    pair.nodes[1].write_config(&pair.config)?;
    let files = pair
        .nodes
        .each_ref()
        .map(|node| fs::read_to_string(node.config_file()));
    for node in &mut pair.nodes {
        node.start()?;
    }
    for node in &pair.nodes {
        until("the wrong key is counted", || {
            let counted = |node| Ok::<_, anyhow::Error>(configuration(node)?.channel.wrong_key > 0);
            Ok(node.role().is_some() && counted(node)?)
        })?;
        until("the alarm", || alarmed(node, "configuration_key"))?;
    }
    for (before, node) in files.into_iter().zip(&pair.nodes) {
        assert_eq!(before?, fs::read_to_string(node.config_file())?);
        let configuration = configuration(node)?;
        assert_eq!(configuration.channel.sessions, 0);
        ensure!(configuration.partner.is_none() && !configuration.in_sync);
    }
    ensure!(weight(&pair.nodes[0], 2)? == Some(1) && weight(&pair.nodes[1], 2)? == Some(3));
    Ok(())
}

/// A directory on a disk of its own, which can be full or read-only.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Result<Self> {
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=64k"),
        )?;
        Ok(Self(path))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) -> Result<()> {
        // Until there is no more room.
        let _full = fs::write(self.filler(), vec![0; 1 << 20]);
        ensure!(
            fs::write(self.0.join("more"), [0; 8192]).is_err(),
            "not full"
        );
        fs::remove_file(self.0.join("more"))?;
        Ok(())
    }

    fn set_read_only(&self, on: bool) -> Result<()> {
        let flags = if on {
            MsFlags::MS_RDONLY
        } else {
            MsFlags::empty()
        };
        mount(
            None::<&Path>,
            &self.0,
            None::<&Path>,
            MsFlags::MS_REMOUNT | flags,
            None::<&Path>,
        )?;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Else the rig does it.
        let _gone = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

pub(crate) fn disk() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        ..PairConfig::default()
    })?;
    let [first, second] = &pair.nodes;
    let disks = [
        Disk::mount(first.dir().join("state"))?,
        Disk::mount(second.dir().join("state"))?,
    ];
    pair.start()?;
    pair.wait_in_sync()?;
    let active = pair.active()?;
    let standby = 1 - active;
    let roles = pair.roles();

    // On the active node: the edit is refused, and says why.
    disks.get(active).context(NO_NODE)?.fill()?;
    let good = fs::read_to_string(nth(&pair, active)?.config_file())?;
    pair.config.servers = servers(4);
    nth(&pair, active)?.write_config(&pair.config)?;
    let (code, text) = said(nth(&pair, active)?, &["reload"])?;
    ensure!(code == Some(1) && text.contains("node.state_dir"), "{text}");
    ensure!(weight(nth(&pair, active)?, 2)? == Some(1));
    fs::remove_file(disks.get(active).context(NO_NODE)?.filler())?;
    fs::write(nth(&pair, active)?.config_file(), good)?;

    // On the standby: both go on with what they have, say why, and agree when there is room again.
    for (new, read_only) in [(5, false), (6, true)] {
        let old = weight(nth(&pair, standby)?, 2)?;
        let before = fs::read_to_string(nth(&pair, standby)?.config_file())?;
        if read_only {
            // Not while the history has its file open.
            let disk = disks.get(standby).context(NO_NODE)?;
            until("nothing is being written", || {
                Ok(disk.set_read_only(true).is_ok())
            })?;
        } else {
            disks.get(standby).context(NO_NODE)?.fill()?;
        }
        pair.config.servers = servers(new);
        nth(&pair, active)?.write_config(&pair.config)?;
        nth(&pair, active)?.reload()?;
        for node in &pair.nodes {
            until("the refusal is told", || {
                alarmed(node, "configuration_refused")
            })?;
        }
        ensure!(weight(nth(&pair, standby)?, 2)? == old);
        assert_eq!(
            before,
            fs::read_to_string(nth(&pair, standby)?.config_file())?
        );
        if read_only {
            disks.get(standby).context(NO_NODE)?.set_read_only(false)?;
        } else {
            fs::remove_file(disks.get(standby).context(NO_NODE)?.filler())?;
        }
        pair.wait_in_sync()?;
        ensure!(weight(nth(&pair, standby)?, 2)? == Some(new));
    }
    assert_eq!(roles, pair.roles());
    Ok(())
}
