//! Pairs with IPv6: who has the shared address, who says so, and what is on the wire.

#![expect(
    clippy::indexing_slicing,
    reason = "a packet that is too short is a failed test"
)]

mod common;

use std::fs;
use std::net::Ipv6Addr;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::shell::clock;
use ha_agent::shell::frame::{Mac, discovery};
use ha_agent::shell::packet_socket::{PacketSocket, Receive};
use ha_agent::status::model::Role;
use ha_common::{carp, checksum, proto};
use ha_tests::clock::until;
use ha_tests::rig::capture::Frame;
use ha_tests::rig::config::{self, CLIENT6, PairConfig, SHARED_FRONT, SHARED_FRONT6};
use ha_tests::rig::netns::Netns;
use ha_tests::rig::pair::Pair;
use ha_tests::rig::switch::Cut;
use nix::net::if_::if_nametoindex;

/// How long answers to a question are waited for.
const ANSWER: Duration = Duration::from_millis(500);
/// A takeover may take this long, on a machine that stalls.
const TAKEOVER: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("two_families_move_together", dual),
            ("a_pair_may_have_ipv6_alone", alone),
        ],
    )
}

fn mac(netns: &Netns) -> Result<Mac> {
    let shown = netns.output(Command::new("ip").args(["-oneline", "link", "show", "front"]))?;
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "link/ether");
    let text = words.next().context("no Ethernet address")?;
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    Mac::try_from(bytes.as_slice()).context("no Ethernet address")
}

/// Who answers a client's question for the shared address.
fn who_answers(pair: &Pair) -> Result<Vec<Mac>> {
    const SOLICITED: u8 = 0x40;
    let own = mac(&pair.client)?;
    pair.client.run(|| {
        let ifindex = if_nametoindex("front")?;
        let socket = PacketSocket::open(ifindex, Receive::NeighbourAdvertisements)?;
        socket.send(&discovery::solicitation(own, CLIENT6, SHARED_FRONT6))?;
        let mut found = Vec::new();
        let mut buffer = [0; 2048];
        let end = clock::now() + ANSWER;
        loop {
            let Some(frame) = socket.receive(&mut buffer)? else {
                if clock::now() >= end {
                    break;
                }
                sleep(Duration::from_millis(1));
                continue;
            };
            let answers = frame.get(58).is_some_and(|flags| flags & SOLICITED != 0);
            if answers && discovery::advertised(frame) == Some(SHARED_FRONT6) {
                found.push(Mac::try_from(frame.get(6..12).unwrap_or_default())?);
            }
        }
        Ok(found)
    })
}

/// Exactly one node comes to answer for the shared address, and it is this one: addresses come and go a little later
/// than roles.
fn comes_to_answer(pair: &Pair, node: usize) -> Result<()> {
    until("one node answers", || Ok(only(pair, node).is_ok())).or_else(|_late| only(pair, node))
}

fn only(pair: &Pair, node: usize) -> Result<()> {
    let wanted = mac(&pair.nodes[node].netns)?;
    let found = who_answers(pair)?;
    ensure!(found == [wanted], "{found:x?} answered, not {wanted:x?}");
    let other = &pair.nodes[1 - node];
    let mut show = Command::new("ip");
    show.args(["-6", "addr", "show", "to", &SHARED_FRONT6.to_string()]);
    let held = other.netns.output(&mut show)?;
    ensure!(held.is_empty(), "lb{} has it, too: {held}", other.number);
    Ok(())
}

/// The IPv6 packets a node sent on the front network.
fn sent<'f>(frames: &'f [Frame], pair: &Pair, node: usize, next_header: u8) -> Vec<&'f Frame> {
    let port = pair.nodes[node].front.name().to_owned();
    let frames = frames
        .iter()
        .filter(|frame| frame.from_node && *frame.port == *port);
    frames
        .filter(|frame| frame.bytes.get(12..14) == Some(&[0x86, 0xdd]))
        .filter(|frame| frame.bytes.get(20) == Some(&next_header))
        .collect()
}

/// Advertisements as every CARP implementation demands them.
fn check_carp(frames: &[Frame], pair: &Pair, node: usize) -> Result<()> {
    // A node that was not heard in time, on a machine that was busy, sends unicast copies for a while.
    let mut adverts = sent(frames, pair, node, proto::CARP);
    adverts.retain(|advert| advert.bytes[38..54] == carp::GROUP6);
    ensure!(adverts.len() > 3, "{} advertisements", adverts.len());
    for advert in adverts {
        let bytes = &advert.bytes;
        assert_eq!(bytes[..6], carp::GROUP6_MAC);
        assert_eq!(bytes[21], carp::TTL, "hop limit");
        let source = config::front6(pair.nodes[node].number).octets();
        assert_eq!(bytes[22..38], source);
        assert_eq!(bytes[54], carp::VERSION_TYPE);
        assert_eq!(checksum::internet(&bytes[54..90]), 0, "CARP checksum");
    }
    Ok(())
}

/// Unsolicited neighbour advertisements of a node that became active.
fn check_announcements(frames: &[Frame], pair: &Pair, node: usize) -> Result<()> {
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    let all_nodes: Ipv6Addr = "ff02::1".parse()?;
    let announced = sent(frames, pair, node, proto::ICMPV6);
    let announced: Vec<_> = announced
        .into_iter()
        .filter(|frame| discovery::advertised(&frame.bytes) == Some(SHARED_FRONT6))
        .filter(|frame| frame.bytes[38..54] == all_nodes.octets())
        .collect();
    ensure!(announced.len() >= 3, "{} announcements", announced.len());
    let own = mac(&pair.nodes[node].netns)?;
    // Where an IPv6 service is, the kernel forwards what the data plane leaves to it.
    let forwards = pair.nodes[node]
        .netns
        .output(Command::new("cat").arg("/proc/sys/net/ipv6/conf/front/forwarding"))?;
    let router = if forwards.trim() == "1" { ROUTER } else { 0 };
    let flags = OVERRIDE | router;
    for frame in announced {
        let bytes = &frame.bytes;
        assert_eq!(bytes[21], 255, "hop limit");
        assert_eq!(bytes[58], flags, "a router says so, and no other");
        assert_eq!(bytes[78..80], [2, 1], "target link-layer address");
        assert_eq!(bytes[80..86], own);
        let mut pseudo = bytes[22..54].to_vec();
        pseudo.extend([0, 0, 0, 32, 0, 0, 0, proto::ICMPV6]);
        pseudo.extend(&bytes[54..]);
        assert_eq!(checksum::internet(&pseudo), 0, "ICMPv6 checksum");
    }
    Ok(())
}

/// Cuts a node off and ends its agent, as if its power had failed.
fn power_off(pair: &mut Pair, node: usize) -> Result<()> {
    pair.nodes[node].cut(Cut::Both);
    pair.nodes[node].kill()
}

fn dual() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        ipv6: true,
        ..PairConfig::default()
    })?;
    pair.start()?;
    let old = pair.active()?;
    comes_to_answer(&pair, old)?;
    let status = pair.nodes[old].status()?;
    let front = status.interfaces.iter().find(|found| found.name == "front");
    let shared = [format!("{SHARED_FRONT}/24"), format!("{SHARED_FRONT6}/64")];
    assert_eq!(front.context("no front")?.shared, shared);

    // Planned.
    let capture = pair.capture()?;
    pair.nodes[old].failover()?;
    pair.nodes[1 - old].wait_role(Role::Active, TAKEOVER)?;
    pair.wait_whole()?;
    sleep(Duration::from_millis(500));
    comes_to_answer(&pair, 1 - old)?;
    let frames = capture.finish()?;
    check_carp(&frames, &pair, 1 - old)?;
    check_announcements(&frames, &pair, 1 - old)?;

    // Unplanned, back again.
    power_off(&mut pair, 1 - old)?;
    pair.nodes[old].wait_role(Role::Active, TAKEOVER)?;
    let wanted = mac(&pair.nodes[old].netns)?;
    until("it answers", || Ok(who_answers(&pair)? == [wanted]))?;
    Ok(())
}

fn alone() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        ipv6: true,
        ..PairConfig::default()
    })?;
    for node in &pair.nodes {
        let text = config::file_with_ipv6_alone(node.number, node.dir());
        fs::write(node.config_file(), text)?;
    }
    let capture = pair.capture()?;
    pair.start()?;
    let old = pair.active()?;
    comes_to_answer(&pair, old)?;
    let frames = capture.finish()?;
    check_carp(&frames, &pair, old)?;
    ensure!(
        !sent(&frames, &pair, 1 - old, proto::UDP).is_empty(),
        "no HELLO of the standby"
    );
    power_off(&mut pair, old)?;
    pair.nodes[1 - old].wait_role(Role::Active, TAKEOVER)?;
    let wanted = mac(&pair.nodes[1 - old].netns)?;
    until("it answers", || Ok(who_answers(&pair)? == [wanted]))?;
    Ok(())
}
