//! Connection requests of clients that do not exist, at the active node's port, beside connections that live.
//!
//! They go to the service that those connections use. What the node sends on of the flood ends at its port of
//! the switch, since it is the node that is measured, not the real servers.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::Result;
use ha_common::rig::FLOODERS;

use super::connections::Connections;
use super::flood::transmit_drops;
use super::replay::changes;
use super::{Bench, Subject, ours};
use crate::bench::figure::{Promise, Row};
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::packet::{Frame, flag};
use crate::rig::arp;
use crate::rig::config::{CLIENT, SHARED_FRONT};
use crate::rig::generator::Generator;
use crate::rig::pair::Node;

const WHO: &str = "ha-agent 100/300 ms";
const CONNECTIONS: usize = 1000;
/// A little more than is promised.
const RATE: u64 = 320_000;
/// A call of the generator lasts this long.
const CALL: Duration = Duration::from_secs(2);

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: "syn-flood",
        who: WHO,
        what,
        unit,
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let mut subject = ours(WHO, 100, 300)?;
    let subject: &mut dyn Subject = subject.as_mut();
    let active = subject.settle()?;
    let connections = Connections::open(subject, CONNECTIONS)?;
    for node in &subject.pair().nodes {
        node.back.swallow_flood();
    }
    let frame = request(subject)?;
    let switch = subject.pair().switch.netns().clone();
    let node = subject.node(active)?;
    let port = node.front.name().to_owned();
    let before = changes(subject);
    let drops_before = transmit_drops(&switch, &port)?;
    let counters_before = Counted::of(node)?;

    let mut flood = Generator::of_many_clients(RATE)?;
    let from = now_ns();
    let end = from + u64::try_from(bench.options.syn_flood_for().as_nanos())?;
    while now_ns() < end {
        flood.run(&switch, &port, &frame, CALL)?;
    }
    let to = now_ns();
    let sent = flood.sent()?;
    let seconds = (to - from) as f64 / 1e9;
    let counters = Counted::of(subject.node(active)?)?;
    let drops = transmit_drops(&switch, &port)? - drops_before;
    let role_changes = changes(subject) - before;
    let lost = connections.lost()?;
    let a_second = |count: u64| count as f64 / seconds;
    for (row, value) in [
        (
            row(
                "connection requests sent",
                "a second",
                Promise::AtLeast(300_000.0),
            ),
            a_second(sent),
        ),
        (
            row("of these forwarded", "a second", Promise::Nothing),
            a_second(counters.forwarded - counters_before.forwarded),
        ),
        (
            row("without an entry, by hash", "a second", Promise::Nothing),
            a_second(counters.by_hash - counters_before.by_hash),
        ),
        (
            row("lost before the node", "a second", Promise::Nothing),
            a_second(drops),
        ),
        (row("seconds of flood", "s", Promise::Nothing), seconds),
        (
            row("role changes", "count", Promise::Always(0.0)),
            role_changes as f64,
        ),
        (
            row("live connections", "count", Promise::Nothing),
            CONNECTIONS as f64,
        ),
        (
            row("connections lost", "count", Promise::Always(0.0)),
            lost as f64,
        ),
    ] {
        bench
            .report
            .add(&row, value, bench.stalls.longest_ms(&(from..to)));
    }
    Ok(())
}

/// A connection request as the client's host would send it.
fn request(subject: &dyn Subject) -> Result<Vec<u8>> {
    let client = &subject.pair().client;
    let node = arp::holder(client, "front", CLIENT, SHARED_FRONT)?;
    let own = client.run(|| arp::mac_of("front"))?;
    let from = SocketAddrV4::new(Ipv4Addr::from_bits(FLOODERS), 40_000);
    Ok(Frame::tcp(from, SERVICE, flag::SYN).macs(own, node).build())
}

/// Counters of a node's data plane.
#[derive(Clone, Copy)]
struct Counted {
    forwarded: u64,
    by_hash: u64,
}

impl Counted {
    fn of(node: &Node) -> Result<Self> {
        let counters = node.counters()?.counters;
        let sum = |names: &[&str]| {
            let of_these = counters
                .iter()
                .filter(|counter| names.contains(&counter.name.as_str()));
            of_these.map(|counter| counter.value).sum()
        };
        Ok(Self {
            forwarded: sum(&["forward_redirect", "forward_transmit", "forward_kernel"]),
            by_hash: sum(&["packets_stateless", "flows_limited"]),
        })
    }
}
