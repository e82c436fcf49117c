//! Writes down what happens to a live machine, in the journal's format and without its secrets.
//!
//! The election thread only puts copies into a bounded queue. A copy that finds it full ends the recording: a
//! journal with a hole cannot be replayed. Everything else happens on a thread of its own: packets are signed
//! anew with stand-ins, text is made and written. The last line of the file says how the recording ended; a
//! file without such a line is that of a program that ended before.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use super::offer;
use crate::journal::{Happened, Line, Resume, Setup, StandIn};
use crate::proto::carp::{Action, Election, ElectionKeys};
use crate::proto::time::Instant;
use crate::shell::clock;

/// Lines that may wait for the disk: some seconds of the fastest pair.
const QUEUE: usize = 4096;
/// Lines in a file, at most: some hundred megabytes.
const LINES: u64 = 1 << 20;

/// The election thread's end.
#[derive(Debug)]
pub struct Recorder {
    to: SyncSender<Entry>,
    until: Instant,
    incomplete: Arc<AtomicBool>,
}

/// What is written down.
#[derive(Debug)]
enum Entry {
    State(Instant, Box<(Election, ElectionKeys)>),
    Keys(Instant, ElectionKeys),
    Input(Instant, Happened),
    Output(Instant, Action),
}

impl Recorder {
    /// Makes the file, which must not exist, and starts the thread that writes it.
    pub fn start(path: &Path, length: Duration) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let (to, entries) = sync_channel(QUEUE);
        let incomplete = Arc::new(AtomicBool::new(false));
        let (flag, path) = (Arc::clone(&incomplete), path.display().to_string());
        thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || match write(file, &entries, &flag) {
                Ok(lines) => info!(path, lines, "recording ended"),
                Err(error) => warn!(path, %error, "recording broke off"),
            })?;
        Ok(Self {
            to,
            until: clock::now() + length,
            incomplete,
        })
    }

    /// The machine as it is now; before anything else is recorded. Whether the recording goes on.
    pub(super) fn state(&self, now: Instant, machine: &Election, keys: &ElectionKeys) -> bool {
        self.put(
            now,
            Entry::State(now, Box::new((machine.clone(), keys.clone()))),
        )
    }

    /// Its secrets changed.
    pub(super) fn keys(&self, now: Instant, keys: &ElectionKeys) -> bool {
        self.put(now, Entry::Keys(now, keys.clone()))
    }

    /// Something happened to it, and this is what it did.
    pub(super) fn happened(&self, now: Instant, input: Happened, actions: &[Action]) -> bool {
        let outputs = actions.iter().cloned();
        self.put(now, Entry::Input(now, input))
            && outputs
                .map(|action| Entry::Output(now, action))
                .all(|entry| self.put_rest(entry))
    }

    fn put(&self, now: Instant, entry: Entry) -> bool {
        now < self.until && self.put_rest(entry)
    }

    /// What belongs to an input is recorded with it.
    fn put_rest(&self, entry: Entry) -> bool {
        let taken = offer(&self.to, entry);
        if !taken {
            self.incomplete.store(true, Ordering::SeqCst);
        }
        taken
    }
}

/// Writes until the election thread lets go; how many lines.
fn write(file: File, entries: &Receiver<Entry>, incomplete: &AtomicBool) -> io::Result<u64> {
    let mut file = BufWriter::new(file);
    let version = env!("CARGO_PKG_VERSION");
    writeln!(
        file,
        "# recorded by ha-agent {version}; replay it with `ha-agent replay`"
    )?;
    let mut disguise = None;
    let mut lines = 0;
    while lines < LINES
        && let Ok(entry) = entries.recv()
    {
        if let Some(line) = disguised(entry, &mut disguise) {
            writeln!(file, "{line}")?;
            lines += 1;
        }
    }
    let end = if incomplete.load(Ordering::SeqCst) {
        "incomplete: the disk was too slow for the next line"
    } else {
        "complete"
    };
    writeln!(file, "# {end}")?;
    file.into_inner()?.sync_all()?;
    Ok(lines)
}

/// An entry as it may be written down.
fn disguised(entry: Entry, disguise: &mut Option<StandIn>) -> Option<Line> {
    Some(match entry {
        Entry::State(at, state) => {
            let (machine, keys) = *state;
            let stand_in = disguise.insert(StandIn::new(machine.config(), &keys));
            let keys = stand_in.keys().into();
            Line::Setup(at, Setup::State(Box::new(Resume { keys, machine })))
        }
        Entry::Keys(at, keys) => {
            let stand_in = disguise.as_mut()?.with_keys(&keys);
            Line::Input(at, Happened::Keys(disguise.insert(stand_in).keys().into()))
        }
        Entry::Input(at, mut happened) => {
            disguise.as_ref()?.input(&mut happened);
            Line::Input(at, happened)
        }
        Entry::Output(at, mut action) => {
            disguise.as_ref()?.output(&mut action);
            Line::Output(at, action)
        }
    })
}
