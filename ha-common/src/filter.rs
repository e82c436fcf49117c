//! Which addresses concern the data plane at all: a bit array of one hash.
//!
//! Most packets of a router are nobody's business here, and a lookup in a hash table each would cost more
//! than all the rest. A packet that is ours goes to a shared address or comes from a real server; if neither
//! of its addresses has its bit set, it is not. A set bit proves nothing.

/// Words of `ha_filter`.
pub const WORDS: usize = 1024;
/// Bits in all of them.
const BITS: u32 = 64 * WORDS as u32;

/// The bit of an address, by Fibonacci hashing: the high bits of a product with 2^32 over the golden
/// ratio.
#[inline(always)]
pub const fn bit(address: u32) -> u32 {
    address.wrapping_mul(0x9e37_79b1) >> (32 - BITS.trailing_zeros())
}

/// The word in which a bit is, and its mask there.
#[inline(always)]
pub const fn place(bit: u32) -> (u32, u64) {
    (bit / 64, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_bits_of_their_own() {
        let mut words = [0u64; WORDS];
        for host in 0..256u32 {
            let (word, mask) = place(bit(u32::from_ne_bytes([10, 0, 0, host as u8])));
            words[word as usize] |= mask;
        }
        let set: u32 = words.iter().map(|word| word.count_ones()).sum();
        assert!(set > 250, "{set}");
    }
}
