//! The agent's own copy of the connection table.
//!
//! Entries live in numbered slots, found through an index by key, so that a full transfer or a sweep
//! can walk the table in pieces while it changes: an entry never moves, and one that is added behind
//! the walker's back is already marked.
//!
//! Marks compare with the table's *generation*. On the active node an entry carries the generation in
//! which the stream last said it, on the standby that in which it last heard it; a full transfer
//! begins a new generation, which unmarks every entry at once. `count` and `digest` cover the marked
//! entries and are therefore equal on both nodes at equal places of the stream.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use ha_common::conn::ConnKey4;

use super::record::Record;
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
    /// Generation in which the stream said this entry; 0 never.
    mark: u32,
    /// Number of the change that waits to be sent; 0 none (active node only).
    pub(super) pending: u32,
}

/// The table.
pub(super) struct Shadow {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashMap<ConnKey4, u32, KeyHash>,
    capacity: usize,
    generation: u32,
    count: u64,
    digest: u64,
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
            index: HashMap::with_capacity_and_hasher(capacity, hash),
            capacity,
            generation: 1,
            count: 0,
            digest: 0,
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

    /// Marked connections and the sum over them.
    pub(super) const fn said(&self) -> (u64, u64) {
        (self.count, self.digest)
    }

    pub(super) fn find(&self, key: &ConnKey4) -> Option<u32> {
        self.index.get(key).copied()
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
        self.index.insert(record.key, slot);
        Some(slot)
    }

    /// Removes a connection. It keeps its share in the digest until [`Self::unsay`].
    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.get_mut(slot as usize)?.take()?;
        self.index.remove(&entry.record.key);
        self.free.push(slot);
        Some(entry)
    }

    /// Unmarks every entry.
    pub(super) const fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.count = 0;
        self.digest = 0;
    }

    /// Whether the stream said this entry since the generation began.
    pub(super) const fn is_said(&self, entry: &Entry) -> bool {
        entry.mark == self.generation
    }

    /// Marks an entry; `sum` is the share of its record in the digest.
    pub(super) fn say(&mut self, slot: u32, sum: u64) {
        let generation = self.generation;
        let Some(entry) = self.get_mut(slot) else {
            return;
        };
        let before = if entry.mark == generation {
            Some(entry.sum)
        } else {
            None
        };
        entry.mark = generation;
        entry.sum = sum;
        if let Some(before) = before {
            self.digest = self.digest.wrapping_sub(before);
        } else {
            self.count += 1;
        }
        self.digest = self.digest.wrapping_add(sum);
    }

    /// Takes the share of a removed entry that was said out of the digest.
    pub(super) const fn unsay(&mut self, sum: u64) {
        self.count = self.count.saturating_sub(1);
        self.digest = self.digest.wrapping_sub(sum);
    }
}

impl Entry {
    /// Share in the digest, if marked.
    pub(super) const fn sum(&self) -> u64 {
        self.sum
    }
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
