//! ICMP errors about packets of a connection: translated like the connection itself, the packet they
//! repeat included, so that path MTU discovery and refusals work through the balancer.
//!
//! Routers repeat as little as the header and eight bytes (RFC 792); that is enough here. What an error
//! repeats is a packet on its way *out* of the balancer, so it is undone what the opposite direction's
//! entry does: with the forward entry, the error is about an answer and goes to the real server; with the
//! reverse entry, it is about a client's packet and goes to the client. A half-open connection knows the same
//! ends, so that a request that nobody can deliver is refused at once instead of repeated in vain.

use ha_common::checksum::{apply, delta16, delta32};
use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, flags};
use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::{Addr6, Address as _, RealState};

use crate::conntrack::client::is_fresh;
use crate::family::{Family, is_transport};
use crate::packet::{Hop, Packet};
use crate::parse::transport::{TCP_CHECKSUM, UDP_CHECKSUM};
use crate::parse::{ipv4, ipv6};
use crate::rewrite::{Direction, udp_checksum};
use crate::send::{account, hop_of, leave, real_hop, untouched};
use crate::tables::{Flows, gate_open};
use crate::work::Work;

/// Length of an ICMP header.
const ICMP_LEN: usize = 8;
/// Checksum in it.
const ICMP_CHECKSUM: usize = 2;
/// Bound of where the IP header starts, for the verifier.
const L3_MASK: usize = 31;
/// What an error repeats of a payload at least.
const REPEATED: usize = 8;

/// Whether an ICMP type (RFC 792) is that of an error about a packet: destination unreachable, source
/// quench, time exceeded, parameter problem.
#[inline(always)]
pub const fn is_error4(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 11 | 12)
}

/// The same for `ICMPv6` (RFC 4443 section 2.1: types below 128).
#[inline(always)]
pub const fn is_error6(kind: u8) -> bool {
    kind != 0 && kind < 128
}

/// An ICMP error, and the 5-tuple of the packet it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Error<A> {
    /// Where its IP header, which has no options, starts.
    pub l3: usize,
    /// Length of the IP packet.
    pub len: u32,
    /// Time to live.
    pub ttl: u8,
    /// Who sent it.
    pub source: A,
    /// The 5-tuple that finds the connection: that of the packet it is about, turned round.
    pub key: ConnKey<A>,
}

/// A family's ICMP.
pub trait Icmp: Family {
    /// Reads an error whose headers have no options; `None` for everything else.
    fn error<P: Packet>(packet: &mut P, l3: usize) -> Option<Error<Self>>;

    /// Where the transport header of the repeated packet is, after the error's network header.
    const REPEATED_AT: usize;

    /// Rewrites [`Work::error`] as told by [`Work::ends`], but for the checksum of the repeated transport header: what
    /// that and its ports add to the error's own is given. `false` if the frame is too short.
    fn restore<P: Packet>(packet: &mut P, work: &Work<Self>, repeated: u32) -> bool;
}

/// What the addresses and ports are to be: of the error itself, and of the packet it repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends<A> {
    /// Addresses of the error: source, destination.
    outer: (A, A),
    /// Source of the repeated packet.
    inner_src: (A, u16),
    /// Its destination.
    inner_dst: (A, u16),
}

/// Sends the error [`Work::error`] on. `None` if it is about no known connection.
#[inline(never)]
pub fn forward<A: Icmp, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Option<Reason> {
    if !find(tables, work) {
        return None;
    }
    if !gate_open(tables, tables.coarse_ns()) {
        return Some(Reason::GateClosed);
    }
    let id = work.forward.real;
    let real = tables.real(id)?;
    if real.get().generation != work.forward.real_generation
        || RealState::from_u8(real.get().state) == RealState::Unused
    {
        return None;
    }
    // Nobody is told of an error about an error.
    if work.error.ttl <= 1 {
        return Some(Reason::TtlExpired);
    }
    let direction = if work.forward.is_reverse() {
        Direction::Reverse
    } else {
        Direction::Forward
    };
    work.hop = match direction {
        Direction::Forward if real.get().hop_known != 0 => real_hop(real),
        Direction::Reverse if work.forward.flags & flags::HOP_KNOWN != 0 => hop_of(&work.forward),
        Direction::Forward | Direction::Reverse => Hop::UNKNOWN,
    };
    account(tables, id, direction, work.error.len);
    let l3 = work.error.l3 & L3_MASK;
    let known = work.hop.is_known();
    if work.forward.flags & flags::ONE_WAY != 0 {
        // What it repeats is the real server's own packet.
        if let Some(reason) = untouched::<A, _>(packet, real, l3, known) {
            return Some(reason);
        }
    } else {
        find_ends(work);
        let repeated = repeated(packet, work);
        if !A::restore(packet, work, repeated) || (known && !A::age(packet, l3)) {
            return Some(Reason::Truncated);
        }
    }
    Some(leave(packet, direction, &work.hop))
}

/// Finds the connection that [`Work::error`] is about, as [`Work::forward`]: an established one, or one whose
/// handshake is not complete. `false` if there is none.
#[inline(never)]
fn find<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>) -> bool {
    if let Some(entry) = tables.conn(&work.error.key) {
        work.forward = entry.get();
        return true;
    }
    if work.error.key.proto != u32::from(proto::TCP) {
        return false;
    }
    half_open(tables, work, false) || half_open(tables, work, true)
}

/// Finds the half-open connection that the error is about: about an answer of the real server, or `reverse`,
/// about a request to it.
#[inline(never)]
fn half_open<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>, reverse: bool) -> bool {
    let key = &work.error.key;
    let (client, port) = if reverse {
        (key.dst, key.dport)
    } else {
        (key.src, key.sport)
    };
    work.embryo_key = EmbryoKey {
        client,
        port,
        pad: 0,
    };
    let Some(embryo) = tables
        .embryo(&work.embryo_key)
        .filter(|embryo| is_fresh(*embryo, tables.coarse_ns()))
    else {
        return false;
    };
    embryo.read(|embryo| {
        let is_its = if reverse {
            embryo.flags & flags::ONE_WAY == 0
                && (key.src, key.sport) == (embryo.real_addr, embryo.real_port)
        } else {
            (key.dst, key.dport) == (embryo.vip, embryo.vport)
        };
        if is_its {
            imagine(&mut work.forward, embryo, reverse);
        }
        is_its
    })
}

/// The entry that a half-open connection would have for one direction, as far as an error needs it.
#[inline(always)]
fn imagine<A: Copy>(conn: &mut Conn<A>, embryo: &Embryo<A>, reverse: bool) {
    conn.flags = embryo.flags;
    (conn.to_addr, conn.to_port) = (embryo.real_addr, embryo.real_port);
    if reverse {
        conn.flags |= flags::REVERSE;
        (conn.to_addr, conn.to_port) = (embryo.vip, embryo.vport);
    }
    if embryo.hop_ifindex != 0 {
        conn.flags |= flags::HOP_KNOWN;
    }
    (conn.from_addr, conn.from_port) = (embryo.from_addr, embryo.from_port);
    (conn.real, conn.real_generation) = (embryo.real, embryo.real_generation);
    conn.hop_ifindex = embryo.hop_ifindex;
    (conn.hop_mac, conn.hop_src) = (embryo.hop_mac, embryo.hop_src);
}

/// Finds out what the ends are to be on the other side. Returns whether both are translated.
#[inline(never)]
fn find_ends<A: Family>(work: &mut Work<A>) -> bool {
    let conn = &work.forward;
    let error = &work.error;
    // The repeated packet's own ends, as `key` has them turned round.
    let near = (error.key.src, error.key.sport);
    let far = (error.key.dst, error.key.dport);
    let to = (conn.to_addr, conn.to_port);
    let both = conn.flags & flags::BOTH_ENDS != 0;
    let from = (conn.from_addr, conn.from_port);
    work.ends = if conn.is_reverse() {
        // About a client's packet: it was to the shared address, from the client.
        let client = if both { from } else { far };
        Ends {
            outer: (to.0, client.0),
            inner_src: client,
            inner_dst: to,
        }
    } else {
        // About an answer: it was from the real server, to the client or its stand-in.
        let client = if both { from } else { near };
        let source = if both { from.0 } else { error.source };
        Ends {
            outer: (source, to.0),
            inner_src: to,
            inner_dst: client,
        }
    };
    both
}

impl Icmp for u32 {
    const REPEATED_AT: usize = ipv4::LEN + ICMP_LEN + ipv4::LEN;

    #[inline(always)]
    fn error<P: Packet>(packet: &mut P, l3: usize) -> Option<Error<Self>> {
        const INNER: usize = ipv4::LEN + ICMP_LEN;
        const LEN: usize = INNER + ipv4::LEN + REPEATED;
        let outer = ipv4::parse(packet, l3)?;
        if !outer.is_plain() || outer.protocol != proto::ICMP || outer.total_len < LEN {
            return None;
        }
        let ip = packet.window::<LEN>(l3)?;
        let kind: u8 = ip.load::<{ ipv4::LEN }, _>();
        let version: u8 = ip.load::<{ INNER + ipv4::VERSION_IHL }, _>();
        let protocol: u8 = ip.load::<{ INNER + ipv4::PROTOCOL }, _>();
        // A later fragment has no ports.
        let fragment: u16 = ip.load::<{ INNER + ipv4::FRAGMENT }, _>();
        if !is_error4(kind)
            || version != ipv4::VERSION_4_NO_OPTIONS
            || fragment & ipv4::OFFSET_BITS != 0
            || !is_transport(protocol)
        {
            return None;
        }
        Some(Error {
            l3,
            len: outer.total_len as Self,
            ttl: outer.ttl,
            source: outer.src,
            key: ConnKey {
                src: ip.load::<{ INNER + ipv4::DST }, _>(),
                dst: ip.load::<{ INNER + ipv4::SRC }, _>(),
                sport: ip.load::<{ INNER + ipv4::LEN + 2 }, _>(),
                dport: ip.load::<{ INNER + ipv4::LEN }, _>(),
                proto: Self::from(protocol),
            },
        })
    }

    #[inline(never)]
    fn restore<P: Packet>(packet: &mut P, work: &Work<Self>, repeated: u32) -> bool {
        let (error, ends) = (&work.error, &work.ends);
        const INNER: usize = ipv4::LEN + ICMP_LEN;
        const L4: usize = u32::REPEATED_AT;
        let l3 = error.l3 & L3_MASK;
        let Some(mut ip) = packet.window::<{ L4 + REPEATED }>(l3) else {
            return false;
        };
        let destination: Self = ip.load::<{ ipv4::DST }, _>();
        let outer = error.source.delta(ends.outer.0) + destination.delta(ends.outer.1);
        let sum: u16 = ip.load::<{ ipv4::CHECKSUM }, _>();
        ip.store::<{ ipv4::CHECKSUM }, u16>(apply(sum, outer));
        ip.store::<{ ipv4::SRC }, Self>(ends.outer.0);
        ip.store::<{ ipv4::DST }, Self>(ends.outer.1);

        // The repeated header and its checksum cancel each other out in that of ICMP.
        let inner = error.key.dst.delta(ends.inner_src.0) + error.key.src.delta(ends.inner_dst.0);
        let sum: u16 = ip.load::<{ INNER + ipv4::CHECKSUM }, _>();
        let new = apply(sum, inner);
        ip.store::<{ INNER + ipv4::CHECKSUM }, u16>(new);
        ip.store::<{ INNER + ipv4::SRC }, Self>(ends.inner_src.0);
        ip.store::<{ INNER + ipv4::DST }, Self>(ends.inner_dst.0);
        ip.store::<L4, u16>(ends.inner_src.1);
        ip.store::<{ L4 + 2 }, u16>(ends.inner_dst.1);
        let change = inner + delta16(sum, new) + repeated;
        let sum: u16 = ip.load::<{ ipv4::LEN + ICMP_CHECKSUM }, _>();
        ip.store::<{ ipv4::LEN + ICMP_CHECKSUM }, u16>(apply(sum, change));
        true
    }
}

impl Icmp for Addr6 {
    const REPEATED_AT: usize = ipv6::LEN + ICMP_LEN + ipv6::LEN;

    #[inline(always)]
    fn error<P: Packet>(packet: &mut P, l3: usize) -> Option<Error<Self>> {
        const INNER: usize = ipv6::LEN + ICMP_LEN;
        const LEN: usize = INNER + ipv6::LEN + REPEATED;
        let outer = ipv6::parse(packet, l3)?;
        if !outer.sound || outer.next != proto::ICMPV6 || outer.total_len < LEN {
            return None;
        }
        let ip = packet.window::<LEN>(l3)?;
        let kind: u8 = ip.load::<{ ipv6::LEN }, _>();
        let protocol: u8 = ip.load::<{ INNER + ipv6::NEXT }, _>();
        if !is_error6(kind) || !is_transport(protocol) {
            return None;
        }
        Some(Error {
            l3,
            len: outer.total_len as u32,
            ttl: outer.hop_limit,
            source: outer.src,
            key: ConnKey {
                src: ip.load::<{ INNER + ipv6::DST }, _>(),
                dst: ip.load::<{ INNER + ipv6::SRC }, _>(),
                sport: ip.load::<{ INNER + ipv6::LEN + 2 }, _>(),
                dport: ip.load::<{ INNER + ipv6::LEN }, _>(),
                proto: u32::from(protocol),
            },
        })
    }

    #[inline(never)]
    fn restore<P: Packet>(packet: &mut P, work: &Work<Self>, repeated: u32) -> bool {
        const INNER: usize = ipv6::LEN + ICMP_LEN;
        const L4: usize = Addr6::REPEATED_AT;
        let (l3, ends) = (work.error.l3 & L3_MASK, &work.ends);
        if packet.window::<{ L4 + REPEATED }>(l3).is_none() {
            return false;
        }
        // That of ICMPv6 covers the addresses of the pseudo-header as well.
        let change = repeated
            + exchange(packet, l3 + ipv6::SRC, &ends.outer.0)
            + exchange(packet, l3 + ipv6::DST, &ends.outer.1)
            + exchange(packet, l3 + INNER + ipv6::SRC, &ends.inner_src.0)
            + exchange(packet, l3 + INNER + ipv6::DST, &ends.inner_dst.0);
        let Some(mut ip) = packet.window::<{ L4 + REPEATED }>(l3) else {
            return false;
        };
        ip.store::<L4, u16>(ends.inner_src.1);
        ip.store::<{ L4 + 2 }, u16>(ends.inner_dst.1);
        let sum: u16 = ip.load::<{ ipv6::LEN + ICMP_CHECKSUM }, _>();
        ip.store::<{ ipv6::LEN + ICMP_CHECKSUM }, u16>(apply(sum, change));
        true
    }
}

/// Replaces the address at `at`, word by word, since four whole ones are too much for the stack. Returns what that adds
/// to a checksum.
#[inline(always)]
fn exchange<P: Packet>(packet: &mut P, at: usize, new: &Addr6) -> u32 {
    let mut delta = 0;
    for (offset, new) in (at..).step_by(4).zip(new.words) {
        if let Some(mut word) = packet.window::<4>(offset) {
            delta += delta32(word.load::<0, u32>(), new);
            word.store::<0, u32>(new);
        }
    }
    delta
}

/// Brings the checksum of the repeated TCP or UDP header up to date, as far as it is there. Returns what
/// its change and that of the ports add to the checksum of the error.
#[inline(never)]
fn repeated<A: Icmp, P: Packet>(packet: &mut P, work: &Work<A>) -> u32 {
    let (error, ends) = (&work.error, &work.ends);
    let l4 = (error.l3 & L3_MASK) + A::REPEATED_AT;
    let (old_src, old_dst) = (
        (error.key.dst, error.key.dport),
        (error.key.src, error.key.sport),
    );
    let ports = delta16(old_src.1, ends.inner_src.1) + delta16(old_dst.1, ends.inner_dst.1);
    let delta = old_src.0.delta(ends.inner_src.0) + old_dst.0.delta(ends.inner_dst.0) + ports;
    if error.key.proto == u32::from(proto::UDP) {
        let Some(mut udp) = packet.window::<REPEATED>(l4) else {
            return ports;
        };
        let old: u16 = udp.load::<UDP_CHECKSUM, _>();
        let new = udp_checksum(old, delta);
        udp.store::<UDP_CHECKSUM, u16>(new);
        return ports + delta16(old, new);
    }
    let repeats_checksum = l4 + TCP_CHECKSUM + 2 <= (error.l3 & L3_MASK) + error.len as usize;
    let Some(mut tcp) = packet
        .window::<{ TCP_CHECKSUM + 2 }>(l4)
        .filter(|_| repeats_checksum)
    else {
        return ports;
    };
    let old: u16 = tcp.load::<TCP_CHECKSUM, _>();
    let new = apply(old, delta);
    tcp.store::<TCP_CHECKSUM, u16>(new);
    ports + delta16(old, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_no_errors() {
        for kind in [0u8, 5, 8, 13, 14] {
            assert!(!is_error4(kind), "{kind}");
        }
        for kind in [128u8, 129, 135, 136] {
            assert!(!is_error6(kind), "{kind}");
        }
        assert!(is_error4(3) && is_error6(2));
    }
}
