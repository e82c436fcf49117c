//! The web page's API with its own description as the grammar: whatever is sent, a node answers as described.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::clock::until;
use ha_tests::rig::config::{self, PairConfig, SHARED_FRONT};
use ha_tests::rig::fuzzer::{self, Target, Which};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::systemctl::Systemctl;

const PORT: u16 = 8443;
const DESCRIPTION: &str = "/api/v1/openapi.json";
/// Paths of what is done with a node, and can be undone.
const DEEDS: &str = "/(failover|maintenance|resume|push|node/(reboot|shutdown))$";
/// Requests of each manner to each operation.
const REQUESTS: u32 = 40;
/// The same where each may move the role.
const MOVES: u32 = 10;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent"],
        &[("no_request_breaks_a_node", fuzz)],
    )
}

fn fuzz() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        // Nothing is to move by itself, on a machine that does a lot besides.
        timeout: Duration::from_secs(3),
        node: vec!["web: { listen: '[::]:8443' }"],
        ..PairConfig::default()
    })?;
    let mut ways_down = Vec::new();
    for node in &mut pair.nodes {
        let systemctl = Systemctl::make(node.dir())?;
        node.set_environment(&[("PATH", systemctl.before_others()?)]);
        ways_down.push(systemctl);
    }
    pair.start()?;
    let before = processes(&pair)?;

    // What concerns the pair, where there is everything, and nothing moves; a reset is refused there.
    let active = pair.active()?;
    let said = at(
        &pair,
        active,
        &SHARED_FRONT.to_string(),
        (Which::Others, DEEDS),
        REQUESTS,
    )?;
    report(&said);
    for systemctl in &ways_down {
        let asked = systemctl.asked()?;
        ensure!(asked.is_empty(), "{asked}");
    }

    // What moves the role, where the node is reached whatever its role is.
    let own = config::front(1).to_string();
    let said = at(&pair, 0, &own, (Which::Fitting, DEEDS), MOVES)?;
    report(&said);
    // The node was told to go down, and nothing but this took note of it.
    let [one, _other] = ways_down.as_slice() else {
        anyhow::bail!("a pair has two nodes");
    };
    let asked = one.asked()?;
    let down = ["reboot", "poweroff"].map(|word| asked.contains(word));
    ensure!(down == [true, true], "{asked}");

    // All of that left the pair as it was.
    pair.nodes[0].command(&["resume"])?;
    pair.wait_whole()?;
    ensure!(before == processes(&pair)?, "an agent was started anew");
    for node in &pair.nodes {
        let log = node.log();
        let panic = log.lines().skip_while(|line| !line.contains("panicked"));
        let panic: Vec<&str> = panic.take(2).collect();
        ensure!(panic.is_empty(), "lb{}: {panic:?}", node.number);
    }
    Ok(())
}

/// Sends requests to an address that leads to a node.
fn at(
    pair: &Pair,
    node: usize,
    address: &str,
    which: (Which, &str),
    requests: u32,
) -> Result<String> {
    let node = pair.nodes.get(node).context("no such node")?;
    let certificate = node.dir().join("state/web-certificate.pem");
    until("the page is served", || Ok(certificate.exists()))?;
    let target = Target {
        at: &format!("{address}:{PORT}"),
        description: DESCRIPTION,
        certificate: &certificate,
        token: &token(node, which.0)?,
    };
    fuzzer::run(&pair.client, &target, which, requests, node.dir())
}

/// A token for one run of requests.
fn token(node: &Node, which: Which) -> Result<String> {
    let name = format!("{which:?}").to_lowercase();
    let said = node.command(&["web", "add-token", &name, "--access", "operator"])?;
    Ok(said.lines().next().context("a token")?.to_owned())
}

fn processes(pair: &Pair) -> Result<[u32; 2]> {
    let [one, other] = &pair.nodes;
    Ok([one.status()?.process, other.status()?.process])
}

#[expect(clippy::print_stdout, reason = "a figure for whoever runs the test")]
fn report(said: &str) {
    let mut lines = said.lines().skip_while(|line| *line != "Test cases:");
    println!("requests: {}", lines.nth(1).unwrap_or("?").trim());
}
