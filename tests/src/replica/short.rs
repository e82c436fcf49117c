//! Short connections at a steady rate: connected, closed at once, and how long the handshake took.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Socket, Type};

use crate::clock::now_ns;
use crate::rig::netns::Netns;
use crate::traffic::raise_descriptor_limit;

/// Addresses of the clients: so many that no port is used twice within a run.
const SOURCES: u8 = 16;
/// The first of them.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 200);
/// Handshakes that may be under way.
const UNDER_WAY: usize = 8_000;
/// How long the last ones are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Handshakes completed.
    pub(super) done: u64,
    /// Connections that were refused, reset, or not answered in time.
    pub(super) failed: u64,
    /// Time of each handshake, in nanoseconds, in ascending order.
    pub(super) handshakes: Vec<u64>,
    /// From the first to the last.
    pub(super) seconds: f64,
}

/// Gives the client its addresses.
pub(super) fn prepare(client: &Netns) -> Result<()> {
    let [a, b, c, first] = FIRST.octets();
    let lines = (0..SOURCES).map(|n| format!("addr add {a}.{b}.{c}.{}/24 dev front\n", first + n));
    client.ip(&lines.collect::<Vec<_>>().concat())
}

/// Opens and closes connections on the calling thread, which is inside the client.
pub(super) fn run(target: SocketAddrV4, rate: u64, time: Duration) -> Result<Outcome> {
    raise_descriptor_limit()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut load = Load {
        epoll,
        target,
        sockets: Vec::new(),
        free: Vec::new(),
        open: 0,
        opened: 0,
        outcome: Outcome::default(),
    };
    let from = now_ns();
    let length = u64::try_from(time.as_nanos())?;
    let mut events = vec![EpollEvent::empty(); 512];
    loop {
        let now = now_ns();
        let age = now - from;
        if age < length {
            let due = u128::from(age) * u128::from(rate) / 1_000_000_000;
            while u128::from(load.opened) < due && load.open < UNDER_WAY {
                load.begin()?;
            }
        } else if load.open == 0 || age > length + PATIENCE.as_nanos() as u64 {
            break;
        }
        let count = load.epoll.wait(&mut events, EpollTimeout::from(1u8))?;
        for event in events.iter().take(count) {
            load.end(event.data())?;
        }
    }
    let Load {
        mut outcome, open, ..
    } = load;
    outcome.failed += open as u64;
    outcome.seconds = length as f64 / 1e9;
    outcome.handshakes.sort_unstable();
    ensure!(outcome.done > 0, "no connection was made");
    Ok(outcome)
}

struct Load {
    epoll: Epoll,
    target: SocketAddrV4,
    /// Handshakes under way, and when each began.
    sockets: Vec<Option<(Socket, u64)>>,
    free: Vec<usize>,
    open: usize,
    opened: u64,
    outcome: Outcome,
}

impl Load {
    fn begin(&mut self) -> Result<()> {
        let [a, b, c, first] = FIRST.octets();
        let source = Ipv4Addr::new(a, b, c, first + (self.opened % u64::from(SOURCES)) as u8);
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
        let at = now_ns();
        match socket.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error).context("cannot connect"),
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, place as u64);
        self.epoll.add(socket.as_fd(), event)?;
        if let Some(slot) = self.sockets.get_mut(place) {
            *slot = Some((socket, at));
        }
        self.open += 1;
        self.opened += 1;
        Ok(())
    }

    fn end(&mut self, place: u64) -> Result<()> {
        let place = usize::try_from(place)?;
        let Some((socket, at)) = self.sockets.get_mut(place).and_then(Option::take) else {
            return Ok(());
        };
        if socket.take_error()?.is_none() {
            self.outcome.done += 1;
            self.outcome.handshakes.push(now_ns() - at);
        } else {
            self.outcome.failed += 1;
        }
        // Dropped: closed in order, its client last in TIME-WAIT.
        self.free.push(place);
        self.open -= 1;
        Ok(())
    }
}
