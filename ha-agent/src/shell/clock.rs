//! The one clock of the agent.

use nix::time::{ClockId, clock_gettime};

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
