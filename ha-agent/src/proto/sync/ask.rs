//! What a receiver asks for when the tables differ.
//!
//! ```text
//! stream 8, what 1: 0 sums of all groups, 1 sums of the buckets of groups, 2 contents of buckets,
//!   3 all records that are no connections
//! groups 1, then for each: group 1, mask of buckets 8, lowest bit first
//! ```
//!
//! The answers are records of the stream, so they are exact for their place in it.

use std::time::Duration;

use super::buckets::{BucketSet, GROUPS};
use super::wire::Reader;
use crate::proto::time::Instant;

/// First wait for an answer.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest such wait.
const RETRY_SLOWEST: Duration = Duration::from_secs(2);
/// Requests without an answer before there is no point in asking again.
const TRIES: u32 = 10;

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
    /// All records that are no connections.
    Records,
}

impl Ask {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.push(match self.what {
            What::Groups => 0,
            What::Sums => 1,
            What::Contents => 2,
            What::Records => 3,
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
            3 => What::Records,
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

/// When to ask for something, and when to ask again.
pub(super) struct Asking {
    due: Instant,
    pause: Duration,
    tries: u32,
}

/// What it is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Wait,
    /// To ask.
    Ask,
    /// To give up: nobody answers.
    GiveUp,
}

impl Asking {
    /// Not before `due`.
    pub(super) const fn new(due: Instant) -> Self {
        Self {
            due,
            pause: RETRY_FIRST,
            tries: 0,
        }
    }

    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// Whether to ask now; not if that is known to be in vain.
    pub(super) fn turn(&mut self, now: Instant, in_vain: bool) -> Turn {
        if self.due > now {
            return Turn::Wait;
        }
        if in_vain {
            self.due = now + self.pause;
            return Turn::Wait;
        }
        if self.tries == TRIES {
            return Turn::GiveUp;
        }
        self.tries += 1;
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(RETRY_SLOWEST);
        Turn::Ask
    }

    /// The sender answers: what is still missing is asked for after a while without more.
    pub(super) fn answered(&mut self, now: Instant) {
        *self = Self::new(now + RETRY_FIRST);
    }

    /// The next thing is asked for at once.
    pub(super) const fn next(&mut self, now: Instant) {
        self.due = now;
    }
}
