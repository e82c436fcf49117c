//! Rivals as Debian packages them, in the same network: keepalived and ucarp.
//!
//! They move an address and forward nothing, so the probes to it are answered by a small server on the
//! node that holds it: a shorter way than through a balancer, which is in their favour.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};

use super::Subject;
use crate::demo::SERVICE;
use crate::rig::config::{self, PairConfig, SHARED_BACK, SHARED_FRONT, VHID};
use crate::rig::locate;
use crate::rig::pair::{Node, Pair};
use crate::rig::process::{self, Process};
use crate::traffic::pulse::Pulse;

/// What ucarp signs with.
pub(crate) const PASSPHRASE: &str = "interoperable";

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Two `VRRPv3` instances in a sync group, with this interval in seconds.
    Keepalived(&'static str),
    /// One address; three intervals of a second.
    Ucarp,
}

/// A pair of rivals and its client.
pub(crate) struct Rival {
    name: &'static str,
    kind: Kind,
    pulse: Pulse,
    daemons: [Option<Process>; 2],
    _echoes: Vec<Process>,
    pair: Pair,
}

/// Whether a rival is installed.
pub(crate) fn available(program: &str) -> bool {
    process::installed(program)
}

impl Rival {
    /// `name` tells the interval, `interval` is in seconds as keepalived reads it.
    pub(crate) fn keepalived(name: &'static str, interval: &'static str) -> Result<Self> {
        Self::build(name, Kind::Keepalived(interval))
    }

    /// Two ucarp with their defaults.
    pub(crate) fn ucarp(name: &'static str) -> Result<Self> {
        Self::build(name, Kind::Ucarp)
    }

    fn build(name: &'static str, kind: Kind) -> Result<Self> {
        let pair = Pair::build(PairConfig::default())?;
        let mut echoes = Vec::new();
        for node in &pair.nodes {
            // The echo listens at the shared address whether the node holds it or not.
            node.netns.sysctl("net/ipv4/ip_nonlocal_bind", "1")?;
            let mut command = Command::new(locate::program("ha-demo")?);
            command
                .args(["serve", "--server", &node.number.to_string()])
                .args(["--listen", &SERVICE.to_string()]);
            let log = node.dir().join("echo.log");
            echoes.push(Process::start("echo", &node.netns, &mut command, &log)?);
        }
        let pulse = Pulse::start(&pair.client, SERVICE)?;
        let mut rival = Self {
            name,
            kind,
            pulse,
            daemons: [None, None],
            _echoes: echoes,
            pair,
        };
        for node in 0..2 {
            rival.start(node)?;
        }
        Ok(rival)
    }

    fn group(&self, node: usize) -> Result<nix::unistd::Pid> {
        let daemon = self.daemons.get(node).and_then(Option::as_ref);
        // Each process of the rig leads a session of its own.
        daemon.context("the daemon is not running")?.pid()
    }
}

impl Subject for Rival {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pair(&self) -> &Pair {
        &self.pair
    }

    fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    fn whole(&mut self) -> Result<Option<usize>> {
        let mut held = Vec::new();
        for (index, node) in self.pair.nodes.iter().enumerate() {
            if node.has_address(SHARED_FRONT)? {
                held.push(index);
            }
        }
        Ok(match held.as_slice() {
            [one] => Some(*one),
            _ => None,
        })
    }

    fn start(&mut self, node: usize) -> Result<()> {
        let kind = self.kind;
        let place = self.pair.nodes.get(node).context("no such node")?;
        // What a killed daemon leaves behind would stay for good.
        for (address, device) in [(SHARED_FRONT, "front"), (SHARED_BACK, "back")] {
            if place.has_address(address)? {
                place
                    .netns
                    .ip(&format!("addr del {address}/24 dev {device}"))?;
            }
        }
        let daemon = match kind {
            Kind::Keepalived(interval) => keepalived(place, interval)?,
            Kind::Ucarp => ucarp(place, false)?,
        };
        if let Some(slot) = self.daemons.get_mut(node) {
            *slot = Some(daemon);
        }
        Ok(())
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        killpg(self.group(node)?, Signal::SIGKILL)?;
        if let Some(slot) = self.daemons.get_mut(node) {
            *slot = None;
        }
        Ok(())
    }

    fn signal(&mut self, node: usize, signal: Signal) -> Result<()> {
        Ok(killpg(self.group(node)?, signal)?)
    }

    /// The ordinary way: the daemon is stopped.
    fn hand_over(&mut self, node: usize) -> Result<()> {
        let daemon = self.daemons.get(node).and_then(Option::as_ref);
        daemon
            .context("the daemon is not running")?
            .signal(Signal::SIGTERM)
    }
}

fn keepalived(node: &Node, interval: &str) -> Result<Process> {
    let instance = |name: &str, device: &str, id: u8, address| {
        format!(
            "vrrp_instance {name} {{
  state BACKUP
  nopreempt
  interface {device}
  virtual_router_id {id}
  priority {}
  advert_int {interval}
  virtual_ipaddress {{ {address}/24 dev {device} }}
}}
",
            202 - node.number
        )
    };
    let text = format!(
        "global_defs {{
  router_id lb{}
  vrrp_version 3
  vrrp_garp_master_refresh 0
  script_user root
}}
vrrp_sync_group G {{ group {{ F B }} }}
{}{}",
        node.number,
        instance("F", "front", VHID, SHARED_FRONT),
        instance("B", "back", VHID + 1, SHARED_BACK),
    );
    let file = |name: &str| node.dir().join(name);
    fs::write(file("keepalived.conf"), text)?;
    for left in ["keepalived.pid", "vrrp.pid"] {
        // A killed one leaves them, and would pass for alive as long as nobody reaps its child.
        if file(left).exists() {
            fs::remove_file(file(left))?;
        }
    }
    let mut command = Command::new("keepalived");
    command
        .args(["-n", "-l", "-P", "-f"])
        .arg(file("keepalived.conf"))
        .arg("-p")
        .arg(file("keepalived.pid"))
        .arg("-r")
        .arg(file("vrrp.pid"));
    let log = file("keepalived.log");
    Process::start("keepalived", &node.netns, &mut command, &log)
}

/// Starts ucarp on a node, as Debian packages it. With `preempt` it takes the address from a slower
/// master.
pub(crate) fn ucarp(node: &Node, preempt: bool) -> Result<Process> {
    let script = |name: &str, verb: &str| -> Result<PathBuf> {
        let path = node.dir().join(name);
        let text = format!("#!/bin/sh\nexec ip address {verb} {SHARED_FRONT}/24 dev front\n");
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(path)
    };
    let mut command = Command::new("ucarp");
    command
        .args(["--interface", "front", "--pass", PASSPHRASE, "--shutdown"])
        .args(["--srcip", &config::front(node.number).to_string()])
        .args(["--vhid", &VHID.to_string()])
        .args(["--addr", &SHARED_FRONT.to_string()])
        .args(["--advbase", "1", "--deadratio", "3"])
        .args(["--advskew", &(node.number - 1).to_string()])
        .arg(format!("--upscript={}", script("up", "add")?.display()))
        .arg(format!("--downscript={}", script("down", "del")?.display()));
    if preempt {
        command.arg("--preempt");
    }
    let log = node.dir().join("ucarp.log");
    Process::start("ucarp", &node.netns, &mut command, &log)
}
