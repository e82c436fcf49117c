//! `icmp`: an echo request and its reply (RFC 792, RFC 4443 section 4).
//!
//! A raw socket, because unprivileged echo sockets are off by default (`net.ipv4.ping_group_range`). It
//! receives every ICMP message of the server, so replies are matched by what was sent.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ha_common::checksum;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::leave_from;
use crate::health::Source;

/// Type, code, checksum, identifier, sequence number, and the nonce.
const LEN: usize = 16;

/// Types of request and reply.
struct Kinds {
    request: u8,
    reply: u8,
}

pub(super) async fn check(server: IpAddr, source: Option<&Source>, nonce: u64) -> io::Result<()> {
    let (domain, protocol, kinds) = match server {
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
    socket.connect(&SocketAddr::new(server, 0).into())?;
    // Sending and receiving whole messages is the same on a connected raw socket.
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&message(kinds.request, nonce)).await?;
    let reply = message(kinds.reply, nonce);
    loop {
        let mut heard = [0; 256];
        let len = socket.recv(&mut heard).await?;
        let heard = heard.get(..len).unwrap_or_default();
        if is_reply(payload(server, heard), &reply) {
            return Ok(());
        }
    }
}

/// The ICMP message: raw sockets of IPv4 show the IP header before it, those of IPv6 do not.
fn payload(server: IpAddr, heard: &[u8]) -> &[u8] {
    let header = match server {
        IpAddr::V4(_) => heard
            .first()
            .map_or(0, |first| usize::from(first & 0xf) * 4),
        IpAddr::V6(_) => 0,
    };
    heard.get(header..).unwrap_or_default()
}

/// Whether this is the reply: all of it but the checksum, which the kernel has verified for IPv6 and
/// the nonce stands for in IPv4.
fn is_reply(heard: &[u8], wanted: &[u8; LEN]) -> bool {
    heard.len() == LEN && heard.get(..2) == wanted.get(..2) && heard.get(4..) == wanted.get(4..)
}

/// An echo message with identifier and sequence number out of the nonce too.
fn message(kind: u8, nonce: u64) -> [u8; LEN] {
    let mut message = [0; LEN];
    let nonce = nonce.to_be_bytes();
    if let Some(tail) = message.get_mut(4..8) {
        tail.copy_from_slice(&[nonce[0], nonce[1], nonce[2], nonce[3]]);
    }
    if let Some(tail) = message.get_mut(8..) {
        tail.copy_from_slice(&nonce);
    }
    message[0] = kind;
    // The kernel fills in that of IPv6, whose pseudo-header it knows (RFC 3542 section 3.1).
    let sum = checksum::internet(&message).to_be_bytes();
    [message[2], message[3]] = sum;
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
        let reply = message(0, 7);
        assert_eq!(
            checksum::internet(&reply),
            0,
            "a whole message sums to nothing"
        );
        assert!(is_reply(&reply, &reply));
        assert!(!is_reply(&message(8, 7), &reply), "a request");
        assert!(!is_reply(&message(0, 8), &reply), "of another check");
        assert!(!is_reply(&reply[..12], &reply));
        assert!(!is_reply(&[], &reply));
        let mut heard = vec![0x46; 24];
        heard.extend(reply);
        assert!(is_reply(
            payload(Ipv4Addr::LOCALHOST.into(), &heard),
            &reply
        ));
        assert!(payload(Ipv4Addr::LOCALHOST.into(), &[0x4f]).is_empty());
    }

    /// Needs a raw socket, as the agent does.
    #[tokio::test]
    async fn the_loopback_answers() {
        for server in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let asked = time::timeout(Duration::from_secs(20), check(server, None, 11)).await;
            asked.expect("an answer").unwrap();
        }
    }
}
