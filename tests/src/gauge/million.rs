//! A table of a million connections: the memory it takes, what looking after it costs the agent, and
//! how long it takes to list them all.
//!
//! One real connection is made through a pair's node; the others are its two entries with the addresses
//! of other clients, put beside them. So every entry names a real server that exists, and the agent
//! cannot tell them from those of its own data plane.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::datapath::sys;
use ha_agent::status::model::{ConnectionPage, Role};
use ha_common::conn::{Conn4, ConnKey4};
use ha_common::maps;
use nix::unistd::{SysconfVar, sysconf};

use super::page;
use crate::bench::{AGENT, Promise, Report, Row, say};
use crate::clock::now_ns;
use crate::rig::config::{self, PairConfig, SERVICE_PORT, SHARED_FRONT};
use crate::rig::locate;
use crate::rig::pair::{Node, Pair};

/// Connections in the table.
pub(crate) const CONNECTIONS: u32 = 1_000_000;
/// Entries stored by one system call.
const PIECE: usize = 65_536;
/// How long the agent is watched, with the table empty and with it full.
const WATCH: Duration = Duration::from_secs(30);
/// First of the clients that are made up: a network for benchmarks (RFC 2544 appendix C.2.2).
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Name of the case.
pub(super) const CASE: &str = "million connections";

/// Measures and notes what was found.
pub(super) fn measure(report: &mut Report) -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        node: page::KEYS.to_vec(),
        ..PairConfig::default()
    })?;
    let node = &mut pair.nodes[0];
    node.start()?;
    node.wait_role(Role::Active, Duration::from_secs(30))?;
    say("watching the agent with an empty table");
    let idle = load(node)?;

    let connection = pair.client.run(|| {
        let service = SocketAddr::from((SHARED_FRONT, SERVICE_PORT));
        let mut stream = TcpStream::connect_timeout(&service, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // The server speaks first once it has the connection's number; its handshake is enough here.
        drop(stream.read(&mut []));
        Ok(stream)
    })?;
    let node = &mut pair.nodes[0];
    let table =
        sys::Map::<ConnKey4, Conn4>::new(sys::object_get(&node.bpf_dir().join(maps::CONNS4))?)?;
    let before = rss(node)?;
    // An agent that starts takes over what it finds; a running one would have to repair it all.
    node.kill()?;
    fill(&table)?;
    node.start()?;
    node.wait_role(Role::Active, Duration::from_secs(30))?;
    let node = &pair.nodes[0];
    note(
        report,
        "kernel memory",
        "MiB",
        Promise::Nothing,
        memory(&table)? / MIB,
    );
    note(
        report,
        "agent memory, empty",
        "MiB",
        Promise::Nothing,
        before / MIB,
    );

    say("watching the agent with a full table");
    let full = load(node)?;
    note(
        report,
        "agent, empty table",
        "% of a core",
        Promise::Nothing,
        idle,
    );
    note(
        report,
        "agent, full table",
        "% of a core",
        Promise::Nothing,
        full,
    );
    let walk = (full - idle).max(0.0);
    note(
        report,
        "expiry and sweep",
        "% of a core",
        Promise::MedianAtMost(3.0),
        walk,
    );
    note(
        report,
        "agent memory, full",
        "MiB",
        Promise::Nothing,
        rss(node)? / MIB,
    );

    say("listing all connections");
    let (seconds, listed) = list(node)?;
    ensure!(
        listed > CONNECTIONS as usize,
        "{listed} of {CONNECTIONS} connections were listed"
    );
    note(
        report,
        "connections --json",
        "s",
        Promise::MedianAtMost(5.0),
        seconds,
    );
    page::measure(report, &pair.client, node, config::front(node.number))?;
    drop(connection);
    Ok(())
}

const MIB: f64 = 1_048_576.0;

pub(super) fn note(
    report: &mut Report,
    what: &'static str,
    unit: &'static str,
    promise: Promise,
    value: f64,
) {
    let row = Row {
        case: CASE,
        who: AGENT,
        what,
        unit,
        promise,
    };
    report.add(&row, value, 0.0);
}

/// Puts a million connections beside the one that is there.
pub(crate) fn fill(table: &sys::Map<ConnKey4, Conn4>) -> Result<()> {
    let entries = table.all(PIECE)?;
    let find = |reverse: bool| {
        let found = entries
            .iter()
            .find(|(key, conn)| key.proto == 6 && conn.is_reverse() == reverse);
        found.copied().context("the connection is not in the table")
    };
    let ((forward_key, forward), (reverse_key, reverse)) = (find(false)?, find(true)?);
    let first = CLIENTS.to_bits();
    let mut keys = Vec::with_capacity(PIECE);
    let mut values = Vec::with_capacity(PIECE);
    for client in 0..CONNECTIONS {
        // A thousand ports of each of a thousand clients.
        let address = u32::from_ne_bytes((first + client / 1000).to_be_bytes());
        let port = (20_000 + u16::try_from(client % 1000)?).to_be();
        keys.push(ConnKey4 {
            src: address,
            sport: port,
            ..forward_key
        });
        values.push(forward);
        keys.push(ConnKey4 {
            dst: address,
            dport: port,
            ..reverse_key
        });
        values.push(reverse);
        if keys.len() >= PIECE || client + 1 == CONNECTIONS {
            let stored = table.update_batch(&keys, &values);
            stored
                .map_err(|error| error.source)
                .context("the table is full")?;
            keys.clear();
            values.clear();
        }
    }
    Ok(())
}

/// Memory of the map, as the kernel accounts for it.
fn memory(table: &sys::Map<ConnKey4, Conn4>) -> Result<f64> {
    let info = format!("/proc/self/fdinfo/{}", table.as_fd().as_raw_fd());
    field(Path::new(&info), "memlock:")
}

/// Memory of the agent that is not swapped out.
fn rss(node: &Node) -> Result<f64> {
    let agent = node.agent.as_ref().context("the agent is not running")?;
    let status = format!("/proc/{}/status", agent.pid()?);
    Ok(field(Path::new(&status), "VmRSS:")? * 1024.0)
}

fn field(file: &Path, name: &str) -> Result<f64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in {}", file.display()))?;
    let number = line.split_whitespace().next();
    Ok(number.context("no number")?.parse()?)
}

/// Processor time of the agent, its system calls included, in per cent of one core.
pub(super) fn load(node: &Node) -> Result<f64> {
    let agent = node.agent.as_ref().context("the agent is not running")?;
    let file = format!("/proc/{}/stat", agent.pid()?);
    let ticks = || -> Result<u64> {
        let text = fs::read_to_string(&file)?;
        // The name may contain blanks. Source: proc_pid_stat(5), fields 14 and 15.
        let (_, rest) = text.rsplit_once(')').context("no name")?;
        let mut fields = rest.split_whitespace().skip(11);
        let mut next = || {
            fields
                .next()
                .context("too short")?
                .parse::<u64>()
                .context("no number")
        };
        Ok(next()? + next()?)
    };
    let (from, at) = (ticks()?, now_ns());
    thread::sleep(WATCH);
    let used = ticks()? - from;
    let seconds = (now_ns() - at) as f64 / 1e9;
    let rate = sysconf(SysconfVar::CLK_TCK)?.context("no clock rate")?;
    Ok(used as f64 / rate as f64 / seconds * 100.0)
}

/// Lists all connections by the command that an operator has; seconds, and how many there were.
fn list(node: &Node) -> Result<(f64, usize)> {
    let from = now_ns();
    let output = Command::new(locate::program("ha-agent")?)
        .args(["connections", "--json", "--all", "-f"])
        .arg(node.config_file())
        .output()?;
    let seconds = (now_ns() - from) as f64 / 1e9;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page: ConnectionPage = serde_json::from_slice(&output.stdout)?;
    Ok((seconds, page.connections.len()))
}
