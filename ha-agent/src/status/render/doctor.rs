//! What `ha-agent doctor` found.

use std::fmt::Write as _;

use comfy_table::Color;

use super::{Style, clean};
use crate::doctor::{Finding, Verdict, worst};

/// `ha-agent doctor`: a line in sum, then one for each finding, with what to do where something is.
pub fn findings(findings: &[Finding], style: Style) -> String {
    let count = |verdict| {
        let all = findings.iter();
        all.filter(|finding| finding.verdict == verdict).count()
    };
    let (word, color) = match worst(findings) {
        Verdict::Pass => ("OK", Color::Green),
        Verdict::Warn => ("WARNING", Color::Yellow),
        Verdict::Fail => ("CRITICAL", Color::Red),
        Verdict::Skip => ("UNKNOWN", Color::Yellow),
    };
    let mut out = format!(
        "{}: {} failed, {} to look at, {} passed, {} not made\n\n",
        style.paint(word, color),
        count(Verdict::Fail),
        count(Verdict::Warn),
        count(Verdict::Pass),
        count(Verdict::Skip)
    );
    let width = findings.iter().map(|finding| finding.check.len()).max();
    let width = width.unwrap_or_default();
    for finding in findings {
        let color = match finding.verdict {
            Verdict::Pass => Color::Green,
            Verdict::Fail => Color::Red,
            Verdict::Warn | Verdict::Skip => Color::Yellow,
        };
        let verdict = style.paint(finding.verdict.as_str(), color);
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            out,
            "{verdict}  {:<width$}  {}",
            finding.check,
            clean(&finding.evidence)
        );
        if let Some(remedy) = &finding.remedy {
            let _infallible = writeln!(out, "      {:<width$}  = {}", "", clean(remedy));
        }
    }
    out
}
