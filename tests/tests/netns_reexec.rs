//! Agents that are replaced in place under load, and what happens if that cannot be.
//!
//! Times are bounded generously: the machine that runs this stalls by itself.

mod common;

use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::proto::carp::REEXEC_LEASE;
use ha_agent::status::model::{Role, Square, Status};
use ha_tests::clock::now_ns;
use ha_tests::demo::SERVICE;
use ha_tests::rig::arp;
use ha_tests::rig::config::{CLIENT, PairConfig, SHARED_FRONT};
use ha_tests::rig::pair::Pair;
use ha_tests::traffic::load::Load;
use ha_tests::traffic::udp::EVERY;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("an_active_agent_is_replaced_under_load", active),
            ("a_standby_agent_is_replaced_under_load", standby),
            ("sigusr2_replaces_the_agent", signalled),
            ("nothing_is_given_up_for_a_bad_program", bad_program),
            ("a_program_that_dies_at_once_is_replaced", dying),
            ("a_node_that_keeps_crashing_is_pacified", pacified),
            ("maintenance_survives_a_restart", maintenance),
        ],
    )
}

const CONNECTIONS: usize = 1000;
const NEW_RATE: u64 = 300;
/// Probes that may get no answer: those of 300 ms. A machine that stalls sends fewer, and answers late; how long a
/// silence the clients notice is for the benchmark to say.
const LOST_MAX: u128 = 300_000 / EVERY.as_micros();
/// How much later than it should something may happen on such a machine.
const SLACK: Duration = Duration::from_secs(5);

fn whole() -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        ..PairConfig::default()
    })?;
    for node in &mut pair.nodes {
        node.install()?;
    }
    pair.start()?;
    Ok(pair)
}

fn statuses(pair: &Pair) -> Result<[Status; 2]> {
    let [first, second] = &pair.nodes;
    Ok([first.status()?, second.status()?])
}

/// Replaces the agent of one node while clients go on, and demands that nobody notices.
fn replaced_under_load(which: impl Fn(usize) -> usize) -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let before = statuses(&pair)?;
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    load.open(NEW_RATE, Duration::from_secs(1));
    let node = pair.nodes.get_mut(which(active)).context("no such node")?;
    node.install()?;
    ensure!(node.running()?.to_string_lossy().ends_with(" (deleted)"));
    // On a busy machine the replacement itself takes seconds; what is answered meanwhile counts.
    let fault_ns = now_ns();
    load.fault_at(fault_ns);
    node.reexec().with_context(|| node.log())?;
    ensure!(!node.running()?.to_string_lossy().ends_with(" (deleted)"));
    pair.wait_whole()?;
    let (tcp, udp) = load.finish(fault_ns, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    assert_eq!(
        (udp.lost_flows, udp.moved_flows, udp.wrong_answers),
        (0, 0, 0),
        "{udp:#?}"
    );
    assert!((udp.probes_lost as u128) < LOST_MAX, "{udp:#?}");
    assert_eq!(pair.active()?, active);
    for (before, after) in before.iter().zip(&statuses(&pair)?) {
        assert_eq!((before.role, before.term), (after.role, after.term));
        assert_eq!(before.process, after.process);
        let ours = after.node.name == format!("lb{}", which(active) + 1);
        assert_eq!(after.replaced.is_some(), ours, "{after:#?}");
    }
    Ok(())
}

fn active() -> Result<()> {
    replaced_under_load(|active| active)
}

fn standby() -> Result<()> {
    replaced_under_load(|active| 1 - active)
}

fn signalled() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let node = pair.nodes.get_mut(active).context("no such node")?;
    node.install()?;
    node.signal(Signal::SIGUSR2)?;
    let end = now_ns() + 20_000_000_000;
    while node
        .status()
        .ok()
        .and_then(|status| status.replaced)
        .is_none()
    {
        ensure!(now_ns() < end, "not replaced:\n{}", node.log());
        sleep(Duration::from_millis(20));
    }
    assert_eq!(node.role(), Some(Role::Active));
    // The new agent keeps the addresses and ends as cleanly as any other.
    sleep(Duration::from_secs(3));
    assert!(node.has_address(SHARED_FRONT)?);
    node.signal(Signal::SIGTERM)?;
    let agent = node.agent.as_mut().context("no agent")?;
    ensure!(agent.wait(Duration::from_secs(10))?.success());
    assert!(!node.has_address(SHARED_FRONT)?);
    Ok(())
}

fn bad_program() -> Result<()> {
    let pair = whole()?;
    let active = pair.active()?;
    let node = pair.nodes.get(active).context("no such node")?;
    let before = node.status()?;
    let refused = |what: &str| {
        let error = node.command(&["reexec"]).err();
        let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(what), "{what} is not in: {error}");
        let after = node.status()?;
        ensure!((after.role, after.term) == (before.role, before.term));
        ensure!(after.replaced.is_none());
        Ok(())
    };
    // A file that it could not use.
    let good = fs::read_to_string(node.config_file())?;
    fs::write(
        node.config_file(),
        good.replace("virtual_id", "virtual_idea"),
    )?;
    let socket = node.dir().join("run/ctl.sock");
    let by_socket = node.command(&["reexec", "--socket", &socket.to_string_lossy()]);
    ensure!(by_socket.is_err());
    fs::write(node.config_file(), good)?;
    // A partner that is not there to grant anything.
    let other = pair.nodes.get(1 - active).context("no such node")?;
    other.signal(Signal::SIGSTOP)?;
    sleep(Duration::from_secs(1));
    refused("partner")?;
    other.signal(Signal::SIGCONT)?;
    Ok(())
}

/// The new program passes the check, is executed, and ends. Nobody is left to give the role up: the lease
/// that the old one was granted runs out, and then the partner takes over.
fn dying() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let lease = REEXEC_LEASE + pair.config.timeout;
    let [first, second] = &mut pair.nodes;
    let (node, partner) = if active == 0 {
        (first, second)
    } else {
        (second, first)
    };
    node.install_one_that_dies()?;
    node.signal(Signal::SIGUSR2)?;
    let agent = node.agent.as_mut().context("no agent")?;
    let ended = agent.wait(Duration::from_secs(20))?;
    ensure!(!ended.success(), "{ended}");
    let died = now_ns();
    ensure!(
        partner.role() == Some(Role::Standby),
        "it waits as it promised"
    );
    let taken = partner.wait_role(Role::Active, lease + SLACK)?;
    let took = Duration::from_nanos(taken.saturating_sub(died));
    ensure!(took <= lease + SLACK, "{took:?}");
    // Also when the lifetime of the addresses on the other host has run out.
    sleep(lease);
    ensure!(!node.has_address(SHARED_FRONT)?);
    let wanted = partner.netns.run(|| arp::mac_of("front"))?;
    let found = arp::all_holders(&pair.client, "front", CLIENT, SHARED_FRONT)?;
    ensure!(found == [wanted].into(), "{found:02x?}, not {wanted:02x?}");

    // What it left is the next start's, which begins anew.
    let node = pair.nodes.get_mut(active).context("no such node")?;
    node.install()?;
    node.start()?;
    pair.wait_whole()?;
    assert_eq!(pair.active()?, 1 - active);
    Ok(())
}

fn pacified() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        pacify: 3,
        ..PairConfig::default()
    })?;
    pair.start()?;
    let active = pair.active()?;
    let [first, second] = &mut pair.nodes;
    let (node, partner) = if active == 0 {
        (second, first)
    } else {
        (first, second)
    };
    let answers = Duration::from_secs(20);
    for _ in 0..3 {
        node.kill()?;
        node.start()?;
        node.wait_role(Role::Standby, answers)?;
    }
    for _ in 0..2 {
        // Once pacified it stays so, also after a restart in order.
        node.kill()?;
        node.start()?;
        node.wait_role(Role::Pacified, answers)?;
    }
    let status = node.status()?;
    assert_eq!(status.square, Square::Blue);
    let alarm = status.alarms.iter().find(|alarm| alarm.name == "pacified");
    let alarm = alarm.context("no alarm")?;
    ensure!(alarm.remedy.contains("ha-agent resume"), "{alarm:?}");
    // The partner sees it, goes on, and cannot hand over to it.
    sleep(Duration::from_secs(2));
    let status = partner.status()?;
    assert_eq!(status.role, Role::Active);
    let seen = status.partner.context("no partner")?;
    assert_eq!(
        (seen.role, seen.square),
        (Some(Role::Pacified), Square::Blue)
    );
    ensure!(partner.command(&["failover"]).is_err());
    ensure!(partner.command(&["maintenance", "on"]).is_err());
    // It gets nothing and takes nothing over.
    partner.kill()?;
    sleep(Duration::from_secs(2));
    assert_eq!(node.role(), Some(Role::Pacified));
    ensure!(!node.has_address(SHARED_FRONT)?);
    node.command(&["resume"])?;
    node.wait_role(Role::Active, answers)?;
    Ok(())
}

fn maintenance() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let said = pair
        .nodes
        .get(active)
        .context("no such node")?
        .command(&["maintenance", "on"])?;
    ensure!(said.contains("took over within"), "{said}");
    assert_eq!(pair.active()?, 1 - active);
    let node = pair.nodes.get_mut(active).context("no such node")?;
    node.signal(Signal::SIGTERM)?;
    let agent = node.agent.as_mut().context("no agent")?;
    ensure!(agent.wait(Duration::from_secs(10))?.success());
    node.start()?;
    node.wait_role(Role::Maintenance, Duration::from_secs(20))?;
    node.command(&["maintenance", "off"])?;
    pair.wait_whole()?;
    let node = pair.nodes.get(1 - active).context("no such node")?;
    let said = node.command(&["failover"])?;
    ensure!(said.contains("took over within"), "{said}");
    assert_eq!(pair.active()?, active);
    Ok(())
}
