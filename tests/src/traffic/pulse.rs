//! The pulse: one UDP flow with a probe each 200 µs or as often as is asked for, for gaps of a millisecond.
//!
//! What is measured is what the client's kernel saw: each answer carries the kernel's receive stamp,
//! so the gap does not depend on when the receiving thread ran. A probe carries the time at which it
//! was sent, so an answer needs no book of its own.

use std::collections::BTreeSet;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::pattern::Probe;
use crate::clock::{now_ns, realtime_to_monotonic, sleep_until};
use crate::rig::netns::Netns;

/// Time between two probes.
pub const EVERY: Duration = Duration::from_micros(200);
/// Above all ordinary threads, below the election's.
const PRIORITY: i32 = 10;
/// The stamps' clock may be stepped; how often the distance to the other one is taken anew.
const RESYNC_NS: u64 = 1_000_000_000;

/// An answer: when its probe was sent, and when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    sent_ns: u64,
    at_ns: u64,
}

/// What the client saw of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Longest time without an answer.
    pub gap_ns: u64,
    /// Longest way of a probe to its answer.
    pub delay_ns: u64,
    /// Probes sent in this time that were never answered.
    pub lost: usize,
}

#[derive(Debug, Default)]
struct Book {
    sent: Vec<u64>,
    answers: Vec<Answer>,
    /// Datagrams that are no answers.
    wrong: usize,
}

/// The running pulse.
#[derive(Debug)]
pub struct Pulse {
    stop: Arc<AtomicBool>,
    book: Arc<Mutex<Book>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Pulse {
    /// Starts probing `target` from `netns`.
    pub fn start(netns: &Netns, target: SocketAddrV4) -> Result<Self> {
        Self::start_every(netns, target, EVERY)
    }

    /// The same with another time between two probes.
    pub fn start_every(netns: &Netns, target: SocketAddrV4, every: Duration) -> Result<Self> {
        let socket = netns.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(target)?;
            Ok(socket)
        })?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let socket = Arc::new(socket);
        let stop = Arc::new(AtomicBool::new(false));
        let book = Arc::<Mutex<Book>>::default();
        let every = u64::try_from(every.as_nanos())?;
        let shared = || (Arc::clone(&socket), Arc::clone(&stop), Arc::clone(&book));
        let ((to, end, sent), (from, over, heard)) = (shared(), shared());
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let threads = vec![
            named("pulse-send").spawn(move || send(&to, &end, &sent, every))?,
            named("pulse-receive").spawn(move || receive(&from, &over, &heard))?,
        ];
        Ok(Self {
            stop,
            book,
            threads,
        })
    }

    /// What the client saw between two moments that have passed. A gap that began before or ended
    /// after them is cut off there.
    pub fn seen(&self, time: Range<u64>) -> Seen {
        seen(&lock(&self.book), &time)
    }

    /// How many datagrams came that are no answers to this flow.
    pub fn wrong(&self) -> usize {
        lock(&self.book).wrong
    }

    /// Forgets everything, so that a long measurement does not fill the memory.
    pub fn forget(&self) {
        let mut book = lock(&self.book);
        book.sent.clear();
        book.answers.clear();
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has said all it had to say.
            let _ended = thread.join();
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seen(book: &Book, time: &Range<u64>) -> Seen {
    let mut arrived: Vec<u64> = book
        .answers
        .iter()
        .map(|answer| answer.at_ns)
        .filter(|at| time.contains(at))
        .collect();
    arrived.extend([time.start, time.end]);
    arrived.sort_unstable();
    let gap_ns = arrived
        .iter()
        .zip(arrived.iter().skip(1))
        .map(|(from, to)| to - from)
        .max();
    let answered: BTreeSet<u64> = book
        .answers
        .iter()
        .map(|answer| answer.sent_ns)
        .filter(|sent| time.contains(sent))
        .collect();
    let sent = book.sent.iter().filter(|sent| time.contains(sent));
    Seen {
        gap_ns: gap_ns.unwrap_or_default(),
        delay_ns: book
            .answers
            .iter()
            .filter(|answer| time.contains(&answer.sent_ns))
            .map(|answer| answer.at_ns.saturating_sub(answer.sent_ns))
            .max()
            .unwrap_or_default(),
        lost: sent.filter(|sent| !answered.contains(sent)).count(),
    }
}

fn send(socket: &UdpSocket, stop: &AtomicBool, book: &Mutex<Book>, every: u64) -> Result<()> {
    super::run_first(PRIORITY)?;
    let mut next = now_ns();
    while !stop.load(Ordering::Relaxed) {
        // What a stall made late is not made up: a burst of probes would measure nothing more.
        next = (next + every).max(now_ns());
        sleep_until(next);
        let now = now_ns();
        let probe = Probe {
            flow: 0,
            sequence: now,
            server: 0,
        };
        lock(book).sent.push(now);
        // What cannot be sent is an unanswered probe.
        let _unsent = socket.send(&probe.encode());
    }
    Ok(())
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, book: &Mutex<Book>) -> Result<()> {
    super::run_first(PRIORITY)?;
    let mut buffer = [0u8; 64];
    let mut control = nix::cmsg_space!(libc::timespec);
    let (mut to_monotonic, mut synced) = (realtime_to_monotonic(), now_ns());
    while !stop.load(Ordering::Relaxed) {
        if now_ns() - synced > RESYNC_NS {
            (to_monotonic, synced) = (realtime_to_monotonic(), now_ns());
        }
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let Ok(message) = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        ) else {
            // Nothing came for a while, or somebody says that the target is not there.
            continue;
        };
        let at = message.cmsgs()?.find_map(|message| {
            let ControlMessageOwned::ScmTimestampns(time) = message else {
                return None;
            };
            let seconds = u64::try_from(time.tv_sec()).ok()?;
            Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).ok()?)
        });
        let length = message.bytes;
        let probe = buffer.get(..length).and_then(Probe::decode);
        match (at, probe) {
            (Some(at), Some(probe)) => lock(book).answers.push(Answer {
                sent_ns: probe.sequence,
                at_ns: at.wrapping_add(to_monotonic),
            }),
            _ => lock(book).wrong += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_delay_and_loss_of_a_stretch() {
        let answer = |sent_ns, at_ns| Answer { sent_ns, at_ns };
        let book = Book {
            sent: vec![10, 20, 30, 40, 50, 60],
            answers: vec![
                answer(10, 11),
                answer(20, 22),
                answer(50, 54),
                answer(60, 61),
            ],
            wrong: 0,
        };
        let all = Seen {
            gap_ns: 32,
            delay_ns: 4,
            lost: 2,
        };
        assert_eq!(seen(&book, &(10..62)), all);
        let nothing_answered = seen(&book, &(25..45));
        assert_eq!((nothing_answered.gap_ns, nothing_answered.lost), (20, 2));
        assert_eq!(seen(&book, &(100..140)).gap_ns, 40);
    }
}
