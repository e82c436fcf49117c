//! Figures: what was measured in each run, and whether it is what was promised.

use serde::{Deserialize, Serialize};

/// What is promised of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// Its median is at most this.
    MedianAtMost(f64),
    /// It never is more than this.
    NeverMoreThan(f64),
    /// It is this in every run.
    Always(f64),
    /// It is at least this in every run.
    AtLeast(f64),
    /// Nothing: it is here for comparison.
    Nothing,
}

/// What a figure is about.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// The case, as the command line names it.
    pub case: &'static str,
    /// Who was measured, with its timing.
    pub who: &'static str,
    /// What was measured.
    pub what: &'static str,
    /// In which unit.
    pub unit: &'static str,
    /// What is promised.
    pub promise: Promise,
}

/// A figure: the values of all runs.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is about.
    #[serde(flatten)]
    pub row: Row,
    /// Value of each run.
    pub runs: Vec<f64>,
    /// Longest stall of the machine that fell into each run, in milliseconds; zero is none.
    pub stalls_ms: Vec<f64>,
}

/// A figure in short.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Number of runs.
    pub n: usize,
    /// Median.
    pub median: f64,
    /// 95 per cent of the runs do not exceed it.
    pub p95: f64,
    /// Least.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Whether the promise was kept; none if nothing was promised.
    pub kept: Option<bool>,
}

impl Figure {
    /// Its summary; `None` without runs.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(self.row.promise, &self.runs)
    }
}

impl Summary {
    /// Of the values of some runs; `None` without runs.
    pub fn of(promise: Promise, runs: &[f64]) -> Option<Self> {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |per_cent: usize| {
            let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied()
        };
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(*sorted.get(middle - 1)?, upper)
        } else {
            upper
        };
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let kept = match promise {
            Promise::MedianAtMost(limit) => Some(median <= limit),
            Promise::NeverMoreThan(limit) => Some(max <= limit),
            Promise::Always(value) => Some(runs.iter().all(|run| run.total_cmp(&value).is_eq())),
            Promise::AtLeast(limit) => Some(min >= limit),
            Promise::Nothing => None,
        };
        Some(Self {
            n: sorted.len(),
            median,
            p95: rank(95)?,
            min,
            max,
            kept,
        })
    }
}

impl Promise {
    /// For people.
    pub fn shown(self) -> String {
        match self {
            Self::MedianAtMost(limit) => format!("median ≤ {limit}"),
            Self::NeverMoreThan(limit) => format!("max ≤ {limit}"),
            Self::Always(value) => format!("always {value}"),
            Self::AtLeast(limit) => format!("min ≥ {limit}"),
            Self::Nothing => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(promise: Promise, runs: &[f64]) -> Figure {
        Figure {
            row: Row {
                case: "case",
                who: "who",
                what: "what",
                unit: "ms",
                promise,
            },
            runs: runs.to_vec(),
            stalls_ms: Vec::new(),
        }
    }

    #[test]
    fn summaries() {
        let summary = figure(Promise::Nothing, &[4.0, 1.0, 3.0, 2.0])
            .summary()
            .unwrap();
        assert_eq!((summary.n, summary.median, summary.kept), (4, 2.5, None));
        assert_eq!((summary.min, summary.p95, summary.max), (1.0, 4.0, 4.0));
        assert_eq!(figure(Promise::Nothing, &[]).summary(), None);
    }

    #[test]
    fn promises() {
        let kept = |promise, runs: &[f64]| figure(promise, runs).summary().unwrap().kept;
        assert_eq!(
            kept(Promise::MedianAtMost(2.0), &[1.0, 2.0, 9.0]),
            Some(true)
        );
        assert_eq!(
            kept(Promise::NeverMoreThan(2.0), &[1.0, 2.0, 9.0]),
            Some(false)
        );
        assert_eq!(kept(Promise::Always(1.0), &[1.0, 1.0]), Some(true));
        assert_eq!(kept(Promise::Always(1.0), &[1.0, 2.0]), Some(false));
        assert_eq!(kept(Promise::AtLeast(2.0), &[1.0, 2.0]), Some(false));
    }
}
