//! Who has which address: ARP (RFC 826) and neighbour discovery (RFC 4861).
//!
//! For shared addresses the kernel answers, or with a virtual MAC the data plane does, and only while
//! the gate is open. Whoever else claims one of
//! this node's addresses, own or shared, is shown to user space.

use core::mem::offset_of;

use ha_common::event::EvidenceKind;
use ha_common::pair::{Heard, Peer};
use ha_common::reason::Reason;
use ha_common::service::{Addr6, addr_kind};

use crate::carp::link_of;
use crate::evidence::{Exhibit, show};
use crate::packet::{Mac, Packet};
use crate::parse::ethernet::{self, ethertype};
use crate::parse::ipv6;
use crate::tables::{Tables, gate_open};
use crate::virtual_mac;

/// ARP for Ethernet and IPv4.
mod arp {
    /// Length.
    pub(super) const LEN: usize = 28;
    /// Protocol type.
    pub(super) const PROTOCOL: usize = 2;
    /// Sender's Ethernet address.
    pub(super) const SENDER_MAC: usize = 8;
    /// Sender's address.
    pub(super) const SENDER: usize = 14;
    /// Target's address.
    pub(super) const TARGET: usize = 24;
}

/// Neighbour solicitation and advertisement.
mod nd {
    /// Length without options.
    pub(super) const LEN: usize = 24;
    /// Type.
    pub(super) const TYPE: usize = 0;
    /// Target's address.
    pub(super) const TARGET: usize = 8;
    /// Solicitation.
    pub(super) const SOLICITATION: u8 = 135;
    /// Advertisement.
    pub(super) const ADVERTISEMENT: u8 = 136;
}

/// Judges an ARP packet.
#[inline(never)]
pub fn arp<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    let Some(arp) = packet.window::<{ arp::LEN }>(l3) else {
        return Reason::NotIp;
    };
    if arp.load::<{ arp::PROTOCOL }, u16>() != ethertype::IPV4 {
        return Reason::NotIp;
    }
    let sender: u32 = arp.load::<{ arp::SENDER }, _>();
    let target: u32 = arp.load::<{ arp::TARGET }, _>();
    let mac: Mac = arp.load::<{ arp::SENDER_MAC }, _>();
    let kind = tables.addr_kind(sender);
    if kind != addr_kind::NONE && is_strange(tables, packet.ingress(), mac) {
        claimed(packet, tables, [sender, 0, 0, 0], mac, kind);
    }
    if tables.addr_kind(target) != addr_kind::SHARED {
        return Reason::NotIp;
    }
    if gate_open(tables, tables.coarse_ns()) {
        virtual_mac::answer_arp(packet, tables, l3).unwrap_or(Reason::SharedAddressLocal)
    } else {
        Reason::ArpGateClosed
    }
}

/// Whether an `ICMPv6` packet at `l3` is a solicitation or an advertisement.
#[inline(always)]
pub fn is_discovery<P: Packet>(packet: &mut P, l3: usize) -> bool {
    packet.window::<1>(l3 + ipv6::LEN).is_some_and(|message| {
        let code: u8 = message.load::<{ nd::TYPE }, _>();
        code == nd::SOLICITATION || code == nd::ADVERTISEMENT
    })
}

/// Judges an `ICMPv6` packet. `None` if it is not neighbour discovery for a shared address.
#[inline(never)]
pub fn discovery<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Option<Reason> {
    let message = packet.window::<{ nd::LEN }>(l3 + ipv6::LEN)?;
    let code: u8 = message.load::<{ nd::TYPE }, _>();
    if code != nd::SOLICITATION && code != nd::ADVERTISEMENT {
        return None;
    }
    let target = Addr6 {
        words: [
            message.load::<{ nd::TARGET }, _>(),
            message.load::<{ nd::TARGET + 4 }, _>(),
            message.load::<{ nd::TARGET + 8 }, _>(),
            message.load::<{ nd::TARGET + 12 }, _>(),
        ],
    };
    let kind = tables.addr6_kind(&target);
    if kind == addr_kind::NONE {
        return None;
    }
    if code == nd::ADVERTISEMENT {
        let mac = ethernet::source(packet);
        if is_strange(tables, packet.ingress(), mac) {
            claimed(packet, tables, target.words, mac, kind);
        }
    }
    if kind != addr_kind::SHARED {
        return None;
    }
    let answers = tables.addr6_home(&target) == packet.ingress();
    if !gate_open(tables, tables.coarse_ns()) {
        // The answer to a standby that asked whether the virtual MAC can be reached.
        let told = answers && code == nd::ADVERTISEMENT;
        return (!told).then_some(Reason::NdGateClosed);
    }
    let answer = if answers {
        virtual_mac::answer_discovery(packet, tables, l3)
    } else {
        None
    };
    answer.or(Some(Reason::SharedAddressLocal))
}

/// Whether an Ethernet address is neither this node's, nor the partner's, nor the pair's virtual one.
/// Interfaces that the data plane was not told of have no strangers.
#[inline(always)]
fn is_strange<T: Tables>(tables: T, ifindex: u32, mac: Mac) -> bool {
    let (Some(link), Some(config)) = (link_of(tables, ifindex), tables.config()) else {
        return false;
    };
    let (Some(peer), Some(heard)) = (tables.peer(link * 2), tables.heard(link)) else {
        return false;
    };
    mac != peer.load::<{ offset_of!(Peer, own_mac) }, Mac>()
        && mac != heard.load::<{ offset_of!(Heard, partner_mac) }, Mac>()
        && mac != Mac::of_vhid(config.get().vhid as u8)
}

#[inline(always)]
fn claimed<P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    address: [u32; 4],
    mac: Mac,
    kind: u32,
) {
    let [_, rest @ ..] = address;
    let exhibit = Exhibit {
        address,
        mac,
        family: if rest == [0; 3] { 4 } else { 6 },
        vhid: 0,
        detail: u32::from(kind == addr_kind::SHARED),
    };
    show(packet, tables, EvidenceKind::DuplicateAddress, &exhibit);
}
