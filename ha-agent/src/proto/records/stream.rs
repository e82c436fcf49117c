//! The table and the stream: what was said, what waits to be said, what is heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::model::{Event, EventKind};
use super::table::{HELD_MAX, Id, NAMESPACES_MAX, Record, Space, Table};
use super::wire::{self, Gone, Told};
use crate::proto::sync::Said;
use crate::proto::time::Instant;

/// How long a record may wait for others to share its packet.
const GATHER: Duration = Duration::from_micros(250);
/// Records visited by one step of a full transfer at most.
const WALK_PIECE: usize = 4096;

/// What one end of the stream knows.
pub(super) struct Stream {
    /// Marks compare with it, as those of connections do.
    generation: u32,
    said: Said,
    /// Writes are to be said (active node with a listener).
    telling: bool,
    /// What waits, by the time when it may be said and by order.
    queue: BTreeMap<(Instant, u64), Id>,
    last: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            generation: 1,
            said: Said::default(),
            telling: false,
            queue: BTreeMap::new(),
            last: 0,
        }
    }
}

impl Stream {
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether the stream said this record since the generation began.
    pub(super) fn has_said(&self, record: Option<&Record>) -> bool {
        record.is_some_and(|record| record.mark == self.generation)
    }

    /// Whether the listener is to be told when this record goes.
    pub(super) fn owes(&self, record: Option<&Record>) -> bool {
        self.telling && self.has_said(record)
    }

    /// Takes a removed record out of the line and out of the sum.
    pub(super) fn leave(&mut self, record: &Record) {
        if let Some(place) = record.queued {
            self.queue.remove(&place);
        }
        self.unsay(record);
    }

    fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.said = Said::default();
    }

    fn say(&mut self, record: &mut Record, sum: u64) {
        self.unsay(record);
        record.mark = self.generation;
        record.sum = sum;
        self.said.count += 1;
        self.said.digest = self.said.digest.wrapping_add(sum);
    }

    fn unsay(&mut self, record: &Record) {
        if record.mark == self.generation {
            self.said.count = self.said.count.saturating_sub(1);
            self.said.digest = self.said.digest.wrapping_sub(record.sum);
        }
    }
}

/// How far the saying of all records has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::proto) struct Walk {
    behind: Option<Id>,
    complete: bool,
}

impl Walk {
    /// Whether every record was visited.
    pub(in crate::proto) const fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Speaking.
impl Table {
    /// What was said since the last full transfer began.
    pub(in crate::proto) const fn said(&self) -> Said {
        self.stream.said
    }

    /// All records are about to be said; writes are said from now on.
    pub(in crate::proto) fn begin_telling(&mut self) {
        self.stop_telling();
        self.stream.begin_generation();
        self.stream.telling = true;
    }

    /// Nobody listens: what waits is in the table, and a full transfer will say it.
    pub(in crate::proto) fn stop_telling(&mut self) {
        self.stream.telling = false;
        for id in std::mem::take(&mut self.stream.queue).into_values() {
            let Some(record) = self.record_mut(&id) else {
                continue;
            };
            record.queued = None;
            if record.value.is_none()
                && let Some(removed) = self.remove(&id)
            {
                self.stream.unsay(&removed);
            }
        }
    }

    /// When something may be said.
    pub(in crate::proto) fn due(&self) -> Option<Instant> {
        self.stream.queue.keys().next().map(|(due, _)| *due)
    }

    /// Puts a record in line, not before `earliest`. One that is in line already moves only forwards.
    pub(super) fn wait(&mut self, now: Instant, id: &Id, earliest: Option<Instant>) {
        if !self.stream.telling {
            return;
        }
        let said = self.stream.has_said(self.record(id));
        let due = earliest
            .filter(|_| said)
            .unwrap_or_default()
            .max(now + GATHER);
        self.stream.last += 1;
        let place = (due, self.stream.last);
        let Some(record) = self.record_mut(id) else {
            return;
        };
        match record.queued.replace(place) {
            Some(before) if before.0 <= due => {
                record.queued = Some(before);
                self.counters.coalesced += 1;
            }
            Some(before) => {
                self.counters.coalesced += 1;
                self.stream.queue.remove(&before);
                self.stream.queue.insert(place, id.clone());
            }
            None => {
                self.stream.queue.insert(place, id.clone());
            }
        }
    }

    /// Says what waits and is due, as long as `push` has room for another record.
    pub(in crate::proto) fn tell(
        &mut self,
        now: Instant,
        sum: impl Fn(&[u8]) -> u64,
        mut push: impl FnMut(&Told<'_>) -> bool,
    ) {
        while let Some(first) = self.stream.queue.first_entry() {
            if first.key().0 > now {
                return;
            }
            let id = first.remove();
            if !self.tell_one(now, &id, &sum, &mut push) {
                return;
            }
        }
    }

    /// Says what was not said yet since [`Self::begin_telling`], piece by piece.
    pub(in crate::proto) fn tell_all(
        &mut self,
        now: Instant,
        walk: &mut Walk,
        sum: impl Fn(&[u8]) -> u64,
        mut push: impl FnMut(&Told<'_>) -> bool,
    ) {
        for _ in 0..WALK_PIECE {
            let Some(id) = self.after(walk.behind.as_ref()) else {
                walk.complete = true;
                return;
            };
            walk.behind = Some(id.clone());
            let unsaid = !self.stream.has_said(self.record(&id));
            if unsaid && !self.tell_one(now, &id, &sum, &mut push) {
                return;
            }
        }
    }

    /// Says one record; whether there is room for another.
    fn tell_one(
        &mut self,
        now: Instant,
        id: &Id,
        sum: impl Fn(&[u8]) -> u64,
        push: &mut impl FnMut(&Told<'_>) -> bool,
    ) -> bool {
        let Self {
            spaces,
            stream,
            counters,
            ..
        } = self;
        let records = spaces
            .get_mut(&id.namespace)
            .map(|space| &mut space.records);
        let Some(record) = records.and_then(|records| records.get_mut(&id.key)) else {
            return true;
        };
        if let Some(place) = record.queued.take() {
            stream.queue.remove(&place);
        }
        record.told = now;
        counters.sent += 1;
        let Some(value) = record.value.clone() else {
            let gone = Told::Delete(Gone {
                namespace: &id.namespace,
                key: &id.key,
                stamp: record.stamp,
            });
            stream.unsay(record);
            self.remove(id);
            return push(&gone);
        };
        let left = record.until.map(|until| until.since(now));
        let ttl = record.ttl.unwrap_or_default();
        let said = wire::Telling {
            namespace: &id.namespace,
            key: &id.key,
            value: &value,
            stamp: record.stamp,
            ttl: record.ttl,
            age: left.map_or(Duration::ZERO, |left| ttl.saturating_sub(left)),
        };
        stream.say(record, said.sum(&sum));
        push(&Told::Put(said))
    }
}

/// Listening.
impl Table {
    /// The partner is about to say all it holds: what it does not confirm is stale.
    pub(in crate::proto) fn begin_hearing(&mut self) {
        self.stop_telling();
        self.stream.begin_generation();
    }

    /// Takes over what the partner says, and tells if it is news.
    pub(in crate::proto) fn hear(
        &mut self,
        now: Instant,
        told: &Told<'_>,
        sum: impl Fn(&[u8]) -> u64,
    ) -> Option<Event> {
        self.counters.received += 1;
        let event = match told {
            Told::Put(said) => self.hear_put(now, said, sum),
            Told::Delete(gone) => self.hear_delete(gone),
        };
        self.counters.applied += u64::from(event.is_some());
        event
    }

    fn hear_put(
        &mut self,
        now: Instant,
        said: &wire::Telling<'_>,
        sum: impl Fn(&[u8]) -> u64,
    ) -> Option<Event> {
        if !self.spaces.contains_key(said.namespace) {
            if self.spaces.len() >= NAMESPACES_MAX {
                self.counters.no_room += 1;
                return None;
            }
            self.spaces.insert(said.namespace.into(), Space::default());
        }
        let full = self.held >= HELD_MAX;
        let Self {
            spaces,
            stream,
            counters,
            held,
            version,
            ..
        } = self;
        let (namespace, _) = spaces.get_key_value(said.namespace)?;
        let namespace = Arc::clone(namespace);
        let space = spaces.get_mut(said.namespace)?;
        let known = space.records.get_key_value(said.key);
        let mut record = Record {
            value: Some(said.value.into()),
            stamp: said.stamp,
            ttl: said.ttl,
            until: said.ttl.map(|ttl| now + ttl.saturating_sub(said.age)),
            mark: 0,
            sum: 0,
            told: Instant::default(),
            queued: None,
        };
        let (key, news) = match known {
            None if full => {
                counters.no_room += 1;
                return None;
            }
            None => (said.key.into(), true),
            Some((key, before)) => {
                let has_said = stream.has_said(Some(before));
                if has_said && said.stamp < before.stamp {
                    counters.outdated += 1;
                    return None;
                }
                (record.mark, record.sum) = (before.mark, before.sum);
                let news =
                    before.stamp != said.stamp || before.value.as_deref() != Some(said.value);
                (Arc::clone(key), news)
            }
        };
        stream.say(&mut record, said.sum(sum));
        let kind = record.value.clone().map(|value| EventKind::Put {
            value,
            ttl: record.ttl,
            until: record.until,
        });
        *held += usize::from(space.store(&key, record).is_none());
        *version = (*version).max(said.stamp.version);
        let id = Id { namespace, key };
        kind.filter(|_| news)
            .map(|kind| id.event(said.stamp, true, kind))
    }

    fn hear_delete(&mut self, gone: &Gone<'_>) -> Option<Event> {
        let (namespace, space) = self.spaces.get_key_value(gone.namespace)?;
        let (key, record) = space.records.get_key_value(gone.key)?;
        if self.stream.has_said(Some(record)) && gone.stamp < record.stamp {
            self.counters.outdated += 1;
            return None;
        }
        let id = Id {
            namespace: Arc::clone(namespace),
            key: Arc::clone(key),
        };
        let removed = self.remove(&id)?;
        self.stream.unsay(&removed);
        self.version = self.version.max(gone.stamp.version);
        Some(id.event(gone.stamp, true, EventKind::Deleted))
    }

    /// Removes what the partner, which has said all it holds, did not confirm.
    pub(in crate::proto) fn sweep(&mut self, out: &mut Vec<Event>) {
        let mut stale = Vec::new();
        for (namespace, space) in &self.spaces {
            for (key, record) in &space.records {
                if !self.stream.has_said(Some(record)) {
                    stale.push(Id {
                        namespace: Arc::clone(namespace),
                        key: Arc::clone(key),
                    });
                }
            }
        }
        for id in stale {
            if let Some(removed) = self.remove(&id) {
                self.counters.swept += 1;
                out.push(id.event(removed.stamp, true, EventKind::Deleted));
            }
        }
    }

    /// Counts a comparison that failed.
    pub(in crate::proto) const fn digest_differed(&mut self) {
        self.counters.digests_differed += 1;
    }

    /// Counts what was heard in a repair.
    pub(in crate::proto) fn repaired(&mut self, news: bool) {
        self.counters.repaired += u64::from(news);
    }

    /// Counts a repair.
    pub(in crate::proto) const fn repair_ended(&mut self, equal: bool) {
        if equal {
            self.counters.repairs += 1;
        } else {
            self.counters.repairs_failed += 1;
        }
    }
}
