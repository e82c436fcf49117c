//! Forged advertisements of the pair's own group at the standby's port, as fast as a link carries them.
//!
//! They are handed to the port by the kernel's own packet generator, so that nothing on the way loses
//! them. Each has a right checksum, a new number and a wrong tag, so it costs what a forged one can cost.

use std::fs;
use std::time::Duration;

use super::replay::changes;
use super::{Bench, Subject, ours};
use crate::bench::figure::{Promise, Row};
use crate::clock::now_ns;
use crate::rig::generator::Generator;
use crate::rig::netns::Netns;
use crate::rig::pair::Node;
use anyhow::{Context as _, Result};

const WHO: &str = "ha-agent 100/300 ms";
/// A little more than is promised.
const RATE: u64 = 520_000;
/// A call of the generator lasts this long.
const CALL: Duration = Duration::from_secs(2);
const CARP: u8 = 112;

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: "flood",
        who: WHO,
        what,
        unit,
        promise,
    }
}

/// What is compared between a quiet stretch of time and a flooded one.
#[derive(Clone, Copy)]
struct Account {
    delivered: u64,
    forged: u64,
    wakeups: u64,
    ring_drops: u64,
    at_ns: u64,
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let mut subject = ours(WHO, 100, 300)?;
    let subject: &mut dyn Subject = subject.as_mut();
    let standby = 1 - subject.settle()?;
    let switch = subject.pair().switch.netns().clone();
    let port = subject.node(standby)?.front.name().to_owned();
    let account = |subject: &dyn Subject| account(subject.node(standby)?, &switch, &port);

    let quiet_from = account(subject)?;
    std::thread::sleep(CALL);
    let quiet = account(subject)?;

    let frame = forged(subject, standby)?;
    let before = changes(subject);
    let capture = subject.pair().capture()?;
    let from = account(subject)?;
    let mut flood = Generator::new(RATE)?;
    let end = now_ns() + u64::try_from(bench.options.flood_for().as_nanos())?;
    while now_ns() < end {
        flood.run(&switch, &port, &frame, CALL)?;
    }
    let sent = flood.sent()?;
    let to = account(subject)?;
    let time = from.at_ns..to.at_ns;
    let true_ones = capture
        .finish()?
        .iter()
        .filter(|frame| !frame.from_node && time.contains(&frame.at_ns))
        .filter(|frame| frame.port.ends_with(&format!("lb{}", standby + 1)))
        .filter(|frame| frame.flow().is_some_and(|flow| flow.protocol == CARP))
        .count();
    std::thread::sleep(Duration::from_secs(1));

    let seconds = (time.end - time.start) as f64 / 1e9;
    let quiet_seconds = (quiet.at_ns - quiet_from.at_ns) as f64 / 1e9;
    let delivered = to.delivered - from.delivered;
    let drops = to.ring_drops - from.ring_drops;
    let lost = (true_ones as u64).saturating_sub(delivered);
    let wakeups = (to.wakeups - from.wakeups) as f64 / seconds;
    let quiet_wakeups = (quiet.wakeups - quiet_from.wakeups) as f64 / quiet_seconds;
    for (row, value) in [
        (
            row(
                "forged advertisements sent",
                "a second",
                Promise::AtLeast(500_000.0),
            ),
            sent as f64 / seconds,
        ),
        (
            row(
                "of these dropped by their tag",
                "a second",
                Promise::Nothing,
            ),
            (to.forged - from.forged) as f64 / seconds,
        ),
        (
            row("role changes", "count", Promise::Always(0.0)),
            (changes(subject) - before) as f64,
        ),
        (
            row("true advertisements sent", "count", Promise::Nothing),
            true_ones as f64,
        ),
        (
            row("delivered to the election", "count", Promise::Nothing),
            delivered as f64,
        ),
        (
            row(
                "true ones lost beyond the ring's drops",
                "count",
                Promise::Always(0.0),
            ),
            lost.saturating_sub(drops) as f64,
        ),
        (
            row("drops of the port's ring", "count", Promise::Nothing),
            drops as f64,
        ),
        (
            row("forged ones delivered", "count", Promise::Always(0.0)),
            delivered.saturating_sub(true_ones as u64) as f64,
        ),
        (
            row("wake-ups of the election", "a second", Promise::Nothing),
            wakeups,
        ),
        (
            row("the same without a flood", "a second", Promise::Nothing),
            quiet_wakeups,
        ),
    ] {
        bench
            .report
            .add(&row, value, bench.stalls.longest_ms(&time));
    }
    Ok(())
}

/// Where the sequence number stands in the frame of an advertisement: behind the Ethernet and IPv4
/// headers, the 36 bytes of CARP and the trailer's first sixteen (`docs/protocol.md`).
const SEQUENCE: usize = 14 + 20 + 36 + 16;

/// An advertisement of the pair's group from the active node, numbered beyond all that will come, since an
/// old one is dropped before its tag is looked at. So its tag is wrong.
fn forged(subject: &dyn Subject, standby: usize) -> Result<Vec<u8>> {
    let capture = subject.pair().capture()?;
    std::thread::sleep(Duration::from_millis(300));
    let port = subject.node(standby)?.front.name().to_owned();
    let frame = capture.finish()?.into_iter().find(|frame| {
        !frame.from_node
            && *frame.port == *port
            && frame.flow().is_some_and(|flow| flow.protocol == CARP)
    });
    let mut bytes = frame
        .context("no advertisement was heard")?
        .bytes
        .into_vec();
    // The checksum covers CARP's own bytes only.
    *bytes.get_mut(SEQUENCE).context("no trailer")? ^= 0x40;
    Ok(bytes)
}

fn account(node: &Node, switch: &Netns, port: &str) -> Result<Account> {
    let counters = node.counters()?.counters;
    let counter = |name: &str| {
        let found = counters.iter().find(|counter| counter.name == name);
        found.map_or(0, |counter| counter.value)
    };
    let agent = node.agent.as_ref().context("no agent")?.pid()?;
    Ok(Account {
        delivered: counter("carp_delivered"),
        forged: counter("carp_bad_tag"),
        wakeups: wakeups(agent.as_raw())?,
        ring_drops: transmit_drops(switch, port)?,
        at_ns: now_ns(),
    })
}

/// How often the election thread of an agent went to sleep by itself, and so was woken.
fn wakeups(pid: i32) -> Result<u64> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if status.starts_with("Name:\telection\n") {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return Ok(line.context("no count of switches")?.trim().parse()?);
        }
    }
    anyhow::bail!("the agent has no election thread")
}

/// Frames for which the receiving end of a veth had no room, as the sending end counts them.
pub(super) fn transmit_drops(netns: &Netns, device: &str) -> Result<u64> {
    let text = netns.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    // Eight columns of reception, then bytes, packets, errors and drops of transmission.
    let drops = line.and_then(|line| line.split_whitespace().nth(11));
    Ok(drops.context("no such interface in net/dev")?.parse()?)
}
