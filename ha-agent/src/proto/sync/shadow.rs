//! The agent's own copy of the connection table.
//!
//! Entries live in numbered slots, found through an index by key, so that a full transfer or a sweep
//! can walk the table in pieces while it changes: an entry never moves, and one that is added behind
//! the walker's back is already marked.
//!
//! Marks compare with the table's *generation*. On the active node an entry carries the generation in
//! which the stream last said it, on the standby that in which it last heard it; a full transfer
//! begins a new generation, which unmarks every entry at once. [`Shadow::said`] and the sums of the
//! buckets cover the marked entries and are therefore equal on both nodes at equal places of the stream.
//! Marked entries of a bucket form a list, so that a bucket is repaired without a walk over the table.
//!
//! A million entries take some 140 MB: the index holds slots, not keys.

use super::buckets::{BUCKETS, Bucket};
use super::index::Index;
use super::record::{Part, Record, Said};
use super::seal::SessionKey;
use crate::datapath::family::FlowKey;
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// No slot: the end of a list.
const NONE: u32 = u32::MAX;

/// A connection and what replication knows about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// When the data plane made the last change (active node only).
    pub(super) at: Instant,
    /// Share in the digests, valid while marked.
    sum: u64,
    /// Generation in which the stream said this entry, and in the lowest bit as which [`Part`]; 0 never.
    mark: u32,
    /// Number of the change that waits to be sent; 0 none (active node only).
    pub(super) pending: u32,
    /// Neighbours in the list of the bucket, valid while marked.
    next: u32,
    previous: u32,
    /// Valid while marked.
    bucket: Bucket,
    /// What the stream said last does not hold any more, or has still to be confirmed.
    pub(super) stale: bool,
    /// Gone, but the stream has not said so yet (active node only).
    gone: bool,
}

impl Entry {
    /// The connection does not exist any more.
    pub(super) const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Its bucket, if it is marked.
    pub(super) const fn bucket(&self) -> Bucket {
        self.bucket
    }

    const fn part(&self) -> Part {
        if self.mark & 1 == 0 {
            Part::Basic
        } else {
            Part::Extended
        }
    }
}

/// The table.
pub(super) struct Shadow {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: Index,
    capacity: usize,
    /// Entries that are gone.
    gone: usize,
    /// Even.
    generation: u32,
    sums: Sums,
    /// First entry of each bucket's list.
    heads: Vec<u32>,
}

/// What the stream has said, in sums: both parts of everything, and of each bucket.
struct Sums {
    said: [Said; 2],
    buckets: Vec<[Said; 2]>,
}

impl Sums {
    fn add(&mut self, entry: &Entry) {
        self.change(entry, |said| {
            said.count = said.count.wrapping_add(1);
            said.digest = said.digest.wrapping_add(entry.sum);
        });
    }

    fn take(&mut self, entry: &Entry) {
        self.change(entry, |said| {
            said.count = said.count.wrapping_sub(1);
            said.digest = said.digest.wrapping_sub(entry.sum);
        });
    }

    fn change(&mut self, entry: &Entry, change: impl Fn(&mut Said)) {
        let bucket = self.buckets.get_mut(entry.bucket.index());
        for parts in [Some(&mut self.said), bucket].into_iter().flatten() {
            change(part(parts, entry.part()));
        }
    }
}

const fn part(parts: &mut [Said; 2], part: Part) -> &mut Said {
    let [basic, extended] = parts;
    match part {
        Part::Basic => basic,
        Part::Extended => extended,
    }
}

const fn whole([basic, extended]: &[Said; 2]) -> u64 {
    basic.digest.wrapping_add(extended.digest)
}

impl Shadow {
    /// An empty table; memory for `capacity` entries, and for as many that are `gone`, is reserved, so
    /// that none is ever moved.
    pub(super) fn new(capacity: usize, gone: usize, rng: &mut Rng) -> Self {
        Self {
            slots: Vec::with_capacity(capacity + gone),
            free: Vec::new(),
            index: Index::new(rng),
            capacity,
            gone: 0,
            generation: 2,
            sums: Sums {
                said: [Said::default(); 2],
                buckets: vec![<[Said; 2]>::default(); BUCKETS],
            },
            heads: vec![NONE; BUCKETS],
        }
    }

    /// Connections held.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.gone
    }

    /// Number of slots a walk has to visit.
    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Marked connections of each [`Part`].
    pub(super) const fn said(&self) -> [Said; 2] {
        self.sums.said
    }

    /// Marked connections.
    pub(super) const fn said_count(&self) -> u64 {
        let [basic, extended] = &self.sums.said;
        basic.count.saturating_add(extended.count)
    }

    /// The keyed sum over the marked connections of a bucket.
    pub(super) fn bucket_sum(&self, bucket: Bucket) -> u64 {
        self.sums.buckets.get(bucket.index()).map_or(0, whole)
    }

    /// The keyed sum over the marked connections of a group of buckets.
    pub(super) fn group_sum(&self, group: u8) -> u64 {
        let sums = Bucket::of_group(group).map(|bucket| self.bucket_sum(bucket));
        sums.fold(0, u64::wrapping_add)
    }

    /// The marked connections of a bucket.
    pub(super) fn bucket(&self, bucket: Bucket) -> Vec<u32> {
        let mut slots = Vec::new();
        let mut slot = self.heads.get(bucket.index()).copied().unwrap_or(NONE);
        while let Some(entry) = self.get(slot) {
            slots.push(slot);
            slot = entry.next;
        }
        slots
    }

    /// The entry of a connection, also of one that is [gone](Entry::is_gone).
    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        self.index.find(key, |slot| key_in(&self.slots, slot))
    }

    /// The entry of a connection that exists.
    pub(super) fn live(&self, key: &FlowKey) -> Option<(u32, &Entry)> {
        let slot = self.find(key)?;
        let entry = self.get(slot).filter(|entry| !entry.is_gone())?;
        Some((slot, entry))
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
            next: NONE,
            previous: NONE,
            bucket: Bucket::default(),
            stale: false,
            gone: false,
        });
        let slot = if let Some(slot) = self.free.pop() {
            *self.slots.get_mut(slot as usize)? = entry;
            slot
        } else {
            let slot = u32::try_from(self.slots.len()).ok()?;
            self.slots.push(entry);
            slot
        };
        let slots = &self.slots;
        self.index
            .insert(&record.key, slot, |slot| key_in(slots, slot));
        Some(slot)
    }

    /// Removes a connection, and what was said of it from the digests.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = *self.get(slot)?;
        if self.is_said(&entry) {
            self.sums.take(&entry);
            self.unlink(&entry);
        }
        *self.slots.get_mut(slot as usize)? = None;
        self.index.remove(&entry.record.key, slot);
        self.free.push(slot);
        self.gone -= usize::from(entry.gone);
        Some(entry)
    }

    /// The connection is gone; it stays in the digests until [`Self::remove`], and counts no more.
    pub(super) fn bury(&mut self, slot: u32) {
        self.set_gone(slot, true);
    }

    /// There is one with this key again.
    pub(super) fn revive(&mut self, slot: u32) {
        self.set_gone(slot, false);
    }

    fn set_gone(&mut self, slot: u32, gone: bool) {
        if let Some(entry) = self.get_mut(slot) {
            let before = std::mem::replace(&mut entry.gone, gone);
            self.gone = self.gone + usize::from(gone) - usize::from(before);
        }
    }

    /// Unmarks every entry.
    pub(super) fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(2);
        self.sums.said = [Said::default(); 2];
        self.sums.buckets.fill(<[Said; 2]>::default());
        self.heads.fill(NONE);
    }

    /// Whether the stream said this entry since the generation began.
    pub(super) const fn is_said(&self, entry: &Entry) -> bool {
        entry.mark & !1 == self.generation
    }

    /// Whether the stream said exactly this of an entry.
    pub(super) fn is_true(&self, entry: &Entry, key: &SessionKey) -> bool {
        self.is_said(entry) && !entry.gone && entry.sum == key.sum(&entry.record)
    }

    /// Marks an entry as said, or heard, under the key of the stream's session.
    pub(super) fn say(&mut self, slot: u32, key: &SessionKey) {
        let generation = self.generation;
        let Some(entry) = self
            .slots
            .get_mut(slot as usize)
            .and_then(|entry| entry.as_mut())
        else {
            return;
        };
        let linked = entry.mark & !1 == generation;
        if linked {
            self.sums.take(entry);
        } else {
            entry.bucket = key.bucket(&entry.record.key);
        }
        entry.mark = generation | entry.record.part() as u32;
        entry.sum = key.sum(&entry.record);
        entry.stale = false;
        self.sums.add(entry);
        let bucket = entry.bucket;
        if !linked {
            self.link(slot, bucket);
        }
    }

    fn link(&mut self, slot: u32, bucket: Bucket) {
        let Some(head) = self.heads.get_mut(bucket.index()) else {
            return;
        };
        let next = std::mem::replace(head, slot);
        if let Some(entry) = self.get_mut(next) {
            entry.previous = slot;
        }
        if let Some(entry) = self.get_mut(slot) {
            (entry.next, entry.previous) = (next, NONE);
        }
    }

    fn unlink(&mut self, entry: &Entry) {
        if let Some(next) = self.get_mut(entry.next) {
            next.previous = entry.previous;
        }
        if let Some(previous) = self.get_mut(entry.previous) {
            previous.next = entry.next;
        } else if let Some(head) = self.heads.get_mut(entry.bucket.index()) {
            *head = entry.next;
        }
    }

    /// Makes the digests those of what the bucket holds; whether they were not.
    ///
    /// An entry whose record has moved on since it was said is taken at its word.
    pub(super) fn audit(&mut self, bucket: Bucket, key: &SessionKey) -> bool {
        let mut found = <[Said; 2]>::default();
        for slot in self.bucket(bucket) {
            let Some(entry) = self.get_mut(slot) else {
                continue;
            };
            if entry.pending == 0 && !entry.stale && !entry.gone {
                entry.sum = key.sum(&entry.record);
            }
            let said = part(&mut found, entry.part());
            said.count += 1;
            said.digest = said.digest.wrapping_add(entry.sum);
        }
        let Some(known) = self.sums.buckets.get_mut(bucket.index()) else {
            return false;
        };
        let known = std::mem::replace(known, found);
        for ((all, known), found) in self.sums.said.iter_mut().zip(known).zip(found) {
            all.count = all
                .count
                .wrapping_sub(known.count)
                .wrapping_add(found.count);
            all.digest = all
                .digest
                .wrapping_sub(known.digest)
                .wrapping_add(found.digest);
        }
        known != found
    }

    /// Loses a connection as no code path does, for tests of the audit.
    #[cfg(test)]
    pub(super) fn lose(&mut self, slot: u32) {
        let (said, buckets) = (self.sums.said, self.sums.buckets.clone());
        self.remove(slot);
        self.sums = Sums { said, buckets };
    }
}

fn key_in(slots: &[Option<Entry>], slot: u32) -> Option<&FlowKey> {
    let entry = slots.get(slot as usize)?.as_ref();
    entry.map(|entry| &entry.record.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Option<Entry>>() <= 128);
    }
}
