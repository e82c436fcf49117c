//! The kernel's maps behind [`Datapath`].

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::Pod;
use aya::maps::{MapData, RingBuf};
use ha_common::conn::Persist;
use ha_common::control::Config;
use ha_common::event::{EarlyFragment, Evidence, Sample};
use ha_common::pair::{Digest, Pair, Peer};
use ha_common::reason::COUNTERS;
use ha_common::service::{Addr6, Load, LocalAddr, Real, Service, Timeouts, Traffic};
use ha_common::{maps, stage};

use super::family::{ClientKey, FlowEntry, FlowKey, ListenKey, ReturnRoute};
use super::inspect::Unwritten;
use super::named::{Named, failed};
use super::pair::PairTables;
use super::sys::PerCpuCounters;
use super::tables::Tables;
use super::{Cursor, Datapath, DatapathError, Filter, Scan};
use crate::proto::time::Instant;

/// `MEMBARRIER_CMD_GLOBAL` of `linux/membarrier.h`.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
/// Waited instead where the kernel offers no global barrier: longer than a packet can be in hand.
const SETTLE_FALLBACK: Duration = Duration::from_millis(50);
/// From this cursor on the IPv6 table is scanned; below, a cursor is one of the IPv4 table.
const CURSOR6: u64 = 1 << 32;
/// Counters of [`Traffic`].
const TRAFFIC_WORDS: usize = size_of::<Traffic>() / size_of::<u64>();

/// The maps in the kernel.
pub struct Bpf {
    pub(super) v4: Tables<u32>,
    pub(super) v6: Tables<Addr6>,
    pub(super) config: Named<u32, Config>,
    timeouts: Named<u32, Timeouts>,
    pub(super) reals: Named<u32, Real>,
    pub(super) loads: Named<u32, Load>,
    traffic: PerCpuCounters,
    pub(super) slots: Named<u32, u32>,
    pub(super) filter: Named<u32, u64>,
    pub(super) pair: Named<u32, Pair>,
    pub(super) peers: Named<u32, Peer>,
    pub(super) digests: Named<u32, Digest>,
    pub(super) unwritten: Unwritten,
    rings: Rings,
    counters: PerCpuCounters,
    janitor: OwnedFd,
    follow: OwnedFd,
}

/// The programs that the agent runs.
pub(crate) struct Runnable {
    /// Deletes idle connections.
    pub(crate) janitor: OwnedFd,
    /// Sends fragments after the first of their packet.
    pub(crate) follow: OwnedFd,
}

/// The rings that are read through [`Datapath`].
pub(crate) struct Rings {
    /// `ha_evidence`.
    pub(crate) evidence: Mutex<RingBuf<MapData>>,
    /// `ha_samples`.
    pub(crate) samples: Mutex<RingBuf<MapData>>,
    /// `ha_early`.
    pub(crate) early: Mutex<RingBuf<MapData>>,
}

impl Bpf {
    /// Wraps the maps that `open` returns by name, the programs to run and the rings.
    pub(crate) fn new(
        open: impl Fn(&'static str) -> Result<OwnedFd, DatapathError>,
        programs: Runnable,
        rings: Rings,
    ) -> Result<Self, DatapathError> {
        let per_cpu = |name, words| {
            PerCpuCounters::new(open(name)?, words).map_err(failed(name, "check sizes"))
        };
        Ok(Self {
            v4: Tables::open(&open)?,
            v6: Tables::open(&open)?,
            config: Named::open(maps::CONFIG, &open)?,
            timeouts: Named::open(maps::TIMEOUTS, &open)?,
            reals: Named::open(maps::REALS, &open)?,
            loads: Named::open(maps::LOADS, &open)?,
            traffic: per_cpu(maps::TRAFFIC, TRAFFIC_WORDS)?,
            slots: Named::open(maps::SLOTS, &open)?,
            filter: Named::open(maps::FILTER, &open)?,
            pair: Named::open(maps::PAIR, &open)?,
            peers: Named::open(maps::PEERS, &open)?,
            digests: Named::open(maps::DIGESTS, &open)?,
            unwritten: Unwritten::open(&open)?,
            rings,
            counters: per_cpu(maps::REASONS, 1)?,
            janitor: programs.janitor,
            follow: programs.follow,
        })
    }

    fn update_load(&self, id: u16, change: impl FnOnce(&mut Load)) -> Result<(), DatapathError> {
        let id = u32::from(id);
        let mut load = self.loads.get(&id)?.unwrap_or_default();
        change(&mut load);
        self.loads.put(&id, &load)
    }
}

impl std::fmt::Debug for Bpf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bpf").finish_non_exhaustive()
    }
}

/// Calls a method of the tables of the family that an address has.
macro_rules! of_family {
    ($self:ident, $address:expr, $method:ident($($argument:expr),*)) => {
        match $address {
            IpAddr::V4(_) => $self.v4.$method($($argument),*),
            IpAddr::V6(_) => $self.v6.$method($($argument),*),
        }
    };
}

impl Datapath for Bpf {
    fn set_config(&self, config: &Config) -> Result<(), DatapathError> {
        self.config.put(&0, config)
    }

    fn services(&self) -> Result<Vec<(ListenKey, Service)>, DatapathError> {
        Ok(both(self.v4.services()?, self.v6.services()?))
    }

    fn put_service(&self, key: &ListenKey, service: &Service) -> Result<(), DatapathError> {
        of_family!(self, key.addr, put_service(key, service))
    }

    fn remove_service(&self, key: &ListenKey) -> Result<(), DatapathError> {
        of_family!(self, key.addr, remove_service(key))
    }

    fn timeouts(&self) -> Result<Vec<Timeouts>, DatapathError> {
        self.timeouts.elements()
    }

    fn put_timeouts(&self, service: u16, timeouts: &Timeouts) -> Result<(), DatapathError> {
        self.timeouts.put(&u32::from(service), timeouts)
    }

    fn reals(&self) -> Result<Vec<Real>, DatapathError> {
        self.reals.elements()
    }

    fn put_real(&self, id: u16, real: &Real) -> Result<(), DatapathError> {
        self.reals.put(&u32::from(id), real)
    }

    fn loads(&self) -> Result<Vec<Load>, DatapathError> {
        self.loads.elements()
    }

    fn put_weight(&self, id: u16, weight: u64) -> Result<(), DatapathError> {
        self.update_load(id, |load| load.weight = weight)
    }

    fn set_load(&self, id: u16, connections: u64) -> Result<(), DatapathError> {
        self.update_load(id, |load| load.connections = connections)
    }

    fn traffic(&self) -> Result<Vec<Traffic>, DatapathError> {
        let words = self
            .traffic
            .sums(maps::REALS_ENTRIES as usize)
            .map_err(failed(maps::TRAFFIC, "lookup"))?;
        let of_real = |words: &[u64; TRAFFIC_WORDS]| {
            let [
                connections,
                packets_in,
                bytes_in,
                packets_out,
                bytes_out,
                dropped,
            ] = *words;
            Traffic {
                connections,
                packets_in,
                bytes_in,
                packets_out,
                bytes_out,
                dropped,
            }
        };
        Ok(words.as_chunks().0.iter().map(of_real).collect())
    }

    fn clear_traffic(&self, id: u16) -> Result<(), DatapathError> {
        let cleared = self.traffic.clear(u32::from(id));
        cleared.map_err(failed(maps::TRAFFIC, "update"))
    }

    fn put_slots(&self, offset: u32, ids: &[u32]) -> Result<(), DatapathError> {
        self.slots.put_from(offset, ids)
    }

    fn return_paths(&self) -> Result<Vec<(ListenKey, ReturnRoute)>, DatapathError> {
        Ok(both(self.v4.return_paths()?, self.v6.return_paths()?))
    }

    fn put_return_path(&self, from: &ListenKey, path: &ReturnRoute) -> Result<(), DatapathError> {
        of_family!(self, from.addr, put_return_path(from, path))
    }

    fn remove_return_path(&self, from: &ListenKey) -> Result<(), DatapathError> {
        of_family!(self, from.addr, remove_return_path(from))
    }

    fn addrs(&self) -> Result<Vec<(IpAddr, LocalAddr)>, DatapathError> {
        Ok(both(self.v4.addrs()?, self.v6.addrs()?))
    }

    fn put_addr(&self, addr: IpAddr, value: LocalAddr) -> Result<(), DatapathError> {
        of_family!(self, addr, put_addr(addr, value))
    }

    fn remove_addr(&self, addr: IpAddr) -> Result<(), DatapathError> {
        of_family!(self, addr, remove_addr(addr))
    }

    fn filter(&self) -> Result<Filter, DatapathError> {
        Ok(Filter::from_words(&self.filter.elements()?))
    }

    fn set_filter(&self, filter: &Filter) -> Result<(), DatapathError> {
        self.filter.put_from(0, filter.words())
    }

    fn set_pair(&self, tables: &PairTables) -> Result<(), DatapathError> {
        self.peers.put_from(0, &tables.peers)?;
        self.digests.put_from(0, &tables.digests)?;
        // Last: it is what makes the rest count.
        self.pair.put(&0, &tables.pair)
    }

    fn evidence(&self) -> Result<Vec<Evidence>, DatapathError> {
        Ok(drain(&self.rings.evidence))
    }

    fn samples(&self) -> Result<Vec<Sample>, DatapathError> {
        Ok(drain(&self.rings.samples))
    }

    fn early(&self) -> Result<Vec<EarlyFragment>, DatapathError> {
        Ok(drain(&self.rings.early))
    }

    fn first_came(&self, early: &EarlyFragment) -> Result<bool, DatapathError> {
        match early.family {
            4 => self.v4.first_came(early),
            _ => self.v6.first_came(early),
        }
    }

    fn follow(&self, early: &EarlyFragment) -> Result<(), DatapathError> {
        let frame = early.frame.get(..early.len as usize).unwrap_or_default();
        let run = super::sys::receive(self.follow.as_fd(), frame, early.ifindex);
        run.map_err(|source| DatapathError::Program {
            program: stage::FOLLOW,
            source,
        })
    }

    fn get_conn(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError> {
        of_family!(self, key.dst, get_conn(key))
    }

    fn put_conns(&self, entries: &[(FlowKey, FlowEntry)]) -> Result<(), DatapathError> {
        // A table that is full keeps nothing from the other one.
        let (v4, v6) = (self.v4.put_conns(entries), self.v6.put_conns(entries));
        v4.and(v6)
    }

    fn remove_conns(&self, keys: &[FlowKey]) -> Result<usize, DatapathError> {
        Ok(self.v4.remove_conns(keys)? + self.v6.remove_conns(keys)?)
    }

    fn scan_conns(&self, cursor: Cursor, max: usize) -> Result<Scan, DatapathError> {
        // A bucket's number fits 32 bits; 0 is the beginning.
        let from = Some(cursor.0 as u32).filter(|bucket| *bucket != 0);
        if cursor.0 < CURSOR6 {
            let (entries, next) = self.v4.scan_conns(from, max)?;
            let next = Some(Cursor(next.map_or(CURSOR6, u64::from)));
            Ok(Scan { entries, next })
        } else {
            let (entries, next) = self.v6.scan_conns(from, max)?;
            let next = next.map(|next| Cursor(CURSOR6 | u64::from(next)));
            Ok(Scan { entries, next })
        }
    }

    fn expire(&self, keys: &[FlowKey]) -> Result<usize, DatapathError> {
        let janitor = self.janitor.as_fd();
        Ok(Tables::<u32>::expire(janitor, keys)? + Tables::<Addr6>::expire(janitor, keys)?)
    }

    fn half_open(&self, since: Instant) -> Result<u64, DatapathError> {
        Ok(self.v4.half_open(since)? + self.v6.half_open(since)?)
    }

    fn clients(&self) -> Result<Vec<(ClientKey, Persist)>, DatapathError> {
        Ok(both(self.v4.clients()?, self.v6.clients()?))
    }

    fn put_clients(&self, clients: &[(ClientKey, Persist)]) -> Result<(), DatapathError> {
        self.v4.put_clients(clients)?;
        self.v6.put_clients(clients)
    }

    fn remove_clients(&self, clients: &[ClientKey]) -> Result<usize, DatapathError> {
        Ok(self.v4.remove_clients(clients)? + self.v6.remove_clients(clients)?)
    }

    fn forget_clients(&self, real: u16) -> Result<usize, DatapathError> {
        Ok(self.v4.forget_clients(real)? + self.v6.forget_clients(real)?)
    }

    fn counters(&self) -> Result<Vec<u64>, DatapathError> {
        self.counters
            .sums(COUNTERS)
            .map_err(failed(maps::REASONS, "lookup"))
    }

    fn settle(&self) -> Result<(), DatapathError> {
        // The global barrier waits for an RCU grace period, and XDP programs run inside read-side
        // critical sections. It is refused on kernels with full tickless CPUs.
        // SAFETY: a system call without pointers.
        let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
        if result != 0 {
            std::thread::sleep(SETTLE_FALLBACK);
        }
        Ok(())
    }
}

fn both<T>(mut v4: Vec<T>, v6: Vec<T>) -> Vec<T> {
    v4.extend(v6);
    v4
}

/// Takes all records out of a ring. One that is too short is nobody's.
fn drain<T: Pod>(ring: &Mutex<RingBuf<MapData>>) -> Vec<T> {
    let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
    let mut records = Vec::new();
    while let Some(item) = ring.next() {
        records.extend(super::sys::read_pod::<T>(&item));
    }
    records
}
