//! What is counted by the main loop, for metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::agent::lock;
use super::clock;

/// Changes of role and reloads since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallied {
    /// When the agent started, by the wall clock.
    pub started: Duration,
    /// How often a role became another for a reason, by their names.
    pub role_changes: BTreeMap<[String; 3], u64>,
    /// The last reload was taken over, or there was none.
    pub reload_ok: bool,
    /// When the configuration in force was taken over, by the wall clock.
    pub reloaded: Duration,
}

/// The same, to be counted in.
#[derive(Debug)]
pub struct Tallies(Mutex<Tallied>);

impl Tallies {
    /// The agent starts now.
    pub fn start() -> Self {
        let now = clock::wall();
        Self(Mutex::new(Tallied {
            started: now,
            role_changes: BTreeMap::new(),
            reload_ok: true,
            reloaded: now,
        }))
    }

    /// A role became another.
    pub fn role_changed(&self, from: String, to: String, reason: String) {
        let mut tallied = lock(&self.0);
        // As many as there are roles and reasons at most.
        *tallied.role_changes.entry([from, to, reason]).or_default() += 1;
    }

    /// Somebody wanted the file to be taken over, and it was or was not.
    pub fn reloaded(&self, ok: bool) {
        let mut tallied = lock(&self.0);
        tallied.reload_ok = ok;
        if ok {
            tallied.reloaded = clock::wall();
        }
    }

    /// All of it.
    pub fn read(&self) -> Tallied {
        lock(&self.0).clone()
    }
}
