//! An agent and its service manager: what it says at `NOTIFY_SOCKET`, and when it says nothing.

mod common;

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::clock::{now_ns, until};
use ha_tests::rig::config::{PairConfig, SHARED_FRONT};
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::process::Process;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "setpriv"],
        &["ha-agent"],
        &[
            ("the_service_manager_is_told", told),
            ("a_frozen_election_starves_the_watchdog", starved),
            ("the_unit_leaves_the_agent_what_it_needs", confined),
        ],
    )
}

/// The service manager's limit: the agent feeds it four times as often.
const WATCHDOG: Duration = Duration::from_millis(800);
/// How old the election's account may be; see `shell/systemd.rs`.
const ACCOUNT: Duration = Duration::from_secs(1);
/// How long anything may take on a machine that stalls by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// Starts the agent of a node as a service.
    fn start(node: &mut Node) -> Result<Self> {
        Self::launch(node, Command::new(locate::program("ha-agent")?))
    }

    fn launch(node: &mut Node, mut command: Command) -> Result<Self> {
        let path = node.dir().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        command
            .arg("run")
            .arg("-f")
            .arg(node.config_file())
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        let log = node.dir().join("agent.log");
        node.agent = Some(Process::start(
            "the service",
            &node.netns,
            &mut command,
            &log,
        )?);
        Ok(Self { socket })
    }

    /// The next lines, or none within this time.
    fn hear(&self, patience: Duration) -> Result<Option<String>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let heard = buffer.get(..length).context("longer than its buffer")?;
                Ok(Some(String::from_utf8_lossy(heard).into_owned()))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it is told this line; returns all of that message.
    fn wait_for(&self, line: &str) -> Result<String> {
        let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
        let mut before = Vec::new();
        while now_ns() < end {
            let Some(heard) = self.hear(Duration::from_millis(100))? else {
                continue;
            };
            if heard.lines().any(|found| found == line) {
                return Ok(heard);
            }
            before.push(heard);
        }
        anyhow::bail!("not told {line}, but {before:?}")
    }

    /// Whether the watchdog is fed within this time; everything else is heard and forgotten.
    fn is_fed(&self, within: Duration) -> Result<bool> {
        let end = now_ns() + u64::try_from(within.as_nanos())?;
        while now_ns() < end {
            let left = Duration::from_nanos(end.saturating_sub(now_ns()).max(1_000_000));
            if self
                .hear(left)?
                .is_some_and(|heard| heard == "WATCHDOG=1\n")
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Forgets what was said so far.
    fn drain(&self) -> Result<()> {
        while self.hear(Duration::from_millis(1))?.is_some() {}
        Ok(())
    }
}

fn lone() -> Result<Pair> {
    Pair::build(PairConfig::default())
}

fn told() -> Result<()> {
    let mut pair = lone()?;
    let [node, _] = &mut pair.nodes;
    let manager = Manager::start(node)?;
    manager.wait_for("READY=1")?;
    manager.wait_for("STATUS=active")?;
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1")?;
    }
    // Good or not, a reload begins and ends: the agent goes on either way.
    let good = fs::read_to_string(node.config_file())?;
    for text in [good.clone(), "nonsense".to_owned(), good] {
        fs::write(node.config_file(), text)?;
        node.signal(Signal::SIGHUP)?;
        let begun = manager.wait_for("RELOADING=1")?;
        ensure!(begun.contains("MONOTONIC_USEC="), "{begun}");
        manager.wait_for("READY=1")?;
    }
    node.signal(Signal::SIGTERM)?;
    manager.wait_for("STOPPING=1")?;
    let agent = node.agent.as_mut().context("no agent")?;
    ensure!(agent.wait(PATIENCE)?.success());
    Ok(())
}

fn starved() -> Result<()> {
    let mut pair = lone()?;
    let [node, _] = &mut pair.nodes;
    let manager = Manager::start(node)?;
    manager.wait_for("STATUS=active")?;
    manager.wait_for("WATCHDOG=1")?;

    let frozen = Frozen::thread(node, "election")?;
    std::thread::sleep(ACCOUNT + WATCHDOG);
    manager.drain()?;
    ensure!(!manager.is_fed(WATCHDOG * 2)?, "fed without an election");
    // The main loop lives: it is the election alone that is missed.
    node.signal(Signal::SIGHUP)?;
    manager.wait_for("RELOADING=1")?;
    manager.wait_for("READY=1")?;
    ensure!(!manager.is_fed(WATCHDOG * 2)?, "fed without an election");
    ensure!(node.log().contains("the election thread does not answer"));

    drop(frozen);
    manager.wait_for("WATCHDOG=1")?;
    ensure!(manager.is_fed(PATIENCE)?);
    Ok(())
}

fn confined() -> Result<()> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ha-agent.service");
    let unit = fs::read_to_string(unit)?;
    let left = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet=CAP_"))
        .context("no capabilities in the unit")?;
    let left = format!("-all,+{}", left.to_lowercase().replace(" cap_", ",+"));
    let mut pair = lone()?;
    let [node, _] = &mut pair.nodes;
    let mut command = Command::new("setpriv");
    command
        .args(["--no-new-privs", "--bounding-set", &left])
        .arg(locate::program("ha-agent")?);
    let manager = Manager::launch(node, command)?;
    manager.wait_for("READY=1")?;
    manager.wait_for("STATUS=active")?;
    until("the address", || node.has_address(SHARED_FRONT))?;
    ensure!(!node.log().contains("works without"), "{}", node.log());
    node.reload()?;
    node.signal(Signal::SIGTERM)?;
    let agent = node.agent.as_mut().context("no agent")?;
    ensure!(agent.wait(PATIENCE)?.success(), "{}", node.log());
    ensure!(!node.bpf_dir().exists());
    Ok(())
}

/// One thread of a process that stands still until this is dropped, while the others go on.
struct Frozen(libc::pid_t);

impl Frozen {
    fn thread(node: &Node, name: &str) -> Result<Self> {
        let process = node.agent.as_ref().context("no agent")?.pid()?;
        let mut found = None;
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim() == name {
                found = Some(task.file_name().to_string_lossy().parse()?);
            }
        }
        let thread: libc::pid_t = found.with_context(|| format!("no thread {name}"))?;
        ptrace(libc::PTRACE_SEIZE, thread)?;
        let frozen = Self(thread);
        ptrace(libc::PTRACE_INTERRUPT, thread)?;
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        ensure!(waited == thread, io::Error::last_os_error());
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The agent may have ended.
        let _gone = ptrace(libc::PTRACE_DETACH, self.0);
    }
}

/// A request without arguments, which must come from the thread that made the first one.
fn ptrace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests reads or writes memory of this process.
    match unsafe { libc::ptrace(request, thread, null, null) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
