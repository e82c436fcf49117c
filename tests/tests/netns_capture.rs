//! A capture of what the data plane sends, on a pair that forwards, and what becomes of it when its client dies.

#![expect(
    clippy::indexing_slicing,
    reason = "a pair has two nodes; serde_json gives null for what is not there"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::datapath::sys::{self, Map};
use ha_agent::shell::clock;
use ha_common::control::Config;
use ha_common::event::SAMPLE_BYTES;
use ha_common::maps;
use ha_tests::clock::now_ns;
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::process::Process;
use ha_tests::traffic::load::Load;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("what_is_sent_is_captured", captured),
            ("a_capture_ends_with_its_client", abandoned),
        ],
    )
}

/// One packet in so many is shown now.
fn sample_every(node: &Node) -> Result<u32> {
    let map = Map::<u32, Config>::new(sys::object_get(&node.bpf_dir().join(maps::CONFIG))?)?;
    Ok(map.lookup(&0)?.context("no settings")?.sample_every)
}

/// A block of a pcapng file: its type and its body.
type Block<'f> = (u32, &'f [u8]);

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("cut off")?;
    Ok(u32::from_le_bytes(word.try_into()?))
}

fn blocks(mut file: &[u8]) -> Result<Vec<Block<'_>>> {
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let length = word(file, 4)? as usize;
        let (block, rest) = file.split_at_checked(length).context("cut off")?;
        ensure!(word(block, length - 4)? as usize == length);
        blocks.push((word(block, 0)?, block.get(8..length - 4).context("short")?));
        file = rest;
    }
    Ok(blocks)
}

/// Checks a capture and returns how many IPv4 packets are in it, and how many packets are whole.
fn check(file: &Path) -> Result<(usize, usize)> {
    let bytes = fs::read(file)?;
    let blocks = blocks(&bytes)?;
    ensure!(blocks.first().is_some_and(|(kind, _)| *kind == 0x0a0d_0d0a));
    let interfaces = blocks.iter().filter(|(kind, _)| *kind == 1).count();
    ensure!((1..=2).contains(&interfaces), "{interfaces} interfaces");
    let now = clock::wall();
    let (mut packets, mut whole) = (0, 0);
    for (_, body) in blocks.iter().filter(|(kind, _)| *kind == 6) {
        ensure!((word(body, 0)? as usize) < interfaces);
        let nanos = u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?);
        let age = now.saturating_sub(Duration::from_nanos(nanos));
        ensure!(age < Duration::from_mins(1), "{age:?} old");
        let (kept, length) = (word(body, 12)? as usize, word(body, 16)? as usize);
        ensure!(kept == length.min(SAMPLE_BYTES), "{kept} of {length}");
        let frame = body.get(20..20 + kept).context("cut off")?;
        whole += usize::from(kept == length);
        if frame.get(12..14) != Some(&[8, 0]) {
            // An answer to a neighbour that asked.
            continue;
        }
        packets += 1;
        // The sum over a header with its checksum is zero.
        let header = frame.get(14..34).context("short")?;
        ensure!(ha_common::checksum::internet(header) == 0, "{header:x?}");
    }
    Ok((packets, whole))
}

fn forwarding() -> Result<(Pair, Load)> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        ..PairConfig::default()
    })?;
    pair.start()?;
    let load = Load::start(&pair.client, SERVICE, 20)?;
    Ok((pair, load))
}

fn captured() -> Result<()> {
    let (pair, load) = forwarding()?;
    let node = &pair.nodes[pair.active()?];
    let file = node.dir().join("sent.pcapng");
    let name = file.display().to_string();
    let said = node.command(&[
        "capture",
        "-w",
        &name,
        "--every",
        "3",
        "--count",
        "200",
        "--seconds",
        "20",
        "--json",
    ])?;
    let summary: serde_json::Value = serde_json::from_str(&said)?;
    let (packets, whole) = check(&file)?;
    ensure!(packets > 20 && packets <= 200, "{packets} packets");
    ensure!(whole > 0, "not one short packet");
    let told = summary["packets"].as_u64().context("no number")?;
    ensure!(
        (packets..=200).contains(&usize::try_from(told)?),
        "{told} packets"
    );
    assert_eq!(sample_every(node)?, 0);
    // A file that is there is somebody's.
    let again = node.command(&["capture", "-w", &name, "--seconds", "1"]);
    ensure!(again.is_err(), "overwritten");
    drop(load);
    Ok(())
}

fn abandoned() -> Result<()> {
    let (pair, load) = forwarding()?;
    let node = &pair.nodes[pair.active()?];
    let file = node.dir().join("cut.pcapng");
    let mut command = Command::new(locate::program("ha-agent")?);
    command.arg("-f").arg(node.config_file());
    command.args(["capture", "--every", "30", "--seconds", "600", "-w"]);
    command.arg(&file);
    let log = node.dir().join("capture.log");
    let mut client = Process::start("capture", &node.netns, &mut command, &log)?;
    let end = now_ns() + 30_000_000_000;
    while sample_every(node)? != 30 || check(&file).map_or(0, |(packets, _)| packets) == 0 {
        ensure!(now_ns() < end, "nothing captured: {}", client.log());
        sleep(Duration::from_millis(20));
    }
    client.signal(Signal::SIGKILL)?;
    client.wait(Duration::from_secs(10))?;
    while sample_every(node)? != 0 {
        ensure!(now_ns() < end, "the data plane still shows packets");
        sleep(Duration::from_millis(20));
    }
    check(&file)?;
    drop(load);
    Ok(())
}
