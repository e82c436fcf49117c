//! A command that is told of changes of the role, with the arguments of keepalived's notify scripts.
//!
//! Changes are told one at a time and in their order, by a task of its own: nobody waits for a command. When they
//! come faster than it ends, the oldest of those that wait are passed over; the last one is always told. A command
//! that takes too long is ended with all of its process group. It runs as another user, so it can change nothing
//! here; what it says goes to the log.

mod run;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use self::run::{Ended, Task};
use super::agent::lock;
use crate::config::model::{self, Mode};
use crate::proto::carp::Role;

/// Changes that may wait.
const WAITING_MAX: usize = 8;

/// What the command is told, in the words of keepalived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This node is active.
    Master,
    /// It is standby.
    Backup,
    /// It takes no part.
    Fault,
    /// The agent ends.
    Stop,
}

impl State {
    /// What a role is in these words; none if it is no state yet.
    pub const fn of(role: Role, mode: Mode) -> Option<Self> {
        match role {
            Role::Active => Some(Self::Master),
            Role::Standby => Some(Self::Backup),
            Role::Pacified | Role::Maintenance => Some(Self::Fault),
            Role::Init => None,
            // Alone a node is always active, and one of a pair is off when it ends.
            Role::Off => match mode {
                Mode::Off => Some(Self::Master),
                Mode::First | Mode::Second => Some(Self::Stop),
            },
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
        }
    }
}

/// What came of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Ended well.
    pub done: u64,
    /// Ended with another exit code, or by a signal.
    pub failed: u64,
    /// Took too long.
    pub timed_out: u64,
    /// Could not be started.
    pub not_started: u64,
    /// Changes that were passed over because more waited than may.
    pub passed_over: u64,
    /// Changes that wait.
    pub waiting: u64,
}

/// The way to the command.
#[derive(Debug)]
pub struct Hooks {
    queue: Arc<Queue>,
    /// The task that runs it, until it is waited for.
    worker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
    ends: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    not_started: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    states: VecDeque<State>,
    /// The newest that was taken note of.
    last: Option<State>,
    passed_over: u64,
}

impl Hooks {
    /// Begins to tell the command of a configuration, if it has one. Within a tokio runtime.
    pub fn start(node: &model::Node) -> Self {
        let queue = Arc::new(Queue::default());
        let worker = node.notify.clone().map(|config| {
            let task = Task::new(config, node.mode);
            tokio::spawn(work(task, Arc::clone(&queue)))
        });
        Self {
            queue,
            worker: Mutex::new(worker),
        }
    }

    /// The state is now this. Never waits.
    pub fn tell(&self, state: State) {
        if lock(&self.worker).is_none() {
            return;
        }
        let mut waiting = lock(&self.queue.waiting);
        if waiting.last.replace(state) == Some(state) {
            return;
        }
        if waiting.states.len() >= WAITING_MAX {
            waiting.states.pop_front();
            waiting.passed_over += 1;
        }
        waiting.states.push_back(state);
        drop(waiting);
        self.queue.news.notify_one();
    }

    /// Waits until everything is told, but no longer than this; then what still runs is ended.
    pub async fn finish(&self, patience: Duration) {
        let worker = lock(&self.worker).take();
        let Some(worker) = worker else {
            return;
        };
        self.queue.ends.store(true, Ordering::Relaxed);
        self.queue.news.notify_one();
        let stop = worker.abort_handle();
        if timeout(patience, worker).await.is_err() {
            warn!("the notify command is ended with the agent: it has not ended in time");
            stop.abort();
        }
    }

    /// What came of all that was told.
    pub fn outcomes(&self) -> Outcomes {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waiting = lock(&self.queue.waiting);
        Outcomes {
            done: read(&self.queue.done),
            failed: read(&self.queue.failed),
            timed_out: read(&self.queue.timed_out),
            not_started: read(&self.queue.not_started),
            passed_over: waiting.passed_over,
            waiting: waiting.states.len() as u64,
        }
    }
}

async fn work(task: Task, queue: Arc<Queue>) {
    loop {
        let next = lock(&queue.waiting).states.pop_front();
        let Some(state) = next else {
            if queue.ends.load(Ordering::Relaxed) {
                return;
            }
            queue.news.notified().await;
            continue;
        };
        let (state, command) = (state.as_str(), task.command());
        let counter = match task.run(state).await {
            Ended::Well => {
                debug!(state, command, "notify command done");
                &queue.done
            }
            Ended::Badly(status) => {
                warn!(state, command, %status, "notify command failed");
                &queue.failed
            }
            Ended::Late { killed } => {
                let limit = task.limit();
                warn!(
                    state,
                    command,
                    ?limit,
                    "notify command took too long and was ended"
                );
                if let Err(error) = killed {
                    warn!(command, %error, "its process group could not be ended: grant CAP_KILL");
                }
                &queue.timed_out
            }
            Ended::Never(error) => {
                warn!(state, command, %error, "notify command not started");
                &queue.not_started
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
