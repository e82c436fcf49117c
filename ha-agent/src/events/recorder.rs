//! The way into the history, and the thread behind it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::store::{self, Store};
use super::{Entry, Event, EventPage, EventQuery, PAGE_MAX, journal};

/// Events that may wait for the thread.
const QUEUE: usize = 256;
/// How often a disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Takes note of what happens; clones share one history.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: SyncSender<Message>,
    state: Arc<State>,
}

#[derive(Debug)]
enum Message {
    Happened(Entry),
    /// Write everything, tell, and end.
    Finish(SyncSender<()>),
}

#[derive(Debug, Default)]
struct State {
    directory: Option<PathBuf>,
    recent: Mutex<VecDeque<Event>>,
    news: watch::Sender<u64>,
    recorded: AtomicU64,
    stored: AtomicU64,
    lost: AtomicU64,
    /// Why the disk takes nothing.
    problem: Mutex<Option<String>>,
}

/// What became of events since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Recorded.
    pub recorded: u64,
    /// Of these, on disk.
    pub stored: u64,
    /// Lost: too many at once, or more than can wait for a disk.
    pub lost: u64,
}

impl Default for Recorder {
    /// Records nothing.
    fn default() -> Self {
        let (queue, _gone) = sync_channel(1);
        Self {
            queue,
            state: Arc::default(),
        }
    }
}

impl Recorder {
    /// Begins to record in this directory, behind what is there already.
    pub fn start(directory: &Path) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let state = Arc::new(State {
            directory: Some(directory.to_owned()),
            ..State::default()
        });
        let (worker, directory) = (Arc::clone(&state), directory.to_owned());
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || {
                let (store, known) = Store::open(&directory);
                worker.recent().extend(known);
                let mut worker = Worker {
                    store,
                    state: worker,
                    told: 0,
                };
                worker.run(&messages);
            })?;
        Ok(Self { queue, state })
    }

    /// Something happened. Never waits: what finds the queue full is counted, and told of later.
    pub fn record(&self, entry: Entry) {
        journal::tell(&entry);
        match self.queue.try_send(Message::Happened(entry)) {
            Ok(()) => {
                self.state.recorded.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Full(_)) => {
                self.state.lost.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing is recorded here, or not any more.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Events of the history. Reads files unless only the newest are asked for: not for a thread that others
    /// wait for.
    pub fn query(&self, query: &EventQuery) -> io::Result<EventPage> {
        let recent = self.state.recent();
        let first = recent.front().map_or(u64::MAX, |event| event.number);
        if query
            .after
            .is_some_and(|after| after.saturating_add(1) >= first)
        {
            let events = recent.iter().cloned().collect();
            drop(recent);
            return Ok(store::select(events, query, 0));
        }
        drop(recent);
        match &self.state.directory {
            Some(directory) => store::query(directory, query),
            None => Ok(store::select(Vec::new(), query, 0)),
        }
    }

    /// The newest events that are held in memory, oldest first.
    pub fn recent(&self, count: usize) -> Vec<Event> {
        let recent = self.state.recent();
        let surplus = recent.len().saturating_sub(count);
        recent.iter().skip(surplus).cloned().collect()
    }

    /// Says the number of the newest event whenever there is one.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.state.news.subscribe()
    }

    /// What was counted.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            recorded: self.state.recorded.load(Ordering::Relaxed),
            stored: self.state.stored.load(Ordering::Relaxed),
            lost: self.state.lost.load(Ordering::Relaxed),
        }
    }

    /// Why events are not stored, if they are not.
    pub fn problem(&self) -> Option<String> {
        self.state.problem().clone()
    }

    /// Writes what was recorded so far, and records no more. `false` if that takes longer than `patience`.
    pub fn finish(&self, patience: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        // The queue may be full: whoever empties it is waited for.
        let queue = self.queue.clone();
        let (sent, was_sent) = channel();
        thread::spawn(move || sent.send(queue.send(Message::Finish(done)).is_ok()));
        was_sent.recv_timeout(patience) == Ok(true) && wait.recv_timeout(patience).is_ok()
    }
}

impl State {
    fn recent(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    store: Store,
    state: Arc<State>,
    /// Lost events that the history tells of.
    told: u64,
}

impl Worker {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let first = if self.store.waiting() == 0 {
                messages.recv().map_err(RecvTimeoutError::from)
            } else {
                messages.recv_timeout(RETRY)
            };
            let finish = match first {
                Ok(first) => self.take(first, messages),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.flush() && self.confess() {
                self.flush();
            }
            if let Some(done) = finish {
                // Whoever asked may have lost patience.
                let _gone = done.send(());
                return;
            }
        }
    }

    /// Takes all messages that are there; what ends the thread is returned.
    fn take(&mut self, first: Message, messages: &Receiver<Message>) -> Option<SyncSender<()>> {
        for message in std::iter::once(first).chain(messages.try_iter().take(QUEUE)) {
            match message {
                Message::Happened(entry) => self.keep(entry),
                Message::Finish(done) => return Some(done),
            }
        }
        None
    }

    fn keep(&mut self, entry: Entry) {
        let event = self.store.take(entry);
        let number = event.number;
        let mut recent = self.state.recent();
        if recent.len() >= PAGE_MAX {
            recent.pop_front();
        }
        recent.push_back(event);
        drop(recent);
        self.state.news.send_replace(number);
    }

    /// Tells of events that are missing, if there are any.
    fn confess(&mut self) -> bool {
        let lost = self.state.lost.load(Ordering::Relaxed);
        let untold = lost.saturating_sub(self.told);
        if untold > 0 {
            self.told = lost;
            let why = "more at once than could wait, or the disk did not take them in time";
            self.keep(store::lost(untold, why));
        }
        untold > 0
    }

    /// Whether everything is on disk.
    fn flush(&mut self) -> bool {
        let dropped = self.store.take_dropped();
        self.state.lost.fetch_add(dropped, Ordering::Relaxed);
        let flushed = self.store.flush();
        let mut problem = self.state.problem();
        match flushed {
            Ok(stored) => {
                self.state.stored.fetch_add(stored, Ordering::Relaxed);
                if problem.take().is_some() {
                    info!("events are stored again");
                }
                true
            }
            Err(error) => {
                if problem.is_none() {
                    warn!(%error, "events are not stored; trying again");
                }
                *problem = Some(error.to_string());
                false
            }
        }
    }
}
