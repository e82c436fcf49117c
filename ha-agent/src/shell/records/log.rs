//! The newest changes of each namespace, for those who watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::control::{Changes, RecordChange};
use crate::proto::records::{Event, EventKind, NAMESPACES_MAX, Namespace};

/// Changes kept of a namespace; who falls further behind is told to list it again.
const KEPT: usize = 1024;

/// Changes of all namespaces.
#[derive(Debug, Default)]
pub struct Log {
    kept: Mutex<Kept>,
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Number of the next change.
    next: u64,
    namespaces: BTreeMap<Namespace, Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Changes before this one are not kept any more.
    first: u64,
    changes: VecDeque<(u64, RecordChange)>,
}

impl Log {
    /// Keeps a change. Watchers learn of it by [`Self::tell`].
    pub fn push(&self, event: &Event) {
        let mut kept = self.kept();
        let number = kept.next;
        kept.next += 1;
        if !kept.namespaces.contains_key(&event.namespace)
            && kept.namespaces.len() >= NAMESPACES_MAX
        {
            kept.namespaces.pop_first();
        }
        let ring = kept
            .namespaces
            .entry(Arc::clone(&event.namespace))
            .or_default();
        if ring.changes.len() >= KEPT
            && let Some((oldest, _)) = ring.changes.pop_front()
        {
            ring.first = oldest + 1;
        }
        ring.changes.push_back((number, change(event)));
    }

    /// Wakes those who watch.
    pub fn tell(&self) {
        let next = self.kept().next;
        self.news.send_if_modified(|told| {
            let news = *told != next;
            *told = next;
            news
        });
    }

    /// Changes of a namespace since `from`, or of the next while if there are none yet.
    pub async fn watch(&self, namespace: &str, from: Option<u64>, patience: Duration) -> Changes {
        let mut news = self.news.subscribe();
        let from = from.unwrap_or_else(|| self.kept().next);
        let since = async {
            loop {
                let changes = self.since(namespace, from);
                if changes.lost || !changes.changes.is_empty() || news.changed().await.is_err() {
                    return changes;
                }
            }
        };
        let found = tokio::time::timeout(patience, since).await;
        found.unwrap_or_else(|_elapsed| self.since(namespace, from))
    }

    fn since(&self, namespace: &str, from: u64) -> Changes {
        let kept = self.kept();
        let ring = kept.namespaces.get(namespace);
        let changes = ring.into_iter().flat_map(|ring| &ring.changes);
        let new = changes.filter(|(number, _)| *number >= from);
        Changes {
            changes: new.map(|(_, change)| change.clone()).collect(),
            // A number of another run of the agent is ahead of this one's, or before what is kept.
            lost: from > kept.next || ring.is_some_and(|ring| from < ring.first),
            next: kept.next,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn change(event: &Event) -> RecordChange {
    let (name, value, ttl) = match &event.kind {
        EventKind::Put { value, ttl, .. } => ("put", Some(value), *ttl),
        EventKind::Deleted => ("deleted", None, None),
        EventKind::Expired => ("expired", None, None),
    };
    RecordChange {
        change: name.to_owned(),
        key: (&*event.key).into(),
        value: value.map(|value| (&**value).into()),
        term: event.stamp.term,
        version: event.stamp.version,
        ttl_ms: ttl.map(millis),
    }
}

/// A time as it is told.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::records::Stamp;

    fn event(namespace: &str, number: u64) -> Event {
        Event {
            namespace: namespace.into(),
            key: number.to_string().into_bytes().into(),
            stamp: Stamp {
                term: 1,
                version: number,
            },
            from_partner: false,
            kind: EventKind::Deleted,
        }
    }

    async fn versions(log: &Log, from: Option<u64>) -> (Vec<u64>, bool, u64) {
        let changes = log.watch("web", from, Duration::from_millis(20)).await;
        let versions = changes.changes.iter().map(|change| change.version);
        (versions.collect(), changes.lost, changes.next)
    }

    #[tokio::test]
    async fn who_watches_sees_every_change_once_and_is_told_what_was_lost() {
        let log = Log::default();
        assert_eq!(versions(&log, None).await, (vec![], false, 0));
        log.push(&event("web", 1));
        log.push(&event("other", 2));
        log.push(&event("web", 3));
        assert_eq!(versions(&log, Some(0)).await, (vec![1, 3], false, 3));
        assert_eq!(versions(&log, Some(3)).await, (vec![], false, 3));
        for number in 0..KEPT as u64 {
            log.push(&event("web", number));
        }
        let (seen, lost, next) = versions(&log, Some(0)).await;
        assert_eq!((seen.len(), lost), (KEPT, true));
        assert_eq!(versions(&log, Some(next)).await, (vec![], false, next));
        // The agent was started anew since.
        assert!(versions(&log, Some(next + 1)).await.1);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let log = Arc::new(Log::default());
        let waiter = Arc::clone(&log);
        let patience = Duration::from_mins(1);
        let waits = tokio::spawn(async move { waiter.watch("web", None, patience).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        log.push(&event("web", 9));
        log.tell();
        let changes = waits.await.unwrap();
        assert_eq!(changes.changes.len(), 1);
    }
}
