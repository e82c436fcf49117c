//! What the data plane knows of the pair, to tell the partner's advertisements from others.

use crate::sha1;

/// Links, at most; the trailer's bitmaps have no room for more.
pub const LINKS: usize = 16;
/// Elements of `ha_peers` and `ha_digests`: one for each link and family.
pub const PEERS: usize = 2 * LINKS;

/// Values of [`Pair::auth`].
pub mod auth {
    /// Nothing is configured: nobody is believed.
    pub const NONE: u32 = 0;
    /// The partner's trailer is demanded.
    pub const ENFORCE: u32 = 1;
    /// Advertisements without trailer count until the partner has been known by its trailer.
    pub const PERMISSIVE: u32 = 2;
    /// Advertisements without trailer count.
    pub const OFF: u32 = 3;
}

/// `ha_pair`: an array of one element, written by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// Epoch of this start of the agent: packets of it are reflections.
    pub own_epoch: u64,
    /// One of [`auth`].
    pub auth: u32,
    /// Zero.
    pub pad: u32,
    /// Interfaces; the place of one is the number of its link. 0 = none.
    pub ifindexes: [u32; LINKS],
}

/// Element of `ha_peers` at [`peer_index`]: the partner on one link, in one address family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// For each live key, `SipHash`'s state after the three words that are the same in all of the
    /// partner's advertisements here: kind, vhid and family, and its address.
    pub tags: [[u64; 4]; 2],
    /// Source of the partner's advertisements, network order; IPv4 in the first word.
    pub address: [u32; 4],
    /// Source of this node's own.
    pub own: [u32; 4],
    /// Ids of the keys; [`NO_KEY`] where there is none.
    pub key_ids: [u16; 2],
    /// 1 if advertisements are expected here.
    pub expected: u16,
    /// This node's Ethernet address on the link.
    pub own_mac: [u8; 6],
    /// Bits of [`link_flags`].
    pub flags: u32,
}

/// Bits of [`Peer::flags`].
pub mod link_flags {
    /// Whoever is active speaks for the link's shared addresses with the pair's virtual MAC.
    pub const VIRTUAL_MAC: u32 = 1 << 0;
    /// This node is a router to its IPv6 neighbours there.
    pub const ROUTER: u32 = 1 << 1;
}

/// No key: ids on the wire are one byte.
pub const NO_KEY: u16 = 0x100;
/// Words that [`Peer::tags`] has absorbed.
pub const TAG_PREFIX_WORDS: u64 = 3;

/// Element of `ha_digests` at [`peer_index`]: what checks the HMAC-SHA1 of the link's CARP group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Inner state after the key and all whole blocks before the counter.
    pub inner: sha1::State,
    /// Outer state after the key.
    pub outer: sha1::State,
    /// The last block, padded, with zero where the counter belongs.
    pub last: sha1::Block,
    /// Offset of the counter in it, in bytes.
    pub counter_at: u32,
    /// 1 if counter and padding fit into one block. If not, only user space can check the digest.
    pub usable: u32,
}

/// Element of `ha_heard` by link, written by XDP: what was last heard there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Partner's epoch in which `sequence` counts.
    pub epoch: u64,
    /// Highest sequence delivered.
    pub sequence: u64,
    /// Bucket of advertisements from unknown epochs.
    pub strangers: u64,
    /// Bucket of advertisements without trailer.
    pub trailerless: u64,
    /// Where the last advertisement with a good tag came from.
    pub partner_mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// Place of a link's peer, by family.
#[inline(always)]
pub const fn peer_index(link: u32, v6: bool) -> u32 {
    link * 2 + v6 as u32
}

/// How often something may happen: a token bucket in one word, the moment at which it would be full
/// again (the "generic cell rate algorithm" of ITU-T I.371).
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Time in which a token comes back, in nanoseconds.
    pub period_ns: u64,
    /// Tokens of a full bucket.
    pub burst: u64,
}

impl Rate {
    /// Advertisements of unknown epochs that may ask for user space's opinion, a link.
    pub const STRANGERS: Self = Self::per_second(32, 16);
    /// Advertisements without trailer whose digest may be computed, a link. The fastest such peer
    /// sends 256 a second.
    pub const TRAILERLESS: Self = Self::per_second(1024, 256);
    /// Advertisements without trailer that count for nothing, but whose digest is computed so that they
    /// can be told of, a link.
    pub const NAMED: Self = Self::per_second(16, 16);
    /// Records of evidence, a kind.
    pub const EVIDENCE: Self = Self::per_second(16, 16);
    /// ICMP errors and resets of the data plane's own (RFC 1812 section 4.3.2.8 demands a bound).
    pub const ANSWERS: Self = Self::per_second(1024, 128);

    /// Fragments that are held until the first of their packet comes.
    pub const EARLY: Self = Self::per_second(2048, 64);

    const fn per_second(tokens: u64, burst: u64) -> Self {
        Self {
            period_ns: 1_000_000_000 / tokens,
            burst,
        }
    }

    /// The bucket's word after a token was taken at `now_ns`; `None` if there is none.
    #[inline(always)]
    pub const fn take(&self, full_at_ns: u64, now_ns: u64) -> Option<u64> {
        // A word from a clock that was ahead, or of another boot, must not keep the bucket empty.
        let ahead = full_at_ns.saturating_sub(now_ns);
        let most = self.period_ns * self.burst;
        let ahead = if ahead > most { most } else { ahead };
        if ahead + self.period_ns > most {
            return None;
        }
        Some(now_ns + ahead + self.period_ns)
    }
}

const _: () = assert!(size_of::<Pair>() == 80);
const _: () = assert!(size_of::<Peer>() == 112);
const _: () = assert!(size_of::<Digest>() == 112);
const _: () = assert!(size_of::<Heard>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate {
            period_ns: 10,
            burst: 3,
        };
        let mut word = 0;
        let mut given = 0;
        for now in 1_000..2_000 {
            if let Some(next) = rate.take(word, now) {
                word = next;
                given += 1;
            }
        }
        assert_eq!(given, 3 + 999 / 10);
        assert!(rate.take(word, 2_030).is_some(), "full again");
        assert!(rate.take(u64::MAX, 50).is_none());
    }
}
