//! A million connections to an empty standby; and what it is worth to write many entries with one system call.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::datapath::sys::{self, Map, Update};
use ha_agent::status::model::Role;
use ha_common::conn::{Conn4, ConnKey4};
use ha_common::maps;

use super::Bench;
use crate::bench::{AGENT, Promise, Row, say};
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::gauge::million;
use crate::rig::config::PairConfig;
use crate::rig::conns::Conns;
use crate::rig::pair::{Node, Pair};

pub(super) const CASE: &str = "a million to an empty standby";
pub(super) const OPERATIONS: &str = "map operations";

pub(super) const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn table(node: &Node) -> Result<Map<ConnKey4, Conn4>> {
    let pin = node.bpf_dir().join(maps::CONNS4);
    Ok(Map::new(sys::object_get(&pin)?)?)
}

const fn row(case: &'static str, what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case,
        who: AGENT,
        what,
        unit,
        promise,
    }
}

/// A node by itself, and one connection through it.
pub(super) fn alone(config: PairConfig) -> Result<(Pair, TcpStream)> {
    let mut pair = Pair::build(config)?;
    let [node, _] = &mut pair.nodes;
    node.start()?;
    node.wait_role(Role::Active, PATIENCE)?;
    let stream = pair.client.run(|| {
        let to = SocketAddr::from(SERVICE);
        Ok(TcpStream::connect_timeout(&to, Duration::from_secs(10))?)
    })?;
    let conns = Conns::open(&pair.nodes[0])?;
    let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
    while conns.all()?.is_empty() {
        ensure!(now_ns() < end, "the connection has no entry");
        thread::sleep(Duration::from_millis(10));
    }
    Ok((pair, stream))
}

/// Starts a node that is by itself again, with a full table.
pub(super) fn begin_with_a_million(node: &mut Node) -> Result<()> {
    node.kill()?;
    million::fill(&table(node)?)?;
    node.start()?;
    node.wait_role(Role::Active, PATIENCE)?;
    Ok(())
}

/// The active node begins with a full table; then the standby is started for the first time.
pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let (mut pair, _stream) = alone(PairConfig::default())?;
    begin_with_a_million(&mut pair.nodes[0])?;
    let [node, other] = &mut pair.nodes;
    let wanted = node
        .status()?
        .connections
        .max
        .min(u64::from(million::CONNECTIONS));

    let from = now_ns();
    other.start()?;
    let end = from + u64::try_from(PATIENCE.as_nanos())?;
    let mut heard = None;
    let ready = loop {
        let status = other.status().ok();
        if heard.is_none() && status.is_some() {
            heard = Some(now_ns());
        }
        if status.is_some_and(|status| status.role == Role::Standby && status.replication.ready) {
            break now_ns();
        }
        ensure!(
            now_ns() < end,
            "the standby is not ready after {PATIENCE:?}"
        );
        thread::sleep(Duration::from_millis(5));
    };
    let heard = heard.context("no answer")?;
    let stalled = bench.stalls.longest_ms(&(from..ready));
    let seconds = |from: u64| (ready - from) as f64 / 1e9;
    bench.note(
        row(
            CASE,
            "from the agent's answer until ready",
            "s",
            Promise::NeverMoreThan(5.0),
        ),
        seconds(heard),
        stalled,
    );
    bench.note(
        row(
            CASE,
            "from the agent's start until ready",
            "s",
            Promise::Nothing,
        ),
        seconds(from),
        stalled,
    );
    say("comparing the maps key by key");
    let [one, two] = [&pair.nodes[0], &pair.nodes[1]].map(Conns::open);
    let (one, two) = (one?.lasting()?, two?.lasting()?);
    ensure!(one.len() as u64 > 2 * wanted, "{} entries only", one.len());
    let differ = one
        .iter()
        .filter(|(key, entry)| two.get(key) != Some(*entry));
    let differ = differ.count() + two.len().saturating_sub(one.len());
    bench.note(
        row(
            CASE,
            "entries that differ afterwards",
            "count",
            Promise::Always(0.0),
        ),
        differ as f64,
        0.0,
    );
    Ok(())
}

/// Entries written and removed with one system call each, and with one for many.
pub(super) fn operations(bench: &mut Bench<'_>) -> Result<()> {
    const ENTRIES: usize = 200_000;
    let (mut pair, _stream) = alone(PairConfig::default())?;
    let node = &mut pair.nodes[0];
    let template = Conns::open(node)?.all()?;
    let (key, value) = template.into_iter().next().context("no entry")?;
    node.kill()?;
    let table = table(node)?;
    let keys: Vec<_> = (0..ENTRIES as u32)
        .map(|client| ConnKey4 {
            src: client.to_be(),
            ..key
        })
        .collect();
    let each_ns = |from: u64| (now_ns() - from) as f64 / ENTRIES as f64;
    for _ in 0..bench.options.runs() {
        let from = now_ns();
        for key in &keys {
            table.update(key, &value, Update::Any)?;
        }
        let single = each_ns(from);
        let from = now_ns();
        for key in &keys {
            table.delete(key)?;
        }
        let single_delete = each_ns(from);
        let values = vec![value; 256];
        let from = now_ns();
        for keys in keys.chunks(256) {
            table
                .update_batch(keys, &values)
                .map_err(|error| error.source)?;
        }
        let batch = each_ns(from);
        let from = now_ns();
        for keys in keys.chunks(256) {
            table.delete_batch(keys).map_err(|error| error.source)?;
        }
        let batch_delete = each_ns(from);
        for (what, value) in [
            ("update, one by one", single),
            ("update, 256 at once", batch),
            ("delete, one by one", single_delete),
            ("delete, 256 at once", batch_delete),
        ] {
            bench.note(row(OPERATIONS, what, "ns", Promise::Nothing), value, 0.0);
        }
    }
    Ok(())
}
