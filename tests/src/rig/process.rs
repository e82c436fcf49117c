//! Processes inside a namespace: agents, real servers, foreign peers.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, setsid};

use super::netns::Netns;
use crate::clock::now_ns;

/// Even where both cores are busy.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// A running process. Dropping it kills it, unless it was [released](Process::release).
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

/// Makes `command` start inside `netns`. Unlike `ip netns exec` this leaves the mounts alone, so
/// pinned BPF objects stay in sight.
pub(crate) fn inside<'a>(command: &'a mut Command, netns: &Netns) -> &'a mut Command {
    let file = Arc::clone(netns.file());
    // SAFETY: between fork and exec only `setns`, a system call, is made on a descriptor that is
    // open in the parent; nothing allocates.
    unsafe { command.pre_exec(move || Ok(setns(&*file, CloneFlags::CLONE_NEWNET)?)) }
}

impl Process {
    /// Starts a program in a namespace with its output in a file. It gets a session of its own, so
    /// that Ctrl-C at the terminal reaches the rig only, which then ends it in order.
    pub fn start(name: &str, netns: &Netns, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        inside(command, netns);
        // SAFETY: `setsid` is a system call; nothing allocates.
        unsafe { command.pre_exec(|| Ok(setsid().map(|_session| ())?)) };
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child: Some(child),
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the process has ended")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// Sends it a signal. When it is told to stop, all of its threads have stopped, or it has ended, afterwards: the
    /// kernel tells one thread, which tells the others when it comes to run, and until then they go on.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.name))?;
        if signal == Signal::SIGSTOP {
            self.wait_stopped()?;
        }
        Ok(())
    }

    fn wait_stopped(&self) -> Result<()> {
        let pid = self.pid()?;
        // What happened stays there for whoever waits for the end, and for a second signal to a stopped process.
        let flags = WaitPidFlag::WSTOPPED
            | WaitPidFlag::WEXITED
            | WaitPidFlag::WNOWAIT
            | WaitPidFlag::WNOHANG;
        let end = now_ns() + u64::try_from(STOPPED_WITHIN.as_nanos())?;
        while waitid(Id::Pid(pid), flags)? == WaitStatus::StillAlive {
            if now_ns() > end {
                bail!("{} does not stop", self.name);
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = now_ns() + u64::try_from(timeout.as_nanos())?;
        loop {
            if let Some(status) = self.ended()? {
                self.child = None;
                return Ok(status);
            }
            if now_ns() > end {
                bail!("{} did not end within {timeout:?}", self.name);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Lets it run on when the value is dropped.
    pub fn release(mut self) {
        self.child = None;
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Where it writes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.kill();
    }
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(OsStr::new(program)).is_file())
}
