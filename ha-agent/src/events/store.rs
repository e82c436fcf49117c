//! Events on disk: numbering, writing, and finding them again.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, Lines};
use super::{Entry, Event, EventPage, EventQuery, Kind, Origin, PAGE_MAX};
use crate::status::model::SCHEMA_VERSION;

/// What this node and its operators did.
const OWN: &str = "events.jsonl";
/// What the world around it can provoke.
const WORLD: &str = "events-world.jsonl";
/// Most bytes of a file, of which there are two of each sort: some 4000 events.
const FILE_MAX: u64 = 1 << 20;
/// Events that wait for a disk that does not take them.
const WAITING_MAX: usize = 1000;

/// The files of a state directory, for the one who writes them.
#[derive(Debug)]
pub(super) struct Store {
    own: Sort,
    world: Sort,
    next: u64,
}

/// Events of one origin.
#[derive(Debug)]
struct Sort {
    lines: Lines,
    waiting: VecDeque<Event>,
    /// Of those that would have to wait, more than may.
    dropped: u64,
}

impl Sort {
    fn new(path: PathBuf) -> Self {
        Self {
            lines: Lines::new(path, FILE_MAX),
            waiting: VecDeque::new(),
            dropped: 0,
        }
    }

    fn push(&mut self, event: Event) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(event);
    }

    fn flush(&mut self) -> io::Result<u64> {
        if self.waiting.is_empty() {
            return Ok(0);
        }
        let mut text = Vec::new();
        for event in &self.waiting {
            serde_json::to_writer(&mut text, event)?;
            text.push(b'\n');
        }
        self.lines.append(&text)?;
        let stored = self.waiting.len() as u64;
        self.waiting.clear();
        Ok(stored)
    }
}

impl Store {
    /// The store in this directory, behind what is there already; with the newest events of it.
    pub(super) fn open(directory: &Path) -> (Self, Vec<Event>) {
        let newest = EventQuery {
            limit: PAGE_MAX,
            ..EventQuery::default()
        };
        let (events, next) = match query(directory, &newest) {
            Ok(page) => (page.events, page.next + 1),
            Err(error) => {
                tracing::warn!(%error, "the event history could not be read; counting begins anew");
                (Vec::new(), 1)
            }
        };
        let store = Self {
            own: Sort::new(directory.join(OWN)),
            world: Sort::new(directory.join(WORLD)),
            next,
        };
        (store, events)
    }

    /// Gives an event its number; it is written by the next [`Self::flush`].
    pub(super) fn take(&mut self, entry: Entry) -> Event {
        let origin = entry.kind.origin();
        let event = entry.numbered(self.next);
        self.next += 1;
        match origin {
            Origin::Own => self.own.push(event.clone()),
            Origin::World => self.world.push(event.clone()),
        }
        event
    }

    /// Writes what waits, and tells how many events that were. What the disk did not take waits on.
    pub(super) fn flush(&mut self) -> io::Result<u64> {
        let own = self.own.flush();
        let world = self.world.flush();
        Ok(own? + world?)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.own.waiting.len() + self.world.waiting.len()
    }

    /// How many were given up since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.own.dropped) + std::mem::take(&mut self.world.dropped)
    }
}

/// Reads the history in a state directory, whether or not an agent is running.
pub fn query(directory: &Path, query: &EventQuery) -> io::Result<EventPage> {
    let mut events = Vec::new();
    let mut unreadable = 0;
    for name in [OWN, WORLD] {
        let bytes = file::read(&directory.join(name), FILE_MAX)?;
        for line in bytes.split(|byte| *byte == b'\n') {
            match serde_json::from_slice::<Event>(line) {
                _ if line.is_empty() => {}
                Ok(event) => events.push(event),
                Err(_cut_short_or_foreign) => unreadable += 1,
            }
        }
    }
    // Numbers are given in the order of happening, and lines of one file are in it already.
    events.sort_by_key(|event| event.number);
    Ok(select(events, query, unreadable))
}

/// The page that a query asks for, of events in their order.
pub(super) fn select(events: Vec<Event>, query: &EventQuery, unreadable: u64) -> EventPage {
    let next = events.last().map_or(0, |event| event.number);
    // A number of a history that was lost is ahead of all there is.
    let after = query.after.filter(|after| *after <= next);
    let query = EventQuery {
        after,
        ..query.clone()
    };
    let mut events = events;
    events.retain(|event| query.matches(event));
    let surplus = events.len().saturating_sub(query.limit.min(PAGE_MAX));
    events.drain(..surplus);
    EventPage {
        schema_version: SCHEMA_VERSION,
        events,
        next,
        unreadable,
    }
}

/// The event that tells of others that are missing.
pub(super) fn lost(count: u64, why: &str) -> Entry {
    Entry::new(
        Kind::HistoryLost,
        "agent",
        format!("{count} events are missing"),
    )
    .because(why)
    .with("count", count.to_string())
}
