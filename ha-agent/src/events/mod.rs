//! The event history: who did what, when, and why. It survives restarts.
//!
//! Events are recorded by whoever notices them ([`Recorder`]), which never waits; a thread of their own writes
//! them down ([`store`]) in two bounded files of one JSON object a line: one for what this node and its
//! operators did, one for what the world around it can provoke, so that a network that flaps or an attacker
//! never pushes out who did what. A disk that fails costs history, raises an alarm, and changes no role.

mod file;
mod journal;
mod recorder;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use recorder::{Numbers, Recorder};

use crate::shell::clock;

/// Most events of one answer.
pub const PAGE_MAX: usize = 1000;
/// Longest text of an event, in bytes; what is longer is cut.
const TEXT_MAX: usize = 2048;

/// Which of the two files an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This node or its operators did it.
    Own,
    /// Others can bring it about as often as they like.
    World,
}

macro_rules! kinds {
    ($($name:ident = $text:literal, $origin:ident, $id:literal, $meaning:literal;)+) => {
        /// What happened. `docs/events.md` lists them with the words given here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $(#[doc = $meaning] $name,)+ }

        impl Kind {
            /// All of them, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Stable name, for scripts.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What happened.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)+ }
            }

            /// Which file it belongs to.
            pub const fn origin(self) -> Origin {
                match self { $(Self::$name => Origin::$origin,)+ }
            }

            /// `MESSAGE_ID` in the journal: systemd.journal-fields(7).
            pub const fn message_id(self) -> &'static str {
                match self { $(Self::$name => $id,)+ }
            }
        }
    };
}

kinds! {
    Started = "started", Own, "0c9612241aa64f15aea4164431906e1b",
        "The agent started, or continued one that was replaced in place.";
    Stopping = "stopping", Own, "3d72d5f063264268aa5edca086d75aff",
        "The agent was told to end, and does.";
    RoleChanged = "role_changed", Own, "295213c1c71642c6afd798460714ae38",
        "The role of this node changed, or the term of an active one.";
    Command = "command", Own, "0cb282762d524a9ca4da3cd00bae0ba0",
        "An operator asked for something that changes the node, and it was done.";
    CommandRefused = "command_refused", Own, "21c718c9c0e04fd2998cbae971b4fbd0",
        "An operator asked for something, and it was not done.";
    Reloaded = "reloaded", Own, "c723e714a8df4105b6da518c661aab97",
        "The configuration file was taken over.";
    NotReloaded = "not_reloaded", Own, "bded1701010945d8b96506a715061771",
        "The configuration file was not taken over; the agent goes on with what it has.";
    Paired = "paired", Own, "4b1e0e37c2f94c2f8d6a5f0e9b7c3d12",
        "A new node came with the one-time code: it was given key and configuration, or broke off.";
    HistoryLost = "history_lost", Own, "7ba9738985ab4bec8d9171ada156f07d",
        "Events before this one are missing: too many at once, or the disk did not take them.";
    PartnerHeard = "partner_heard", World, "64313763366d4e9f92d493cbec2392a4",
        "The partner is heard: for the first time, or again.";
    PartnerLost = "partner_lost", World, "0357bcc3c48242eba0986fec194016cf",
        "The partner is not heard any more on any link.";
    AlarmRaised = "alarm_raised", World, "a717f56ef78a4a2abff4da3609814c22",
        "Something is wrong from now on.";
    AlarmOver = "alarm_over", World, "fd6e945a6866497999e029ab62bb88db",
        "It is not wrong any more.";
    RealServerUp = "real_server_up", World, "0f4ba1eacc2e42369018df6104c8421c",
        "This node's health checks find a real server up again.";
    RealServerDown = "real_server_down", World, "a99ce32d516840b391c5ed6b5292da33",
        "This node's health checks find a real server down.";
}

/// An event as it is stored and shown. Names of older and newer versions are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts on across restarts.
    pub number: u64,
    /// When, by the wall clock.
    pub time: Timestamp,
    /// Which kind: [`Kind::as_str`].
    pub event: String,
    /// Who brought it about: a part of the agent, `uid 1000`, a signal.
    pub who: String,
    /// What happened, in words.
    pub what: String,
    /// Why; empty if `what` says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The same for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

/// Something that has just happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    kind: Kind,
    time: Timestamp,
    who: String,
    what: String,
    why: String,
    fields: Vec<(&'static str, String)>,
}

impl Entry {
    /// It happened now.
    pub fn new(kind: Kind, who: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            kind,
            time: now(),
            who: cut(who.into()),
            what: cut(what.into()),
            why: String::new(),
            fields: Vec::new(),
        }
    }

    /// For this reason.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = cut(why.into());
        self
    }

    /// With a word for programs.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, cut(value.into())));
        self
    }

    fn numbered(self, number: u64) -> Event {
        let fields = self.fields.into_iter();
        Event {
            number,
            time: self.time,
            event: self.kind.as_str().to_owned(),
            who: self.who,
            what: self.what,
            why: self.why,
            fields: fields
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }
}

/// Which events to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventQuery {
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Only those with a higher number; the answer's `next` goes on where it ended.
    pub after: Option<u64>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Most to show, the newest; at most [`PAGE_MAX`].
    pub limit: usize,
}

impl EventQuery {
    fn matches(&self, event: &Event) -> bool {
        self.since.is_none_or(|since| event.time >= since)
            && self.after.is_none_or(|after| event.number > after)
            && self.kind.as_ref().is_none_or(|kind| *kind == event.event)
    }
}

/// Events, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// [`crate::status::model::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The newest that match.
    pub events: Vec<Event>,
    /// Number of the newest event there is, to go on from.
    pub next: u64,
    /// Lines of the files that could not be read.
    pub unreadable: u64,
}

/// Now, to the millisecond.
fn now() -> Timestamp {
    let millis = i64::try_from(clock::wall().as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    text
}
