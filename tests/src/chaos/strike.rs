//! Each fault, done to the pair and undone.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use ha_agent::control::{Client, Reloaded, Request};
use ha_common::conn::flags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::scene::Scene;
use super::schedule::{Fault, Kind, Link};
use crate::clock::{patient, until};
use crate::rig::config::RealServer;
use crate::rig::conns::Conns;
use crate::rig::link;
use crate::rig::pair::Node;
use crate::rig::squeeze::Squeeze;
use crate::rig::switch::{Cut, Port};

/// How long an agent may take to hand over and end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// Of the entries of a table one in so many is edited.
const EDITED_PARTS: usize = 4;

impl Scene {
    /// Does it; `node` is whom it meets.
    pub(super) fn inject(&mut self, fault: &Fault, node: usize) -> Result<()> {
        match fault.kind {
            Kind::Kill => self.node_mut(node)?.kill(),
            Kind::Freeze => self.node(node)?.signal(Signal::SIGSTOP),
            Kind::Restart => self.restart(node),
            Kind::Upgrade => {
                let node = self.node_mut(node)?;
                node.install()?;
                node.reexec().map(|_at| ())
            }
            Kind::PowerOff => self.pair.power_off(node),
            Kind::Silence => self.port(node, fault.link).map(|port| port.cut(Cut::Both)),
            Kind::OneWay => {
                let cut = if fault.from_node {
                    Cut::FromNode
                } else {
                    Cut::ToNode
                };
                self.port(node, fault.link).map(|port| port.cut(cut))
            }
            Kind::Carrier => self.carrier(node, fault.link, false),
            Kind::Multicast | Kind::SyncLink | Kind::Apart | Kind::Deaf => {
                self.pair.switch.netns().nft(&filter(fault))
            }
            Kind::BothOff => {
                self.pair.power_off(0)?;
                self.pair.power_off(1)
            }
            Kind::ClockJump => self.clock(node)?.jump(fault.seconds),
            Kind::Memory => {
                // Who is dead is not short of memory.
                let Some(agent) = self.node(node)?.agent.as_ref() else {
                    return Ok(());
                };
                let victim = agent.pid()?;
                // The kernel's tables are on the agent's account and cannot be reclaimed: one that still makes them
                // would be out of memory, where others are only short of it.
                until("the agent has its tables", || Ok(takes_part(victim)))?;
                self.squeeze = Some(Squeeze::start(victim, &self.scratch)?);
                Ok(())
            }
            Kind::DiskFull => self.node(node)?.fill_disk(),
            Kind::Unmounted => self.pair.unmount_bpf(node),
            Kind::Detached => self.node(node)?.detach(fault.link.name()),
            Kind::Edited => self.edit_table(node),
            Kind::Configuration => self.edit_configuration(),
            Kind::Failover => {
                let active = self.node(self.holder)?;
                active.failover().map(|_done| ())
            }
        }
    }

    /// Undoes what does not undo itself.
    pub(super) fn heal(&mut self, fault: &Fault, node: usize) -> Result<()> {
        match fault.kind {
            Kind::Kill => self.node_mut(node)?.start(),
            Kind::Freeze => self.node(node)?.signal(Signal::SIGCONT),
            Kind::PowerOff => self.pair.power_on(node),
            Kind::Silence | Kind::OneWay => self
                .port(node, fault.link)
                .map(|port| port.cut(Cut::Nothing)),
            Kind::Carrier => self.carrier(node, fault.link, true),
            Kind::Multicast | Kind::SyncLink | Kind::Apart | Kind::Deaf => {
                let mut nft = Command::new("nft");
                nft.args(["delete", "table", "bridge", table(fault.kind)]);
                self.pair.switch.netns().output(&mut nft).map(|_said| ())
            }
            Kind::BothOff => {
                self.pair.power_on(0)?;
                self.pair.power_on(1)
            }
            Kind::ClockJump => self.clock(node)?.jump(0),
            Kind::Memory => {
                self.squeeze = None;
                Ok(())
            }
            Kind::DiskFull => self.node(node)?.empty_disk(),
            // Whoever mounts it again has the agent make its pins anew.
            Kind::Unmounted => {
                self.pair.mount_bpf(node)?;
                self.restart(node)
            }
            Kind::Restart
            | Kind::Upgrade
            | Kind::Detached
            | Kind::Edited
            | Kind::Configuration
            | Kind::Failover => Ok(()),
        }
    }

    fn restart(&mut self, node: usize) -> Result<()> {
        let node = self.node_mut(node)?;
        node.signal(Signal::SIGTERM)?;
        let agent = node.agent.as_mut().context("no agent")?;
        agent.wait(patient(ENDS_WITHIN))?;
        node.start()
    }

    fn port(&self, node: usize, link: Link) -> Result<&Port> {
        let node = self.node(node)?;
        match link {
            Link::Front => Ok(&node.front),
            Link::Back => Ok(&node.back),
            Link::Cable => node.cable.as_ref().context("no cable"),
        }
    }

    /// Of the node's end, taken away or given back at the other one.
    fn carrier(&self, node: usize, link: Link, up: bool) -> Result<()> {
        let port = self.port(node, link)?.name();
        link::set_up(self.pair.switch.netns(), port, up).map(|_at| ())
    }

    /// A standby loses whole connections, which its partner must give it again. An active node loses halves that the
    /// next packet makes anew.
    fn edit_table(&self, node: usize) -> Result<()> {
        let active = node == self.holder;
        let table = Conns::open(self.node(node)?)?;
        let reverse = |flag: u8| flag & flags::REVERSE != 0;
        let all = table.all()?.into_iter();
        let some = all.filter(|(_, entry)| !active || reverse(entry.flags));
        for (key, _) in some.step_by(EDITED_PARTS) {
            // It may have ended meanwhile.
            let _gone = table.delete(&key);
        }
        Ok(())
    }

    /// Real servers come, go and drain.
    fn edit_configuration(&mut self) -> Result<()> {
        self.versions += 1;
        let of = |servers: [(u8, u32); 3]| {
            let listed = servers.into_iter().filter(|(number, _)| *number > 0);
            listed
                .map(|(number, weight)| RealServer { number, weight })
                .collect()
        };
        self.pair.config.servers = match self.versions % 4 {
            0 => of([(1, 1), (2, 1), (0, 0)]),
            1 => of([(1, 1), (2, 0), (3, 1)]),
            2 => of([(1, 1), (2, 1), (3, 0)]),
            _ => of([(1, 0), (2, 1), (3, 1)]),
        };
        // Whoever is active now: an earlier fault may have moved the role, or be about to.
        until("an agent that can be told", || {
            let holder = self.node(self.holder)?;
            Ok(holder.agent.is_some() || self.pair.active().is_ok())
        })?;
        let active = self.pair.active().unwrap_or(self.holder);
        let node = self.node(active)?;
        node.write_config(&self.pair.config)?;
        // A partner that does not answer is waited for, and everything else goes on.
        let control = Client::connect(&node.dir().join("run/ctl.sock"))?;
        self.reload = Some(thread::spawn(move || {
            let mut control = control;
            let reloaded: Reloaded = control.request(&Request::Reload)?;
            Ok(reloaded)
        }));
        Ok(())
    }

    /// What came of an edited configuration; none if none was edited.
    pub(super) fn reloaded(&mut self) -> Result<Option<Reloaded>> {
        let Some(reload) = self.reload.take() else {
            return Ok(None);
        };
        let done = reload.join().map_err(|_panic| anyhow!("reload panicked"))?;
        done.map(Some)
    }

    pub(super) fn node(&self, node: usize) -> Result<&Node> {
        self.pair.nodes.get(node).context("no such node")
    }

    fn node_mut(&mut self, node: usize) -> Result<&mut Node> {
        self.pair.nodes.get_mut(node).context("no such node")
    }
}

/// The switch's table of what it does not pass.
fn table(kind: Kind) -> &'static str {
    if kind == Kind::Multicast {
        "multicast"
    } else if kind == Kind::SyncLink {
        "sync"
    } else if kind == Kind::Apart {
        "apart"
    } else {
        "deaf"
    }
}

fn filter(fault: &Fault) -> String {
    let between = |link: Link| {
        let name = link.name();
        format!(
            "iifname {name}-lb1 oifname {name}-lb2 drop\niifname {name}-lb2 oifname {name}-lb1 drop\n"
        )
    };
    let rules = if fault.kind == Kind::Multicast {
        // The groups of CARP and of replication.
        "ether daddr { 01:00:5e:00:00:12, 01:00:5e:7f:45:49 } drop\n".to_owned()
    } else if fault.kind == Kind::SyncLink {
        "udp dport 6974 drop\ntcp dport 6973 drop\ntcp sport 6973 drop\n".to_owned()
    } else if fault.kind == Kind::Apart {
        between(fault.link)
    } else {
        Link::ALL.map(between).concat()
    };
    format!(
        "table bridge {} {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}}}\n}}",
        table(fault.kind)
    )
}

/// Whether an agent has got as far as its election, frozen or not.
fn takes_part(agent: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{agent}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        let name = fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.trim() == "election")
    })
}
