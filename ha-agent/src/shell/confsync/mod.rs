//! Replication of the configuration: performs what [`crate::proto::confsync`] asks for.
//!
//! ```text
//! reload, push ─▶ machine ─▶ actions, in order ─▶ record on disk, take over, ask, answer
//!                   ▲                                                      │
//!                   └── role, questions and answers over the channel ◀─────┘
//! ```

mod channel;
mod client;
mod edit;
mod giver;
pub mod join;
mod keys;
mod operator;
mod server;
mod store;
mod take;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};

use super::agent::{Shared, lock};
use super::alarms::Kind;
use super::{clock, happened};
use crate::config::Loaded;
use crate::config::model::Mode;
use crate::keys::PairKeys;
use crate::proto::confsync::{
    Action, ConfSync, Input, Record, Request, Response, Snapshot, Start, Version,
};
use crate::proto::time::Instant;
use crate::status::configuration::{ChannelStatus, Configuration, Progress, VersionStatus};
use crate::telemetry::EVENT;
use channel::{ChannelCounters, Place, count};
use client::AskError;
pub use keys::ChannelKeys;
pub use store::Store;
use window::Pairing;

/// How long a question of the partner may wait for its answer here.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How often the alarms are brought up to date.
const LOOK: Duration = Duration::from_secs(1);
/// How long a partner that is heard may answer no question: as long as it takes to start.
const FAILING: Duration = Duration::from_secs(5);

/// The machine and everything around it.
#[derive(Debug)]
pub struct Replica {
    core: Mutex<Core>,
    wake: Notify,
    /// Who changes the configuration does it alone.
    turn: Mutex<()>,
    store: Store,
    keys: ArcSwap<ChannelKeys>,
    first: bool,
    /// Whether there is a partner at all.
    paired: bool,
    counters: ChannelCounters,
    trouble: Mutex<Trouble>,
    pairing: Pairing,
}

struct Core {
    machine: ConfSync,
    actions: VecDeque<Action>,
    waiting: BTreeMap<u64, oneshot::Sender<Response>>,
    questions: u64,
}

impl Core {
    /// A number for a question whose answer is to go there.
    fn expect_answer(&mut self, sender: oneshot::Sender<Response>) -> u64 {
        self.questions += 1;
        self.waiting.insert(self.questions, sender);
        self.questions
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// What is wrong, in words.
#[derive(Debug, Default)]
struct Trouble {
    /// Why the partner was not asked or did not answer.
    channel: Option<String>,
    /// Since when that is so although it is heard elsewhere.
    failing: Option<Instant>,
    /// Why the version is not on the disk.
    not_stored: Option<String>,
    /// What of the file needs a restart.
    restart: Vec<String>,
}

impl Replica {
    /// Of a node that starts with this file.
    pub fn new(loaded: &Loaded, keys: &PairKeys, store: Store) -> Self {
        let node = &loaded.config.node;
        let first = node.mode != Mode::Second;
        let record = store.load();
        let start = Start {
            name: node.name.clone(),
            first,
            record: record.unwrap_or_else(|| Record::fresh(loaded.shared.hash)),
            hash: loaded.shared.hash,
            document: loaded.shared.document.clone(),
        };
        Self {
            core: Mutex::new(Core {
                machine: ConfSync::new(start, clock::now()),
                actions: VecDeque::new(),
                waiting: BTreeMap::new(),
                questions: 0,
            }),
            wake: Notify::new(),
            turn: Mutex::new(()),
            store,
            keys: ArcSwap::from_pointee(ChannelKeys::new(keys, first)),
            first,
            paired: node.mode != Mode::Off,
            counters: ChannelCounters::default(),
            trouble: Mutex::default(),
            pairing: Pairing::default(),
        }
    }

    /// The node became active, or is so no longer. A node alone always is.
    pub fn set_active(&self, active: bool) {
        self.input(Input::Role { active });
    }

    /// The pair's keys changed.
    fn set_keys(&self, keys: &PairKeys) {
        self.keys
            .store(Arc::new(ChannelKeys::new(keys, self.first)));
    }

    fn snapshot(&self) -> Snapshot {
        lock(&self.core).machine.snapshot()
    }

    fn input(&self, input: Input) {
        self.with(|machine, out| machine.handle_input(clock::now(), input, out));
    }

    /// Lets the machine act; what it wants is done in the order in which it wanted it.
    fn with<T>(&self, act: impl FnOnce(&mut ConfSync, &mut Vec<Action>) -> T) -> T {
        let mut core = lock(&self.core);
        let mut out = Vec::new();
        let result = act(&mut core.machine, &mut out);
        core.actions.extend(out);
        drop(core);
        self.wake.notify_one();
        result
    }

    /// Answers a question of the partner's; none if it took too long.
    async fn answer(&self, request: Request) -> Option<Response> {
        let (sender, answer) = oneshot::channel();
        let id = lock(&self.core).expect_answer(sender);
        self.input(Input::Request { id, request });
        let answered = timeout(ANSWER_MAX, answer).await;
        lock(&self.core).waiting.remove(&id);
        answered.ok()?.ok()
    }

    /// How long the machine wants to be left alone.
    fn rest(&self) -> Option<Duration> {
        let at = lock(&self.core).machine.poll_timeout()?;
        Some(at.since(clock::now()))
    }

    async fn perform(&self, shared: &Arc<Shared>, action: Action) {
        match action {
            Action::Record(record) => self.record(record).await,
            Action::Apply {
                record,
                document,
                keep,
            } => {
                let node = Arc::clone(shared);
                let version = record.version;
                let taken =
                    tokio::task::spawn_blocking(move || node.take_over(&record, &document, keep));
                let taken = taken.await.unwrap_or_else(|panic| Err(panic.to_string()));
                shared
                    .events
                    .record(happened::taken_over(version.generation, &taken));
                match taken {
                    Ok(changes) => {
                        let generation = version.generation;
                        info!(
                            target: EVENT,
                            generation,
                            ?changes,
                            "configuration of the partner taken over"
                        );
                        self.input(Input::Applied);
                    }
                    Err(reason) => {
                        let generation = version.generation;
                        error!(
                            generation,
                            reason, "configuration of the partner not taken over"
                        );
                        self.input(Input::NotApplied { reason });
                    }
                }
            }
            // A node alone waits for an answer for good.
            Action::Exchange(_) if !self.paired => {}
            Action::Exchange(request) => {
                let node = Arc::clone(shared);
                tokio::spawn(async move { node.replica.exchange(&node, request).await });
            }
            Action::Respond { id, response } => {
                let waiting = lock(&self.core).waiting.remove(&id);
                if let Some(waiting) = waiting {
                    // Who asked may be gone.
                    let _gone = waiting.send(response);
                }
            }
        }
    }

    async fn record(&self, record: Record) {
        let store = self.store.clone();
        let stored = tokio::task::spawn_blocking(move || store.store(&record)).await;
        let problem = match stored {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic.to_string()),
        };
        lock(&self.trouble).not_stored = problem;
    }

    async fn exchange(&self, shared: &Shared, request: Request) {
        let Some(place) = Place::find(shared) else {
            // Nothing to ask over, and nothing to wait for: the machine waits for an answer for good.
            return;
        };
        let keys = self.keys.load_full();
        match client::ask(&place, &keys, &request).await {
            Ok(response) => {
                lock(&self.trouble).channel = None;
                self.input(Input::Answer(response));
            }
            Err(error) => {
                match error {
                    AskError::HostKey => {
                        self.wrong_key(shared, &place.partner().ip().to_string());
                    }
                    AskError::TimedOut => count(&self.counters.timed_out),
                    AskError::Wire(_) => count(&self.counters.malformed),
                    AskError::Unreachable(_)
                    | AskError::Refused
                    | AskError::Ssh(_)
                    | AskError::Io(_) => {}
                }
                lock(&self.trouble).channel = Some(format!("{}: {error}", place.partner()));
                self.input(Input::Failed);
            }
        }
    }

    /// Somebody has not the pair's key.
    fn wrong_key(&self, shared: &Shared, who: &str) {
        count(&self.counters.wrong_key);
        let evidence = format!("{who} showed a key that does not derive from the pair's");
        shared.board.report(Kind::ConfigurationKey, who, evidence);
    }

    /// Brings the alarms up to date.
    fn tell(&self, shared: &Shared) {
        let snapshot = self.snapshot();
        let published = shared.election.published();
        let heard = published.election.links.iter().any(|link| link.heard);
        let mut trouble = lock(&self.trouble);
        let now = clock::now();
        let failing = snapshot.failures > 0 && heard;
        trouble.failing = failing.then(|| trouble.failing.unwrap_or(now));
        let lasts = trouble
            .failing
            .is_some_and(|since| now.since(since) >= FAILING);
        let channel = lasts.then(|| {
            let why = trouble.channel.as_deref().unwrap_or("no answer");
            format!("{} times in a row; {why}", snapshot.failures)
        });
        let refused = snapshot
            .not_applied
            .map(|reason| format!("this node cannot take over the partner's: {reason}"))
            .or_else(|| {
                let theirs = snapshot.refused;
                theirs.map(|reason| format!("the partner cannot take over this node's: {reason}"))
            });
        let lost = self.store.lost();
        let lost = (!lost.is_empty()).then(|| {
            let files = lost.iter().map(|path| path.display().to_string());
            files.collect::<Vec<_>>().join(", ")
        });
        let restart = (!trouble.restart.is_empty()).then(|| trouble.restart.join("; "));
        let not_stored = trouble.not_stored.clone();
        drop(trouble);
        for (kind, evidence) in [
            (Kind::ConfigurationChannel, channel),
            (Kind::ConfigurationRefused, refused),
            (Kind::ConfigurationLost, lost),
            (Kind::ConfigurationNotStored, not_stored),
            (Kind::RestartNeeded, restart),
        ] {
            match evidence {
                Some(evidence) => shared.board.raise(kind, "configuration", evidence),
                None => shared.board.clear(kind, "configuration"),
            }
        }
    }

    /// What people are shown.
    pub fn status(&self) -> Configuration {
        let snapshot = self.snapshot();
        let trouble = lock(&self.trouble);
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let ago = |at| clock::now().since(at).as_secs_f64();
        Configuration {
            version: version(snapshot.version),
            edited: snapshot.edited,
            partner: snapshot
                .partner
                .as_ref()
                .map(|claim| version(claim.version())),
            in_sync: snapshot.in_sync,
            heard_seconds: snapshot.heard.map(ago),
            restart_needed: trouble.restart.clone(),
            problem: snapshot.not_applied.or(snapshot.refused).or_else(|| {
                let failing = snapshot.failures > 0;
                trouble.channel.clone().filter(|_| failing)
            }),
            lost: self.store.lost(),
            progress: Progress {
                exchanged: snapshot.counters.exchanged,
                failed: snapshot.counters.failed,
                asked: snapshot.counters.asked,
                applied: snapshot.counters.applied,
                not_applied: snapshot.counters.not_applied,
            },
            channel: ChannelStatus {
                sessions: get(&self.counters.sessions),
                wrong_key: get(&self.counters.wrong_key),
                too_many: get(&self.counters.too_many),
                timed_out: get(&self.counters.timed_out),
                unproven: get(&self.counters.unproven),
                operators: get(&self.counters.operators),
                operators_refused: get(&self.counters.operators_refused),
                malformed: get(&self.counters.malformed),
            },
        }
    }

    /// Whether partner and node have the same version, as far as there is a channel to tell.
    pub fn in_sync(&self, has_channel: bool) -> bool {
        let restart = !lock(&self.trouble).restart.is_empty();
        !restart && (!has_channel || self.snapshot().in_sync)
    }
}

fn version(version: Version) -> VersionStatus {
    VersionStatus {
        generation: version.generation,
        hash: version.hash,
    }
}

/// Whether a node has somewhere to replicate to.
pub(super) fn has_channel(shared: &Shared) -> bool {
    Place::find(shared).is_some()
}

/// Replicates as long as the agent runs.
pub async fn replicate(shared: Arc<Shared>) {
    let paired = shared.replica.paired;
    let _server = paired.then(|| Aborting(tokio::spawn(server::serve(Arc::clone(&shared)))));
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        loop {
            let action = lock(&shared.replica.core).actions.pop_front();
            let Some(action) = action else { break };
            shared.replica.perform(&shared, action).await;
        }
        let rest = shared.replica.rest();
        tokio::select! {
            () = shared.replica.wake.notified() => {}
            () = sleep(rest.unwrap_or(LOOK)), if rest.is_some() => {
                shared.replica.with(|machine, out| machine.handle_timeout(clock::now(), out));
            }
            _ = look.tick() => {
                let told = Arc::clone(&shared);
                let telling = tokio::task::spawn_blocking(move || told.replica.tell(&told));
                if telling.await.is_err() {
                    warn!("alarms of the configuration not brought up to date");
                }
            }
        }
    }
}

/// Ends with the task that waits for it.
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
