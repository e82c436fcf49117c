//! The highest term this node may have used, kept across restarts.
//!
//! Terms are reserved in blocks ahead of their use, so that the election never waits for the disk. After
//! a crash the node goes on above the whole block, used or not.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const FILE: &str = "term";

/// The reservation file in the state directory.
#[derive(Clone, Debug)]
pub struct TermStore {
    path: PathBuf,
}

impl TermStore {
    /// In this directory, which is made if it does not exist.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        Ok(Self {
            path: state_dir.join(FILE),
        })
    }

    /// The highest reserved term; 0 if there is no reservation yet.
    pub fn load(&self) -> io::Result<u64> {
        match fs::read_to_string(&self.path) {
            Ok(text) => text.trim().parse().map_err(|_not_a_number| {
                let problem = format!("{} does not hold a number; delete it", self.path.display());
                io::Error::new(io::ErrorKind::InvalidData, problem)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Reserves up to `term`, durably: the file is replaced as a whole.
    pub fn reserve(&self, term: u64) -> io::Result<()> {
        replace(&self.path, format!("{term}\n").as_bytes())
    }
}

/// Replaces a file as a whole, durably: a crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if let Some(directory) = path.parent() {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_refuses_garbage() {
        let dir = tempfile::tempdir().unwrap();
        let store = TermStore::open(&dir.path().join("deep/er")).unwrap();
        assert_eq!(store.load().unwrap(), 0);
        store.reserve(1024).unwrap();
        assert_eq!(store.load().unwrap(), 1024);
        fs::write(&store.path, "many").unwrap();
        assert_eq!(store.load().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_half_written_reservation_is_not_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = TermStore::open(dir.path()).unwrap();
        store.reserve(7).unwrap();
        fs::write(dir.path().join("term.new"), "99").unwrap();
        assert_eq!(store.load().unwrap(), 7);
    }
}
