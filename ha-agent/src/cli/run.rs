//! `run`: the agent itself, and why it ended.

use std::error::Error;
use std::io;
use std::path::Path;

use super::{Exit, complain, complain_about};
use crate::shell::{self, RunError};

/// Runs the agent until it is told to stop.
pub(super) fn run(config: &Path) -> Exit {
    let error = match shell::run(config) {
        Ok(()) => return Exit::Ok,
        Err(error) => error,
    };
    if let RunError::Configuration(problems) = &error {
        complain_about(problems);
        complain(
            &format!("{}: {error}", config.display()),
            "nothing was changed",
        );
        return super::local::blame(config);
    }
    // On a terminal for the person who started it, in the journal for the one who looks later.
    tracing::error!("{error}");
    if denied(&error) {
        complain(
            "this user may not do what the agent needs",
            "run it as root, or with the capabilities of deploy/ha-agent.service",
        );
        Exit::Permission
    } else {
        Exit::Failed
    }
}

/// Whether a lack of privileges is at the bottom of an error.
fn denied(error: &RunError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return true;
        }
        next = error.source();
    }
    false
}
