//! A node's monotonic clock: true time with an offset and a drift.

use ha_agent::proto::time::Instant;

/// Converts between true time (nanoseconds since the simulation began) and a node's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    /// Parts per million by which it runs fast.
    drift_ppm: i64,
}

impl Clock {
    /// A clock that showed `offset` when the simulation began.
    pub fn new(offset: u64, drift_ppm: i64) -> Self {
        Self { offset, drift_ppm }
    }

    /// What it shows at a true time.
    pub fn show(&self, truth: u64) -> Instant {
        let drift = i128::from(truth) * i128::from(self.drift_ppm) / 1_000_000;
        Instant::from_nanos(unsigned(
            i128::from(self.offset) + i128::from(truth) + drift,
        ))
    }

    /// The first true time at which it shows at least this; 0 if it always did.
    pub fn truth(&self, shown: Instant) -> u64 {
        let since = i128::from(shown.as_nanos()) - i128::from(self.offset);
        let mut truth = unsigned(since * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm)));
        while self.show(truth) < shown && truth < FAR {
            truth += 1;
        }
        truth
    }
}

/// A time no simulation reaches.
const FAR: u64 = u64::MAX / 2;

fn unsigned(nanos: i128) -> u64 {
    u64::try_from(nanos.clamp(0, FAR.into())).unwrap_or(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_agree() {
        for drift in [-100, 0, 100, 20_000] {
            let clock = Clock::new(5_000_000_000, drift);
            for truth in [0, 1, 999_999_999, 86_400_000_000_000] {
                let shown = clock.show(truth);
                let back = clock.truth(shown);
                assert!(clock.show(back) >= shown);
                assert!(back.abs_diff(truth) <= 2, "{drift} {truth} {back}");
            }
        }
    }
}
