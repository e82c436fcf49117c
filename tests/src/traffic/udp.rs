//! UDP probes through the shared address: the gap as the network sees it.
//!
//! TCP hides a gap behind its retransmission timer, at least 200 ms. Probes are sent regardless of
//! answers, so the longest silence of a flow is the gap itself, to within the time between two
//! probes of that flow.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::pattern::Probe;
use crate::clock::now_ns;
use crate::rig::netns::Netns;

/// Flows; each has a source port of its own, so both real servers and all hash slots see some.
pub const FLOWS: usize = 16;
/// Time between two probes, over all flows in turn: a flow sends every 8 ms.
pub const EVERY: Duration = Duration::from_micros(500);
const TIMER: u64 = u64::MAX;

/// One flow's probes: when each was sent and when its answer came.
pub type Flow = Vec<(u64, Option<u64>)>;

/// What the prober saw.
#[derive(Debug, Default)]
pub struct Probes {
    /// Per flow.
    pub flows: Vec<Flow>,
    /// Answers that are none of this flow's.
    pub wrong: usize,
    /// Flows that were answered by another server than at first.
    pub moved: BTreeSet<usize>,
}

/// The running prober.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Probes>>,
}

impl Prober {
    /// Starts probing `target` from `netns`.
    pub fn start(netns: &Netns, target: impl Into<SocketAddr>) -> Result<Self> {
        let target = target.into();
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicUsize::new(0));
        let (flag, count, netns) = (Arc::clone(&stop), Arc::clone(&answers), netns.clone());
        let thread = thread::Builder::new()
            .name("prober".to_owned())
            .spawn(move || {
                netns.enter()?;
                probe(target, &flag, &count)
            })?;
        Ok(Self {
            stop,
            answers,
            thread,
        })
    }

    /// Answers so far.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub fn finish(self) -> Result<Probes> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_panic| anyhow!("the prober panicked"))?
    }
}

fn probe(target: SocketAddr, stop: &AtomicBool, answers: &AtomicUsize) -> Result<Probes> {
    super::prefer_this_thread();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut sockets = Vec::new();
    for token in 0..FLOWS {
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token as u64))?;
        sockets.push((socket, None));
    }
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    timer.set(
        Expiration::Interval(TimeSpec::from_duration(EVERY)),
        TimerSetTimeFlags::empty(),
    )?;
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
    let mut events = vec![EpollEvent::empty(); FLOWS + 1];
    let mut probes = Probes {
        flows: vec![Vec::new(); FLOWS],
        ..Probes::default()
    };
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(count) {
            if event.data() == TIMER {
                // A late tick is not made up: a burst of probes would measure nothing more.
                timer.wait()?;
                send(&sockets, &mut probes, turn % FLOWS);
                turn += 1;
            } else if let Some((socket, server)) = sockets.get_mut(event.data() as usize) {
                let received = receive(socket, server, event.data() as usize, &mut probes);
                answers.fetch_add(received, Ordering::Relaxed);
            }
        }
    }
    Ok(probes)
}

fn send(sockets: &[(UdpSocket, Option<u64>)], probes: &mut Probes, index: usize) {
    let (Some((socket, _)), Some(flow)) = (sockets.get(index), probes.flows.get_mut(index)) else {
        return;
    };
    let probe = Probe {
        flow: index as u64,
        sequence: flow.len() as u64,
        server: 0,
    };
    flow.push((now_ns(), None));
    // What cannot be sent is an unanswered probe.
    let _unsent = socket.send(&probe.encode());
}

/// Reads answers; returns how many.
fn receive(
    socket: &UdpSocket,
    server: &mut Option<u64>,
    index: usize,
    probes: &mut Probes,
) -> usize {
    let mut buffer = [0u8; 64];
    let mut count = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        let now = now_ns();
        let answer = buffer
            .get(..length)
            .and_then(Probe::decode)
            .filter(|answer| answer.flow == index as u64);
        let sent = answer.and_then(|answer| {
            probes
                .flows
                .get_mut(index)?
                .get_mut(answer.sequence as usize)
        });
        match (answer, sent) {
            (Some(answer), Some((_, answered))) => {
                answered.get_or_insert(now);
                count += 1;
                if *server.get_or_insert(answer.server) != answer.server {
                    probes.moved.insert(index);
                }
            }
            _ => probes.wrong += 1,
        }
    }
    count
}
