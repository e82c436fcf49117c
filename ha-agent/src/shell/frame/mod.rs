//! The few frames the agent itself builds: advertisements, HELLOs, ARP and neighbour [discovery].
//!
//! Layouts: Ethernet II, RFC 791 (IPv4), RFC 8200 (IPv6), RFC 768 (UDP), RFC 826 (ARP), RFC 5227 section
//! 3 for what a gratuitous ARP looks like.

pub mod discovery;
mod unicast;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_common::{carp, checksum, proto};
pub use unicast::to_partner;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An Ethernet address as people write it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_ARP: u16 = 0x0806;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
/// Type of service of an advertisement, as ucarp and OpenBSD send it: low delay.
const LOW_DELAY: u8 = 0x10;
/// IPv4 flags: do not fragment.
const DONT_FRAGMENT: u16 = 0x4000;

/// An advertisement: CARP payload to the CARP group of the source's family.
pub fn advertisement(source_mac: Mac, source: IpAddr, payload: &[u8]) -> Vec<u8> {
    to_group(source_mac, source, proto::CARP, payload)
}

/// A HELLO: UDP to the CARP group of the source's family, which no switch prunes and no router forwards.
///
/// A link without address sends from 0.0.0.0.
pub fn hello(source_mac: Mac, source: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = (UDP_HEADER + payload.len()) as u16;
    let port = carp::HELLO_PORT.to_be_bytes();
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend(port);
    datagram.extend(port);
    datagram.extend(length.to_be_bytes());
    // No checksum: the payload carries a 128-bit tag. IPv6 demands one (RFC 8200 section 8.1).
    datagram.extend([0, 0]);
    datagram.extend(payload);
    if let IpAddr::V6(source) = source {
        let sum = match checksum6(source, carp::GROUP6.into(), proto::UDP, &datagram) {
            0 => u16::MAX,
            sum => sum,
        };
        if let Some(field) = datagram.get_mut(6..8) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
    to_group(source_mac, source, proto::UDP, &datagram)
}

/// A gratuitous ARP request: sender and target are both the announced address.
pub fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(BROADCAST, ARP_REQUEST, (mac, address), ([0; 6], address))
}

/// Asks who has `target`.
pub fn arp_request(mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(BROADCAST, ARP_REQUEST, (mac, source), ([0; 6], target))
}

/// The station a frame comes from.
pub fn source(frame: &[u8]) -> Option<Mac> {
    frame.get(6..)?.first_chunk().copied()
}

/// Who an ARP reply comes from, if the frame is one: its address and Ethernet address.
pub fn arp_reply(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let field = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    if field(12)? != ETHERTYPE_ARP || field(20)? != ARP_REPLY {
        return None;
    }
    let mac: Mac = *frame.get(22..)?.first_chunk()?;
    let address: [u8; 4] = *frame.get(28..)?.first_chunk()?;
    Some((address.into(), mac))
}

/// Source address and payload of a HELLO, if the frame is one: UDP to the HELLO port, unfragmented,
/// TTL 255 (so it has crossed no router).
pub fn parse_hello(frame: &[u8]) -> Option<(IpAddr, &[u8])> {
    let packet = frame.get(14..)?;
    let byte = |at: usize| packet.get(at).copied();
    let word = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
    let (source, header, ours) = match byte(0)? >> 4 {
        4 => {
            let header = usize::from(byte(0)? & 0x0f) * 4;
            let more_or_offset = word(6)? & 0x3fff;
            let ours = header >= IPV4_HEADER
                && byte(8)? == carp::TTL
                && byte(9)? == proto::UDP
                && more_or_offset == 0;
            let source = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?;
            (IpAddr::from(source), header, ours)
        }
        6 => {
            let ours = byte(6)? == proto::UDP && byte(7)? == carp::TTL;
            let source = <[u8; 16]>::try_from(packet.get(8..24)?).ok()?;
            (IpAddr::from(source), IPV6_HEADER, ours)
        }
        _ => return None,
    };
    if !ours || word(header + 2)? != carp::HELLO_PORT {
        return None;
    }
    let end = header + usize::from(word(header + 4)?);
    let payload = packet.get(header + UDP_HEADER..end)?;
    Some((source, payload))
}

fn to_group(source_mac: Mac, source: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match source {
        IpAddr::V4(source) => ipv4(source_mac, source, protocol, payload),
        IpAddr::V6(source) => {
            let to = (carp::GROUP6_MAC, carp::GROUP6.into());
            ipv6((source_mac, source), to, protocol, payload)
        }
    }
}

/// An IPv6 packet with the hop limit of link-local protocols, 255.
fn ipv6(from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(to.0, from.0, ETHERTYPE_IPV6, IPV6_HEADER + payload.len());
    // Version 6, the class of network control traffic (RFC 2474), no flow label.
    frame.extend([0x6c, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next_header, carp::TTL]);
    frame.extend(from.1.octets());
    frame.extend(to.1.octets());
    frame.extend(payload);
    frame
}

/// The checksum of an upper-layer packet with its pseudo-header (RFC 8200 section 8.1).
fn checksum6(source: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(40 + payload.len());
    bytes.extend(source.octets());
    bytes.extend(to.octets());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, next_header]);
    bytes.extend(payload);
    checksum::internet(&bytes)
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

    const SOURCES: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 11)),
    ];

    #[test]
    fn hello_round_trip() {
        for source in SOURCES {
            let frame = hello(MAC, source, b"payload");
            assert_eq!(parse_hello(&frame), Some((source, &b"payload"[..])));
            match source {
                IpAddr::V4(_) => assert_eq!(checksum::internet(&frame[14..34]), 0),
                IpAddr::V6(source) => {
                    let to = carp::GROUP6.into();
                    assert_eq!(checksum6(source, to, proto::UDP, &frame[54..]), 0);
                    assert_eq!(frame[38..54], carp::GROUP6);
                }
            }
        }
    }

    #[test]
    fn advertisement_over_ipv6_is_laid_out_as_the_bsds_do() {
        let frame = advertisement(MAC, SOURCES[1], &[0x21; 36]);
        assert_eq!(frame.len(), 90);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 0x12]);
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        assert_eq!(frame[14] >> 4, 6);
        assert_eq!(frame[18..22], [0, 36, 112, 255]);
        assert_eq!(frame[54..], [0x21; 36]);
    }

    #[test]
    fn hello_that_crossed_a_router_is_refused() {
        for (source, ttl) in SOURCES.into_iter().zip([22, 21]) {
            let mut frame = hello(MAC, source, b"payload");
            frame[ttl] = 254;
            assert_eq!(parse_hello(&frame), None);
        }
    }

    #[test]
    fn truncated_frames_are_refused() {
        for source in SOURCES {
            let frame = hello(MAC, source, b"payload");
            for length in 0..frame.len() {
                assert_eq!(parse_hello(&frame[..length]), None, "{length}");
                assert_eq!(arp_reply(&frame[..length]), None);
            }
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
        assert_eq!(arp_reply(&request), None);
        let mut reply = request;
        reply[21] = 2;
        assert_eq!(arp_reply(&reply), Some((gateway, MAC)));
        for length in 0..32 {
            assert_eq!(arp_reply(&reply[..length]), None, "{length}");
        }
    }
}
