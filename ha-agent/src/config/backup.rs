//! Backups of a configuration file, and what a restore makes of one.
//!
//! A backup is the file itself, after four lines of comment: the format, when and by whom it was made, whose it is,
//! and a checksum of all that follows. A person can read it, and `check-config -f` takes it. Keys and passphrases are
//! files of their own, which the configuration only names: a backup never holds any.

use std::fmt::Write as _;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};

use super::model::{Config, Mode};
use super::{Diagnostic, Loaded};
use crate::proto::hex;

/// How the first line begins; the format's number follows.
const HEAD: &str = "# ha-agent backup, format ";
/// The format that is written and read.
const FORMAT: &str = "1";
/// Lines before the configuration file.
const HEADER_LINES: usize = 4;

/// Why a backup cannot be restored as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something else.
    #[error("not a backup: its first line does not begin with `{HEAD}`")]
    NotOne,
    /// Of another version's.
    #[error("a backup of format {0}, and this version reads format {FORMAT}")]
    Format(String),
    /// Damaged.
    #[error("cut short or changed since it was made: its checksum is not that of its content")]
    Checksum,
    /// What it holds cannot be used.
    #[error("the configuration in it cannot be used")]
    Configuration(Vec<Diagnostic>),
    /// Of a node alone, for a node of a pair, or the reverse.
    #[error("a backup of {0}, and this is {1}")]
    OtherKind(&'static str, &'static str),
    /// `node` of the other node.
    #[error("the section `node` in it is that of the {0} node, and this is the {1}")]
    OtherNode(&'static str, &'static str),
    /// A file that is not written section by section.
    #[error("{0}: line {1} begins no section, so parts of this file cannot be replaced")]
    NoSections(&'static str, usize),
    /// The parts do not fit each other as text.
    #[error("the chosen parts would not mean in the new file what they mean in the backup")]
    Meaning,
}

/// A part of a configuration file that can be restored by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The section `node`: this node's interfaces and files
    Node,
    /// The pair: everything but the other two
    Pair,
    /// The section `virtual_services`
    Services,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Node, Self::Pair, Self::Services];

    fn of(section: &str) -> Self {
        match section {
            "node" => Self::Node,
            "virtual_services" => Self::Services,
            _ => Self::Pair,
        }
    }
}

/// A backup that can be read.
#[derive(Clone, Debug)]
pub struct Backup {
    /// What is in it.
    pub loaded: Loaded,
    text: String,
}

/// Makes a backup of a configuration.
pub fn make(loaded: &Loaded, now: Timestamp) -> String {
    let node = &loaded.config.node;
    let body = loaded.text();
    // Of a backup that was put in place as it is, the file is what follows its header.
    let body = without_header(body).unwrap_or(body);
    let made = now.round(Unit::Second).unwrap_or(now);
    let mut text = String::with_capacity(body.len() + 256);
    // Writing to a string cannot fail.
    let _infallible = write!(
        text,
        "{HEAD}{FORMAT}\n# made {made} by ha-agent {}\n# node {}, {}\n# sha256 {} of everything below this line\n{body}",
        env!("CARGO_PKG_VERSION"),
        node.name,
        place(node.mode),
        checksum(body),
    );
    text
}

impl Backup {
    /// Reads a backup; `path` only names it in messages.
    pub fn read(path: &Path, bytes: Vec<u8>) -> Result<Self, BackupError> {
        let text = String::from_utf8(bytes).map_err(|_binary| BackupError::NotOne)?;
        let format = text.strip_prefix(HEAD).and_then(|rest| rest.lines().next());
        match format.map(str::trim) {
            Some(FORMAT) => {}
            Some(other) => return Err(BackupError::Format(other.chars().take(20).collect())),
            None => return Err(BackupError::NotOne),
        }
        let body = without_header(&text).ok_or(BackupError::Checksum)?;
        let noted = text
            .lines()
            .nth(HEADER_LINES - 1)
            .and_then(|line| line.strip_prefix("# sha256 ")?.split(' ').next());
        if noted != Some(&checksum(body)) {
            return Err(BackupError::Checksum);
        }
        let body = body.to_owned();
        // With its header, so that lines are numbered as a person sees them.
        let loaded = Config::parse(path, text.into_bytes()).map_err(BackupError::Configuration)?;
        Ok(Self { loaded, text: body })
    }

    /// The file that restoring these parts makes of `current`: of none, where there is no file yet, all of them.
    pub fn restore(&self, current: Option<&Loaded>, parts: &[Part]) -> Result<String, BackupError> {
        let Some(current) = current else {
            return Ok(self.text.clone());
        };
        let (old, new) = (current.config.node.mode, self.loaded.config.node.mode);
        if (old == Mode::Off) != (new == Mode::Off) {
            return Err(BackupError::OtherKind(kind(new), kind(old)));
        }
        if parts.contains(&Part::Node) && old != new {
            return Err(BackupError::OtherNode(place(new), place(old)));
        }
        if Part::ALL.iter().all(|part| parts.contains(part)) {
            return Ok(self.text.clone());
        }
        let chosen = |section: &Section<'_>| parts.contains(&Part::of(section.name));
        let mut theirs =
            sections(&self.text).map_err(|at| BackupError::NoSections("the backup", at))?;
        let ours = sections(current.text())
            .map_err(|at| BackupError::NoSections("the file in place", at))?;
        theirs.retain(chosen);
        let mut text = String::new();
        for section in &ours {
            if !chosen(section) {
                text.push_str(section.text);
            } else if let Some(at) = theirs.iter().position(|their| their.name == section.name) {
                text.push_str(theirs.remove(at).text);
            }
            end_line(&mut text);
        }
        for section in theirs {
            text.push_str(section.text);
            end_line(&mut text);
        }
        Ok(text)
    }

    /// Whether every part of a restored file means what it should: what YAML makes of a text may hang on other parts.
    pub fn check(
        &self,
        restored: &Config,
        current: Option<&Config>,
        parts: &[Part],
    ) -> Result<(), BackupError> {
        let stored = &self.loaded.config;
        let from = |part| match current {
            Some(current) if !parts.contains(&part) => current,
            _ => stored,
        };
        let as_meant = restored.node == from(Part::Node).node
            && restored.shared_addresses == from(Part::Pair).shared_addresses
            && restored.limits == from(Part::Pair).limits
            && restored.records == from(Part::Pair).records
            && restored.virtual_services == from(Part::Services).virtual_services
            && restored.disabled_services == from(Part::Services).disabled_services;
        if as_meant {
            Ok(())
        } else {
            Err(BackupError::Meaning)
        }
    }
}

/// A top-level key with all that belongs to it, and the comments above it.
struct Section<'a> {
    name: &'a str,
    text: &'a str,
}

/// The sections of a file that is written in blocks; else the line that cannot be told.
fn sections(text: &str) -> Result<Vec<Section<'_>>, usize> {
    let mut starts: Vec<(usize, &str)> = Vec::new();
    // Where the comments and empty lines right above the next key begin.
    let mut above = None;
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let start = at;
        at += line.len();
        match line.chars().next() {
            Some('#' | '\n' | '\r') => {
                above.get_or_insert(start);
                continue;
            }
            // A list may stand below its key without indentation.
            Some(' ' | '\t' | '-') if !line.starts_with("---") => {}
            Some(first) if first.is_alphabetic() || matches!(first, '"' | '\'') => {
                let (name, _) = line.split_once(':').ok_or(number + 1)?;
                let name = name.trim_matches(['"', '\'', ' ']);
                starts.push((above.unwrap_or(start), name));
            }
            Some(_) => return Err(number + 1),
            None => {}
        }
        above = None;
    }
    let ends = starts
        .iter()
        .skip(1)
        .map(|(start, _)| *start)
        .chain([text.len()]);
    let sections = starts.iter().zip(ends).enumerate();
    Ok(sections
        .map(|(index, ((start, name), end))| Section {
            name,
            // What stands before the first key stays with it.
            text: text
                .get(if index == 0 { 0 } else { *start }..end)
                .unwrap_or_default(),
        })
        .collect())
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// What follows the header; none if there is no whole one.
fn without_header(text: &str) -> Option<&str> {
    if !text.starts_with(HEAD) {
        return None;
    }
    let (end, _) = text.match_indices('\n').nth(HEADER_LINES - 1)?;
    text.get(end + 1..)
}

fn checksum(body: &str) -> String {
    hex::encode(digest(&SHA256, body.as_bytes()).as_ref())
}

const fn kind(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "a node alone (`mode: off`)",
        Mode::First | Mode::Second => "a node of a pair",
    }
}

const fn place(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "alone",
        Mode::First => "first",
        Mode::Second => "second",
    }
}
