//! SipHash-2-4 with 128-bit output (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012;
//! the 128-bit variant is that of the reference implementation `siphash.c`).
//!
//! Chosen for the trailer's tag because it is short enough to run in XDP.

/// Length of a tag in bytes.
pub const TAG_LEN: usize = 16;

/// Streaming state, so that a message need not be assembled in one buffer.
///
/// Messages are fed in pieces whose lengths are multiples of 8 except for the last one.
#[derive(Clone, Copy, Debug)]
pub struct SipHash128 {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
    len: u64,
}

impl SipHash128 {
    /// A state keyed with 16 bytes.
    #[inline(always)]
    pub const fn new(key: &[u8; 16]) -> Self {
        let k0 = u64::from_le_bytes([
            key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
        ]);
        let k1 = u64::from_le_bytes([
            key[8], key[9], key[10], key[11], key[12], key[13], key[14], key[15],
        ]);
        Self {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
            len: 0,
        }
    }

    /// Goes on after `words` words of eight bytes, from what [`Self::state`] then was.
    #[inline(always)]
    pub const fn resume(state: [u64; 4], words: u64) -> Self {
        let [v0, v1, v2, v3] = state;
        Self {
            v0,
            v1,
            v2,
            v3,
            len: words * 8,
        }
    }

    /// What is kept of the key and of what was absorbed.
    pub const fn state(&self) -> [u64; 4] {
        [self.v0, self.v1, self.v2, self.v3]
    }

    /// Absorbs eight bytes.
    #[inline(always)]
    pub const fn word(&mut self, word: u64) {
        self.len = self.len.wrapping_add(8);
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    /// Absorbs the last, shorter than eight bytes, and returns the tag.
    #[inline(always)]
    pub fn finish(self, tail: &[u8]) -> [u8; TAG_LEN] {
        let mut last = 0u64;
        for (index, byte) in tail.iter().take(7).enumerate() {
            last |= u64::from(*byte) << (8 * index);
        }
        last |= self.len.wrapping_add(tail.len() as u64) << 56;
        let [low, high] = self.end(last).map(u64::to_le_bytes);
        [
            low[0], low[1], low[2], low[3], low[4], low[5], low[6], low[7], high[0], high[1],
            high[2], high[3], high[4], high[5], high[6], high[7],
        ]
    }

    /// Whether a message of whole words has this tag. The second word is computed only if the first is
    /// right: how long it takes tells a forger no more than whether 64 bits were guessed at once.
    #[inline(always)]
    pub const fn ends_with(mut self, tag: [u64; 2]) -> bool {
        let [low, high] = tag;
        self.last(self.len << 56) == low && self.second() == high
    }

    #[inline(always)]
    const fn end(mut self, last: u64) -> [u64; 2] {
        let low = self.last(last);
        [low, self.second()]
    }

    /// Absorbs the last word; returns the first word of the tag.
    #[inline(always)]
    const fn last(&mut self, word: u64) -> u64 {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
        self.v2 ^= 0xee;
        self.final_rounds();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    /// The second word of the tag, after the first.
    #[inline(always)]
    const fn second(&mut self) -> u64 {
        self.v1 ^= 0xdd;
        self.final_rounds();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline(always)]
    const fn final_rounds(&mut self) {
        self.round();
        self.round();
        self.round();
        self.round();
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

/// The tag of a whole message.
pub fn tag(key: &[u8; 16], message: &[u8]) -> [u8; TAG_LEN] {
    let mut state = SipHash128::new(key);
    let mut chunks = message.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        state.word(u64::from_le_bytes(word));
    }
    state.finish(chunks.remainder())
}

/// Compares two tags in time that does not depend on where they differ.
#[inline(always)]
pub fn equal(left: &[u8; TAG_LEN], right: &[u8; TAG_LEN]) -> bool {
    let mut difference = 0u8;
    for (a, b) in left.iter().zip(right) {
        difference |= a ^ b;
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    /// The first two of the reference implementation's `vectors_sip128`.
    #[test]
    fn matches_reference_vectors() {
        let expected: [(usize, [u8; 16]); 2] = [
            (
                0,
                [
                    0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7,
                    0x55, 0x02, 0x93,
                ],
            ),
            (
                1,
                [
                    0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b,
                    0x22, 0xfc, 0x45,
                ],
            ),
        ];
        for (len, want) in expected {
            let message: Vec<u8> = (0..len as u8).collect();
            assert_eq!(tag(&KEY, &message), want, "length {len}");
        }
    }

    #[test]
    fn streaming_equals_whole() {
        let message: Vec<u8> = (0..77).collect();
        let mut state = SipHash128::new(&KEY);
        for chunk in message[..72].chunks(8) {
            state.word(u64::from_le_bytes(chunk.try_into().unwrap()));
        }
        assert_eq!(state.finish(&message[72..]), tag(&KEY, &message));
    }

    #[test]
    fn resumes_where_it_was() {
        let mut first = SipHash128::new(&KEY);
        first.word(1);
        first.word(2);
        let mut second = SipHash128::resume(first.state(), 2);
        first.word(3);
        second.word(3);
        let whole = first.finish(&[]);
        let [low, high] = [0, 8].map(|at| whole[at..].first_chunk().copied().unwrap());
        let words = [u64::from_le_bytes(low), u64::from_le_bytes(high)];
        assert!(second.ends_with(words));
        for bit in 0..64 {
            assert!(!second.ends_with([words[0] ^ 1 << bit, words[1]]));
            assert!(!second.ends_with([words[0], words[1] ^ 1 << bit]));
        }
    }

    #[test]
    fn equality_sees_every_bit() {
        let tag = [7u8; 16];
        for bit in 0..128 {
            let mut other = tag;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!equal(&tag, &other));
        }
        assert!(equal(&tag, &tag));
    }
}
