//! What a machine says of itself: state and counters, where they changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::proto::carp::trailer::WireRole;
use crate::proto::carp::{Alarm, Counter, Role, Snapshot};

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// The state, all of it.
    State(State),
    /// By how much counters grew. Packets sent are not among them: they are lines of their own.
    Counted(BTreeMap<String, u64>),
}

/// The part of the status that the rules are about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct State {
    /// Role.
    pub role: Role,
    /// Own term if active, else the highest known.
    pub term: u64,
    /// The gate is open now.
    pub open: bool,
    /// Active and nothing is heard from the partner.
    pub alone: bool,
    /// Says that it could take over.
    pub ready: bool,
    /// The partner's role, if it is heard.
    pub partner: Option<WireRole>,
    /// The partner hears this node.
    pub heard: bool,
    /// A peer without trailer is heard.
    pub foreign: bool,
    /// Lasting conditions.
    pub alarms: BTreeSet<Alarm>,
}

impl From<&Snapshot> for State {
    fn from(snapshot: &Snapshot) -> Self {
        let partner = snapshot.partner.as_ref().filter(|partner| partner.heard);
        Self {
            role: snapshot.role,
            term: snapshot.term,
            open: snapshot.gate_open,
            alone: snapshot.alone,
            ready: snapshot.ready,
            partner: partner.map(|partner| partner.role),
            heard: partner.is_some_and(|partner| partner.hears_us),
            foreign: snapshot.foreign.is_some(),
            alarms: snapshot.alarms.iter().map(|each| each.alarm).collect(),
        }
    }
}

/// Notices changes.
#[derive(Debug, Default)]
pub(super) struct Observer {
    state: Option<State>,
    counters: BTreeMap<&'static str, u64>,
}

impl Observer {
    /// What has changed since the last call.
    pub(super) fn observe(&mut self, snapshot: &Snapshot) -> Vec<Account> {
        let sent = [Counter::AdvertSent, Counter::HelloSent].map(Counter::as_str);
        let counted: BTreeMap<String, u64> = snapshot
            .counters
            .iter()
            .filter(|(name, _)| !sent.contains(name))
            .map(|(name, value)| {
                let before = self.counters.get(name).copied().unwrap_or_default();
                ((*name).to_owned(), value.saturating_sub(before))
            })
            .filter(|(_, growth)| *growth > 0)
            .collect();
        self.counters.clone_from(&snapshot.counters);
        let mut changes = Vec::new();
        if !counted.is_empty() {
            changes.push(Account::Counted(counted));
        }
        let state = State::from(snapshot);
        if self.state.as_ref() != Some(&state) {
            changes.push(Account::State(state.clone()));
            self.state = Some(state);
        }
        changes
    }
}
