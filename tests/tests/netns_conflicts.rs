//! Whoever is in the pair's way is provoked, and must be named by an alarm of its own, with who and where;
//! none of it moves the role.

#![expect(
    clippy::indexing_slicing,
    reason = "a packet that is too short is a failed test"
)]

mod common;

use std::fs;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::shell::frame::{self, Mac};
use ha_agent::shell::packet_socket::{PacketSocket, Receive};
use ha_agent::status::model::Role;
use ha_common::carp::{HEADER_LEN, trailer};
use ha_common::{carp, proto};
use ha_tests::clock::now_ns;
use ha_tests::packet::Frame;
use ha_tests::rig::arp::mac_of;
use ha_tests::rig::capture;
use ha_tests::rig::config::{
    self, CLIENT, PairConfig, SHARED_BACK, SHARED_FRONT, SHARED_FRONT6, VHID,
};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::process::Process;
use ha_tests::rig::switch::Cut;
use nix::net::if_::if_nametoindex;

fn main() -> ExitCode {
    common::run(
        &["ip", "ucarp"],
        &["ha-agent", "ha-demo"],
        &[
            ("strangers_are_named_and_move_nothing", strangers),
            ("a_host_with_a_shared_address_is_found", taken),
            ("nodes_that_do_not_fit_are_named", misfits),
        ],
    )
}

fn config() -> PairConfig {
    PairConfig {
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(1),
        ..PairConfig::default()
    }
}

/// The evidence of all alarms of this name.
fn evidence(node: &Node, name: &str) -> Result<Vec<String>> {
    let alarms = node.status()?.alarms.into_iter();
    let found = alarms.filter(|alarm| alarm.name == name);
    Ok(found.map(|alarm| alarm.evidence).collect())
}

/// Waits for an alarm whose evidence has all these words.
fn named(node: &Node, name: &str, words: &[&str]) -> Result<()> {
    let end = now_ns() + 15_000_000_000;
    loop {
        let found = evidence(node, name)?;
        if found
            .iter()
            .any(|text| words.iter().all(|word| text.contains(word)))
        {
            return Ok(());
        }
        ensure!(
            now_ns() < end,
            "lb{}: no {name} with {words:?}, but {:#?}",
            node.number,
            node.status()?.alarms
        );
        sleep(Duration::from_millis(50));
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A host on the front network that is none of the pair: the client.
struct Stranger<'p> {
    pair: &'p Pair,
    mac: Mac,
}

impl<'p> Stranger<'p> {
    fn new(pair: &'p Pair) -> Result<Self> {
        let mac = pair.client.run(|| mac_of("front"))?;
        Ok(Self { pair, mac })
    }

    fn send(&self, frames: &[Vec<u8>]) -> Result<()> {
        self.pair.client.run(|| {
            let socket = PacketSocket::open(if_nametoindex("front")?, Receive::Nothing)?;
            for frame in frames {
                socket.send(frame)?;
            }
            Ok(())
        })
    }

    /// A packet of protocol 112 to the group.
    fn packet(&self, source: std::net::Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        Frame::raw(source, carp::GROUP, proto::CARP)
            .macs(self.mac, carp::GROUP_MAC)
            .ttl(carp::TTL)
            .payload(payload)
            .build()
    }
}

/// The payload of an advertisement that the active node sends on the front network.
fn recorded(pair: &Pair, active: usize) -> Result<Vec<u8>> {
    let capture = pair.capture()?;
    sleep(pair.config.interval * 4);
    let port = pair.nodes[active].front.name();
    let frames = capture.finish()?;
    let mut adverts = frames
        .iter()
        .filter(|frame| frame.from_node && *frame.port == *port)
        .filter(|frame| {
            frame
                .flow()
                .is_some_and(|flow| flow.protocol == proto::CARP)
        });
    let advert = adverts
        .next()
        .context("the active node does not advertise")?;
    Ok(advert.bytes[34..].to_vec())
}

/// An advertisement with other bytes in its trailer.
fn spoilt(advert: &[u8], bytes: &[(usize, u8)]) -> Vec<u8> {
    let mut spoilt = advert.to_vec();
    for (at, value) in bytes {
        spoilt[HEADER_LEN + at] = *value;
    }
    spoilt
}

/// Another CARP group with the pair's id.
fn other_group(pair: &Pair) -> Result<Process> {
    let mut command = Command::new("ucarp");
    command
        .args(["--interface", "front", "--shutdown"])
        .args(["--srcip", &CLIENT.to_string()])
        .args(["--vhid", &VHID.to_string()])
        .args(["--pass", "another group", "--addr", "10.77.1.200"])
        .args(["--upscript=/bin/true", "--downscript=/bin/true"]);
    let log = pair.nodes[0].dir().join("ucarp.log");
    Process::start("ucarp", &pair.client, &mut command, &log)
}

fn strangers() -> Result<()> {
    let mut pair = Pair::build(config())?;
    pair.start()?;
    let _ucarp = other_group(&pair)?;
    let active = pair.active()?;
    let term = pair.nodes[active].status()?.term;
    let stranger = Stranger::new(&pair)?;
    let (mac, client) = (text(stranger.mac), CLIENT.to_string());

    let advert = recorded(&pair, active)?;
    let vrrp = [0x31, VHID, 100, 1, 0, 100, 0, 0, 10, 77, 1, 100];
    let mut other_version = advert[..HEADER_LEN].to_vec();
    other_version[0] = 0x41;
    // A number that is new, so that the packet is not taken for a recording.
    let fresh = (trailer::SEQUENCE, 0x7f);
    let key = advert[HEADER_LEN + trailer::KEY_ID];
    let partner = config::front(pair.nodes[active].number);
    for (name, source, payload, both) in [
        ("vrrp_same_vhid", CLIENT, vrrp.to_vec(), true),
        ("carp_foreign_version", CLIENT, other_version, true),
        ("unsigned_peer", CLIENT, advert[..HEADER_LEN].to_vec(), true),
        ("wrong_source", CLIENT, advert.clone(), true),
        (
            "version_mismatch",
            CLIENT,
            spoilt(&advert, &[(trailer::VERSION, 2)]),
            true,
        ),
        ("bad_tag", partner, spoilt(&advert, &[fresh]), false),
        (
            "unknown_key",
            partner,
            spoilt(&advert, &[fresh, (trailer::KEY_ID, key ^ 0x55)]),
            false,
        ),
    ] {
        stranger.send(&[stranger.packet(source, &payload)])?;
        for (index, node) in pair.nodes.iter().enumerate() {
            // To the active node its own address is no partner's.
            if both || index != active {
                let words = [mac.as_str(), &source.to_string(), "front"];
                named(node, name, &words).context("a stranger's packet")?;
            }
        }
    }
    let forged = stranger.packet(partner, &spoilt(&advert, &[fresh]));
    stranger.send(&vec![forged; 5_000])?;
    named(&pair.nodes[1 - active], "bad_tag", &["times in"])?;

    announces_again(&pair, &stranger, active)?;
    for node in &pair.nodes {
        named(node, "carp_group_differs", &[&client, "another digest"])?;
        let found = evidence(node, "duplicate_address")?;
        ensure!(found.len() == 1, "nobody but the stranger: {found:?}");
    }
    assert_eq!(pair.active()?, active);
    assert_eq!(pair.nodes[active].status()?.term, term, "nothing moved");
    Ok(())
}

/// A stranger claims the shared address, and the active node says that it has it.
fn announces_again(pair: &Pair, stranger: &Stranger<'_>, active: usize) -> Result<()> {
    let capture = pair.capture()?;
    let begin = now_ns();
    stranger.send(&[frame::gratuitous_arp(stranger.mac, SHARED_FRONT)])?;
    for node in &pair.nodes {
        let words = [
            &text(stranger.mac),
            "front",
            "the shared address 10.77.1.100",
        ];
        named(node, "duplicate_address", &words)?;
    }
    sleep(Duration::from_millis(500));
    let frames = capture.finish()?;
    let said = |node: usize| -> Result<usize> {
        let node = &pair.nodes[node];
        let own = node.netns.run(|| mac_of("front"))?;
        let says = frame::gratuitous_arp(own, SHARED_FRONT);
        let says = |frame: &&capture::Frame| {
            frame.from_node
                && frame.at_ns > begin
                && *frame.port == *node.front.name()
                && frame.bytes.starts_with(&says)
        };
        Ok(frames.iter().filter(says).count())
    };
    let (ours, theirs) = (said(active)?, said(1 - active)?);
    ensure!((1..=10).contains(&ours), "{ours} announcements");
    ensure!(theirs == 0, "the standby announced, too");
    Ok(())
}

/// The words in which a hand-over was refused.
fn refused(node: &Node) -> Result<String> {
    let Err(error) = node.failover() else {
        anyhow::bail!("lb{} handed over", node.number);
    };
    Ok(format!("{error:#}"))
}

fn taken() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        ipv6: true,
        ..config()
    })?;
    let change = |pair: &Pair, verb: &str| {
        pair.client.ip(&format!(
            "addr {verb} {SHARED_FRONT}/32 dev front\naddr {verb} {SHARED_FRONT6}/128 dev front"
        ))
    };
    change(&pair, "add")?;
    // It says nothing unless it is asked, and the pair serves all the same.
    pair.start()?;
    let active = pair.active()?;
    let stranger = Stranger::new(&pair)?;
    let mac = text(stranger.mac);
    for node in &pair.nodes {
        for address in [SHARED_FRONT.to_string(), SHARED_FRONT6.to_string()] {
            named(node, "duplicate_address", &[&mac, "front", &address])?;
        }
    }
    let words = refused(&pair.nodes[active])?;
    ensure!(
        words.contains("another host has") && words.contains(&mac),
        "{words}"
    );
    assert_eq!(pair.active()?, active);

    change(&pair, "del")?;
    for from in [active, 1 - active] {
        pair.nodes[from].failover()?;
        pair.nodes[1 - from].wait_role(Role::Active, Duration::from_secs(10))?;
        pair.wait_whole()?;
    }
    // The partner rightly had the addresses meanwhile.
    for node in &pair.nodes {
        let found = evidence(node, "duplicate_address")?;
        ensure!(found.iter().all(|text| text.contains(&mac)), "{found:?}");
    }
    Ok(())
}

fn misfits() -> Result<()> {
    let mut pair = Pair::build(config())?;
    let other = PairConfig {
        interval: Duration::from_millis(100),
        ..config()
    };
    pair.nodes[1].write_config(&other)?;
    let file = pair.nodes[1].config_file();
    let shared = format!("{SHARED_BACK}/24");
    let wrong = fs::read_to_string(&file)?
        .replace("mode: second", "mode: first")
        .replace(&shared, "10.77.2.2/24");
    fs::write(&file, wrong)?;
    pair.nodes[0].start()?;
    pair.nodes[0].wait_role(Role::Active, Duration::from_secs(20))?;
    pair.nodes[1].start()?;

    let [first, second] = &pair.nodes;
    named(first, "mode_conflict", &["this node came first", "10.77."])?;
    named(
        second,
        "mode_conflict",
        &["the partner came first", "10.77."],
    )?;
    for node in [first, second] {
        named(
            node,
            "timing_differs",
            &["interval", "200ms", "100ms", "10.77."],
        )?;
        named(node, "configuration_differs", &["digest"])?;
    }
    // Only the active node advertises.
    named(
        second,
        "carp_group_differs",
        &["the partner", "10.77.2.11", "back"],
    )?;
    second.front.cut(Cut::FromNode);
    for node in [first, second] {
        named(node, "one_way_hearing", &["front"])?;
    }
    assert_eq!(pair.active()?, 0);
    Ok(())
}
