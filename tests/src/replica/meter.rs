//! What replication costs: processor time of its programs, bytes and frames that it sends.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;
use serde_json::Value;

use crate::rig::pair::Node;

/// Ethernet header of each frame; the kernel's counter begins at the IP header.
const ETHERNET: u64 = 14;
/// Ports of this project's replication and of conntrackd.
const PORTS: &str = "{ 6974, 3780 }";

/// Readings of both nodes, the active one first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// Processor time of the program, in nanoseconds.
    pub(super) cpu_ns: [u64; 2],
    /// Frames sent for replication by both.
    pub(super) frames: u64,
    /// Bytes of them, with Ethernet headers.
    pub(super) bytes: u64,
}

impl Reading {
    /// What has come since an earlier one.
    pub(super) fn since(self, earlier: Self) -> Self {
        let [active, standby] = self.cpu_ns;
        let [active_before, standby_before] = earlier.cpu_ns;
        Self {
            cpu_ns: [
                active.saturating_sub(active_before),
                standby.saturating_sub(standby_before),
            ],
            frames: self.frames - earlier.frames,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// Counts what a node sends for replication from now on.
pub(super) fn count_frames(node: &Node) -> Result<()> {
    node.netns.nft(&format!(
        "table inet ha_bench {{
 counter sync {{ }}
 chain out {{
  type filter hook output priority 0;
  udp dport {PORTS} counter name sync
 }}
}}"
    ))
}

/// Reads the meters of a pair, whose programs are these.
pub(super) fn read(nodes: [(&Node, Pid); 2]) -> Result<Reading> {
    let mut reading = Reading::default();
    for ((node, program), cpu_ns) in nodes.into_iter().zip(&mut reading.cpu_ns) {
        *cpu_ns = cpu(program)?;
        let mut nft = Command::new("nft");
        nft.args(["-j", "list", "counter", "inet", "ha_bench", "sync"]);
        let found: Value = serde_json::from_str(&node.netns.output(&mut nft)?)?;
        let objects = found.get("nftables").and_then(Value::as_array);
        let counter = objects
            .into_iter()
            .flatten()
            .find_map(|object| object.get("counter"))
            .context("no counter")?;
        let field = |name| {
            counter
                .get(name)
                .and_then(Value::as_u64)
                .context("no field")
        };
        let frames = field("packets")?;
        reading.frames += frames;
        reading.bytes += field("bytes")? + ETHERNET * frames;
    }
    Ok(reading)
}

/// Processor time of all threads of a process, its system calls included.
fn cpu(program: Pid) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{program}/task"))? {
        // Source: Documentation/scheduler/sched-stats.rst; the first field is the time on a CPU.
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text
            .split_whitespace()
            .next()
            .context("an empty schedstat")?;
        sum += first.parse::<u64>()?;
    }
    Ok(sum)
}
