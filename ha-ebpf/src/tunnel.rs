//! A packet inside another one (RFC 2003, RFC 2473), on its way to a real server that takes it out and
//! answers the client by itself.

use ha_common::service::Addr6;
use ha_common::{checksum, proto};

use crate::family::Family;
use crate::packet::Packet;
use crate::parse::{ethernet, ipv4, ipv6};

/// Time to live of the outer packet (IANA "IP Time to Live parameter").
const TTL: u8 = 64;
/// What is copied from the front of the frame: an Ethernet header with two tags.
const TAGS_LEN: usize = 8;

/// Puts the packet at `l3` into another one. Its own Ethernet addresses are left to be written. `None` if
/// there is no room, or no packet.
#[inline(always)]
pub fn encapsulate<A: Family, P: Packet>(
    packet: &mut P,
    l3: usize,
    source: A,
    destination: A,
) -> Option<()> {
    // Whatever is between the Ethernet addresses and the packet moves with the front.
    let kind: u16 = packet
        .window::<{ ethernet::LEN }>(0)?
        .load::<{ ethernet::TYPE }, _>();
    let tags: u64 = if l3 == ethernet::LEN {
        0
    } else {
        packet.window::<TAGS_LEN>(ethernet::LEN)?.load::<0, _>()
    };
    if !packet.grow_head(A::HEADER) {
        return None;
    }
    packet
        .window::<{ ethernet::LEN }>(0)?
        .store::<{ ethernet::TYPE }, u16>(kind);
    if l3 != ethernet::LEN {
        // With one tag only the first half is a tag; the rest is overwritten by the outer header.
        packet
            .window::<TAGS_LEN>(ethernet::LEN)?
            .store::<0, u64>(tags);
    }
    A::outer(packet, l3, source, destination)
}

/// Writes the outer header into the room in front of the packet at `l3 + LEN`.
#[inline(always)]
pub(crate) fn outer4<P: Packet>(
    packet: &mut P,
    l3: usize,
    source: u32,
    destination: u32,
) -> Option<()> {
    let mut ip = packet.window::<{ 2 * ipv4::LEN }>(l3)?;
    // RFC 2003 section 3.1: type of service and "do not fragment" are those of the inner packet.
    let tos: u8 = ip.load::<{ ipv4::LEN + ipv4::TOS }, _>();
    let inner_len: u16 = ip.load::<{ ipv4::LEN + ipv4::TOTAL_LEN }, _>();
    let fragment: u16 = ip.load::<{ ipv4::LEN + ipv4::FRAGMENT }, u16>() & ipv4::DONT_FRAGMENT;
    let len = (u16::from_be(inner_len).wrapping_add(ipv4::LEN as u16)).to_be();
    let first = u16::from_ne_bytes([ipv4::VERSION_4_NO_OPTIONS, tos]);
    let kind = u16::from_ne_bytes([TTL, proto::IPIP]);
    let sum = u32::from(first)
        + u32::from(len)
        + u32::from(fragment)
        + u32::from(kind)
        + halves(source)
        + halves(destination);
    ip.store::<{ ipv4::VERSION_IHL }, u16>(first);
    ip.store::<{ ipv4::TOTAL_LEN }, u16>(len);
    ip.store::<{ ipv4::ID }, u16>(0);
    ip.store::<{ ipv4::FRAGMENT }, u16>(fragment);
    ip.store::<{ ipv4::TTL }, u16>(kind);
    ip.store::<{ ipv4::CHECKSUM }, u16>(!checksum::fold(sum));
    ip.store::<{ ipv4::SRC }, u32>(source);
    ip.store::<{ ipv4::DST }, u32>(destination);
    Some(())
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn outer6<P: Packet>(
    packet: &mut P,
    l3: usize,
    source: Addr6,
    destination: Addr6,
) -> Option<()> {
    let mut ip = packet.window::<{ 2 * ipv6::LEN }>(l3)?;
    // Version, traffic class and flow label are those of the inner packet, so that routers which
    // spread by the label (RFC 6438) keep the packets of a flow together.
    let first: u32 = ip.load::<{ ipv6::LEN + ipv6::VERSION }, _>();
    let inner_len: u16 = ip.load::<{ ipv6::LEN + ipv6::PAYLOAD_LEN }, _>();
    let len = (u16::from_be(inner_len).wrapping_add(ipv6::LEN as u16)).to_be();
    ip.store::<{ ipv6::VERSION }, u32>(first);
    ip.store::<{ ipv6::PAYLOAD_LEN }, u16>(len);
    ip.store::<{ ipv6::NEXT }, u16>(u16::from_ne_bytes([proto::IPV6, TTL]));
    ip.store::<{ ipv6::SRC }, Addr6>(source);
    ip.store::<{ ipv6::DST }, Addr6>(destination);
    Some(())
}

#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}
