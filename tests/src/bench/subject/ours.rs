//! A pair of this project's agents in front of real servers.

use anyhow::{Context as _, Result};
use ha_agent::status::model::Role;
use nix::sys::signal::Signal;

use super::Subject;
use crate::demo::SERVICE;
use crate::rig::config::PairConfig;
use crate::rig::pair::{Node, Pair};
use crate::traffic::pulse::Pulse;

/// The pair and its client.
pub(crate) struct Ours {
    name: &'static str,
    /// Ends before the network goes.
    pulse: Pulse,
    pair: Pair,
}

impl Ours {
    /// Builds and starts a pair. `name` tells its timing.
    pub(crate) fn start(name: &'static str, config: PairConfig) -> Result<Self> {
        Self::start_pair(name, Pair::build(config)?)
    }

    /// The same, with a program of its own on each node.
    pub(crate) fn start_installed(name: &'static str, config: PairConfig) -> Result<Self> {
        let mut pair = Pair::build(config)?;
        for node in &mut pair.nodes {
            node.install()?;
        }
        Self::start_pair(name, pair)
    }

    fn start_pair(name: &'static str, mut pair: Pair) -> Result<Self> {
        pair.start()?;
        let pulse = Pulse::start(&pair.client, SERVICE)?;
        Ok(Self { name, pulse, pair })
    }

    /// Puts a new program in place of a node's.
    pub(crate) fn install(&mut self, node: usize) -> Result<()> {
        self.node_mut(node)?.install()
    }

    fn node_mut(&mut self, index: usize) -> Result<&mut Node> {
        self.pair.nodes.get_mut(index).context("no such node")
    }
}

impl Subject for Ours {
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
        self.pair.wait_whole()?;
        let roles = self.pair.roles();
        Ok(roles.iter().position(|role| *role == Some(Role::Active)))
    }

    fn start(&mut self, node: usize) -> Result<()> {
        self.node_mut(node)?.start()
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.node_mut(node)?.kill()
    }

    fn signal(&mut self, node: usize, signal: Signal) -> Result<()> {
        self.node_mut(node)?.signal(signal)
    }

    fn hand_over(&mut self, node: usize) -> Result<()> {
        // A stall of the machine may have moved the role since the caller looked.
        let node = self.pair.active().unwrap_or(node);
        self.node_mut(node)?.failover()?;
        Ok(())
    }
}
