//! The one clock of the agent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::fault;
use crate::proto::time::Instant;

/// Now, on `CLOCK_MONOTONIC`: the clock the data plane's gate is compared with.
pub fn now() -> Instant {
    // The clock exists on every kernel that has BPF; if it did not, time 0 keeps every gate closed.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or_else(
        |_missing| Instant::default(),
        |time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
            Instant::from_nanos(seconds * 1_000_000_000 + nanos)
        },
    )
}

/// Time since the Unix epoch: for what people read, and never for a decision.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn wall() -> Duration {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let error = fault::clock_error();
    let by = Duration::from_secs(error.unsigned_abs());
    if error < 0 {
        wall.saturating_sub(by)
    } else {
        wall.saturating_add(by)
    }
}
