//! What is wrong at the moment, and since when.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tracing::{info, warn};

use super::Kind;
use crate::events::{self, Entry, Recorder};
use crate::proto::time::Instant;
use crate::shell::agent::lock;
use crate::shell::clock;
use crate::status::model;
use crate::telemetry::EVENT;

/// How long an alarm about something that happened is shown after it last did.
pub(in crate::shell) const SHOWN: Duration = Duration::from_mins(1);
/// Alarms of one kind at a time: whoever floods the network with conflicts fills no more.
pub(in crate::shell) const EACH: usize = 8;

/// An alarm that stands.
#[derive(Debug)]
struct Standing {
    since: Instant,
    /// When it ends by itself, if it is about something that happened.
    until: Option<Instant>,
    evidence: String,
}

/// Alarms by kind and by what they are about.
#[derive(Debug, Default)]
pub struct Board {
    standing: Mutex<BTreeMap<(Kind, String), Standing>>,
    events: Recorder,
}

impl Board {
    /// One that tells this history what is raised and what is over.
    pub fn new(events: Recorder) -> Self {
        Self {
            events,
            ..Self::default()
        }
    }

    /// A condition began, or goes on; it lasts until [`Self::clear`].
    pub fn raise(&self, kind: Kind, about: &str, evidence: impl Into<String>) {
        self.set(clock::now(), kind, about, evidence.into(), None);
    }

    /// Something happened; it is shown for a minute.
    pub fn report(&self, kind: Kind, about: &str, evidence: impl Into<String>) {
        let now = clock::now();
        self.set(now, kind, about, evidence.into(), Some(now + SHOWN));
    }

    /// A condition ended.
    pub fn clear(&self, kind: Kind, about: &str) {
        let ended = lock(&self.standing).remove(&(kind, about.to_owned()));
        if ended.is_some() {
            self.over(kind, about);
        }
    }

    /// These are all conditions that are about nothing in particular: others of that sort are over.
    pub(super) fn follow(&self, found: Vec<(Kind, String)>) {
        let gone: Vec<Kind> = lock(&self.standing)
            .keys()
            .filter(|(kind, about)| {
                about.is_empty() && found.iter().all(|(standing, _)| standing != kind)
            })
            .map(|(kind, _)| *kind)
            .collect();
        for kind in gone {
            self.clear(kind, "");
        }
        for (kind, evidence) in found {
            self.raise(kind, "", evidence);
        }
    }

    /// Ends what happened too long ago to be shown.
    pub fn sweep(&self) {
        let now = clock::now();
        lock(&self.standing).retain(|(kind, about), alarm| {
            let stands = alarm.until.is_none_or(|until| now < until);
            if !stands {
                self.over(*kind, about);
            }
            stands
        });
    }

    /// All that stand, as the status shows them.
    pub fn list(&self) -> Vec<model::Alarm> {
        self.sweep();
        let now = clock::now();
        lock(&self.standing)
            .iter()
            .map(|((kind, _), alarm)| model::Alarm {
                name: kind.as_str().to_owned(),
                since_seconds: now.since(alarm.since).as_secs_f64(),
                evidence: alarm.evidence.clone(),
                remedy: kind.remedy().to_owned(),
            })
            .collect()
    }

    /// How many of a kind stand.
    pub fn count(&self, kind: Kind) -> usize {
        let standing = lock(&self.standing);
        standing.keys().filter(|(found, _)| *found == kind).count()
    }

    fn over(&self, kind: Kind, about: &str) {
        info!(target: EVENT, alarm = kind.as_str(), about, "alarm over");
        let over = Entry::new(
            events::Kind::AlarmOver,
            "agent",
            format!("over: {}", sentence(kind)),
        );
        let over = over.with("alarm", kind.as_str());
        self.events.record(over.with("about", about));
    }

    fn set(&self, now: Instant, kind: Kind, about: &str, evidence: String, until: Option<Instant>) {
        let mut standing = lock(&self.standing);
        let key = (kind, about.to_owned());
        if let Some(known) = standing.get_mut(&key) {
            if known.until.is_some_and(|until| until <= now) {
                known.since = now;
            }
            known.evidence = evidence;
            known.until = until;
            return;
        }
        if standing.keys().filter(|(found, _)| *found == kind).count() >= EACH {
            return;
        }
        warn!(
            target: EVENT,
            alarm = kind.as_str(),
            about,
            evidence,
            remedy = kind.remedy(),
            "{}",
            kind.meaning()
        );
        let raised = Entry::new(events::Kind::AlarmRaised, "agent", sentence(kind));
        let raised = raised.because(&*evidence).with("alarm", kind.as_str());
        self.events.record(raised.with("about", about));
        standing.insert(
            key,
            Standing {
                since: now,
                until,
                evidence,
            },
        );
    }
}

/// What an alarm means, for what goes on behind it.
fn sentence(kind: Kind) -> &'static str {
    kind.meaning().trim_end_matches('.')
}
