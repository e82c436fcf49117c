//! A pair whose shared addresses have one MAC: neighbours that never change what they know, a switch that
//! learns from the frames, and who sends them.

mod common;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::shell::clock;
use ha_agent::shell::frame::{Mac, discovery};
use ha_agent::shell::packet_socket::{PacketSocket, Receive};
use ha_agent::status::model::Role;
use ha_tests::clock::{now_ns, until};
use ha_tests::demo::{Fault, SERVICE};
use ha_tests::rig::arp;
use ha_tests::rig::capture::{Capture, Frame};
use ha_tests::rig::config::{
    CLIENT, CLIENT6, PairConfig, RealServer, SHARED_BACK, SHARED_FRONT, SHARED_FRONT6, VHID,
};
use ha_tests::rig::netns::Netns;
use ha_tests::rig::pair::Pair;
use ha_tests::rig::switch::Cut;
use ha_tests::traffic::load::Load;
use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "bridge", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("neighbours_that_learn_nothing_lose_nothing", frozen),
            ("a_network_that_refuses_it_is_named", blocked),
        ],
    )
}

const VIRTUAL: Mac = [0, 0, 0x5e, 0, 1, VHID];
const CONNECTIONS: usize = 100;
const NEW_RATE: u64 = 200;
/// Frames under way when the role moves may be this late on a machine that stalls.
const UNDER_WAY_NS: u64 = 100_000_000;
/// What is waited for comes within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

fn config() -> PairConfig {
    PairConfig {
        timeout: Duration::from_millis(500),
        virtual_mac: true,
        ..PairConfig::default()
    }
}

fn text() -> String {
    VIRTUAL.map(|byte| format!("{byte:02x}")).join(":")
}

/// Client and real servers know the shared addresses once and for all.
fn freeze_neighbours(pair: &Pair) -> Result<()> {
    let mac = text();
    pair.client.ip(&format!(
        "neigh replace {SHARED_FRONT} lladdr {mac} dev front nud permanent
neigh replace {SHARED_FRONT6} lladdr {mac} dev front nud permanent"
    ))?;
    for real in &pair.reals {
        real.ip(&format!(
            "neigh replace {SHARED_BACK} lladdr {mac} dev back nud permanent"
        ))?;
    }
    Ok(())
}

/// Who answers a neighbour solicitation for the shared IPv6 address.
fn answers6(client: &Netns) -> Result<BTreeSet<Mac>> {
    const SOLICITED: u8 = 0x40;
    client.run(|| {
        let socket =
            PacketSocket::open(if_nametoindex("front")?, Receive::NeighbourAdvertisements)?;
        let own = arp::mac_of("front")?;
        socket.send(&discovery::solicitation(own, CLIENT6, SHARED_FRONT6))?;
        let mut found = BTreeSet::new();
        let mut buffer = [0; 2048];
        let end = clock::now() + Duration::from_millis(200);
        loop {
            match socket.receive(&mut buffer)? {
                Some(frame)
                    if discovery::advertised(frame) == Some(SHARED_FRONT6)
                        && frame.get(58).is_some_and(|flags| flags & SOLICITED != 0) =>
                {
                    let told = frame.get(80..86).context("no option")?;
                    let from = frame.get(6..12).context("no source")?;
                    ensure!(told == from, "told {told:02x?}, but came from {from:02x?}");
                    found.insert(told.try_into()?);
                }
                Some(_) => {}
                None if clock::now() >= end => break,
                None => sleep(Duration::from_millis(1)),
            }
        }
        Ok(found)
    })
}

/// Everybody on both networks is told the virtual MAC, and nothing else.
fn only_the_virtual_mac_answers(pair: &Pair) -> Result<()> {
    let wanted = BTreeSet::from([VIRTUAL]);
    let front = arp::all_holders(&pair.client, "front", CLIENT, SHARED_FRONT)?;
    ensure!(front == wanted, "front: {front:02x?}");
    let real = pair.reals.first().context("no real server")?;
    let own = RealServer {
        number: 1,
        weight: 1,
    }
    .address();
    let back = arp::all_holders(real, "back", own, SHARED_BACK)?;
    ensure!(back == wanted, "back: {back:02x?}");
    let mut front6 = BTreeSet::new();
    until("somebody has the IPv6 address", || {
        front6 = answers6(&pair.client)?;
        Ok(!front6.is_empty())
    })?;
    ensure!(front6 == wanted, "front, IPv6: {front6:02x?}");
    Ok(())
}

/// The active node's kernel takes what is for a shared address but for no service: it refuses a datagram. After a
/// takeover the addresses come a little later than the role.
fn the_kernel_is_reached(pair: &Pair) -> Result<()> {
    for address in [IpAddr::from(SHARED_FRONT), IpAddr::from(SHARED_FRONT6)] {
        let what = format!("the kernel with {address} refuses a datagram");
        until(&what, || refuses(&pair.client, address))?;
    }
    Ok(())
}

fn refuses(client: &Netns, address: IpAddr) -> Result<bool> {
    client.run(|| {
        let any = if address.is_ipv6() {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect((address, 9))?;
        socket.send(b"anybody?")?;
        let refused = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
        Ok(refused == Err(io::ErrorKind::ConnectionRefused))
    })
}

/// The switch's ports behind which the virtual MAC is.
fn learnt(pair: &Pair) -> Result<BTreeSet<String>> {
    let shown = pair
        .switch
        .netns()
        .output(Command::new("bridge").args(["fdb", "show"]))?;
    let mac = text();
    let ports = shown.lines().filter(|line| line.starts_with(&mac));
    Ok(ports
        .filter_map(|line| line.split_whitespace().nth(2))
        .map(str::to_owned)
        .collect())
}

fn the_switch_knows(pair: &Pair, node: usize) -> Result<()> {
    let wanted: BTreeSet<String> = ["front", "back"]
        .map(|bridge| format!("{bridge}-lb{}", node + 1))
        .into();
    let found = learnt(pair)?;
    ensure!(found == wanted, "{found:?} instead of {wanted:?}");
    Ok(())
}

/// Whether a node sent a frame with the virtual MAC.
fn is_virtual(frame: &Frame, node: usize) -> bool {
    frame.from_node
        && frame.port.ends_with(&format!("-lb{}", node + 1))
        && frame.bytes.get(6..12) == Some(&VIRTUAL[..])
}

/// After the new node's first frame with the virtual MAC the old one sends none, and before that the new
/// one sends none. What the new one then sends to clients and real servers has it.
fn one_speaker(frames: &[Frame], old: usize) -> Result<()> {
    let new = 1 - old;
    let from = |node| frames.iter().filter(move |frame| is_virtual(frame, node));
    let first = from(new)
        .map(|frame| frame.at_ns)
        .min()
        .context("nothing")?;
    let last = from(old)
        .map(|frame| frame.at_ns)
        .max()
        .context("nothing")?;
    ensure!(
        last < first + UNDER_WAY_NS,
        "lb{} sent with it {} us after lb{}",
        old + 1,
        (last - first) / 1_000,
        new + 1
    );
    let end = format!("-lb{}", new + 1);
    let sent = frames.iter().filter(|frame| {
        let settled = frame.at_ns > first + 1_000_000_000;
        settled && frame.from_node && frame.port.ends_with(&end)
    });
    let (mut with, mut without) = (0, 0);
    for frame in sent {
        let service = frame
            .flow()
            .is_some_and(|flow| flow.source == SHARED_FRONT || flow.source == CLIENT);
        if service && is_virtual(frame, new) {
            with += 1;
        } else if service {
            without += 1;
        }
    }
    // The kernel sends what it has to find a neighbour for.
    ensure!(
        with > 100 && without < with / 10,
        "{with} frames with the virtual MAC, {without} without"
    );
    Ok(())
}

/// A fault under load, with neighbours that learn nothing.
fn inject(pair: &mut Pair, fault: Fault) -> Result<()> {
    let old = pair.active()?;
    the_switch_knows(pair, old)?;
    let capture = pair.capture()?;
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    load.open(NEW_RATE, Duration::from_millis(300));
    let at = fault.inject(pair, old)?;
    load.fault_at(at);
    let (tcp, _) = load.finish(at, pair.config.timeout)?;
    ensure!(
        (tcp.survived, tcp.broken_before) == (tcp.connections, 0),
        "{fault:?}: {tcp:#?}"
    );
    pair.nodes
        .get(1 - old)
        .context("no such node")?
        .wait_role(Role::Active, PATIENCE)?;
    the_switch_knows(pair, 1 - old)?;
    one_speaker(&capture.finish()?, old)
}

/// The standby sends nothing with the virtual MAC.
fn a_silent_standby(pair: &Pair, capture: Capture, standby: usize) -> Result<()> {
    let frames = capture.finish()?;
    let sent = frames
        .iter()
        .filter(|frame| is_virtual(frame, standby))
        .count();
    ensure!(sent == 0, "the standby sent {sent} frames with it");
    let heard = frames.iter().any(|frame| is_virtual(frame, 1 - standby));
    ensure!(heard, "nobody spoke for {:?}", pair.config.timeout);
    Ok(())
}

fn frozen() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        ipv6: true,
        ..config()
    })?;
    freeze_neighbours(&pair)?;
    pair.start()?;
    let old = pair.active()?;
    let capture = pair.capture()?;
    only_the_virtual_mac_answers(&pair)?;
    the_kernel_is_reached(&pair)?;
    let status = pair.nodes.get(old).context("no such node")?.status()?;
    for interface in status.interfaces {
        ensure!(interface.virtual_mac == Some(text()), "{interface:?}");
    }
    a_silent_standby(&pair, capture, 1 - old)?;

    inject(&mut pair, Fault::Failover)?;
    only_the_virtual_mac_answers(&pair)?;
    pair.wait_whole()?;
    inject(&mut pair, Fault::PowerOff)?;
    only_the_virtual_mac_answers(&pair)?;
    the_kernel_is_reached(&pair)?;

    // The dead node comes back.
    let dead = 1 - pair.active()?;
    let node = pair.nodes.get_mut(dead).context("no such node")?;
    node.cut(Cut::Nothing);
    node.start()?;
    pair.wait_whole()?;
    killed(&mut pair)
}

/// The agent alone dies: the kernel of its host stays, and speaks no more.
fn killed(pair: &mut Pair) -> Result<()> {
    let old = pair.active()?;
    Fault::AgentKill.inject(pair, old)?;
    let new = pair.nodes.get(1 - old).context("no such node")?;
    new.wait_role(Role::Active, PATIENCE)?;
    sleep(Duration::from_nanos(UNDER_WAY_NS));
    let capture = pair.capture()?;
    let lifetime = pair.config.timeout + Duration::from_secs(2);
    let end = now_ns() + u64::try_from(lifetime.as_nanos())?;
    only_the_virtual_mac_answers(pair)?;
    the_kernel_is_reached(pair)?;
    sleep(Duration::from_nanos(end.saturating_sub(now_ns())));
    the_switch_knows(pair, 1 - old)?;
    a_silent_standby(pair, capture, old)?;

    // Nothing is left of it after a stop.
    let dead = pair.nodes.get_mut(old).context("no such node")?;
    ensure!(!dead.has_address(SHARED_FRONT)?, "outlived its lifetime");
    dead.start()?;
    pair.wait_whole()?;
    for node in &mut pair.nodes {
        node.signal(Signal::SIGTERM)?;
    }
    for node in &mut pair.nodes {
        let agent = node.agent.as_mut().context("no agent")?;
        ensure!(agent.wait(PATIENCE)?.success(), "{}", node.log());
        let stations = node
            .netns
            .output(Command::new("bridge").args(["fdb", "show"]))?;
        ensure!(!stations.contains(&text()), "{stations}");
        ensure!(!node.has_address(SHARED_FRONT)?, "an address is left");
    }
    Ok(())
}

fn wait_for_alarm(pair: &Pair, node: usize, wanted: Option<&str>) -> Result<()> {
    let node = pair.nodes.get(node).context("no such node")?;
    let end = clock::now() + PATIENCE;
    loop {
        let alarms = node.status()?.alarms;
        let mut found = alarms
            .iter()
            .filter(|alarm| alarm.name == "virtual_mac_blocked");
        let reached = match wanted {
            Some(wanted) => found.any(|alarm| alarm.evidence.contains(wanted)),
            None => found.next().is_none(),
        };
        if reached {
            return Ok(());
        }
        ensure!(clock::now() < end, "{wanted:?} not in {alarms:?}");
        sleep(Duration::from_millis(100));
    }
}

fn blocked() -> Result<()> {
    let mut pair = Pair::build(config())?;
    pair.start()?;
    let old = pair.active()?;
    for (rule, evidence) in [
        ("saddr", "nothing it sends from"),
        ("daddr", "does not reach it"),
    ] {
        pair.switch.netns().nft(&format!(
            "table bridge platform {{
               chain front {{
                 type filter hook prerouting priority 0;
                 iifname \"front-*\" ether {rule} {} drop;
               }}
             }}",
            text()
        ))?;
        wait_for_alarm(&pair, 1 - old, Some(evidence))?;
        ensure!(pair.active()? == old, "the role moved");
        pair.switch.netns().nft("delete table bridge platform")?;
        wait_for_alarm(&pair, 1 - old, None)?;
    }
    let log = pair.nodes.get(old).context("no such node")?.log();
    ensure!(!log.contains("virtual_mac_blocked"), "{log}");
    Ok(())
}
