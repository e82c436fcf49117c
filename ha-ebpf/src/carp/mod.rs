//! CARP, over IPv4 and IPv6: recognised, checked and handed to the election.
//!
//! The order is that of cost: form, id, interface, source, freshness, and only then the tag. So a
//! recording dies by its number, and a forgery by its tag ([`trailer`]); neither wakes user space.
//! Advertisements without trailer ([`digest`]) are checked for as long as tokens last, which
//! those with a good trailer never need. User space checks everything again.

mod digest;
mod trailer;

use core::mem::offset_of;

use ha_common::carp::{AUTH_LEN, HEADER_LEN, TRAILER_MAGIC, TTL, VERSION_TYPE, field};
use ha_common::checksum;
use ha_common::event::{CARP_SEEN_BYTES, EvidenceKind};
use ha_common::pair::{Peer, peer_index};
use ha_common::reason::Reason;

use crate::evidence::{Exhibit, show};
use crate::packet::{Packet, Window};
use crate::parse::{ethernet, ipv4, ipv6};
use crate::tables::Tables;

/// As much of the header as it takes to tell whose it is.
const PREFIX_LEN: usize = 2;
/// As much as it takes to tell CARP from VRRP.
const KIND_LEN: usize = 4;
/// Bounds of what comes before a CARP header, for the verifier: Ethernet, two tags, 60 bytes of IPv4.
const START_MASK: usize = 0x7f;

/// An IP packet of protocol 112.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// Where the IP header starts.
    l3: usize,
    /// Length of the IP header.
    header_len: usize,
    /// Length of all.
    total_len: usize,
    /// Time to live, or hop limit.
    hops: u8,
    /// Whether it is IPv6.
    v6: bool,
}

impl Datagram {
    /// A sound, whole IPv4 packet.
    #[inline(always)]
    pub const fn v4(l3: usize, ip: &ipv4::Header) -> Self {
        Self {
            l3,
            header_len: ip.header_len,
            total_len: ip.total_len,
            hops: ip.ttl,
            v6: false,
        }
    }

    /// A sound IPv6 packet without extension headers.
    #[inline(always)]
    pub const fn v6(l3: usize, ip: &ipv6::Header) -> Self {
        Self {
            l3,
            header_len: ipv6::LEN,
            total_len: ip.total_len,
            hops: ip.hop_limit,
            v6: true,
        }
    }

    #[inline(always)]
    const fn start(&self) -> usize {
        (self.l3 + self.header_len) & START_MASK
    }

    #[inline(always)]
    const fn payload_len(&self) -> usize {
        self.total_len - self.header_len
    }

    /// Source address; IPv4 in the first word.
    #[inline(always)]
    fn source<P: Packet>(&self, packet: &mut P) -> [u32; 4] {
        let l3 = self.l3 & START_MASK;
        if self.v6 {
            match packet.window::<{ ipv6::LEN }>(l3) {
                Some(ip) => ip.load::<{ ipv6::SRC }, _>(),
                None => [0; 4],
            }
        } else {
            match packet.window::<{ ipv4::LEN }>(l3) {
                Some(ip) => [ip.load::<{ ipv4::SRC }, _>(), 0, 0, 0],
                None => [0; 4],
            }
        }
    }

    /// Shows the packet to user space.
    #[inline(never)]
    fn show<P: Packet, T: Tables>(
        &self,
        packet: &mut P,
        tables: T,
        kind: EvidenceKind,
        detail: u32,
    ) -> bool {
        let exhibit = Exhibit {
            address: self.source(packet),
            mac: ethernet::source(packet),
            family: if self.v6 { 6 } else { 4 },
            vhid: tables.config().map_or(0, |config| config.get().vhid as u8),
            detail,
        };
        show(packet, tables, kind, &exhibit)
    }
}

/// Whether a packet of protocol 112, whose payload starts at `start`, is of another group for certain.
#[inline(always)]
pub fn is_foreign<P: Packet, T: Tables>(packet: &mut P, tables: T, start: usize) -> bool {
    let Some(config) = tables.config() else {
        return true;
    };
    let vhid = config.get().vhid as u8;
    packet
        .window::<PREFIX_LEN>(start)
        .is_some_and(|prefix| prefix.load::<{ field::VHID }, u8>() != vhid)
}

/// Judges an IPv4 packet of protocol 112.
#[inline(always)]
pub fn ipv4<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    match ipv4::parse(packet, l3) {
        Some(ip) if ip.is_sound() && !ip.is_fragment() => {
            handle(packet, tables, &Datagram::v4(l3, &ip))
        }
        Some(_) => Reason::CarpForeign,
        None => Reason::NotIp,
    }
}

/// Judges an IPv6 packet of protocol 112.
#[inline(always)]
pub fn ipv6<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    match ipv6::parse(packet, l3) {
        Some(ip) if ip.sound => handle(packet, tables, &Datagram::v6(l3, &ip)),
        Some(_) => Reason::CarpForeign,
        None => Reason::NotIp,
    }
}

/// Judges a packet of protocol 112.
#[inline(never)]
fn handle<P: Packet, T: Tables>(packet: &mut P, tables: T, ip: &Datagram) -> Reason {
    let start = ip.start();
    let len = ip.payload_len();
    let Some(config) = tables.config() else {
        return Reason::CarpForeign;
    };
    let vhid = config.get().vhid as u8;
    if len < PREFIX_LEN {
        return Reason::CarpForeign;
    }
    match packet.window::<PREFIX_LEN>(start) {
        Some(prefix) if vhid != 0 && prefix.load::<{ field::VHID }, u8>() == vhid => {}
        _ => return Reason::CarpForeign,
    }
    if len < KIND_LEN {
        return Reason::CarpTruncated;
    }
    let Some(kind) = packet.window::<KIND_LEN>(start) else {
        return Reason::CarpTruncated;
    };
    let version: u8 = kind.load::<{ field::VERSION_TYPE }, _>();
    let auth_len: u8 = kind.load::<{ field::AUTH_LEN }, _>();
    if version != VERSION_TYPE || auth_len != AUTH_LEN {
        // VRRP has its id in the same place. Version 3 of it says so; version 2 counts its addresses
        // where CARP has the constant.
        let kind = if version == VERSION_TYPE || version == 0x31 {
            EvidenceKind::VrrpSameVhid
        } else {
            EvidenceKind::CarpForeignVersion
        };
        ip.show(packet, tables, kind, version.into());
        return Reason::CarpBadVersion;
    }
    if len < HEADER_LEN {
        return Reason::CarpTruncated;
    }
    let Some(carp) = packet.window::<HEADER_LEN>(start) else {
        return Reason::CarpTruncated;
    };
    if ip.hops != TTL {
        return Reason::CarpBadTtl;
    }
    if !sums_to_zero(&carp) {
        return Reason::CarpBadChecksum;
    }
    let ifindex = packet.ingress();
    let Some(link) = link_of(tables, ifindex) else {
        return Reason::CarpNotExpected;
    };
    let index = peer_index(link, ip.v6);
    let Some(peer) = tables.peer(index) else {
        return Reason::CarpNotExpected;
    };
    if peer.load::<{ offset_of!(Peer, expected) }, u16>() == 0 {
        return Reason::CarpNotExpected;
    }
    let has_trailer = len >= HEADER_LEN + TRAILER_MAGIC.len()
        && packet
            .window::<{ TRAILER_MAGIC.len() }>(start + HEADER_LEN)
            .is_some_and(|magic| *magic.bytes() == TRAILER_MAGIC);
    let refused = if has_trailer {
        trailer::refusal(packet, tables, ip, link, peer)
    } else {
        digest::refusal(packet, tables, ip, link)
    };
    match refused {
        Some(reason) => reason,
        None => deliver(packet, tables, ip),
    }
}

/// Number of the link that is this interface.
#[inline(always)]
pub fn link_of<T: Tables>(tables: T, ifindex: u32) -> Option<u32> {
    tables.pair()?.link(ifindex)
}

/// Whether the header's checksum is right: over the 36 bytes alone, in IPv6 as well.
#[inline(always)]
fn sums_to_zero(carp: &Window<'_, HEADER_LEN>) -> bool {
    let words: [u32; HEADER_LEN / 4] = [
        carp.load::<0, _>(),
        carp.load::<4, _>(),
        carp.load::<8, _>(),
        carp.load::<12, _>(),
        carp.load::<16, _>(),
        carp.load::<20, _>(),
        carp.load::<24, _>(),
        carp.load::<28, _>(),
        carp.load::<32, _>(),
    ];
    let sum: u64 = words.into_iter().map(u64::from).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    checksum::fold((sum as u32 & 0xffff) + (sum >> 16) as u32) == 0xffff
}

/// Copies the packet into the ring to the election.
#[inline(always)]
fn deliver<P: Packet, T: Tables>(packet: &mut P, tables: T, ip: &Datagram) -> Reason {
    let source_mac = ethernet::source(packet);
    let len = ip.total_len.min(CARP_SEEN_BYTES);
    let delivered = tables.carp_seen(|seen| {
        seen.at_ns = tables.precise_ns();
        seen.ifindex = packet.ingress();
        seen.len = len as u16;
        source_mac.write(&mut seen.source_mac);
        packet.copy_out(ip.l3, len, &mut seen.packet)
    });
    if delivered {
        Reason::CarpDelivered
    } else {
        Reason::CarpRingFull
    }
}
