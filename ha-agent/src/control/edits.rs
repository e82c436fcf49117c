//! A change of the configuration that is looked at before it is made.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Refusal, Reply};
use crate::config::backup::{Backup, BackupError, Part};
use crate::config::edit::{self, Edit, EditError};
use crate::config::lines::{self, Line};
use crate::config::model::Config;
use crate::config::{self, Diagnostic, Difference, Loaded};
use crate::proto::hex;
use crate::status::model::SCHEMA_VERSION;

/// What somebody wants to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Wanted {
    /// Values in the file in place.
    Edits(Vec<Edit>),
    /// All of the file.
    Text(String),
    /// Parts of a backup.
    Restore {
        /// The backup, as it was made.
        backup: String,
        /// Which parts; none = all.
        #[serde(default)]
        parts: Vec<Part>,
    },
}

/// What a change would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// [`crate::status::model::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Fingerprint of the file that it would change: to be given when the change is made.
    pub base: String,
    /// The text, line by line; empty if nothing changes.
    pub lines: Vec<Line>,
    /// What changes under traffic, one sentence each.
    pub changes: Vec<String>,
    /// What would be in force after a restart only.
    pub restart: Vec<Diagnostic>,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
    /// Why it cannot be made on this node now; null if it can.
    pub refused: Option<Refusal>,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Number of the configuration's version now.
    pub generation: u64,
    /// What changed under traffic, one sentence each.
    pub changes: Vec<String>,
    /// What is in force after a restart only.
    pub restart: Vec<Diagnostic>,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
}

/// The order to make a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// [`Preview::base`] of what was looked at.
    pub base: String,
    /// Whether it may also hold what is in force after a restart only.
    #[serde(default)]
    pub restart: bool,
    /// What to change.
    pub wanted: Wanted,
}

/// A change that is thought through: nothing here has an effect.
#[derive(Debug)]
pub struct Draft {
    /// The file as it is.
    pub old: String,
    /// The file as it would be.
    pub fresh: Loaded,
    /// What that changes of what is in force.
    pub difference: Difference,
}

impl Draft {
    /// A file with a change, checked as a whole; `path` only names it.
    pub fn of(path: &Path, old: String, wanted: &Wanted, running: &Config) -> Reply<Self> {
        let text = match wanted {
            Wanted::Text(text) => text.clone(),
            Wanted::Edits(edits) => edit::apply(&old, edits).map_err(|error| unfit(&error))?,
            Wanted::Restore { backup, parts } => restored(path, &old, backup, parts)?,
        };
        let fresh = Config::parse(path, text.into_bytes()).map_err(|problems| Refusal {
            what: "the configuration cannot be changed like that".to_owned(),
            remedy: "nothing was changed; this is wrong with it".to_owned(),
            problems,
        })?;
        let difference = config::difference(running, &fresh);
        Ok(Self {
            old,
            fresh,
            difference,
        })
    }

    /// What it would do.
    pub fn preview(self, refused: Option<Refusal>) -> Preview {
        Preview {
            schema_version: SCHEMA_VERSION,
            base: fingerprint(&self.old),
            lines: lines::difference(&self.old, self.fresh.text()),
            changes: self
                .difference
                .changes
                .iter()
                .map(ToString::to_string)
                .collect(),
            restart: self.difference.restart,
            warnings: self.fresh.warnings,
            refused,
        }
    }
}

/// A file with parts of a backup.
fn restored(path: &Path, old: &str, backup: &str, parts: &[Part]) -> Reply<String> {
    let unfit = |error: BackupError| {
        let what = format!("this cannot be restored: {error}");
        let remedy =
            "nothing was changed; `ha-agent restore --help` says what can be restored where";
        Refusal {
            problems: match error {
                BackupError::Configuration(problems) => problems,
                BackupError::NotOne
                | BackupError::Format(_)
                | BackupError::Checksum
                | BackupError::OtherKind(..)
                | BackupError::OtherNode(..)
                | BackupError::NoSections(..)
                | BackupError::Meaning => Vec::new(),
            },
            ..Refusal::new(what, remedy)
        }
    };
    let parts = if parts.is_empty() { &Part::ALL } else { parts };
    // Lines that went through a browser's form end as they do in HTTP.
    let backup = backup.replace("\r\n", "\n");
    let backup = Backup::read(Path::new("(the backup)"), backup.into_bytes()).map_err(unfit)?;
    let current = Config::parse(path, old.to_owned().into_bytes());
    let current = current.map_err(|problems| Refusal {
        problems,
        ..mend("it has errors")
    })?;
    let text = backup.restore(Some(&current), parts).map_err(unfit)?;
    if let Ok(fresh) = Config::parse(path, text.clone().into_bytes()) {
        let current = Some(&current.config);
        backup.check(&fresh.config, current, parts).map_err(unfit)?;
    }
    Ok(text)
}

/// Tells two texts apart.
pub fn fingerprint(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()).as_ref())
}

fn unfit(error: &EditError) -> Refusal {
    match error {
        EditError::Unreadable => mend("it has errors"),
        EditError::NoPlace(_) | EditError::TooMany | EditError::Layout(_) => Refusal::new(
            error.to_string(),
            "nothing was changed; edit the file, and reload it",
        ),
    }
}

/// The file in place is of no use as it is.
pub fn mend(what: &str) -> Refusal {
    Refusal::new(
        format!("the file in place cannot be changed: {what}"),
        "mend it (`ha-agent check-config`), then try again",
    )
}
