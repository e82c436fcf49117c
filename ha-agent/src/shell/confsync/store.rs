//! What is kept of the configuration's versions in the state directory: the record of the present one,
//! and contents that were replaced although they were somebody's work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::error;

use crate::fault;
use crate::proto::confsync::{Record, Version};
use crate::shell::atomic::{Places, Prepared, replace};

const FILE: &str = "configuration";
const LOST: &str = "lost";
/// Lost contents kept at most; the oldest go.
const LOST_MAX: usize = 16;

/// The directory.
#[derive(Clone, Debug)]
pub struct Store {
    record: PathBuf,
    lost: PathBuf,
}

impl Store {
    /// In this directory, which is made if it does not exist.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        Ok(Self {
            record: state_dir.join(FILE),
            lost: state_dir.join(LOST),
        })
    }

    /// The record, if there is one that can be read. One that cannot is set aside: what a node has then counts as
    /// never replicated, so the partner's version takes its place.
    pub fn load(&self) -> Option<Record> {
        let text = match fs::read(&self.record) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                error!(%error, path = %self.record.display(), "version of the configuration not read");
                return None;
            }
        };
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                let aside = self.record.with_extension("damaged");
                let kept = fs::rename(&self.record, &aside).is_ok();
                error!(%error, kept, aside = %aside.display(), "version of the configuration damaged");
            })
            .ok()
    }

    /// Writes the record of a version that is about to be the present one.
    pub(super) fn prepare(&self, record: &Record) -> io::Result<Prepared> {
        let mut text = serde_json::to_vec(record)?;
        text.push(b'\n');
        Prepared::write(&self.record, &text, Places::RECORD)
    }

    /// The same at once.
    pub(super) fn store(&self, record: &Record) -> io::Result<()> {
        self.prepare(record)?.commit()
    }

    /// Keeps a file that is about to be replaced.
    pub(super) fn keep(&self, version: Version, text: &str) -> io::Result<()> {
        fs::create_dir_all(&self.lost)?;
        let mut known = self.lost();
        known.sort_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
        let surplus = (known.len() + 1).saturating_sub(LOST_MAX);
        for oldest in known.iter().take(surplus) {
            fs::remove_file(oldest)?;
        }
        let name = format!("{}-{}.yaml", version.generation, version.hash.short());
        replace(&self.lost.join(name), text.as_bytes())?;
        fault::point("lost_kept");
        Ok(())
    }

    /// What was kept and not yet removed by a person.
    pub fn lost(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.lost) else {
            return Vec::new();
        };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "yaml")
            })
            .collect();
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::confsync::ContentHash;

    fn record(generation: u64) -> Record {
        let hash = ContentHash::new([7; 32]);
        let version = Version { generation, hash };
        Record {
            version,
            ancestors: vec![ContentHash::new([6; 32])],
        }
    }

    #[test]
    fn a_record_survives_and_a_damaged_one_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        assert_eq!(store.load(), None);
        store.store(&record(7)).unwrap();
        drop(store.prepare(&record(8)).unwrap());
        assert_eq!(store.load(), Some(record(7)));
        fs::write(&store.record, "{").unwrap();
        assert_eq!(store.load(), None);
        assert!(store.record.with_extension("damaged").exists());
    }

    #[test]
    fn lost_work_is_kept_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.lost().is_empty());
        for generation in 0..40 {
            store.keep(record(generation).version, "text").unwrap();
        }
        assert_eq!(store.lost().len(), LOST_MAX);
        assert!(store.lost.join("39-070707070707.yaml").exists());
    }
}
