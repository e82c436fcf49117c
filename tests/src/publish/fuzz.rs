//! What `cargo xtask fuzz` came to, as figures of a benchmark.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::bench::{Promise, Report, Row, say};
use crate::fuzz::TARGETS;

/// Who played the inputs.
const WHO: &str = "libFuzzer";
/// What a line says of a target behind its name.
const COLUMNS: [(&str, &str, Promise); 5] = [
    ("time", "s", Promise::Nothing),
    ("executions", "count", Promise::Nothing),
    ("edges", "count", Promise::Nothing),
    ("inputs kept", "count", Promise::Nothing),
    ("inputs that break it", "count", Promise::Always(0.0)),
];

/// Writes the figures of a file of accounts: its first line is the command, each further one a target's name and
/// [`COLUMNS`].
pub(super) fn write(accounts: &Path, to: &Path) -> Result<()> {
    let text = fs::read_to_string(accounts)
        .with_context(|| format!("cannot read {}", accounts.display()))?;
    let (command, lines) = text.split_once('\n').context("no accounts")?;
    let (report, seconds) = read(lines)?;
    report.write(command.to_owned(), seconds, to)?;
    say(&format!("written to {}", to.display()));
    Ok(())
}

fn read(lines: &str) -> Result<(Report, f64)> {
    let mut report = Report::default();
    let mut seconds = 0.0;
    for line in lines.lines() {
        let mut words = line.split_whitespace();
        let name = words.next().context("a line without a target")?;
        let target = TARGETS.iter().find(|target| target.name == name);
        let target = target.with_context(|| format!("there is no target {name}"))?;
        let values = words
            .map(str::parse::<f64>)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| line.to_owned())?;
        ensure!(values.len() == COLUMNS.len(), "{line}: not an account");
        seconds += values.first().unwrap_or(&0.0);
        for ((what, unit, promise), value) in COLUMNS.into_iter().zip(values) {
            let row = Row {
                case: target.name,
                who: WHO,
                what,
                unit,
                promise,
            };
            report.add(&row, value, 0.0);
        }
    }
    Ok((report, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_figures() {
        let (report, seconds) = read("carp 180 5000 320 34 0\npair 60 7 2 1 1\n").unwrap();
        assert_eq!(seconds.to_bits(), 240f64.to_bits());
        let broken: Vec<_> = report
            .figures()
            .iter()
            .filter(|figure| figure.row.what == "inputs that break it")
            .map(|figure| (figure.row.case, figure.summary().unwrap().kept))
            .collect();
        assert_eq!(broken, [("carp", Some(true)), ("pair", Some(false))]);
        for bad in ["nobody 1 2 3 4 5", "carp 1 2 3 4", "carp 1 2 3 4 x", " "] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
