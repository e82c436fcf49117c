//! Ethernet II with up to two VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use ha_common::reason::Reason;

use crate::packet::{Hop, Mac, Packet};

/// Length of the untagged header.
pub const LEN: usize = 14;
/// Destination address.
pub const DST: usize = 0;
/// Source address.
pub const SRC: usize = 6;
/// Type.
pub const TYPE: usize = 12;
/// Length of a VLAN tag, which ends with the type of what follows.
const TAG_LEN: usize = 4;
/// Type behind a tag.
const TAG_TYPE: usize = 2;

/// Type numbers (IANA "IEEE 802 Numbers"), as they read in the packet.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800u16.to_be();
    /// IPv6.
    pub const IPV6: u16 = 0x86ddu16.to_be();
    /// ARP.
    pub const ARP: u16 = 0x0806u16.to_be();
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100u16.to_be();
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8u16.to_be();
}

/// What follows the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its type.
    pub ethertype: u16,
    /// Where it starts.
    pub l3: usize,
}

/// Reads type and length of the Ethernet header.
#[inline(always)]
pub fn parse<P: Packet>(packet: &mut P) -> Result<Link, Reason> {
    let outer = outer_type(packet).ok_or(Reason::NotIp)?;
    if !is_tag(outer) {
        return Ok(Link {
            ethertype: outer,
            l3: LEN,
        });
    }
    let inner = behind_tag(packet, LEN)?;
    if !is_tag(inner) {
        return Ok(Link {
            ethertype: inner,
            l3: LEN + TAG_LEN,
        });
    }
    let innermost = behind_tag(packet, LEN + TAG_LEN)?;
    if is_tag(innermost) {
        return Err(Reason::TooManyTags);
    }
    Ok(Link {
        ethertype: innermost,
        l3: LEN + 2 * TAG_LEN,
    })
}

/// The type that stands first: that of what follows, or of a tag.
#[inline(always)]
pub fn outer_type<P: Packet>(packet: &mut P) -> Option<u16> {
    Some(packet.window::<LEN>(0)?.load::<TYPE, _>())
}

/// Who sent the frame.
#[inline(always)]
pub fn source<P: Packet>(packet: &mut P) -> Mac {
    match packet.window::<LEN>(0) {
        Some(frame) => frame.load::<SRC, _>(),
        None => Mac::default(),
    }
}

/// Whether the frame may be for a virtual router, as far as the first word of its destination tells.
#[inline(always)]
pub fn may_be_for_a_vhid<P: Packet>(packet: &mut P) -> bool {
    packet
        .window::<LEN>(0)
        .is_some_and(|frame| frame.load::<DST, u32>() == u32::from_ne_bytes([0, 0, 0x5e, 0]))
}

/// Whom the frame is for.
#[inline(always)]
pub fn destination<P: Packet>(packet: &mut P) -> Mac {
    match packet.window::<LEN>(0) {
        Some(frame) => frame.load::<DST, _>(),
        None => Mac::default(),
    }
}

/// The hop back to where the frame came from. Unknown if an address in it is that of a group, which
/// is nobody's.
#[inline(always)]
pub fn way_back<P: Packet>(packet: &mut P) -> Hop {
    let ifindex = packet.ingress();
    let Some(frame) = packet.window::<LEN>(0) else {
        return Hop::UNKNOWN;
    };
    let hop = Hop {
        ifindex,
        mac: frame.load::<SRC, _>(),
        src: frame.load::<DST, _>(),
    };
    if hop.mac.is_group() || hop.src.is_group() {
        Hop::UNKNOWN
    } else {
        hop
    }
}

#[inline(always)]
fn behind_tag<P: Packet>(packet: &mut P, offset: usize) -> Result<u16, Reason> {
    Ok(packet
        .window::<TAG_LEN>(offset)
        .ok_or(Reason::NotIp)?
        .load::<TAG_TYPE, _>())
}

/// Whether this is the type of a tag.
#[inline(always)]
pub const fn is_tag(ethertype: u16) -> bool {
    ethertype == ethertype::VLAN || ethertype == ethertype::SERVICE_VLAN
}
