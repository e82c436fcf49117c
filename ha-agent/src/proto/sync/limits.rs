//! Token buckets and replay windows.

use super::context::Context;
use crate::proto::time::Instant;

/// Packets a second, with a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    /// Nanoseconds one token takes to grow.
    cost: u64,
    /// Most nanoseconds saved up.
    depth: u64,
    /// When the bucket was last empty, in the sense of a virtual schedule: tokens have grown since.
    empty_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(per_second: u32, burst: u64, now: Instant) -> Self {
        let cost = 1_000_000_000 / u64::from(per_second.max(1));
        let depth = cost.saturating_mul(burst);
        Self {
            cost,
            depth,
            empty_at: Instant::from_nanos(now.as_nanos().saturating_sub(depth)),
        }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let floor = now.as_nanos().saturating_sub(self.depth);
        let next = self
            .empty_at
            .as_nanos()
            .max(floor)
            .saturating_add(self.cost);
        let granted = next <= now.as_nanos();
        if granted {
            self.empty_at = Instant::from_nanos(next);
        }
        granted
    }

    /// Takes a token, on credit if there is none: what must not be interrupted is paid for later.
    pub(super) fn spend(&mut self, now: Instant) {
        if !self.take(now) {
            let next = self.empty_at.as_nanos().saturating_add(self.cost);
            self.empty_at = Instant::from_nanos(next);
        }
    }
}

/// How a sequence number relates to those seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// Newer than all others.
    Fresh,
    /// Not seen, but overtaken.
    Late,
    /// Seen before, or too old to tell.
    Replayed,
}

/// Remembers the last 64 sequence numbers (as in RFC 4303, section 3.4.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayWindow {
    highest: u64,
    seen: u64,
}

impl ReplayWindow {
    /// A window that has seen `seq` and everything before it.
    pub(super) const fn starting_at(seq: u64) -> Self {
        Self {
            highest: seq,
            seen: u64::MAX,
        }
    }

    /// Records a sequence number.
    const fn check(&mut self, seq: u64) -> Freshness {
        if seq > self.highest {
            let ahead = seq - self.highest;
            self.seen = if ahead < 64 { self.seen << ahead } else { 0 } | 1;
            self.highest = seq;
            return Freshness::Fresh;
        }
        let behind = self.highest - seq;
        if behind >= 64 || self.seen & (1 << behind) != 0 {
            return Freshness::Replayed;
        }
        self.seen |= 1 << behind;
        Freshness::Late
    }
}

/// Whether a genuine control packet is newer than all before it; counts it if not.
pub(super) fn admit(window: &mut ReplayWindow, seq: u64, context: &mut Context) -> bool {
    match window.check(seq) {
        Freshness::Fresh => return true,
        Freshness::Late => context.counters.overtaken += 1,
        Freshness::Replayed => context.counters.replayed += 1,
    }
    false
}
