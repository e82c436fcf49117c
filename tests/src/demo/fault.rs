//! Faults, each injected by one store or one system call from the process that takes the time.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ha_agent::status::model::Role;
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::clock::now_ns;
use crate::rig::pair::{Node, Pair};
use crate::rig::switch::Cut;

/// How long a thawed node may take to say that it is standby.
const THAWED_STANDBY: Duration = Duration::from_secs(5);

/// What happens to the active node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// All its ports go silent at once and the agent dies.
    PowerOff,
    /// The agent dies; kernel and data plane live on.
    AgentKill,
    /// The agent is stopped and continued some seconds later.
    Freeze,
    /// Its front link goes silent with the carrier up.
    LinkDown,
    /// None: an operator asks for a hand-over.
    Failover,
}

impl Fault {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off (all ports silent, agent killed)",
            Self::AgentKill => "agent-kill (SIGKILL to the agent alone)",
            Self::Freeze => "freeze (SIGSTOP to the agent alone)",
            Self::LinkDown => "link-down (front port silent, carrier up)",
            Self::Failover => "failover (planned, by command)",
        }
    }

    /// Whether the node's agent is alive afterwards.
    pub(crate) const fn spares_agent(self) -> bool {
        match self {
            Self::PowerOff | Self::AgentKill => false,
            Self::Freeze | Self::LinkDown | Self::Failover => true,
        }
    }

    /// Injects it into a node; returns when, taken just before.
    pub fn inject(self, pair: &mut Pair, node: usize) -> Result<u64> {
        let node = nth(pair, node)?;
        let at = now_ns();
        match self {
            Self::PowerOff => {
                node.cut(Cut::Both);
                node.kill()?;
            }
            Self::AgentKill => node.kill()?,
            Self::Freeze => node.signal(Signal::SIGSTOP)?,
            Self::LinkDown => node.front.cut(Cut::Both),
            Self::Failover => {
                node.failover()?;
            }
        }
        Ok(at)
    }
}

/// Thaws a frozen node; what is wrong if it does not go standby by itself.
pub(super) fn thaw(pair: &mut Pair, node: usize) -> Result<Option<String>> {
    let node = nth(pair, node)?;
    node.signal(Signal::SIGCONT)?;
    Ok(node
        .wait_role(Role::Standby, THAWED_STANDBY)
        .err()
        .map(|error| format!("the thawed node did not go standby: {error}")))
}

fn nth(pair: &mut Pair, node: usize) -> Result<&mut Node> {
    pair.nodes.get_mut(node).context("no such node")
}
