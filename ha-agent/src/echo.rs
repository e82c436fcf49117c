//! An ICMP echo request and its reply (RFC 792, RFC 4443 section 4).
//!
//! A raw socket, because unprivileged echo sockets are off by default (`net.ipv4.ping_group_range`). It
//! receives every ICMP message of the host, so replies are matched by what was sent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use ha_common::checksum;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

/// Type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;
/// The nonce behind them.
const NONCE: usize = 8;
/// Shortest message.
pub const SHORTEST: usize = HEADER + NONCE;
/// Longest message: what an IPv4 packet without options can hold.
pub const LONGEST: usize = 65_535 - 20;
/// Longest header that the kernel shows before a message.
const IP_HEADER: usize = 60;

/// Where packets leave from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// One of the node's addresses.
    pub address: IpAddr,
    /// The interface.
    pub device: String,
}

/// Binds a socket to an address and its interface.
pub fn leave_from(socket: &impl AsFd, source: Option<&Source>) -> io::Result<()> {
    let Some(source) = source else {
        return Ok(());
    };
    let socket = SockRef::from(socket);
    socket.bind_device(Some(source.device.as_bytes()))?;
    socket.bind(&SocketAddr::new(source.address, 0).into())
}

/// Message types of a family.
struct Kinds {
    request: u8,
    reply: u8,
}

/// Asks a host for an echo and waits for it, without an end: the caller bounds the time. `nonce` tells
/// the request from others'; `length` is that of the ICMP message, between [`SHORTEST`] and [`LONGEST`].
///
/// The packet is not fragmented on its way if it fits the interface it leaves by.
pub async fn echo(
    host: IpAddr,
    source: Option<&Source>,
    nonce: u64,
    length: usize,
) -> io::Result<()> {
    let (domain, protocol, kinds) = match host {
        IpAddr::V4(_) => (
            Domain::IPV4,
            Protocol::ICMPV4,
            Kinds {
                request: 8,
                reply: 0,
            },
        ),
        IpAddr::V6(_) => (
            Domain::IPV6,
            Protocol::ICMPV6,
            Kinds {
                request: 128,
                reply: 129,
            },
        ),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    leave_from(&socket, source)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(host, 0).into())?;
    // Sending and receiving whole messages is the same on a connected raw socket.
    let socket = UdpSocket::from_std(socket.into())?;
    let length = length.clamp(SHORTEST, LONGEST);
    socket.send(&message(kinds.request, nonce, length)).await?;
    let reply = message(kinds.reply, nonce, length);
    let mut heard = vec![0; IP_HEADER + length + 1];
    loop {
        let len = socket.recv(&mut heard).await?;
        let heard = heard.get(..len).unwrap_or_default();
        if is_reply(payload(host, heard), &reply) {
            return Ok(());
        }
    }
}

/// The ICMP message: raw sockets of IPv4 show the IP header before it, those of IPv6 do not.
fn payload(host: IpAddr, heard: &[u8]) -> &[u8] {
    let header = match host {
        IpAddr::V4(_) => heard
            .first()
            .map_or(0, |first| usize::from(first & 0xf) * 4),
        IpAddr::V6(_) => 0,
    };
    heard.get(header..).unwrap_or_default()
}

/// Whether this is the reply: all of it but the checksum, which the kernel has verified for IPv6 and
/// the nonce stands for in IPv4.
fn is_reply(heard: &[u8], wanted: &[u8]) -> bool {
    heard.len() == wanted.len()
        && heard.get(..2) == wanted.get(..2)
        && heard.get(4..) == wanted.get(4..)
}

/// An echo message with identifier and sequence number out of the nonce too.
fn message(kind: u8, nonce: u64, length: usize) -> Vec<u8> {
    let nonce = nonce.to_be_bytes();
    let mut message = vec![kind, 0, 0, 0];
    message.extend(nonce.iter().take(4));
    message.extend(nonce);
    message.resize(length, 0);
    // The kernel fills in that of IPv6, whose pseudo-header it knows (RFC 3542 section 3.1).
    let sum = checksum::internet(&message).to_be_bytes();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;
    use tokio::time;

    #[test]
    fn only_the_own_reply_counts() {
        let reply = message(0, 7, SHORTEST);
        assert_eq!(
            checksum::internet(&reply),
            0,
            "a whole message sums to nothing"
        );
        assert!(is_reply(&reply, &reply));
        assert!(!is_reply(&message(8, 7, SHORTEST), &reply), "a request");
        assert!(!is_reply(&message(0, 8, SHORTEST), &reply), "of another");
        assert!(!is_reply(&message(0, 7, 100), &reply), "longer");
        assert!(!is_reply(&reply[..12], &reply));
        assert!(!is_reply(&[], &reply));
        let mut heard = vec![0x46; 24];
        heard.extend(&reply);
        assert!(is_reply(
            payload(Ipv4Addr::LOCALHOST.into(), &heard),
            &reply
        ));
        assert!(payload(Ipv4Addr::LOCALHOST.into(), &[0x4f]).is_empty());
    }

    /// Needs a raw socket, as the agent does.
    #[tokio::test]
    async fn the_loopback_answers() {
        for host in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            for length in [SHORTEST, 1480, 9000] {
                let asked = time::timeout(Duration::from_secs(20), echo(host, None, 11, length));
                asked.await.expect("an answer").unwrap();
            }
        }
    }
}
