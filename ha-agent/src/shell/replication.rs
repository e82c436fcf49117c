//! The replication thread: runs [`Sync`] between the data plane's event ring, the replication socket
//! and the standby's live map.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use aya::maps::{MapData, RingBuf};
use ha_common::event::EventKind;

pub use super::channel::Channel;
use super::channel::Hearing;
use super::clock;
use super::election::{RoleTerm, offer};
use super::pending::{BATCH, Gone, Pending, Put};
use super::records::clients::Standing;
use super::records::{self, Desk, DeskParts, DeskSnapshot};
use super::sweep::{self, Sweeper};
use super::wake::{self, Wake};
use crate::config::model::Transport;
use crate::datapath::family;
use crate::datapath::{Datapath, DatapathError, remove_connections, remove_pairs};
use crate::keys::PairKeys;
use crate::proto::sync::{Action, Change, Input, Record, Salt, Sync, SyncRole, SyncSnapshot};
use crate::proto::time::Instant;
use crate::services::expiry::Watcher;
use crate::services::{Halves, ServiceTable, reverse_key};

/// Commands that may wait.
const QUEUE: usize = 64;
/// Events or packets handled before the other source gets its turn.
const BURST: usize = 4096;
/// How often the published snapshot is renewed.
const PUBLISH: Duration = Duration::from_millis(100);
/// What the rest of the agent tells the replication.
#[derive(Debug)]
enum Command {
    Role(RoleTerm),
    Generation(u64),
    Keys(PairKeys),
    Rebound(Channel, UdpSocket),
    Resized,
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
    /// Those of them that were too long for the interface.
    pub too_long: u64,
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

    /// The interface was made anew: from now on this channel and its socket are to be used.
    pub fn rebound(&self, channel: Channel, socket: UdpSocket) -> bool {
        self.send(Command::Rebound(channel, socket))
    }

    /// Longer or shorter packets than before fit through the interface.
    pub fn resized(&self) -> bool {
        self.send(Command::Resized)
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

/// Starts the thread; the watcher is for the walk through the map that the thread is to compare with its
/// table, `desk` what it does with records that are no connections.
pub fn spawn(parts: Parts, desk: DeskParts) -> io::Result<(Handle, Watcher, JoinHandle<()>)> {
    let (commands, queue) = sync_channel(QUEUE);
    let wake = Wake::new()?;
    let published = Arc::new(ArcSwap::from_pointee(Published {
        sync: parts.sync.snapshot(),
        apply_errors: 0,
        send_errors: 0,
        too_long: 0,
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
    let (sweeper, pieces) = Sweeper::new(Arc::clone(&parts.datapath), Arc::clone(&parts.services));
    let watcher = sweep::watcher(pieces, wake.clone());
    let worker = Worker {
        parts,
        sweeper,
        desk,
        queue,
        wake,
        published,
        next_publish: Instant::default(),
        apply_errors: 0,
        send_errors: 0,
        too_long: 0,
        bad_events: 0,
        pending: Pending::default(),
        hearing: Hearing::default(),
        untold: None,
        pacified: false,
        stopped: false,
    };
    let thread = thread::Builder::new()
        .name("replication".to_owned())
        .spawn(move || worker.run())?;
    Ok((handle, watcher, thread))
}

struct Worker {
    parts: Parts,
    sweeper: Sweeper,
    desk: Desk,
    queue: Receiver<Command>,
    wake: Wake,
    published: Arc<ArcSwap<Published>>,
    next_publish: Instant,
    apply_errors: u64,
    send_errors: u64,
    too_long: u64,
    bad_events: u64,
    pending: Pending,
    hearing: Hearing,
    /// Readiness that the election could not take yet.
    untold: Option<bool>,
    /// Neither sends nor takes anything.
    pacified: bool,
    stopped: bool,
}

impl Worker {
    fn run(mut self) {
        let mut actions = Vec::new();
        self.fit();
        while !self.stopped {
            let packets = self.sleep();
            // Before a demotion: the last changes leave under the session they belong to.
            let drained = self.receive_events(&mut actions);
            self.receive_commands(&mut actions);
            if packets {
                self.receive_packets(&mut actions);
            }
            self.desk
                .serve(clock::now(), &mut self.parts.sync, &mut actions);
            let now = clock::now();
            if self.parts.sync.poll_timeout().is_some_and(|due| due <= now) {
                self.parts.sync.handle_timeout(now, &mut actions);
            }
            self.perform(&mut actions);
            self.sweep(drained, &mut actions);
            self.untold = self
                .untold
                .take()
                .filter(|ready| !(self.parts.ready)(*ready));
            self.publish();
        }
    }

    /// Sleeps until there is something to do; whether packets may have come.
    fn sleep(&self) -> bool {
        let now = clock::now();
        // Changes that would wait for each other need not wake this thread one by one.
        let gathers = self.parts.sync.gathers_until();
        let gathers = gathers.filter(|until| *until > now);
        let deadline = [
            gathers,
            self.parts.sync.poll_timeout(),
            self.sweeper.due(&self.parts.sync),
            Some(self.next_publish),
        ]
        .into_iter()
        .flatten()
        .min();
        let mut fds = [
            wake::until_readable(self.wake.as_fd()),
            wake::until_readable(self.parts.socket.as_fd()),
            wake::until_readable(self.parts.ring.as_fd()),
        ];
        let listened = if gathers.is_some() { 2 } else { 3 };
        let listened = fds.get_mut(..listened).unwrap_or_default();
        if wake::sleep(listened, now, deadline).is_err() {
            thread::sleep(Duration::from_millis(1));
            return true;
        }
        let [signal, packets, _] = fds.map(|fd| fd.any().unwrap_or(true));
        if signal {
            self.wake.clear();
        }
        packets
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
                Command::Rebound(channel, socket) => {
                    self.parts.channel = channel;
                    self.parts.socket = socket;
                    self.hearing = Hearing::default();
                    self.fit();
                    continue;
                }
                Command::Resized => {
                    self.fit();
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

    /// Sends packets as long as the interface takes.
    fn fit(&mut self) {
        match self.parts.channel.lengths(&self.parts.socket) {
            Ok(lengths) => self.parts.sync.set_lengths(clock::now(), lengths),
            Err(error) => tracing::debug!(%error, "MTU of the replication interface not known"),
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

    /// Takes what the data plane has announced; whether that was all.
    fn receive_events(&mut self, actions: &mut Vec<Action>) -> bool {
        let (mut any, mut drained) = (false, false);
        for _ in 0..BURST {
            let Some(item) = self.parts.ring.next() else {
                drained = true;
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
        drained
    }

    /// After all else is performed: the live map of a standby is then what its table says.
    fn sweep(&mut self, drained: bool, actions: &mut Vec<Action>) {
        self.sweeper.work(&mut self.parts.sync, drained, actions);
        if !actions.is_empty() {
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
        let mut refused = Vec::new();
        for action in actions.drain(..) {
            match action {
                Action::Send { .. } if self.pacified => {}
                Action::Send { to, bytes } => {
                    for address in self.parts.channel.destinations(to, self.hearing.is_deaf()) {
                        let sent = self.parts.socket.send_to(&bytes, address);
                        if let Err(error) = sent {
                            refused.push(error);
                        }
                    }
                }
                Action::Apply { change, before } => {
                    if !self.pending.takes(&change) {
                        self.store();
                    }
                    self.pending.push(change, before.as_ref());
                }
                Action::Record(event) => self.desk.event(event),
                Action::Ready(ready) => {
                    self.store();
                    self.untold = Some(ready);
                }
            }
        }
        self.store();
        self.send_errors += refused.len() as u64;
        let too_long = |error: &&io::Error| error.raw_os_error() == Some(libc::EMSGSIZE);
        let too_long = refused.iter().filter(too_long).count();
        if too_long > 0 {
            // They would be repeated in vain; shorter ones will do.
            self.too_long += too_long as u64;
            self.fit();
        }
        self.desk.flush(clock::now());
    }

    /// Brings the pending changes into the live map, both directions of each.
    fn store(&mut self) {
        let (gone, put) = self.pending.take();
        if let Err(error) = self.remove(&gone) {
            self.apply_errors += 1;
            tracing::debug!(%error, "replicated deletions not applied");
        }
        if !put.is_empty() {
            self.put(&put);
        }
    }

    fn remove(&self, gone: &[Gone]) -> Result<(), DatapathError> {
        let (mut pairs, mut unknown) = (Vec::with_capacity(gone.len()), Vec::new());
        for (key, before) in gone {
            match before {
                Some(record) => pairs.push((*key, reverse_key(record))),
                None => unknown.push(*key),
            }
        }
        remove_pairs(&*self.parts.datapath, &pairs)?;
        remove_connections(&*self.parts.datapath, &unknown)?;
        Ok(())
    }

    fn put(&mut self, put: &[Put]) {
        let now = clock::now().as_nanos();
        let mut entries = Vec::with_capacity(2 * put.len());
        {
            let Ok(mut services) = self.parts.services.lock() else {
                return;
            };
            for Put { record, whole } in put {
                if let Some(Halves { forward, reverse }) = services.entries(record, now) {
                    // As the data plane does it: reverse first, so that no packet finds half a pair.
                    entries.extend(reverse.filter(|_| *whole));
                    entries.push(forward);
                } else {
                    self.apply_errors += 1;
                    self.pending.refused(record.key);
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
            for Put { record, .. } in put {
                self.pending.refused(record.key);
            }
        }
    }

    fn publish(&mut self) {
        let now = clock::now();
        if now < self.next_publish && !self.stopped {
            return;
        }
        self.next_publish = now + PUBLISH;
        let sync = self.parts.sync.snapshot();
        if self.parts.channel.transport == Transport::Auto {
            self.hearing.judge(now, &sync);
        }
        self.published.store(Arc::new(Published {
            sync,
            apply_errors: self.apply_errors + self.sweeper.errors,
            send_errors: self.send_errors,
            too_long: self.too_long,
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
