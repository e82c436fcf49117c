//! The configuration channel: where it is, and what both of its ends have in common.
//!
//! SSH over TCP between the nodes' own addresses on `ha.update_interface`. A session carries one question and
//! its answer in a subsystem of its own; nothing else is offered. Whatever the other end does, a session
//! ends, and nothing is kept of it but what was received.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use russh::Preferred;
use russh::keys::Algorithm;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use crate::config::model::Ha;
use crate::proto::confsync::{PREFIX, WireError, lengths};
use crate::shell::agent::{Shared, lock};

/// Name of the subsystem.
pub(super) const SUBSYSTEM: &str = "ha-agent-configuration";
/// Whom a node logs in as; there is nobody else.
pub(super) const USER: &str = "ha-agent";
/// How we name ourselves.
pub(super) const IDENTITY: &str = "SSH-2.0-ha-agent";
/// How long an exchange may take, and how much longer for each MiB of what is sent: less than a second of
/// silence is to be noticed, so that what is lost is said again soon.
const EXCHANGE: Duration = Duration::from_secs(3);
const FOR_EACH_MIB: Duration = Duration::from_secs(1);

/// Connections that wait in the kernel to be accepted: however many strangers come at once, the partner waits behind
/// them for as long as it takes to turn them away.
const BACKLOG: i32 = 512;

/// Where this node's end is, and the partner's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    own: IpAddr,
    partner: IpAddr,
    port: u16,
    device: String,
    ifindex: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = SocketAddr::new(self.own, self.port);
        write!(f, "{own} on {}", self.device)
    }
}

impl Place {
    /// As the configuration says and the kernel has it; IPv4 if both nodes have it there.
    pub(super) fn find(shared: &Shared) -> Option<Self> {
        let Ha {
            update_interface,
            update_port,
            ..
        } = lock(&shared.loaded).config.ha.clone();
        let bound = lock(&shared.bound);
        let mut bound = bound.iter();
        let bound = bound.find(|bound| bound.interface.name == update_interface)?;
        [false, true].into_iter().find_map(|v6| {
            Some(Self {
                own: bound.interface.own(v6)?.address,
                partner: bound.interface.partner(v6)?,
                port: update_port,
                device: bound.link.device.clone(),
                ifindex: bound.link.ifindex,
            })
        })
    }

    pub(super) fn is_partner(&self, address: IpAddr) -> bool {
        address == self.partner
    }

    /// Where this node listens.
    pub(super) fn listens(&self) -> SocketAddr {
        self.address(self.own, self.port)
    }

    /// Where the partner listens.
    pub(super) fn partner(&self) -> SocketAddr {
        self.address(self.partner, self.port)
    }

    /// A link-local address means nothing without its interface.
    fn address(&self, address: IpAddr, port: u16) -> SocketAddr {
        match address {
            IpAddr::V4(_) => SocketAddr::new(address, port),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, self.ifindex).into(),
        }
    }

    /// A socket of this interface with this node's address.
    pub(super) fn socket(&self, port: u16) -> io::Result<Socket> {
        let domain = if self.own.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.bind_device(Some(self.device.as_bytes()))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        if self.own.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&self.address(self.own, port).into())?;
        Ok(socket)
    }

    /// The listening socket.
    pub(super) fn listen(&self) -> io::Result<tokio::net::TcpListener> {
        let socket = self.socket(self.port)?;
        socket.listen(BACKLOG)?;
        tokio::net::TcpListener::from_std(socket.into())
    }
}

/// How long an exchange may take in which so much is sent.
pub(super) fn patience(bytes: usize) -> Duration {
    EXCHANGE + FOR_EACH_MIB * u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

/// Ed25519 keys, and no compression: one way to do it.
pub(super) fn preferred() -> Preferred {
    Preferred {
        key: Cow::Borrowed(&[Algorithm::Ed25519]),
        compression: Cow::Borrowed(&[russh::compression::NONE]),
        ..Preferred::DEFAULT
    }
}

/// Why a message was not received.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It is none.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It ended early, or the connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one message. Memory grows with what arrives, not with what is announced.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, ReadError> {
    let mut prefix = [0; PREFIX];
    stream.read_exact(&mut prefix).await?;
    let (header, document) = lengths(prefix)?;
    let mut message = prefix.to_vec();
    let rest = (header + document) as u64;
    let read = stream.take(rest).read_to_end(&mut message).await?;
    if (read as u64) < rest {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(message)
}

/// Writes a message of a length that 32 bits hold.
pub(super) async fn write_short(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

/// Reads such a message, of at most so many bytes. Memory grows with what arrives.
pub(super) async fn read_short(
    stream: &mut (impl AsyncRead + Unpin),
    most: u32,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = stream.read_u32().await?;
    if length > most {
        let what = format!("a message of {length} bytes is too long");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut message = Zeroizing::new(Vec::new());
    let read = stream.take(length.into()).read_to_end(&mut message).await?;
    if read as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}

/// Ends the connection when the session's other owner is not to go on with it.
#[derive(Debug)]
pub(super) struct HangUp(Socket);

impl HangUp {
    pub(super) fn new(stream: &tokio::net::TcpStream) -> io::Result<Self> {
        Ok(Self(socket2::SockRef::from(stream).try_clone()?))
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        // The other end may have been faster.
        let _closed = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// What happened on the channel, by name.
#[derive(Debug, Default)]
pub(super) struct ChannelCounters {
    /// Sessions in which somebody proved to be the partner.
    pub(super) sessions: AtomicU64,
    /// Keys shown, by a client or by a host, that are not the partner's.
    pub(super) wrong_key: AtomicU64,
    /// Connections turned away because too many were open.
    pub(super) too_many: AtomicU64,
    /// Sessions ended because they took too long.
    pub(super) timed_out: AtomicU64,
    /// Sessions that ended before anybody showed a key: not SSH, cut, or a length no message has.
    pub(super) unproven: AtomicU64,
    /// Operators who logged in.
    pub(super) operators: AtomicU64,
    /// Clients that said to be an operator and were not.
    pub(super) operators_refused: AtomicU64,
    /// Messages of the partner that are none.
    pub(super) malformed: AtomicU64,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::confsync::{Claim, ContentHash, Record, Request};

    fn message() -> Vec<u8> {
        let claim = Claim {
            name: "lb1".to_owned(),
            first: true,
            active: true,
            edited: false,
            record: Record::fresh(ContentHash::new([1; 32])),
        };
        Request::Offer(claim, "ha: {}\n".to_owned()).encode()
    }

    #[tokio::test]
    async fn a_whole_message_is_read_and_no_more() {
        let two = [message(), message()].concat();
        let mut stream = &two[..];
        assert_eq!(read(&mut stream).await.unwrap(), message());
        assert_eq!(stream, message());
    }

    #[tokio::test]
    async fn a_transfer_cut_short_is_an_error() {
        let whole = message();
        for length in 0..whole.len() {
            assert!(read(&mut &whole[..length]).await.is_err());
        }
    }

    #[tokio::test]
    async fn short_messages_are_whole_or_none() {
        let mut written = Vec::new();
        write_short(&mut written, b"gift").await.unwrap();
        assert_eq!(**read_short(&mut &written[..], 4).await.unwrap(), *b"gift");
        assert!(read_short(&mut &written[..], 3).await.is_err());
        for length in 0..written.len() {
            assert!(read_short(&mut &written[..length], 4).await.is_err());
        }
    }

    #[tokio::test]
    async fn an_endless_message_is_refused_unread() {
        let mut stream = &[0xff; 64][..];
        assert!(matches!(
            read(&mut stream).await,
            Err(ReadError::Wire(WireError::TooLong { .. }))
        ));
        assert_eq!(stream.len(), 64 - PREFIX);
    }
}
