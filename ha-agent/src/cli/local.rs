//! Commands that need no running agent.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::Serialize;

use super::args::Foreign;
use super::{Exit, complain, complain_about, print, print_json, tell};
use crate::config::model::Config;
use crate::config::{self, Diagnostic, Severity};
use crate::convert;
use crate::journal;
use crate::keys::{KeyError, PairKeys};

/// What `check-config --json` prints.
#[derive(Serialize)]
struct Verdict<'a> {
    schema_version: u32,
    valid: bool,
    problems: &'a [Diagnostic],
}

/// `check-config`: everything `run` would refuse, and what it would warn of.
pub(super) fn check_config(file: &Path, json: bool) -> Exit {
    let (problems, exit) = match Config::load(file) {
        Err(problems) => (problems, blame(file)),
        Ok(loaded) => {
            let mut problems = loaded.warnings.clone();
            match loaded.secrets() {
                Ok(_) => (problems, Exit::Ok),
                Err(more) => {
                    problems.extend(more);
                    let node = &loaded.config.node;
                    let exit = match (blame(&node.key_file), &node.carp_passphrase_file) {
                        (Exit::Config, Some(file)) => blame(file),
                        (exit, _) => exit,
                    };
                    (problems, exit)
                }
            }
        }
    };
    if json {
        let printed = print_json(&Verdict {
            schema_version: crate::status::model::SCHEMA_VERSION,
            valid: exit == Exit::Ok,
            problems: &problems,
        });
        return if exit == Exit::Ok { printed } else { exit };
    }
    complain_about(&problems);
    if exit == Exit::Ok {
        return print(&format!("{}: ok{}\n", file.display(), count(&problems)));
    }
    complain(
        &format!("{} cannot be used{}", file.display(), count(&problems)),
        "nothing was changed",
    );
    exit
}

/// How many problems, in words.
fn count(problems: &[Diagnostic]) -> String {
    let number =
        |severity, word: &str| match problems.iter().filter(|p| p.severity == severity).count() {
            0 => None,
            1 => Some(format!("1 {word}")),
            n => Some(format!("{n} {word}s")),
        };
    let errors = number(Severity::Error, "error");
    let warnings = number(Severity::Warning, "warning");
    match (errors, warnings) {
        (None, None) => String::new(),
        (Some(one), None) | (None, Some(one)) => format!(": {one}"),
        (Some(errors), Some(warnings)) => format!(": {errors}, {warnings}"),
    }
}

/// Whether a file that could not be used is out of reach or wrong.
pub(super) fn blame(file: &Path) -> Exit {
    match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Config,
    }
}

/// `keygen`.
pub(super) fn keygen(file: &Path) -> Exit {
    let Err(error) = PairKeys::generate(file) else {
        return print(&format!(
            "{0}: new key, mode 0600\n\
             Copy it to the other node and keep its mode: scp -p {0} OTHER:{0}\n",
            file.display()
        ));
    };
    let kind = match &error {
        KeyError::Io { source, .. } => source.kind(),
        KeyError::Exposed { .. } | KeyError::Malformed { .. } => io::ErrorKind::Other,
    };
    let (exit, remedy) = if kind == io::ErrorKind::AlreadyExists {
        (
            Exit::Failed,
            "a key is never overwritten: name another file, or remove this one",
        )
    } else if kind == io::ErrorKind::PermissionDenied {
        (Exit::Permission, "run as a user who may write there")
    } else if kind == io::ErrorKind::NotFound {
        (Exit::Failed, "make its directory first")
    } else {
        (Exit::Failed, "check the path and the disk")
    };
    complain(&error.to_string(), remedy);
    exit
}

/// `convert`.
pub(super) fn convert(from: &Foreign) -> Exit {
    let Foreign::Keepalived { file } = from;
    let bytes = match config::read(file) {
        Ok(bytes) => bytes,
        Err(problems) => {
            complain_about(&problems);
            return Exit::Failed;
        }
    };
    match convert::keepalived(&String::from_utf8_lossy(&bytes)) {
        Ok(converted) => {
            for left in &converted.left {
                tell(&format!("{}:{}: {}", file.display(), left.line, left.what));
            }
            print(&converted.text)
        }
        Err(error) => {
            complain(
                &format!("{}: {error}", file.display()),
                "name a file that keepalived takes (`keepalived -t -f FILE`)",
            );
            Exit::Failed
        }
    }
}

/// `replay`.
pub(super) fn replay(log: &Path) -> Exit {
    let text = match fs::read_to_string(log) {
        Ok(text) => text,
        Err(error) => {
            complain(&format!("{}: {error}", log.display()), "check the path");
            return Exit::Failed;
        }
    };
    let lines = match journal::decode(&text) {
        Ok(lines) => lines,
        Err(error) => {
            complain(
                &format!("{}:{error}", log.display()),
                "replay what this version wrote",
            );
            return Exit::Failed;
        }
    };
    match journal::replay(&lines) {
        Ok(()) => print(&format!(
            "{}: {} lines, no difference\n",
            log.display(),
            lines.len()
        )),
        Err(difference) => {
            complain(
                &format!("{}: {difference}", log.display()),
                "this version decides otherwise than the one that wrote the log",
            );
            Exit::Failed
        }
    }
}
