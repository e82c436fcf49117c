//! Which real servers count as up: this node's own checks, or the active node's word.
//!
//! Both nodes check. What the active node finds decides on both, so that a standby that takes over begins
//! with the same tables; from then on its own checks decide. What a standby finds otherwise is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::proto::records::{Event, EventKind, KEY_VALUE_MAX};
use crate::services::RealKey;

/// Word for a real server that is up.
const UP: &str = "up";
/// Word for one that is down, before the reason.
const DOWN: &str = "down";

/// A judgement of a real server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is down; none if it is up.
    pub failure: Option<String>,
}

impl Verdict {
    /// Whether the real server counts as up.
    pub const fn is_up(&self) -> bool {
        self.failure.is_none()
    }

    /// In words, `up` or `down: no answer in time`, as far as they fit into a record with this key.
    pub fn words(&self, key: &str) -> String {
        let mut words = self.to_string();
        let room = KEY_VALUE_MAX.saturating_sub(key.len()).min(words.len());
        words.truncate(words.floor_char_boundary(room));
        words
    }

    /// The judgement in these words; none if they are no judgement.
    fn read(words: &[u8]) -> Option<Self> {
        let words = std::str::from_utf8(words).ok()?;
        if words == UP {
            return Some(Self::default());
        }
        let reason = words.strip_prefix(DOWN)?;
        let reason = reason.strip_prefix(": ").unwrap_or(reason);
        Some(Self {
            failure: Some(reason.to_owned()),
        })
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.failure {
            None => f.write_str(UP),
            Some(failure) => write!(f, "{DOWN}: {failure}"),
        }
    }
}

/// All judgements: this node's, and the active node's.
#[derive(Debug, Default)]
pub struct Verdicts {
    held: Mutex<Held>,
    /// Something has changed.
    pub news: Notify,
}

#[derive(Debug, Default)]
struct Held {
    active: bool,
    own: BTreeMap<RealKey, Verdict>,
    /// What the records say, by the words for the real server, which this node need not have.
    told: BTreeMap<String, Verdict>,
}

/// What holds of a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What counts.
    pub counts: Verdict,
    /// What this node's own checks say, if that is something else.
    pub own: Option<Verdict>,
}

impl Verdicts {
    /// What an agent before this one found of its real servers.
    pub fn knowing(own: impl IntoIterator<Item = (RealKey, Verdict)>) -> Self {
        let held = Held {
            own: own.into_iter().collect(),
            ..Held::default()
        };
        Self {
            held: Mutex::new(held),
            news: Notify::new(),
        }
    }

    /// Tells whether this node is active.
    pub fn set_active(&self, active: bool) {
        let before = std::mem::replace(&mut self.held().active, active);
        if before != active {
            self.news.notify_one();
        }
    }

    /// Whether this node is active.
    pub fn is_active(&self) -> bool {
        self.held().active
    }

    /// This node's checks say something new.
    pub fn found(&self, key: RealKey, verdict: Verdict) {
        self.held().own.insert(key, verdict);
        self.news.notify_one();
    }

    /// A record says something new: the active node's word.
    pub fn heard(&self, event: &Event) {
        let Ok(server) = std::str::from_utf8(&event.key) else {
            return;
        };
        let verdict = match &event.kind {
            EventKind::Put { value, .. } => Verdict::read(value),
            EventKind::Deleted | EventKind::Expired => None,
        };
        let mut held = self.held();
        match verdict {
            Some(verdict) => held.told.insert(server.to_owned(), verdict),
            None => held.told.remove(server),
        };
        drop(held);
        self.news.notify_one();
    }

    /// Why real servers are down, as this node's checks say.
    pub fn failures(&self) -> BTreeMap<SocketAddr, String> {
        let held = self.held();
        let down = held.own.iter().filter_map(|(key, verdict)| {
            let at = SocketAddr::new(key.server.addr, u16::from_be(key.server.port));
            Some((at, verdict.failure.clone()?))
        });
        down.collect()
    }

    /// Forgets what this node found of real servers that are not checked any more.
    pub fn keep(&self, checked: &BTreeSet<RealKey>) {
        self.held().own.retain(|key, _| checked.contains(key));
    }

    /// This node's own judgement; a real server that was not judged yet is up.
    pub fn own(&self, key: &RealKey) -> Verdict {
        self.held().own.get(key).cloned().unwrap_or_default()
    }

    /// What holds of a real server.
    pub fn judge(&self, key: &RealKey) -> Judged {
        let held = self.held();
        let own = held.own.get(key).cloned().unwrap_or_default();
        let told = held.told.get(&key.words()).filter(|_| !held.active);
        match told {
            Some(told) => Judged {
                counts: told.clone(),
                own: (told.is_up() != own.is_up()).then_some(own),
            },
            None => Judged {
                counts: own,
                own: None,
            },
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::records::Stamp;
    use crate::services::tests::service;

    fn server() -> RealKey {
        let service = service(80, &[(21, 1)]);
        RealKey::new(&service, &service.real_servers[0])
    }

    fn down(reason: &str) -> Verdict {
        Verdict {
            failure: Some(reason.to_owned()),
        }
    }

    fn told(verdict: Option<&Verdict>) -> Event {
        let key = server().words();
        Event {
            namespace: crate::proto::records::HEALTH.into(),
            key: key.as_bytes().into(),
            stamp: Stamp::default(),
            from_partner: true,
            kind: verdict.map_or(EventKind::Deleted, |verdict| EventKind::Put {
                value: verdict.words(&key).into_bytes().into(),
                ttl: None,
                until: None,
            }),
        }
    }

    #[test]
    fn the_active_nodes_word_counts_until_this_node_is_active() {
        let verdicts = Verdicts::default();
        let key = server();
        let judged = |counts: Verdict, own| Judged { counts, own };
        assert_eq!(verdicts.judge(&key), judged(Verdict::default(), None));
        verdicts.found(key, down("refused"));
        assert_eq!(verdicts.judge(&key), judged(down("refused"), None));
        verdicts.heard(&told(Some(&Verdict::default())));
        let differs = judged(Verdict::default(), Some(down("refused")));
        assert_eq!(verdicts.judge(&key), differs);
        verdicts.set_active(true);
        assert_eq!(verdicts.judge(&key), judged(down("refused"), None));
        verdicts.set_active(false);
        assert_eq!(verdicts.judge(&key), differs);
        // Both say down, each for its own reason: no difference that matters.
        verdicts.heard(&told(Some(&down("no answer in time"))));
        assert_eq!(
            verdicts.judge(&key),
            judged(down("no answer in time"), None)
        );
        verdicts.heard(&told(None));
        assert_eq!(verdicts.judge(&key), judged(down("refused"), None));
        verdicts.keep(&BTreeSet::new());
        assert_eq!(verdicts.judge(&key), judged(Verdict::default(), None));
    }

    #[test]
    fn words() {
        for verdict in [Verdict::default(), down("refused"), down("")] {
            let words = verdict.words("key");
            assert_eq!(Verdict::read(words.as_bytes()), Some(verdict));
        }
        let long = down(&"ä".repeat(500)).words("key");
        assert!(long.len() + 3 <= KEY_VALUE_MAX && long.ends_with('ä'));
        for nonsense in [&b""[..], b"Up", b"\xff", b"maybe"] {
            assert_eq!(Verdict::read(nonsense), None);
        }
    }
}
