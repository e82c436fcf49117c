//! Internet checksum arithmetic (RFC 1071) and its incremental update (RFC 1624).
//!
//! One's-complement sums do not care about byte order as long as it is the same throughout, so
//! everything here works on values exactly as they were loaded from the packet.

/// Folds the carries of a one's-complement sum into 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) as u16
}

/// What replacing the 16-bit word `old` by `new` adds to a one's-complement sum.
#[inline(always)]
pub const fn delta16(old: u16, new: u16) -> u32 {
    (!old as u32 & 0xffff) + new as u32
}

/// What replacing the 32-bit word `old` by `new` adds to a one's-complement sum.
#[inline(always)]
pub const fn delta32(old: u32, new: u32) -> u32 {
    delta16(old as u16, new as u16) + delta16((old >> 16) as u16, (new >> 16) as u16)
}

/// Applies a delta, the sum of fewer than 65,536 words, to a checksum field: RFC 1624 equation 3,
/// `HC' = ~(~HC + ~m + m')`.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u32) -> u16 {
    !fold((!checksum as u32 & 0xffff) + delta)
}

/// The same for a delta that is folded: the sum of two words has one carry.
#[inline(always)]
pub const fn apply_folded(checksum: u16, delta: u16) -> u16 {
    let sum = (!checksum as u32 & 0xffff) + delta as u32;
    !((sum + (sum >> 16)) & 0xffff) as u16
}

/// The delta of decrementing the TTL by one, for a checksum loaded as a native-endian word.
///
/// TTL is the high byte of its big-endian word, so the word falls by 0x0100.
pub const TTL_DELTA: u32 = !u16::from_ne_bytes([1, 0]) as u32;

/// The Internet checksum of `data` (an odd last byte is padded with zero), to be stored
/// big-endian. The checksum field itself must be zero in `data`; over data that includes a correct
/// checksum the result is 0.
pub fn internet(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        let word = match *pair {
            [high, low] => u16::from_be_bytes([high, low]),
            [high] => u16::from_be_bytes([high, 0]),
            _ => 0,
        };
        sum += u32::from(word);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !fold(sum)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// The IPv4 header worked through in RFC 1071-style examples: a captured ucarp advertisement.
    const HEADER: [u8; 20] = [
        0x45, 0x10, 0x00, 0x38, 0x5e, 0xfe, 0x40, 0x00, 0xff, 0x70, 0x31, 0xd1, 0x0a, 0x63, 0x00,
        0x01, 0xe0, 0x00, 0x00, 0x12,
    ];

    #[test]
    fn a_correct_header_sums_to_zero() {
        assert_eq!(internet(&HEADER), 0);
    }

    #[test]
    fn a_folded_delta_has_one_carry() {
        for delta in (0..=u16::MAX).step_by(251).chain([1, u16::MAX]) {
            for sum in 0..=u16::MAX {
                assert_eq!(apply_folded(sum, delta), apply(sum, delta.into()));
            }
        }
    }

    #[test]
    fn ttl_decrement_matches_recomputation() {
        for ttl in 1..=255u8 {
            let mut header = HEADER;
            header[8] = ttl;
            header[10..12].fill(0);
            let before = internet(&header);
            header[10..12].copy_from_slice(&before.to_be_bytes());
            let field = u16::from_ne_bytes([header[10], header[11]]);
            let updated = apply(field, TTL_DELTA);
            header[8] = ttl - 1;
            header[10..12].copy_from_slice(&updated.to_ne_bytes());
            assert_eq!(internet(&header), 0, "ttl {ttl}");
        }
    }

    #[test]
    fn address_change_matches_recomputation() {
        let mut header = HEADER;
        let old = u32::from_ne_bytes([10, 99, 0, 1]);
        let new = u32::from_ne_bytes([192, 168, 255, 254]);
        let field = u16::from_ne_bytes([header[10], header[11]]);
        header[12..16].copy_from_slice(&new.to_ne_bytes());
        header[10..12].copy_from_slice(&apply(field, delta32(old, new)).to_ne_bytes());
        assert_eq!(internet(&header), 0);
    }

    #[test]
    fn odd_length_is_padded() {
        assert_eq!(internet(&[0x12]), !0x1200);
    }
}
