//! Two machines, their maps, and a network that loses, doubles, delays, spoils and cuts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use ha_common::conn::flags;

use super::{Sabotage, any_record, pair_keys, salt};
use crate::datapath::family::FlowKey;
use crate::keys::{PairKey, PairKeys};
use crate::proto::records::{Event, EventKind, Gone, Put, Quota, Refusal, Stamp, Told};
use crate::proto::rng::Rng;
use crate::proto::sync::{Action, Change, Input, Record, Sync, SyncConfig, SyncSnapshot};
use crate::proto::time::Instant;

pub(super) const MILLIS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Namespaces that both nodes have, and how many records fit.
pub(super) const QUOTAS: [(&str, u32); 2] = [("sessions", 500), ("few", 100)];

/// What the network does to packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) loss_permille: u64,
    /// One bit of the packet is wrong.
    pub(super) corrupt_percent: u64,
    pub(super) duplicate_percent: u64,
    pub(super) delay_min: Duration,
    pub(super) delay_max: Duration,
    /// Packets of node 0 and of node 1 are lost altogether.
    pub(super) cut: [bool; 2],
    /// Longer packets are lost.
    pub(super) longest: usize,
}

impl Faults {
    pub(super) const NONE: Self = Self {
        loss_permille: 0,
        corrupt_percent: 0,
        duplicate_percent: 0,
        delay_min: Duration::from_micros(50),
        delay_max: Duration::from_micros(60),
        cut: [false; 2],
        longest: usize::MAX,
    };
}

/// What may happen to an entry of a node's own copy and of its map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mischief {
    /// It is deleted as if the partner had said so.
    Forget,
    /// It vanishes; the node's own digests still count it.
    Lose,
    /// It becomes another one; the node's own digests do not notice.
    Alter,
    /// A record that is no connection is deleted as if the partner had said so.
    ForgetRecord,
}

pub(super) struct Node {
    /// `None` while it is down.
    pub(super) sync: Option<Sync>,
    /// The data plane's map.
    pub(super) map: BTreeMap<FlowKey, Record>,
    pub(super) ready: bool,
    pub(super) applied: u64,
    /// Until when it does nothing at all; packets for it wait.
    pub(super) frozen: Instant,
    /// What somebody holds who was told of every change of a record that is no connection.
    pub(super) told: BTreeMap<(String, Vec<u8>), Vec<u8>>,
}

/// A packet under way: arrival, number, receiver, bytes.
type Flight = (Instant, u64, usize, Vec<u8>);

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: [Node; 2],
    pub(super) active: usize,
    pub(super) faults: Faults,
    pub(super) term: u64,
    /// Changes a second made on the active node.
    pub(super) rate: u64,
    /// Some of them are of records that are no connections.
    pub(super) records: bool,
    pub(super) sabotage: Sabotage,
    /// Maps were changed behind the agents' backs.
    pub(super) edited: bool,
    pub(super) config: SyncConfig,
    /// Every packet ever sent: sender and bytes.
    pub(super) recording: Option<Vec<(usize, Vec<u8>)>>,
    rng: Rng,
    network: BinaryHeap<Reverse<Flight>>,
    packets: u64,
    /// Nonce of every packet seen, to prove that none is used for two packets.
    nonces: HashMap<(u64, bool, u64), u64>,
    next_change: Instant,
    next_client: u32,
}

impl World {
    /// Both nodes up, node 0 active.
    pub(super) fn new(seed: u64) -> Self {
        let mut config = SyncConfig::new(1, 110);
        config.max_entries = 1 << 13;
        let node = || Node {
            sync: None,
            map: BTreeMap::new(),
            ready: false,
            applied: 0,
            frozen: Instant::default(),
            told: BTreeMap::new(),
        };
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            nodes: [node(), node()],
            active: 0,
            faults: Faults::NONE,
            term: 1,
            rate: 0,
            records: true,
            sabotage: Sabotage::default(),
            edited: false,
            config,
            recording: None,
            rng: Rng::new(seed),
            network: BinaryHeap::new(),
            packets: 0,
            nonces: HashMap::new(),
            next_change: Instant::from_nanos(0),
            next_client: 0,
        };
        world.start(0);
        world.start(1);
        world.role(0, true);
        world
    }

    /// Both nodes anew, with empty tables of this size.
    pub(super) fn resize(&mut self, entries: usize) {
        self.config.max_entries = entries;
        self.start(0);
        self.start(1);
        self.term += 1;
        self.role(0, true);
    }

    pub(super) fn standby(&self) -> usize {
        1 - self.active
    }

    /// Starts a node's agent, which finds what is in its map.
    pub(super) fn start(&mut self, node: usize) {
        let config = SyncConfig {
            node_id: node as u8 + 1,
            ..self.config.clone()
        };
        let seed = Rng::new(self.rng.next_u64());
        let salt = salt(&mut self.rng);
        let mut sync = Sync::new(config, pair_keys(), salt, seed, self.now);
        sync.context_mut().sabotage = self.sabotage;
        sync.set_quotas(QUOTAS.map(|(name, records)| {
            let bytes = 1 << 20;
            (name.to_owned(), Quota { records, bytes })
        }));
        self.nodes[node].told.clear();
        self.nodes[node].sync = Some(sync);
        self.nodes[node].ready = false;
        let found = self.nodes[node].map.values().copied().collect();
        self.input(node, Input::Load(found));
    }

    /// A reload gives a node these pair keys.
    pub(super) fn keys(&mut self, node: usize, keys: &[u8]) {
        let keys = keys.iter().map(|id| PairKey::new(*id, [6 + id; 32]));
        let keys = PairKeys::new(keys.collect());
        let (now, salt) = (self.now, salt(&mut self.rng));
        let mut out = Vec::new();
        if let Some(sync) = &mut self.nodes[node].sync {
            sync.set_keys(now, keys, salt, &mut out);
        }
        self.perform(node, out);
    }

    /// Switches parts of one node off.
    pub(super) fn sabotage_node(&mut self, node: usize, change: impl FnOnce(&mut Sabotage)) {
        if let Some(sync) = &mut self.nodes[node].sync {
            change(&mut sync.context_mut().sabotage);
        }
    }

    pub(super) fn role(&mut self, node: usize, active: bool) {
        let (term, salt) = (self.term, salt(&mut self.rng));
        self.input(node, Input::Role { active, term, salt });
    }

    /// The other node becomes active; `release` tells the old one first.
    pub(super) fn swap(&mut self, release: bool) {
        let old = self.active;
        self.term += 1;
        if release && self.nodes[old].sync.is_some() {
            self.role(old, false);
        }
        self.active = 1 - old;
        self.role(self.active, true);
    }

    pub(super) fn put(&mut self, record: Record) {
        let active = self.active;
        self.nodes[active].map.insert(record.key, record);
        self.local(Change::Put(record));
    }

    pub(super) fn delete(&mut self, key: FlowKey) {
        let active = self.active;
        self.nodes[active].map.remove(&key);
        self.local(Change::Delete(key));
    }

    fn local(&mut self, change: Change) {
        let at = self.now;
        self.input(self.active, Input::Local { change, at });
    }

    pub(super) fn flush(&mut self) {
        self.input(self.active, Input::Flush);
    }

    /// Adds connections on the active node.
    pub(super) fn fill(&mut self, count: u32) {
        for _ in 0..count {
            self.put(any_record(self.next_client, 1));
            self.next_client += 1;
        }
        self.flush();
    }

    pub(super) fn packet(&mut self, node: usize, bytes: &[u8]) {
        self.input(node, Input::Packet { bytes });
    }

    pub(super) fn input(&mut self, node: usize, input: Input<'_>) {
        let mut out = Vec::new();
        if let Some(sync) = &mut self.nodes[node].sync {
            sync.handle_input(self.now, input, &mut out);
        }
        self.perform(node, out);
    }

    pub(super) fn perform(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to: _, bytes } => self.send(node, &bytes),
                Action::Ready(ready) => self.nodes[node].ready = ready,
                Action::Record(event) => self.note(node, &event),
                Action::Apply { change, before } => {
                    let target = &mut self.nodes[node];
                    target.applied += 1;
                    if before.is_some() && !self.edited {
                        let held = target.map.get(&change.key());
                        assert_eq!(before.as_ref(), held, "what the map has is known");
                    }
                    match change {
                        Change::Put(record) => {
                            target.map.insert(record.key, record);
                        }
                        Change::Delete(key) => {
                            target.map.remove(&key);
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, from: usize, bytes: &[u8]) {
        assert!(bytes.len() <= self.config.lengths.most, "packet too long");
        self.check_nonce(bytes);
        if let Some(recording) = &mut self.recording {
            recording.push((from, bytes.to_owned()));
        }
        let copies = 1 + u64::from(self.rng.below(100) < self.faults.duplicate_percent);
        for _ in 0..copies {
            let lost = self.faults.cut[from] || bytes.len() > self.faults.longest;
            if lost || self.rng.below(1000) < self.faults.loss_permille {
                continue;
            }
            let mut bytes = bytes.to_owned();
            if self.rng.below(100) < self.faults.corrupt_percent {
                let bit = self.rng.below(8 * bytes.len() as u64) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let spread = self.faults.delay_max.saturating_sub(self.faults.delay_min);
            let extra = Duration::from_nanos(self.rng.below(spread.as_nanos() as u64 + 1));
            let at = self.now + self.faults.delay_min + extra;
            self.packets += 1;
            self.network
                .push(Reverse((at, self.packets, 1 - from, bytes)));
        }
    }

    /// One nonce under one key, one packet.
    fn check_nonce(&mut self, bytes: &[u8]) {
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let nonce = (word(12), bytes[3] == 1, word(20));
        // The tag stands for the packet.
        let tag = u64::from_be_bytes(bytes[bytes.len() - 8..].try_into().unwrap());
        let before = self.nonces.insert(nonce, tag);
        assert!(
            before.is_none_or(|before| before == tag),
            "nonce used twice"
        );
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let mut next = end;
            for node in &self.nodes {
                let due = node.sync.as_ref().and_then(Sync::poll_timeout);
                next = next.min(due.map_or(end, |due| due.max(node.frozen)));
            }
            if let Some(Reverse((at, ..))) = self.network.peek() {
                next = next.min(*at);
            }
            if self.rate > 0 {
                next = next.min(self.next_change.max(self.now));
            }
            if next >= end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some(Reverse((at, ..))) = self.network.peek()
            && *at <= self.now
        {
            let Some(Reverse((_at, number, to, bytes))) = self.network.pop() else {
                continue;
            };
            let frozen = self.nodes[to].frozen;
            if frozen > self.now {
                self.network.push(Reverse((frozen, number, to, bytes)));
            } else {
                self.packet(to, &bytes);
            }
        }
        for node in 0..2 {
            if self.nodes[node].frozen > self.now {
                continue;
            }
            let Some(sync) = &mut self.nodes[node].sync else {
                continue;
            };
            if sync.poll_timeout().is_some_and(|due| due <= self.now) {
                let mut out = Vec::new();
                sync.handle_timeout(self.now, &mut out);
                let again = sync.poll_timeout();
                assert!(
                    again.is_none_or(|due| due > self.now),
                    "busy loop at {}: {again:?} {:#?}",
                    self.now,
                    sync.snapshot()
                );
                self.perform(node, out);
            }
        }
        if self.rate > 0 && self.next_change <= self.now {
            if self.nodes[self.active].frozen <= self.now {
                self.change();
            }
            let pause = 2_000_000_000 / self.rate;
            self.next_change = self.now + Duration::from_nanos(self.rng.below(pause) + 1);
        }
    }

    /// A connection comes, changes or goes.
    fn change(&mut self) {
        if self.records && self.rng.below(4) == 0 {
            self.change_record();
        }
        let map = &self.nodes[self.active].map;
        let dice = self.rng.below(100);
        if map.is_empty() || dice < 40 {
            self.put(any_record(self.next_client, 1));
            self.next_client += 1;
        } else {
            let start = any_record(self.rng.below(u64::from(self.next_client)) as u32, 0).key;
            let found = map.range(start..).next().or_else(|| map.iter().next());
            let mut changed = *found.unwrap().1;
            if dice < 70 {
                changed.version = changed.version.wrapping_add(1);
                changed.state = 1 + (changed.version % 5) as u8;
                if dice < 45 {
                    // Another one of the same client, after the service was changed.
                    changed.flags ^= flags::ONE_WAY;
                }
                self.put(changed);
            } else {
                self.delete(changed.key);
            }
        }
        // The ring is drained in batches.
        if self.rng.below(3) == 0 {
            self.flush();
        }
    }

    /// Writes a record that is no connection.
    pub(super) fn write(
        &mut self,
        namespace: &str,
        key: &str,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<Stamp, Refusal> {
        self.write_on(self.active, namespace, key, value, ttl)
    }

    pub(super) fn write_on(
        &mut self,
        node: usize,
        namespace: &str,
        key: &str,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<Stamp, Refusal> {
        let put = Put {
            namespace: namespace.to_owned(),
            key: key.into(),
            value: value.into(),
            ttl,
            age: Duration::ZERO,
        };
        let mut out = Vec::new();
        let sync = self.nodes[node].sync.as_mut().unwrap();
        let result = sync.put_record(self.now, put, &mut out);
        self.perform(node, out);
        result
    }

    pub(super) fn erase(&mut self, namespace: &str, key: &str) {
        let mut out = Vec::new();
        let sync = self.nodes[self.active].sync.as_mut().unwrap();
        sync.delete_record(self.now, namespace, key.as_bytes(), &mut out)
            .unwrap();
        self.perform(self.active, out);
    }

    pub(super) fn read(&self, node: usize, namespace: &str, key: &str) -> Option<String> {
        let sync = self.nodes[node].sync.as_ref()?;
        let view = sync.records().get(self.now, namespace, key.as_bytes())?;
        Some(String::from_utf8_lossy(&view.value).into_owned())
    }

    /// A record that is no connection comes, changes, lives longer or goes.
    fn change_record(&mut self) {
        if self.nodes[self.active].sync.is_none() {
            return;
        }
        let (namespace, _) = QUOTAS[self.rng.below(2) as usize];
        let key = format!("key {}", self.rng.below(300));
        if self.rng.below(4) == 0 {
            self.erase(namespace, &key);
            return;
        }
        let value = format!("value {}", self.rng.below(3));
        let ttl = (self.rng.below(2) == 0).then(|| MILLIS * (1 + self.rng.below(2000) as u32));
        // The smaller quota refuses some.
        if let Err(refusal) = self.write(namespace, &key, &value, ttl) {
            assert!(matches!(refusal, Refusal::Records { .. }), "{refusal}");
        }
    }

    /// Somebody who follows the changes.
    fn note(&mut self, node: usize, event: &Event) {
        let id = (event.namespace.to_string(), event.key.to_vec());
        let told = &mut self.nodes[node].told;
        match &event.kind {
            EventKind::Put { value, .. } => {
                told.insert(id, value.to_vec());
            }
            EventKind::Deleted | EventKind::Expired => {
                assert!(told.remove(&id).is_some(), "{event:?} of nothing");
            }
        }
    }

    /// Whether the nodes hold the same records, and whoever followed the changes does.
    pub(super) fn same_records(&self) -> bool {
        let [first, second] = [0, 1].map(|node| {
            let sync = self.nodes[node].sync.as_ref().unwrap();
            let all = sync.records().dump();
            let values = all
                .iter()
                .cloned()
                .map(|(name, key, value, _)| ((name, key), value));
            assert!(
                values.eq(self.nodes[node].told.clone()),
                "followers of {node}"
            );
            all
        });
        first == second
    }

    pub(super) fn snapshot(&self, node: usize) -> SyncSnapshot {
        self.nodes[node].sync.as_ref().unwrap().snapshot()
    }

    pub(super) fn same_tables(&self) -> bool {
        self.nodes[0].map == self.nodes[1].map
    }

    /// Runs a healthy network without traffic until the standby is ready; then the tables are equal.
    pub(super) fn converge(&mut self, within: Duration) {
        assert!(self.settle(within), "not ready: {:#?}", self.diagnosis());
        assert!(self.same_tables(), "tables differ: {:#?}", self.diagnosis());
        assert!(
            self.settle_records(),
            "records differ: {:#?}",
            self.diagnosis()
        );
        for node in 0..2 {
            let entries = self.snapshot(node).entries;
            assert_eq!(
                entries,
                self.nodes[node].map.len() as u64,
                "shadow of {node}"
            );
        }
        assert!(self.same_shadows(), "shadows differ from the tables");
    }

    /// Whether the nodes come to hold the same records: those whose time ends now follow.
    pub(super) fn settle_records(&mut self) -> bool {
        let end = self.now + SECOND * 5;
        while !self.same_records() && self.now < end {
            self.run(MILLIS * 10);
        }
        self.same_records()
    }

    /// Lets everything that is wrong be found, on a healthy network without traffic; then all is equal.
    pub(super) fn heal(&mut self, within: Duration) {
        (self.rate, self.faults) = (0, Faults::NONE);
        self.run(within);
        self.converge(SECOND * 10);
    }

    /// Whether each node's own copy is what its map holds.
    pub(super) fn same_shadows(&mut self) -> bool {
        [0, 1].into_iter().all(|node| {
            let shadow = &self.nodes[node].sync.as_mut().unwrap().context_mut().shadow;
            let entries = (0..shadow.slots()).filter_map(|slot| shadow.get(slot));
            let copy: BTreeMap<_, _> = entries
                .filter(|entry| !entry.is_gone())
                .map(|entry| (entry.record.key, entry.record))
                .collect();
            copy == self.nodes[node].map
        })
    }

    /// Something goes wrong that no packet tells of; whether there was a connection to spoil.
    pub(super) fn mischief(&mut self, node: usize, mischief: Mischief) -> bool {
        if mischief == Mischief::ForgetRecord {
            return self.forget_record(node);
        }
        let Some(key) = self.any_key(node) else {
            return false;
        };
        let Node { sync, map, .. } = &mut self.nodes[node];
        let shadow = &mut sync.as_mut().unwrap().context_mut().shadow;
        let Some(slot) = shadow.find(&key) else {
            return false;
        };
        match mischief {
            Mischief::Forget => {
                shadow.remove(slot);
                map.remove(&key);
            }
            Mischief::Lose => {
                shadow.lose(slot);
                map.remove(&key);
            }
            Mischief::ForgetRecord => {}
            Mischief::Alter => {
                let entry = shadow.get_mut(slot).unwrap();
                entry.record.real_port ^= 1;
                map.insert(key, entry.record);
            }
        }
        true
    }

    fn forget_record(&mut self, node: usize) -> bool {
        let all = self.nodes[node].sync.as_ref().unwrap().records().dump();
        let Some((namespace, key, _value, stamp)) = all.first() else {
            return false;
        };
        self.mishear(
            node,
            &Told::Delete(Gone {
                namespace,
                key,
                stamp: *stamp,
            }),
        );
        true
    }

    /// A node hears what its partner has not said.
    pub(super) fn mishear(&mut self, node: usize, told: &Told<'_>) {
        let context = self.nodes[node].sync.as_mut().unwrap().context_mut();
        if let Some(event) = context.records.hear(self.now, told, |_| 1) {
            self.note(node, &event);
        }
    }

    /// Everything under way is lost.
    pub(super) fn lose_packets(&mut self) {
        self.network.clear();
    }

    /// A connection that a node's map and copy hold.
    fn any_key(&mut self, node: usize) -> Option<FlowKey> {
        let map = &self.nodes[node].map;
        let start = any_record(self.rng.below(u64::from(self.next_client)) as u32, 0).key;
        let (key, _record) = map.range(start..).next().or_else(|| map.iter().next())?;
        Some(*key)
    }

    /// Whether the standby becomes ready and the active knows it.
    pub(super) fn settle(&mut self, within: Duration) -> bool {
        self.rate = 0;
        self.faults = Faults::NONE;
        let thawed = self.nodes[0].frozen.max(self.nodes[1].frozen);
        self.run(thawed.since(self.now));
        let end = self.now + within;
        while self.now < end {
            self.run(MILLIS * 10);
            let idle = self.snapshot(self.active).outstanding == 0
                && self.snapshot(self.standby()).outstanding == 0;
            if idle && self.nodes[self.standby()].ready && self.snapshot(self.active).ready {
                // The state of heartbeats in flight is that of the end of the traffic.
                self.run(MILLIS * 300);
                return self.nodes[self.standby()].ready;
            }
        }
        false
    }

    fn diagnosis(&self) -> [(usize, SyncSnapshot); 2] {
        [0, 1].map(|node| (self.nodes[node].map.len(), self.snapshot(node)))
    }
}
