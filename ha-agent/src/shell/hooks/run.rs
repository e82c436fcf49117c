//! One run of the command.

use std::io;
use std::os::fd::AsFd as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::config::model::{Mode, Notify};

/// How long a command that took too long may take to end by itself.
const GRACE: Duration = Duration::from_millis(500);
/// Where programs are looked for that the command calls.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is run, and how.
#[derive(Debug)]
pub(super) struct Task {
    config: Notify,
    /// keepalived's last argument: the higher one is favoured.
    priority: u8,
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// With exit code 0.
    Well,
    /// With another one, or by a signal.
    Badly(ExitStatus),
    /// It was ended.
    Late {
        /// Whether that could be done.
        killed: nix::Result<()>,
    },
    /// It did not begin.
    Never(io::Error),
}

impl Task {
    pub(super) const fn new(config: Notify, mode: Mode) -> Self {
        let priority = match mode {
            Mode::Off | Mode::First => 100,
            Mode::Second => 50,
        };
        Self { config, priority }
    }

    pub(super) fn command(&self) -> String {
        self.config.command.display().to_string()
    }

    pub(super) const fn limit(&self) -> Duration {
        self.config.timeout
    }

    /// Runs the command for this state. If the future is dropped, the command ends.
    pub(super) async fn run(&self, state: &str) -> Ended {
        let mut child = match self.start(state).await {
            Ok(child) => child,
            Err(error) => return Ended::Never(error),
        };
        let mut group = Group::of(&child);
        match timeout(self.config.timeout, child.wait()).await {
            Ok(ended) => {
                // What it left running on purpose is its own.
                group.leader = None;
                match ended {
                    Ok(status) if status.success() => Ended::Well,
                    Ok(status) => Ended::Badly(status),
                    Err(error) => Ended::Never(error),
                }
            }
            Err(_elapsed) => {
                // Its leader is not waited for in between, so that the group's number stays its own.
                let asked = group.signal(Signal::SIGTERM);
                sleep(GRACE).await;
                let killed = group.signal(Signal::SIGKILL);
                if asked.and(killed).is_ok() {
                    group.leader = None;
                    if let Err(error) = child.wait().await {
                        tracing::debug!(%error, "notify command not waited for");
                    }
                }
                Ended::Late {
                    killed: asked.and(killed),
                }
            }
        }
    }

    async fn start(&self, state: &str) -> io::Result<Child> {
        let mut command = Command::new(&self.config.command);
        command
            .args(["INSTANCE", &self.config.instance, state])
            .arg(self.priority.to_string())
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::null())
            // Both to the log; neither is read here, so it cannot fill up.
            .stdout(io::stderr().as_fd().try_clone_to_owned()?)
            .stderr(Stdio::inherit())
            .process_group(0);
        let user = self.user().await?;
        if user.uid != geteuid() {
            // Given a user, the standard library gives up all supplementary groups as well.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.spawn()
    }

    /// Whom it runs as. The directory of users may be elsewhere, and slow.
    async fn user(&self) -> io::Result<User> {
        let name = self.config.user.clone();
        let found = tokio::task::spawn_blocking(move || User::from_name(&name)).await;
        found.map_err(io::Error::other)??.ok_or_else(|| {
            let what = format!("there is no user {}", self.config.user);
            io::Error::new(io::ErrorKind::NotFound, what)
        })
    }
}

/// The process group of a command; it is ended when this is dropped.
struct Group {
    leader: Option<Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            leader: id.map(Pid::from_raw),
        }
    }

    fn signal(&self, signal: Signal) -> nix::Result<()> {
        match self.leader.map_or(Ok(()), |leader| killpg(leader, signal)) {
            // All of them have ended.
            Err(Errno::ESRCH) => Ok(()),
            result => result,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.signal(Signal::SIGKILL) {
            tracing::warn!(%error, "processes of the notify command could not be ended");
        }
    }
}
