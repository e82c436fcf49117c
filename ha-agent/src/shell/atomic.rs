//! Files that are replaced as a whole, durably: a crash leaves the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::fault;

/// A file that is written, and safe on the disk, but under another name yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Prepared {
    fresh: PathBuf,
    path: PathBuf,
}

impl Prepared {
    /// Writes the new file beside the old one, with its owner and mode. `what` names it in tests.
    pub(super) fn write(path: &Path, text: &[u8], what: Places) -> io::Result<Self> {
        Self::with_mode(path, text, what, None)
    }

    fn with_mode(path: &Path, text: &[u8], what: Places, mode: Option<u32>) -> io::Result<Self> {
        // Where the file really is: a symbolic link stays one.
        let path = fs::canonicalize(path).or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Ok(path.to_owned())
            } else {
                Err(error)
            }
        })?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let prepared = Self {
            fresh: path.with_file_name(name),
            path,
        };
        let old = fs::metadata(&prepared.path).ok();
        let kept = || old.as_ref().map_or(0o644, MetadataExt::mode) & 0o7777;
        let mode = mode.unwrap_or_else(kept);
        match fs::remove_file(&prepared.fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&prepared.fresh)?;
        if let Some(old) = old {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        let (first, rest) = text.split_at(text.len() / 2);
        file.write_all(first)?;
        fault::point(what.half);
        file.write_all(rest)?;
        file.sync_all()?;
        fault::point(what.whole);
        Ok(prepared)
    }

    /// Puts it in the place of the old one.
    pub(super) fn commit(self) -> io::Result<()> {
        fs::rename(&self.fresh, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // It is not there any more if it was put in place.
        let _gone = fs::remove_file(&self.fresh);
    }
}

/// Names of the places at which a test may let the agent die.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) half: &'static str,
    pub(super) whole: &'static str,
}

impl Places {
    /// Of files for which no test wants that.
    pub(super) const NONE: Self = Self {
        half: "",
        whole: "",
    };
    pub(super) const CONFIGURATION: Self = Self {
        half: "configuration_half_written",
        whole: "configuration_written",
    };
    pub(super) const RECORD: Self = Self {
        half: "record_half_written",
        whole: "record_written",
    };
}

/// Replaces a file as a whole.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    Prepared::write(path, text, Places::NONE)?.commit()
}

/// Replaces a file that only its owner may read, or makes it.
pub(crate) fn replace_secret(path: &Path, text: &[u8]) -> io::Result<()> {
    Prepared::with_mode(path, text, Places::NONE, Some(0o600))?.commit()
}

/// Makes a configuration file, or replaces it.
pub(crate) fn replace_configuration(path: &Path, text: &[u8]) -> io::Result<()> {
    Prepared::write(path, text, Places::CONFIGURATION)?.commit()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn mode_and_links_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn secrets_are_nobody_elses_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        for _ in 0..2 {
            replace_secret(&file, b"secret").unwrap();
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }

    #[test]
    fn what_is_not_put_in_place_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "old").unwrap();
        fs::write(dir.path().join("file.new"), "of a crash").unwrap();
        drop(Prepared::write(&file, b"new", Places::NONE).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
