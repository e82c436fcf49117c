//! The key of a running pair is changed in the documented steps, while clients go on.

mod common;

use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::keys::PairKeys;
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
            ("the_key_is_changed_under_load", rotation),
            ("a_key_that_only_one_node_has_is_not_heard", one_sided),
        ],
    )
}

const CONNECTIONS: usize = 50;
const NEW_RATE: u64 = 100;
/// Many intervals, so that a refused advertisement would be counted, and more than the timeout.
const WHILE: Duration = Duration::from_millis(1500);

fn whole() -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        ..PairConfig::default()
    })?;
    pair.start()?;
    Ok(pair)
}

/// The lines of the key file that the pair started with, and of a fresh one.
fn lines(pair: &Pair) -> Result<[String; 2]> {
    let [node, _] = &pair.nodes;
    let fresh = node.dir().join("new.key");
    PairKeys::generate(&fresh)?;
    let key = |path| -> Result<String> {
        let text = fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with("1 "));
        Ok(line.context("no key in the file")?.to_owned())
    };
    let new = key(fresh)?.replacen("1 ", "2 ", 1);
    Ok([key(node.dir().join("pair.key"))?, new])
}

/// Gives a node these keys, the signing one first.
fn give(node: &Node, keys: &[&str]) -> Result<()> {
    fs::write(node.dir().join("pair.key"), keys.join("\n"))?;
    node.reload()?;
    Ok(())
}

/// How many advertisements each node has heard, and how many it refused for their key or tag.
fn advertisements(pair: &Pair) -> Result<[[u64; 2]; 2]> {
    let [first, second] = &pair.nodes;
    let of = |node: &Node| -> Result<[u64; 2]> {
        let counters = node.counters()?.counters;
        let sum = |names: &[&str]| {
            let named = counters.iter().filter(|c| names.contains(&c.name.as_str()));
            named.map(|counter| counter.value).sum()
        };
        Ok([
            sum(&["carp_delivered"]),
            sum(&["carp_bad_tag", "carp_unknown_key", "carp_bad_digest"]),
        ])
    };
    Ok([of(first)?, of(second)?])
}

fn standing(pair: &Pair) -> Result<[Status; 2]> {
    let [first, second] = &pair.nodes;
    Ok([first.status()?, second.status()?])
}

fn rotation() -> Result<()> {
    let mut pair = whole()?;
    let [old, new] = lines(&pair)?;
    let before = standing(&pair)?;
    let mut heard = advertisements(&pair)?;
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    let steps: [&[&str]; 3] = [&[&old, &new], &[&new, &old], &[&new]];
    for (step, keys) in steps.into_iter().enumerate() {
        // In either order.
        for node in [step % 2, 1 - step % 2] {
            give(pair.nodes.get(node).context("no such node")?, keys)?;
            load.open(NEW_RATE, WHILE);
            pair.wait_whole()?;
            let now = advertisements(&pair)?;
            for (node, (then, now)) in heard.iter().zip(&now).enumerate() {
                ensure!(now[1] == then[1], "lb{} refused some: {keys:?}", node + 1);
            }
            // The standby hears advertisements, the active node hellos.
            let delivered = |both: &[[u64; 2]; 2]| both[0][0] + both[1][0];
            ensure!(delivered(&now) > delivered(&heard), "silence: {keys:?}");
            for status in standing(&pair)? {
                let partner = status.partner.context("no partner")?;
                ensure!(partner.heard.values().all(|heard| *heard), "{partner:#?}");
            }
            heard = now;
        }
    }
    // Once more the old key is nobody's: what was replicated since is replicated under the new one.
    let after = standing(&pair)?;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.role, before.term), (after.role, after.term));
        assert_eq!(before.process, after.process);
        assert!(after.replication.ready, "{after:#?}");
    }
    let fault_ns = now_ns();
    let active = pair.nodes.get(pair.active()?).context("no such node")?;
    active.failover()?;
    load.fault_at(fault_ns);
    let (tcp, _) = load.finish(fault_ns, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    Ok(())
}

/// Without the first step the partner is not heard, so the test above would notice.
fn one_sided() -> Result<()> {
    let pair = whole()?;
    let [_, new] = lines(&pair)?;
    let [_, then] = advertisements(&pair)?;
    give(&pair.nodes[0], &[&new])?;
    let end = now_ns() + 10_000_000_000;
    while advertisements(&pair)?[1][1] == then[1] {
        ensure!(now_ns() < end, "nothing was refused");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}
