//! The virtual MAC: one Ethernet address for the shared addresses of a link, whoever is active.
//!
//! Neighbours keep what they know across a failover; only the switch learns another port, from the
//! frames themselves. So no frame may leave with that address while the gate is closed, and none of them
//! is to be accepted. All of it is done here: no other device exists, and the kernel, which has the
//! shared addresses on its loopback device, neither answers for them nor knows the address.

use core::mem::offset_of;

use ha_common::checksum;
use ha_common::pair::{Peer, link_flags};
use ha_common::proto;
use ha_common::reason::Reason;

use crate::carp::link_of;
use crate::packet::{Hop, Mac, Packet};
use crate::parse::{ethernet, ipv6};
use crate::tables::{Shared, Tables, gate_open};
use crate::verdict::passes;

/// The link that is this interface, if its shared addresses have the virtual MAC.
#[inline(always)]
fn link<T: Tables>(tables: T, ifindex: u32) -> Option<Shared<Peer>> {
    let peer = tables.peer(link_of(tables, ifindex)? * 2)?;
    (flags(peer) & link_flags::VIRTUAL_MAC != 0).then_some(peer)
}

#[inline(always)]
fn flags(peer: Shared<Peer>) -> u32 {
    peer.load::<{ offset_of!(Peer, flags) }, _>()
}

#[inline(always)]
fn virtual_mac<T: Tables>(tables: T) -> Mac {
    match tables.config() {
        Some(config) => Mac::of_vhid(config.get().vhid as u8),
        None => Mac::default(),
    }
}

/// The source of what leaves through this interface, if the virtual MAC has a say in it.
#[inline(never)]
fn source<T: Tables>(tables: T, ifindex: u32, open: bool) -> Mac {
    match link(tables, ifindex) {
        Some(_) if open => virtual_mac(tables),
        // The switch has learnt by now where the other node is.
        Some(peer) => peer.load::<{ offset_of!(Peer, own_mac) }, _>(),
        None => Mac::default(),
    }
}

/// The hop with the source that a frame may have now that the gate is, or is not, `open`.
#[inline(always)]
pub fn from_here<T: Tables>(tables: T, mut hop: Hop, open: bool) -> Hop {
    if hop.is_known() {
        let mac = source(tables, hop.ifindex, open);
        if mac != Mac::default() {
            hop.src = mac;
        }
    }
    hop
}

/// Has the kernel take a frame that passes and is for the virtual MAC, if this node may act for it.
/// Else the kernel sees a frame for another station.
#[inline(always)]
pub fn accept<P: Packet, T: Tables>(packet: &mut P, tables: T, reason: Reason) -> Reason {
    if !passes(reason) || !ethernet::may_be_for_a_vhid(packet) {
        return reason;
    }
    adopt(packet, tables, reason)
}

#[inline(never)]
fn adopt<P: Packet, T: Tables>(packet: &mut P, tables: T, reason: Reason) -> Reason {
    let Some(peer) = link(tables, packet.ingress()) else {
        return reason;
    };
    let rewritten = matches!(reason, Reason::ForwardKernel | Reason::ReverseKernel);
    if ethernet::destination(packet) == virtual_mac(tables)
        && (rewritten || gate_open(tables, tables.coarse_ns()))
        && let Some(mut frame) = packet.window::<{ ethernet::LEN }>(0)
    {
        let own: Mac = peer.load::<{ offset_of!(Peer, own_mac) }, _>();
        frame.store::<{ ethernet::DST }, _>(own);
    }
    reason
}

/// Turns the frame to `to`, from the virtual MAC. `None` if nobody is to be answered there.
#[inline(always)]
fn turn<P: Packet, T: Tables>(packet: &mut P, tables: T, to: Mac) -> Option<Mac> {
    let mac = virtual_mac(tables);
    let mut frame = packet.window::<{ ethernet::LEN }>(0)?;
    frame.store::<{ ethernet::DST }, _>(to);
    frame.store::<{ ethernet::SRC }, _>(mac);
    Some(mac)
}

/// ARP for Ethernet and IPv4 (RFC 826).
mod arp {
    pub(super) const LEN: usize = 28;
    pub(super) const OPERATION: usize = 6;
    pub(super) const SENDER_MAC: usize = 8;
    pub(super) const SENDER: usize = 14;
    pub(super) const TARGET_MAC: usize = 18;
    pub(super) const TARGET: usize = 24;
    pub(super) const REQUEST: u16 = 1u16.to_be();
    pub(super) const REPLY: u16 = 2u16.to_be();
}

/// Answers an ARP request for a shared address, the gate being open. `None` if the kernel is to judge
/// the packet.
#[inline(never)]
pub fn answer_arp<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Option<Reason> {
    let request = packet.window::<{ arp::LEN }>(l3)?;
    let operation: u16 = request.load::<{ arp::OPERATION }, _>();
    let asker: Mac = request.load::<{ arp::SENDER_MAC }, _>();
    let sender: u32 = request.load::<{ arp::SENDER }, _>();
    let target: u32 = request.load::<{ arp::TARGET }, _>();
    if operation != arp::REQUEST || sender == target || asker.is_group() {
        return None;
    }
    if tables.addr_home(target) != packet.ingress() {
        return None;
    }
    let mac = turn(packet, tables, asker)?;
    let mut reply = packet.window::<{ arp::LEN }>(l3)?;
    reply.store::<{ arp::OPERATION }, _>(arp::REPLY);
    reply.store::<{ arp::SENDER_MAC }, _>(mac);
    reply.store::<{ arp::SENDER }, _>(target);
    reply.store::<{ arp::TARGET_MAC }, _>(asker);
    reply.store::<{ arp::TARGET }, _>(sender);
    Some(Reason::ArpAnswered)
}

/// Neighbour discovery (RFC 4861 sections 4.3 and 4.4): offsets from the IPv6 header.
mod nd {
    pub(super) const PAYLOAD_LEN: usize = 4;
    pub(super) const HOP_LIMIT: usize = 7;
    pub(super) const TO: usize = 24;
    pub(super) const TYPE: usize = 40;
    pub(super) const CHECKSUM: usize = 42;
    pub(super) const FLAGS: usize = 44;
    pub(super) const TARGET: usize = 48;
    pub(super) const OPTION: usize = 64;
    /// Without, and with one option of eight bytes.
    pub(super) const PLAIN: usize = 64;
    pub(super) const WITH_OPTION: usize = 72;
    /// Type 135, code 0, as they stand in the packet.
    pub(super) const SOLICITATION: u16 = u16::from_ne_bytes([135, 0]);
    /// Type 136, code 0.
    pub(super) const ADVERTISEMENT: u16 = u16::from_ne_bytes([136, 0]);
    pub(super) const ROUTER: u8 = 0x80;
    pub(super) const SOLICITED: u8 = 0x40;
    pub(super) const OVERRIDE: u8 = 0x20;
    /// Target link-layer address, eight bytes.
    pub(super) const TARGET_OPTION: u16 = u16::from_ne_bytes([2, 1]);
    /// `ff02::1`: who asks without an address of its own is answered there.
    pub(super) const ALL_NODES: [u32; 4] = [
        u32::from_ne_bytes([0xff, 0x02, 0, 0]),
        0,
        0,
        u32::from_ne_bytes([0, 0, 0, 1]),
    ];
}

/// Answers a neighbour solicitation for a shared address whose home is this interface, the gate being
/// open. `None` if the kernel is to judge the packet.
#[inline(never)]
pub fn answer_discovery<P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    l3: usize,
) -> Option<Reason> {
    let peer = link(tables, packet.ingress())?;
    let asked = packet.window::<{ nd::PLAIN }>(l3)?;
    let message: u16 = asked.load::<{ nd::TYPE }, _>();
    let hops: u8 = asked.load::<{ nd::HOP_LIMIT }, _>();
    let length = u16::from_be(asked.load::<{ nd::PAYLOAD_LEN }, _>());
    let sender: [u32; 4] = asked.load::<{ ipv6::SRC }, _>();
    if message != nd::SOLICITATION || hops != u8::MAX {
        return None;
    }
    let asker = ethernet::source(packet);
    if asker.is_group() {
        return None;
    }
    let router = flags(peer) & link_flags::ROUTER != 0;
    let flags = nd::OVERRIDE | if router { nd::ROUTER } else { 0 };
    // Whether it has an address of its own.
    let [a, b, c, d] = sender;
    let (asker, to, flags) = if a | b | c | d == 0 {
        (Mac::ALL_NODES, nd::ALL_NODES, flags)
    } else {
        (asker, sender, flags | nd::SOLICITED)
    };
    let mac = turn(packet, tables, asker)?;
    // Without an option in the question there is no room for one in the answer, nor need of it.
    let room = usize::from(length) + ipv6::LEN >= nd::WITH_OPTION;
    if room && packet.window::<{ nd::WITH_OPTION }>(l3).is_some() {
        advertise::<_, { nd::WITH_OPTION }>(packet, l3, &to, flags)?;
        let mut reply = packet.window::<{ nd::WITH_OPTION }>(l3)?;
        reply.store::<{ nd::OPTION }, u16>(nd::TARGET_OPTION);
        reply.store::<{ nd::OPTION + 2 }, _>(mac);
        let low: u32 = reply.load::<{ nd::OPTION }, _>();
        let high: u32 = reply.load::<{ nd::OPTION + 4 }, _>();
        let sum: u16 = reply.load::<{ nd::CHECKSUM }, _>();
        let added = checksum::delta32(0, low) + checksum::delta32(0, high);
        reply.store::<{ nd::CHECKSUM }, _>(checksum::apply(sum, added));
    } else {
        advertise::<_, { nd::PLAIN }>(packet, l3, &to, flags)?;
    }
    Some(Reason::NdAnswered)
}

/// Makes an advertisement of `N` bytes of the solicitation at `l3`; what an option adds to the checksum
/// is missing.
#[inline(always)]
fn advertise<P: Packet, const N: usize>(
    packet: &mut P,
    l3: usize,
    to: &[u32; 4],
    flags: u8,
) -> Option<()> {
    let mut reply = packet.window::<{ nd::PLAIN }>(l3)?;
    let target: [u32; 4] = reply.load::<{ nd::TARGET }, _>();
    let flags = u32::from_ne_bytes([flags, 0, 0, 0]);
    let length = ((N - ipv6::LEN) as u16).to_be();
    reply.store::<{ nd::PAYLOAD_LEN }, _>(length);
    reply.store::<{ ipv6::SRC }, _>(target);
    reply.store::<{ nd::TO }, _>(*to);
    reply.store::<{ nd::TYPE }, _>(nd::ADVERTISEMENT);
    reply.store::<{ nd::FLAGS }, _>(flags);
    // The target stands in the message and, as the source, in the pseudo-header (RFC 8200 section 8.1).
    let protocol = u32::from(u16::from(proto::ICMPV6).to_be());
    let mut sum = u32::from(length) + protocol + u32::from(nd::ADVERTISEMENT) + halves(flags);
    for word in target {
        sum += 2 * halves(word);
    }
    for word in *to {
        sum += halves(word);
    }
    reply.store::<{ nd::CHECKSUM }, _>(!checksum::fold(sum));
    Some(())
}

#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}
