//! What is known of a node, its interfaces and its pair. Looked up by [`super::look`]; the checks read
//! nothing else, so that each can be tried on a machine that is not there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::Diagnostic;
use crate::config::model::{Cidr, Config};
use crate::datapath::attach::XdpMode;
use crate::status::model::{Services, Status};

/// All of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The configuration, or why it cannot be used.
    pub config: Result<Config, Vec<Diagnostic>>,
    /// What it is warned of.
    pub warnings: Vec<Diagnostic>,
    /// Whether the files it names can be used.
    pub secrets: Result<(), Vec<Diagnostic>>,
    /// The agent.
    pub agent: Agent,
    /// The kernel.
    pub kernel: Kernel,
    /// What the agent may do, or this command if no agent runs.
    pub rights: Rights,
    /// Whether the wall clock is kept right by somebody; none if the kernel does not tell.
    pub clock_kept: Option<bool>,
    /// The machine.
    pub machine: Machine,
    /// Settings of the kernel under `/proc/sys`, by name; none if they cannot be read.
    pub settings: BTreeMap<String, Option<String>>,
    /// The directory for state.
    pub state_dir: Place,
    /// Interfaces of the configuration, in its order.
    pub interfaces: Vec<InterfaceFacts>,
}

/// The agent.
#[derive(Clone, Debug)]
pub enum Agent {
    /// It does not run.
    Absent,
    /// It may run, but does not answer; why.
    Mute(String),
    /// It runs.
    Running {
        /// `ha-agent status`.
        status: Box<Status>,
        /// `ha-agent services`.
        services: Services,
    },
}

/// The kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` shows it.
    pub release: String,
    /// Whether it describes its types (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// Whether BPF programs are translated to machine code; none if it does not tell.
    pub jit: Option<bool>,
    /// Whether `node.bpf_dir` is, or would be made, on a BPF file system.
    pub bpffs: bool,
}

/// What a process may do.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// Whether it may lock any amount of memory, by its limit.
    pub memory_unlimited: bool,
}

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Bytes of memory that are free or can be freed.
    pub memory_available: u64,
    /// Processors that are on line.
    pub processors: usize,
}

/// A directory that is written to.
#[derive(Clone, Debug)]
pub struct Place {
    /// What kept a file from being written; none if it was.
    pub refused: Option<String>,
    /// Bytes left on its file system; none if unknown.
    pub free: Option<u64>,
}

/// An interface of the configuration.
#[derive(Clone, Debug)]
pub struct InterfaceFacts {
    /// Logical name.
    pub name: String,
    /// Kernel interface.
    pub device: String,
    /// What it is; none if there is none of this name.
    pub link: Option<LinkFacts>,
    /// Echoes of the partner's addresses on it.
    pub partners: Vec<Heard>,
    /// The same with packets as long as the interface takes.
    pub wide: Vec<Heard>,
    /// Echoes of its gateways.
    pub gateways: Vec<Heard>,
    /// Echoes of its gateways that were asked for from a shared address; empty on a node that is not active.
    pub returns: Vec<Heard>,
}

/// A kernel interface.
#[derive(Clone, Debug, Default)]
pub struct LinkFacts {
    /// Whether it is up and has a live other end.
    pub carrier: bool,
    /// Longest IP packet.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
    /// Name of its driver; none if it does not tell.
    pub driver: Option<String>,
    /// Megabits a second; none if it does not tell.
    pub speed: Option<u32>,
    /// `full` or `half`; none if it does not tell.
    pub duplex: Option<&'static str>,
    /// Receive queues; none if it does not tell.
    pub queues: Option<u32>,
    /// Whether the driver puts received packets together (LRO); none if it does not tell.
    pub merges: Option<bool>,
    /// How an XDP program is attached; none if none is.
    pub xdp: Option<XdpMode>,
}

/// An echo that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Of whom.
    pub host: IpAddr,
    /// How long it took, or why there was none.
    pub answer: Result<Duration, String>,
}

impl Heard {
    /// Whether it came.
    pub const fn is_some(&self) -> bool {
        self.answer.is_ok()
    }
}
