//! What an operator asks of the role: to hand it over, to put the node aside, to take it back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::agent::Shared;
use super::clock;
use super::election::{self, Recorder};
use super::history::HistoryFile;
use crate::control::{Done, Refusal, Reply};
use crate::proto::carp::trailer::WireRole;
use crate::proto::carp::{Command, Role};
use crate::proto::time::Instant;

/// The longest wait for the partner: shorter than a command may take.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// How often the election's account is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How old that account may be.
const ACCOUNT_AGE: Duration = Duration::from_millis(300);

/// The longest recording.
const RECORD_MAX: u32 = 3600;

impl Shared {
    /// Begins to write down what happens to the election.
    pub(super) async fn record(&self, path: &Path, seconds: u32) -> Reply<Done> {
        if !path.is_absolute() || !(1..=RECORD_MAX).contains(&seconds) {
            return Err(Refusal::new(
                format!("a recording needs an absolute path and 1 to {RECORD_MAX} seconds"),
                "name another file or another time",
            ));
        }
        let length = Duration::from_secs(seconds.into());
        let recorder = Recorder::start(path, length).map_err(|error| {
            let what = format!("{}: {error}", path.display());
            Refusal::new(
                what,
                "name a file that does not exist yet, in a directory that does",
            )
        })?;
        let (answer, answered) = oneshot::channel();
        self.election
            .send(election::Command::Record(Box::new(recorder), answer));
        match answered.await {
            Ok(true) => Ok(Done::new(format!(
                "recording to {} for {seconds} s",
                path.display()
            ))),
            Ok(false) => Err(Refusal::new(
                "a recording is being made already",
                "wait until it ends; the file just made holds nothing",
            )),
            Err(_gone) => Err(Refusal::new(
                "the election does not answer",
                "look at the agent's log",
            )),
        }
    }

    /// Hands the active role over, and waits until the partner has it. Refused while another host has a
    /// shared address: a move makes neighbours ask anew, and they might believe that host.
    pub(super) async fn failover(&self) -> Reply<Done> {
        self.undisputed().await?;
        let begin = clock::now();
        self.request(Command::Failover).await?;
        self.handed_over(begin, "handed over").await
    }

    /// Puts the node aside or takes it back, now and after every restart.
    pub(super) async fn maintenance(&self, on: bool, force: bool) -> Reply<Done> {
        if on && !force {
            self.undisputed().await?;
        }
        let begin = clock::now();
        let role = self.election.published().election.role;
        if on && role == Role::Off {
            return Err(Refusal::new(
                "high availability is off, so there is no partner to leave the work to",
                "set node.mode to first or second",
            ));
        }
        self.request(match (on, force) {
            (true, true) => Command::MaintenanceAnyway,
            (on, _) => Command::Maintenance(on),
        })
        .await?;
        self.remember(move |history| history.set_maintenance(on))
            .await?;
        if !on {
            return Ok(Done::new(if role == Role::Pacified {
                "not in maintenance; still pacified: run `ha-agent resume` to take part again"
            } else {
                "takes part again"
            }));
        }
        if role == Role::Active && !force {
            return self.handed_over(begin, "in maintenance").await;
        }
        Ok(Done::new(
            "in maintenance: takes no part until `ha-agent maintenance off` or `resume`, also after a restart",
        ))
    }

    /// Takes the node back, whatever put it aside.
    pub(super) async fn resume(&self) -> Reply<Done> {
        let role = self.election.published().election.role;
        self.request(Command::Resume).await?;
        self.remember(HistoryFile::resume).await?;
        self.history.tell(&self.board);
        Ok(Done::new(
            if matches!(role, Role::Pacified | Role::Maintenance) {
                "takes part again"
            } else {
                "took part already"
            },
        ))
    }

    /// Stores an operator's wish for the next start, off this thread: a disk may hang.
    async fn remember(
        &self,
        change: impl FnOnce(&HistoryFile) -> std::io::Result<()> + Send + 'static,
    ) -> Reply<()> {
        let history = Arc::clone(&self.history);
        let stored = tokio::task::spawn_blocking(move || change(&history)).await;
        let problem = match stored {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(Refusal::new(
            format!("done, but not stored for the next start: {problem}"),
            "check the disk of node.state_dir, and repeat the command",
        ))
    }

    /// Waits until the partner is active.
    async fn handed_over(&self, begin: Instant, what: &str) -> Reply<Done> {
        let patience = (self.config().ha.timeout * 2 + ACCOUNT_AGE).min(WAIT_MAX);
        loop {
            let published = self.election.published();
            let snapshot = &published.election;
            let took = clock::now().since(begin);
            let Some(partner) = &snapshot.partner else {
                return Ok(Done::new(format!(
                    "{what}; the partner does not say when it has taken over"
                )));
            };
            if snapshot.role != Role::Active && partner.role == WireRole::Active {
                return Ok(Done::timed(
                    format!(
                        "{what}: the partner took over within {:.1} ms",
                        took.as_secs_f64() * 1e3
                    ),
                    took,
                ));
            }
            let back = snapshot.role == Role::Active && took > ACCOUNT_AGE;
            if back || took > patience {
                return Err(Refusal::new(
                    if back {
                        "the partner did not take over, so this node is active again".to_owned()
                    } else {
                        format!("the partner has not taken over within {} s", took.as_secs())
                    },
                    "see `ha-agent status` and the log of both nodes",
                ));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
