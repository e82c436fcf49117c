//! Network address translation of a packet, and its way out.

use ha_common::checksum;
use ha_common::conn::{Conn, ConnKey};
use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::Address;

use crate::family::Family;
use crate::packet::{Hop, Packet};
use crate::parse::transport::{self, Flow};
use crate::parse::{ethernet, ipv4};

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to real server: the destination is translated.
    Forward,
    /// Real server to client: the source is translated.
    Reverse,
}

/// What is written into a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation<A> {
    /// The new address, network order.
    pub addr: A,
    /// The new port, network order.
    pub port: u16,
    /// What that adds to the IPv4 header checksum.
    pub l3_delta: u16,
    /// What that adds to the TCP or UDP checksum.
    pub l4_delta: u16,
}

impl<A: Address> Translation<A> {
    /// The translation from one address and port to another.
    #[inline(always)]
    pub fn new(from: (A, u16), to: (A, u16)) -> Self {
        let addresses = checksum::fold(from.0.delta(to.0));
        Self {
            addr: to.0,
            port: to.1,
            l3_delta: addresses,
            l4_delta: checksum::fold(u32::from(addresses) + checksum::delta16(from.1, to.1)),
        }
    }

    /// From the shared address a client's packet was sent to, to a real server.
    #[inline(always)]
    pub fn forward(key: &ConnKey<A>, real: (A, u16)) -> Self {
        Self::new((key.dst, key.dport), real)
    }

    /// From the real server a packet comes from, to the shared address.
    #[inline(always)]
    pub fn reverse(key: &ConnKey<A>, shared: (A, u16)) -> Self {
        Self::new((key.src, key.sport), shared)
    }
}

impl<A: Address> From<&Conn<A>> for Translation<A> {
    #[inline(always)]
    fn from(conn: &Conn<A>) -> Self {
        Self {
            addr: conn.to_addr,
            port: conn.to_port,
            l3_delta: conn.l3_delta,
            l4_delta: conn.l4_delta,
        }
    }
}

/// Translates the packet and sends it to `hop`; if that is unknown, leaves the way to the kernel.
#[inline(always)]
pub fn send<A: Family, P: Packet>(
    packet: &mut P,
    flow: &Flow<A>,
    direction: Direction,
    translation: &Translation<A>,
    hop: &Hop,
) -> Reason {
    if hop.is_known() {
        send_to(packet, flow, direction, translation, || *hop)
    } else {
        leave_to_kernel(packet, flow, direction, translation)
    }
}

/// Translates the packet and sends it to `hop`, which is asked for when it is needed.
#[inline(always)]
pub fn send_to<A: Family, P: Packet>(
    packet: &mut P,
    flow: &Flow<A>,
    direction: Direction,
    translation: &Translation<A>,
    hop: impl FnOnce() -> Hop,
) -> Reason {
    if !A::translate(packet, flow, direction, translation, 1) {
        return Reason::Truncated;
    }
    let hop = hop();
    let Some(mut frame) = packet.window::<{ ethernet::LEN }>(0) else {
        return Reason::Truncated;
    };
    frame.store::<{ ethernet::DST }, _>(hop.mac);
    frame.store::<{ ethernet::SRC }, _>(hop.src);
    if hop.ifindex == packet.ingress() {
        return match direction {
            Direction::Forward => Reason::ForwardTransmit,
            Direction::Reverse => Reason::ReverseTransmit,
        };
    }
    packet.redirect(hop.ifindex);
    match direction {
        Direction::Forward => Reason::ForwardRedirect,
        Direction::Reverse => Reason::ReverseRedirect,
    }
}

/// Translates the packet and passes it on: the kernel finds route and neighbour. It also decrements
/// the time to live of what it forwards, so that is left alone here.
#[inline(always)]
fn leave_to_kernel<A: Family, P: Packet>(
    packet: &mut P,
    flow: &Flow<A>,
    direction: Direction,
    translation: &Translation<A>,
) -> Reason {
    if !A::translate(packet, flow, direction, translation, 0) {
        return Reason::Truncated;
    }
    match direction {
        Direction::Forward => Reason::ForwardKernel,
        Direction::Reverse => Reason::ReverseKernel,
    }
}

/// Rewrites address, port, time to live and checksums of an IPv4 packet. `false` if the frame is too
/// short.
#[inline(always)]
pub(crate) fn translate4<P: Packet>(
    packet: &mut P,
    flow: &Flow<u32>,
    direction: Direction,
    translation: &Translation<u32>,
    hops: u8,
) -> bool {
    let Some(mut ip) = packet.window::<{ transport::UDP_END }>(flow.l3) else {
        return false;
    };
    match direction {
        Direction::Forward => {
            ip.store::<{ ipv4::DST }, _>(translation.addr);
            ip.store::<{ transport::DPORT }, _>(translation.port);
        }
        Direction::Reverse => {
            ip.store::<{ ipv4::SRC }, _>(translation.addr);
            ip.store::<{ transport::SPORT }, _>(translation.port);
        }
    }
    ip.store::<{ ipv4::TTL }, u8>(flow.ttl.wrapping_sub(hops));
    let header = ip.load::<{ ipv4::CHECKSUM }, u16>();
    let delta = u32::from(translation.l3_delta) + u32::from(hops) * checksum::TTL_DELTA;
    ip.store::<{ ipv4::CHECKSUM }, u16>(checksum::apply(header, delta));

    let l4_delta = u32::from(translation.l4_delta);
    if flow.key.proto == u32::from(proto::TCP) {
        let Some(mut tcp) = packet.window::<{ transport::TCP_END }>(flow.l3) else {
            return false;
        };
        let old = tcp.load::<{ transport::TCP_CHECKSUM }, u16>();
        tcp.store::<{ transport::TCP_CHECKSUM }, u16>(checksum::apply(old, l4_delta));
    } else {
        let old = ip.load::<{ transport::UDP_CHECKSUM }, u16>();
        // RFC 768: all zero means that the sender computed none; a computed zero is sent as all ones.
        if old != 0 {
            let new = match checksum::apply(old, l4_delta) {
                0 => 0xffff,
                sum => sum,
            };
            ip.store::<{ transport::UDP_CHECKSUM }, u16>(new);
        }
    }
    true
}
