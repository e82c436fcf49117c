//! The highest rate without loss, and how old frames were: arithmetic only.

use ha_common::line::bucket_end;

/// What a trial showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Trial {
    /// Frames sent, and how many came back.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// At which rate they were sent, in frames a second.
    pub(super) rate: f64,
    /// How many were how old, by class of [`ha_common::line::bucket`].
    pub(super) ages: Vec<u64>,
}

impl Trial {
    pub(super) const fn without_loss(&self) -> bool {
        self.sent > 0 && self.received >= self.sent
    }

    /// Age in microseconds that this part of the frames, in 1/1000, did not exceed.
    pub(super) fn age_us(&self, permille: u64) -> f64 {
        let all: u64 = self.ages.iter().sum();
        let rank = (all * permille).div_ceil(1000).max(1);
        let mut below = 0;
        for (class, count) in self.ages.iter().enumerate() {
            below += count;
            if below >= rank {
                return bucket_end(class) as f64 / 1e3;
            }
        }
        0.0
    }
}

/// Halves the distance between a rate that works and one that does not until they differ by `part` of the
/// higher one (RFC 2544 section 26.1 calls the result throughput). `trial` gets a rate and tells what it showed.
/// None if even the lowest rate loses frames.
pub(super) fn throughput<E>(
    highest: f64,
    part: f64,
    mut trial: impl FnMut(f64) -> Result<Trial, E>,
) -> Result<Option<f64>, E> {
    let first = trial(highest)?;
    if first.without_loss() {
        return Ok(Some(first.rate.min(highest)));
    }
    let (mut works, mut fails) = (None, highest);
    loop {
        let low = works.unwrap_or(0.0);
        if fails - low <= highest * part {
            return Ok(works);
        }
        let seen = trial(f64::midpoint(low, fails))?;
        if seen.without_loss() {
            works = Some(seen.rate.min(f64::midpoint(low, fails)));
            if works <= Some(low) {
                // The generator does not get any faster.
                return Ok(works);
            }
        } else {
            fails = f64::midpoint(low, fails);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ha_common::line::{BUCKETS, bucket};

    use super::*;

    fn device(limit: f64) -> impl FnMut(f64) -> Result<Trial, Infallible> {
        move |rate| {
            Ok(Trial {
                sent: 1000,
                received: if rate <= limit { 1000 } else { 999 },
                rate,
                ages: Vec::new(),
            })
        }
    }

    #[test]
    fn the_limit_is_found_from_below() {
        for limit in [20.0, 333.0, 500.0, 501.0, 990.0] {
            let found = throughput(1000.0, 0.01, device(limit)).unwrap().unwrap();
            assert!(
                found <= limit && limit - found <= 10.0,
                "{found} of {limit}"
            );
        }
    }

    #[test]
    fn a_device_that_keeps_up_needs_one_trial() {
        let mut trials = 0;
        let found = throughput(1000.0, 0.01, |rate| {
            trials += 1;
            device(5000.0)(rate)
        });
        assert_eq!((found, trials), (Ok(Some(1000.0)), 1));
    }

    #[test]
    fn one_that_always_loses_has_none() {
        assert_eq!(throughput(1000.0, 0.01, device(0.0)), Ok(None));
    }

    #[test]
    fn ages_by_rank() {
        let mut ages = vec![0; BUCKETS];
        for ns in [5, 1_000, 1_000, 2_000_000] {
            ages[bucket(ns)] += 1;
        }
        let trial = Trial {
            ages,
            ..Trial::default()
        };
        assert!((trial.age_us(500) - 1.0).abs() < 0.07);
        assert!((trial.age_us(1000) - 2000.0).abs() < 130.0);
        assert!(trial.age_us(1) < 0.01);
        assert!(Trial::default().age_us(500).abs() < f64::EPSILON);
    }
}
