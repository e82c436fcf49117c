//! What the page needs of a node, besides what any client of the control socket may ask for.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Door;
use crate::control::edits::{Applied, Apply, Preview, Wanted};
use crate::control::{Handler, Reply};
use crate::doctor::Finding;
use crate::events::{Entry, Event};

/// What a page at one of the node's addresses is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A shared address, or any address of a node alone: everything.
    Pair,
    /// The node's own address: what concerns this node.
    Node,
}

/// What the page shows besides the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The machine's id: the appliance's serial number.
    pub machine: String,
    /// When it was booted, in words.
    pub booted: String,
    /// Where this node's own page is.
    pub own: Option<SocketAddr>,
    /// Where the partner's own page is.
    pub partner: Option<SocketAddr>,
    /// Where the page of the pair is.
    pub pair: Option<SocketAddr>,
}

/// The hardware of an interface, as far as its driver tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Megabits a second.
    pub speed: Option<u32>,
    /// `full` or `half`.
    pub duplex: Option<&'static str>,
    /// Longest packet.
    pub mtu: Option<u32>,
}

/// How a node leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It comes back.
    Reboot,
    /// It does not.
    Shutdown,
}

/// Echoes of a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pinged {
    /// [`crate::status::model::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Whom.
    pub host: IpAddr,
    /// Of each request: milliseconds, or null without an answer.
    pub times_ms: Vec<Option<f64>>,
}

/// A node with a page. What is said to block is called where nobody else waits.
pub trait Shown: Handler {
    /// Who may look.
    fn door(&self) -> &Door;
    /// The newest events, oldest first.
    fn recent(&self, count: usize) -> Vec<Event>;
    /// The machine, and where pages are.
    fn place(&self) -> Place;
    /// What a page at this address of the node is for; none if it may not be used there.
    fn reach(&self, address: IpAddr) -> Option<Reach>;
    /// Takes note of something.
    fn note(&self, entry: Entry);
    /// The hardware of interfaces, by their logical names. Blocks.
    fn hardware(&self) -> Vec<(String, Hardware)>;
    /// The configuration file in place, and its fingerprint. Blocks.
    fn written(&self) -> Reply<(String, String)>;
    /// A backup of the configuration in force. Blocks.
    fn backup(&self) -> Reply<String>;
    /// What a change would do. Blocks.
    fn preview(&self, wanted: &Wanted) -> Reply<Preview>;
    /// Makes a change that was looked at, for somebody. Blocks.
    fn apply(&self, who: &str, order: &Apply) -> Reply<Applied>;
    /// Checks node, network and pair.
    fn examine(&self) -> impl Future<Output = Vec<Finding>>;
    /// Asks a host for echoes, from an interface if one is named.
    fn ping(
        &self,
        host: IpAddr,
        interface: Option<&str>,
    ) -> impl Future<Output = Reply<Pinged>> + Send;
    /// Whether the active role can be handed over now.
    fn may_hand_over(&self) -> impl Future<Output = Reply<()>> + Send;
    /// Has the system go down, whatever this node's role is. Blocks.
    fn power(&self, how: Power) -> Reply<()>;
    /// What a reset would remove. Blocks.
    fn belongings(&self) -> Reply<Vec<PathBuf>>;
    /// Has the agent end a moment later, and all that go with it. Blocks.
    fn reset(&self) -> Reply<()>;
}
