//! `ha-agent run`: the main loop, from start to a clean stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle as Task;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::agent::{Shared, lock};
use super::election::{self, Event};
use super::hooks::State;
use super::interfaces::Interfaces;
use super::neighbours::Neighbours;
use super::netlink::Change;
use super::parts;
use super::records::http;
use super::reexec::{self, Inheritance};
use super::start::{self, Beginning, StartError, Started};
use super::systemd::{Watchdog, monotonic, notify, tell_role};
use super::terms::TermStore;
use super::{
    alarms, conflicts, confsync, factory, fragments, guard, happened, observe, verdicts,
    virtual_mac,
};
use crate::config::model::{Config, RecordsListen};
use crate::config::{Diagnostic, Loaded, Secrets};
use crate::control::{self, BindError, Listener, Refusal};
use crate::events::{Entry, Kind};
use crate::health::Report;
use crate::health::verdicts::Verdict;
use crate::proto::carp::{Command, Role};
use crate::telemetry::EVENT;

/// How often next hops are looked up anew, whatever the kernel told of.
const REFRESH: Duration = Duration::from_secs(5);
/// How often interfaces are looked at: nobody tells when an XDP program is taken off.
const LOOK: Duration = Duration::from_secs(1);
/// How long a hand-over may take at a stop before the agent ends all the same.
const STOP_MAX: Duration = Duration::from_secs(3);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Configuration(Vec<Diagnostic>),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] BindError),
    /// The node did not come up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The runtime or a signal handler.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
    /// The agent ended because of a reset, but something is left.
    #[error("{}: {source}: not all is reset; mend that and run `ha-agent reset`", .path.display())]
    NotReset {
        /// What could not be removed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something the agent cannot do without ended; another start may help.
    #[error("{0} ended; see the log above")]
    Lost(&'static str),
}

/// Runs an agent with this configuration file until it is told to stop.
pub fn run(path: &Path) -> Result<(), RunError> {
    let inheritance = reexec::inherit();
    let loaded = Config::load(path).map_err(RunError::Configuration)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let secrets = loaded.secrets().map_err(RunError::Configuration)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build()?
        .block_on(serve(path, loaded, secrets, inheritance))
}

async fn serve(
    path: &Path,
    loaded: Loaded,
    secrets: Secrets,
    inheritance: Inheritance,
) -> Result<(), RunError> {
    // First of all: it tells whether another agent is alive, before anything is touched.
    let socket = loaded.config.node.socket();
    let replaces = inheritance.control.is_some();
    let listener = match inheritance.control {
        Some(control) => Listener::inherit(&socket, control)?,
        None => Listener::bind(&socket)?,
    };
    // Until all is taken down: another agent that began meanwhile would have its pins taken from it.
    let _claim = listener.claim();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut replace = signal(SignalKind::user_defined2())?;
    reexec::accept_signals()?;

    let Started {
        shared,
        mut events,
        mut changes,
        terms,
        mut reports,
        addresses,
        threads,
        held,
        pins,
    } = Box::pin(start::start(Beginning {
        path: path.to_owned(),
        loaded,
        secrets,
        replaces,
        estate: inheritance.estate,
        control: listener.heirloom()?,
    }))
    .await?;
    let control = tokio::spawn(control::serve(listener, Arc::clone(&shared)));
    let conflicts = tokio::spawn(conflicts::watch(Arc::clone(&shared)));
    let verdicts = tokio::spawn(verdicts::keep(Arc::clone(&shared)));
    let fragments = tokio::spawn(fragments::watch(Arc::clone(&shared.datapath), held));
    let replica = tokio::spawn(confsync::replicate(Arc::clone(&shared)));
    let watcher = tokio::spawn(happened::watch(Arc::clone(&shared)));
    let records = serve_records(&shared);
    let observers = observe::serve(&shared);
    let mut neighbours = Neighbours::new(
        shared.netlink.clone(),
        Arc::clone(&shared.services),
        Arc::clone(&shared.datapath),
        parts::sources(&shared.config(), &shared.bound),
    );
    shared.check_health(&shared.config());

    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interfaces = Interfaces::new(Arc::clone(&shared));
    let mut watchdog = Watchdog::new();
    let mut sound = Box::pin(tokio::time::sleep(shared.config().ha.pacify.window));
    let mut proven = false;
    let mut lost = None;
    let mut doomed = shared.doomed.subscribe();
    notify(&[sd_notify::NotifyState::Ready]);
    tell_role(shared.election.published().election.role);
    info!(node = shared.config().node.name, "agent started");

    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Stopped) => break,
                None => {
                    lost = Some("the election thread");
                    break;
                }
                Some(event) => handle(event, &shared, &terms),
            },
            change = changes.next() => match change {
                Some(Change::Neighbour(neighbour)) => neighbours.changed(neighbour),
                Some(Change::Link(link)) => {
                    if interfaces.changed(&link).await {
                        neighbours.rebound(parts::sources(&shared.config(), &shared.bound));
                    }
                }
                Some(Change::LinkGone { ifindex }) => interfaces.gone(ifindex),
                None => {
                    // Without it carrier loss goes unseen; the service manager starts the agent anew.
                    error!("the netlink connection broke; handing over and stopping");
                    lost = Some("the netlink connection");
                    stop(&shared);
                }
            },
            Some(report) = reports.recv() => health_changed(&shared, report),
            _ = refresh.tick() => neighbours.refresh().await,
            _ = look.tick() => {
                if interfaces.look().await {
                    neighbours.rebound(parts::sources(&shared.config(), &shared.bound));
                }
            }
            () = &mut sound, if !proven => {
                proven = true;
                let history = Arc::clone(&shared.history);
                tokio::task::spawn_blocking(move || history.prove_sound());
            }
            () = watchdog.due() => watchdog.feed(&shared.election.published()),
            _ = hangup.recv() => {
                let shared = Arc::clone(&shared);
                tokio::task::spawn_blocking(move || reload(&shared));
            }
            _ = replace.recv() => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { refuse("not replaced", &shared.reexec().await) });
            }
            Ok(()) = doomed.changed() => factory::leave(&shared),
            _ = terminate.recv() => stop(&shared),
            _ = interrupt.recv() => stop(&shared),
        }
    }

    info!(target: EVENT, "agent stopping");
    let stopping = Entry::new(Kind::Stopping, "agent", "the agent ends in order");
    shared.events.record(stopping);
    notify(&[sd_notify::NotifyState::Stopping]);
    control.abort();
    conflicts.abort();
    verdicts.abort();
    fragments.abort();
    replica.abort();
    watcher.abort();
    drop(observers);
    shared.hooks.tell(State::Stop);
    if let Some(records) = records {
        records.abort();
    }
    finish(&shared, addresses, threads).await;
    shared.history.stop();
    virtual_mac::forget(&shared).await;
    pins.remove()?;
    if let Err(error) = guard::remove() {
        warn!(%error, "nftables table not removed");
    }
    shared.hooks.finish(STOP_MAX).await;
    let events = shared.events.clone();
    let finished = tokio::task::spawn_blocking(move || events.finish(STOP_MAX)).await;
    if !finished.unwrap_or(false) {
        warn!("the last events were not stored in time");
    }
    factory::discard(&shared.doomed).await?;
    lost.map_or(Ok(()), |what| Err(RunError::Lost(what)))
}

/// Serves records over HTTP where the configuration says so. A node whose proxies cannot reach it is
/// better than none, and the log tells.
fn serve_records(shared: &Shared) -> Option<Task<()>> {
    let config = shared.config();
    let listen = match config.records.listen? {
        RecordsListen::Path(path) => RecordsListen::Path(config.node.run_dir.join(path)),
        address @ RecordsListen::Address(_) => address,
    };
    let records = shared.replication.as_ref()?.records().clone();
    match http::Listener::bind(&listen) {
        Ok(listener) => Some(tokio::spawn(http::serve(listener, records))),
        Err(error) => {
            error!(%error, ?listen, "records are not served: another program has the address, perhaps");
            None
        }
    }
}

/// Hands over; [`Event::Stopped`] ends the loop.
pub(super) fn stop(shared: &Arc<Shared>) {
    let (answer, _nobody_waits) = tokio::sync::oneshot::channel();
    shared
        .election
        .send(election::Command::Operator(Command::Stop, answer));
}

async fn finish(shared: &Shared, addresses: Task<()>, threads: Vec<JoinHandle<()>>) {
    if let Some(replication) = &shared.replication {
        replication.stop();
    }
    // Ends because the election, which held the other end of its channel, is gone.
    if timeout(STOP_MAX, addresses).await.is_err() {
        warn!(
            "shared addresses not removed in time; the kernel removes them when their lifetime ends"
        );
    }
    let joined = tokio::task::spawn_blocking(move || {
        threads
            .into_iter()
            .filter_map(|thread| thread.join().err())
            .count()
    });
    match timeout(STOP_MAX, joined).await {
        Ok(Ok(0)) => {}
        Ok(_) => error!("a thread had panicked"),
        Err(_elapsed) => warn!("a thread did not end in time"),
    }
}

fn handle(event: Event, shared: &Arc<Shared>, terms: &TermStore) {
    match event {
        Event::RoleChanged {
            from,
            to,
            reason,
            term,
        } => {
            let [from, to_word, reason] = happened::words(from, to, reason);
            info!(target: EVENT, %from, to = %to_word, %reason, term, "role change");
            shared
                .events
                .record(happened::role_changed(&from, &to_word, &reason, term));
            shared.tallies.role_changed(from, to_word, reason);
            tell_role(to);
            let mode = lock(&shared.loaded).config.node.mode;
            if let Some(state) = State::of(to, mode) {
                shared.hooks.tell(state);
            }
            shared.verdicts.set_active(to == Role::Active);
            shared
                .replica
                .set_active(matches!(to, Role::Active | Role::Off));
        }
        Event::ReserveTerm { up_to } => reserve(shared, terms.clone(), up_to),
        Event::Alarm {
            alarm,
            raised,
            evidence,
        } => {
            let kind = alarms::Kind::from(alarm);
            if raised {
                shared.board.raise(kind, "", evidence.to_string());
            } else {
                shared.board.clear(kind, "");
            }
        }
        Event::VirtualMac { link, blocked } => match blocked {
            Some(evidence) => shared
                .board
                .raise(alarms::Kind::VirtualMacBlocked, &link, evidence),
            None => shared.board.clear(alarms::Kind::VirtualMacBlocked, &link),
        },
        Event::Unpunctual { what, error } => {
            warn!(
                error,
                "the election thread works without {what}: grant CAP_SYS_NICE and CAP_IPC_LOCK"
            );
        }
        // Ends the loop before it comes here.
        Event::Stopped => {}
    }
}

/// Writes the reservation off this loop: a disk may hang.
fn reserve(shared: &Arc<Shared>, terms: TermStore, up_to: u64) {
    let election = shared.election.clone();
    tokio::task::spawn_blocking(move || match terms.reserve(up_to) {
        Ok(()) => {
            election.send(election::Command::TermReserved(up_to));
        }
        Err(error) => error!(%error, up_to, "terms not reserved on disk"),
    });
}

fn health_changed(shared: &Shared, report: Report) {
    shared.events.record(happened::judged(shared, &report));
    let failure = match report.failure {
        None if !report.up => Some(String::new()),
        failure => failure,
    };
    shared.verdicts.found(report.key, Verdict { failure });
}

fn reload(shared: &Shared) {
    notify(&[sd_notify::NotifyState::Reloading, monotonic()]);
    match shared.reload_for("SIGHUP") {
        Ok(reloaded) => info!(target: EVENT, changes = ?reloaded.changes, "configuration reloaded"),
        Err(refusal) => refuse("not reloaded", &refusal),
    }
    notify(&[sd_notify::NotifyState::Ready]);
}

/// Logs why something a signal asked for was not done.
fn refuse(what: &str, refusal: &Refusal) {
    for problem in &refusal.problems {
        error!("{problem}");
    }
    error!("{what}: {refusal}; {}", refusal.remedy);
}
