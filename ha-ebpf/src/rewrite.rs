//! Network address translation of a packet.

use ha_common::checksum;
use ha_common::conn::{Conn, ConnKey, flags};
use ha_common::proto;

use crate::family::Family;
use crate::packet::Packet;
use crate::parse::transport::{DPORT, SPORT, TCP_CHECKSUM, TCP_LEN, UDP_CHECKSUM, UDP_LEN};

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Client to real server: the destination is translated.
    #[default]
    Forward,
    /// Real server to client: the source is translated.
    Reverse,
}

/// What is written into a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation<A> {
    /// The new address of the end that is always translated, network order.
    pub to: A,
    /// The new address of the other end, if that is translated as well.
    pub from: A,
    /// The port that goes with `to`.
    pub to_port: u16,
    /// The port that goes with `from`.
    pub from_port: u16,
    /// What that adds to the IPv4 header checksum; 0 for IPv6.
    pub l3_delta: u16,
    /// What that adds to the TCP or UDP checksum.
    pub l4_delta: u16,
    /// Whether the other end is translated as well: full NAT.
    pub both_ends: bool,
}

impl<A: Family> Translation<A> {
    /// The translation of a packet with this 5-tuple; `from` is given if both ends are translated.
    #[inline(always)]
    pub fn new(
        key: &ConnKey<A>,
        direction: Direction,
        to: (A, u16),
        from: Option<(A, u16)>,
    ) -> Self {
        let (near, far) = match direction {
            Direction::Forward => ((key.src, key.sport), (key.dst, key.dport)),
            Direction::Reverse => ((key.dst, key.dport), (key.src, key.sport)),
        };
        let mut addresses = far.0.delta(to.0);
        let mut ports = checksum::delta16(far.1, to.1);
        if let Some(from) = from {
            addresses += near.0.delta(from.0);
            ports += checksum::delta16(near.1, from.1);
        }
        let addresses = checksum::fold(addresses);
        Self {
            to: to.0,
            to_port: to.1,
            from: from.map_or_else(A::default, |from| from.0),
            from_port: from.map_or(0, |from| from.1),
            l3_delta: if A::HEADER_CHECKSUM { addresses } else { 0 },
            l4_delta: checksum::fold(u32::from(addresses) + ports),
            both_ends: from.is_some(),
        }
    }
}

impl<A: Family> From<&Conn<A>> for Translation<A> {
    #[inline(always)]
    fn from(conn: &Conn<A>) -> Self {
        Self {
            to: conn.to_addr,
            from: conn.from_addr,
            to_port: conn.to_port,
            from_port: conn.from_port,
            l3_delta: conn.l3_delta,
            l4_delta: conn.l4_delta,
            both_ends: conn.flags & flags::BOTH_ENDS != 0,
        }
    }
}

/// Rewrites addresses, ports and checksums, and takes `hops` off the time to live, of a packet of `protocol`
/// with its headers at `l3` and `l4`. `false` if the frame is too short.
#[inline(always)]
pub fn translate<A: Family, P: Packet>(
    packet: &mut P,
    l3: usize,
    l4: usize,
    protocol: u32,
    direction: Direction,
    translation: &Translation<A>,
    hops: u8,
) -> bool {
    if !A::readdress(packet, l3, direction, translation, hops) {
        return false;
    }
    let (sport, dport) = match direction {
        Direction::Forward => (
            translation.both_ends.then_some(translation.from_port),
            Some(translation.to_port),
        ),
        Direction::Reverse => (
            Some(translation.to_port),
            translation.both_ends.then_some(translation.from_port),
        ),
    };
    let delta = translation.l4_delta;
    if protocol == u32::from(proto::TCP) {
        let Some(mut tcp) = packet.window::<TCP_LEN>(l4) else {
            return false;
        };
        if let Some(port) = sport {
            tcp.store::<SPORT, u16>(port);
        }
        if let Some(port) = dport {
            tcp.store::<DPORT, u16>(port);
        }
        let old: u16 = tcp.load::<TCP_CHECKSUM, _>();
        tcp.store::<TCP_CHECKSUM, u16>(checksum::apply_folded(old, delta));
        return true;
    }
    let Some(mut udp) = packet.window::<UDP_LEN>(l4) else {
        return false;
    };
    if let Some(port) = sport {
        udp.store::<SPORT, u16>(port);
    }
    if let Some(port) = dport {
        udp.store::<DPORT, u16>(port);
    }
    let old: u16 = udp.load::<UDP_CHECKSUM, _>();
    udp.store::<UDP_CHECKSUM, u16>(udp_checksum(old, delta.into()));
    true
}

/// A UDP checksum after a change.
///
/// RFC 768: all zero means that the sender computed none; a computed zero is sent as all ones.
#[inline(always)]
pub const fn udp_checksum(old: u16, delta: u32) -> u16 {
    if old == 0 {
        return 0;
    }
    match checksum::apply(old, delta) {
        0 => 0xffff,
        sum => sum,
    }
}
