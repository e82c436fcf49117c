//! Every checksum of a frame, computed anew in the plainest way: IPv4, TCP, UDP, ICMP, `ICMPv6`, and those of
//! packets inside packets.

use ha_common::proto;

use crate::packet::checksum;

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];

/// What is wrong with the checksums of a frame, or its lengths; `None` if nothing is. What is neither IPv4
/// nor IPv6 has none.
pub fn fault(frame: &[u8]) -> Option<String> {
    let mut at = ETHERNET;
    let mut ethertype = half(frame, at - 2)?;
    while VLAN.contains(&ethertype) {
        at += 4;
        ethertype = half(frame, at - 2)?;
    }
    let packet = frame.get(at..)?;
    match ethertype {
        IPV4 => ipv4(packet).err(),
        IPV6 => ipv6(packet).err(),
        _ => None,
    }
}

type Verdict = Result<(), String>;

fn ipv4(packet: &[u8]) -> Verdict {
    let header_len = usize::from(byte(packet, 0) & 0x0f) * 4;
    let total = usize::from(half(packet, 2).unwrap_or_default());
    let (Some(header), Some(payload)) = (packet.get(..header_len), packet.get(header_len..total))
    else {
        return Err(format!("{total} bytes of IPv4 in {}", packet.len()));
    };
    if header_len < 20 {
        return Err(format!("an IPv4 header of {header_len} bytes"));
    }
    verify("IPv4", &[header])?;
    // What is in pieces has its checksum in one of them.
    if half(packet, 6).unwrap_or_default() & 0x3fff != 0 {
        return Ok(());
    }
    let addresses = header.get(12..20).unwrap_or_default();
    transport(byte(packet, 9), addresses, payload)
}

fn ipv6(packet: &[u8]) -> Verdict {
    let length = usize::from(half(packet, 4).unwrap_or_default());
    let (Some(addresses), Some(payload)) = (packet.get(8..40), packet.get(40..40 + length)) else {
        return Err(format!("{length} bytes of IPv6 in {}", packet.len()));
    };
    // Behind extension headers the checksum is that of a piece, or not of ours.
    transport(byte(packet, 6), addresses, payload)
}

/// Verifies what is behind an IP header with these addresses, source and destination.
fn transport(protocol: u8, addresses: &[u8], payload: &[u8]) -> Verdict {
    let length = u32::try_from(payload.len()).unwrap_or_default();
    let mut pseudo = addresses.to_vec();
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    match protocol {
        proto::TCP => verify("TCP", &[&pseudo, payload]),
        // RFC 768: none was computed. RFC 8200 section 8.1: in IPv6 one always is.
        proto::UDP if half(payload, 6) == Some(0) && addresses.len() == 8 => Ok(()),
        proto::UDP => verify("UDP", &[&pseudo, payload]),
        proto::ICMP => {
            verify("ICMP", &[payload])?;
            repeated(payload)
        }
        proto::ICMPV6 => verify("ICMPv6", &[&pseudo, payload]),
        proto::IPIP => ipv4(payload),
        proto::IPV6 => ipv6(payload),
        _ => Ok(()),
    }
}

/// The IPv4 header that an ICMP error repeats. A router may have changed it before it was repeated, but it
/// brought the checksum up to date.
fn repeated(icmp: &[u8]) -> Verdict {
    if !matches!(byte(icmp, 0), 3 | 11 | 12) {
        return Ok(());
    }
    let inner = icmp.get(8..).unwrap_or_default();
    let header_len = usize::from(byte(inner, 0) & 0x0f) * 4;
    match inner.get(..header_len) {
        Some(header) => verify("repeated IPv4", &[header]),
        None => Err("an ICMP error without a packet".to_owned()),
    }
}

/// Over bytes that include a correct checksum the result is zero.
fn verify(what: &str, parts: &[&[u8]]) -> Verdict {
    let off = checksum(&parts.concat());
    if off == 0 {
        Ok(())
    } else {
        Err(format!("{what} checksum off by {off:#06x}"))
    }
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::packet::{Frame, flag};

    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1234);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 80);

    /// An IPv6 packet with a correct UDP checksum.
    fn udp6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
        packet.extend([1; 16]);
        packet.extend([2; 16]);
        packet.extend([0, 1, 0, 2, 0, 12, 0, 0, b'a', b'b', b'c', b'd']);
        let mut covered = packet[8..].to_vec();
        covered.extend([0, 0, 0, 12, 0, 0, 0, 17]);
        let sum = checksum(&covered);
        packet[46..48].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn framed(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame
    }

    /// Every byte that a checksum covers, changed one at a time, is noticed.
    fn notices(frame: &[u8], covered: impl Iterator<Item = usize>) {
        assert_eq!(fault(frame), None);
        for at in covered {
            let mut wrong = frame.to_vec();
            wrong[at] ^= 0x10;
            assert!(fault(&wrong).is_some(), "byte {at}");
        }
    }

    #[test]
    fn a_wrong_byte_is_noticed() {
        let tcp = Frame::tcp(A, B, flag::SYN).payload(b"hello").build();
        notices(&tcp, 14..tcp.len());
        let udp = Frame::udp(A, B).tag(0x8100, 7).payload(b"hello").build();
        notices(&udp, 18..udp.len());
        let six = framed(IPV6, &udp6());
        notices(&six, 22..six.len());
    }

    #[test]
    fn a_wrong_byte_in_a_tunnel_is_noticed() {
        let inner = Frame::udp(A, B).payload(b"hello").build().split_off(14);
        let outer = Frame::raw(*A.ip(), *B.ip(), 4).payload(&inner).build();
        notices(&outer, 14..outer.len());
    }

    #[test]
    fn a_wrong_repeated_header_is_noticed() {
        let inner = Frame::udp(A, B).build().split_off(14);
        let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
        icmp.extend(&inner[..28]);
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let frame = Frame::raw(*A.ip(), *B.ip(), 1).payload(&icmp).build();
        notices(&frame, 14..frame.len());
        // With the checksum of ICMP right, it is that of the repeated header.
        icmp[20] ^= 1;
        icmp[2..4].fill(0);
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let frame = Frame::raw(*A.ip(), *B.ip(), 1).payload(&icmp).build();
        assert!(fault(&frame).is_some());
    }
}
