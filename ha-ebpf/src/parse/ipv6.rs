//! The IPv6 header (RFC 8200) and the extension headers behind it.

use ha_common::service::Addr6;

use crate::packet::Packet;

/// Length of the fixed header.
pub const LEN: usize = 40;
/// Version, traffic class and flow label.
pub const VERSION: usize = 0;
/// Length of what follows.
pub const PAYLOAD_LEN: usize = 4;
/// What follows.
pub const NEXT: usize = 6;
/// Hop limit.
pub const HOP_LIMIT: usize = 7;
/// Source address.
pub const SRC: usize = 8;
/// Destination address.
pub const DST: usize = 24;

/// Most extension headers that are looked behind; packets with more are not forwarded.
const EXTENSIONS_MAX: usize = 6;
/// Bound of where the payload may begin, for the verifier; what begins beyond is not forwarded.
const PAYLOAD_MASK: usize = 0xff;

/// Extension headers that a packet on its way to a server may have (IANA "IPv6 Extension Header Types").
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
    /// What every header has at least, as far as it is read.
    pub(super) const START: usize = 4;
    /// Routers still to be visited, in a routing header (RFC 8200 section 4.4).
    pub(super) const SEGMENTS_LEFT: usize = 3;
    /// Length of a fragment header (RFC 8200 section 4.5).
    pub(super) const FRAGMENT_LEN: usize = 8;
    /// Offset and flags in it.
    pub(super) const OFFSET: usize = 2;
    /// Identification in it.
    pub(super) const ID: usize = 4;
    /// The offset alone, as it stands in the packet.
    pub(super) const OFFSET_BITS: u16 = 0xfff8u16.to_be();
    /// "More fragments".
    pub(super) const MORE: u16 = 1u16.to_be();
}

/// What the data plane reads from an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub src: Addr6,
    /// Destination address.
    pub dst: Addr6,
    /// Length of header and payload in bytes.
    pub total_len: usize,
    /// Protocol number of what follows.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Whether the packet is in the frame.
    pub sound: bool,
}

/// Reads the header at `l3`, if there is one.
#[inline(always)]
pub fn parse<P: Packet>(packet: &mut P, l3: usize) -> Option<Header> {
    let frame_len = packet.frame_len();
    let ip = packet.window::<LEN>(l3)?;
    if ip.load::<VERSION, u8>() >> 4 != 6 {
        return None;
    }
    let total_len = LEN + usize::from(u16::from_be(ip.load::<PAYLOAD_LEN, _>()));
    Some(Header {
        src: ip.load::<SRC, _>(),
        dst: ip.load::<DST, _>(),
        total_len,
        next: ip.load::<NEXT, _>(),
        hop_limit: ip.load::<HOP_LIMIT, _>(),
        sound: l3 + total_len <= frame_len,
    })
}

/// What is behind the extension headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Its protocol number.
    pub protocol: u8,
    /// Whether this is a part of a larger packet.
    pub fragment: bool,
    /// Whether this is a part without the beginning, and so without ports.
    pub later_fragment: bool,
    /// Where it starts, from the beginning of the frame.
    pub l4: usize,
    /// Identification of the fragments, as it stands in the packet.
    pub id: u32,
}

/// Looks behind the extension headers. `None` if there are too many, if the frame ends among them, or if
/// the packet has to visit others first.
#[inline(always)]
pub fn payload<P: Packet>(packet: &mut P, l3: usize, ip: &Header) -> Option<Payload> {
    let mut payload = Payload {
        protocol: ip.next,
        l4: l3 + LEN,
        ..Payload::default()
    };
    for _ in 0..=EXTENSIONS_MAX {
        let at = payload.l4 & PAYLOAD_MASK;
        match payload.protocol {
            extension::FRAGMENT => {
                let header = packet.window::<{ extension::FRAGMENT_LEN }>(at)?;
                let offset: u16 = header.load::<{ extension::OFFSET }, _>();
                payload.id = header.load::<{ extension::ID }, _>();
                payload.protocol = header.load::<0, _>();
                payload.later_fragment = offset & extension::OFFSET_BITS != 0;
                payload.fragment = offset & (extension::OFFSET_BITS | extension::MORE) != 0;
                payload.l4 = at + extension::FRAGMENT_LEN;
                if payload.later_fragment {
                    return Some(payload);
                }
            }
            extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION => {
                let header = packet.window::<{ extension::START }>(at)?;
                // Its destination is not its last one, whose address its checksums are made with.
                if payload.protocol == extension::ROUTING
                    && header.load::<{ extension::SEGMENTS_LEFT }, u8>() != 0
                {
                    return None;
                }
                payload.protocol = header.load::<0, _>();
                payload.l4 = at + (usize::from(header.load::<1, u8>()) + 1) * 8;
                if payload.l4 > PAYLOAD_MASK {
                    return None;
                }
            }
            _ => return (payload.l4 <= PAYLOAD_MASK).then_some(payload),
        }
    }
    None
}
