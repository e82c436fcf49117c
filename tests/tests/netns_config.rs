//! The configuration of a running pair: an edit on the active node reaches the other at once, whole or not at
//! all, and nobody else can make one.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_agent::fault;
use ha_agent::keys::PairKeys;
use ha_agent::status::model::{Configuration, Role, Status};
use ha_tests::clock::now_ns;
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::{PairConfig, RealServer};
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::load::Load;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// TCP port of the configuration channel.
const PORT: u16 = 6973;
/// Error in the configuration: `EX_CONFIG` of sysexits.h.
const CONFIG: i32 = 78;
/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo", "ha-faulty"],
        &[
            ("an_edit_is_live_on_the_standby_at_once", edit),
            ("an_edit_on_the_standby_is_refused_and_kept", elsewhere),
            ("a_cut_channel_is_shown_and_heals", cut),
            ("what_needs_a_restart_is_pushed_and_told", restart),
            ("twelve_mistakes_are_twelve_messages", mistakes),
            ("a_crash_leaves_one_whole_version", crash),
            ("a_partner_with_another_key_is_refused", stranger),
            ("a_full_or_read_only_disk_changes_nothing", disk),
        ],
    )
}

fn whole() -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        ..PairConfig::default()
    })?;
    pair.start()?;
    pair.wait_in_sync()?;
    Ok(pair)
}

const NO_NODE: &str = "no such node";

fn nth(pair: &Pair, index: usize) -> Result<&Node> {
    pair.nodes.get(index).context(NO_NODE)
}

fn nth_mut(pair: &mut Pair, index: usize) -> Result<&mut Node> {
    pair.nodes.get_mut(index).context(NO_NODE)
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
    while !done()? {
        if now_ns() > end {
            bail!("not within {PATIENCE:?}: {what}");
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn configuration(node: &Node) -> Result<Configuration> {
    node.status()?.configuration.context("no configuration")
}

fn alarmed(node: &Node, name: &str) -> Result<bool> {
    let alarms = node.status()?.alarms;
    Ok(alarms.iter().any(|alarm| alarm.name == name))
}

/// The weight of a real server as a node has it in force.
fn weight(node: &Node, number: u8) -> Result<Option<u32>> {
    let address = format!("{}:", RealServer { number, weight: 0 }.address());
    let services = node.services()?.services;
    let mut servers = services.iter().flat_map(|service| &service.real_servers);
    let found = servers.find(|server| server.address.starts_with(&address));
    Ok(found.map(|server| server.weight))
}

/// Figures, for whoever reads the log.
#[expect(clippy::print_stderr, reason = "a figure for people")]
fn report(figure: &str) {
    eprintln!("{figure}");
}

fn servers(weight: u32) -> Vec<RealServer> {
    [(1, 1), (2, weight)]
        .map(|(number, weight)| RealServer { number, weight })
        .to_vec()
}

/// A program's exit code and what it complained of.
fn said(node: &Node, words: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(locate::program("ha-agent")?);
    command.args(words);
    command.arg("--socket").arg(node.dir().join("run/ctl.sock"));
    let output = node.netns.run(|| Ok(command.output()?))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), text))
}

/// Everything of a status that must not change while nothing happens.
fn standing(status: &Status) -> (Role, u64, u32, u64) {
    (
        status.role,
        status.term,
        status.process,
        status.config_generation,
    )
}

fn edit() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let standby = 1 - active;
    // The other node's file has remarks of its own.
    let file = nth(&pair, standby)?.config_file();
    let own = fs::read_to_string(&file)?.replace("node:\n", "# Mine.\nnode:\n  # Mine, too.\n");
    fs::write(&file, own)?;
    let before = pair.nodes.each_ref().map(Node::status);
    let load = Load::start(&pair.client, SERVICE, 50)?;
    let capture = pair.capture()?;

    let mut delays = Vec::new();
    for new in 2..9 {
        pair.config.servers = servers(new);
        let node = nth(&pair, active)?;
        node.write_config(&pair.config)?;
        let at = now_ns();
        let printed = node.command(&["reload"])?;
        ensure!(printed.contains("weight"), "no difference: {printed}");
        until("the other node has the edit", || {
            Ok(weight(nth(&pair, standby)?, 2)? == Some(new))
        })?;
        delays.push(Duration::from_nanos(now_ns() - at));
    }
    delays.sort();
    report(&format!("from the command to the other node: {delays:?}"));
    ensure!(
        delays.get(delays.len() / 2).copied().unwrap_or_default() < Duration::from_secs(1),
        "{delays:?}"
    );
    pair.wait_in_sync()?;

    let text = fs::read_to_string(&file)?;
    ensure!(
        text.contains("# Mine.\n") && text.contains("# Mine, too."),
        "{text}"
    );
    ensure!(text.contains(&format!("name: lb{}", standby + 1)), "{text}");
    let frames = capture.finish()?;
    let on_channel: Vec<_> = frames
        .iter()
        .filter(|frame| {
            let ports = frame.flow().filter(|flow| flow.protocol == 6);
            ports.is_some_and(|flow| flow.ports.0 == PORT || flow.ports.1 == PORT)
        })
        .collect();
    ensure!(on_channel.len() > 50, "{} frames", on_channel.len());
    let key = fs::read_to_string(nth(&pair, active)?.dir().join("pair.key"))?;
    let key = key.lines().find_map(|line| line.strip_prefix("1 "));
    let key = key.context("no key")?;
    for word in [
        "virtual_services",
        "real_servers",
        "10.77.2.22",
        "generation",
        key,
    ] {
        let shown = on_channel.iter().any(|frame| {
            frame
                .bytes
                .windows(word.len())
                .any(|w| w == word.as_bytes())
        });
        ensure!(!shown, "{word} can be read on the way");
    }
    for (before, node) in before.into_iter().zip(&pair.nodes) {
        let (before, after) = (before?, node.status()?);
        assert_eq!(before.process, after.process);
        assert_eq!((before.role, before.term), (after.role, after.term));
        ensure!(after.alarms.is_empty(), "{:#?}", after.alarms);
        ensure!(after.config_generation >= before.config_generation + 7);
    }
    let pushed = nth(&pair, active)?.command(&["push"])?;
    ensure!(pushed.contains("both nodes have version"), "{pushed}");
    let shown = nth(&pair, standby)?.command(&["config", "show"])?;
    ensure!(shown == text, "{shown}");
    let difference = nth(&pair, standby)?.command(&["config", "diff"])?;
    ensure!(difference == "no difference\n", "{difference}");

    // And the pair does with it what it is for.
    let at = now_ns();
    load.fault_at(at);
    nth(&pair, active)?.failover()?;
    let (tcp, _) = load.finish(at, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    Ok(())
}

fn elsewhere() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let standby = 1 - active;
    let before = nth(&pair, standby)?.status()?;
    pair.config.servers = servers(7);
    nth(&pair, standby)?.write_config(&pair.config)?;
    let refused = fs::read_to_string(nth(&pair, standby)?.config_file())?;
    let (code, text) = said(nth(&pair, standby)?, &["reload"])?;
    ensure!(code == Some(1), "{code:?}: {text}");
    let named = format!("edit the file on lb{}", active + 1);
    ensure!(
        text.contains("not active") && text.contains("`virtual_services`") && text.contains(&named),
        "{text}"
    );
    ensure!(weight(nth(&pair, standby)?, 2)? == Some(1));
    assert_eq!(standing(&before), standing(&nth(&pair, standby)?.status()?));
    let difference = nth(&pair, standby)?.command(&["config", "diff"])?;
    ensure!(difference.contains("weight 1 to 7"), "{difference}");

    // The active node's edit comes over it; what was written here is kept.
    pair.config.servers = servers(5);
    pair.change_config()?;
    ensure!(weight(nth(&pair, standby)?, 2)? == Some(5));
    let lost = configuration(nth(&pair, standby)?)?.lost;
    let [kept] = &*lost else { bail!("{lost:?}") };
    assert_eq!(fs::read_to_string(kept)?, refused);
    until("the alarm", || {
        alarmed(nth(&pair, standby)?, "configuration_lost")
    })?;
    ensure!(!alarmed(nth(&pair, active)?, "configuration_lost")?);
    let kept_text = kept.display().to_string();
    let difference = nth(&pair, standby)?.command(&["config", "diff", &kept_text])?;
    ensure!(difference.contains("weight 5 to 7"), "{difference}");
    fs::remove_file(kept)?;
    until("the alarm's end", || {
        Ok(!alarmed(nth(&pair, standby)?, "configuration_lost")?)
    })
}

/// What lets nothing of the channel through, and everything else.
const CUT: &str = "table inet cut {
  chain in { type filter hook input priority 0; tcp dport 6973 drop; tcp sport 6973 drop; }
}";

fn cut() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let standby = 1 - active;
    let before = pair.nodes.each_ref().map(Node::status);
    for node in &pair.nodes {
        node.netns.nft(CUT)?;
    }
    pair.config.servers = servers(6);
    nth(&pair, active)?.write_config(&pair.config)?;
    nth(&pair, active)?.reload()?;
    for node in &pair.nodes {
        until("the pair shows it", || {
            Ok(!node.in_sync() && alarmed(node, "configuration_differs")?)
        })?;
    }
    until("the channel's alarm", || {
        alarmed(nth(&pair, active)?, "configuration_channel")
    })?;
    let (code, text) = said(nth(&pair, active)?, &["push"])?;
    ensure!(code == Some(1) && text.contains("not reached"), "{text}");
    let (code, text) = said(nth(&pair, active)?, &["failover"])?;
    ensure!(code == Some(1) && text.contains("not complete"), "{text}");
    ensure!(weight(nth(&pair, standby)?, 2)? == Some(1));
    for node in &pair.nodes {
        node.netns.nft("delete table inet cut")?;
    }
    let healed = now_ns();
    pair.wait_in_sync()?;
    let took = Duration::from_nanos(now_ns() - healed);
    report(&format!("from healing to the same configuration: {took:?}"));
    ensure!(took < Duration::from_secs(5), "{took:?}");
    ensure!(weight(nth(&pair, standby)?, 2)? == Some(6));
    for (before, node) in before.into_iter().zip(&pair.nodes) {
        until("the alarms' end", || Ok(node.status()?.alarms.is_empty()))?;
        let (before, after) = (before?, node.status()?);
        assert_eq!((before.role, before.term), (after.role, after.term));
    }
    Ok(())
}

fn restart() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    pair.config.ha = vec!["initial_wait: 50ms"];
    nth(&pair, active)?.write_config(&pair.config)?;
    let (code, text) = said(nth(&pair, active)?, &["reload"])?;
    ensure!(
        code == Some(CONFIG) && text.contains("needs a restart"),
        "{text}"
    );
    let pushed = nth(&pair, active)?.command(&["push"])?;
    ensure!(pushed.contains("need a restart"), "{pushed}");
    for node in &pair.nodes {
        let text = fs::read_to_string(node.config_file())?;
        ensure!(text.contains("initial_wait: 50ms"), "{text}");
        until("the alarm", || alarmed(node, "restart_needed"))?;
        ensure!(!alarmed(node, "configuration_differs")?);
    }
    // The standby first; the active node hands over when it stops.
    for index in [1 - active, active] {
        let node = nth_mut(&mut pair, index)?;
        node.signal(nix::sys::signal::Signal::SIGTERM)?;
        if let Some(agent) = &mut node.agent {
            agent.wait(PATIENCE)?;
        }
        node.start()?;
        pair.wait_whole()?;
    }
    pair.wait_in_sync()?;
    for node in &pair.nodes {
        ensure!(!alarmed(node, "restart_needed")?);
        ensure!(configuration(node)?.lost.is_empty());
    }
    Ok(())
}

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

fn mistakes() -> Result<()> {
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
fn crash() -> Result<()> {
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

fn stranger() -> Result<()> {
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

fn disk() -> Result<()> {
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
            disks.get(standby).context(NO_NODE)?.set_read_only(true)?;
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
