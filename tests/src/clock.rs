//! The clock of rig and traffic: `CLOCK_MONOTONIC`, as in the agent and in the data plane.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// What to add to a `CLOCK_REALTIME` stamp (as the kernel puts on captured frames) to get
/// `CLOCK_MONOTONIC`; wrapping, since it is negative.
pub fn realtime_to_monotonic() -> u64 {
    now_ns().wrapping_sub(nanoseconds(ClockId::CLOCK_REALTIME))
}

/// Sleeps until this moment of `CLOCK_MONOTONIC`.
pub fn sleep_until(ns: u64) {
    let moment = TimeSpec::from_duration(std::time::Duration::from_nanos(ns));
    // A signal ends the sleep early; whoever cares looks at the clock anyway.
    let _early = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &moment,
    );
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Linux always has both clocks.
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let rest = u64::try_from(time.tv_nsec()).unwrap_or_default();
        seconds * 1_000_000_000 + rest
    })
}
