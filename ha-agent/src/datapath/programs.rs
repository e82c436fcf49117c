//! Programs that stay in the kernel, for the next agent that would load the same ones.
//!
//! The verifier takes longer than anything else at a start, and a kernel that does not preempt gives its
//! core to nothing else for part of that time. So programs stay pinned, under names that hold a hash of
//! the object they are from and of the maps they work on: whoever finds the name with its own hash has
//! found its own programs. An agent that succeeds or continues another one of the same object loads nothing.
//! If the object is another one, the program that is to continue is run once before and leaves its programs
//! beside those in force: while an agent is being replaced nobody speaks for the node.
//!
//! The kernel empties an array of programs when the last descriptor and the last pin of it are gone,
//! although programs that are attached still use it. So each set of programs has a pinned array of its own
//! before it is attached, and others lose theirs afterwards: while links are taken over one by one, the old
//! program and the new one each find their own stages.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use ha_common::siphash::{self, SipHash128};

use super::sys;

/// Prefix of the pins of what is attached, or about to be.
const IN_FORCE: &str = "prog_";
/// Prefix of the pins of what was loaded ahead.
const AHEAD: &str = "next_";

/// The programs of an object, in the kernel.
#[derive(Debug)]
pub(super) struct Programs {
    /// The one to attach.
    pub(super) entry: OwnedFd,
    /// The one that deletes idle connections.
    pub(super) janitor: OwnedFd,
    /// The one that sends fragments after the first.
    pub(super) follow: OwnedFd,
    /// The array of those in which the entry goes on.
    pub(super) stages: OwnedFd,
}

/// Where the programs of one object over one set of maps are pinned.
#[derive(Debug)]
pub(super) struct Shelf<'a> {
    dir: &'a Path,
    tag: u128,
}

impl<'a> Shelf<'a> {
    /// For an object and the ids of the maps in `dir`.
    pub(super) fn new(dir: &'a Path, object: &[u8], maps: &[u32]) -> Self {
        let mut hash = SipHash128::new(&siphash::tag(&[0; 16], object));
        for map in maps {
            hash.word(u64::from(*map));
        }
        Self {
            dir,
            tag: u128::from_le_bytes(hash.finish(&[])),
        }
    }

    /// The programs, if they are in the kernel.
    pub(super) fn find(&self) -> Option<Programs> {
        let all = |prefix: &&str| {
            let [entry, janitor, follow, stages] =
                self.pins(prefix).map(|pin| sys::object_get(&pin).ok());
            Some(Programs {
                entry: entry?,
                janitor: janitor?,
                follow: follow?,
                stages: stages?,
            })
        };
        [IN_FORCE, AHEAD].iter().find_map(all)
    }

    /// Leaves programs that were loaded ahead, in place of others of the kind.
    pub(super) fn leave_ahead(&self, programs: &Programs) -> io::Result<()> {
        remove(self.dir, |name| name.starts_with(AHEAD))?;
        self.leave(AHEAD, programs)
    }

    /// Leaves programs that are about to be attached.
    pub(super) fn leave_in_force(&self, programs: &Programs) -> io::Result<()> {
        let own = self.prefix(IN_FORCE);
        remove(self.dir, |name| name.starts_with(&own))?;
        self.leave(IN_FORCE, programs)
    }

    /// Removes the pins of all others, of which none is attached any more.
    pub(super) fn release_others(&self) -> io::Result<()> {
        let own = self.prefix(IN_FORCE);
        remove(self.dir, |name| is_pin(name) && !name.starts_with(&own))
    }

    fn leave(&self, prefix: &str, programs: &Programs) -> io::Result<()> {
        let Programs {
            entry,
            janitor,
            follow,
            stages,
        } = programs;
        let mut pins = [entry, janitor, follow, stages]
            .into_iter()
            .zip(self.pins(prefix));
        pins.try_for_each(|(held, pin)| sys::object_pin(held.as_fd(), &pin))
    }

    fn pins(&self, prefix: &str) -> [PathBuf; 4] {
        let prefix = self.prefix(prefix);
        ["xdp", "janitor", "follow", "stages"].map(|name| self.dir.join(format!("{prefix}{name}")))
    }

    fn prefix(&self, prefix: &str) -> String {
        format!("{prefix}{:032x}_", self.tag)
    }
}

/// Removes all such pins.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    remove(dir, is_pin)
}

fn is_pin(name: &str) -> bool {
    name.starts_with(IN_FORCE) || name.starts_with(AHEAD)
}

fn remove(dir: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if which(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
