//! Advertisements of the active node, recorded at its port and sent again by a stranger: as they were,
//! and doctored where the standard digest does not look (`advbase`, `advskew`), which is a master key to
//! implementations that know nothing but that digest.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::shell::packet_socket::{PacketSocket, Receive};
use nix::net::if_::if_nametoindex;

use super::{Bench, Subject, ours};
use crate::bench::figure::{Promise, Row};
use crate::clock::{now_ns, sleep_until};
use crate::packet::checksum;
use crate::rig::arp::mac_of;
use crate::rig::netns::Netns;

const WHO: &str = "ha-agent 100/300 ms";
/// Of the recording.
const RECORD: Duration = Duration::from_secs(1);
/// Time between two replayed frames.
const EVERY_NS: u64 = 1_000_000;
const CARP: u8 = 112;
/// The CARP header in a frame with a plain IPv4 header.
const HEADER: std::ops::Range<usize> = 34..70;
const SOURCE_MAC: std::ops::Range<usize> = 6..12;

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: "replay",
        who: WHO,
        what,
        unit,
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let mut subject = ours(WHO, 100, 300)?;
    let subject: &mut dyn Subject = subject.as_mut();
    for run in 0..bench.options.runs().min(3) {
        let active = subject.settle()?;
        let before = changes(subject);
        let frames = recorded(subject, active)?;
        let watch = Duration::from_secs(3);
        let client = subject.pair().client.clone();
        let struck = bench.strike(subject, Duration::from_millis(50), move |_| {
            let at = now_ns();
            replay(&client, &frames, watch)?;
            Ok(at)
        })?;
        let moved = changes(subject) - before;
        bench.progress(
            run,
            WHO,
            &format!("{moved} role changes, gap {:.2} ms", struck.gap_ms),
        );
        for (row, value) in [
            (
                row("role changes", "count", Promise::Always(0.0)),
                moved as f64,
            ),
            (
                row("probes lost", "count", Promise::Always(0.0)),
                struck.lost as f64,
            ),
            (row("gap", "ms", Promise::Nothing), struck.gap_ms),
        ] {
            bench.report.add(&row, value, struck.stall_ms);
        }
    }
    Ok(())
}

/// Role changes logged by both nodes.
pub(super) fn changes(subject: &dyn Subject) -> usize {
    let nodes = &subject.pair().nodes;
    nodes
        .iter()
        .map(|node| node.log().matches("role change").count())
        .sum()
}

fn recorded(subject: &dyn Subject, active: usize) -> Result<Vec<Vec<u8>>> {
    let capture = subject.pair().capture()?;
    std::thread::sleep(RECORD);
    let port = subject.node(active)?.front.name().to_owned();
    let frames: Vec<Vec<u8>> = capture
        .finish()?
        .into_iter()
        .filter(|frame| frame.from_node && *frame.port == *port)
        .filter(|frame| frame.flow().is_some_and(|flow| flow.protocol == CARP))
        .map(|frame| frame.bytes.into_vec())
        .collect();
    ensure!(!frames.is_empty(), "the active node advertises nothing");
    Ok(frames)
}

/// Sends every recorded frame in turn, each second one doctored, from the client's host and with its
/// Ethernet address: what the switch learns is another matter.
fn replay(client: &Netns, frames: &[Vec<u8>], time: Duration) -> Result<()> {
    client.run(|| {
        let socket = PacketSocket::open(if_nametoindex("front")?, Receive::Nothing)?;
        let mac = mac_of("front")?;
        let end = now_ns() + u64::try_from(time.as_nanos())?;
        let mut doctor = false;
        for frame in frames.iter().cycle() {
            if now_ns() > end {
                break;
            }
            let mut frame = frame.clone();
            let place = frame.get_mut(SOURCE_MAC).context("a short frame")?;
            place.copy_from_slice(&mac);
            if doctor {
                doctored(frame.get_mut(HEADER).context("a short frame")?);
            }
            doctor = !doctor;
            socket.send(&frame)?;
            sleep_until(now_ns() + EVERY_NS);
        }
        Ok(())
    })
}

/// The fastest interval there is, with a right checksum.
fn doctored(header: &mut [u8]) {
    for (at, value) in [(2, 0), (5, 0), (6, 0), (7, 0)] {
        if let Some(byte) = header.get_mut(at) {
            *byte = value;
        }
    }
    let sum = checksum(header).to_be_bytes();
    if let Some(place) = header.get_mut(6..8) {
        place.copy_from_slice(&sum);
    }
}
