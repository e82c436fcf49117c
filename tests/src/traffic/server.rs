//! A real server: answers each checked byte of a TCP connection with one of its own, and each UDP
//! probe with an answer that names it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context as _, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::pattern::{self, HELLO_LEN, Probe, Stream};

/// Waiting connections the kernel holds: those of a burst while this process is not scheduled.
const BACKLOG: i32 = 16_384;
const LISTENER: u64 = u64::MAX;
/// Of the thread that answers probes: what else runs on the machine must not look like a gap.
const PRIORITY: i32 = 10;

/// Serves until the process ends.
pub fn serve(server: u32, address: SocketAddrV4) -> Result<()> {
    super::raise_descriptor_limit()?;
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&address.into())?;
    listener.listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from(listener);
    let udp = UdpSocket::bind(address).context("cannot bind the probes' port")?;
    // A thread of its own: connections that come in a burst must not look like a gap.
    thread::Builder::new()
        .name("probes".to_owned())
        .spawn(move || answer_probes(&udp, server))?;

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut state = Server {
        number: server,
        epoll,
        connections: Vec::new(),
        free: Vec::new(),
    };
    let mut events = vec![EpollEvent::empty(); 512];
    loop {
        let count = match state.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(count) {
            match event.data() {
                LISTENER => state.accept(&listener)?,
                token => state.serve(token as usize),
            }
        }
    }
}

struct Server {
    number: u32,
    epoll: Epoll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    stream: TcpStream,
    phase: Phase,
    /// Bytes checked so far.
    received: u64,
    /// Bytes answered so far.
    sent: u64,
}

enum Phase {
    /// Collecting the client's first bytes.
    Greeting([u8; HELLO_LEN], usize),
    /// The number is known.
    Talking { from: Stream, to: Stream },
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
                    sent: 0,
                });
            }
        }
    }

    fn serve(&mut self, token: usize) {
        let Some(place) = self.connections.get_mut(token) else {
            return;
        };
        if let Some(connection) = place
            && !connection.talk(self.number)
        {
            // Closing takes it out of the epoll set.
            *place = None;
            self.free.push(token);
        }
    }
}

impl Connection {
    /// Reads and answers what is there; whether the connection goes on.
    fn talk(&mut self, server: u32) -> bool {
        let mut buffer = [0u8; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => buffer
                .get(..count)
                .is_some_and(|bytes| self.take(bytes, server) && self.answer()),
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
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
            let Some(number) = pattern::parse_hello(hello) else {
                return false;
            };
            self.phase = Phase::Talking {
                from: pattern::to_server(number),
                to: pattern::to_client(number, server),
            };
            if !matches!(self.stream.write(&pattern::welcome(server)), Ok(n) if n == pattern::WELCOME_LEN)
            {
                return false;
            }
        }
        if let Phase::Talking { from, to } = &mut self.phase {
            if !from.matches(self.received, bytes) {
                // Spoil all answers from here on: the client, which keeps the books, sees it.
                *to = pattern::to_client(u64::MAX, u32::MAX);
            }
            self.received += bytes.len() as u64;
        }
        true
    }

    /// Sends as many bytes as were received.
    fn answer(&mut self) -> bool {
        let Phase::Talking { to, .. } = self.phase else {
            return true;
        };
        while self.sent < self.received {
            let mut buffer = [0u8; 4096];
            let owed = buffer.len().min((self.received - self.sent) as usize);
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

/// Answers probes for ever.
fn answer_probes(udp: &UdpSocket, server: u32) -> Result<()> {
    if super::run_first(PRIORITY).is_err() {
        super::prefer_this_thread();
    }
    let mut buffer = [0u8; 64];
    loop {
        let (length, client) = udp.recv_from(&mut buffer)?;
        let Some(probe) = buffer.get(..length).and_then(Probe::decode) else {
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
