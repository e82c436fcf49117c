//! `cargo xtask bench report`: the figures of the benchmarks as a page with pictures, made from their JSON and
//! from nothing else.
//!
//! `docs/benchmarks/*.json` are the runs that are shown, each named as its benchmark, or as that and something more
//! (`replication-lives.json`, a run of some cases), `docs/benchmarks.md` and `docs/benchmarks/*.svg` the page,
//! and a block of the README says the most important of it. A test makes them again and compares.

mod chart;
mod document;
mod fuzz;
mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::bench::say;

/// The benchmarks, in the order of the page.
const BENCHES: &[&str] = &["failover", "replication", "datapath", "chaos", "fuzz"];

/// One file of figures.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    bench: &'static str,
    /// The file's name without its ending.
    name: String,
}

impl Run {
    fn file(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.json", self.name))
    }
}

/// The runs in a directory, in the order of the page.
fn runs(dir: &Path) -> Result<Vec<Run>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .map(str::to_owned),
        );
    }
    names.sort_unstable();
    let of = |bench: &'static str| {
        let is = move |name: &&String| {
            name.strip_prefix(bench)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let run = move |name: &String| Run {
            bench,
            name: name.clone(),
        };
        names.iter().filter(is).map(run)
    };
    Ok(BENCHES.iter().copied().flat_map(of).collect())
}

/// Takes over the JSON of new runs, and makes the page of benchmarks from all there is.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo xtask bench report",
    bin_name = "cargo xtask bench report",
    version
)]
pub struct Options {
    /// Where new JSON is looked for; what is not there stays as it was.
    #[arg(long, default_value = "target/bench", value_name = "DIRECTORY")]
    pub from: PathBuf,
    /// Root of the sources whose README and docs are written.
    #[arg(long, default_value = ".", value_name = "DIRECTORY")]
    pub to: PathBuf,
    /// Only make new JSON of the accounts that `cargo xtask fuzz` leaves.
    #[arg(long, value_name = "FILE")]
    pub fuzz: Option<PathBuf>,
}

/// Writes the page.
pub fn run(options: &Options) -> Result<()> {
    if let Some(accounts) = &options.fuzz {
        return fuzz::write(accounts, &options.from.join("fuzz.json"));
    }
    let kept = options.to.join("docs/benchmarks");
    fs::create_dir_all(&kept)?;
    for run in runs(&options.from)? {
        let (fresh, place) = (run.file(&options.from), run.file(&kept));
        // Nothing is published that cannot be read again.
        document::read(&fresh)?;
        fs::copy(&fresh, &place)?;
        say(&format!(
            "{}: taken from {}",
            place.display(),
            fresh.display()
        ));
    }
    for (path, text) in pages(&options.to)? {
        let path = options.to.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("written: {}", path.display()));
    }
    Ok(())
}

/// Everything that is made from the JSON below `root`, by path relative to it.
pub fn pages(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let kept = root.join("docs/benchmarks");
    let mut documents = Vec::new();
    for run in runs(&kept)? {
        let document = document::read(&run.file(&kept))?;
        documents.push((run, document));
    }
    let mut made = BTreeMap::new();
    for (run, document) in &documents {
        for chart in chart::of(run.bench) {
            if let Some(drawn) = chart.draw(document)? {
                made.insert(chart.path(run), drawn);
            }
        }
    }
    let page = page::whole(&documents, |path| made.contains_key(path));
    let readme = fs::read_to_string(root.join("README.md")).context("no README.md")?;
    made.insert("README.md".into(), page::readme(&readme, &documents)?);
    made.insert("docs/benchmarks.md".into(), page);
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody has edited the figures of the documents.
    #[test]
    fn documents_are_those_of_the_json() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let made = pages(&root).unwrap();
        for (path, text) in &made {
            let there = fs::read_to_string(root.join(path)).unwrap_or_default();
            assert!(
                there == *text,
                "{} is not made from docs/benchmarks/*.json: run `cargo xtask bench report`",
                path.display()
            );
        }
        let svg = |path: &Path| path.extension().is_some_and(|end| end == "svg");
        for entry in fs::read_dir(root.join("docs/benchmarks")).unwrap() {
            let path = Path::new("docs/benchmarks").join(entry.unwrap().file_name());
            assert!(
                !svg(&path) || made.contains_key(&path),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_run_is_published_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("docs/benchmarks")).unwrap();
        fs::create_dir_all(root.join("fresh")).unwrap();
        fs::write(root.join("README.md"), page::empty_block()).unwrap();
        let mut report = crate::bench::Report::default();
        let row = crate::bench::Row {
            case: "power-off",
            who: "ha-agent 10/30 ms",
            what: "gap",
            unit: "ms",
            promise: crate::bench::Promise::MedianAtMost(30.0),
        };
        for gap in [24.5, 0.0, 31.25] {
            report.add(&row, gap, 0.0);
        }
        report
            .publish("failover", 60.0, true, &root.join("fresh/failover.json"))
            .unwrap();
        run(&Options {
            from: root.join("fresh"),
            to: root.to_owned(),
            fuzz: None,
        })
        .unwrap();
        let page = fs::read_to_string(root.join("docs/benchmarks.md")).unwrap();
        let line = "| power-off | ha-agent 10/30 ms | gap | ms | 3 | 24.5 | 31.2 | 0 | 31.2 | median ≤ 30 | kept |  |";
        assert!(page.contains(line), "{page}");
        let readme = fs::read_to_string(root.join("README.md")).unwrap();
        assert!(readme.contains("| 24.5 ms (10/30 ms) |"), "{readme}");
        let picture = fs::read_to_string(root.join("docs/benchmarks/failover-gap.svg")).unwrap();
        assert_eq!(picture.matches("<circle").count(), 3, "{picture}");
    }
}
