//! One client at a time: connections and datagrams with checked payload, a step at a time.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use super::path;
use super::pattern::{self, Probe, Stream, WELCOME_LEN};
use crate::clock::now_ns;
use crate::rig::netns::Netns;

/// How long a connection may take to open, and an answer to come: longer than a takeover.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer to a datagram is waited for before it is sent again.
const ANSWER: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 20;
/// Bytes under way: both ends' buffers hold more.
const PIECE: usize = 32 << 10;

/// A TCP connection to a real server through a service.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
    to: Stream,
    from: Stream,
    server: u32,
    /// Bytes that were answered.
    said: u64,
    /// Bytes that were sent and not answered yet.
    owed: usize,
}

impl Conversation {
    /// Opens one from a host.
    pub fn open(netns: &Netns, target: SocketAddr) -> Result<Self> {
        Self::open_from(netns, any(target), target)
    }

    /// The same from one of its addresses.
    pub fn open_from(netns: &Netns, source: IpAddr, target: SocketAddr) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = (now_ns() << 20) + NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = netns.run(|| {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            socket
                .connect_timeout(&target.into(), PATIENCE)
                .with_context(|| format!("cannot connect to {target}"))?;
            Ok(socket)
        })?;
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&pattern::hello(number))?;
        let mut welcome = [0; WELCOME_LEN];
        stream
            .read_exact(&mut welcome)
            .with_context(|| format!("{target} does not greet"))?;
        let server = pattern::parse_welcome(welcome).context("a wrong greeting")?;
        Ok(Self {
            stream,
            to: pattern::to_server(number),
            from: pattern::to_client(number, server),
            server,
            said: 0,
            owed: 0,
        })
    }

    /// Number of the real server.
    pub fn server(&self) -> u32 {
        self.server
    }

    /// Sends as many bytes and waits for as many answers; a wrong byte is [`ErrorKind::InvalidData`].
    pub fn talk(&mut self, bytes: usize) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut left = bytes;
        while left > 0 {
            let length = left.min(PIECE);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            self.to.fill(self.said, piece);
            self.stream.write_all(piece)?;
            self.owed = length;
            self.catch_up()?;
            left -= length;
        }
        Ok(())
    }

    /// Waits for the answer to what was sent before [`Conversation::talk`] failed.
    pub fn catch_up(&mut self) -> io::Result<()> {
        let mut piece = vec![0; self.owed];
        self.stream.read_exact(&mut piece)?;
        if !self.from.matches(self.said, &piece) {
            return Err(ErrorKind::InvalidData.into());
        }
        self.said += piece.len() as u64;
        self.owed = 0;
        Ok(())
    }

    /// Its stream.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// A UDP flow through a service.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    sequence: u64,
    /// Datagrams without an answer so far; an answer may be late.
    owed: usize,
}

impl Datagrams {
    /// Connects a socket of a host.
    pub fn open(netns: &Netns, target: SocketAddr) -> Result<Self> {
        Self::open_from(netns, any(target), target)
    }

    /// The same at one of its addresses.
    pub fn open_from(netns: &Netns, source: IpAddr, target: SocketAddr) -> Result<Self> {
        let socket = netns.run(|| {
            let socket = UdpSocket::bind((source, 0))?;
            socket.connect(target)?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self {
            socket,
            sequence: 0,
            owed: 0,
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Asks until an answer comes; the number of the real server that gave it.
    pub fn ask(&mut self) -> Result<u64> {
        let mut buffer = [0; 64];
        self.settle()?;
        for _ in 0..ATTEMPTS {
            self.sequence += 1;
            let probe = Probe {
                flow: 1,
                sequence: self.sequence,
                server: 0,
            };
            self.socket.send(&probe.encode())?;
            self.owed += 1;
            if let Some(length) = self.receive(&mut buffer)? {
                let answer = buffer.get(..length).and_then(Probe::decode);
                let answer = answer.context("a wrong answer")?;
                ensure!(answer.sequence <= self.sequence, "{answer:?}");
                return Ok(answer.server);
            }
        }
        bail!("no answer from {:?}", self.socket.peer_addr())
    }

    /// Sends a datagram of this length until it comes back as it was.
    pub fn echo(&mut self, length: usize) -> Result<()> {
        let mut sent = vec![0; length];
        pattern::to_server(self.sequence).fill(0, &mut sent);
        let mut buffer = vec![0; length + 1];
        self.settle()?;
        for _ in 0..ATTEMPTS {
            self.socket.send(&sent)?;
            self.owed += 1;
            if let Some(received) = self.receive(&mut buffer)? {
                ensure!(
                    buffer.get(..received) == Some(&sent),
                    "{received} of {length} bytes came back, or others"
                );
                return Ok(());
            }
        }
        bail!("{length} bytes did not come back")
    }

    /// Sends a datagram of this length in fragments, the first one last, until it comes back as it was.
    pub fn echo_backwards(&mut self, netns: &Netns, length: usize) -> Result<()> {
        let (source, target) = (self.socket.local_addr()?, self.socket.peer_addr()?);
        let mut sent = vec![0; length];
        pattern::to_server(self.sequence).fill(0, &mut sent);
        let mut buffer = vec![0; length + 1];
        self.settle()?;
        for id in (0x7000..).take(ATTEMPTS) {
            path::send_backwards(netns, source, target, &sent, id)?;
            self.owed += 1;
            if let Some(received) = self.receive(&mut buffer)? {
                ensure!(
                    buffer.get(..received) == Some(&sent),
                    "other bytes came back"
                );
                return Ok(());
            }
        }
        bail!("{length} bytes did not come back")
    }

    /// Waits for answers to what was asked for twice, so that none is taken for one of the next question.
    fn settle(&mut self) -> io::Result<()> {
        while self.owed > 0 && self.receive(&mut [0; 64])?.is_some() {}
        self.owed = 0;
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.recv(buffer) {
            Ok(length) => {
                self.owed = self.owed.saturating_sub(1);
                Ok(Some(length))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Any address of the family.
fn any(target: SocketAddr) -> IpAddr {
    match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
