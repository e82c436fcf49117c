//! The packet and the tables in ordinary memory: for tests, and for asking what would happen to a
//! packet without sending it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::ptr::NonNull;
use std::rc::Rc;

use ha_common::LAYOUT_VERSION;
use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, Persist, PersistKey};
use ha_common::control::{Config, Gate, Pace};
use ha_common::event::{
    CARP_SEEN_BYTES, CarpSeen, ConnEvent, EARLY_BYTES, EarlyFragment, Evidence, SAMPLE_BYTES,
    Sample,
};
use ha_common::filter;
use ha_common::maps;
use ha_common::pair::{Digest, Heard, LINKS, PEERS, Pair, Peer};
use ha_common::reason::{COUNTERS, Reason, Tally};
use ha_common::service::{
    Addr6, Address, Load, LocalAddr, Real, ReturnPath, Service, ServiceKey, Timeouts, Traffic,
};

use crate::packet::{Hop, Packet, Window};
use crate::programs;
use crate::tables::{Flows, InsertError, Shared, Tables};
use crate::work::Work;

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
    /// The same for IPv6.
    pub routes6: HashMap<Addr6, Hop>,
    /// Longest IP packet by interface; 1500 where nothing is said.
    pub mtus: HashMap<u32, u32>,
    /// Bytes in front of the frame that are free.
    pub headroom: usize,
}

/// What `XDP_PACKET_HEADROOM` leaves (Linux `include/uapi/linux/bpf.h`).
const HEADROOM: usize = 256;
/// What is found in room that was not used before.
const GARBAGE: u8 = 0xff;

impl FakePacket {
    /// A frame that came in on an interface, in a kernel without routes.
    pub fn new(bytes: Vec<u8>, ingress: u32) -> Self {
        Self {
            bytes,
            ingress,
            headroom: HEADROOM,
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

    fn copy_out<const N: usize>(&self, offset: usize, len: usize, to: &mut [u8; N]) -> bool {
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

    fn grow_head(&mut self, by: usize) -> bool {
        if by > self.headroom {
            return false;
        }
        self.headroom -= by;
        self.bytes.splice(0..0, std::iter::repeat_n(GARBAGE, by));
        true
    }

    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.bytes.len();
        self.bytes.truncate(len);
        fits
    }

    fn route4(&mut self, _: u32, destination: u32) -> Hop {
        self.routes
            .get(&destination)
            .copied()
            .unwrap_or(Hop::UNKNOWN)
    }

    fn route6(&mut self, _: &Addr6, destination: &Addr6) -> Hop {
        self.routes6
            .get(destination)
            .copied()
            .unwrap_or(Hop::UNKNOWN)
    }

    fn exceeds_mtu(&mut self, ifindex: u32, len: u32) -> Option<u32> {
        let mtu = self.mtus.get(&ifindex).copied().unwrap_or(1500);
        (ifindex != 0 && len > mtu).then_some(mtu)
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

/// What is remembered of one family.
#[derive(Debug)]
pub struct FakeFlows<A> {
    /// `ha_services4`.
    pub services: Table<ServiceKey<A>, Service>,
    /// `ha_return4`.
    pub return_paths: Table<ServiceKey<A>, ReturnPath<A>>,
    /// `ha_conns4`.
    pub conns: Table<ConnKey<A>, Conn<A>>,
    /// `ha_embryo4`.
    pub embryos: Table<EmbryoKey<A>, Embryo<A>>,
    /// `ha_frags4`.
    pub fragments: Table<FragmentKey<A>, Conn<A>>,
    /// `ha_persist4`.
    pub persist: Table<PersistKey<A>, Persist>,
    /// Events of this family in `ha_events`.
    pub events: RefCell<Vec<ConnEvent<A>>>,
    /// Workplaces: one for each packet, as if each were on a CPU of its own.
    works: Table<u64, Work<A>>,
    packets: Cell<u64>,
}

impl<A: Address + Eq + Hash> Default for FakeFlows<A> {
    fn default() -> Self {
        Self {
            services: Table::default(),
            return_paths: Table::default(),
            conns: Table::default(),
            embryos: Table::default(),
            fragments: Table::default(),
            persist: Table::default(),
            events: RefCell::default(),
            works: Table::default(),
            packets: Cell::new(0),
        }
    }
}

/// Records that `ha_early` holds in the kernel, each behind a header of eight bytes.
const EARLY_MAX: usize = maps::EARLY_RING_BYTES as usize / (size_of::<EarlyFragment>() + 8);

/// Workplaces that are kept: packets that are handled at the same time.
const WORKS: u64 = 16;

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
    pub buckets: Table<u32, u64>,
    /// `ha_filter`.
    pub filter: Table<u32, u64>,
    /// `ha_pace` of the one CPU.
    pub pace: Table<(), Pace>,
    /// `ha_evidence`.
    pub evidence: RefCell<Vec<Evidence>>,
    /// Records that `ha_evidence` can hold.
    pub evidence_max: Cell<usize>,
    /// `ha_reals`.
    pub reals: Table<u16, Real>,
    /// `ha_loads`.
    pub loads: Table<u16, Load>,
    /// `ha_traffic` of the one CPU.
    pub traffic: Table<u16, Traffic>,
    /// `ha_timeouts`.
    pub timeouts: Table<u16, Timeouts>,
    /// `ha_slots`.
    pub slots: Table<u32, u32>,
    /// `ha_turns` of the one CPU.
    pub turns: Table<u16, u32>,
    /// What is remembered of IPv4.
    pub v4: FakeFlows<u32>,
    /// What is remembered of IPv6.
    pub v6: FakeFlows<Addr6>,
    /// Entries that each connection table can hold.
    pub conns_max: Cell<usize>,
    /// Whether half-open connections find no room.
    pub embryos_full: Cell<bool>,
    /// Events of each family that `ha_events` can hold.
    pub events_max: Cell<usize>,
    /// `ha_carp`.
    pub adverts: RefCell<Vec<CarpSeen>>,
    /// Records that `ha_carp` can hold.
    pub adverts_max: Cell<usize>,
    /// `ha_samples`.
    pub samples: RefCell<Vec<Sample>>,
    /// `ha_early`.
    pub early: RefCell<Vec<EarlyFragment>>,
    /// Records that `ha_early` can hold.
    pub early_max: Cell<usize>,
    /// `ha_reasons`.
    pub counters: RefCell<[u64; COUNTERS]>,
    /// Runs before the next entry is added to a connection table, each once.
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
            filter: Table::default(),
            pace: Table::default(),
            evidence: RefCell::default(),
            evidence_max: Cell::new(usize::MAX),
            reals: Table::default(),
            loads: Table::default(),
            traffic: Table::default(),
            timeouts: Table::default(),
            slots: Table::default(),
            turns: Table::default(),
            v4: FakeFlows::default(),
            v6: FakeFlows::default(),
            conns_max: Cell::new(maps::CONNS4_ENTRIES as usize),
            embryos_full: Cell::new(false),
            events_max: Cell::new(usize::MAX),
            adverts: RefCell::default(),
            adverts_max: Cell::new(usize::MAX),
            samples: RefCell::default(),
            early: RefCell::default(),
            early_max: Cell::new(EARLY_MAX),
            counters: RefCell::new([0; COUNTERS]),
            interruptions: RefCell::default(),
        }
    }
}

impl FakeTables {
    /// Judges a frame as the programs do, counting the reason.
    pub fn run(&self, packet: &mut FakePacket) -> Reason {
        let reason = programs::judge(packet, self, |_| {});
        self.count(reason as u32);
        crate::sample::show(packet, self, reason);
        reason
    }

    /// Runs a fragment that was held once more, counting the reason.
    pub fn follow(&self, packet: &mut FakePacket) -> Reason {
        let reason = crate::stage::follow(packet, self);
        self.count(reason as u32);
        crate::sample::show(packet, self, reason);
        reason
    }

    /// Sets the bit of an address that concerns the data plane.
    pub fn concern<A: Address>(&self, address: A) {
        let (word, mask) = filter::place(address.filter_bit());
        let before = self.filter.get(&word).unwrap_or_default();
        self.filter.put(word, before | mask);
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

    fn bucket(self, index: u32) -> Option<Shared<u64>> {
        self.buckets.element(index, index < maps::BUCKETS_ENTRIES)
    }

    fn filter(self, word: u32) -> u64 {
        self.filter.get(&word).unwrap_or_default()
    }

    fn pace(self) -> Option<Shared<Pace>> {
        self.pace.element((), true)
    }

    fn real(self, id: u16) -> Option<Shared<Real>> {
        self.reals.element(id, u32::from(id) < maps::REALS_ENTRIES)
    }

    fn load(self, id: u16) -> Option<Shared<Load>> {
        self.loads.element(id, u32::from(id) < maps::REALS_ENTRIES)
    }

    fn traffic(self, id: u16) -> Option<Shared<Traffic>> {
        self.traffic
            .element(id, u32::from(id) < maps::REALS_ENTRIES)
    }

    fn timeouts(self, service: u16) -> Option<Shared<Timeouts>> {
        self.timeouts
            .element(service, u32::from(service) < maps::SERVICES_MAX)
    }

    fn slot(self, index: u32) -> Option<u32> {
        (index < maps::SLOTS_ENTRIES).then(|| self.slots.get(&index).unwrap_or_default())
    }

    fn turn(self, service: u16, members: u32) -> u32 {
        let now = self.turns.get(&service).unwrap_or_default();
        self.turns.put(service, now.wrapping_add(1));
        now.checked_rem(members).unwrap_or_default()
    }

    fn chosen(self, every: u32) -> bool {
        every == 1
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

    fn sample(self, fill: impl FnOnce(&mut Sample) -> bool) -> bool {
        let mut sample = Sample {
            at_ns: 0,
            ifindex: 0,
            reason: 0,
            len: 0,
            kept: 0,
            frame: [0; SAMPLE_BYTES],
        };
        let keep = fill(&mut sample);
        if keep {
            self.samples.borrow_mut().push(sample);
        }
        keep
    }

    fn early(self, fill: impl FnOnce(&mut EarlyFragment) -> bool) -> bool {
        let mut early = EarlyFragment {
            at_ns: 0,
            ifindex: 0,
            len: 0,
            src: Addr6::default(),
            dst: Addr6::default(),
            id: 0,
            proto: 0,
            family: 0,
            pad: 0,
            frame: [0; EARLY_BYTES],
        };
        let mut held = self.early.borrow_mut();
        let keep = held.len() < self.early_max.get() && fill(&mut early);
        if keep {
            held.push(early);
        }
        keep
    }

    fn count(self, index: u32) {
        if let Some(counter) = self.counters.borrow_mut().get_mut(index as usize) {
            *counter += 1;
        }
    }
}

macro_rules! flows {
    ($address:ty, $family:ident, $full:ident) => {
        impl Flows<$address> for &FakeTables {
            fn service(self, key: &ServiceKey<$address>) -> Option<Shared<Service>> {
                self.$family.services.share(key)
            }

            fn return_path(
                self,
                key: &ServiceKey<$address>,
            ) -> Option<Shared<ReturnPath<$address>>> {
                self.$family.return_paths.share(key)
            }

            fn conn(self, key: &ConnKey<$address>) -> Option<Shared<Conn<$address>>> {
                self.$family.conns.share(key)
            }

            fn add_conn(
                self,
                key: &ConnKey<$address>,
                value: &Conn<$address>,
            ) -> Result<(), InsertError> {
                let interruption = self.interruptions.borrow_mut().pop();
                if let Some(interruption) = interruption {
                    interruption(self);
                }
                if self.$family.conns.get(key).is_some() {
                    return Err(InsertError::Exists);
                }
                if self.$family.conns.len() >= self.conns_max.get() {
                    return Err(InsertError::Full);
                }
                self.$family.conns.put(*key, *value);
                Ok(())
            }

            fn remove_conn(self, key: &ConnKey<$address>) -> bool {
                self.$family.conns.remove(key)
            }

            fn embryo(self, key: &EmbryoKey<$address>) -> Option<Shared<Embryo<$address>>> {
                self.$family.embryos.share(key)
            }

            fn put_embryo(self, key: &EmbryoKey<$address>, value: &Embryo<$address>) -> bool {
                if self.embryos_full.get() {
                    return false;
                }
                self.$family.embryos.put(*key, *value);
                true
            }

            fn remove_embryo(self, key: &EmbryoKey<$address>) {
                self.$family.embryos.remove(key);
            }

            fn fragments(self, key: &FragmentKey<$address>) -> Option<Shared<Conn<$address>>> {
                self.$family.fragments.share(key)
            }

            fn put_fragments(self, key: &FragmentKey<$address>, value: &Conn<$address>) -> bool {
                self.$family.fragments.put(*key, *value);
                true
            }

            fn persist(self, key: &PersistKey<$address>) -> Option<Shared<Persist>> {
                self.$family.persist.share(key)
            }

            fn put_persist(self, key: &PersistKey<$address>, value: &Persist) -> bool {
                self.$family.persist.put(*key, *value);
                true
            }

            fn event(self, fill: impl FnOnce(&mut ConnEvent<$address>)) -> bool {
                let mut events = self.$family.events.borrow_mut();
                if events.len() >= self.events_max.get() {
                    return false;
                }
                let mut event = ConnEvent::default();
                fill(&mut event);
                events.push(event);
                true
            }

            fn table_full(self) -> bool {
                self.config.get(&()).is_some_and(|config| config.$full != 0)
            }

            fn work(self) -> Option<Shared<Work<$address>>> {
                let flows = &self.$family;
                let packet = flows.packets.get();
                flows.packets.set(packet.wrapping_add(1));
                let work = flows.works.element(packet % WORKS, true)?;
                work.update(|work| *work = Work::default());
                Some(work)
            }
        }
    };
}

flows!(u32, v4, table_full);
flows!(Addr6, v6, table_full6);
