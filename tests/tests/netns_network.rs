//! What the node does to the network around its kernel and what the network does to it: the nftables
//! table, interfaces that lose their XDP program or are made anew.

mod common;

use std::fs;
use std::net::TcpStream;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::pair::{Node, Pair};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("the_guard_comes_and_goes_with_the_agent", guard_installed),
            ("without_xdp_the_guard_keeps_the_kernel_silent", guard_holds),
        ],
    )
}

fn config() -> PairConfig {
    PairConfig {
        interval: Duration::from_millis(300),
        timeout: Duration::from_secs(2),
        ..PairConfig::default()
    }
}

fn whole(config: PairConfig) -> Result<Pair> {
    let mut pair = Pair::build(config)?;
    pair.start()?;
    Ok(pair)
}

fn nft(node: &Node, arguments: &[&str]) -> Result<String> {
    node.netns.output(Command::new("nft").args(arguments))
}

fn guard_installed() -> Result<()> {
    let mut pair = Pair::build(config())?;
    let node = &mut pair.nodes[0];
    // Left by another version: replaced, not added to.
    node.netns
        .nft("table inet ha_agent {\n chain old {\n }\n}")?;
    node.start()?;
    node.wait_role(Role::Active, Duration::from_secs(20))?;
    let table = nft(node, &["list", "table", "inet", "ha_agent"])?;
    for expected in [
        "hook prerouting priority raw; policy accept;",
        "10.77.1.100 . tcp . 80",
        "10.77.1.100 . udp . 80",
        "10.77.2.21 . tcp . 8080",
        "elements = { 10.77.1.11, 10.77.2.11 }",
        "ip daddr . meta l4proto . th dport @services counter packets 0 bytes 0 drop",
        "ip daddr != @own ip saddr . meta l4proto . th sport @real_servers counter",
    ] {
        ensure!(table.contains(expected), "no `{expected}` in\n{table}");
    }
    ensure!(!table.contains("old"), "{table}");
    ensure!(node.status()?.alarms.is_empty(), "{:?}", node.status()?);

    node.signal(Signal::SIGTERM)?;
    let agent = node.agent.as_mut().context("no agent")?;
    agent.wait(Duration::from_secs(10))?;
    let left = nft(node, &["list", "tables"])?;
    ensure!(!left.contains("ha_agent"), "{left}");
    Ok(())
}

/// The agent is frozen, its program detached, its address still there: what does the kernel say to a
/// client?
fn connect_without_xdp(guarded: bool) -> Result<std::io::Result<TcpStream>> {
    let pair = whole(config())?;
    let node = pair.nodes.get(pair.active()?).context("no such node")?;
    if !guarded {
        nft(node, &["delete", "table", "inet", "ha_agent"])?;
    }
    node.signal(Signal::SIGSTOP)?;
    fs::remove_file(node.bpf_dir().join("link_front"))?;
    let connected = pair.client.run(|| {
        let to = SERVICE.into();
        Ok(TcpStream::connect_timeout(&to, Duration::from_secs(20)))
    })?;
    node.signal(Signal::SIGCONT)?;
    Ok(connected)
}

fn guard_holds() -> Result<()> {
    // Without the table the kernel answers for a port at which nobody listens.
    let refused = connect_without_xdp(false)?.map_err(|error| error.kind());
    assert_eq!(
        refused.err(),
        Some(std::io::ErrorKind::ConnectionRefused),
        "the experiment shows nothing"
    );
    // With it the client hears nothing until the other node takes over, and then is served.
    connect_without_xdp(true)?.context("with the guard")?;
    Ok(())
}
