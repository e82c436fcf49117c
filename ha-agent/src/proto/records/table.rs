//! The table: what it holds, who may write what, and what readers see.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::counters::{Counters, NamespaceSnapshot, Snapshot};
use super::model::{
    Event, EventKind, KEY_MAX, KEY_VALUE_MAX, Key, Namespace, Put, Quota, Refusal, Stamp, TTL_MAX,
    View,
};
use super::stream::Stream;
use super::{REFRESH_MAX, SPACING};
use crate::proto::time::Instant;

/// Records held at most, whoever wrote them. Quotas of one node add up to half of that at most, so a node
/// that returns has room for the partner's records beside its own stale ones.
pub const HELD_MAX: usize = 1 << 20;
/// Namespaces held at most.
pub const NAMESPACES_MAX: usize = 64;
/// A life that began before it was told, and is longer by less than this, is the same life: it is known from
/// the data plane, whose clock is coarse.
const SAME_LIFE: Duration = Duration::from_millis(500);
/// Records looked at for expiry at once, and the pause after.
const EXPIRY_PIECE: usize = 4096;
const EXPIRY_PAUSE: Duration = Duration::from_millis(100);

/// The records of a node.
pub struct Table {
    pub(super) spaces: BTreeMap<Namespace, Space>,
    pub(super) held: usize,
    /// Number of the last write known.
    pub(super) version: u64,
    pub(super) stream: Stream,
    /// Where the search for what has run out goes on, and when.
    expiry_from: Option<Id>,
    expiry_due: Instant,
    pub(super) counters: Counters,
}

/// Names a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) namespace: Namespace,
    pub(super) key: Key,
}

/// A namespace.
#[derive(Default)]
pub(super) struct Space {
    /// How much writers on this node may put in; none if it is only known from the partner.
    quota: Option<Quota>,
    /// Records in it, without those that are deleted and not yet said to be.
    live: u64,
    bytes: u64,
    refused: u64,
    pub(super) records: BTreeMap<Key, Record>,
}

/// A record and what replication knows about it.
pub(super) struct Record {
    /// None once it is deleted and the stream has still to say so.
    pub(super) value: Option<Arc<[u8]>>,
    pub(super) stamp: Stamp,
    pub(super) ttl: Option<Duration>,
    pub(super) until: Option<Instant>,
    /// Generation in which the stream said it; 0 never.
    pub(super) mark: u32,
    /// Share in the digest, valid while marked.
    pub(super) sum: u64,
    /// When the stream said it last.
    pub(super) told: Instant,
    /// Its place among those that wait to be said.
    pub(super) queued: Option<(Instant, u64)>,
}

impl Record {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    fn view(&self, now: Instant, key: &Key) -> Option<View> {
        let value = self.value.as_ref().filter(|_| !self.is_over(now))?;
        Some(View {
            key: Arc::clone(key),
            value: Arc::clone(value),
            stamp: self.stamp,
            ttl: self.ttl,
            left: self.until.map(|until| until.since(now)),
        })
    }

    /// Bytes that count for the quota.
    fn bytes(&self, key: &Key) -> u64 {
        let length = |value: &Arc<[u8]>| (key.len() + value.len()) as u64;
        self.value.as_ref().map_or(0, length)
    }
}

impl Space {
    /// Puts a record in the place of the one that is there, which is returned.
    pub(super) fn store(&mut self, key: &Key, record: Record) -> Option<Record> {
        self.live += u64::from(record.value.is_some());
        self.bytes += record.bytes(key);
        let before = match self.records.entry(Arc::clone(key)) {
            Slot::Vacant(vacant) => {
                vacant.insert(record);
                None
            }
            Slot::Occupied(mut occupied) => Some(occupied.insert(record)),
        };
        self.forget(key, before.as_ref());
        before
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Record> {
        let before = self.records.remove(key);
        self.forget(key, before.as_ref());
        before
    }

    /// Takes the value out of a record that stays until the stream has said that it is gone.
    fn bury(&mut self, key: &Key) {
        let Some(record) = self.records.get_mut(key) else {
            return;
        };
        let bytes = record.bytes(key);
        if record.value.take().is_some() {
            self.live = self.live.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    fn forget(&mut self, key: &Key, record: Option<&Record>) {
        if let Some(record) = record.filter(|record| record.value.is_some()) {
            self.live = self.live.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(record.bytes(key));
        }
    }
}

impl Table {
    /// An empty table.
    pub fn new(now: Instant) -> Self {
        Self {
            spaces: BTreeMap::new(),
            held: 0,
            version: 0,
            stream: Stream::default(),
            expiry_from: None,
            expiry_due: now,
            counters: Counters::default(),
        }
    }

    /// Tells which namespaces there are for writers on this node. What is in others stays until it is over
    /// or deleted.
    pub fn set_quotas(&mut self, quotas: impl IntoIterator<Item = (String, Quota)>) {
        for space in self.spaces.values_mut() {
            space.quota = None;
        }
        for (name, quota) in quotas {
            self.spaces.entry(name.into()).or_default().quota = Some(quota);
        }
        self.spaces
            .retain(|_, space| space.quota.is_some() || !space.records.is_empty());
    }

    /// A record.
    pub fn get(&self, now: Instant, namespace: &str, key: &[u8]) -> Option<View> {
        let (key, record) = self.spaces.get(namespace)?.records.get_key_value(key)?;
        record.view(now, key)
    }

    /// The records of a namespace behind a key, in the order of their keys; `None` if there is no such
    /// namespace.
    pub fn list(
        &self,
        now: Instant,
        namespace: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Option<Vec<View>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let records = &self.spaces.get(namespace)?.records;
        let behind = records.range::<[u8], _>((from, Bound::Unbounded));
        let views = behind.filter_map(|(key, record)| record.view(now, key));
        Some(views.take(limit).collect())
    }

    /// Writes a record, in this term.
    pub(in crate::proto) fn put(
        &mut self,
        now: Instant,
        term: u64,
        put: Put,
    ) -> Result<(Stamp, Option<Event>), Refusal> {
        if let Err(refusal) = self.check(&put) {
            match refusal {
                Refusal::Records { .. } | Refusal::Bytes { .. } => self.counters.refused_quota += 1,
                Refusal::NotActive
                | Refusal::NoNamespace(_)
                | Refusal::KeyLength(_)
                | Refusal::TooLong(_)
                | Refusal::Ttl => self.counters.refused_bad += 1,
            }
            return Err(refusal);
        }
        let Put {
            namespace,
            key,
            value,
            ttl,
            age,
        } = put;
        let ttl = ttl.map(whole_millis);
        let until = ttl.map(|ttl| now + ttl.saturating_sub(age));
        let Some((namespace, space)) = self.space(&namespace) else {
            return Err(Refusal::NoNamespace(namespace));
        };
        let slack = if age.is_zero() {
            Duration::ZERO
        } else {
            ttl.map_or(SAME_LIFE, |ttl| SAME_LIFE.min(ttl / 8))
        };
        let known = space.records.get_key_value(key.as_slice());
        let same = |record: &Record| record.value.as_deref() == Some(&*value) && record.ttl == ttl;
        let refresh = known.is_some_and(|(_, record)| same(record));
        if let Some((_, record)) = known
            && refresh
            && until <= record.until.map(|end| end + slack)
            && !record.is_over(now)
        {
            let stamp = record.stamp;
            self.counters.coalesced += 1;
            return Ok((stamp, None));
        }
        let key = known.map_or_else(|| key.into(), |(key, _)| Arc::clone(key));
        let (mark, sum, told, queued) = known.map_or((0, 0, None, None), |(_, record)| {
            (record.mark, record.sum, Some(record.told), record.queued)
        });
        self.version += 1;
        let stamp = Stamp {
            term,
            version: self.version,
        };
        let value: Arc<[u8]> = value.into();
        let record = Record {
            value: Some(Arc::clone(&value)),
            stamp,
            ttl,
            until,
            mark,
            sum,
            told: told.unwrap_or_default(),
            queued,
        };
        if let Some(space) = self.spaces.get_mut(&namespace)
            && space.store(&key, record).is_none()
        {
            self.held += 1;
        }
        self.counters.written += 1;
        let pause = if refresh {
            // The partner's copy ends sooner by this at most.
            ttl.map_or(SPACING, |ttl| (ttl / 8).clamp(SPACING, REFRESH_MAX))
        } else {
            SPACING
        };
        let id = Id { namespace, key };
        self.wait(now, &id, told.map(|told| told + pause));
        let kind = EventKind::Put { value, ttl, until };
        Ok((stamp, Some(id.event(stamp, false, kind))))
    }

    /// Takes over a record as it is, unless there is one already.
    pub(in crate::proto) fn load(&mut self, now: Instant, put: Put, stamp: Stamp) {
        if self.held >= HELD_MAX || self.get(now, &put.namespace, &put.key).is_some() {
            return;
        }
        let namespace: Namespace = put.namespace.into();
        let record = Record {
            value: Some(put.value.into()),
            stamp,
            ttl: put.ttl,
            until: put.ttl.map(|ttl| now + ttl.saturating_sub(put.age)),
            mark: 0,
            sum: 0,
            told: Instant::default(),
            queued: None,
        };
        let space = self.spaces.entry(namespace).or_default();
        self.held += usize::from(space.store(&put.key.into(), record).is_none());
        self.version = self.version.max(stamp.version);
    }

    /// Deletes a record; nothing if it is not there.
    pub(in crate::proto) fn delete(
        &mut self,
        now: Instant,
        term: u64,
        namespace: &str,
        key: &[u8],
    ) -> Result<Option<Event>, Refusal> {
        let Some((namespace, space)) = self.space(namespace) else {
            self.counters.refused_bad += 1;
            return Err(Refusal::NoNamespace(namespace.to_owned()));
        };
        let found = space.records.get_key_value(key);
        let Some((key, _)) = found.filter(|(_, record)| record.value.is_some()) else {
            return Ok(None);
        };
        let id = Id {
            namespace,
            key: Arc::clone(key),
        };
        self.counters.deleted += 1;
        Ok(Some(self.end(now, term, id, EventKind::Deleted)))
    }

    /// Lets some of the records whose time is over go.
    pub(in crate::proto) fn expire(&mut self, now: Instant, term: u64, out: &mut Vec<Event>) {
        if self.expiry_due > now {
            return;
        }
        self.expiry_due = now + EXPIRY_PAUSE;
        let mut from = self.expiry_from.take();
        let mut over = Vec::new();
        for _ in 0..EXPIRY_PIECE {
            from = self.after(from.as_ref());
            let Some(id) = &from else {
                break;
            };
            let record = self.record(id);
            if record.is_some_and(|record| record.value.is_some() && record.is_over(now)) {
                over.push(id.clone());
            }
        }
        self.expiry_from = from;
        for id in over {
            self.counters.expired += 1;
            out.push(self.end(now, term, id, EventKind::Expired));
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(in crate::proto) fn expiry_due(&self) -> Option<Instant> {
        (self.held > 0).then_some(self.expiry_due)
    }

    /// The table, for people.
    pub fn snapshot(&self) -> Snapshot {
        let namespaces = self.spaces.iter();
        Snapshot {
            namespaces: namespaces
                .map(|(name, space)| NamespaceSnapshot {
                    name: name.to_string(),
                    records: space.live,
                    bytes: space.bytes,
                    quota: space.quota,
                    refused: space.refused,
                })
                .collect(),
            waiting: self.stream.waiting() as u64,
            counters: self.counters,
        }
    }

    /// Everything that is held, what is over included.
    #[cfg(test)]
    pub(in crate::proto) fn dump(&self) -> Vec<(String, Vec<u8>, Vec<u8>, Stamp)> {
        let mut all = Vec::new();
        for (name, space) in &self.spaces {
            for (key, record) in &space.records {
                if let Some(value) = &record.value {
                    all.push((name.to_string(), key.to_vec(), value.to_vec(), record.stamp));
                }
            }
        }
        all
    }

    /// Counts a write that came at the wrong time.
    pub(in crate::proto) const fn not_active(&mut self) -> Refusal {
        self.counters.refused_not_active += 1;
        Refusal::NotActive
    }

    pub(super) fn record(&self, id: &Id) -> Option<&Record> {
        self.spaces.get(&id.namespace)?.records.get(&id.key)
    }

    pub(super) fn record_mut(&mut self, id: &Id) -> Option<&mut Record> {
        self.spaces.get_mut(&id.namespace)?.records.get_mut(&id.key)
    }

    pub(super) fn remove(&mut self, id: &Id) -> Option<Record> {
        let removed = self.spaces.get_mut(&id.namespace)?.remove(&id.key);
        self.held -= usize::from(removed.is_some());
        removed
    }

    /// The record behind this one, or the first.
    pub(super) fn after(&self, id: Option<&Id>) -> Option<Id> {
        let id_of = |namespace: &Namespace, key: &Key| Id {
            namespace: Arc::clone(namespace),
            key: Arc::clone(key),
        };
        let from = match id {
            None => Bound::Unbounded,
            Some(id) => {
                let behind = (Bound::Excluded(&*id.key), Bound::Unbounded);
                let space = self.spaces.get_key_value(&id.namespace);
                let next = space.and_then(|(namespace, space)| {
                    let (key, _) = space.records.range::<[u8], _>(behind).next()?;
                    Some(id_of(namespace, key))
                });
                if next.is_some() {
                    return next;
                }
                Bound::Excluded(&*id.namespace)
            }
        };
        let mut spaces = self.spaces.range::<str, _>((from, Bound::Unbounded));
        spaces.find_map(|(namespace, space)| {
            let (key, _) = space.records.first_key_value()?;
            Some(id_of(namespace, key))
        })
    }

    fn space(&self, namespace: &str) -> Option<(Namespace, &Space)> {
        let (name, space) = self.spaces.get_key_value(namespace)?;
        Some((Arc::clone(name), space))
    }

    /// Whether a record may be written.
    fn check(&mut self, put: &Put) -> Result<(), Refusal> {
        if !(1..=KEY_MAX).contains(&put.key.len()) {
            return Err(Refusal::KeyLength(put.key.len()));
        }
        let length = put.key.len() + put.value.len();
        if length > KEY_VALUE_MAX {
            return Err(Refusal::TooLong(length));
        }
        if put
            .ttl
            .is_some_and(|ttl| whole_millis(ttl).is_zero() || ttl > TTL_MAX)
        {
            return Err(Refusal::Ttl);
        }
        let unknown = || Refusal::NoNamespace(put.namespace.clone());
        let space = self.spaces.get_mut(put.namespace.as_str());
        let space = space.ok_or_else(unknown)?;
        let quota = space.quota.ok_or_else(unknown)?;
        let known = space.records.get_key_value(put.key.as_slice());
        let replaced = known.map_or(0, |(key, record)| record.bytes(key));
        let is_new = known.is_none_or(|(_, record)| record.value.is_none());
        if is_new && space.live >= u64::from(quota.records) {
            space.refused += 1;
            return Err(Refusal::Records {
                namespace: put.namespace.clone(),
                records: quota.records,
            });
        }
        if space.bytes.saturating_sub(replaced) + length as u64 > quota.bytes {
            space.refused += 1;
            return Err(Refusal::Bytes {
                namespace: put.namespace.clone(),
                bytes: quota.bytes,
            });
        }
        Ok(())
    }

    /// Ends a record that is there: at once, or once the stream has said so.
    fn end(&mut self, now: Instant, term: u64, id: Id, kind: EventKind) -> Event {
        self.version += 1;
        let stamp = Stamp {
            term,
            version: self.version,
        };
        let told = self.record_mut(&id).map(|record| {
            record.stamp = stamp;
            record.told
        });
        if self.stream.owes(self.record(&id)) {
            if let Some(space) = self.spaces.get_mut(&id.namespace) {
                space.bury(&id.key);
            }
            self.wait(now, &id, told.map(|told| told + SPACING));
        } else if let Some(record) = self.remove(&id) {
            // What the stream has not said, the partner need not forget.
            self.stream.leave(&record);
        }
        id.event(stamp, false, kind)
    }
}

impl Id {
    pub(super) fn event(self, stamp: Stamp, from_partner: bool, kind: EventKind) -> Event {
        Event {
            namespace: self.namespace,
            key: self.key,
            stamp,
            from_partner,
            kind,
        }
    }
}

/// A time as it crosses the wire: both nodes put the same into their digests.
pub(super) fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
