//! The few frames the agent itself builds: advertisements, HELLOs and ARP.
//!
//! Layouts: Ethernet II, RFC 791 (IPv4), RFC 768 (UDP), RFC 826 (ARP), RFC 5227 section 3 for what a
//! gratuitous ARP looks like.

use std::net::Ipv4Addr;

use ha_common::{carp, checksum, proto};

/// An Ethernet address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Type of service of an advertisement, as ucarp and OpenBSD send it: low delay.
const LOW_DELAY: u8 = 0x10;
/// IPv4 flags: do not fragment.
const DONT_FRAGMENT: u16 = 0x4000;

/// An advertisement: CARP payload in IPv4 to the CARP group.
pub fn advertisement(source_mac: Mac, source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ipv4(source_mac, source, proto::CARP, payload)
}

/// A HELLO: UDP to the CARP group, which no switch prunes and no router forwards.
///
/// A link without address sends from 0.0.0.0.
pub fn hello(source_mac: Mac, source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (UDP_HEADER + payload.len()) as u16;
    let port = carp::HELLO_PORT.to_be_bytes();
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend(port);
    datagram.extend(port);
    datagram.extend(length.to_be_bytes());
    // No checksum: the payload carries a 128-bit tag.
    datagram.extend([0, 0]);
    datagram.extend(payload);
    ipv4(source_mac, source, proto::UDP, &datagram)
}

/// A gratuitous ARP request: sender and target are both the announced address.
pub fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(BROADCAST, ARP_REQUEST, (mac, address), ([0; 6], address))
}

/// Asks who has `target`.
pub fn arp_request(mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(BROADCAST, ARP_REQUEST, (mac, source), ([0; 6], target))
}

/// Who an ARP reply comes from, if the frame is one.
pub fn arp_reply_sender(frame: &[u8]) -> Option<Ipv4Addr> {
    let field = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    if field(12)? != ETHERTYPE_ARP || field(20)? != ARP_REPLY {
        return None;
    }
    Some(Ipv4Addr::new(
        *frame.get(28)?,
        *frame.get(29)?,
        *frame.get(30)?,
        *frame.get(31)?,
    ))
}

/// Source address and payload of a HELLO, if the frame is one: UDP to the HELLO port, unfragmented,
/// TTL 255 (so it has crossed no router).
pub fn parse_hello(frame: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let packet = frame.get(14..)?;
    let byte = |at: usize| packet.get(at).copied();
    let word = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
    let header = usize::from(byte(0)? & 0x0f) * 4;
    let more_or_offset = word(6)? & 0x3fff;
    let ours = byte(0)? >> 4 == 4
        && header >= IPV4_HEADER
        && byte(8)? == carp::TTL
        && byte(9)? == proto::UDP
        && more_or_offset == 0
        && word(header + 2)? == carp::HELLO_PORT;
    if !ours {
        return None;
    }
    let end = header + usize::from(word(header + 4)?);
    let payload = packet.get(header + UDP_HEADER..end)?;
    Some((
        Ipv4Addr::new(byte(12)?, byte(13)?, byte(14)?, byte(15)?),
        payload,
    ))
}

fn ipv4(source_mac: Mac, source: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (IPV4_HEADER + payload.len()) as u16;
    let mut header = [0u8; IPV4_HEADER];
    header[0] = 0x45;
    header[1] = LOW_DELAY;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = carp::TTL;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&carp::GROUP);
    let sum = checksum::internet(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet(
        carp::GROUP_MAC,
        source_mac,
        ETHERTYPE_IPV4,
        usize::from(total),
    );
    frame.extend(header);
    frame.extend(payload);
    frame
}

fn arp(to: Mac, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(to, sender.0, ETHERTYPE_ARP, 28);
    // Hardware type Ethernet, protocol IPv4, address lengths 6 and 4.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload);
    frame.extend(to);
    frame.extend(from);
    frame.extend(ethertype.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 10];

    #[test]
    fn hello_round_trip() {
        let source = Ipv4Addr::new(10, 0, 0, 11);
        let frame = hello(MAC, source, b"payload");
        assert_eq!(parse_hello(&frame), Some((source, &b"payload"[..])));
        assert_eq!(checksum::internet(&frame[14..34]), 0);
    }

    #[test]
    fn hello_that_crossed_a_router_is_refused() {
        let mut frame = hello(MAC, Ipv4Addr::UNSPECIFIED, b"payload");
        frame[22] = 254;
        assert_eq!(parse_hello(&frame), None);
    }

    #[test]
    fn truncated_frames_are_refused() {
        let frame = hello(MAC, Ipv4Addr::UNSPECIFIED, b"payload");
        for length in 0..frame.len() {
            assert_eq!(parse_hello(&frame[..length]), None, "{length}");
            assert_eq!(arp_reply_sender(&frame[..length]), None);
        }
    }

    /// The frame ucarp sends for 10.99.0.100, captured from Debian's package, but for the target
    /// hardware address, which RFC 5227 says is ignored.
    #[test]
    fn gratuitous_arp_is_what_others_send() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(10, 99, 0, 100));
        assert_eq!(
            frame[14..32],
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 10, 10, 99, 0, 100]
        );
        assert_eq!(frame[38..42], [10, 99, 0, 100]);
    }

    #[test]
    fn only_replies_count() {
        let gateway = Ipv4Addr::new(10, 0, 0, 254);
        let request = arp_request(MAC, gateway, Ipv4Addr::new(10, 0, 0, 11));
        assert_eq!(arp_reply_sender(&request), None);
        let mut reply = request;
        reply[21] = 2;
        assert_eq!(arp_reply_sender(&reply), Some(gateway));
    }
}
