//! What another implementation thinks of a frame.

use etherparse::{
    InternetSlice, IpNumber, IpPayloadSlice, Ipv4HeaderSlice, SlicedPacket, TransportSlice,
};

/// Whether etherparse finds every checksum in the frame correct, also in a packet inside another one, and
/// of the header that an ICMP error repeats; says which one is not.
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    verify_packet(&packet)?;
    verify_repeated(&packet)
}

/// The same but for what an ICMP error repeats.
pub fn verify_outer(frame: &[u8]) -> Result<(), String> {
    verify_packet(&SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?)
}

fn verify_repeated(packet: &SlicedPacket<'_>) -> Result<(), String> {
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else {
        return Ok(());
    };
    if !matches!(icmp.type_u8(), 3 | 11) {
        return Ok(());
    }
    let repeated = Ipv4HeaderSlice::from_slice(icmp.payload());
    verify_header(&repeated.map_err(|error| error.to_string())?)
        .map_err(|error| format!("repeated: {error}"))
}

/// Source and destination.
type Ends<const N: usize> = ([u8; N], [u8; N]);

enum Addresses {
    V4(Ends<4>),
    V6(Ends<16>),
}

fn verify_packet(packet: &SlicedPacket<'_>) -> Result<(), String> {
    let (ends, payload) = match &packet.net {
        Some(InternetSlice::Ipv4(ip)) => {
            verify_header(&ip.header())?;
            let header = ip.header();
            let ends = (header.source(), header.destination());
            (Addresses::V4(ends), ip.payload())
        }
        Some(InternetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let ends = (header.source(), header.destination());
            (Addresses::V6(ends), ip.payload())
        }
        _ => return Err("no IP packet".to_owned()),
    };
    if payload.fragmented {
        return Ok(());
    }
    match &packet.transport {
        Some(transport) => verify_transport(transport, &ends),
        None => verify_inner(payload),
    }
}

fn verify_header(header: &Ipv4HeaderSlice<'_>) -> Result<(), String> {
    let header = header.to_header();
    let wanted = header.calc_header_checksum();
    same("IPv4", header.header_checksum, wanted)
}

fn verify_inner(payload: &IpPayloadSlice<'_>) -> Result<(), String> {
    if payload.ip_number != IpNumber::IPV4 && payload.ip_number != IpNumber::IPV6 {
        return Ok(());
    }
    let inner = SlicedPacket::from_ip(payload.payload).map_err(|error| error.to_string())?;
    verify_packet(&inner).map_err(|error| format!("inside: {error}"))
}

fn verify_transport(transport: &TransportSlice<'_>, ends: &Addresses) -> Result<(), String> {
    let text = |error: etherparse::err::ValueTooBigError<usize>| error.to_string();
    match transport {
        TransportSlice::Tcp(tcp) => {
            let wanted = match ends {
                Addresses::V4((source, destination)) => {
                    tcp.calc_checksum_ipv4(*source, *destination)
                }
                Addresses::V6((source, destination)) => {
                    tcp.calc_checksum_ipv6(*source, *destination)
                }
            };
            same("TCP", tcp.checksum(), wanted.map_err(text)?)
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let wanted = match ends {
                Addresses::V4(_) if udp.checksum() == 0 => return Ok(()),
                Addresses::V4((source, destination)) => {
                    header.calc_checksum_ipv4_raw(*source, *destination, payload)
                }
                // Linux takes none from tunnels (RFC 6935), and a translator leaves it as it is.
                Addresses::V6(_) if udp.checksum() == 0 => return Ok(()),
                Addresses::V6((source, destination)) => {
                    header.calc_checksum_ipv6_raw(*source, *destination, payload)
                }
            };
            same("UDP", udp.checksum(), wanted.map_err(text)?)
        }
        TransportSlice::Icmpv4(icmp) => {
            let wanted = icmp.icmp_type().calc_checksum(icmp.payload());
            same("ICMP", icmp.checksum(), wanted)
        }
        TransportSlice::Igmp(_) => Ok(()),
        TransportSlice::Icmpv6(icmp) => {
            let Addresses::V6((source, destination)) = ends else {
                return Err("ICMPv6 in IPv4".to_owned());
            };
            if icmp.is_checksum_valid(*source, *destination) {
                Ok(())
            } else {
                Err(format!("ICMPv6 checksum {:#06x}", icmp.checksum()))
            }
        }
    }
}

fn same(what: &str, found: u16, wanted: u16) -> Result<(), String> {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{what} checksum {found:#06x}, not {wanted:#06x}"))
    }
}
