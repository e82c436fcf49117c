//! The clock of rig and traffic: `CLOCK_MONOTONIC`, as in the agent and in the data plane.

use std::sync::LazyLock;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// A bound on how long something may take. A machine that is so many times slower than others, one that is emulated, says
/// so by `HA_PATIENCE`.
pub fn patient(usual: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let factor = std::env::var("HA_PATIENCE").ok();
        factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
    });
    usual * *FACTOR
}

/// What to add to a `CLOCK_REALTIME` stamp (as the kernel puts on captured frames) to get
/// `CLOCK_MONOTONIC`; wrapping, since it is negative.
pub fn realtime_to_monotonic() -> u64 {
    // The quickest of some readings: a thread may lose its core between two clocks.
    let readings = (0..5).map(|_| {
        let before = now_ns();
        let realtime = nanoseconds(ClockId::CLOCK_REALTIME);
        (now_ns() - before, before.wrapping_sub(realtime))
    });
    readings.min().map_or(0, |(_took, offset)| offset)
}

/// Sleeps until this moment of `CLOCK_MONOTONIC`.
pub fn sleep_until(ns: u64) {
    let moment = TimeSpec::from_duration(Duration::from_nanos(ns));
    // A signal ends the sleep early; whoever cares looks at the clock anyway.
    let _early = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &moment,
    );
}

/// How long what must come about may take where time is not the question: machines stall.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `what`: until `done` says so, no longer than [`PATIENCE`].
pub fn until(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    within(PATIENCE, what, done)
}

/// The same with another bound.
pub fn within(
    patience: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let patience = patient(patience);
    let end = now_ns() + u64::try_from(patience.as_nanos())?;
    while !done()? {
        ensure!(now_ns() < end, "not within {patience:?}: {what}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Linux always has both clocks.
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let rest = u64::try_from(time.tv_nsec()).unwrap_or_default();
        seconds * 1_000_000_000 + rest
    })
}
