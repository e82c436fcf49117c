//! Interval, timeout and what is demanded of advertisements change under load, by reload on one node after the
//! other; and what happens meanwhile is written down and replays.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Status;
use ha_tests::clock::now_ns;
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::load::Load;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("timing_changes_under_load", timing),
            ("a_recording_of_a_failover_replays", recording),
        ],
    )
}

const CONNECTIONS: usize = 50;
const NEW_RATE: u64 = 100;
/// More than the longer timeout.
const WHILE: Duration = Duration::from_millis(900);

fn config(interval_ms: u64) -> PairConfig {
    PairConfig {
        interval: Duration::from_millis(interval_ms),
        timeout: Duration::from_millis(3 * interval_ms),
        ..PairConfig::default()
    }
}

fn whole(config: PairConfig) -> Result<Pair> {
    let mut pair = Pair::build(config)?;
    pair.start()?;
    Ok(pair)
}

fn standing(pair: &Pair) -> Result<[Status; 2]> {
    let [first, second] = &pair.nodes;
    Ok([first.status()?, second.status()?])
}

/// Shorter and longer again, on the active node, which tells the other: the role stays, nothing is lost, and
/// no alarm that the nodes differ stays.
fn timing() -> Result<()> {
    let mut pair = whole(config(200))?;
    let before = standing(&pair)?;
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    load.open(NEW_RATE, Duration::from_secs(1));
    let from_ns = now_ns();
    load.fault_at(from_ns);
    for interval in [100, 200] {
        pair.config = config(interval);
        let changes = pair.change_config()?;
        let named = |key: &str| changes.iter().any(|change| change.starts_with(key));
        ensure!(named("ha.timeout "), "{changes:?}");
        sleep(WHILE);
        pair.wait_whole()?;
    }
    for (before, after) in before.iter().zip(&standing(&pair)?) {
        assert_eq!((before.role, before.term), (after.role, after.term));
        assert_eq!(before.process, after.process);
        let known = |name: &str| before.alarms.iter().any(|alarm| alarm.name == name);
        let fresh: Vec<_> = after
            .alarms
            .iter()
            .filter(|alarm| !known(&alarm.name))
            .collect();
        assert!(fresh.is_empty(), "{fresh:#?}");
    }
    let (tcp, _) = load.finish(from_ns, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    Ok(())
}

/// Waits until a recording has ended, and reads it.
fn recorded(file: &PathBuf) -> Result<String> {
    let end = now_ns() + 30_000_000_000;
    loop {
        let text = fs::read_to_string(file)?;
        if text.lines().last() == Some("# complete") {
            return Ok(text);
        }
        ensure!(now_ns() < end, "no end of the recording");
        sleep(Duration::from_millis(100));
    }
}

fn recording() -> Result<()> {
    let mut pair = whole(config(100))?;
    let record = |node: &Node| -> Result<PathBuf> {
        let file = node.dir().join("election.log");
        let name = file.to_str().context("no such path")?.to_owned();
        node.command(&["record", &name, "--seconds", "10"])?;
        ensure!(
            node.command(&["record", &format!("{name}2")]).is_err(),
            "a second recording beside the first"
        );
        Ok(file)
    };
    let files = [record(&pair.nodes[0])?, record(&pair.nodes[1])?];
    let active = pair.active()?;
    sleep(Duration::from_millis(500));
    pair.nodes.get(active).context("no such node")?.failover()?;
    pair.wait_whole()?;
    let key = fs::read_to_string(pair.nodes[0].dir().join("pair.key"))?;
    let secret = key.split_whitespace().last().context("no key")?.to_owned();
    for (node, file) in pair.nodes.iter().zip(&files) {
        let text = recorded(file)?;
        ensure!(
            text.contains("role_changed"),
            "no failover in {}",
            file.display()
        );
        ensure!(!text.contains(&secret), "the key in {}", file.display());
        let name = file.to_str().context("no such path")?;
        let answer = node.command(&["replay", name])?;
        ensure!(answer.contains("no difference"), "{answer}");
    }
    Ok(())
}
