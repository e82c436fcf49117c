//! One fault and what the client saw of it.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::subject::Subject;
use crate::clock::now_ns;
use crate::traffic::load::random_below;

/// Seen before the fault: it shows that the client was served up to it.
const BEFORE_NS: u64 = 20_000_000;
/// Faults are spread over this time, so that they fall on every phase of every interval.
const SPREAD: Duration = Duration::from_millis(110);

/// Name of the figure that says what the machine does to clients whom nothing else troubles.
pub(crate) const REST_GAP: &str = "gap in as long a time without a fault";

/// What the client saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Struck {
    /// Longest time without an answer, in milliseconds.
    pub(crate) gap_ms: f64,
    /// Probes never answered.
    pub(crate) lost: usize,
    /// Longest stall of the machine from the fault to the end of the gap, in milliseconds.
    pub(crate) stall_ms: f64,
}

impl Bench<'_> {
    /// Watches a pair that nothing strikes: the longest time without an answer, in milliseconds. A gap
    /// that is not longer than this is the machine's.
    pub(crate) fn rest(subject: &dyn Subject, watch: Duration) -> f64 {
        let from = now_ns();
        std::thread::sleep(watch);
        subject.pulse().seen(from..now_ns()).gap_ns as f64 / 1e6
    }

    /// Injects a fault at a random moment and watches for a while. The fault tells when it began.
    pub(crate) fn strike(
        &self,
        subject: &mut dyn Subject,
        watch: Duration,
        fault: impl FnOnce(&mut dyn Subject) -> Result<u64>,
    ) -> Result<Struck> {
        subject.pulse().forget();
        std::thread::sleep(Duration::from_millis(30) + random_below(SPREAD));
        let at = fault(subject)?;
        std::thread::sleep(watch);
        let time = at - BEFORE_NS..now_ns() - BEFORE_NS;
        Ok(self.saw(subject, &time, at))
    }

    fn saw(&self, subject: &dyn Subject, time: &Range<u64>, fault: u64) -> Struck {
        let seen = subject.pulse().seen(time.clone());
        let late = fault + seen.gap_ns + BEFORE_NS;
        Struck {
            gap_ms: seen.gap_ns as f64 / 1e6,
            lost: seen.lost,
            stall_ms: self.stalls.longest_ms(&(time.start..late)),
        }
    }
}
