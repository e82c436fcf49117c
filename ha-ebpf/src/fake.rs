//! The packet and the tables in ordinary memory: for tests, and for asking what would happen to a
//! packet without sending it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::ptr::NonNull;
use std::rc::Rc;

use ha_common::LAYOUT_VERSION;
use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4};
use ha_common::control::{Config, Gate};
use ha_common::event::{CARP_SEEN_BYTES, CarpSeen, ConnEvent4, Evidence, EvidenceKind};
use ha_common::maps;
use ha_common::pair::{Digest, Heard, LINKS, PEERS, Pair, Peer};
use ha_common::reason::{COUNTERS, Reason, Tally};
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};

use crate::packet::{Hop, Packet, Window};
use crate::tables::{Flows, InsertError, Shared, Tables};

/// A frame in memory.
#[derive(Clone, Debug, Default)]
pub struct FakePacket {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Interface it came in on.
    pub ingress: u32,
    /// Interface it was redirected to.
    pub redirected: Option<u32>,
    /// The kernel's routes by destination.
    pub routes: HashMap<u32, Hop>,
}

impl FakePacket {
    /// A frame that came in on an interface, in a kernel without routes.
    pub fn new(bytes: Vec<u8>, ingress: u32) -> Self {
        Self {
            bytes,
            ingress,
            ..Self::default()
        }
    }
}

impl Packet for FakePacket {
    fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn window<const N: usize>(&mut self, offset: usize) -> Option<Window<'_, N>> {
        let bytes = self.bytes.get_mut(offset..)?;
        Some(Window::new(bytes.first_chunk_mut()?))
    }

    fn copy_out(&self, offset: usize, len: usize, to: &mut [u8; CARP_SEEN_BYTES]) -> bool {
        let from = offset
            .checked_add(len)
            .and_then(|end| self.bytes.get(offset..end));
        match (from, to.get_mut(..len)) {
            (Some(from), Some(to)) if len > 0 => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    }

    fn route(&mut self, _: u32, destination: u32) -> Hop {
        self.routes
            .get(&destination)
            .copied()
            .unwrap_or(Hop::UNKNOWN)
    }

    fn redirect(&mut self, ifindex: u32) {
        self.redirected = Some(ifindex);
    }
}

/// A map. As in the kernel, what a reader holds stays readable after it was deleted.
#[derive(Debug)]
pub struct Table<K, V> {
    live: RefCell<HashMap<K, Rc<UnsafeCell<V>>>>,
    dead: RefCell<Vec<Rc<UnsafeCell<V>>>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            live: RefCell::default(),
            dead: RefCell::default(),
        }
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Table<K, V> {
    /// A copy of an element.
    pub fn get(&self, key: &K) -> Option<V> {
        self.share(key).map(Shared::get)
    }

    /// Adds or replaces an element.
    pub fn put(&self, key: K, value: V) {
        self.remove(&key);
        self.live
            .borrow_mut()
            .insert(key, Rc::new(UnsafeCell::new(value)));
    }

    /// Deletes an element; `false` if there was none.
    pub fn remove(&self, key: &K) -> bool {
        let removed = self.live.borrow_mut().remove(key);
        let found = removed.is_some();
        self.dead.borrow_mut().extend(removed);
        found
    }

    /// All elements, in no order.
    pub fn all(&self) -> Vec<(K, V)> {
        let keys: Vec<K> = self.live.borrow().keys().copied().collect();
        keys.into_iter()
            .filter_map(|key| Some((key, self.get(&key)?)))
            .collect()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.live.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element of an array, all zero until it is written; `None` beyond its end.
    fn element(&self, key: K, exists: bool) -> Option<Shared<V>>
    where
        V: Default,
    {
        if exists && self.get(&key).is_none() {
            self.put(key, V::default());
        }
        self.share(&key)
    }

    fn share(&self, key: &K) -> Option<Shared<V>> {
        let live = self.live.borrow();
        let pointer = NonNull::new(live.get(key)?.get())?;
        // SAFETY: the element is not moved and not freed before the table is, and everything runs on
        // one thread. Values are integers and byte arrays throughout.
        Some(unsafe { Shared::new(pointer) })
    }
}

/// What another CPU does in the middle of a packet.
pub type Interruption = Box<dyn FnOnce(&FakeTables)>;

/// All maps, clocks and rings.
pub struct FakeTables {
    /// The clock, coarse and precise.
    pub now_ns: Cell<u64>,
    /// `ha_gate`.
    pub gate: Table<(), Gate>,
    /// `ha_version`.
    pub layout_version: Cell<u32>,
    /// `ha_config`.
    pub config: Table<(), Config>,
    /// `ha_addrs4`.
    pub addrs: Table<u32, LocalAddr>,
    /// `ha_addrs6`.
    pub addrs6: Table<Addr6, LocalAddr>,
    /// `ha_pair`.
    pub pair: Table<(), Pair>,
    /// `ha_peers`.
    pub peers: Table<u32, Peer>,
    /// `ha_digests`.
    pub digests: Table<u32, Digest>,
    /// `ha_heard`.
    pub heard: Table<u32, Heard>,
    /// `ha_buckets`.
    pub buckets: Table<EvidenceKind, u64>,
    /// `ha_evidence`.
    pub evidence: RefCell<Vec<Evidence>>,
    /// Records that `ha_evidence` can hold.
    pub evidence_max: Cell<usize>,
    /// `ha_services4`.
    pub services: Table<ServiceKey4, Service>,
    /// `ha_return4`.
    pub return_paths: Table<ServiceKey4, ReturnPath4>,
    /// `ha_reals`.
    pub reals: Table<u16, Real>,
    /// `ha_slots`.
    pub slots: Table<u32, u32>,
    /// `ha_turns` of the one CPU.
    pub turns: Table<u16, u32>,
    /// `ha_conns4`.
    pub conns: Table<ConnKey4, Conn4>,
    /// Entries that `ha_conns4` can hold.
    pub conns_max: Cell<usize>,
    /// `ha_embryo4`.
    pub embryos: Table<EmbryoKey4, Embryo4>,
    /// Whether `ha_embryo4` takes new entries.
    pub embryos_full: Cell<bool>,
    /// `ha_events`.
    pub events: RefCell<Vec<ConnEvent4>>,
    /// Events that `ha_events` can hold.
    pub events_max: Cell<usize>,
    /// `ha_carp`.
    pub adverts: RefCell<Vec<CarpSeen>>,
    /// Records that `ha_carp` can hold.
    pub adverts_max: Cell<usize>,
    /// `ha_reasons`.
    pub counters: RefCell<[u64; COUNTERS]>,
    /// Runs before the next entry is added to `ha_conns4`, each once.
    pub interruptions: RefCell<Vec<Interruption>>,
}

impl Default for FakeTables {
    fn default() -> Self {
        let config = Table::default();
        config.put((), Config::default());
        let gate = Table::default();
        gate.put((), Gate::default());
        Self {
            now_ns: Cell::new(1),
            gate,
            layout_version: Cell::new(LAYOUT_VERSION),
            config,
            addrs: Table::default(),
            addrs6: Table::default(),
            pair: Table::default(),
            peers: Table::default(),
            digests: Table::default(),
            heard: Table::default(),
            buckets: Table::default(),
            evidence: RefCell::default(),
            evidence_max: Cell::new(usize::MAX),
            services: Table::default(),
            return_paths: Table::default(),
            reals: Table::default(),
            slots: Table::default(),
            turns: Table::default(),
            conns: Table::default(),
            conns_max: Cell::new(maps::CONNS4_ENTRIES as usize),
            embryos: Table::default(),
            embryos_full: Cell::new(false),
            events: RefCell::default(),
            events_max: Cell::new(usize::MAX),
            adverts: RefCell::default(),
            adverts_max: Cell::new(usize::MAX),
            counters: RefCell::new([0; COUNTERS]),
            interruptions: RefCell::default(),
        }
    }
}

impl FakeTables {
    /// Judges a frame as the program does, counting the reason.
    pub fn run(&self, packet: &mut FakePacket) -> Reason {
        let reason = crate::process(packet, self);
        self.count(reason as u32);
        reason
    }

    /// A counter's value.
    pub fn tally(&self, tally: Tally) -> u64 {
        self.counters
            .borrow()
            .get(tally.index() as usize)
            .copied()
            .unwrap_or_default()
    }
}

impl Tables for &FakeTables {
    fn coarse_ns(self) -> u64 {
        self.now_ns.get()
    }

    fn precise_ns(self) -> u64 {
        self.now_ns.get()
    }

    fn gate(self) -> Option<Shared<Gate>> {
        self.gate.share(&())
    }

    fn layout_version(self) -> u32 {
        self.layout_version.get()
    }

    fn config(self) -> Option<Shared<Config>> {
        self.config.share(&())
    }

    fn addr_kind(self, addr: u32) -> u32 {
        self.addrs.get(&addr).unwrap_or_default().kind
    }

    fn addr6_kind(self, addr: &Addr6) -> u32 {
        self.addrs6.get(addr).unwrap_or_default().kind
    }

    fn addr_home(self, addr: u32) -> u32 {
        self.addrs.get(&addr).unwrap_or_default().ifindex
    }

    fn addr6_home(self, addr: &Addr6) -> u32 {
        self.addrs6.get(addr).unwrap_or_default().ifindex
    }

    fn pair(self) -> Option<Shared<Pair>> {
        self.pair.element((), true)
    }

    fn peer(self, index: u32) -> Option<Shared<Peer>> {
        self.peers.element(index, (index as usize) < PEERS)
    }

    fn digest(self, index: u32) -> Option<Shared<Digest>> {
        self.digests.element(index, (index as usize) < PEERS)
    }

    fn heard(self, link: u32) -> Option<Shared<Heard>> {
        self.heard.element(link, (link as usize) < LINKS)
    }

    fn bucket(self, kind: EvidenceKind) -> Option<Shared<u64>> {
        self.buckets.element(kind, true)
    }

    fn real(self, id: u16) -> Option<Shared<Real>> {
        self.reals.element(id, u32::from(id) < maps::REALS_ENTRIES)
    }

    fn slot(self, index: u32) -> Option<u32> {
        (index < maps::SLOTS_ENTRIES).then(|| self.slots.get(&index).unwrap_or_default())
    }

    fn turn(self, service: u16, members: u32) -> u32 {
        let now = self.turns.get(&service).unwrap_or_default();
        self.turns.put(service, now.wrapping_add(1));
        now.checked_rem(members).unwrap_or_default()
    }

    fn carp_seen(self, fill: impl FnOnce(&mut CarpSeen) -> bool) -> bool {
        let mut adverts = self.adverts.borrow_mut();
        if adverts.len() >= self.adverts_max.get() {
            return false;
        }
        let mut seen = CarpSeen {
            at_ns: 0,
            ifindex: 0,
            len: 0,
            source_mac: [0; 6],
            pad: [0; 4],
            packet: [0; CARP_SEEN_BYTES],
        };
        let keep = fill(&mut seen);
        if keep {
            adverts.push(seen);
        }
        keep
    }

    fn evidence(self, evidence: &Evidence) -> bool {
        let mut records = self.evidence.borrow_mut();
        if records.len() >= self.evidence_max.get() {
            return false;
        }
        records.push(*evidence);
        true
    }

    fn count(self, index: u32) {
        if let Some(counter) = self.counters.borrow_mut().get_mut(index as usize) {
            *counter += 1;
        }
    }
}

impl Flows<u32> for &FakeTables {
    fn service(self, key: &ServiceKey4) -> Option<Shared<Service>> {
        self.services.share(key)
    }

    fn return_path(self, key: &ServiceKey4) -> Option<Shared<ReturnPath4>> {
        self.return_paths.share(key)
    }

    fn conn(self, key: &ConnKey4) -> Option<Shared<Conn4>> {
        self.conns.share(key)
    }

    fn add_conn(self, key: &ConnKey4, value: &Conn4) -> Result<(), InsertError> {
        let interruption = self.interruptions.borrow_mut().pop();
        if let Some(interruption) = interruption {
            interruption(self);
        }
        if self.conns.get(key).is_some() {
            return Err(InsertError::Exists);
        }
        if self.conns.len() >= self.conns_max.get() {
            return Err(InsertError::Full);
        }
        self.conns.put(*key, *value);
        Ok(())
    }

    fn remove_conn(self, key: &ConnKey4) -> bool {
        self.conns.remove(key)
    }

    fn embryo(self, key: &EmbryoKey4) -> Option<Shared<Embryo4>> {
        self.embryos.share(key)
    }

    fn put_embryo(self, key: &EmbryoKey4, value: &Embryo4) -> bool {
        if self.embryos_full.get() {
            return false;
        }
        self.embryos.put(*key, *value);
        true
    }

    fn remove_embryo(self, key: &EmbryoKey4) {
        self.embryos.remove(key);
    }

    fn event(self, event: &ConnEvent4) -> bool {
        let mut events = self.events.borrow_mut();
        if events.len() >= self.events_max.get() {
            return false;
        }
        events.push(*event);
        true
    }
}
