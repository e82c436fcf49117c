//! All figures of a run, as a table and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Color, Table};
use serde::Serialize;

use super::figure::{Figure, Row, Summary};
use super::origin::{Origin, typed};
use super::say;

/// Name under which this project's agent stands in [`Row::who`].
pub(crate) const AGENT: &str = "ha-agent";

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    figures: Vec<Figure>,
    /// Cases that could not be measured to the end, and why.
    failures: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    origin: Origin,
    seconds: f64,
    figures: Vec<Entry<'a>>,
    ratios: Vec<Ratio>,
    failures: &'a [(&'static str, String)],
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    figure: &'a Figure,
    summary: Option<Summary>,
}

/// This project's median as a part of a rival's, in one case of one run.
#[derive(Serialize)]
struct Ratio {
    case: &'static str,
    what: &'static str,
    agent: &'static str,
    rival: &'static str,
    times: f64,
}

impl Report {
    /// Adds the value of a run, and the longest stall that fell into it.
    pub fn add(&mut self, row: &Row, value: f64, stall_ms: f64) {
        let same = |figure: &&mut Figure| {
            let found = &figure.row;
            (found.case, found.who, found.what) == (row.case, row.who, row.what)
        };
        if let Some(figure) = self.figures.iter_mut().find(same) {
            figure.runs.push(value);
            figure.stalls_ms.push(stall_ms);
        } else {
            self.figures.push(Figure {
                row: *row,
                runs: vec![value],
                stalls_ms: vec![stall_ms],
            });
        }
    }

    /// Notes that a case could not be measured to the end.
    pub fn fail(&mut self, case: &'static str, why: String) {
        self.failures.push((case, why));
    }

    /// The median of this project's time in a case, if it was measured.
    pub(crate) fn median(&self, case: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|f| f.row.case == case)?;
        Some(figure.summary()?.median)
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// Whether everything was measured and every promise kept.
    pub fn all_kept(&self) -> bool {
        let kept = |figure: &Figure| figure.summary().is_some_and(|s| s.kept != Some(false));
        self.failures.is_empty() && self.figures.iter().all(kept)
    }

    fn ratios(&self) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        for ours in self.figures.iter().filter(|f| f.row.who.starts_with(AGENT)) {
            let (case, what) = (ours.row.case, ours.row.what);
            let rivals = self.figures.iter().filter(|other| {
                let row = &other.row;
                row.case == case && row.what == what && !row.who.starts_with(AGENT)
            });
            for rival in rivals {
                if let (Some(mine), Some(theirs)) = (ours.summary(), rival.summary())
                    && theirs.median > 0.0
                    && ours.row.unit == "ms"
                {
                    ratios.push(Ratio {
                        case,
                        what,
                        agent: ours.row.who,
                        rival: rival.row.who,
                        times: mine.median / theirs.median,
                    });
                }
            }
        }
        ratios
    }

    /// Writes the JSON where later runs and documents look for it, and returns it. `command` is what one types to
    /// have such figures.
    pub(crate) fn write(&self, command: String, seconds: f64, path: &Path) -> Result<String> {
        let text = self.json(command, seconds)?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, format!("{text}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(text)
    }

    /// Shows the figures as JSON or as a table, and writes the JSON. `verb` is the benchmark's name.
    pub fn publish(&self, verb: &str, seconds: f64, json: bool, path: &Path) -> Result<()> {
        let text = self.write(typed(&format!("bench {verb}")), seconds, path)?;
        let mut out = std::io::stdout();
        if json {
            writeln!(out, "{text}")?;
        } else {
            let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            write!(out, "{}", self.table(colours))?;
        }
        say(&format!("written to {}", path.display()));
        Ok(())
    }

    fn json(&self, command: String, seconds: f64) -> Result<String> {
        let document = Document {
            schema_version: 2,
            origin: Origin::here(command)?,
            seconds,
            figures: self
                .figures
                .iter()
                .map(|figure| Entry {
                    figure,
                    summary: figure.summary(),
                })
                .collect(),
            ratios: self.ratios(),
            failures: &self.failures,
        };
        Ok(serde_json::to_string_pretty(&document)?)
    }

    /// For people.
    pub fn table(&self, colours: bool) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "case", "who", "what", "n", "median", "p95", "min", "max", "promise", "", "stalls",
        ]);
        if colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for figure in &self.figures {
            if let Some(summary) = figure.summary() {
                table.add_row(cells(figure, &summary));
            }
        }
        for column in 3..8 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{table}\n");
        // Writing to a string cannot fail.
        for ratio in self.ratios() {
            let _infallible = writeln!(
                text,
                "{}, {}: {} takes {:.2} of the time of {}",
                ratio.case, ratio.what, ratio.agent, ratio.times, ratio.rival
            );
        }
        for (case, why) in &self.failures {
            let _infallible = writeln!(text, "{case}: NOT MEASURED TO THE END: {why}");
        }
        text
    }
}

fn cells(figure: &Figure, summary: &Summary) -> Vec<Cell> {
    let row = &figure.row;
    let number = |value: f64| {
        Cell::new(if matches!(row.unit, "ms" | "times" | "s" | "frames") {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        })
    };
    let verdict = match summary.kept {
        None => Cell::new(""),
        Some(true) => Cell::new("kept").fg(Color::Green),
        Some(false) => Cell::new("BROKEN").fg(Color::Red),
    };
    let stalled = figure.stalls_ms.iter().filter(|ms| **ms > 0.0).count();
    let longest = figure.stalls_ms.iter().copied().fold(0.0, f64::max);
    vec![
        Cell::new(row.case),
        Cell::new(row.who),
        Cell::new(format!("{}, {}", row.what, row.unit)),
        Cell::new(summary.n),
        number(summary.median),
        number(summary.p95),
        number(summary.min),
        number(summary.max),
        Cell::new(row.promise.shown()),
        verdict,
        Cell::new(if stalled == 0 {
            "none".to_owned()
        } else {
            format!("{stalled} runs, {longest:.0} ms")
        }),
    ]
}
