//! Puts the packets of a stream back in order and says which ones to ask for again.
//!
//! Every missing packet has its own clock: it is given a moment to turn up by itself, then asked for,
//! then asked for again at growing intervals that start at twice the round-trip time. A packet that
//! comes late is used.

use std::collections::VecDeque;
use std::time::Duration;

use super::wire::{MAX_RANGES, Range};
use crate::proto::time::Instant;

/// Packets kept, or known to be missing, ahead of the first one that is missing.
pub(super) const WINDOW: usize = 1024;
/// How long a packet may be overtaken before it counts as lost.
const REORDERING: Duration = Duration::from_millis(1);
/// First interval between two requests for one packet, unless the round trip is longer.
const RETRY_FIRST: Duration = Duration::from_millis(2);
/// Longest interval between two requests for one packet.
const RETRY_SLOWEST: Duration = Duration::from_millis(500);

/// The stream from the first packet that has not been delivered.
pub(super) struct Order {
    /// Sequence number of the next packet to deliver, the first of `slots`.
    next: u64,
    slots: VecDeque<Slot>,
    /// When the first request is due; `None` if nothing is missing.
    due: Option<Instant>,
    round_trip: Duration,
    /// When a missing packet came, or one was given up, last.
    progress: Instant,
    #[cfg(test)]
    pub(super) no_backoff: bool,
}

enum Slot {
    Missing {
        since: Instant,
        due: Instant,
        requests: u8,
    },
    Held(Vec<u8>),
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the next one: deliver it, then [`Order::pop`] those behind it.
    Next(Gap),
    /// Kept until those before it have come.
    Kept(Gap),
    /// Delivered or kept before.
    Duplicate,
    /// Too far ahead to keep.
    Beyond,
}

/// Whether a packet had been missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// It came in order.
    None,
    /// It was overtaken, but came by itself.
    Reordered,
    /// It came after it had been asked for.
    Requested,
}

impl Order {
    pub(super) const fn new(next: u64) -> Self {
        Self {
            next,
            slots: VecDeque::new(),
            due: None,
            round_trip: Duration::ZERO,
            progress: Instant::from_nanos(0),
            #[cfg(test)]
            no_backoff: false,
        }
    }

    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Takes in packet `seq`, and how many packets it shows to be missing.
    pub(super) fn arrive(&mut self, now: Instant, seq: u64, body: &[u8]) -> (Arrival, u64) {
        let Some(offset) = seq.checked_sub(self.next) else {
            return (Arrival::Duplicate, 0);
        };
        if offset >= WINDOW as u64 {
            return (Arrival::Beyond, self.exists(now, seq));
        }
        let missing = self.exists(now, seq.wrapping_sub(1));
        let offset = offset as usize;
        let gap = match self.slots.get(offset) {
            Some(Slot::Held(_)) => return (Arrival::Duplicate, missing),
            Some(Slot::Missing { requests: 0, .. }) => Gap::Reordered,
            Some(Slot::Missing { .. }) => Gap::Requested,
            None => Gap::None,
        };
        if gap != Gap::None {
            self.progress = now;
        }
        if offset == 0 {
            self.advance(1);
            return (Arrival::Next(gap), missing);
        }
        let held = Slot::Held(body.to_vec());
        match self.slots.get_mut(offset) {
            Some(slot) => *slot = held,
            None => self.slots.push_back(held),
        }
        (Arrival::Kept(gap), missing)
    }

    /// The sender has used `head`: what has not come up to there is missing. How many are new.
    pub(super) fn exists(&mut self, now: Instant, head: u64) -> u64 {
        let Some(ahead) = head.saturating_add(1).checked_sub(self.next) else {
            return 0;
        };
        let known = self.slots.len();
        let wanted = usize::try_from(ahead).unwrap_or(WINDOW).min(WINDOW);
        if wanted <= known {
            return 0;
        }
        let due = now + REORDERING;
        self.slots.resize_with(wanted, || Slot::Missing {
            since: now,
            due,
            requests: 0,
        });
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        (wanted - known) as u64
    }

    /// The next packet, if it is there already.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        if !matches!(self.slots.front(), Some(Slot::Held(_))) {
            return None;
        }
        self.next += 1;
        match self.slots.pop_front() {
            Some(Slot::Held(body)) => Some(body),
            Some(Slot::Missing { .. }) | None => None,
        }
    }

    /// Gives up everything before `seq`; how many packets were not delivered.
    pub(super) fn skip_to(&mut self, seq: u64) -> u64 {
        let skipped = seq.saturating_sub(self.next);
        self.advance(skipped);
        skipped
    }

    /// Gives up the packets that are missing before the next one that is there; how many.
    pub(super) fn skip_missing(&mut self, now: Instant) -> u64 {
        self.progress = now;
        let is_missing = |slot: &&Slot| matches!(slot, Slot::Missing { .. });
        let missing = self.slots.iter().take_while(is_missing).count() as u64;
        self.advance(missing);
        missing
    }

    fn advance(&mut self, by: u64) {
        let slots = usize::try_from(by).map_or(self.slots.len(), |by| by.min(self.slots.len()));
        self.slots.drain(..slots);
        self.next = self.next.saturating_add(by);
        if self.slots.is_empty() {
            self.due = None;
        }
    }

    /// All packets that are there, in order, whatever is missing between them.
    pub(super) fn into_held(self) -> impl Iterator<Item = Vec<u8>> {
        self.slots.into_iter().filter_map(|slot| match slot {
            Slot::Held(body) => Some(body),
            Slot::Missing { .. } => None,
        })
    }

    /// A measurement of the round trip.
    pub(super) fn round_trip(&mut self, sample: Duration) {
        self.round_trip = if self.round_trip.is_zero() {
            sample
        } else {
            (self.round_trip * 7 + sample) / 8
        };
    }

    /// When [`Self::requests`] has something to ask for.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Since when the next packet is missing.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        match self.slots.front() {
            Some(Slot::Missing { since, .. }) => Some(*since),
            Some(Slot::Held(_)) | None => None,
        }
    }

    /// Since when the next packet is missing and nothing else that was missing has come either.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.stuck_since().map(|since| since.max(self.progress))
    }

    /// Packets known to be missing.
    pub(super) fn missing(&self) -> u64 {
        let is_missing = |slot: &&Slot| matches!(slot, Slot::Missing { .. });
        self.slots.iter().filter(is_missing).count() as u64
    }

    /// The packets to ask for now, at most [`MAX_RANGES`] runs of them.
    pub(super) fn requests(&mut self, now: Instant) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        let first_retry = RETRY_FIRST.max(self.round_trip * 2);
        self.due = None;
        #[cfg(test)]
        let no_backoff = self.no_backoff;
        for (seq, slot) in (self.next..).zip(&mut self.slots) {
            let Slot::Missing { due, requests, .. } = slot else {
                continue;
            };
            if *due <= now && push(&mut ranges, seq) {
                let wait = first_retry.saturating_mul(1 << (*requests).min(9));
                #[cfg(test)]
                let wait = if no_backoff { REORDERING } else { wait };
                *due = now + wait.min(RETRY_SLOWEST);
                *requests = requests.saturating_add(1);
            }
            // What did not fit is due again at once, with the next request.
            let due = (*due).max(now + REORDERING);
            self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        }
        ranges
    }
}

/// Adds a sequence number to ranges that are kept in order; whether there was room.
fn push(ranges: &mut Vec<Range>, seq: u64) -> bool {
    if let Some(last) = ranges.last_mut()
        && last.first + u64::from(last.len) == seq
    {
        last.len += 1;
        return true;
    }
    if ranges.len() == MAX_RANGES {
        return false;
    }
    ranges.push(Range { first: seq, len: 1 });
    true
}
