//! What a receiver asks for when the tables differ.
//!
//! ```text
//! stream 8, what 1: 0 sums of all groups, 1 sums of the buckets of groups, 2 contents of buckets
//! groups 1, then for each: group 1, mask of buckets 8, lowest bit first
//! ```
//!
//! The answers are records of the stream, so they are exact for their place in it.

use super::buckets::{BucketSet, GROUPS};
use super::wire::Reader;

/// A request to compare or to repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// The sender's session.
    pub(super) stream: u64,
    pub(super) what: What,
    /// Of which buckets; for [`What::Sums`] their groups count.
    pub(super) buckets: BucketSet,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The sums of all groups.
    Groups,
    /// The sums of the buckets of some groups.
    Sums,
    /// All connections of some buckets.
    Contents,
}

impl Ask {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.push(match self.what {
            What::Groups => 0,
            What::Sums => 1,
            What::Contents => 2,
        });
        out.push(self.buckets.masks().count() as u8);
        for (group, mask) in self.buckets.masks() {
            out.push(group);
            out.extend_from_slice(&mask.to_be_bytes());
        }
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let stream = reader.u64()?;
        let what = match reader.u8()? {
            0 => What::Groups,
            1 => What::Sums,
            2 => What::Contents,
            _ => return None,
        };
        let mut buckets = BucketSet::new();
        for _ in 0..usize::from(reader.u8()?).min(GROUPS) {
            buckets.insert_mask(reader.u8()?, reader.u64()?);
        }
        Some(Self {
            stream,
            what,
            buckets,
        })
    }
}
