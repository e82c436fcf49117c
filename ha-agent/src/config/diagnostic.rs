//! Problems in a configuration file, as people and scripts see them.
//!
//! A [`Problem`] is found at a place in the text; [`Source`] turns it into a [`Diagnostic`] that
//! carries everything needed to show it: file, line, column, what is wrong, the line itself with a
//! caret, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Most problems shown of one file; the rest are summed up in one line.
const SHOWN: usize = 100;
/// Most problems kept of one file: one with more is not a configuration file with slips in it.
pub(crate) const PROBLEMS_MAX: usize = 1000;
/// Most characters of a line shown around the caret.
const EXCERPT: usize = 120;
/// Most characters of the file's text quoted in a message.
const QUOTE: usize = 60;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but somebody should look.
    Warning,
}

/// A place in the text: bytes from the start of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// Something wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) span: Span,
    pub(crate) severity: Severity,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// One problem of a file, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file as the user named it.
    pub file: String,
    /// Line, from 1; 0 if the file as a whole is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 if the file as a whole is meant.
    pub column: u32,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// The line itself.
    excerpt: Option<Excerpt>,
}

/// The part of a line to show, and what to mark in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Excerpt {
    line: String,
    /// Characters before the first marked one.
    caret: usize,
    /// Characters marked.
    width: usize,
}

impl Problem {
    pub(crate) fn error(span: Span, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            span,
            severity: Severity::Error,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn warning(span: Span, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, what, remedy)
        }
    }
}

impl Diagnostic {
    /// A problem with the file as a whole.
    pub fn of_file(file: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            file: printable(&file.display().to_string()),
            line: 0,
            column: 0,
            severity: Severity::Error,
            what: what.into(),
            remedy: remedy.into(),
            excerpt: None,
        }
    }
}

/// One line, as logs want it; `{:#}` shows the place, too.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {severity}: {}", self.what)?;
        if !f.alternate() {
            return write!(f, "; {}", self.remedy);
        }
        writeln!(f)?;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if let Some(excerpt) = &self.excerpt {
            writeln!(f, " {number} | {}", excerpt.line)?;
            writeln!(
                f,
                " {margin} | {}{}",
                " ".repeat(excerpt.caret),
                "^".repeat(excerpt.width)
            )?;
        }
        write!(f, " {margin} = {}", self.remedy)
    }
}

impl std::error::Error for Diagnostic {}

/// A configuration file's text and name.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    text: String,
}

impl Source {
    pub(crate) fn new(name: &Path, text: String) -> Self {
        Self {
            name: printable(&name.display().to_string()),
            text,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Makes problems showable: in the order of the file, without repetitions, and not endlessly.
    pub(crate) fn diagnose(&self, mut problems: Vec<Problem>) -> Vec<Diagnostic> {
        problems.sort_by_key(|problem| (problem.span.start, problem.severity));
        problems.dedup();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(self.text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let mut shown: Vec<Diagnostic> = problems
            .iter()
            .take(SHOWN)
            .map(|problem| self.locate(problem, &starts))
            .collect();
        if let Some(next) = problems.get(SHOWN) {
            let rest = problems.len() - SHOWN;
            let bound = if problems.len() < PROBLEMS_MAX {
                ""
            } else {
                "at least "
            };
            let sum = Problem::error(
                next.span,
                format!("{bound}{rest} more problems from here on"),
                "mend those above and check again",
            );
            shown.push(self.locate(&sum, &starts));
        }
        shown
    }

    fn locate(&self, problem: &Problem, starts: &[usize]) -> Diagnostic {
        let Range { start, end } = self.clamp(problem.span);
        let line = starts.partition_point(|&first| first <= start);
        let first = starts.get(line.wrapping_sub(1)).copied().unwrap_or(0);
        let rest = self.text.get(first..).unwrap_or_default();
        let whole = rest.split('\n').next().unwrap_or_default();
        let before = self.text.get(first..start).unwrap_or_default();
        let column = before.chars().count();
        let marked = self.text.get(start..end).unwrap_or_default();
        let marked = marked.lines().next().unwrap_or_default().trim_end();
        Diagnostic {
            file: self.name.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            severity: problem.severity,
            what: problem.what.clone(),
            remedy: problem.remedy.clone(),
            excerpt: Some(excerpt(whole, column, marked.chars().count())),
        }
    }

    /// The span as a range that is certain to lie in the text, on character boundaries.
    fn clamp(&self, span: Span) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start as usize);
        let end = self.text.floor_char_boundary(span.end as usize);
        start..end.max(start)
    }
}

/// The part of a line around a column, with nothing in it that could move a terminal's cursor.
fn excerpt(line: &str, column: usize, width: usize) -> Excerpt {
    let line = line.trim_end();
    let whole = line.chars().nth(EXCERPT).is_none();
    let skip = if whole {
        0
    } else {
        column.saturating_sub(EXCERPT / 2)
    };
    let mut text: String = line
        .chars()
        .skip(skip)
        .take(EXCERPT)
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect();
    let mut caret = column - skip;
    if skip > 0 {
        text.insert_str(0, "...");
        caret += 3;
    }
    if line.chars().nth(skip + EXCERPT).is_some() {
        text.push_str("...");
    }
    let room = text.chars().count().saturating_sub(caret);
    Excerpt {
        line: text,
        caret,
        width: width.min(room).max(1),
    }
}

/// Text without control characters.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// A piece of the file for a message: short, printable, in backquotes.
pub(crate) fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTE).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("`{}`", printable(&short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, span: Span) -> String {
        let source = Source::new(Path::new("f.yaml"), text.to_owned());
        let shown = source.diagnose(vec![Problem::error(span, "bad", "mend it")]);
        format!("{:#}", shown[0])
    }

    #[test]
    fn caret_stands_under_the_place() {
        let text = "a: 1\nb:\t\u{e9} two\n";
        let span = Span { start: 11, end: 14 };
        assert_eq!(
            show(text, span),
            "f.yaml:2:6: error: bad\n 2 | b: \u{e9} two\n   |      ^^^\n   = mend it"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let text = format!("{}x{}", "a".repeat(500), "b".repeat(500));
        let shown = show(
            &text,
            Span {
                start: 500,
                end: 501,
            },
        );
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].len() < EXCERPT + 20, "{shown}");
        let caret = lines[2].find('^').unwrap();
        assert_eq!(&lines[1][caret..=caret], "x");
    }

    #[test]
    fn places_outside_the_text_do_no_harm() {
        for span in [
            Span { start: 0, end: 0 },
            Span { start: 9, end: 3 },
            Span {
                start: u32::MAX,
                end: u32::MAX,
            },
        ] {
            assert!(show("\u{e9}\u{1b}[31m", span).contains("mend it"));
            assert!(show("", span).contains("f.yaml:1:1"));
        }
    }

    #[test]
    fn terminal_controls_are_not_repeated() {
        assert_eq!(quote("a\u{1b}[2J"), "`a\u{fffd}[2J`");
        assert!(!show("k: \u{1b}[2J\n", Span { start: 0, end: 1 }).contains('\u{1b}'));
    }

    #[test]
    fn endless_problems_are_summed_up() {
        let source = Source::new(Path::new("f"), "x\n".repeat(500));
        let problems = (0..500)
            .map(|n| {
                Problem::error(
                    Span {
                        start: 2 * n,
                        end: 2 * n + 1,
                    },
                    "bad",
                    "mend",
                )
            })
            .collect();
        let shown = source.diagnose(problems);
        assert_eq!(shown.len(), SHOWN + 1);
        assert_eq!(shown[SHOWN].what, "400 more problems from here on");
    }
}
