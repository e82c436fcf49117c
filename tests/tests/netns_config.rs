//! The configuration of a running pair: an edit on the active node reaches the other at once, whole or not at
//! all, and nobody else can make one.

mod common;
mod config_faults;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_agent::status::model::{Configuration, Role, Status};
use ha_tests::clock::{PATIENCE, now_ns, until};
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::{PairConfig, RealServer};
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::load::Load;

/// TCP port of the configuration channel.
const PORT: u16 = 6973;
/// Error in the configuration: `EX_CONFIG` of sysexits.h.
const CONFIG: i32 = 78;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo", "ha-faulty"],
        &[
            ("an_edit_is_live_on_the_standby_at_once", edit),
            ("an_edit_on_the_standby_is_refused_and_kept", elsewhere),
            ("a_cut_channel_is_shown_and_heals", cut),
            ("what_needs_a_restart_is_pushed_and_told", restart),
            (
                "twelve_mistakes_are_twelve_messages",
                config_faults::mistakes,
            ),
            ("a_crash_leaves_one_whole_version", config_faults::crash),
            (
                "a_partner_with_another_key_is_refused",
                config_faults::stranger,
            ),
            (
                "a_full_or_read_only_disk_changes_nothing",
                config_faults::disk,
            ),
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
        delays.get(delays.len() / 2).copied().unwrap_or_default() < Duration::from_secs(3),
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
        // While the versions cross, either node may see the other's as another one.
        until("the alarms' end", || Ok(node.status()?.alarms.is_empty()))?;
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
    ensure!(took < Duration::from_secs(15), "{took:?}");
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
        node.wait_role(Role::Standby, PATIENCE)?;
        // Until the other one has been started as well, their settings differ.
        until("the tables are complete", || {
            let statuses = pair.nodes.each_ref().map(Node::status);
            Ok(statuses
                .iter()
                .flatten()
                .filter(|status| status.replication.ready)
                .count()
                == statuses.len())
        })?;
    }
    pair.wait_whole()?;
    pair.wait_in_sync()?;
    for node in &pair.nodes {
        ensure!(!alarmed(node, "restart_needed")?);
        ensure!(configuration(node)?.lost.is_empty());
    }
    Ok(())
}
