//! The IPv6 header (RFC 8200). Extension headers are not followed: whatever has one is the kernel's.

use ha_common::service::Addr6;

use crate::packet::Packet;

/// Length of the fixed header.
pub const LEN: usize = 40;
/// Version, in the high nibble.
const VERSION: usize = 0;
/// Length of what follows.
const PAYLOAD_LEN: usize = 4;
/// What follows.
const NEXT: usize = 6;
/// Hop limit.
const HOP_LIMIT: usize = 7;
/// Source address.
pub const SRC: usize = 8;
/// Destination address.
const DST: usize = 24;

/// What the data plane reads from an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
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
        dst: Addr6 {
            words: [
                ip.load::<DST, _>(),
                ip.load::<{ DST + 4 }, _>(),
                ip.load::<{ DST + 8 }, _>(),
                ip.load::<{ DST + 12 }, _>(),
            ],
        },
        total_len,
        next: ip.load::<NEXT, _>(),
        hop_limit: ip.load::<HOP_LIMIT, _>(),
        sound: l3 + total_len <= frame_len,
    })
}
