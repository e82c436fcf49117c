//! The hash that maps a client to a Maglev slot. Both nodes must compute the same value.

use crate::conn::ConnKey;
use crate::service::Address;

/// Mixes a client's 5-tuple with a service's seed.
///
/// Two rounds of the 64-bit finaliser of MurmurHash3 (Austin Appleby, public domain), keyed by the
/// seed so that clients cannot aim at one real server without knowing the pair's key. A pure function
/// of packet and configuration: after a failover the partner reaches the same real server for a
/// connection it never heard of.
#[inline(always)]
pub fn flow<A: Address>(seed: u64, key: &ConnKey<A>) -> u32 {
    let addresses = key.src.digest().rotate_left(32) ^ key.dst.digest();
    let ports = (u64::from(key.sport) << 48) | (u64::from(key.dport) << 32) | u64::from(key.proto);
    let mixed = finalise(finalise(addresses ^ seed) ^ ports ^ seed.rotate_left(32));
    (mixed >> 32) as u32
}

/// Mixes a client's address alone with a service's seed.
#[inline(always)]
pub fn client<A: Address>(seed: u64, address: A) -> u32 {
    (finalise(finalise(address.digest() ^ seed) ^ seed.rotate_left(32)) >> 32) as u32
}

/// Reduces a hash to `0..len` without a division (Lemire, "A fast alternative to the modulo
/// reduction"). `len` must not be 0 for the result to be an index.
#[inline(always)]
pub const fn reduce(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

#[inline(always)]
const fn finalise(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::conn::ConnKey4;
    use std::vec;

    #[test]
    fn clients_spread_evenly() {
        let mut buckets = vec![0u32; 16];
        for client in 0..16_000u32 {
            let key = ConnKey4 {
                src: client.to_be(),
                dst: 0x6400_000a,
                sport: (1024 + (client % 60_000) as u16).to_be(),
                dport: 80u16.to_be(),
                proto: 6,
            };
            buckets[reduce(flow(7, &key), 16) as usize] += 1;
        }
        assert!(
            buckets.iter().all(|&n| (850..1150).contains(&n)),
            "{buckets:?}"
        );
    }
}
