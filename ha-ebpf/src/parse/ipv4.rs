//! The IPv4 header (RFC 791).

use crate::packet::Packet;

/// Length without options.
pub const LEN: usize = 20;
/// Version and header length in words.
pub const VERSION_IHL: usize = 0;
/// Type of service.
pub const TOS: usize = 1;
/// Length of header and payload.
pub const TOTAL_LEN: usize = 2;
/// Identification.
pub const ID: usize = 4;
/// Flags and fragment offset.
pub const FRAGMENT: usize = 6;
/// Time to live.
pub const TTL: usize = 8;
/// Protocol.
pub const PROTOCOL: usize = 9;
/// Header checksum.
pub const CHECKSUM: usize = 10;
/// Source address.
pub const SRC: usize = 12;
/// Destination address.
pub const DST: usize = 16;

/// Version 4 and a header of 20 bytes.
pub const VERSION_4_NO_OPTIONS: u8 = 0x45;
/// "Do not fragment", as it stands in the packet.
pub const DONT_FRAGMENT: u16 = 0x4000u16.to_be();
/// "More fragments" and the offset, as they stand in the packet: any of them set makes a fragment.
const FRAGMENT_BITS: u16 = 0x3fffu16.to_be();
/// The offset alone: any of them set makes a fragment that is not the first.
pub const OFFSET_BITS: u16 = 0x1fffu16.to_be();

/// What the data plane reads from an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source address, network order.
    pub src: u32,
    /// Destination address, network order.
    pub dst: u32,
    /// Length of header and payload in bytes.
    pub total_len: usize,
    /// Length of the header in bytes.
    pub header_len: usize,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification, as it stands in the packet.
    pub id: u16,
    /// Flags and fragment offset, as they stand in the packet.
    pub fragment: u16,
    /// Version, and length of the header in words.
    version_ihl: u8,
    /// Length of the frame from the header on.
    room: usize,
}

impl Header {
    /// Whether version and lengths agree with each other and with the frame.
    #[inline(always)]
    pub const fn is_sound(&self) -> bool {
        self.version_ihl >> 4 == 4
            && self.header_len >= LEN
            && self.total_len >= self.header_len
            && self.total_len <= self.room
    }

    /// Whether this is a part of a larger packet.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & FRAGMENT_BITS != 0
    }

    /// Whether this is a part without the beginning, and so without ports.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & OFFSET_BITS != 0
    }

    /// Whether it is sound, whole and without options.
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        self.version_ihl == VERSION_4_NO_OPTIONS
            && self.total_len >= LEN
            && self.total_len <= self.room
            && !self.is_fragment()
    }
}

/// Reads the header at `l3`, if the frame has one there.
#[inline(always)]
pub fn parse<P: Packet>(packet: &mut P, l3: usize) -> Option<Header> {
    let frame_len = packet.frame_len();
    let ip = packet.window::<LEN>(l3)?;
    let version_ihl: u8 = ip.load::<VERSION_IHL, _>();
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    let total_len = usize::from(u16::from_be(ip.load::<TOTAL_LEN, _>()));
    // In one word they become the first word of a connection's key.
    let [src, dst] = halves(ip.load::<SRC, _>());
    Some(Header {
        src,
        dst,
        total_len,
        header_len,
        protocol: ip.load::<PROTOCOL, _>(),
        ttl: ip.load::<TTL, _>(),
        id: ip.load::<ID, _>(),
        fragment: ip.load::<FRAGMENT, _>(),
        version_ihl,
        room: frame_len - l3,
    })
}

/// The two words of one, as they are in memory.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let [a0, a1, a2, a3, b0, b1, b2, b3] = word.to_ne_bytes();
    [
        u32::from_ne_bytes([a0, a1, a2, a3]),
        u32::from_ne_bytes([b0, b1, b2, b3]),
    ]
}
