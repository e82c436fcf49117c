//! Where in the table a connection is: slots by key.
//!
//! Many small hash tables instead of a large one, each as large as what it holds needs. Of few connections the
//! index then stays in the processor's caches, where one made for the most that there may be has each of its
//! entries on a page of its own; and one of them that grows moves a small part of the table, which stalls nobody.

use std::net::IpAddr;

use hashbrown::HashTable;

use crate::datapath::family::FlowKey;
use crate::proto::rng::Rng;

/// How many: at a million connections each has 16,000, and only one is moved at a time.
const PARTS: usize = 64;

/// Slots by key. The keys themselves are in the slots.
#[derive(Debug)]
pub(super) struct Index {
    parts: Vec<HashTable<u32>>,
    hash: KeyHash,
}

impl Index {
    /// An empty one.
    pub(super) fn new(rng: &mut Rng) -> Self {
        let hash = KeyHash {
            seed: rng.next_u64(),
            multiplier: rng.next_u64() | 1,
        };
        Self {
            parts: vec![HashTable::new(); PARTS],
            hash,
        }
    }

    /// The slot of this key, as `key_of` tells the keys of slots.
    pub(super) fn find<'a>(
        &self,
        key: &FlowKey,
        key_of: impl Fn(u32) -> Option<&'a FlowKey>,
    ) -> Option<u32> {
        let hash = self.hash.of(key);
        let part = self.parts.get(part(hash))?;
        part.find(hash, |slot| key_of(*slot) == Some(key)).copied()
    }

    /// Adds a slot whose key is not there yet.
    pub(super) fn insert<'a>(
        &mut self,
        key: &FlowKey,
        slot: u32,
        key_of: impl Fn(u32) -> Option<&'a FlowKey>,
    ) {
        let keyed = self.hash;
        let hash = keyed.of(key);
        if let Some(part) = self.parts.get_mut(part(hash)) {
            let rehash = |slot: &u32| key_of(*slot).map_or(0, |key| keyed.of(key));
            part.insert_unique(hash, slot, rehash);
        }
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, key: &FlowKey, slot: u32) {
        let hash = self.hash.of(key);
        if let Some(part) = self.parts.get_mut(part(hash))
            && let Ok(found) = part.find_entry(hash, |other| *other == slot)
        {
            found.remove();
        }
    }
}

/// The table that a key belongs to. Within it, the lowest and the highest bits decide.
const fn part(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

/// Multiply and fold, keyed, because clients choose their ports.
#[derive(Clone, Copy, Debug)]
struct KeyHash {
    seed: u64,
    multiplier: u64,
}

impl KeyHash {
    fn of(self, key: &FlowKey) -> u64 {
        let ports = u64::from(key.sport) << 48 | u64::from(key.dport) << 32 | u64::from(key.proto);
        let state = self.fold(self.seed, ports);
        match (key.src, key.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let both = u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits());
                self.fold(state, both)
            }
            (src, dst) => [src, dst].into_iter().fold(state, |state, address| {
                let bits = match address {
                    IpAddr::V4(v4) => u128::from(v4.to_bits()),
                    IpAddr::V6(v6) => v6.to_bits(),
                };
                self.fold(self.fold(state, (bits >> 64) as u64), bits as u64)
            }),
        }
    }

    fn fold(self, state: u64, word: u64) -> u64 {
        let product = u128::from(state ^ word) * u128::from(self.multiplier);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<FlowKey> {
        let v4 = (0..20_000u32).map(|n| FlowKey {
            src: IpAddr::V4((0x0a00_0000 | (n / 1000)).into()),
            dst: [10, 1, 0, 1].into(),
            sport: (n % 1000) as u16,
            dport: 80,
            proto: 6,
        });
        let v6 = (0..20_000u128).map(|n| FlowKey {
            src: IpAddr::V6(((n << 64) | (n % 7)).into()),
            dst: IpAddr::V6(n.into()),
            sport: 1,
            dport: 80,
            proto: 6,
        });
        v4.chain(v6).collect()
    }

    #[test]
    fn each_key_has_its_slot() {
        let keys = keys();
        let key_of = |slot: u32| keys.get(slot as usize);
        let mut index = Index::new(&mut Rng::new(7));
        for (slot, key) in (0..).zip(&keys) {
            assert_eq!(index.find(key, key_of), None);
            index.insert(key, slot, key_of);
        }
        for (slot, key) in (0..).zip(&keys).step_by(2) {
            index.remove(key, slot);
        }
        for (slot, key) in (0..).zip(&keys) {
            assert_eq!(index.find(key, key_of), (slot % 2 == 1).then_some(slot));
        }
    }

    #[test]
    fn no_table_has_much_more_than_its_part() {
        let keys = keys();
        let mut index = Index::new(&mut Rng::new(7));
        for (slot, key) in (0..).zip(&keys) {
            index.insert(key, slot, |slot| keys.get(slot as usize));
        }
        let mean = keys.len() / PARTS;
        for part in &index.parts {
            assert!((mean / 2..mean * 2).contains(&part.len()), "{}", part.len());
        }
    }
}
