//! A real server: answers each checked byte of a TCP connection with one of its own, or speaks by itself if
//! the client asks for that, and answers each UDP probe with one that names it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::pattern::{self, HELLO_LEN, PROBE_LEN, Probe, Speaks, Stream};
use crate::clock::now_ns;

/// Waiting connections the kernel holds: those of a burst while this process is not scheduled.
const BACKLOG: i32 = 16_384;
/// Tokens from here on are those of listening sockets.
const LISTENERS: u64 = 1 << 32;
/// Between two words that a server says by itself, and their length.
pub const UNASKED_EVERY_NS: u64 = 2_000_000_000;
const UNASKED: u64 = 32;
/// A client that takes this much less than it is told hears no more until it does.
const UNHEARD_MAX: u64 = 64 << 10;
/// Longest datagram that is answered: more than a link carries at once.
const DATAGRAM_MAX: usize = 16_384;
/// Of the thread that answers probes: what else runs on the machine must not look like a gap.
const PRIORITY: i32 = 10;

/// Serves at all these addresses until the process ends. They need not exist yet.
pub fn serve(server: u32, addresses: &[SocketAddr]) -> Result<()> {
    super::raise_descriptor_limit()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = bind(*address, Type::STREAM)?;
        listener.listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from(listener);
        let token = LISTENERS + listeners.len() as u64;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        listeners.push(listener);
        let udp = UdpSocket::from(bind(*address, Type::DGRAM)?);
        // A thread of its own: connections that come in a burst must not look like a gap.
        thread::Builder::new()
            .name("probes".to_owned())
            .spawn(move || answer_probes(&udp, server))?;
    }

    let mut state = Server {
        number: server,
        epoll,
        connections: Vec::new(),
        free: Vec::new(),
        unasked: VecDeque::new(),
    };
    let mut events = vec![EpollEvent::empty(); 512];
    loop {
        let timeout = state.speak_unasked()?;
        let count = match state.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(count) {
            let token = event.data();
            match token.checked_sub(LISTENERS) {
                Some(index) => {
                    if let Some(listener) = listeners.get(index as usize) {
                        state.accept(listener)?;
                    }
                }
                None => state.serve(token as usize),
            }
        }
    }
}

fn bind(address: SocketAddr, kind: Type) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket
        .bind(&address.into())
        .with_context(|| format!("cannot bind {address}"))?;
    Ok(socket)
}

struct Server {
    number: u32,
    epoll: Epoll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// When to speak unasked, to which connection: place and number.
    unasked: VecDeque<(u64, usize, u64)>,
}

struct Connection {
    stream: TcpStream,
    phase: Phase,
    /// Bytes checked so far.
    received: u64,
    /// Bytes that should have been sent by now.
    due: u64,
    /// Bytes sent so far.
    sent: u64,
}

enum Phase {
    /// Collecting the client's first bytes.
    Greeting([u8; HELLO_LEN], usize),
    /// The number is known.
    Talking {
        number: u64,
        speaks: Speaks,
        from: Stream,
        to: Stream,
    },
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The client has given up already, or the process is out of descriptors.
                Err(_) => return Ok(()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let token = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.epoll
                .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, token as u64))?;
            if let Some(place) = self.connections.get_mut(token) {
                *place = Some(Connection {
                    stream,
                    phase: Phase::Greeting([0; HELLO_LEN], 0),
                    received: 0,
                    due: 0,
                    sent: 0,
                });
            }
        }
    }

    /// Says what is due; how long there is nothing more to say.
    fn speak_unasked(&mut self) -> Result<EpollTimeout> {
        while let Some((due, token, number)) = self.unasked.front().copied() {
            let now = now_ns();
            if due > now {
                let pause = Duration::from_nanos(due - now) + Duration::from_millis(1);
                return Ok(EpollTimeout::try_from(pause)?);
            }
            self.unasked.pop_front();
            let Some(place) = self.connections.get_mut(token) else {
                continue;
            };
            let Some(connection) = place.as_mut().filter(|other| other.is(number)) else {
                continue;
            };
            if connection.due - connection.sent < UNHEARD_MAX {
                connection.due += UNASKED;
            }
            if connection.send() {
                let next = due.max(now.saturating_sub(UNASKED_EVERY_NS)) + UNASKED_EVERY_NS;
                self.unasked.push_back((next, token, number));
            } else {
                *place = None;
                self.free.push(token);
            }
        }
        Ok(EpollTimeout::NONE)
    }

    fn serve(&mut self, token: usize) {
        let Some(place) = self.connections.get_mut(token) else {
            return;
        };
        let Some(connection) = place else {
            return;
        };
        let known = connection.number();
        match connection.talk(self.number) {
            Next::Listen => {}
            Next::SpeakOnly => {
                // Its end would be told over and over.
                let silent = &mut EpollEvent::new(EpollFlags::empty(), token as u64);
                let _dead_sockets_are_told_of = self.epoll.modify(&connection.stream, silent);
            }
            Next::Close => {
                // Closing takes it out of the epoll set.
                *place = None;
                self.free.push(token);
                return;
            }
        }
        if known.is_none()
            && let Some((Speaks::Unasked, number)) = connection.number()
        {
            let due = now_ns() + UNASKED_EVERY_NS;
            self.unasked.push_back((due, token, number));
        }
    }
}

/// How a connection goes on.
enum Next {
    Listen,
    SpeakOnly,
    Close,
}

impl Connection {
    /// When the server is to speak, and the connection's number, once the client has said so.
    const fn number(&self) -> Option<(Speaks, u64)> {
        match self.phase {
            Phase::Greeting(..) => None,
            Phase::Talking { number, speaks, .. } => Some((speaks, number)),
        }
    }

    fn is(&self, number: u64) -> bool {
        self.number().is_some_and(|(_, own)| own == number)
    }

    /// Reads and answers what is there.
    fn talk(&mut self, server: u32) -> Next {
        let mut buffer = [0u8; 4096];
        let goes_on = match self.stream.read(&mut buffer) {
            Ok(0) if matches!(self.number(), Some((Speaks::Unasked, _))) => return Next::SpeakOnly,
            Ok(0) => false,
            Ok(count) => buffer
                .get(..count)
                .is_some_and(|bytes| self.take(bytes, server) && self.send()),
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        if goes_on { Next::Listen } else { Next::Close }
    }

    fn take(&mut self, mut bytes: &[u8], server: u32) -> bool {
        if let Phase::Greeting(hello, filled) = &mut self.phase {
            let room = hello.get_mut(*filled..).unwrap_or_default();
            let count = room.len().min(bytes.len());
            let (head, rest) = bytes.split_at(count);
            room.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
            *filled += count;
            bytes = rest;
            if *filled < HELLO_LEN {
                return true;
            }
            // A stranger (a health check that speaks, a scan) is hung up on.
            let Some((speaks, number)) = pattern::parse_hello(hello) else {
                return false;
            };
            self.phase = Phase::Talking {
                number,
                speaks,
                from: pattern::to_server(number),
                to: pattern::to_client(number, server),
            };
            if !matches!(self.stream.write(&pattern::welcome(server)), Ok(n) if n == pattern::WELCOME_LEN)
            {
                return false;
            }
        }
        if let Phase::Talking {
            speaks, from, to, ..
        } = &mut self.phase
        {
            if !from.matches(self.received, bytes) {
                // Spoil all answers from here on: the client, which keeps the books, sees it.
                *to = pattern::to_client(u64::MAX, u32::MAX);
            }
            self.received += bytes.len() as u64;
            if *speaks == Speaks::WhenAsked {
                self.due = self.received;
            }
        }
        true
    }

    /// Sends what is due.
    fn send(&mut self) -> bool {
        let Phase::Talking { to, .. } = self.phase else {
            return true;
        };
        while self.sent < self.due {
            let mut buffer = [0u8; 4096];
            let owed = buffer.len().min((self.due - self.sent) as usize);
            let Some(bytes) = buffer.get_mut(..owed) else {
                return false;
            };
            to.fill(self.sent, bytes);
            match self.stream.write(bytes) {
                Ok(count) => self.sent += count as u64,
                // Full: the rest goes with the next request.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Answers probes for ever, and sends longer datagrams back as they are.
fn answer_probes(udp: &UdpSocket, server: u32) -> Result<()> {
    if super::run_first(PRIORITY).is_err() {
        super::prefer_this_thread();
    }
    let mut buffer = vec![0u8; DATAGRAM_MAX];
    loop {
        // An ICMP error about an answer is no reason to stop.
        let Ok((length, client)) = udp.recv_from(&mut buffer) else {
            continue;
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        let Some(probe) = Probe::decode(datagram) else {
            if length > PROBE_LEN {
                let _lost = udp.send_to(datagram, client);
            }
            continue;
        };
        let answer = Probe {
            server: u64::from(server),
            ..probe
        };
        // A full buffer loses the answer, as a network may.
        let _lost = udp.send_to(&answer.encode(), client);
    }
}
