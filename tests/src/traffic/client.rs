//! The client: thousands of TCP connections through the shared address with checked payload on
//! each, in one thread.
//!
//! It first opens the standing connections, then new ones at a rate (and faster in a burst around
//! the fault), all of which stay open and go on talking. It keeps a record of each; what they mean is
//! decided in [`super::report`].

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::{Domain, Socket, Type};

use super::pattern::{self, Answers};
use crate::clock::now_ns;
use crate::rig::netns::Netns;

/// Bytes of one request.
const REQUEST: u64 = 32;
/// A connection with this much unanswered sends no more until it is answered.
const UNANSWERED_MAX: u64 = 64 << 10;
/// Requests a second over all connections: what two cores carry beside the pair itself. With many
/// connections each of them speaks less often.
const REQUESTS_PER_SECOND: u64 = 8_000;
/// Least time between two requests of a connection.
const REQUEST_EVERY_NS: u64 = 100_000_000;
/// Handshakes under way at a time: what a stall made late is made up without a flood that would
/// overflow the queues between the namespaces.
const OPENING_MAX: usize = 100;
/// A handshake that takes longer lost a packet.
const HANDSHAKE_NS: u64 = 100_000_000;
/// What a stall made late is made up as far as it is this part of a second.
const DEBT_PARTS: u64 = 4;
/// How often the loop looks for work that is due.
const TICK: Duration = Duration::from_micros(500);
/// Connections older than this are not young.
const YOUNG_NS: u64 = 100_000_000;
const TIMER: u64 = u64::MAX;

/// What the client is told and what it tells, shared with the thread that steers it.
#[derive(Debug, Default)]
pub struct Control {
    /// Connections to open in all, as fast as [`Control::rate`] allows.
    target: AtomicUsize,
    /// New connections a second; 0 = open none.
    rate: AtomicU64,
    /// When the fault was injected; 0 = not yet.
    fault_ns: AtomicU64,
    stop: AtomicBool,
    established: AtomicUsize,
    failed: AtomicUsize,
    /// When the youngest connections were established, oldest first; none is older than
    /// [`YOUNG_NS`] when the newest is added.
    young: Mutex<VecDeque<u64>>,
}

impl Control {
    /// Opens connections at this rate until there are `target` in all.
    pub fn open(&self, target: usize, rate: u64) {
        self.target.store(target, Ordering::SeqCst);
        self.rate.store(rate, Ordering::SeqCst);
    }

    /// Tells when the fault was injected. No more connections are opened.
    pub fn fault_at(&self, ns: u64) {
        self.fault_ns.store(ns, Ordering::SeqCst);
    }

    /// How many connections were established so far.
    pub fn established(&self) -> usize {
        self.established.load(Ordering::SeqCst)
    }

    /// How many connections were broken so far.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::SeqCst)
    }

    /// Whether there is a connection of each of these ages, in nanoseconds.
    pub fn has_ages(&self, ages: &[Range<u64>]) -> bool {
        let young = self.young.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_ns();
        ages.iter().all(|age| {
            young
                .iter()
                .any(|at| age.contains(&now.saturating_sub(*at)))
        })
    }

    fn established_at(&self, now: u64) {
        self.established.fetch_add(1, Ordering::SeqCst);
        let mut young = self.young.lock().unwrap_or_else(PoisonError::into_inner);
        while young.front().is_some_and(|at| now - at > YOUNG_NS) {
            young.pop_front();
        }
        young.push_back(now);
    }
}

/// Time between two requests of a connection when there are this many.
pub fn request_every_ns(connections: usize) -> u64 {
    REQUEST_EVERY_NS.max(connections as u64 * 1_000_000_000 / REQUESTS_PER_SECOND)
}

/// How a connection ended, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// A reset, or an end the client did not ask for.
    Reset,
    /// A byte that is not the right one.
    Corrupted,
    /// The client's kernel gave up.
    TimedOut,
}

/// What happened to one connection. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// When its SYN was sent.
    pub opened_ns: u64,
    /// When the client saw it established.
    pub established_ns: Option<u64>,
    /// The server that answered.
    pub server: Option<u32>,
    /// When checked payload last arrived.
    pub last_good_ns: Option<u64>,
    /// When checked payload arrived that answers bytes sent after the fault, for the first time.
    pub recovered_ns: Option<u64>,
    /// How and when it broke.
    pub broken: Option<(Break, u64)>,
}

/// The running client.
#[derive(Debug)]
pub struct Client {
    control: Arc<Control>,
    thread: JoinHandle<Result<Vec<Record>>>,
}

impl Client {
    /// Starts a client in `netns` that talks to `target`.
    pub fn start(netns: &Netns, target: impl Into<SocketAddr>) -> Result<Self> {
        let target = target.into();
        super::raise_descriptor_limit()?;
        let control = Arc::new(Control::default());
        let (shared, netns) = (Arc::clone(&control), netns.clone());
        let thread = thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || {
                netns.enter()?;
                Loop::new(target, shared)?.run()
            })?;
        Ok(Self { control, thread })
    }

    /// To steer it.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Whether its thread has ended, which it does by itself only on an error.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it and returns the records of all connections it opened.
    pub fn finish(self) -> Result<Vec<Record>> {
        self.control.stop.store(true, Ordering::SeqCst);
        self.thread
            .join()
            .map_err(|_panic| anyhow!("the client panicked"))?
    }
}

struct Connection {
    stream: Option<TcpStream>,
    number: u64,
    /// Bytes that should have been sent by now.
    due: u64,
    sent: u64,
    answers: Answers,
    /// Answers beyond this many bytes answer what was sent after the fault.
    fault_mark: Option<u64>,
    record: Record,
}

struct Loop {
    target: SocketAddr,
    control: Arc<Control>,
    epoll: Epoll,
    connections: Vec<Connection>,
    /// Who speaks next, and when.
    queue: VecDeque<(u64, usize)>,
    /// Random, so that connections of two runs differ.
    run: u64,
    fault_seen: bool,
    /// Connections opened lately, oldest first: when, and which.
    opening: VecDeque<(u64, usize)>,
    open_from_ns: u64,
    opened_at_rate: u64,
    rate: u64,
}

impl Loop {
    fn new(target: SocketAddr, control: Arc<Control>) -> Result<Self> {
        Ok(Self {
            target,
            control,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: Vec::new(),
            queue: VecDeque::new(),
            run: now_ns() << 20,
            fault_seen: false,
            opening: VecDeque::new(),
            open_from_ns: 0,
            opened_at_rate: 0,
            rate: 0,
        })
    }

    fn run(mut self) -> Result<Vec<Record>> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        timer.set(
            Expiration::Interval(TimeSpec::from_duration(TICK)),
            TimerSetTimeFlags::empty(),
        )?;
        self.epoll
            .add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.control.stop.load(Ordering::SeqCst) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.notice_fault();
            for event in events.iter().take(count) {
                if event.data() == TIMER {
                    timer.wait()?;
                    self.open_due()?;
                    self.speak_due();
                } else {
                    self.ready(event.data() as usize)?;
                }
            }
        }
        Ok(self.connections.into_iter().map(|c| c.record).collect())
    }

    /// Once the fault is injected, only answers to bytes sent from here on count as recovery.
    fn notice_fault(&mut self) {
        if !self.fault_seen && self.control.fault_ns.load(Ordering::SeqCst) != 0 {
            self.fault_seen = true;
            for connection in &mut self.connections {
                connection.fault_mark = Some(connection.sent);
            }
        }
    }

    /// Opens as many connections as the rate asks for by now; what a stall made late is made up.
    fn open_due(&mut self) -> Result<()> {
        let now = now_ns();
        let rate = self.control.rate.load(Ordering::SeqCst);
        if rate != self.rate {
            self.rate = rate;
            self.open_from_ns = now;
            self.opened_at_rate = 0;
        }
        let target = self.control.target.load(Ordering::SeqCst);
        let due = u128::from(now - self.open_from_ns) * u128::from(rate) / 1_000_000_000;
        let due = u64::try_from(due)?;
        self.opened_at_rate = self
            .opened_at_rate
            .max(due.saturating_sub(rate / DEBT_PARTS));
        while self.opened_at_rate < due
            && self.connections.len() < target
            && self.under_way(now) < OPENING_MAX
            && !self.fault_seen
        {
            self.open()?;
            self.opened_at_rate += 1;
        }
        Ok(())
    }

    /// How many handshakes are under way. Those whose first packet must have been lost do not
    /// count, or they would hold up all others until TCP repeats it.
    fn under_way(&mut self, now: u64) -> usize {
        while let Some((opened, token)) = self.opening.front().copied() {
            let connection = self.connections.get(token);
            let done = connection.is_none_or(|c| c.record.established_ns.is_some());
            if !done && now.saturating_sub(opened) < HANDSHAKE_NS {
                break;
            }
            self.opening.pop_front();
        }
        self.opening.len()
    }

    fn open(&mut self) -> Result<()> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let token = self.connections.len();
        let opened_ns = now_ns();
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                return Err(anyhow!(error).context("the client cannot open a connection"));
            }
            _ => {}
        }
        let stream = TcpStream::from(socket);
        self.epoll
            .add(&stream, EpollEvent::new(EpollFlags::EPOLLOUT, token as u64))?;
        self.opening.push_back((opened_ns, token));
        let number = self.run + token as u64;
        self.connections.push(Connection {
            stream: Some(stream),
            number,
            due: 0,
            sent: 0,
            answers: Answers::of(number),
            fault_mark: None,
            record: Record {
                opened_ns,
                ..Record::default()
            },
        });
        Ok(())
    }

    /// Each connection in turn sends a request.
    fn speak_due(&mut self) {
        let now = now_ns();
        let every = request_every_ns(self.queue.len());
        while let Some((at, token)) = self.queue.front().copied()
            && at <= now
        {
            self.queue.pop_front();
            let Some(connection) = self.connections.get_mut(token) else {
                continue;
            };
            if connection.due - connection.answers.received() < UNANSWERED_MAX {
                connection.due += REQUEST;
            }
            connection.send(&self.control);
            if connection.stream.is_some() {
                self.queue.push_back((now + every, token));
            }
        }
    }

    fn ready(&mut self, token: usize) -> Result<()> {
        let Some(connection) = self.connections.get_mut(token) else {
            return Ok(());
        };
        let Some(stream) = &connection.stream else {
            return Ok(());
        };
        if connection.record.established_ns.is_some() {
            connection.receive(&self.control);
            return Ok(());
        }
        if let Some(error) = stream.take_error()? {
            connection.fail(&error, &self.control);
            return Ok(());
        }
        let now = now_ns();
        connection.record.established_ns = Some(now);
        self.control.established_at(now);
        self.epoll.modify(
            stream,
            &mut EpollEvent::new(EpollFlags::EPOLLIN, token as u64),
        )?;
        connection.greet(&self.control);
        self.queue.push_back((now, token));
        Ok(())
    }
}

impl Connection {
    fn greet(&mut self, control: &Control) {
        let hello = pattern::hello(self.number);
        let result = self.stream.as_mut().map(|stream| stream.write(&hello));
        // A fresh connection's buffer has room for the first 16 bytes.
        if let Some(Err(error)) = result {
            self.fail(&error, control);
        }
    }

    /// Sends what is due.
    fn send(&mut self, control: &Control) {
        let stream_bytes = pattern::to_server(self.number);
        while self.sent < self.due {
            let Some(stream) = &mut self.stream else {
                return;
            };
            let mut buffer = [0u8; 512];
            let owed = buffer.len().min((self.due - self.sent) as usize);
            let bytes = buffer.get_mut(..owed).unwrap_or_default();
            stream_bytes.fill(self.sent, bytes);
            match stream.write(bytes) {
                Ok(count) => self.sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.fail(&error, control),
            }
        }
    }

    fn receive(&mut self, control: &Control) {
        let mut buffer = [0u8; 4096];
        let Some(stream) = &mut self.stream else {
            return;
        };
        match stream.read(&mut buffer) {
            // The server never closes first.
            Ok(0) => self.end(Break::Reset, control),
            Ok(count) => {
                if !self.check(buffer.get(..count).unwrap_or_default()) {
                    self.end(Break::Corrupted, control);
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.fail(&error, control),
        }
    }

    fn check(&mut self, bytes: &[u8]) -> bool {
        let before = self.answers.received();
        let right = self.answers.hear(bytes);
        self.record.server = self.answers.server();
        let received = self.answers.received();
        if received > before {
            let now = now_ns();
            self.record.last_good_ns = Some(now);
            if self.record.recovered_ns.is_none()
                && self.fault_mark.is_some_and(|mark| received > mark)
            {
                self.record.recovered_ns = Some(now);
            }
        }
        right
    }

    fn fail(&mut self, error: &std::io::Error, control: &Control) {
        self.end(
            if error.kind() == ErrorKind::TimedOut {
                Break::TimedOut
            } else {
                Break::Reset
            },
            control,
        );
    }

    fn end(&mut self, how: Break, control: &Control) {
        // Closing takes the socket out of the epoll set.
        self.stream = None;
        self.record.broken = Some((how, now_ns()));
        control.failed.fetch_add(1, Ordering::SeqCst);
    }
}
