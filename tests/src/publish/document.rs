//! The JSON of a benchmark, read again.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::bench::{Origin, Promise, Summary};

/// What a benchmark has written.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Document {
    schema_version: u32,
    /// Machine, programs and command.
    pub(super) origin: Origin,
    /// How long it took.
    pub(super) seconds: f64,
    /// All that was measured.
    pub(super) figures: Vec<Figure>,
    /// Cases that could not be measured to the end, and why.
    pub(super) failures: Vec<(String, String)>,
}

/// The values of all runs.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Figure {
    /// The case, as the command line names it.
    pub(super) case: String,
    /// Who was measured, with its timing.
    pub(super) who: String,
    /// What was measured.
    pub(super) what: String,
    /// In which unit.
    pub(super) unit: String,
    /// What is promised.
    pub(super) promise: Promise,
    /// Value of each run.
    pub(super) runs: Vec<f64>,
    /// Longest stall of the machine that fell into each run, in milliseconds; zero is none.
    pub(super) stalls_ms: Vec<f64>,
}

impl Figure {
    /// In short; none without runs.
    pub(super) fn summary(&self) -> Option<Summary> {
        Summary::of(self.promise, &self.runs)
    }
}

impl Document {
    /// A figure, if it was measured.
    pub(super) fn figure(&self, case: &str, who: &str, what: &str) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.case == case && figure.who == who && figure.what == what)
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Document> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let document: Document = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what a benchmark writes", path.display()))?;
    ensure!(
        document.schema_version == 2,
        "{}: schema version {}, and this program reads 2: measure again",
        path.display(),
        document.schema_version
    );
    Ok(document)
}
