//! The replication thread: runs [`Sync`] between the data plane's event ring, the replication socket
//! and the standby's live map.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use aya::maps::{MapData, RingBuf};
use ha_common::event::EventKind;
use socket2::{Domain, Protocol, Socket, Type};

use super::clock;
use super::election::{RoleTerm, offer};
use super::records::clients::Standing;
use super::records::{self, Desk, DeskParts, DeskSnapshot};
use super::wake::{self, Wake};
use crate::datapath::family::{self, FlowKey};
use crate::datapath::{Datapath, remove_connections};
use crate::keys::PairKeys;
use crate::proto::sync::{
    Action, Change, Destination, Input, Record, Salt, Sync, SyncRole, SyncSnapshot,
};
use crate::proto::time::Instant;
use crate::services::{Halves, ServiceTable};

/// Commands that may wait.
const QUEUE: usize = 64;
/// Events or packets handled before the other source gets its turn.
const BURST: usize = 4096;
/// How often the published snapshot is renewed.
const PUBLISH: Duration = Duration::from_millis(100);
/// Socket buffers asked for: a full transfer at full rate for a tenth of a second, or a thousand
/// packets repeated at once.
const BUFFER: usize = 8 << 20;
/// Entries written to the live map at once.
const BATCH: usize = 256;

/// Addresses of the replication channel.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Own address on the replication interface.
    pub own: IpAddr,
    /// Partner's address there, of the same family.
    pub partner: IpAddr,
    /// Group, of the same family.
    pub group: IpAddr,
    /// UDP port, ours and the partner's.
    pub port: u16,
    /// Kernel index of the interface.
    pub ifindex: u32,
    /// Kernel name of the interface.
    pub device: String,
}

impl Channel {
    /// Opens the socket: multicast without loop and beyond no router, bound to the interface.
    pub fn open(&self) -> io::Result<UdpSocket> {
        let domain = if self.group.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(self.device.as_bytes()))?;
        match (self.group, self.own) {
            (IpAddr::V4(group), IpAddr::V4(own)) => {
                socket.bind(&self.to(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into())?;
                let on = socket2::InterfaceIndexOrAddress::Index(self.ifindex);
                socket.join_multicast_v4_n(&group, &on)?;
                socket.set_multicast_if_v4(&own)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_ttl_v4(1)?;
            }
            (IpAddr::V6(group), IpAddr::V6(_)) => {
                socket.set_only_v6(true)?;
                socket.bind(&self.to(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).into())?;
                socket.join_multicast_v6(&group, self.ifindex)?;
                socket.set_multicast_if_v6(self.ifindex)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_hops_v6(1)?;
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
        }
        // More than the system's limit needs a privilege; less only means more repairs under load.
        if socket.set_recv_buffer_size(BUFFER).is_err()
            || socket.set_send_buffer_size(BUFFER).is_err()
        {
            tracing::debug!("buffers of the replication socket stay at their defaults");
        }
        Ok(socket.into())
    }

    /// An address on the channel's link: a link-local one means nothing without its interface.
    fn to(&self, address: IpAddr) -> SocketAddr {
        match address {
            IpAddr::V4(_) => SocketAddr::new(address, self.port),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, self.port, 0, self.ifindex).into(),
        }
    }
}

/// What the rest of the agent tells the replication.
#[derive(Debug)]
enum Command {
    Role(RoleTerm),
    Generation(u64),
    Keys(PairKeys),
    Rebound(UdpSocket),
    Stop,
}

/// What others may read at any time.
#[derive(Clone, Debug)]
pub struct Published {
    /// The machine's own account.
    pub sync: SyncSnapshot,
    /// Changes that the live map did not take.
    pub apply_errors: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Events that could not be understood.
    pub bad_events: u64,
    /// What became of the partner's word about clients.
    pub desk: DeskSnapshot,
    /// The thread has ended.
    pub stopped: bool,
}

/// The way to the replication thread.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: SyncSender<Command>,
    wake: Wake,
    published: Arc<ArcSwap<Published>>,
    records: records::Handle,
}

impl Handle {
    /// The way to records that are no connections.
    pub const fn records(&self) -> &records::Handle {
        &self.records
    }

    /// What this node is to the replication, at any time.
    pub fn standing(&self) -> Box<dyn Fn() -> Standing + Send> {
        let published = Arc::clone(&self.published);
        Box::new(move || {
            let published = published.load();
            match published.sync.role {
                _ if published.stopped => Standing::Ended,
                SyncRole::Active => Standing::Active(published.sync.term),
                SyncRole::Standby => Standing::Standby,
            }
        })
    }

    /// Tells the role. Never blocks: called from the election thread.
    pub fn role(&self, role: RoleTerm) -> bool {
        self.send(Command::Role(role))
    }

    /// Tells the configuration generation.
    pub fn generation(&self, generation: u64) -> bool {
        self.send(Command::Generation(generation))
    }

    /// The interface was made anew: from now on this socket is to be used.
    pub fn rebound(&self, socket: UdpSocket) -> bool {
        self.send(Command::Rebound(socket))
    }

    /// Changes the pair's keys.
    pub fn keys(&self, keys: PairKeys) -> bool {
        self.send(Command::Keys(keys))
    }

    /// Ends the thread.
    pub fn stop(&self) -> bool {
        self.send(Command::Stop)
    }

    /// The newest snapshot, at most a tenth of a second old.
    pub fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }

    fn send(&self, command: Command) -> bool {
        let sent = offer(&self.commands, command);
        self.wake.signal();
        sent
    }
}

/// Everything the thread is built from.
pub struct Parts {
    /// The machine.
    pub sync: Sync,
    /// The socket of [`Channel::open`], and the channel.
    pub socket: UdpSocket,
    /// Addresses to send to.
    pub channel: Channel,
    /// Connection events from XDP.
    pub ring: RingBuf<MapData>,
    /// The live map.
    pub datapath: Arc<dyn Datapath>,
    /// Turns records into entries of this node.
    pub services: Arc<Mutex<ServiceTable>>,
    /// Called when the standby's table becomes complete or ceases to be; `false` if the message could
    /// not be taken now.
    pub ready: Box<dyn Fn(bool) -> bool + Send>,
}

/// Starts the thread; `desk` is what it does with records that are no connections.
pub fn spawn(parts: Parts, desk: DeskParts) -> io::Result<(Handle, JoinHandle<()>)> {
    let (commands, queue) = sync_channel(QUEUE);
    let wake = Wake::new()?;
    let published = Arc::new(ArcSwap::from_pointee(Published {
        sync: parts.sync.snapshot(),
        apply_errors: 0,
        send_errors: 0,
        bad_events: 0,
        desk: DeskSnapshot::default(),
        stopped: false,
    }));
    let (records, desk) = records::open(desk, wake.clone());
    let handle = Handle {
        commands,
        wake: wake.clone(),
        published: Arc::clone(&published),
        records,
    };
    let worker = Worker {
        parts,
        desk,
        queue,
        wake,
        published,
        next_publish: Instant::default(),
        apply_errors: 0,
        send_errors: 0,
        bad_events: 0,
        pending: Vec::with_capacity(BATCH),
        untold: None,
        pacified: false,
        stopped: false,
    };
    let thread = thread::Builder::new()
        .name("replication".to_owned())
        .spawn(move || worker.run())?;
    Ok((handle, thread))
}

struct Worker {
    parts: Parts,
    desk: Desk,
    queue: Receiver<Command>,
    wake: Wake,
    published: Arc<ArcSwap<Published>>,
    next_publish: Instant,
    apply_errors: u64,
    send_errors: u64,
    bad_events: u64,
    pending: Vec<Record>,
    /// Readiness that the election could not take yet.
    untold: Option<bool>,
    /// Neither sends nor takes anything.
    pacified: bool,
    stopped: bool,
}

impl Worker {
    fn run(mut self) {
        let mut actions = Vec::new();
        while !self.stopped {
            self.sleep();
            // Before a demotion: the last changes leave under the session they belong to.
            self.receive_events(&mut actions);
            self.receive_commands(&mut actions);
            self.receive_packets(&mut actions);
            self.desk
                .serve(clock::now(), &mut self.parts.sync, &mut actions);
            let now = clock::now();
            if self.parts.sync.poll_timeout().is_some_and(|due| due <= now) {
                self.parts.sync.handle_timeout(now, &mut actions);
            }
            self.perform(&mut actions);
            self.untold = self
                .untold
                .take()
                .filter(|ready| !(self.parts.ready)(*ready));
            self.publish();
        }
    }

    fn sleep(&self) {
        let now = clock::now();
        let deadline = [self.parts.sync.poll_timeout(), Some(self.next_publish)]
            .into_iter()
            .flatten()
            .min();
        let fds = [
            self.wake.as_fd(),
            self.parts.ring.as_fd(),
            self.parts.socket.as_fd(),
        ];
        if wake::sleep(&fds, now, deadline).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        self.wake.clear();
    }

    fn receive_commands(&mut self, actions: &mut Vec<Action>) {
        for _ in 0..QUEUE {
            let Ok(command) = self.queue.try_recv() else {
                break;
            };
            let input = match command {
                Command::Role(RoleTerm {
                    active,
                    pacified,
                    term,
                }) => {
                    self.pacified = pacified;
                    let Some(salt) = self.salt() else { return };
                    Input::Role { active, term, salt }
                }
                Command::Generation(generation) => Input::Generation(generation),
                Command::Keys(keys) => {
                    let Some(salt) = self.salt() else { return };
                    self.parts.sync.set_keys(clock::now(), keys, salt, actions);
                    continue;
                }
                Command::Rebound(socket) => {
                    self.parts.socket = socket;
                    continue;
                }
                Command::Stop => {
                    self.stopped = true;
                    return;
                }
            };
            self.parts.sync.handle_input(clock::now(), input, actions);
        }
    }

    /// Fresh random bytes for a session's key.
    fn salt(&mut self) -> Option<Salt> {
        let mut salt = [0u8; 16];
        if aws_lc_rs::rand::fill(&mut salt).is_err() {
            // Without randomness there is no safe key: stay silent rather than unsafe.
            tracing::error!("no random bytes from the system: replication stays off");
            self.stopped = true;
            return None;
        }
        Some(salt)
    }

    fn receive_events(&mut self, actions: &mut Vec<Action>) {
        let mut any = false;
        for _ in 0..BURST {
            let Some(item) = self.parts.ring.next() else {
                break;
            };
            any = true;
            let event = parse_event(&item);
            drop(item);
            let Some((change, at)) = event else {
                self.bad_events += 1;
                continue;
            };
            self.parts
                .sync
                .handle_input(clock::now(), Input::Local { change, at }, actions);
        }
        if any {
            self.parts
                .sync
                .handle_input(clock::now(), Input::Flush, actions);
            self.perform(actions);
        }
    }

    fn receive_packets(&mut self, actions: &mut Vec<Action>) {
        let mut buffer = [0u8; 9216];
        for _ in 0..BURST {
            let Ok((length, _)) = self.parts.socket.recv_from(&mut buffer) else {
                break;
            };
            if self.pacified {
                continue;
            }
            let bytes = buffer.get(..length).unwrap_or_default();
            self.parts
                .sync
                .handle_input(clock::now(), Input::Packet { bytes }, actions);
            if actions.len() >= BATCH {
                self.perform(actions);
            }
        }
    }

    fn perform(&mut self, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Send { .. } if self.pacified => {}
                Action::Send { to, bytes } => {
                    let address = match to {
                        Destination::Group => self.parts.channel.group,
                        Destination::Partner => self.parts.channel.partner,
                    };
                    let to = self.parts.channel.to(address);
                    self.send_errors += u64::from(self.parts.socket.send_to(&bytes, to).is_err());
                }
                Action::Apply(Change::Put(record)) => {
                    self.pending.push(record);
                    if self.pending.len() >= BATCH {
                        self.store();
                    }
                }
                Action::Apply(Change::Delete(key)) => {
                    self.store();
                    self.remove(&key);
                }
                Action::Record(event) => self.desk.event(event),
                Action::Ready(ready) => {
                    self.store();
                    self.untold = Some(ready);
                }
            }
        }
        self.store();
        self.desk.flush(clock::now());
    }

    /// Writes the pending records into the live map, both directions of each.
    fn store(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let now = clock::now().as_nanos();
        let mut entries = Vec::with_capacity(2 * self.pending.len());
        {
            let Ok(mut services) = self.parts.services.lock() else {
                return;
            };
            for record in self.pending.drain(..) {
                if let Some(Halves { forward, reverse }) = services.entries(&record, now) {
                    // As the data plane does it: reverse first, so that no packet finds half a pair.
                    entries.extend(reverse);
                    entries.push(forward);
                } else {
                    self.apply_errors += 1;
                }
            }
            // A real server this node does not know yet was given a number.
            if let Err(error) = services.apply(&*self.parts.datapath) {
                self.apply_errors += 1;
                tracing::debug!(%error, "real servers of replicated connections not stored");
            }
        }
        if let Err(error) = self.parts.datapath.put_conns(&entries) {
            self.apply_errors += 1;
            tracing::debug!(%error, "replicated connections not stored");
        }
    }

    fn remove(&mut self, key: &FlowKey) {
        if let Err(error) = remove_connections(&*self.parts.datapath, &[*key]) {
            self.apply_errors += 1;
            tracing::debug!(%error, "replicated deletion not applied");
        }
    }

    fn publish(&mut self) {
        let now = clock::now();
        if now < self.next_publish && !self.stopped {
            return;
        }
        self.next_publish = now + PUBLISH;
        self.published.store(Arc::new(Published {
            sync: self.parts.sync.snapshot(),
            apply_errors: self.apply_errors,
            send_errors: self.send_errors,
            bad_events: self.bad_events,
            desk: self.desk.snapshot(),
            stopped: self.stopped,
        }));
    }
}

/// Reads a record of the event ring.
fn parse_event(record: &[u8]) -> Option<(Change, Instant)> {
    let event = family::read_event(record)?;
    let change = match EventKind::from_u8(event.kind)? {
        EventKind::Add | EventKind::State => Change::Put(Record::from_event(&event)),
        EventKind::Delete => Change::Delete(event.key),
    };
    Some((change, Instant::from_nanos(event.at_ns)))
}
