//! SHA-1 (FIPS 180-4 section 6.1.2), one block at a time, and the HMAC (RFC 2104) that CARP makes of it.
//!
//! In the data plane the stack is 512 bytes, a function that works on it must not be inlined into
//! another, and the expanded schedule of 80 words would not fit: it is kept in the 16 words of the
//! block and read and written in memory, so that the compiler does not unfold it.

/// A hash value, or the state between two blocks.
pub type State = [u32; 5];
/// A block of 64 bytes as big-endian words.
pub type Block = [u32; 16];

/// Before the first block.
pub const INITIAL: State = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
];

/// Length of a block in bytes.
pub const BLOCK_LEN: usize = 64;

/// Takes a block into the state; the block is used up. Returns the state's first word, since a BPF
/// function that is not inlined must return something that its caller uses.
#[inline(never)]
#[expect(
    clippy::many_single_char_names,
    reason = "the names that the standard gives them"
)]
pub fn compress(state: &mut State, block: &mut Block) -> u32 {
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for step in 0..80usize {
        let word = if step < 16 {
            load(block, step)
        } else {
            let mixed = load(block, step + 13)
                ^ load(block, step + 8)
                ^ load(block, step + 2)
                ^ load(block, step);
            let word = mixed.rotate_left(1);
            if let Some(place) = block.get_mut(step % 16) {
                // SAFETY: a valid reference.
                unsafe { core::ptr::from_mut(place).write_volatile(word) };
            }
            word
        };
        let (mix, constant) = match step / 20 {
            0 => (d ^ (b & (c ^ d)), 0x5a82_7999u32),
            1 => (b ^ c ^ d, 0x6ed9_eba1),
            2 => ((b & c) | (d & (b | c)), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6),
        };
        let next = a
            .rotate_left(5)
            .wrapping_add(mix)
            .wrapping_add(e)
            .wrapping_add(constant)
            .wrapping_add(word);
        e = d;
        d = c;
        c = b.rotate_left(30);
        b = a;
        a = next;
    }
    for (word, added) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(added);
    }
    state[0]
}

#[inline(always)]
fn load(block: &Block, step: usize) -> u32 {
    block.get(step % 16).map_or(0, |word| {
        // SAFETY: a valid reference.
        unsafe { core::ptr::from_ref(word).read_volatile() }
    })
}

/// The states of an HMAC after the block made of its key (at most [`BLOCK_LEN`] bytes count): of the
/// inner hash and of the outer one.
pub fn hmac_states(key: &[u8]) -> (State, State) {
    let keyed = |pad: u8| {
        let mut bytes = [pad; BLOCK_LEN];
        for (byte, key) in bytes.iter_mut().zip(key) {
            *byte ^= key;
        }
        let mut state = INITIAL;
        compress(&mut state, &mut block(&bytes));
        state
    };
    (keyed(0x36), keyed(0x5c))
}

/// 64 bytes as a block.
pub fn block(bytes: &[u8; BLOCK_LEN]) -> Block {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    words
}

/// The block that turns the inner hash of an HMAC into the outer one.
#[inline(always)]
pub fn hmac_last(inner: &State) -> Block {
    let mut block: Block = [0; 16];
    for (word, inner) in block.iter_mut().zip(inner) {
        *word = *inner;
    }
    block[5] = 0x8000_0000;
    block[15] = (BLOCK_LEN as u32 + 20) * 8;
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(message: &[u8], before: usize) -> Block {
        let mut bytes = [0; BLOCK_LEN];
        bytes[..message.len()].copy_from_slice(message);
        bytes[message.len()] = 0x80;
        bytes[56..].copy_from_slice(&((before + message.len()) as u64 * 8).to_be_bytes());
        block(&bytes)
    }

    /// FIPS 180-2 appendix A.1: the hash of "abc".
    #[test]
    fn hashes_abc() {
        let mut state = INITIAL;
        compress(&mut state, &mut padded(b"abc", 0));
        assert_eq!(
            state,
            [
                0xa999_3e36,
                0x4706_816a,
                0xba3e_2571,
                0x7850_c26c,
                0x9cd0_d89d
            ]
        );
    }

    /// RFC 2202 section 3, test cases 1 and 2.
    #[test]
    fn authenticates() {
        let cases: [(&[u8], &[u8], State); 2] = [
            (
                &[0x0b; 20],
                b"Hi There",
                [
                    0xb617_3186,
                    0x5505_7264,
                    0xe28b_c0b6,
                    0xfb37_8c8e,
                    0xf146_be00,
                ],
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                [
                    0xeffc_df6a,
                    0xe5eb_2fa2,
                    0xd274_16d5,
                    0xf184_df9c,
                    0x259a_7c79,
                ],
            ),
        ];
        for (key, message, wanted) in cases {
            let (mut inner, mut outer) = hmac_states(key);
            compress(&mut inner, &mut padded(message, BLOCK_LEN));
            compress(&mut outer, &mut hmac_last(&inner));
            assert_eq!(outer, wanted);
        }
    }
}
