//! What is wrong at the moment, and since when.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tracing::{info, warn};

use super::Kind;
use crate::proto::time::Instant;
use crate::shell::agent::lock;
use crate::shell::clock;
use crate::status::model;

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
pub struct Board(Mutex<BTreeMap<(Kind, String), Standing>>);

impl Board {
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
        let ended = lock(&self.0).remove(&(kind, about.to_owned()));
        if ended.is_some() {
            info!(alarm = kind.as_str(), about, "alarm over");
        }
    }

    /// These are all conditions that are about nothing in particular: others of that sort are over.
    pub(super) fn follow(&self, found: Vec<(Kind, String)>) {
        let gone: Vec<Kind> = lock(&self.0)
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
        lock(&self.0).retain(|(kind, about), alarm| {
            let stands = alarm.until.is_none_or(|until| now < until);
            if !stands {
                info!(alarm = kind.as_str(), about, "alarm over");
            }
            stands
        });
    }

    /// All that stand, as the status shows them.
    pub fn list(&self) -> Vec<model::Alarm> {
        self.sweep();
        let now = clock::now();
        lock(&self.0)
            .iter()
            .map(|((kind, _), alarm)| model::Alarm {
                name: kind.as_str().to_owned(),
                since_seconds: now.since(alarm.since).as_secs_f64(),
                evidence: alarm.evidence.clone(),
                remedy: kind.remedy().to_owned(),
            })
            .collect()
    }

    fn set(&self, now: Instant, kind: Kind, about: &str, evidence: String, until: Option<Instant>) {
        let mut standing = lock(&self.0);
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
            alarm = kind.as_str(),
            about,
            evidence,
            remedy = kind.remedy(),
            "{}",
            kind.meaning()
        );
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
