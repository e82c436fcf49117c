//! The history of this node's starts on disk: see [`crate::proto::pacify`].
//!
//! The file is replaced as a whole, so a crash leaves the old one or the new one. One that cannot be
//! read does not keep the node out of the pair, since a damaged disk block must not end a service: it is
//! set aside, an alarm says so, and counting begins anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::time::{ClockId, clock_gettime};
use tracing::{error, warn};

use super::agent::lock;
use super::alarms::{Board, Kind};
use super::atomic::replace;
use super::clock;
use crate::config::model::Pacify;
use crate::proto::pacify::{History, Moment, Start};

const FILE: &str = "starts";
/// What the alarms are about.
const ABOUT: &str = "starts";

/// The history and its file.
#[derive(Debug)]
pub struct HistoryFile {
    path: PathBuf,
    history: Mutex<History>,
    /// What was wrong with the file found.
    damage: Option<String>,
}

impl HistoryFile {
    /// Reads it from this directory, which is made if it does not exist.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        let path = state_dir.join(FILE);
        let (history, damage) = match read(&path) {
            Ok(history) => (history, None),
            Err(error) => {
                let damaged = path.with_extension("damaged");
                let kept = fs::rename(&path, &damaged).map_or_else(
                    |error| format!("it could not be set aside: {error}"),
                    |()| format!("it was set aside as {}", damaged.display()),
                );
                let damage = format!("{}: {error}; {kept}", path.display());
                error!(damage, "the history of starts begins anew");
                (History::default(), Some(damage))
            }
        };
        Ok(Self {
            path,
            history: Mutex::new(history),
            damage,
        })
    }

    /// Takes note of this start.
    pub fn start(&self, limit: Pacify) -> Start {
        let start = lock(&self.history).start(now(), limit);
        self.write_or_warn();
        start
    }

    /// Takes note that the node has run for the whole window.
    pub fn prove_sound(&self) {
        if lock(&self.history).prove_sound() {
            self.write_or_warn();
        }
    }

    /// Takes note of an end in order.
    pub fn stop(&self) {
        lock(&self.history).stop();
        self.write_or_warn();
    }

    /// A person puts the node aside, or takes it back.
    pub fn set_maintenance(&self, on: bool) -> io::Result<()> {
        lock(&self.history).set_maintenance(on);
        self.write()
    }

    /// A person takes the node back, whatever put it aside.
    pub fn resume(&self) -> io::Result<()> {
        lock(&self.history).resume();
        self.write()
    }

    /// What is known now.
    pub fn known(&self) -> History {
        lock(&self.history).clone()
    }

    /// Brings the alarms of this subject up to date.
    pub fn tell(&self, board: &Board) {
        if let Some(damage) = &self.damage {
            board.raise(Kind::StartsUnreadable, ABOUT, damage.clone());
        }
        let history = self.known();
        if history.is_pacified() {
            board.raise(Kind::Pacified, ABOUT, evidence(&history));
        } else {
            board.clear(Kind::Pacified, ABOUT);
        }
    }

    fn write(&self) -> io::Result<()> {
        let history = lock(&self.history);
        let text = serde_json::to_vec(&*history)?;
        // Under the lock, so that the newest is written last.
        replace(&self.path, &text)
    }

    fn write_or_warn(&self) {
        if let Err(error) = self.write() {
            warn!(%error, path = %self.path.display(), "history of starts not stored");
        }
    }
}

fn evidence(history: &History) -> String {
    let starts = history.unclean();
    match (starts.first(), starts.last()) {
        (Some(first), Some(last)) => format!(
            "{} starts that were not planned within {} s, the last one {} s after a boot",
            starts.len(),
            last.wall.saturating_sub(first.wall),
            last.uptime
        ),
        _ => "an earlier run was pacified".to_owned(),
    }
}

fn read(path: &Path) -> io::Result<History> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::default()),
        Err(error) => Err(error),
    }
}

fn now() -> Moment {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(|time| u64::try_from(time.tv_sec()));
    Moment {
        boot: boot.trim().to_owned(),
        uptime: uptime.ok().and_then(Result::ok).unwrap_or_default(),
        wall: clock::wall().as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: Pacify = Pacify {
        restarts: 1,
        window: Duration::from_mins(5),
    };

    #[test]
    fn crashes_add_up_across_files() {
        let dir = tempfile::tempdir().unwrap();
        let open = || HistoryFile::open(&dir.path().join("state")).unwrap();
        assert_eq!(open().start(LIMIT), Start::First);
        assert_eq!(open().start(LIMIT), Start::Crashed);
        open().stop();
        assert_eq!(open().start(LIMIT), Start::Planned);
        assert!(!open().known().is_pacified());
        assert_eq!(open().start(LIMIT), Start::Crashed);
        let file = open();
        assert!(file.known().is_pacified());
        let board = Board::default();
        file.tell(&board);
        assert_eq!(board.list().len(), 1);
        file.resume().unwrap();
        file.tell(&board);
        assert!(board.list().is_empty());
        assert!(!open().known().is_pacified());
        open().set_maintenance(true).unwrap();
        assert!(open().known().in_maintenance());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_told_of() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let file = HistoryFile::open(dir.path()).unwrap();
        assert_eq!(file.start(LIMIT), Start::First);
        let board = Board::default();
        file.tell(&board);
        assert_eq!(board.list().len(), 1);
        assert_eq!(
            fs::read_to_string(dir.path().join("starts.damaged")).unwrap(),
            "{"
        );
        assert!(HistoryFile::open(dir.path()).unwrap().damage.is_none());
    }
}
