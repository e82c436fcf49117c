//! Factory settings: what belongs to a node, and its removal once its agent has ended or is about to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use super::agent::Shared;
use super::guard;
use super::serve::{RunError, stop};
use crate::config::Diagnostic;
use crate::config::model::Config;
use crate::control::{Refusal, Reply};

/// How long the agent goes on after it has agreed to a reset.
const FAREWELL: Duration = Duration::from_secs(1);
/// What to do if the file cannot be read.
pub const UNREADABLE: (&str, &str) = (
    "only a file that can be read tells what belongs to this node",
    "mend it, or remove by hand what is to go; nothing was done",
);

/// What belongs to a node.
#[derive(Clone, Debug)]
pub struct Belongings {
    /// Its configuration first.
    files: Vec<PathBuf>,
    state_dir: PathBuf,
    bpf_dir: PathBuf,
}

/// What could not be removed, and why.
pub type Left = (PathBuf, io::Error);

impl Belongings {
    /// Of the node with this configuration file.
    pub fn of(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let node = Config::load(path)?.config.node;
        let mut old = path.to_owned().into_os_string();
        old.push(".old");
        let mut files = vec![path.to_owned(), old.into(), node.key_file];
        files.extend(node.carp_passphrase_file);
        files.retain(|file| fs::symlink_metadata(file).is_ok());
        Ok(Self {
            files,
            state_dir: node.state_dir,
            bpf_dir: node.bpf_dir,
        })
    }

    /// What would go: files, and a directory with what is in it.
    pub fn list(&self) -> impl Iterator<Item = &Path> {
        let all = self.files.iter().chain([&self.state_dir]);
        all.map(PathBuf::as_path)
    }

    /// Removes all of it, and what an agent that did not end in order has left in the kernel.
    pub fn remove(&self) -> Result<(), Left> {
        empty(&self.state_dir)?;
        if self.bpf_dir.exists() {
            fs::remove_dir_all(&self.bpf_dir).map_err(|error| (self.bpf_dir.clone(), error))?;
        }
        guard::remove().map_err(|error| (PathBuf::from("nftables"), io::Error::other(error)))?;
        // The configuration last: with it, a reset that failed can be repeated.
        self.files.iter().rev().try_for_each(|file| remove(file))
    }
}

fn empty(directory: &Path) -> Result<(), Left> {
    let at = |error| (directory.to_owned(), error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(at)?,
    };
    for entry in entries {
        let path = entry.map_err(at)?.path();
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path).map_err(|error| (path.clone(), error))?;
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(file: &Path) -> Result<(), Left> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((file.to_owned(), error)),
        _ => Ok(()),
    }
}

/// What goes with the agent when it ends: nothing, unless somebody asked for a reset.
pub type Doomed = watch::Sender<Option<Belongings>>;

impl Shared {
    /// What belongs to this node. Blocks.
    pub(super) fn belongings(&self) -> Reply<Belongings> {
        Belongings::of(&self.path).map_err(|problems| Refusal {
            problems,
            ..Refusal::new(UNREADABLE.0, UNREADABLE.1)
        })
    }
}

/// Ends the agent a moment later, so that whoever asked for that hears that it will be.
pub(super) fn leave(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        sleep(FAREWELL).await;
        stop(&shared);
    });
}

/// Removes what is to go with the agent.
pub(super) async fn discard(doomed: &Doomed) -> Result<(), RunError> {
    let Some(belongings) = doomed.borrow().clone() else {
        return Ok(());
    };
    let removed = tokio::task::spawn_blocking(move || belongings.remove()).await;
    match removed.unwrap_or_else(|panic| Err((PathBuf::new(), io::Error::other(panic)))) {
        Ok(()) => {
            info!("reset: configuration, keys and state of this node are gone");
            Ok(())
        }
        Err((path, source)) => Err(RunError::NotReset { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::GOOD;

    #[test]
    fn what_is_a_nodes_own_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let here = format!(
            "  mode: first\n  key_file: {0}/key\n  state_dir: {0}/state\n  bpf_dir: {0}/bpf\n",
            dir.path().display()
        );
        let config = at("ha-agent.yaml");
        fs::write(&config, GOOD.replace("  mode: first\n", &here)).unwrap();
        fs::create_dir_all(at("state/deep")).unwrap();
        for name in [
            "key",
            "ha-agent.yaml.old",
            "state/a",
            "state/deep/b",
            "other",
        ] {
            fs::write(at(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("other"), at("state/link")).unwrap();
        let belongings = Belongings::of(&config).unwrap();
        let list: Vec<&Path> = belongings.list().collect();
        let named = ["ha-agent.yaml", "ha-agent.yaml.old", "key", "state"].map(at);
        assert_eq!(list, named);
        empty(&at("state")).unwrap();
        assert!(at("state").exists() && at("other").exists());
        assert_eq!(fs::read_dir(at("state")).unwrap().count(), 0);
        // What has gone meanwhile is no fault.
        fs::remove_file(at("key")).unwrap();
        belongings
            .files
            .iter()
            .for_each(|file| remove(file).unwrap());
        assert!(!config.exists());
        assert!(Belongings::of(&config).is_err());
    }
}
