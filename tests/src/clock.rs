//! The clock of rig and traffic: `CLOCK_MONOTONIC`, as in the agent and in the data plane.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// What to add to a `CLOCK_REALTIME` stamp (as the kernel puts on captured frames) to get
/// `CLOCK_MONOTONIC`; wrapping, since it is negative.
pub fn realtime_to_monotonic() -> u64 {
    now_ns().wrapping_sub(nanoseconds(ClockId::CLOCK_REALTIME))
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Linux always has both clocks.
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let rest = u64::try_from(time.tv_nsec()).unwrap_or_default();
        seconds * 1_000_000_000 + rest
    })
}
