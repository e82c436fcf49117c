//! Programs loaded ahead of time for the agent that will continue this one.
//!
//! The verifier takes longer than anything else at a start, and while an agent is being replaced nobody
//! speaks for the node. So the program that is to continue is run once before, loads its data plane and
//! leaves it pinned, under names that contain a hash of the object: whoever finds the name with its own
//! hash has found its own programs.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use ha_common::siphash;

use super::stages::Programs;
use super::sys;

/// Prefix of the pins.
const PREFIX: &str = "next_";

fn pins(object: &[u8], dir: &Path) -> [PathBuf; 3] {
    let tag = u128::from_be_bytes(siphash::tag(&[0; 16], object));
    ["xdp", "janitor", "stages"].map(|name| dir.join(format!("{PREFIX}{tag:032x}_{name}")))
}

/// Leaves the programs of an object.
pub(super) fn leave(object: &[u8], dir: &Path, programs: &Programs) -> io::Result<()> {
    forget(dir)?;
    let Programs {
        entry,
        janitor,
        stages,
    } = programs;
    for (held, pin) in [entry, janitor, stages].into_iter().zip(pins(object, dir)) {
        sys::object_pin(held.as_fd(), &pin)?;
    }
    Ok(())
}

/// Takes the programs of an object, if they were left, and removes all pins of the kind.
pub(super) fn take(object: &[u8], dir: &Path) -> Option<Programs> {
    let [entry, janitor, stages] = pins(object, dir).map(|pin| sys::object_get(&pin).ok());
    if let Err(error) = forget(dir) {
        tracing::debug!(%error, "pins of a successor not removed");
    }
    Some(Programs {
        entry: entry?,
        janitor: janitor?,
        stages: stages?,
    })
}

/// Removes what was left.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
