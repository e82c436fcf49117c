//! `config show`, `config diff` and `config schema`.

use std::path::Path;

use serde::Serialize;

use super::{Exit, complain, complain_about, local, print, print_json};
use crate::config::model::Config;
use crate::config::{self, Diagnostic};
use crate::control::ConfigShown;
use crate::status::model::SCHEMA_VERSION;

/// What a file may hold, for editors.
const SCHEMA: &str = include_str!("../../config/schema.json");

/// `config schema`.
pub(super) fn schema() -> Exit {
    print(SCHEMA)
}

/// `config show`.
pub(super) fn show(shown: &ConfigShown, json: bool) -> Exit {
    if json {
        print_json(shown)
    } else {
        print(&shown.text)
    }
}

/// What `config diff --json` prints.
#[derive(Serialize)]
struct Difference {
    schema_version: u32,
    generation: u64,
    changes: Vec<String>,
    restart: Vec<Diagnostic>,
}

/// `config diff`: judged here, by the rules of this program, which is the agent's.
pub(super) fn diff(shown: &ConfigShown, file: &Path, json: bool) -> Exit {
    let new = match Config::load(file) {
        Ok(new) => new,
        Err(problems) => {
            complain_about(&problems);
            return local::blame(file);
        }
    };
    let old = match Config::parse(Path::new("(in force)"), shown.text.clone().into_bytes()) {
        Ok(old) => old,
        Err(problems) => {
            complain_about(&problems);
            complain(
                "the running agent's configuration cannot be read by this program",
                "use the version of ha-agent that runs",
            );
            return Exit::Failed;
        }
    };
    let found = config::difference(&old.config, &new);
    if json {
        return print_json(&Difference {
            schema_version: SCHEMA_VERSION,
            generation: shown.generation,
            changes: found.changes.iter().map(ToString::to_string).collect(),
            restart: found.restart,
        });
    }
    if found.changes.is_empty() && found.restart.is_empty() {
        return print("no difference\n");
    }
    let live = found.changes.iter().map(|change| format!("{change}\n"));
    let restart = found.restart.iter().map(|problem| {
        let Diagnostic { line, what, .. } = problem;
        format!("{}:{line}: {what}\n", problem.file)
    });
    print(&live.chain(restart).collect::<String>())
}

#[cfg(test)]
mod tests;
