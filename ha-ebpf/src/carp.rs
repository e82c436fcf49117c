//! CARP: recognised, checked for form and handed to the election.
//!
//! Whose advertisement it is and whether it is authentic is judged in user space.

use ha_common::carp::{AUTH_LEN, HEADER_LEN, TTL, VERSION_TYPE, field};
use ha_common::checksum;
use ha_common::event::CARP_SEEN_BYTES;
use ha_common::reason::Reason;

use crate::packet::{Mac, Packet};
use crate::parse::{ethernet, ipv4};
use crate::tables::Tables;

/// As much of the header as it takes to tell whose it is.
const PREFIX_LEN: usize = 2;
/// The longest IPv4 header; the mask keeps the verifier informed.
const IP_LEN_MASK: usize = 0x3c;

/// Judges a packet of protocol 112.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    l3: usize,
    ip: &ipv4::Header,
) -> Reason {
    let header_len = ip.header_len & IP_LEN_MASK;
    let start = l3 + header_len;
    let Some(config) = tables.config() else {
        return Reason::CarpForeign;
    };
    if ip.fragment || ip.total_len < header_len + PREFIX_LEN {
        return Reason::CarpForeign;
    }
    match packet.window::<PREFIX_LEN>(start) {
        Some(prefix) if u32::from(prefix.load::<{ field::VHID }, u8>()) == config.get().vhid => {}
        _ => return Reason::CarpForeign,
    }
    if ip.total_len < header_len + HEADER_LEN {
        return Reason::CarpTruncated;
    }
    let Some(carp) = packet.window::<HEADER_LEN>(start) else {
        return Reason::CarpTruncated;
    };
    if carp.load::<{ field::VERSION_TYPE }, u8>() != VERSION_TYPE
        || carp.load::<{ field::AUTH_LEN }, u8>() != AUTH_LEN
    {
        return Reason::CarpBadVersion;
    }
    if ip.ttl != TTL {
        return Reason::CarpBadTtl;
    }
    if checksum::internet(carp.bytes()) != 0 {
        return Reason::CarpBadChecksum;
    }
    deliver(packet, tables, l3, ip.total_len)
}

/// Copies the packet into the ring to the election.
#[inline(always)]
fn deliver<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize, total_len: usize) -> Reason {
    let source_mac: Mac = match packet.window::<{ ethernet::LEN }>(0) {
        Some(frame) => frame.load::<{ ethernet::SRC }, _>(),
        None => return Reason::CarpTruncated,
    };
    let len = total_len.min(CARP_SEEN_BYTES);
    let delivered = tables.carp_seen(|seen| {
        seen.at_ns = tables.precise_ns();
        seen.ifindex = packet.ingress();
        seen.len = len as u16;
        source_mac.write(&mut seen.source_mac);
        packet.copy_out(l3, len, &mut seen.packet)
    });
    if delivered {
        Reason::CarpDelivered
    } else {
        Reason::CarpRingFull
    }
}
