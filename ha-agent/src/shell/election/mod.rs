//! The election thread: the only place that runs [`Election`], opens the gate and announces.
//!
//! It waits for nothing but packets and time: no file, no netlink, no log line and no lock that others
//! hold for long. What takes time is handed to the rest of the shell as [`Event`]s; what the rest
//! knows comes back as [`Command`]s through a bounded queue.

mod carrier;
mod port;
mod reach;
mod recorder;
mod worker;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use aya::maps::{MapData, RingBuf};
use tokio::sync::{mpsc, oneshot, watch};

use super::clock;
use super::frame::Mac;
use super::wake::Wake;
use crate::config::model::Transport;
use crate::datapath::gate::GateWord;
use crate::proto::carp::{
    Alarm, Command as Request, Election, ElectionKeys, Evidence, Parked, Refusal, Role, RoleReason,
    Settings, Snapshot,
};
use crate::proto::time::Instant;
pub use port::Port;
pub use recorder::Recorder;
use worker::Worker;

/// Commands that may wait; the thread empties the queue each time round.
const QUEUE: usize = 64;

/// What the election needs to know about an interface.
#[derive(Clone, Debug)]
pub struct Link {
    /// Logical name.
    pub name: String,
    /// Kernel index.
    pub ifindex: u32,
    /// Ethernet address.
    pub mac: Mac,
    /// That of the shared addresses, if the pair has one for them.
    pub virtual_mac: Option<Mac>,
    /// Own addresses; none on a heartbeat link.
    pub addresses: Vec<IpAddr>,
    /// Addresses that move with the role.
    pub shared: Vec<IpAddr>,
    /// Whether advertisements and HELLOs run over it. Such links come first, in the order of the
    /// election's own list.
    pub checked: bool,
    /// How its packets travel.
    pub transport: Transport,
    /// The partner's addresses on it, one of a family.
    pub partners: Vec<IpAddr>,
    /// Whose reachability is watched: one that answers is enough.
    pub gateways: Vec<IpAddr>,
    /// Whether this node forwards IPv6 packets there, which its neighbours are told.
    pub router: bool,
}

/// What the rest of the agent tells the election.
#[derive(Debug)]
pub enum Command {
    /// A link became fit for use (there is a carrier and everything else that it needs) or ceased to
    /// be. Of the carrier's end the thread hears from the kernel itself.
    Carrier {
        /// Index in the election's list of links.
        link: usize,
        /// Whether it is.
        up: bool,
    },
    /// The standby's table became complete, or ceased to be.
    Ready(bool),
    /// Terms below this one are safe to use after a crash.
    TermReserved(u64),
    /// The configuration changed; this is its generation.
    Generation(u64),
    /// An interface was made anew: from now on this is how to use it.
    Rebound {
        /// Index in [`Parts::links`].
        index: usize,
        /// Its new sockets.
        port: Box<Port>,
    },
    /// Whether a stranger has a shared address.
    Disputed(bool),
    /// Somebody else claims a shared address: if this node holds them, it says so again.
    Announce,
    /// Interval, timeout or what is demanded of advertisements changed.
    Settings(Settings),
    /// The keys changed.
    Keys(ElectionKeys),
    /// Write down what happens; answered by whether that was not done already.
    Record(Box<Recorder>, oneshot::Sender<bool>),
    /// An operator's wish, and whom to tell what became of it.
    Operator(Request, oneshot::Sender<Result<(), Refusal>>),
    /// Prepare for the program's replacement; the answer may take its time.
    Reexec(oneshot::Sender<Result<Paused, Refusal>>),
}

/// The thread does nothing until this is dropped.
#[derive(Debug)]
pub struct Paused {
    /// What a new program continues with.
    pub parked: Parked,
    _hold: SyncSender<()>,
}

/// What the election tells the rest of the agent.
#[derive(Clone, Debug)]
pub enum Event {
    /// The role changed.
    RoleChanged {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// Why.
        reason: RoleReason,
        /// The term now.
        term: u64,
    },
    /// Reserve terms below this one on disk, then send [`Command::TermReserved`].
    ReserveTerm {
        /// The bound.
        up_to: u64,
    },
    /// A lasting condition began or ended, or rests on something else now.
    Alarm {
        /// Which.
        alarm: Alarm,
        /// Whether it holds.
        raised: bool,
        /// What it rests on.
        evidence: Evidence,
    },
    /// Whether the virtual MAC can be reached through a link's network.
    VirtualMac {
        /// Logical name of the link.
        link: String,
        /// What shows that it cannot; none if it can.
        blocked: Option<String>,
    },
    /// The thread is less punctual than it could be.
    Unpunctual {
        /// What the system refused.
        what: &'static str,
        /// Its answer.
        error: String,
    },
    /// The node has handed over and may end.
    Stopped,
}

/// What the address keeper should bring about: the newest wish counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Whether this node should hold the shared addresses.
    pub held: bool,
}

/// How punctual the thread is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lateness {
    /// Timers served.
    pub timers: u64,
    /// Of these, later than a millisecond.
    pub late: u64,
    /// The latest ever, in microseconds.
    pub max_us: u64,
}

/// What others may read at any time.
#[derive(Clone, Debug)]
pub struct Published {
    /// When it was published.
    pub at: Instant,
    /// The machine's own account.
    pub election: Snapshot,
    /// Punctuality.
    pub lateness: Lateness,
    /// Frames that could not be sent.
    pub send_errors: u64,
    /// Events that found their queue full.
    pub events_lost: u64,
}

/// A role with its term, for the replication thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleTerm {
    /// Whether this node is active.
    pub active: bool,
    /// Whether it is pacified: it neither gives nor gets anything.
    pub pacified: bool,
    /// The election's term.
    pub term: u64,
}

/// The way to the election thread.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: SyncSender<Command>,
    wake: Wake,
    published: Arc<ArcSwap<Published>>,
}

impl Handle {
    /// Sends a command; `false` if the thread is gone or hopelessly behind.
    pub fn send(&self, command: Command) -> bool {
        let sent = offer(&self.commands, command);
        self.wake.signal();
        sent
    }

    /// The newest snapshot, at most a tenth of a second old.
    pub fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }
}

/// Everything the thread is built from.
pub struct Parts {
    /// The machine, not started.
    pub election: Election,
    /// Its secrets.
    pub keys: ElectionKeys,
    /// Interfaces, those that take part in the HA checks first.
    pub links: Vec<Link>,
    /// Advertisement interval and timeout, for the gateway probes.
    pub timing: (Duration, Duration),
    /// The fence.
    pub gate: GateWord,
    /// Advertisements from XDP.
    pub ring: RingBuf<MapData>,
    /// Where events go.
    pub events: mpsc::Sender<Event>,
    /// Where the address keeper listens.
    pub addresses: watch::Sender<Addresses>,
    /// Tells the replication thread about roles; `false` if it could not take the message now.
    pub roles: Box<dyn Fn(RoleTerm) -> bool + Send>,
}

/// Starts the thread.
pub fn spawn(parts: Parts) -> io::Result<(Handle, JoinHandle<()>)> {
    let (commands, queue) = sync_channel(QUEUE);
    let wake = Wake::new()?;
    let published = Arc::new(ArcSwap::from_pointee(Published {
        at: clock::now(),
        election: parts.election.snapshot(),
        lateness: Lateness::default(),
        send_errors: 0,
        events_lost: 0,
    }));
    let handle = Handle {
        commands,
        wake: wake.clone(),
        published: Arc::clone(&published),
    };
    let worker = Worker::new(parts, queue, wake, published)?;
    let thread = thread::Builder::new()
        .name("election".to_owned())
        .spawn(move || worker.run())?;
    Ok((handle, thread))
}

/// Sends without waiting and tells whether there was room.
pub(in crate::shell) fn offer<T>(queue: &SyncSender<T>, value: T) -> bool {
    match queue.try_send(value) {
        Ok(()) => true,
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
    }
}
