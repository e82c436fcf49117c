//! Keeps the programs alive in which the attached one goes on.
//!
//! The kernel empties an array of programs when the last descriptor and the last pin of it are gone,
//! although programs that are attached still use it. So the array is pinned, under a name of its own for
//! each set of programs: while links are taken over one by one, the old program and the new one each
//! find their own stages.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::sys;

/// Prefix of the pins.
const PREFIX: &str = "stages_";

/// The programs of an object, in the kernel.
#[derive(Debug)]
pub(super) struct Programs {
    /// The one to attach.
    pub(super) entry: OwnedFd,
    /// The one that deletes idle connections.
    pub(super) janitor: OwnedFd,
    /// The array of those in which the entry goes on.
    pub(super) stages: OwnedFd,
}

/// Pins the array of these programs, unless it is, and returns the pin.
pub(super) fn hold(dir: &Path, programs: &Programs) -> io::Result<PathBuf> {
    let id = sys::map_info(programs.stages.as_fd())?.id;
    let pin = dir.join(format!("{PREFIX}{id}"));
    match sys::object_pin(programs.stages.as_fd(), &pin) {
        // The pin keeps its array alive, and the array its id: it is this one.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(pin),
        done => done.map(|()| pin),
    }
}

/// Removes the pins of all arrays but one.
pub(super) fn release(dir: &Path, held: Option<&Path>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && held != Some(entry.path().as_path()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
