//! What came of each episode, and of all together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Color, Table};
use serde::Serialize;

use super::schedule::{Episode, Row};
use crate::traffic::crowd::Fates;

/// Of a pair that takes longer until it is whole, what it waited for is told.
const SLOW_MS: f64 = 5_000.0;

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Count {
    /// All that were judged.
    pub judged: u64,
    /// Of these, reset.
    pub reset: u64,
    /// Of these, got a wrong byte.
    pub corrupted: u64,
    /// Of these, not heard any more.
    pub silent: u64,
}

impl Count {
    /// Those that did not survive.
    pub const fn lost(&self) -> u64 {
        self.reset + self.corrupted + self.silent
    }

    pub(super) const fn add(&mut self, fates: Fates) {
        self.judged += fates.connections;
        self.reset += fates.reset;
        self.corrupted += fates.corrupted;
        self.silent += fates.silent;
    }
}

/// What came of an episode.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What happened.
    #[serde(flatten)]
    pub episode: Episode,
    /// The same in words.
    pub what: String,
    /// When, from the beginning of the run, in seconds.
    pub at_seconds: f64,
    /// Who was active before it.
    pub active_before: String,
    /// Who is afterwards; none if the pair did not settle.
    pub active_after: Option<String>,
    /// Longest time in which a UDP flow with a probe each millisecond had no answer.
    pub gap_ms: f64,
    /// From the first fault until one node had the addresses for good.
    pub served_ms: f64,
    /// From the first fault until the standby could take over as well.
    pub ready_ms: f64,
    /// What was last in the way of that.
    pub awaited: Option<String>,
    /// Longest time in which one node went on claiming an address after the other one had begun.
    pub overlap_ms: f64,
    /// For how long two nodes had the addresses where nothing could tell them of each other.
    pub two_ms: f64,
    /// Longest stall of the machine.
    pub stall_ms: f64,
    /// Connections that were there before the first fault.
    pub older: Count,
    /// Connections that were younger than what is promised.
    pub younger: Count,
    /// Connections that came about between the fault and its end, and were not judged.
    pub meanwhile: u64,
    /// What must never happen and did.
    pub violations: Vec<String>,
    /// Where captures, logs and state of a violation are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<PathBuf>,
}

impl Outcome {
    /// In a line for each thing worth telling.
    pub(super) fn line(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _infallible = self.tell(&mut text);
        text
    }

    fn tell(&self, text: &mut String) -> std::fmt::Result {
        let (older, younger) = (&self.older, &self.younger);
        write!(
            text,
            "{:7.1} s {:4}  {}: gap {:.0} ms, ready after {:.1} s, {} of {} connections lost",
            self.at_seconds,
            self.episode.number,
            self.what,
            self.gap_ms,
            self.ready_ms / 1e3,
            older.lost(),
            older.judged,
        )?;
        if younger.lost() > 0 {
            write!(text, ", and {} of {} young", younger.lost(), younger.judged)?;
        }
        if let Some(awaited) = self.awaited.as_ref().filter(|_| self.ready_ms > SLOW_MS) {
            write!(text, ", waited for: {awaited}")?;
        }
        for violation in &self.violations {
            write!(text, "\n               VIOLATED: {violation}")?;
        }
        Ok(())
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub schema_version: u32,
    /// The schedule's.
    pub seed: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Cores of the machine.
    pub cores: usize,
    /// Connections that were open at a time.
    pub connections: usize,
    /// How long it took.
    pub seconds: f64,
    /// Frames that were looked at.
    pub frames: u64,
    /// Instants with two nodes that claim, but for total mutual deafness.
    pub two_active: usize,
    /// Episodes of total mutual deafness in which both were active.
    pub two_active_deaf: usize,
    /// Wrong bytes, in connections and datagrams.
    pub corrupted: u64,
    /// Idle connections, judged at the end.
    pub idle: Count,
    /// Each episode.
    pub episodes: Vec<Outcome>,
    /// What ended the run before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken_off: Option<String>,
}

impl Report {
    /// Whether nothing happened that must not.
    pub fn passed(&self) -> bool {
        self.broken_off.is_none()
            && self.corrupted == 0
            && self.idle.lost() == 0
            && self.episodes.iter().all(|each| each.violations.is_empty())
    }

    /// Writes it where others look for it.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// For people.
    pub fn table(&self, colours: bool) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "fault",
            "times",
            "survived",
            "gap min",
            "median",
            "max, ms",
            "stall max",
            "ready again, s",
            "connections",
            "lost",
            "young",
            "lost",
        ]);
        if colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let mut rows = BTreeMap::<Row, Vec<&Outcome>>::new();
        for outcome in &self.episodes {
            let row = outcome.episode.first.row();
            rows.entry(row).or_default().push(outcome);
        }
        for (row, outcomes) in &rows {
            table.add_row(cells(&row.to_string(), outcomes));
        }
        table.add_row(cells("all", &self.episodes.iter().collect::<Vec<_>>()));
        for column in 1..12 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{table}\n");
        // Writing to a string cannot fail.
        let _infallible = self.words(&mut text);
        text
    }

    fn words(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "seed {}: {} episodes, {} faults, in {:.0} s; {} frames looked at",
            self.seed,
            self.episodes.len(),
            self.episodes
                .iter()
                .map(|each| each.episode.faults().count())
                .sum::<usize>(),
            self.seconds,
            self.frames,
        )?;
        writeln!(
            text,
            "two nodes with the addresses: {} times, and in {} episodes of total mutual deafness; wrong bytes: {}",
            self.two_active, self.two_active_deaf, self.corrupted
        )?;
        writeln!(
            text,
            "idle connections at the end: {} of {} lost",
            self.idle.lost(),
            self.idle.judged
        )?;
        for outcome in &self.episodes {
            if let Some(why) = outcome.episode.first.kind.may_lose()
                && outcome.older.lost() > 0
            {
                writeln!(
                    text,
                    "episode {}: {} connections lost: {why}",
                    outcome.episode.number,
                    outcome.older.lost()
                )?;
            }
            for violation in &outcome.violations {
                writeln!(
                    text,
                    "VIOLATED in episode {} at {:.1} s ({}): {violation}",
                    outcome.episode.number, outcome.at_seconds, outcome.what
                )?;
            }
            if let Some(evidence) = &outcome.evidence {
                writeln!(text, "  captures, logs and state: {}", evidence.display())?;
            }
        }
        if let Some(why) = &self.broken_off {
            writeln!(text, "BROKEN OFF: {why}")?;
        }
        Ok(())
    }
}

/// Least, median and largest.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    [0, sorted.len() / 2, sorted.len().saturating_sub(1)].map(at)
}

fn cells(name: &str, outcomes: &[&Outcome]) -> Vec<Cell> {
    let survived = outcomes.iter().filter(|o| o.violations.is_empty()).count();
    let [min, median, max] = spread(outcomes.iter().map(|o| o.gap_ms));
    let [_, _, stall] = spread(outcomes.iter().map(|o| o.stall_ms));
    let [_, ready, _] = spread(outcomes.iter().map(|o| o.ready_ms / 1e3));
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|o| of(o)).sum::<u64>();
    let number = |value: f64| Cell::new(format!("{value:.0}"));
    let kept = Cell::new(survived).fg(if survived == outcomes.len() {
        Color::Green
    } else {
        Color::Red
    });
    vec![
        Cell::new(name),
        Cell::new(outcomes.len()),
        kept,
        number(min),
        number(median),
        number(max),
        number(stall),
        Cell::new(format!("{ready:.1}")),
        Cell::new(sum(|o| o.older.judged)),
        Cell::new(sum(|o| o.older.lost())),
        Cell::new(sum(|o| o.younger.judged)),
        Cell::new(sum(|o| o.younger.lost())),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Schedule;
    use super::*;

    fn outcome(episode: Episode, gap_ms: f64, violations: Vec<String>) -> Outcome {
        Outcome {
            what: episode.to_string(),
            episode,
            at_seconds: 1.0,
            active_before: "lb1".to_owned(),
            active_after: Some("lb2".to_owned()),
            gap_ms,
            served_ms: 1.0,
            ready_ms: 1.0,
            awaited: None,
            overlap_ms: 0.0,
            two_ms: 0.0,
            stall_ms: 0.0,
            older: Count::default(),
            younger: Count::default(),
            meanwhile: 0,
            violations,
            evidence: None,
        }
    }

    fn report(episodes: Vec<Outcome>) -> Report {
        Report {
            schema_version: 1,
            seed: 1,
            kernel: String::new(),
            cores: 2,
            connections: 400,
            seconds: 1.0,
            frames: 0,
            two_active: 0,
            two_active_deaf: 0,
            corrupted: 0,
            idle: Count::default(),
            episodes,
            broken_off: None,
        }
    }

    #[test]
    fn one_violation_fails_a_run() {
        let mut schedule = Schedule::new(1, &[]);
        let episodes: Vec<_> = schedule
            .by_ref()
            .take(3)
            .map(|episode| outcome(episode, 5.0, Vec::new()))
            .collect();
        let mut report = report(episodes);
        assert!(report.passed(), "{report:?}");
        let worse = schedule
            .next()
            .map(|episode| outcome(episode, 7.0, vec!["two nodes".to_owned()]));
        report.episodes.extend(worse);
        assert!(!report.passed());
        let shown = report.table(false);
        assert!(shown.contains("VIOLATED in episode 4 at 1.0 s"), "{shown}");
    }

    #[test]
    fn a_lost_idle_connection_fails_a_run() {
        let mut report = report(Vec::new());
        assert!(report.passed());
        report.idle.silent = 1;
        assert!(!report.passed());
    }

    #[test]
    fn least_median_largest() {
        let near = |found: [f64; 3], wanted: [f64; 3]| {
            let mut pairs = found.iter().zip(wanted);
            pairs.all(|(found, wanted)| (found - wanted).abs() < 1e-9)
        };
        let of = |values: &[f64]| spread(values.iter().copied());
        assert!(near(of(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]));
        assert!(near(of(&[]), [0.0; 3]));
    }
}
