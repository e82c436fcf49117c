//! `ha-agent reexec`: another program continues this process.
//!
//! The election's side of it, and why it is safe, is in [`crate::proto::carp`]. Here the program that
//! is to continue is asked first whether it could (`ha-agent upgrade-check`, run as a child), so that
//! nothing is given up for one that could not. Then the election parks, and `execve` keeps process id,
//! pinned maps and links, shared addresses, and three descriptors: the parked state in a sealed memory
//! file, the listening control socket and its lock. The new program updates the links to its own data
//! plane, reads the connection table anew, and replicates all of it in a fresh session; events that the
//! old program did not read are still in the ring.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{dup, execve};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::agent::Shared;
use super::records::api;
use super::systemd::{monotonic, notify};
use super::{alarms, clock, election};
use crate::config::model::Config;
use crate::config::{self};
use crate::control::{Heirloom, RecordStatus, Refusal};
use crate::proto::carp::Parked;
use crate::proto::records::RESERVED;
use crate::proto::time::Instant;

/// Names the descriptors that a replaced agent left to this one.
const VARIABLE: &str = "HA_AGENT_REEXEC";
/// Layout of [`Estate`] without the election's part, which has its own.
const LAYOUT: u32 = 1;
/// How long the new program may take to say whether it could go on.
const CHECK_MAX: Duration = Duration::from_secs(10);
/// Signals held back between the two programs, which would end the new one before it can handle them.
const HELD_BACK: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR2,
];

/// What `upgrade-check --json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// Version of the program asked.
    pub version: String,
    /// Layouts of the state it can continue: the shell's, the election's.
    pub layouts: (u32, u32),
}

impl Upgrade {
    /// Of this program.
    pub fn own() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layouts: (LAYOUT, Parked::LAYOUT),
        }
    }
}

/// What a replaced agent leaves.
#[derive(Debug, Serialize, Deserialize)]
pub struct Estate {
    /// The election.
    pub election: Parked,
    /// Version of the replaced agent.
    pub version: String,
    /// When the election was parked.
    pub at: Instant,
    /// Why real servers are down.
    pub failures: BTreeMap<SocketAddr, String>,
    /// Records by namespace, but for those that the agent itself writes and finds again.
    #[serde(default)]
    pub records: BTreeMap<String, Vec<RecordStatus>>,
}

/// An estate whose layout is not known yet.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    layout: u32,
    estate: T,
}

/// What this process found at its start.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// The parked state, if it can be used.
    pub estate: Option<Estate>,
    /// The control socket.
    pub control: Option<Heirloom>,
}

/// The program to execute, and how.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    /// Only one replacement at a time.
    busy: tokio::sync::Mutex<()>,
}

impl Program {
    /// This process's own, by the name it was called: a link that leads elsewhere by then is followed.
    pub fn own() -> io::Result<Self> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let called = arguments.first().map(Path::new);
        let path = match called.filter(|path| path.components().count() > 1) {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        Ok(Self {
            path,
            arguments,
            busy: tokio::sync::Mutex::default(),
        })
    }
}

/// Takes over what a replaced agent left, if there was one. Called once, at the start.
pub fn inherit() -> Inheritance {
    let Some(named) = std::env::var_os(VARIABLE) else {
        return Inheritance::default();
    };
    let own = |fd: RawFd| {
        // SAFETY: `execute` leaves exactly these descriptors to the program that it executes, and this
        // function, which runs once, is the only one to take them.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(|_| fd)
    };
    let numbers: Vec<RawFd> = named
        .to_string_lossy()
        .split(',')
        .filter_map(|number| number.parse().ok())
        .filter(|number| *number > 2 && Path::new(&format!("/proc/self/fd/{number}")).exists())
        .collect();
    let (&[state, socket, lock], process) = (&*numbers, std::process::id()) else {
        warn!("{VARIABLE} names no open descriptors; starting afresh");
        return Inheritance::default();
    };
    info!(process, "continuing a replaced agent");
    let estate = own(state).map_err(io::Error::from).and_then(read);
    let control = own(socket).and_then(|socket| Ok(Heirloom::new(socket, own(lock)?)));
    Inheritance {
        estate: estate
            .inspect_err(|error| warn!(%error, "state of the replaced agent not usable"))
            .ok(),
        control: control.ok(),
    }
}

fn read(state: OwnedFd) -> io::Result<Estate> {
    let mut text = Vec::new();
    File::from(state).read_to_end(&mut text)?;
    let envelope: Envelope<serde_json::Value> = serde_json::from_slice(&text)?;
    if envelope.layout != LAYOUT {
        let problem = format!("layout {} instead of {LAYOUT}", envelope.layout);
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(serde_json::from_value(envelope.estate)?)
}

impl Shared {
    /// Replaces this program. Returns only if that did not happen; the agent then goes on as before.
    pub async fn reexec(&self) -> Refusal {
        let Ok(_alone) = self.program.busy.try_lock() else {
            return Refusal::new("the agent is being replaced already", "wait a moment");
        };
        let upgrade = match self.examine().await {
            Ok(upgrade) => upgrade,
            Err(refusal) => return refusal,
        };
        notify(&[sd_notify::NotifyState::Reloading, monotonic()]);
        let refusal = self.replace(&upgrade).await;
        notify(&[sd_notify::NotifyState::Ready]);
        refusal
    }

    /// The records that the program after this one is left.
    async fn records_to_leave(&self) -> BTreeMap<String, Vec<RecordStatus>> {
        let mut left = BTreeMap::new();
        let Some(replication) = &self.replication else {
            return left;
        };
        let namespaces = replication.published().sync.records.namespaces.clone();
        for space in namespaces {
            if !RESERVED.contains(&&*space.name) {
                let records = api::all(replication.records(), &space.name).await;
                left.insert(space.name, records);
            }
        }
        left
    }

    /// Whether file and program would do.
    async fn examine(&self) -> Result<Upgrade, Refusal> {
        let fresh = Config::load(&self.path).map_err(Refusal::configuration)?;
        config::diff(&self.config(), &fresh).map_err(Refusal::configuration)?;
        let (program, file) = (self.program.path.clone(), self.path.clone());
        let checked = tokio::task::spawn_blocking(move || check(&program, &file)).await;
        let upgrade = checked
            .unwrap_or_else(|panicked| Err(panicked.to_string()))
            .map_err(|problem| {
                let program = self.program.path.display();
                Refusal::new(
                    format!("{program} could not go on: {problem}"),
                    "nothing was given up; see what `ha-agent upgrade-check` says",
                )
            })?;
        if upgrade.layouts != Upgrade::own().layouts {
            return Err(Refusal::new(
                format!("version {} cannot read this one's state", upgrade.version),
                "hand over and restart this agent instead",
            ));
        }
        Ok(upgrade)
    }

    async fn replace(&self, upgrade: &Upgrade) -> Refusal {
        // Before anything stands still. What is written from here on is lost, and its writer's connection to
        // this program breaks.
        let records = self.records_to_leave().await;
        let (answer, answered) = oneshot::channel();
        self.election.send(election::Command::Reexec(answer));
        let paused = match answered.await {
            Ok(Ok(paused)) => paused,
            Ok(Err(refusal)) => return alarms::refused(refusal),
            Err(_gone) => {
                return Refusal::new("the election does not answer", "look at the agent's log");
            }
        };
        info!(version = upgrade.version, "replacing the agent in place");
        // From here to the new program every moment counts: nobody speaks for this node.
        let estate = Estate {
            election: paused.parked.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: clock::now(),
            failures: self.verdicts.failures(),
            records,
        };
        let Err(error) = execute(&self.program, &self.control, &estate);
        drop(paused);
        warn!(%error, "not replaced; going on");
        Refusal::new(
            format!("{} was not executed: {error}", self.program.path.display()),
            "the agent goes on as before",
        )
    }
}

/// Asks the program whether it could go on with this file and these maps.
fn check(program: &Path, file: &Path) -> Result<Upgrade, String> {
    let mut command = Command::new(program);
    command
        .args(["upgrade-check", "--prepare", "--json"])
        .arg("-f")
        .arg(file)
        .env_remove(VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = output(&mut command).map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} ({})", said.trim(), output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

/// What a child says, within [`CHECK_MAX`].
fn output(command: &mut Command) -> io::Result<Output> {
    let end = clock::now() + CHECK_MAX;
    let mut child = command.spawn()?;
    while child.try_wait()?.is_none() {
        if clock::now() > end {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output()
}

fn execute(
    program: &Program,
    control: &Heirloom,
    estate: &Estate,
) -> io::Result<std::convert::Infallible> {
    let envelope = Envelope {
        layout: LAYOUT,
        estate,
    };
    let state = memfd_create(c"ha-agent", MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(state);
    file.write_all(&serde_json::to_vec(&envelope)?)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    io::Seek::rewind(&mut file)?;
    // Fresh descriptors are inherited, unlike those they are made from.
    let socket = dup(control.socket())?;
    let lock = dup(control.lock())?;
    let left = format!(
        "{},{},{}",
        file.as_raw_fd(),
        socket.as_raw_fd(),
        lock.as_raw_fd()
    );

    let text = |text: &OsStr| CString::new(text.as_bytes());
    let path = text(program.path.as_os_str())?;
    let arguments = program.arguments.iter().map(|word| text(word));
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os()
        .filter(|(name, _)| name != VARIABLE)
        .chain([(VARIABLE.into(), left.into())])
        .map(|(name, value)| CString::new([name.into_vec(), value.into_vec()].join(&b'=')));
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    let before = SigSet::from_iter(HELD_BACK).thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let Err(error) = execve(&path, &arguments, &environment);
    before.thread_set_mask()?;
    Err(error.into())
}

/// Lets signals through that were held back until this program could handle them.
pub(super) fn accept_signals() -> io::Result<()> {
    Ok(SigSet::from_iter(HELD_BACK).thread_unblock()?)
}
