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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::model::{CarpAuth, Mode, Preferred};
    use crate::journal::{decode, replay};
    use crate::proto::carp::{Command, ElectionConfig, Input, LinkConfig};
    use crate::proto::rng::Rng;

    const SECRET: &[u8; 16] = b"sixteen secrets!";

    fn machine(keys: ElectionKeys) -> Election {
        let config = ElectionConfig {
            mode: Mode::First,
            vhid: 110,
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(300),
            initial_wait: Duration::ZERO,
            hold_down: Duration::from_secs(1),
            preferred: Preferred::None,
            auth: CarpAuth::Enforce,
            generation: 1,
            start_pacified: false,
            start_maintenance: false,
            links: vec![LinkConfig {
                name: "front".to_owned(),
                addresses: vec![[10, 0, 0, 11].into()],
                partners: vec![[10, 0, 0, 12].into()],
                shared: vec![[10, 0, 0, 100].into()],
                has_gateway: false,
            }],
        };
        Election::new(config, keys, Rng::new(1), 0, clock::now())
    }

    fn keys(id: u8) -> ElectionKeys {
        ElectionKeys {
            carp_passphrase: b"very secret".to_vec(),
            trailer: vec![(id, *SECRET)],
        }
    }

    /// A node that becomes active, changes its key and stops, recorded from the middle on.
    #[test]
    fn what_is_recorded_replays_and_holds_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("election.log");
        let recorder = Recorder::start(&path, Duration::from_hours(1)).unwrap();
        assert!(
            Recorder::start(&path, Duration::from_secs(1)).is_err(),
            "it exists"
        );
        let mut machine = machine(keys(1));
        let mut now = clock::now();
        let mut out = Vec::new();
        machine.handle_timeout(now, &mut out);
        assert!(recorder.state(now, &machine, &keys(1)));
        for step in 0..40 {
            now = machine.poll_timeout().unwrap();
            out.clear();
            if step == 20 {
                assert!(recorder.keys(now, &keys(2)));
                machine.set_keys(keys(2));
            } else if step == 30 {
                let input = Input::Command(Command::Stop);
                machine.handle_input(now, input, &mut out);
                assert!(recorder.happened(now, input.into(), &out));
                break;
            } else {
                machine.handle_timeout(now, &mut out);
                assert!(recorder.happened(now, Happened::Timer, &out));
            }
        }
        drop(recorder);
        let end = clock::now() + Duration::from_secs(30);
        let text = loop {
            let text = fs::read_to_string(&path).unwrap();
            if text.ends_with("# complete\n") {
                break text;
            }
            assert!(clock::now() < end, "{text}");
            thread::sleep(Duration::from_millis(10));
        };
        assert!(
            text.contains("role_changed") && text.contains("< keys"),
            "{text}"
        );
        let secret = SECRET.map(|byte| format!("{byte:02x}")).concat();
        assert!(!text.contains(&secret) && !text.contains("very secret"));
        if let Err(difference) = replay(&decode(&text).unwrap()) {
            panic!("{difference}");
        }
    }

    /// A line that finds no room ends the recording, and the file says so.
    #[test]
    fn a_lost_line_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("election.log");
        let file = File::create_new(&path).unwrap();
        let (to, entries) = sync_channel(1);
        let recorder = Recorder {
            to,
            until: clock::now() + Duration::from_hours(1),
            incomplete: Arc::default(),
        };
        let now = clock::now();
        assert!(recorder.state(now, &machine(keys(1)), &keys(1)));
        assert!(!recorder.happened(now, Happened::Timer, &[]));
        let incomplete = Arc::clone(&recorder.incomplete);
        drop(recorder);
        assert_eq!(write(file, &entries, &incomplete).unwrap(), 1);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().last().unwrap().starts_with("# incomplete"));
    }
}
