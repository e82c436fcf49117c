//! What the data plane answers by itself: ICMP errors about packets it cannot forward, and resets of
//! connections whose real server is gone. The answer is made of the packet, and goes back to where it
//! came from.

use ha_common::maps::ANSWERS_BUCKET;
use ha_common::pair::Rate;
use ha_common::service::{Addr6, Address as _};
use ha_common::{checksum, proto};

use crate::family::Family;
use crate::packet::{Mac, Packet};
use crate::parse::transport::{
    DPORT, Flow, SPORT, TCP_ACKNOWLEDGEMENT, TCP_CHECKSUM, TCP_FLAGS, TCP_LEN, TCP_OFFSET,
    TCP_SEQUENCE, TCP_WINDOW, flag,
};
use crate::parse::{ethernet, ipv4, ipv6};
use crate::tables::Tables;

/// Why a packet is not forwarded: one word, since that is what a BPF function can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble(u32);

impl Trouble {
    /// Its time to live is used up.
    pub const TTL_EXPIRED: Self = Self(0);

    /// It is longer than this, which is what its way takes.
    #[inline(always)]
    pub const fn too_big(mtu: u32) -> Self {
        Self(mtu)
    }
}

/// Length of an ICMP header (RFC 792, RFC 4443).
const ICMP_LEN: usize = 8;
/// Checksum in it.
const ICMP_CHECKSUM: usize = 2;
/// What an error repeats of the payload: the ports, and the sequence number of TCP.
const REPEATED: usize = 8;
/// Time to live of what is sent from here (IANA "IP Time to Live parameter").
const TTL: u8 = 64;
const TAGS_LEN: usize = 8;

/// Tells the sender of a packet why it is not forwarded. `false` if it is not told: too many have been
/// lately, or the packet has options, which would have to be repeated.
#[inline(never)]
pub fn explain<A: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    source: &A,
    trouble: Trouble,
) -> bool {
    let l3 = flow.l3();
    let readable = !A::OPTIONS || flow.l4 == flow.l3 + A::HEADER;
    if !readable || !flow.key.src.is_host() || !affordable(tables) {
        return false;
    }
    let Some((kind, tags, [to, from])) = front(packet, l3) else {
        return false;
    };
    if to.is_group() || !packet.truncate(l3 + A::HEADER + REPEATED) {
        return false;
    }
    if !packet.grow_head(A::HEADER + ICMP_LEN) {
        return false;
    }
    // The way back: the addresses change places.
    put_front(packet, l3, kind, tags, to, from).is_some()
        && A::explain(packet, l3, *source, trouble).is_some()
}

/// Whether another answer may be sent now.
#[inline(always)]
fn affordable<T: Tables>(tables: T) -> bool {
    let Some(bucket) = tables.bucket(ANSWERS_BUCKET) else {
        return false;
    };
    // Two CPUs may take the same token. A bucket bounds work, it does not count.
    match Rate::ANSWERS.take(bucket.get(), tables.coarse_ns()) {
        Some(left) => {
            bucket.update(|word| *word = left);
            true
        }
        None => false,
    }
}

/// Type, tags and addresses (sender, then receiver) in front of the packet at `l3`.
#[inline(always)]
fn front<P: Packet>(packet: &mut P, l3: usize) -> Option<(u16, u64, [Mac; 2])> {
    let frame = packet.window::<{ ethernet::LEN }>(0)?;
    let kind: u16 = frame.load::<{ ethernet::TYPE }, _>();
    let addresses = [
        frame.load::<{ ethernet::SRC }, _>(),
        frame.load::<{ ethernet::DST }, _>(),
    ];
    let tags = if l3 == ethernet::LEN {
        0
    } else {
        packet.window::<TAGS_LEN>(ethernet::LEN)?.load::<0, _>()
    };
    Some((kind, tags, addresses))
}

/// Writes them in front of what is to be at `l3`, whose first bytes are written afterwards.
#[inline(always)]
fn put_front<P: Packet>(
    packet: &mut P,
    l3: usize,
    kind: u16,
    tags: u64,
    to: Mac,
    from: Mac,
) -> Option<()> {
    let mut frame = packet.window::<{ ethernet::LEN }>(0)?;
    frame.store::<{ ethernet::DST }, _>(to);
    frame.store::<{ ethernet::SRC }, _>(from);
    frame.store::<{ ethernet::TYPE }, u16>(kind);
    if l3 != ethernet::LEN {
        packet
            .window::<TAGS_LEN>(ethernet::LEN)?
            .store::<0, u64>(tags);
    }
    Some(())
}

/// Writes an ICMP error (RFC 792) in front of the header and eight bytes that it is about.
#[inline(always)]
pub(crate) fn explain4<P: Packet>(
    packet: &mut P,
    l3: usize,
    source: u32,
    trouble: Trouble,
) -> Option<()> {
    const INNER: usize = ipv4::LEN + ICMP_LEN;
    const LEN: usize = INNER + ipv4::LEN + REPEATED;
    // Time exceeded in transit; fragmentation needed, with the MTU of RFC 1191 section 4.
    let (kind, detail) = match trouble {
        Trouble::TTL_EXPIRED => (u16::from_ne_bytes([11, 0]), 0),
        Trouble(mtu) => (u16::from_ne_bytes([3, 4]), (mtu & 0xffff).to_be()),
    };
    let mut ip = packet.window::<LEN>(l3)?;
    let repeated: [u32; 7] = ip.load::<INNER, _>();
    let destination: u32 = ip.load::<{ INNER + ipv4::SRC }, _>();
    let mut sum = u32::from(kind) + halves(detail);
    for word in repeated {
        sum += halves(word);
    }
    ip.store::<{ ipv4::LEN }, u16>(kind);
    ip.store::<{ ipv4::LEN + ICMP_CHECKSUM }, u16>(!checksum::fold(sum));
    ip.store::<{ ipv4::LEN + 4 }, u32>(detail);

    // Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
    let first = u16::from_ne_bytes([ipv4::VERSION_4_NO_OPTIONS, 0xc0]);
    let len = (LEN as u16).to_be();
    let carried = u16::from_ne_bytes([TTL, proto::ICMP]);
    let sum = u32::from(first)
        + u32::from(len)
        + u32::from(carried)
        + halves(source)
        + halves(destination);
    ip.store::<{ ipv4::VERSION_IHL }, u16>(first);
    ip.store::<{ ipv4::TOTAL_LEN }, u16>(len);
    ip.store::<{ ipv4::ID }, u32>(0);
    ip.store::<{ ipv4::TTL }, u16>(carried);
    ip.store::<{ ipv4::CHECKSUM }, u16>(!checksum::fold(sum));
    ip.store::<{ ipv4::SRC }, u32>(source);
    ip.store::<{ ipv4::DST }, u32>(destination);
    Some(())
}

/// Writes an `ICMPv6` error (RFC 4443) in front of the header and eight bytes that it is about.
#[inline(always)]
pub(crate) fn explain6<P: Packet>(
    packet: &mut P,
    l3: usize,
    source: Addr6,
    trouble: Trouble,
) -> Option<()> {
    const INNER: usize = ipv6::LEN + ICMP_LEN;
    const LEN: usize = INNER + ipv6::LEN + REPEATED;
    let (kind, detail) = match trouble {
        Trouble::TTL_EXPIRED => (u16::from_ne_bytes([3, 0]), 0),
        Trouble(mtu) => (u16::from_ne_bytes([2, 0]), mtu.to_be()),
    };
    let len = ((LEN - ipv6::LEN) as u16).to_be();
    let mut ip = packet.window::<LEN>(l3)?;
    let destination: Addr6 = ip.load::<{ INNER + ipv6::SRC }, _>();
    let repeated: [u32; 12] = ip.load::<INNER, _>();
    let mut sum = u32::from(kind) + halves(detail) + u32::from(len);
    sum += u32::from(u16::from(proto::ICMPV6).to_be());
    for word in repeated {
        sum += halves(word);
    }
    // The addresses of the pseudo-header (RFC 8200 section 8.1).
    for word in source.words {
        sum += halves(word);
    }
    for word in destination.words {
        sum += halves(word);
    }
    ip.store::<{ ipv6::LEN }, u16>(kind);
    ip.store::<{ ipv6::LEN + ICMP_CHECKSUM }, u16>(!checksum::fold(sum));
    ip.store::<{ ipv6::LEN + 4 }, u32>(detail);
    ip.store::<{ ipv6::VERSION }, u32>(u32::from_ne_bytes([0x60, 0, 0, 0]));
    ip.store::<{ ipv6::PAYLOAD_LEN }, u16>(len);
    ip.store::<{ ipv6::NEXT }, u16>(u16::from_ne_bytes([proto::ICMPV6, TTL]));
    ip.store::<{ ipv6::SRC }, Addr6>(source);
    ip.store::<{ ipv6::DST }, Addr6>(destination);
    Some(())
}

/// Answers a segment with a reset (RFC 9293 section 3.10.7.1) in the name of its destination. `false` if
/// it is not answered: too many have been lately, it is a reset itself, or it has IP options.
#[inline(never)]
pub fn reset<A: Family, P: Packet, T: Tables>(packet: &mut P, tables: T, flow: &Flow<A>) -> bool {
    if flow.flags & flag::RST != 0 || flow.l4 != flow.l3 + A::HEADER || !affordable(tables) {
        return false;
    }
    reset_sound(packet, flow).is_some()
}

#[inline(always)]
fn reset_sound<A: Family, P: Packet>(packet: &mut P, flow: &Flow<A>) -> Option<()> {
    let l4 = flow.l3() + A::HEADER;
    let tcp = packet.window::<TCP_LEN>(l4)?;
    let header = usize::from(tcp.load::<TCP_OFFSET, u8>() >> 4) * 4;
    let payload = (flow.len as usize).checked_sub(A::HEADER + header)?;
    let marks = u32::from(flow.flags & flag::SYN != 0) + u32::from(flow.flags & flag::FIN != 0);
    let (sequence, acknowledgement, flags) = if flow.flags & flag::ACK != 0 {
        (flow.acknowledgement, 0, flag::RST)
    } else {
        let next = flow.sequence.wrapping_add(payload as u32 + marks);
        (0, next, flag::RST | flag::ACK)
    };
    let end = l4 + TCP_LEN;
    if packet.frame_len() > end && !packet.truncate(end) {
        return None;
    }
    let mut frame = packet.window::<{ ethernet::LEN }>(0)?;
    let to: Mac = frame.load::<{ ethernet::SRC }, _>();
    let from: Mac = frame.load::<{ ethernet::DST }, _>();
    if to.is_group() {
        return None;
    }
    frame.store::<{ ethernet::DST }, _>(to);
    frame.store::<{ ethernet::SRC }, _>(from);
    A::turn(packet, flow, TCP_LEN)?;

    let mut tcp = packet.window::<TCP_LEN>(l4)?;
    tcp.store::<SPORT, u16>(flow.key.dport);
    tcp.store::<DPORT, u16>(flow.key.sport);
    tcp.store::<TCP_SEQUENCE, u32>(sequence.to_be());
    tcp.store::<TCP_ACKNOWLEDGEMENT, u32>(acknowledgement.to_be());
    tcp.store::<TCP_OFFSET, u8>(((TCP_LEN / 4) << 4) as u8);
    tcp.store::<TCP_FLAGS, u8>(flags);
    tcp.store::<TCP_WINDOW, u16>(0);
    tcp.store::<TCP_CHECKSUM, u32>(0);
    let words: [u32; 5] = tcp.load::<0, _>();
    let mut sum = u32::from((TCP_LEN as u16).to_be()) + u32::from(u16::from(proto::TCP).to_be());
    sum += flow.key.src.sum() + flow.key.dst.sum();
    for word in words {
        sum += halves(word);
    }
    tcp.store::<TCP_CHECKSUM, u16>(!checksum::fold(sum));
    Some(())
}

/// Turns the IP header at `l3` round, in front of `payload` bytes.
#[inline(always)]
pub(crate) fn turn4<P: Packet>(packet: &mut P, flow: &Flow<u32>, payload: usize) -> Option<()> {
    let mut ip = packet.window::<{ ipv4::LEN }>(flow.l3())?;
    let first = u16::from_ne_bytes([ipv4::VERSION_4_NO_OPTIONS, 0]);
    let len = ((ipv4::LEN + payload) as u16).to_be();
    let kind = u16::from_ne_bytes([TTL, proto::TCP]);
    let sum = u32::from(first)
        + u32::from(len)
        + u32::from(kind)
        + u32::from(ipv4::DONT_FRAGMENT)
        + flow.key.src.sum()
        + flow.key.dst.sum();
    ip.store::<{ ipv4::VERSION_IHL }, u16>(first);
    ip.store::<{ ipv4::TOTAL_LEN }, u16>(len);
    ip.store::<{ ipv4::ID }, u16>(0);
    ip.store::<{ ipv4::FRAGMENT }, u16>(ipv4::DONT_FRAGMENT);
    ip.store::<{ ipv4::TTL }, u16>(kind);
    ip.store::<{ ipv4::CHECKSUM }, u16>(!checksum::fold(sum));
    ip.store::<{ ipv4::SRC }, u32>(flow.key.dst);
    ip.store::<{ ipv4::DST }, u32>(flow.key.src);
    Some(())
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn turn6<P: Packet>(packet: &mut P, flow: &Flow<Addr6>, payload: usize) -> Option<()> {
    let mut ip = packet.window::<{ ipv6::LEN }>(flow.l3())?;
    ip.store::<{ ipv6::VERSION }, u32>(u32::from_ne_bytes([0x60, 0, 0, 0]));
    ip.store::<{ ipv6::PAYLOAD_LEN }, u16>((payload as u16).to_be());
    ip.store::<{ ipv6::NEXT }, u16>(u16::from_ne_bytes([proto::TCP, TTL]));
    ip.store::<{ ipv6::SRC }, Addr6>(flow.key.dst);
    ip.store::<{ ipv6::DST }, Addr6>(flow.key.src);
    Some(())
}

#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}
