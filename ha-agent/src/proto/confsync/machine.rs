//! The machine: see the [module](super).

use std::time::Duration;

use super::version::{Claim, ContentHash, Record, Version};
use super::wire::{Request, Response};
use crate::proto::time::Instant;

/// How often two nodes that agree make sure of it: and so how soon they know that they no longer could tell each other.
pub const RECONCILE: Duration = Duration::from_secs(15);
/// How often a node that differs from its partner, or does not reach it, tries again.
pub const RETRY: Duration = Duration::from_secs(1);
/// The same while the partner cannot take over what it is offered.
pub const RETRY_REFUSED: Duration = Duration::from_secs(10);
/// Questions that may wait for the same version to be applied.
const WAITING_MAX: usize = 8;

/// What a node starts with.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// Whether it is the first node of its pair.
    pub first: bool,
    /// What was kept of the file's version.
    pub record: Record,
    /// What the file says now.
    pub hash: ContentHash,
    /// Its document.
    pub document: String,
}

/// What happens to it.
#[derive(Clone, Debug)]
pub enum Input {
    /// The node became active, or is so no longer.
    Role {
        /// Which.
        active: bool,
    },
    /// The partner asks.
    Request {
        /// Names the question for its answer.
        id: u64,
        /// The question.
        request: Request,
    },
    /// The partner answered.
    Answer(Response),
    /// It was not reached, or did not answer in time.
    Failed,
    /// What was to be applied is applied.
    Applied,
    /// It could not be; everything is as before.
    NotApplied {
        /// Why.
        reason: String,
    },
    /// Whatever it is to be told, now.
    Push,
}

/// What it wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep this across restarts, before anything that follows is done.
    Record(Record),
    /// Check and apply this as a whole, keep its record with it, and say what came of it.
    Apply {
        /// Its version, and what that came from.
        record: Record,
        /// The document.
        document: String,
        /// What it replaces is lost otherwise.
        keep: bool,
    },
    /// Ask the partner.
    Exchange(Request),
    /// Answer it.
    Respond {
        /// Names the question.
        id: u64,
        /// The answer.
        response: Response,
    },
}

/// Why the configuration cannot be changed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEditable {
    /// The node is not active.
    NotActive,
    /// A version of the partner's is being applied.
    Applying,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions answered by the partner.
    pub exchanged: u64,
    /// Questions that were not.
    pub failed: u64,
    /// Questions of the partner.
    pub asked: u64,
    /// Versions of the partner that were applied.
    pub applied: u64,
    /// Versions of the partner that could not be.
    pub not_applied: u64,
}

/// What a question was about: the same one twice in a row would lead nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Compare,
    Fetch,
    Offer,
}

struct Applying {
    record: Record,
    document: String,
    waiting: Vec<u64>,
}

/// What people are shown.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Own version.
    pub version: Version,
    /// Whether the file was changed while no agent ran, and has no number of its own yet.
    pub edited: bool,
    /// What the partner said last.
    pub partner: Option<Claim>,
    /// Whether both have the same version.
    pub in_sync: bool,
    /// When the partner last asked or answered.
    pub heard: Option<Instant>,
    /// Questions not answered in a row.
    pub failures: u64,
    /// Why the partner does not take over this node's version.
    pub refused: Option<String>,
    /// Why this node does not take over the partner's.
    pub not_applied: Option<String>,
    /// What was counted.
    pub counters: Counters,
}

/// One node's side.
pub struct ConfSync {
    name: String,
    first: bool,
    active: bool,
    edited: bool,
    record: Record,
    document: String,
    partner: Option<Claim>,
    heard: Option<Instant>,
    applying: Option<Applying>,
    asking: Option<(Wish, Version)>,
    asked: Option<(Wish, Version, Option<Version>)>,
    next: Instant,
    failures: u64,
    refused: Option<String>,
    not_applied: Option<(Version, String)>,
    counters: Counters,
}

impl ConfSync {
    /// A node that starts now. It asks at once.
    pub fn new(start: Start, now: Instant) -> Self {
        let mut record = start.record;
        let edited = record.version.hash != start.hash || record.version.generation == 0;
        record.replace(start.hash);
        Self {
            name: start.name,
            first: start.first,
            active: false,
            edited,
            record,
            document: start.document,
            partner: None,
            heard: None,
            applying: None,
            asking: None,
            asked: None,
            next: now,
            failures: 0,
            refused: None,
            not_applied: None,
            counters: Counters::default(),
        }
    }

    /// Own version.
    pub const fn version(&self) -> Version {
        self.record.version
    }

    /// What to keep of a content that is about to replace the present one here, or why none may.
    pub fn edit(&self, hash: ContentHash) -> Result<Record, NotEditable> {
        if !self.active {
            return Err(NotEditable::NotActive);
        }
        if self.applying.is_some() {
            return Err(NotEditable::Applying);
        }
        let mut record = self.record.clone();
        record.replace(hash);
        record.version.generation = self.next_generation();
        Ok(record)
    }

    /// The content was replaced, under the record that [`Self::edit`] gave out and that was kept.
    pub fn edited(&mut self, now: Instant, record: Record, document: String) {
        self.record = record;
        self.document = document;
        self.edited = false;
        self.next = now;
    }

    /// Takes note of what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Role { active } => {
                self.active = active;
                self.next = now;
            }
            Input::Request { id, request } => {
                self.counters.asked += 1;
                self.answer(now, id, request, out);
            }
            Input::Answer(response) => {
                self.counters.exchanged += 1;
                self.failures = 0;
                self.answered(now, response, out);
            }
            Input::Failed => {
                self.counters.failed += 1;
                self.failures += 1;
                self.asking = None;
                self.next = now + RETRY;
            }
            Input::Applied => self.applied(now, out),
            Input::NotApplied { reason } => self.not_applied(now, reason, out),
            Input::Push => {
                self.refused = None;
                self.next = now;
            }
        }
        self.settle(now, out);
        self.handle_timeout(now, out);
    }

    /// Asks if it is time to.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        let wish = self.wish().unwrap_or(Wish::Compare);
        let request = match wish {
            Wish::Compare => Request::Compare(self.claim()),
            Wish::Fetch => Request::Fetch(self.claim()),
            Wish::Offer => Request::Offer(self.claim(), self.document.clone()),
        };
        self.asking = Some((wish, self.version()));
        out.push(Action::Exchange(request));
    }

    /// When it wants to be called next; never while it waits for the shell.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        if self.asking.is_some() || self.applying.is_some() {
            None
        } else {
            Some(self.next)
        }
    }

    /// What people are shown.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: self.version(),
            edited: self.edited,
            partner: self.partner.clone(),
            in_sync: self.in_sync(),
            heard: self.heard,
            failures: self.failures,
            refused: self.refused.clone(),
            not_applied: self.not_applied.as_ref().map(|(_, reason)| reason.clone()),
            counters: self.counters,
        }
    }

    fn claim(&self) -> Claim {
        Claim {
            name: self.name.clone(),
            first: self.first,
            active: self.active,
            edited: self.edited,
            record: self.record.clone(),
        }
    }

    fn in_sync(&self) -> bool {
        let partner = self.partner.as_ref().map(Claim::version);
        partner == Some(self.version()) && !self.edited && self.applying.is_none()
    }

    fn next_generation(&self) -> u64 {
        let partner = self.partner.as_ref();
        let partner = partner.map_or(0, |claim| claim.version().generation);
        self.version().generation.max(partner).saturating_add(1)
    }

    fn answer(&mut self, now: Instant, id: u64, request: Request, out: &mut Vec<Action>) {
        let response = match request {
            Request::Compare(claim) => {
                self.note(now, claim, out);
                Response::Claim(self.claim())
            }
            Request::Fetch(claim) => {
                self.note(now, claim, out);
                Response::Document(self.claim(), self.document.clone())
            }
            Request::Offer(claim, document) => {
                let version = claim.version();
                let record = claim.record.clone();
                self.note(now, claim, out);
                self.take(record, document, out);
                let mut applying = self.applying.iter_mut();
                let same = applying.find(|applying| applying.record.version == version);
                if let Some(applying) = same.filter(|found| found.waiting.len() < WAITING_MAX) {
                    applying.waiting.push(id);
                    return;
                }
                Response::Claim(self.claim())
            }
        };
        out.push(Action::Respond { id, response });
    }

    fn answered(&mut self, now: Instant, response: Response, out: &mut Vec<Action>) {
        let Some((wish, mine)) = self.asking.take() else {
            return;
        };
        let before = (wish, mine, self.partner.as_ref().map(Claim::version));
        let repeated = self.asked.replace(before) == Some(before);
        self.refused = None;
        let mut wait = if repeated { RETRY } else { Duration::ZERO };
        match response {
            Response::Claim(claim) => self.note(now, claim, out),
            Response::Document(claim, document) => {
                let record = claim.record.clone();
                self.note(now, claim, out);
                self.take(record, document, out);
            }
            Response::Refused(claim, reason) => {
                self.note(now, claim, out);
                self.refused = Some(reason);
                wait = RETRY_REFUSED;
            }
        }
        self.settle(now, out);
        self.next = if self.wish().is_none() {
            now + RECONCILE
        } else if self.version() == mine {
            now + wait
        } else {
            now
        };
    }

    /// Learns what the partner has. A change of that is a reason to ask at once.
    fn note(&mut self, now: Instant, claim: Claim, out: &mut Vec<Action>) {
        let changed = self.partner.as_ref().map(Claim::version) != Some(claim.version());
        self.partner = Some(claim);
        self.heard = Some(now);
        self.settle(now, out);
        if changed && self.wish().is_some() {
            self.next = now;
        }
    }

    /// Takes a content over if it is a later one.
    fn take(&mut self, record: Record, document: String, out: &mut Vec<Action>) {
        let (mine, theirs) = (self.version(), record.version);
        if self.applying.is_some()
            || theirs.generation <= mine.generation
            || theirs.hash == mine.hash
        {
            return;
        }
        self.applying = Some(Applying {
            record: record.clone(),
            document: document.clone(),
            waiting: Vec::new(),
        });
        out.push(Action::Apply {
            keep: !record.ancestors.contains(&mine.hash),
            record,
            document,
        });
    }

    fn applied(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(done) = self.applying.take() else {
            return;
        };
        self.counters.applied += 1;
        self.record = done.record;
        self.document = done.document;
        self.edited = false;
        self.not_applied = None;
        self.next = now
            + if self.in_sync() {
                RECONCILE
            } else {
                Duration::ZERO
            };
        for id in done.waiting {
            let response = Response::Claim(self.claim());
            out.push(Action::Respond { id, response });
        }
    }

    fn not_applied(&mut self, now: Instant, reason: String, out: &mut Vec<Action>) {
        let Some(failed) = self.applying.take() else {
            return;
        };
        self.counters.not_applied += 1;
        for id in failed.waiting {
            let response = Response::Refused(self.claim(), reason.clone());
            out.push(Action::Respond { id, response });
        }
        self.not_applied = Some((failed.record.version, reason));
        self.next = now + RETRY_REFUSED;
    }

    /// Draws the conclusions that need no question.
    fn settle(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.applying.is_some() {
            return;
        }
        let (mine, edited) = (self.record.version, self.edited);
        let partner = self.partner.as_ref();
        if let Some(claim) = partner.filter(|claim| claim.version().hash == mine.hash) {
            // Both say the same: the higher number is that content's.
            if claim.version().generation >= mine.generation && !claim.edited {
                if claim.version().generation > mine.generation {
                    self.record = claim.record.clone();
                }
                self.edited = false;
            }
        }
        let conflict = partner.is_some_and(|claim| {
            let theirs = claim.version();
            theirs.generation == mine.generation
                && theirs.hash != mine.hash
                && self.claim().prevails(claim)
        });
        // One that comes later than what this content was made from takes its place instead.
        let behind = partner.is_some_and(|claim| claim.version().generation > mine.generation);
        if conflict || (self.edited && self.active && !behind) {
            self.record.version.generation = self.next_generation();
            self.edited = false;
        }
        if (self.record.version, self.edited) != (mine, edited) {
            self.next = now;
            out.push(Action::Record(self.record.clone()));
        }
        let obsolete = self.not_applied.as_ref().is_some_and(|(version, _)| {
            self.partner.as_ref().map(Claim::version) != Some(*version)
        });
        if obsolete || self.in_sync() {
            self.not_applied = None;
        }
    }

    /// What to ask about; `None` if there is nothing to ask.
    fn wish(&self) -> Option<Wish> {
        let mine = self.version();
        let Some(claim) = &self.partner else {
            return Some(Wish::Compare);
        };
        let theirs = claim.version();
        if theirs == mine {
            return self.edited.then_some(Wish::Compare);
        }
        Some(
            if theirs.hash == mine.hash || theirs.generation == mine.generation {
                Wish::Compare
            } else if theirs.generation < mine.generation {
                Wish::Offer
            } else {
                Wish::Fetch
            },
        )
    }
}
