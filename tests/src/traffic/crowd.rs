//! A crowd: thousands of connections of every manner, kept open through many faults, each of which judges
//! them all.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::client::Break;
use super::pattern::{self, Answers, Speaks};
use super::report::LOST_AFTER_NS;
use super::server::UNASKED_EVERY_NS;
use crate::clock::now_ns;
use crate::rig::netns::Netns;

/// Bytes of a request.
const REQUEST: u64 = 32;
/// Between two requests of a connection, as rarely as servers speak by themselves.
const ASK_EVERY_NS: u64 = UNASKED_EVERY_NS;
/// Handshakes under way at a time.
const OPENING_MAX: usize = 100;
/// How often the loop looks for work that is due, at least.
const TICK_MS: u8 = 1;
/// How long the crowd may take to be complete.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// Says nothing from its beginning to [`Crowd::wake`].
    Idle,
    /// The client asks, the server answers.
    Chatty,
    /// The server speaks by itself, the client listens.
    Pushed,
    /// The client has said its last word, the server goes on.
    HalfClosed,
}

impl Manner {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Chatty, Self::Pushed, Self::HalfClosed];
    /// Those of which every fault is noticed at once.
    pub const LIVELY: [Self; 3] = [Self::Chatty, Self::Pushed, Self::HalfClosed];
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// All that were looked at.
    pub connections: u64,
    /// Of these, reset, or ended without being asked to.
    pub reset: u64,
    /// Of these, got a wrong byte.
    pub corrupted: u64,
    /// Of these, silent for 5 s, or given up by the client's kernel.
    pub silent: u64,
}

impl Fates {
    /// Those that did not survive.
    pub const fn lost(&self) -> u64 {
        self.reset + self.corrupted + self.silent
    }

    /// Adds others.
    pub const fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.reset += other.reset;
        self.corrupted += other.corrupted;
        self.silent += other.silent;
    }

    const fn count(&mut self, broken: Option<Break>, heard: bool) -> bool {
        self.connections += 1;
        match (broken, heard) {
            (None, true) => return true,
            (Some(Break::Reset), _) => self.reset += 1,
            (Some(Break::Corrupted), _) => self.corrupted += 1,
            (Some(Break::TimedOut), _) | (None, false) => self.silent += 1,
        }
        false
    }
}

/// What a fault did, by age at the fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Connections that were older.
    pub older: Fates,
    /// Younger ones.
    pub younger: Fates,
    /// Connections that were established between the fault and the end of the takeover: whatever admitted
    /// them told nobody.
    pub meanwhile: u64,
    /// Of these, got a wrong byte.
    pub meanwhile_corrupted: u64,
}

/// The running crowd.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Shared {
    epoll: Epoll,
    stop: AtomicBool,
    members: Mutex<Members>,
}

struct Members {
    target: SocketAddr,
    /// By token; `None` is free.
    list: Vec<Option<Member>>,
    free: Vec<usize>,
    /// Who asks next, and when: token and number.
    asking: VecDeque<(u64, usize, u64)>,
    /// Connections to open, the first at this time, and the time between two.
    to_open: VecDeque<Manner>,
    open_at: u64,
    open_every_ns: u64,
    /// Handshakes under way.
    opening: usize,
    next_number: u64,
}

struct Member {
    stream: TcpStream,
    number: u64,
    manner: Manner,
    /// The handshake is under way.
    opening: bool,
    due: u64,
    sent: u64,
    answers: Answers,
    established_ns: Option<u64>,
    last_good_ns: u64,
    broken: Option<Break>,
}

impl Crowd {
    /// Starts an empty crowd in `netns` whose connections go to `target`.
    pub fn start(netns: &Netns, target: impl Into<SocketAddr>) -> Result<Self> {
        super::raise_descriptor_limit()?;
        let members = Members {
            target: target.into(),
            list: Vec::new(),
            free: Vec::new(),
            asking: VecDeque::new(),
            to_open: VecDeque::new(),
            open_at: 0,
            open_every_ns: 0,
            opening: 0,
            next_number: now_ns() << 20,
        };
        let shared = Arc::new(Shared {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            stop: AtomicBool::new(false),
            members: Mutex::new(members),
        });
        let (running, netns) = (Arc::clone(&shared), netns.clone());
        let thread = thread::Builder::new()
            .name("crowd".to_owned())
            .spawn(move || {
                netns.enter()?;
                running.run()
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Begins to open as many connections, of these manners in turn, at this rate.
    pub fn open(&self, count: usize, manners: &[Manner], rate: u64) {
        let mut members = self.shared.members();
        members.to_open.extend(manners.iter().cycle().take(count));
        members.open_at = now_ns();
        members.open_every_ns = 1_000_000_000 / rate.max(1);
    }

    /// Waits until all that were to be opened are established.
    pub fn wait_complete(&self) -> Result<()> {
        self.wait_complete_for(PATIENCE)
    }

    /// The same, no longer than this.
    pub fn wait_complete_for(&self, patience: Duration) -> Result<()> {
        let end = now_ns() + u64::try_from(patience.as_nanos())?;
        loop {
            let members = self.shared.members();
            let (left, late) = (members.to_open.len(), members.opening);
            drop(members);
            if left + late == 0 {
                return Ok(());
            }
            self.check()?;
            ensure!(
                now_ns() < end,
                "{left} connections were not opened, and {late} not established, after {patience:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// How many connections there are, broken ones included.
    pub fn len(&self) -> usize {
        self.shared.members().all().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes as many connections that are not idle, the oldest first.
    pub fn close(&self, count: usize) {
        let mut members = self.shared.members();
        let mut lively: Vec<_> = members.places(|member| member.manner != Manner::Idle);
        lively.sort_unstable();
        for (_number, token) in lively.into_iter().take(count) {
            members.remove(token);
        }
    }

    /// Waits until each connection but the idle ones has been heard since `settled_ns`, or is lost by then,
    /// and tells what became of those that were there at `fault_ns`, by whether they were older than `age`.
    /// Those that are lost are removed, and so are those that were established before `settled_ns`, but after the
    /// fault.
    pub fn judge(&self, fault_ns: u64, settled_ns: u64, age: Duration) -> Result<Verdict> {
        self.judge_by(fault_ns, settled_ns, age, fault_ns + LOST_AFTER_NS)
    }

    /// The same of faults that last: what was not heard by `end_ns` is lost.
    pub fn judge_by(
        &self,
        fault_ns: u64,
        settled_ns: u64,
        age: Duration,
        end_ns: u64,
    ) -> Result<Verdict> {
        let concerns = |member: &Member| member.established_ns.is_some_and(|at| at <= fault_ns);
        let heard =
            |member: &Member| member.manner == Manner::Idle || member.last_good_ns >= settled_ns;
        loop {
            let members = self.shared.members();
            let missing =
                |member: &&Member| concerns(member) && member.broken.is_none() && !heard(member);
            let missing = members.all().any(|member| missing(&member));
            drop(members);
            if !missing || now_ns() > end_ns {
                break;
            }
            self.check()?;
            thread::sleep(Duration::from_millis(10));
        }
        let mut verdict = Verdict::default();
        let mut members = self.shared.members();
        // Those that never came about are no connections.
        for (_, token) in members.places(|m| m.broken.is_some() && m.established_ns.is_none()) {
            members.remove(token);
        }
        let meanwhile = |member: &Member| {
            let at = member.established_ns;
            at.is_some_and(|at| at > fault_ns && at <= settled_ns)
        };
        let wrong = |member: &Member| meanwhile(member) && member.broken == Some(Break::Corrupted);
        verdict.meanwhile_corrupted = members.all().filter(|member| wrong(member)).count() as u64;
        for (_number, token) in members.places(meanwhile) {
            members.remove(token);
            verdict.meanwhile += 1;
        }
        for (_number, token) in members.places(concerns) {
            let Some(member) = members.list.get(token).and_then(Option::as_ref) else {
                continue;
            };
            let old = member
                .established_ns
                .is_some_and(|at| u128::from(fault_ns - at) >= age.as_nanos());
            let fates = if old {
                &mut verdict.older
            } else {
                &mut verdict.younger
            };
            if !fates.count(member.broken, heard(member)) {
                members.remove(token);
            }
        }
        Ok(verdict)
    }

    /// Lets the idle ones ask, and tells what became of them.
    pub fn wake(&self) -> Result<Fates> {
        let from = now_ns();
        let mut members = self.shared.members();
        let idle = members.places(|member| member.manner == Manner::Idle);
        for (number, token) in &idle {
            members.asking.push_front((from, *token, *number));
        }
        drop(members);
        while now_ns() < from + LOST_AFTER_NS {
            self.check()?;
            thread::sleep(Duration::from_millis(50));
        }
        let mut fates = Fates::default();
        let mut members = self.shared.members();
        for (_number, token) in idle {
            let Some(member) = members.list.get(token).and_then(Option::as_ref) else {
                continue;
            };
            if !fates.count(member.broken, member.last_good_ns >= from) {
                members.remove(token);
            }
        }
        Ok(fates)
    }

    /// An error if the thread has ended.
    fn check(&self) -> Result<()> {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ensure!(!ended, "the crowd has dissolved");
        Ok(())
    }

    /// Ends it.
    pub fn finish(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("it has ended")?;
        thread
            .join()
            .map_err(|_panic| anyhow!("the crowd panicked"))?
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.stop.load(Ordering::SeqCst) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(TICK_MS)) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut members = self.members();
            for event in events.iter().take(count) {
                members.ready(&self.epoll, event.data() as usize)?;
            }
            members.open_due(&self.epoll)?;
            members.ask_due();
        }
        Ok(())
    }
}

impl Members {
    fn all(&self) -> impl Iterator<Item = &Member> {
        self.list.iter().flatten()
    }

    /// Number and token of those that are like that.
    fn places(&self, like: impl Fn(&Member) -> bool) -> Vec<(u64, usize)> {
        let members = self.list.iter().enumerate();
        members
            .filter_map(|(token, member)| {
                let member = member.as_ref().filter(|member| like(member))?;
                Some((member.number, token))
            })
            .collect()
    }

    /// Closes a connection.
    fn remove(&mut self, token: usize) {
        if let Some(member) = self.list.get_mut(token).and_then(Option::take) {
            self.opening -= usize::from(member.opening);
            self.free.push(token);
        }
    }

    fn open_due(&mut self, epoll: &Epoll) -> Result<()> {
        while self.open_at <= now_ns() && self.opening < OPENING_MAX {
            let Some(manner) = self.to_open.pop_front() else {
                return Ok(());
            };
            self.open_at += self.open_every_ns;
            self.open(epoll, manner)?;
        }
        Ok(())
    }

    fn open(&mut self, epoll: &Epoll, manner: Manner) -> Result<()> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                return Err(anyhow!(error).context("the crowd cannot open a connection"));
            }
            _ => {}
        }
        let token = self.free.pop().unwrap_or_else(|| {
            self.list.push(None);
            self.list.len() - 1
        });
        let stream = TcpStream::from(socket);
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLOUT, token as u64))?;
        self.next_number += 1;
        self.opening += 1;
        if let Some(place) = self.list.get_mut(token) {
            *place = Some(Member {
                stream,
                number: self.next_number,
                manner,
                opening: true,
                due: 0,
                sent: 0,
                answers: Answers::of(self.next_number),
                established_ns: None,
                last_good_ns: 0,
                broken: None,
            });
        }
        Ok(())
    }

    fn ask_due(&mut self) {
        let now = now_ns();
        while let Some((due, token, number)) = self.asking.front().copied()
            && due <= now
        {
            self.asking.pop_front();
            let member = self.list.get_mut(token).and_then(Option::as_mut);
            let Some(member) = member.filter(|member| member.number == number) else {
                continue;
            };
            // One that waits for an answer has asked.
            if member.due == member.answers.received() {
                member.due += REQUEST;
            }
            member.send();
            if member.broken.is_none() && member.manner == Manner::Chatty {
                self.asking.push_back((now + ASK_EVERY_NS, token, number));
            }
        }
    }

    fn ready(&mut self, epoll: &Epoll, token: usize) -> Result<()> {
        let Some(member) = self.list.get_mut(token).and_then(Option::as_mut) else {
            return Ok(());
        };
        if member.opening {
            self.opening -= 1;
            member.connected();
            if member.broken.is_none() {
                let event = &mut EpollEvent::new(EpollFlags::EPOLLIN, token as u64);
                epoll.modify(&member.stream, event)?;
            }
        } else {
            let greeted = member.answers.server().is_some();
            member.receive();
            if !greeted && member.answers.server().is_some() {
                let (number, manner) = (member.number, member.manner);
                if manner == Manner::HalfClosed
                    && let Err(error) = member.stream.shutdown(Shutdown::Write)
                {
                    member.fail(&error);
                }
                if manner == Manner::Chatty {
                    let due = now_ns() + ASK_EVERY_NS;
                    self.asking.push_back((due, token, number));
                }
            }
        }
        let member = self.list.get(token).and_then(Option::as_ref);
        if let Some(member) = member.filter(|member| member.broken.is_some()) {
            // It stays in the list until it is judged.
            epoll.delete(&member.stream)?;
        }
        Ok(())
    }
}

impl Member {
    fn connected(&mut self) {
        self.opening = false;
        match self.stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return self.fail(&error),
        }
        self.established_ns = Some(now_ns());
        let speaks = match self.manner {
            Manner::Idle | Manner::Chatty => Speaks::WhenAsked,
            Manner::Pushed | Manner::HalfClosed => Speaks::Unasked,
        };
        // A fresh connection's buffer has room for the first 16 bytes.
        let hello = pattern::hello_to(speaks, self.number);
        if let Err(error) = self.stream.write_all(&hello) {
            self.fail(&error);
        }
    }

    fn send(&mut self) {
        while self.sent < self.due && self.broken.is_none() {
            let mut buffer = [0u8; REQUEST as usize];
            let owed = buffer.len().min((self.due - self.sent) as usize);
            let bytes = buffer.get_mut(..owed).unwrap_or_default();
            pattern::to_server(self.number).fill(self.sent, bytes);
            match self.stream.write(bytes) {
                Ok(count) => self.sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.fail(&error),
            }
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0u8; 4096];
        match self.stream.read(&mut buffer) {
            // The server never closes first.
            Ok(0) => self.broken = Some(Break::Reset),
            Ok(count) => {
                if !self.check(buffer.get(..count).unwrap_or_default()) {
                    self.broken = Some(Break::Corrupted);
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.fail(&error),
        }
    }

    fn check(&mut self, bytes: &[u8]) -> bool {
        let right = self.answers.hear(bytes);
        if right && self.answers.server().is_some() {
            self.last_good_ns = now_ns();
        }
        right
    }

    fn fail(&mut self, error: &std::io::Error) {
        self.broken = Some(if error.kind() == ErrorKind::TimedOut {
            Break::TimedOut
        } else {
            Break::Reset
        });
    }
}
