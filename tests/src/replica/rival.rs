//! conntrackd as Debian packages it, in its reliable mode (FTFW), beside a DNAT of nftables: the usual way
//! to have a standby know connections.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::shell::frame;
use ha_agent::shell::packet_socket::{PacketSocket, Receive};
use nix::net::if_::if_nametoindex;
use nix::unistd::Pid;

use crate::rig::arp::mac_of;
use crate::rig::config::{self, PairConfig, SERVER_PORT, SERVICE_PORT, SHARED_BACK, SHARED_FRONT};
use crate::rig::pair::{Node, Pair};
use crate::rig::process::Process;
use crate::rig::switch::Cut;

/// Connections that both ends have closed are forgotten after this, as by this project's nodes.
const CLOSED: &str = "2";

/// A pair of nodes that forward by DNAT; the first one holds the addresses.
pub(super) struct Rival {
    pub(super) pair: Pair,
    daemons: [Process; 2],
}

impl Rival {
    pub(super) fn start() -> Result<Self> {
        let pair = Pair::build(PairConfig::default())?;
        let [one, other] = &pair.nodes;
        for node in [one, other] {
            forward(node)?;
        }
        one.netns.ip(&addresses())?;
        let daemons = [conntrackd(one)?, conntrackd(other)?];
        // Their greeting.
        sleep(Duration::from_secs(2));
        let mut rival = Self { pair, daemons };
        for daemon in &mut rival.daemons {
            ensure!(daemon.ended()?.is_none(), "conntrackd: {}", daemon.log());
        }
        Ok(rival)
    }

    /// The first node is gone, and the second one takes its place, as keepalived would have it done: the
    /// connections it has heard of into its kernel, the addresses, and a word to the neighbours.
    pub(super) fn take_over(&self) -> Result<()> {
        let [active, standby] = &self.pair.nodes;
        active.cut(Cut::Both);
        let mut command = Command::new("conntrackd");
        command.arg("-C").arg(standby.dir().join("conntrackd.conf"));
        standby.netns.output(command.arg("-c"))?;
        standby.netns.ip(&addresses())?;
        standby.netns.run(|| {
            for (device, address) in [("front", SHARED_FRONT), ("back", SHARED_BACK)] {
                let socket = PacketSocket::open(if_nametoindex(device)?, Receive::Nothing)?;
                socket.send(&frame::gratuitous_arp(mac_of(device)?, address))?;
            }
            Ok(())
        })
    }

    pub(super) fn programs(&self) -> Result<[(&Node, Pid); 2]> {
        let [one, other] = &self.pair.nodes;
        let [first, second] = &self.daemons;
        Ok([(one, first.pid()?), (other, second.pid()?)])
    }

    /// Connections that the standby's daemon has heard of and its kernel could be given.
    pub(super) fn heard_of(&self) -> Result<u64> {
        let [_, standby] = &self.pair.nodes;
        let mut command = Command::new("conntrackd");
        command.arg("-C").arg(standby.dir().join("conntrackd.conf"));
        let text = standby.netns.output(command.arg("-s"))?;
        // The cache of what the partner told.
        let (_, external) = text
            .split_once("cache external:")
            .context("no statistics of conntrackd")?;
        let line = external
            .lines()
            .find(|line| line.contains("connections created:"))
            .context("no created connections")?;
        let mut words = line.split_whitespace();
        Ok(words.nth(2).context("no number")?.parse()?)
    }
}

/// What `ip -batch` reads to give a node the shared addresses.
fn addresses() -> String {
    format!("addr add {SHARED_FRONT}/24 dev front\naddr add {SHARED_BACK}/24 dev back\n")
}

/// Makes a node a router that translates.
fn forward(node: &Node) -> Result<()> {
    node.netns.sysctl("net/ipv4/ip_forward", "1")?;
    node.netns.nft(&format!(
        "table ip balancer {{
 chain pre {{
  type nat hook prerouting priority dstnat;
  ip daddr {SHARED_FRONT} tcp dport {SERVICE_PORT} dnat to numgen inc mod 2 map {{ 0 : 10.77.2.21, 1 : 10.77.2.22 }} : {SERVER_PORT}
 }}
 chain forward {{
  type filter hook forward priority 0;
  ct state invalid drop
 }}
}}"
    ))?;
    for (name, value) in [
        ("tcp_be_liberal", "1"),
        ("tcp_timeout_time_wait", CLOSED),
        ("tcp_timeout_close", CLOSED),
    ] {
        node.netns
            .sysctl(&format!("net/netfilter/nf_conntrack_{name}"), value)?;
    }
    Ok(())
}

fn conntrackd(node: &Node) -> Result<Process> {
    let file = |name: &str| node.dir().join(name);
    let (own, partner) = (config::back(node.number), config::back(3 - node.number));
    let text = format!(
        "Sync {{
 Mode FTFW {{
 }}
 UDP {{
  IPv4_address {own}
  IPv4_Destination_Address {partner}
  Port 3780
  Interface back
  SndSocketBuffer 12492800
  RcvSocketBuffer 12492800
  Checksum on
 }}
}}
General {{
 HashSize 65536
 HashLimit 524288
 LogFile {log}
 LockFile {lock}
 UNIX {{
  Path {socket}
 }}
 NetlinkBufferSize 8388608
 NetlinkBufferSizeMaxGrowth 33554432
 NetlinkOverrunResync On
 Filter From Userspace {{
  Protocol Accept {{
   TCP
  }}
  Address Ignore {{
   IPv4_address 127.0.0.1
   IPv4_address {own}
   IPv4_address {partner}
  }}
 }}
}}
",
        log = file("conntrackd.log").display(),
        lock = file("conntrackd.lock").display(),
        socket = file("conntrackd.ctl").display(),
    );
    fs::write(file("conntrackd.conf"), text)?;
    let mut command = Command::new("conntrackd");
    command.arg("-C").arg(file("conntrackd.conf"));
    let log = file("conntrackd.out");
    Process::start("conntrackd", &node.netns, &mut command, &log)
}
