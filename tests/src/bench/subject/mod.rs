//! Whom the cases strike: this project's agents and their rivals, behind one face and in the same
//! network: client, switch, two nodes.

mod ours;
mod rival;

use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

pub(crate) use ours::Ours;
pub(crate) use rival::{PASSPHRASE, Rival, available, ucarp};

use crate::clock::now_ns;
use crate::rig::arp;
use crate::rig::config::{CLIENT, SHARED_FRONT};
use crate::rig::pair::{Node, Pair};
use crate::traffic::pulse::Pulse;

/// How long a pair may take to be whole again.
const SETTLE: Duration = Duration::from_secs(40);
/// A pair is at rest when its clients have seen no gap beyond this for the time below. Generous: a
/// machine that stalls by itself must not keep a run from beginning.
const REST_GAP_NS: u64 = 20_000_000;
const REST_NS: u64 = 150_000_000;

/// A pair that can be struck.
pub(crate) trait Subject {
    /// Who, with its timing.
    fn name(&self) -> &'static str;
    /// The network and its nodes.
    fn pair(&self) -> &Pair;
    /// What the client sees.
    fn pulse(&self) -> &Pulse;
    /// Index of the active node once the pair is whole; `None` while it is not.
    fn whole(&mut self) -> Result<Option<usize>>;
    /// Starts the agent of a node whose agent is dead.
    fn start(&mut self, node: usize) -> Result<()>;
    /// Kills the agent of a node, all its processes.
    fn kill(&mut self, node: usize) -> Result<()>;
    /// Signals the agent of a node, all its processes.
    fn signal(&mut self, node: usize, signal: Signal) -> Result<()>;
    /// Asks the active node to hand over.
    fn hand_over(&mut self, node: usize) -> Result<()>;
}

impl dyn Subject + '_ {
    /// Waits until the pair is whole and its client is served without gaps; the active node's index.
    pub(crate) fn settle(&mut self) -> Result<usize> {
        let end = now_ns() + u64::try_from(SETTLE.as_nanos())?;
        loop {
            if let Some(active) = self.whole()? {
                let now = now_ns();
                std::thread::sleep(Duration::from_nanos(REST_NS));
                let at_rest = self.pulse().seen(now..now_ns()).gap_ns < REST_GAP_NS;
                if at_rest && self.whole()? == Some(active) {
                    return Ok(active);
                }
            }
            if now_ns() > end {
                bail!("{} did not come to rest within {SETTLE:?}", self.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A node by index.
    pub(crate) fn node(&self, index: usize) -> Result<&Node> {
        match self.pair().nodes.get(index) {
            Some(node) => Ok(node),
            None => bail!("there is no node {index}"),
        }
    }

    /// How many nodes answer ARP for the clients' shared address.
    pub(crate) fn holders(&self) -> Result<usize> {
        let client = &self.pair().client;
        Ok(arp::holders(client, "front", CLIENT, SHARED_FRONT)?.len())
    }
}
