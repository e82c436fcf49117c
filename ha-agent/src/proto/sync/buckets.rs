//! Buckets: shares of the table that can be compared and repaired one by one.
//!
//! A connection's bucket follows from its key under the session's digest key, so both nodes agree on it
//! and no client can aim at one. 64 groups of 64 buckets: the sums of the groups, or of the buckets of a
//! group, fit into one packet, and among a million connections a bucket holds 250.

/// Groups of buckets, and buckets of a group.
pub(super) const GROUPS: usize = 64;
/// All buckets.
pub(super) const BUCKETS: usize = GROUPS * 64;

/// Number of a bucket, below [`BUCKETS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket(u16);

impl Bucket {
    /// The bucket of a connection whose key has this hash.
    pub(super) const fn of_hash(hash: u64) -> Self {
        Self((hash % BUCKETS as u64) as u16)
    }

    /// The bucket with this number.
    pub(super) const fn new(number: u16) -> Option<Self> {
        if (number as usize) < BUCKETS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..BUCKETS as u16).map(Self)
    }

    /// Those of a group.
    pub(super) fn of_group(group: u8) -> impl Iterator<Item = Self> {
        (0..64).filter_map(move |place| Self::new(u16::from(group) * 64 + place))
    }

    pub(super) const fn number(self) -> u16 {
        self.0
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    const fn group(self) -> usize {
        self.index() / 64
    }

    const fn bit(self) -> u64 {
        1 << (self.0 % 64)
    }
}

/// A set of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BucketSet {
    groups: Box<[u64; GROUPS]>,
}

impl BucketSet {
    /// None of them.
    pub(super) fn new() -> Self {
        Self {
            groups: Box::new([0; GROUPS]),
        }
    }

    pub(super) fn insert(&mut self, bucket: Bucket) {
        if let Some(mask) = self.groups.get_mut(bucket.group()) {
            *mask |= bucket.bit();
        }
    }

    pub(super) fn remove(&mut self, bucket: Bucket) {
        if let Some(mask) = self.groups.get_mut(bucket.group()) {
            *mask &= !bucket.bit();
        }
    }

    /// Adds buckets of a group, one a bit. A group that does not exist has none.
    pub(super) fn insert_mask(&mut self, group: u8, mask: u64) {
        if let Some(known) = self.groups.get_mut(usize::from(group)) {
            *known |= mask;
        }
    }

    pub(super) fn insert_all(&mut self, other: &Self) {
        for (mask, more) in self.groups.iter_mut().zip(other.groups.iter()) {
            *mask |= more;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(|mask| *mask == 0)
    }

    pub(super) fn len(&self) -> usize {
        self.groups
            .iter()
            .map(|mask| mask.count_ones() as usize)
            .sum()
    }

    /// The groups that have some, and which.
    pub(super) fn masks(&self) -> impl Iterator<Item = (u8, u64)> {
        let masks = (0_u8..).zip(self.groups.iter().copied());
        masks.filter(|(_group, mask)| *mask != 0)
    }

    /// Takes out the first one.
    pub(super) fn pop(&mut self) -> Option<Bucket> {
        let (group, mask) = self.masks().next()?;
        let bucket = Bucket(u16::from(group) * 64 + mask.trailing_zeros() as u16);
        self.remove(bucket);
        Some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        let mut set = BucketSet::new();
        for number in [4095, 0, 63, 64, 0] {
            set.insert(Bucket::new(number).unwrap());
        }
        assert_eq!(set.len(), 4);
        assert_eq!(
            set.masks().collect::<Vec<_>>(),
            [(0, 1 | 1 << 63), (1, 1), (63, 1 << 63)]
        );
        let mut copy = BucketSet::new();
        for (group, mask) in set.masks() {
            copy.insert_mask(group, mask);
        }
        copy.insert_mask(64, 1);
        assert_eq!(copy, set);
        let numbers: Vec<_> = std::iter::from_fn(|| set.pop())
            .map(Bucket::number)
            .collect();
        assert_eq!(numbers, [0, 63, 64, 4095]);
        assert!(set.is_empty() && Bucket::new(4096).is_none());
    }
}
