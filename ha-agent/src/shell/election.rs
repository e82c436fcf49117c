//! The election thread: the only place that runs [`Election`], opens the gate and announces.
//!
//! It waits for nothing but packets and time: no file, no netlink, no log line and no lock that others
//! hold for long. What takes time is handed to the rest of the shell as [`Event`]s; what the rest
//! knows comes back as [`Command`]s through a bounded queue.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use aya::maps::{MapData, RingBuf};
use ha_common::event::CarpSeen;
use tokio::sync::{mpsc, oneshot, watch};

use super::announce::Announcements;
use super::clock;
use super::frame::{self, Mac};
use super::gateway::GatewayProbe;
use super::packet_socket::{PacketSocket, Receive};
use super::realtime;
use super::wake::{self, Wake};
use crate::datapath::gate::GateWord;
use crate::proto::carp::{
    Action, Alarm, Command as Request, Election, Input, Refusal, Role, RoleReason, Snapshot,
};
use crate::proto::time::Instant;

/// Commands that may wait; the thread empties the queue each time round.
const QUEUE: usize = 64;
/// Frames taken from one socket before the others get their turn.
const BURST: usize = 64;
/// How often the published snapshot is renewed when nothing happens.
const PUBLISH: Duration = Duration::from_millis(100);

/// What the election needs to know about an interface.
#[derive(Clone, Debug)]
pub struct Link {
    /// Logical name.
    pub name: String,
    /// Kernel index.
    pub ifindex: u32,
    /// Ethernet address.
    pub mac: Mac,
    /// Own address; none on a heartbeat link.
    pub address: Option<Ipv4Addr>,
    /// Addresses that move with the role.
    pub shared: Vec<Ipv4Addr>,
    /// Whether advertisements and HELLOs run over it. Such links come first, in the order of the
    /// election's own list.
    pub checked: bool,
    /// Whose reachability is watched.
    pub gateway: Option<Ipv4Addr>,
}

/// What the rest of the agent tells the election.
#[derive(Debug)]
pub enum Command {
    /// A link gained or lost its carrier.
    Carrier {
        /// Index in the election's list of links.
        link: usize,
        /// Whether there is a carrier.
        up: bool,
    },
    /// The standby's table became complete, or ceased to be.
    Ready(bool),
    /// Terms below this one are safe to use after a crash.
    TermReserved(u64),
    /// The configuration changed; this is its generation.
    Generation(u64),
    /// An operator's wish, and whom to tell what became of it.
    Operator(Request, oneshot::Sender<Result<(), Refusal>>),
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
    /// A lasting condition began or ended.
    Alarm {
        /// Which.
        alarm: Alarm,
        /// Whether it began.
        raised: bool,
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
    let ports = parts
        .links
        .into_iter()
        .map(|link| Port::open(link, parts.timing))
        .collect::<io::Result<_>>()?;
    let worker = Worker {
        election: parts.election,
        ports,
        gate: parts.gate,
        ring: parts.ring,
        announcements: Announcements::default(),
        queue,
        wake,
        events: parts.events,
        addresses: parts.addresses,
        roles: parts.roles,
        untold: None,
        published,
        next_publish: Instant::default(),
        lateness: Lateness::default(),
        send_errors: 0,
        events_lost: 0,
        refused: None,
        stopped: false,
    };
    let thread = thread::Builder::new()
        .name("election".to_owned())
        .spawn(move || worker.run())?;
    Ok((handle, thread))
}

/// An interface with its sockets.
struct Port {
    link: Link,
    /// Sends everything; receives HELLOs on links that take part in the HA checks.
    socket: PacketSocket,
    arp: Option<PacketSocket>,
    probe: Option<GatewayProbe>,
}

impl Port {
    fn open(link: Link, (interval, timeout): (Duration, Duration)) -> io::Result<Self> {
        let receive = if link.checked {
            Receive::Hellos
        } else {
            Receive::Nothing
        };
        let socket = PacketSocket::open(link.ifindex, receive)?;
        let watched = link.checked && link.gateway.is_some();
        let arp = watched
            .then(|| PacketSocket::open(link.ifindex, Receive::ArpReplies))
            .transpose()?;
        let probe = watched.then(|| GatewayProbe::new(interval, timeout, clock::now()));
        Ok(Self {
            link,
            socket,
            arp,
            probe,
        })
    }
}

struct Worker {
    election: Election,
    ports: Vec<Port>,
    gate: GateWord,
    ring: RingBuf<MapData>,
    announcements: Announcements,
    queue: Receiver<Command>,
    wake: Wake,
    events: mpsc::Sender<Event>,
    addresses: watch::Sender<Addresses>,
    roles: Box<dyn Fn(RoleTerm) -> bool + Send>,
    /// A role that the replication thread could not take yet.
    untold: Option<RoleTerm>,
    published: Arc<ArcSwap<Published>>,
    next_publish: Instant,
    lateness: Lateness,
    send_errors: u64,
    events_lost: u64,
    refused: Option<Refusal>,
    stopped: bool,
}

impl Worker {
    fn run(mut self) {
        for (what, error) in realtime::make_punctual() {
            self.event(Event::Unpunctual {
                what,
                error: error.to_string(),
            });
        }
        let mut actions = Vec::new();
        while !self.stopped {
            self.sleep();
            // What arrived comes before what is due: a node that was frozen hears first that others
            // went on without it.
            self.receive_advertisements(&mut actions);
            self.receive_frames(&mut actions);
            self.receive_commands(&mut actions);
            self.timers(&mut actions);
            self.untold = self.untold.take().filter(|role| !(self.roles)(*role));
            self.publish();
        }
        self.gate.close();
    }

    fn sleep(&self) {
        let now = clock::now();
        let deadline = [
            self.election.poll_timeout(),
            self.announcements.poll_timeout(),
            self.ports
                .iter()
                .filter_map(|port| port.probe.as_ref())
                .map(GatewayProbe::poll_timeout)
                .min(),
            Some(self.next_publish),
        ]
        .into_iter()
        .flatten()
        .min();
        let mut fds = vec![self.wake.as_fd(), self.ring.as_fd()];
        for port in &self.ports {
            if port.link.checked {
                fds.push(port.socket.as_fd());
            }
            fds.extend(port.arp.as_ref().map(std::os::fd::AsFd::as_fd));
        }
        if wake::sleep(&fds, now, deadline).is_err() {
            // A descriptor went bad; keep time all the same.
            thread::sleep(Duration::from_millis(1));
        }
        self.wake.clear();
    }

    fn receive_advertisements(&mut self, actions: &mut Vec<Action>) {
        for _ in 0..BURST {
            let Some(item) = self.ring.next() else { break };
            let Some(seen) = advertisement(&item) else {
                continue;
            };
            drop(item);
            let port = self
                .ports
                .iter()
                .position(|port| port.link.checked && port.link.ifindex == seen.ifindex);
            if let Some(link) = port {
                let input = Input::Advert {
                    link,
                    source: seen.source,
                    payload: &seen.payload,
                    at: seen.at,
                };
                self.election.handle_input(clock::now(), input, actions);
                self.perform(actions);
            }
        }
    }

    fn receive_frames(&mut self, actions: &mut Vec<Action>) {
        let mut buffer = [0u8; 2048];
        for index in 0..self.ports.len() {
            for _ in 0..BURST {
                let Some(port) = self.ports.get(index).filter(|port| port.link.checked) else {
                    break;
                };
                let Ok(Some(received)) = port.socket.receive(&mut buffer) else {
                    break;
                };
                let Some((source, payload)) = frame::parse_hello(received) else {
                    continue;
                };
                let now = clock::now();
                let input = Input::Hello {
                    link: index,
                    source,
                    payload,
                    at: now,
                };
                self.election.handle_input(now, input, actions);
                self.perform(actions);
            }
            for _ in 0..BURST {
                let Some(port) = self.ports.get_mut(index) else {
                    break;
                };
                let (Some(arp), Some(probe)) = (&port.arp, &mut port.probe) else {
                    break;
                };
                let Ok(Some(received)) = arp.receive(&mut buffer) else {
                    break;
                };
                if frame::arp_reply_sender(received) == port.link.gateway {
                    probe.replied(clock::now());
                }
            }
        }
    }

    fn receive_commands(&mut self, actions: &mut Vec<Action>) {
        for _ in 0..QUEUE {
            let Ok(command) = self.queue.try_recv() else {
                break;
            };
            let mut answer = None;
            let input = match command {
                Command::Carrier { link, up } => Input::Carrier { link, up },
                Command::Ready(ready) => Input::Ready(ready),
                Command::TermReserved(term) => Input::TermReserved(term),
                Command::Generation(generation) => Input::Generation(generation),
                Command::Operator(request, to) => {
                    answer = Some(to);
                    Input::Command(request)
                }
            };
            self.refused = None;
            self.election.handle_input(clock::now(), input, actions);
            self.perform(actions);
            if let Some(to) = answer {
                // Whoever asked may have gone away.
                let _gone = to.send(self.refused.take().map_or(Ok(()), Err));
            }
        }
    }

    fn timers(&mut self, actions: &mut Vec<Action>) {
        let now = clock::now();
        if let Some(due) = self.election.poll_timeout().filter(|due| *due <= now) {
            self.note_lateness(now.since(due));
            self.election.handle_timeout(now, actions);
            self.perform(actions);
        }
        self.probe_gateways(now, actions);
        if self.announcements.due(now) {
            self.announce();
        }
    }

    fn probe_gateways(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.ports.len() {
            let Some(port) = self.ports.get_mut(index) else {
                break;
            };
            let Some(probe) = &mut port.probe else {
                continue;
            };
            let request = probe
                .due(now)
                .then_some((port.link.address, port.link.gateway));
            let change = probe.change(now);
            if let Some((Some(address), Some(gateway))) = request {
                let request = frame::arp_request(port.link.mac, address, gateway);
                let sent = port.socket.send(&request);
                self.count_send(&sent);
            }
            if let Some(reachable) = change {
                let input = Input::Gateway {
                    link: index,
                    reachable,
                };
                self.election.handle_input(now, input, actions);
                self.perform(actions);
            }
        }
    }

    fn perform(&mut self, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Gate(None) => self.gate.close(),
                Action::Gate(Some(until)) => self.gate.open_until(until),
                Action::SendAdvert { link, payload } => {
                    self.send(link, |link| {
                        frame::advertisement(
                            link.mac,
                            link.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
                            &payload,
                        )
                    });
                }
                Action::SendHello { link, payload } => {
                    self.send(link, |link| {
                        frame::hello(
                            link.mac,
                            link.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
                            &payload,
                        )
                    });
                }
                Action::ClaimAddresses => {
                    self.addresses.send_replace(Addresses { held: true });
                }
                Action::ReleaseAddresses => {
                    self.announcements.stop();
                    self.addresses.send_replace(Addresses { held: false });
                }
                Action::Announce => {
                    if self.announcements.start(clock::now()) {
                        self.announce();
                    }
                }
                Action::ReserveTerm { up_to } => self.event(Event::ReserveTerm { up_to }),
                Action::RoleChanged {
                    from,
                    to,
                    reason,
                    term,
                } => {
                    self.untold = Some(RoleTerm {
                        active: to == Role::Active,
                        term,
                    });
                    self.event(Event::RoleChanged {
                        from,
                        to,
                        reason,
                        term,
                    });
                    self.next_publish = Instant::default();
                }
                Action::Alarm { alarm, raised } => self.event(Event::Alarm { alarm, raised }),
                Action::Refused(refusal) => self.refused = Some(refusal),
                Action::Stopped => {
                    self.stopped = true;
                    self.event(Event::Stopped);
                }
            }
        }
    }

    fn send(&mut self, link: usize, build: impl FnOnce(&Link) -> Vec<u8>) {
        if let Some(port) = self.ports.get(link) {
            let sent = port.socket.send(&build(&port.link));
            self.count_send(&sent);
        }
    }

    fn announce(&mut self) {
        for index in 0..self.ports.len() {
            let Some(port) = self.ports.get(index) else {
                break;
            };
            let results: Vec<io::Result<()>> = port
                .link
                .shared
                .iter()
                .map(|address| {
                    port.socket
                        .send(&frame::gratuitous_arp(port.link.mac, *address))
                })
                .collect();
            for result in &results {
                self.count_send(result);
            }
        }
    }

    fn count_send(&mut self, sent: &io::Result<()>) {
        self.send_errors += u64::from(sent.is_err());
    }

    fn event(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.events_lost += 1;
        }
    }

    fn note_lateness(&mut self, late: Duration) {
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.lateness.timers += 1;
        self.lateness.late += u64::from(late > 1_000);
        self.lateness.max_us = self.lateness.max_us.max(late);
    }

    fn publish(&mut self) {
        let now = clock::now();
        if now < self.next_publish {
            return;
        }
        self.next_publish = now + PUBLISH;
        self.published.store(Arc::new(Published {
            election: self.election.snapshot(),
            lateness: self.lateness,
            send_errors: self.send_errors,
            events_lost: self.events_lost,
        }));
    }
}

/// An advertisement taken out of its ring record.
struct Advertisement {
    at: Instant,
    ifindex: u32,
    source: Ipv4Addr,
    payload: Vec<u8>,
}

/// Splits a record of the ring; XDP has checked the form, so what does not fit is not ours.
fn advertisement(record: &[u8]) -> Option<Advertisement> {
    if record.len() < size_of::<CarpSeen>() {
        return None;
    }
    // SAFETY: the record is at least as long as the type, which consists of integers and byte arrays
    // only, so any bytes are a valid value; the read does not need alignment.
    let seen: CarpSeen = unsafe { record.as_ptr().cast::<CarpSeen>().read_unaligned() };
    let packet = seen.packet.get(..usize::from(seen.len))?;
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    Some(Advertisement {
        at: Instant::from_nanos(seen.at_ns),
        ifindex: seen.ifindex,
        source: Ipv4Addr::new(
            *packet.get(12)?,
            *packet.get(13)?,
            *packet.get(14)?,
            *packet.get(15)?,
        ),
        // The frame may be padded beyond the packet.
        payload: packet.get(header..total.min(packet.len()))?.to_vec(),
    })
}

/// Sends without waiting and tells whether there was room.
pub(super) fn offer<T>(queue: &SyncSender<T>, value: T) -> bool {
    match queue.try_send(value) {
        Ok(()) => true,
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
    }
}
