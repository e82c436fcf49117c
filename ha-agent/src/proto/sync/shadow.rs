//! The agent's own copy of the connection table.
//!
//! Entries live in numbered slots, found through an index by key, so that a full transfer or a sweep
//! can walk the table in pieces while it changes: an entry never moves, and one that is added behind
//! the walker's back is already marked.
//!
//! Marks compare with the table's *generation*. On the active node an entry carries the generation in
//! which the stream last said it, on the standby that in which it last heard it; a full transfer
//! begins a new generation, which unmarks every entry at once. [`Shadow::said`] covers the marked
//! entries and is therefore equal on both nodes at equal places of the stream.
//!
//! A million entries take some 120 MB: the index holds slots, not keys.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;

use super::record::{Part, Record, Said};
use crate::datapath::family::FlowKey;
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// A connection and what replication knows about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// When the data plane made the last change (active node only).
    pub(super) at: Instant,
    /// Share in the digest, valid while marked.
    sum: u64,
    /// Generation in which the stream said this entry, and in the lowest bit as which [`Part`]; 0 never.
    mark: u32,
    /// Number of the change that waits to be sent; 0 none (active node only).
    pub(super) pending: u32,
}

/// The table.
pub(super) struct Shadow {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hash: KeyHash,
    capacity: usize,
    /// Even.
    generation: u32,
    said: [Said; 2],
}

impl Shadow {
    /// An empty table; memory for `capacity` entries is reserved, so that growing never stalls.
    pub(super) fn new(capacity: usize, rng: &mut Rng) -> Self {
        let hash = KeyHash {
            seed: rng.next_u64(),
            multiplier: rng.next_u64() | 1,
        };
        Self {
            slots: Vec::with_capacity(capacity),
            free: Vec::new(),
            index: HashTable::with_capacity(capacity),
            hash,
            capacity,
            generation: 2,
            said: [Said::default(); 2],
        }
    }

    /// Connections held.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Number of slots a walk has to visit.
    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Marked connections of each [`Part`].
    pub(super) const fn said(&self) -> [Said; 2] {
        self.said
    }

    /// Marked connections.
    pub(super) const fn said_count(&self) -> u64 {
        let [basic, extended] = &self.said;
        basic.count + extended.count
    }

    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        let found = self.index.find(self.hash.hash_one(key), |slot| {
            self.get(*slot)
                .is_some_and(|entry| entry.record.key == *key)
        });
        found.copied()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Adds a connection that is not there yet; `None` if the table is full.
    pub(super) fn insert(&mut self, record: Record, at: Instant) -> Option<u32> {
        if self.len() >= self.capacity {
            return None;
        }
        let entry = Some(Entry {
            record,
            at,
            sum: 0,
            mark: 0,
            pending: 0,
        });
        let slot = if let Some(slot) = self.free.pop() {
            *self.slots.get_mut(slot as usize)? = entry;
            slot
        } else {
            let slot = u32::try_from(self.slots.len()).ok()?;
            self.slots.push(entry);
            slot
        };
        let (hash, slots) = (self.hash, &self.slots);
        let rehash = |slot: &u32| {
            let entry = slots.get(*slot as usize).and_then(Option::as_ref);
            entry.map_or(0, |entry| hash.hash_one(entry.record.key))
        };
        self.index
            .insert_unique(hash.hash_one(record.key), slot, rehash);
        Some(slot)
    }

    /// Removes a connection. It keeps its share in the digest until [`Self::unsay`].
    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.get_mut(slot as usize)?.take()?;
        let hash = self.hash.hash_one(entry.record.key);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        self.free.push(slot);
        Some(entry)
    }

    /// Unmarks every entry.
    pub(super) const fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(2);
        self.said = [Said {
            count: 0,
            digest: 0,
        }; 2];
    }

    /// Whether the stream said this entry since the generation began.
    pub(super) const fn is_said(&self, entry: &Entry) -> bool {
        entry.mark & !1 == self.generation
    }

    /// What was said of an entry since the generation began.
    pub(super) fn share(&self, entry: &Entry) -> Option<Share> {
        self.is_said(entry).then_some(Share {
            part: if entry.mark & 1 == 0 {
                Part::Basic
            } else {
                Part::Extended
            },
            sum: entry.sum,
        })
    }

    /// Marks an entry; `sum` is the share of its record in the digest.
    pub(super) fn say(&mut self, slot: u32, sum: u64) {
        let Some(before) = self.get(slot).map(|entry| self.share(entry)) else {
            return;
        };
        if let Some(before) = before {
            self.unsay(before);
        }
        let generation = self.generation;
        let Some(entry) = self.get_mut(slot) else {
            return;
        };
        let part = entry.record.part();
        entry.mark = generation | part as u32;
        entry.sum = sum;
        let said = self.part(part);
        said.count += 1;
        said.digest = said.digest.wrapping_add(sum);
    }

    /// Takes the share of a removed entry that was said out of the digest.
    pub(super) const fn unsay(&mut self, share: Share) {
        let said = self.part(share.part);
        said.count = said.count.saturating_sub(1);
        said.digest = said.digest.wrapping_sub(share.sum);
    }

    const fn part(&mut self, part: Part) -> &mut Said {
        let [basic, extended] = &mut self.said;
        match part {
            Part::Basic => basic,
            Part::Extended => extended,
        }
    }
}

/// An entry's part in [`Shadow::said`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    part: Part,
    sum: u64,
}

/// Hash of the index: multiply and fold, keyed, because clients choose their ports.
#[derive(Clone, Copy, Debug)]
struct KeyHash {
    seed: u64,
    multiplier: u64,
}

impl BuildHasher for KeyHash {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding {
            state: self.seed,
            multiplier: self.multiplier,
        }
    }
}

#[derive(Debug)]
struct Folding {
    state: u64,
    multiplier: u64,
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.multiplier);
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Option<Entry>>() <= 112);
    }
}
