//! The kernel's maps behind [`Datapath`].

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4};
use ha_common::control::Config;
use ha_common::event::Evidence;
use ha_common::maps;
use ha_common::pair::{Digest, Pair, Peer};
use ha_common::reason::COUNTERS;
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};

use super::milestones::{self, is_milestone};
use super::pair::PairTables;
use super::sys::{self, BatchError, Map, PerCpuCounters, Update};
use super::{Cursor, Datapath, DatapathError, EXPIRE_MAX, Scan};
use crate::proto::time::Instant;

/// Elements fetched by one system call when a whole map is read.
const READ_BATCH: usize = 1024;
/// `MEMBARRIER_CMD_GLOBAL` of `linux/membarrier.h`.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
/// Waited instead where the kernel offers no global barrier: longer than a packet can be in hand.
const SETTLE_FALLBACK: Duration = Duration::from_millis(50);

/// Name of the program that re-checks and deletes idle connections.
pub(crate) const JANITOR: &str = "ha_janitor";

/// The maps in the kernel.
pub struct Bpf {
    config: Map<u32, Config>,
    services: Map<ServiceKey4, Service>,
    reals: Map<u32, Real>,
    slots: Map<u32, u32>,
    return_paths: Map<ServiceKey4, ReturnPath4>,
    addrs: Map<u32, LocalAddr>,
    addrs6: Map<Addr6, LocalAddr>,
    pair: Map<u32, Pair>,
    peers: Map<u32, Peer>,
    digests: Map<u32, Digest>,
    evidence: Mutex<RingBuf<MapData>>,
    conns: Map<ConnKey4, Conn4>,
    embryos: Map<EmbryoKey4, Embryo4>,
    counters: PerCpuCounters,
    janitor: OwnedFd,
}

impl Bpf {
    /// Wraps the maps that `open` returns by name, the janitor program and the ring of evidence.
    pub(crate) fn new(
        open: impl Fn(&'static str) -> Result<OwnedFd, DatapathError>,
        janitor: OwnedFd,
        evidence: RingBuf<MapData>,
    ) -> Result<Self, DatapathError> {
        let conns = typed(maps::CONNS4, &open)?;
        sys::map_info(conns.as_fd())
            .and_then(|info| milestones::place(&conns, info.max_entries))
            .map_err(failed(maps::CONNS4, "update"))?;
        Ok(Self {
            config: typed(maps::CONFIG, &open)?,
            services: typed(maps::SERVICES4, &open)?,
            reals: typed(maps::REALS, &open)?,
            slots: typed(maps::SLOTS, &open)?,
            return_paths: typed(maps::RETURN4, &open)?,
            addrs: typed(maps::ADDRS4, &open)?,
            addrs6: typed(maps::ADDRS6, &open)?,
            pair: typed(maps::PAIR, &open)?,
            peers: typed(maps::PEERS, &open)?,
            digests: typed(maps::DIGESTS, &open)?,
            evidence: Mutex::new(evidence),
            conns,
            embryos: typed(maps::EMBRYO4, &open)?,
            counters: PerCpuCounters::new(open(maps::REASONS)?)
                .map_err(failed(maps::REASONS, "check sizes"))?,
            janitor,
        })
    }
}

impl std::fmt::Debug for Bpf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bpf").finish_non_exhaustive()
    }
}

fn typed<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    open: impl Fn(&'static str) -> Result<OwnedFd, DatapathError>,
) -> Result<Map<K, V>, DatapathError> {
    Map::new(open(name)?).map_err(failed(name, "check sizes"))
}

impl Datapath for Bpf {
    fn set_config(&self, config: &Config) -> Result<(), DatapathError> {
        put(maps::CONFIG, &self.config, &0, config)
    }

    fn services(&self) -> Result<Vec<(ServiceKey4, Service)>, DatapathError> {
        all(maps::SERVICES4, &self.services)
    }

    fn put_service(&self, key: &ServiceKey4, service: &Service) -> Result<(), DatapathError> {
        put(maps::SERVICES4, &self.services, key, service)
    }

    fn remove_service(&self, key: &ServiceKey4) -> Result<(), DatapathError> {
        remove(maps::SERVICES4, &self.services, key)
    }

    fn reals(&self) -> Result<Vec<Real>, DatapathError> {
        let mut entries = all(maps::REALS, &self.reals)?;
        entries.sort_unstable_by_key(|(id, _)| *id);
        Ok(entries.into_iter().map(|(_, real)| real).collect())
    }

    fn put_real(&self, id: u16, real: &Real) -> Result<(), DatapathError> {
        put(maps::REALS, &self.reals, &u32::from(id), real)
    }

    fn put_slots(&self, offset: u32, ids: &[u32]) -> Result<(), DatapathError> {
        let keys: Vec<u32> = (offset..).take(ids.len()).collect();
        self.slots
            .update_batch(&keys, ids)
            .map_err(|error| failed(maps::SLOTS, "update")(error.source))
    }

    fn return_paths(&self) -> Result<Vec<(ServiceKey4, ReturnPath4)>, DatapathError> {
        all(maps::RETURN4, &self.return_paths)
    }

    fn put_return_path(&self, from: &ServiceKey4, path: &ReturnPath4) -> Result<(), DatapathError> {
        put(maps::RETURN4, &self.return_paths, from, path)
    }

    fn remove_return_path(&self, from: &ServiceKey4) -> Result<(), DatapathError> {
        remove(maps::RETURN4, &self.return_paths, from)
    }

    fn addrs(&self) -> Result<Vec<(u32, LocalAddr)>, DatapathError> {
        all(maps::ADDRS4, &self.addrs)
    }

    fn put_addr(&self, addr: u32, value: LocalAddr) -> Result<(), DatapathError> {
        put(maps::ADDRS4, &self.addrs, &addr, &value)
    }

    fn remove_addr(&self, addr: u32) -> Result<(), DatapathError> {
        remove(maps::ADDRS4, &self.addrs, &addr)
    }

    fn set_addrs6(&self, addrs: &[(Addr6, LocalAddr)]) -> Result<(), DatapathError> {
        for (addr, value) in addrs {
            put(maps::ADDRS6, &self.addrs6, addr, value)?;
        }
        for (addr, _) in all(maps::ADDRS6, &self.addrs6)? {
            if !addrs.iter().any(|(wanted, _)| *wanted == addr) {
                remove(maps::ADDRS6, &self.addrs6, &addr)?;
            }
        }
        Ok(())
    }

    fn set_pair(&self, tables: &PairTables) -> Result<(), DatapathError> {
        for (index, peer) in (0..).zip(&tables.peers) {
            put(maps::PEERS, &self.peers, &index, peer)?;
        }
        for (index, digest) in (0..).zip(&tables.digests) {
            put(maps::DIGESTS, &self.digests, &index, digest)?;
        }
        // Last: it is what makes the rest count.
        put(maps::PAIR, &self.pair, &0, &tables.pair)
    }

    fn evidence(&self) -> Result<Vec<Evidence>, DatapathError> {
        let mut ring = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = Vec::new();
        while let Some(item) = ring.next() {
            if item.len() >= size_of::<Evidence>() {
                // SAFETY: as many bytes as the type has, which consists of integers and byte arrays
                // only, so that any bytes are a value; the read does not need alignment.
                records.push(unsafe { item.as_ptr().cast::<Evidence>().read_unaligned() });
            }
        }
        Ok(records)
    }

    fn get_conn(&self, key: &ConnKey4) -> Result<Option<Conn4>, DatapathError> {
        self.conns
            .lookup(key)
            .map_err(failed(maps::CONNS4, "lookup"))
    }

    fn put_conns(&self, entries: &[(ConnKey4, Conn4)]) -> Result<(), DatapathError> {
        let (keys, values): (Vec<ConnKey4>, Vec<Conn4>) = entries.iter().copied().unzip();
        let stored = self.conns.update_batch(&keys, &values);
        stored.map_err(|error| batch_failed(maps::CONNS4, error))
    }

    fn remove_conns(&self, keys: &[ConnKey4]) -> Result<usize, DatapathError> {
        self.conns
            .delete_batch(keys)
            .map_err(|error| failed(maps::CONNS4, "delete")(error.source))
    }

    fn scan_conns(&self, cursor: Cursor, max: usize) -> Result<Scan, DatapathError> {
        let mut next = (cursor != Cursor::default()).then_some(cursor.0);
        let mut entries = Vec::new();
        loop {
            let batch = self
                .conns
                .lookup_batch(next, milestones::STRIDE)
                .map_err(failed(maps::CONNS4, "scan"))?;
            let connections = batch.entries.into_iter();
            entries.extend(connections.filter(|(key, _)| !is_milestone(key)));
            next = batch.next;
            if next.is_none() || entries.len() >= max {
                break;
            }
        }
        Ok(Scan {
            entries,
            next: next.map(Cursor),
        })
    }

    fn expire(&self, keys: &[ConnKey4]) -> Result<usize, DatapathError> {
        let mut expired = 0;
        for keys in keys.chunks(EXPIRE_MAX) {
            // The program's input: a header of one key's size, all zero, then the keys.
            let mut input = vec![ConnKey4::default()];
            input.extend_from_slice(keys);
            let count =
                sys::test_run(self.janitor.as_fd(), sys::bytes_of(&input)).map_err(|source| {
                    DatapathError::Program {
                        program: JANITOR,
                        source,
                    }
                })?;
            expired += count as usize;
        }
        Ok(expired)
    }

    fn half_open(&self, since: Instant) -> Result<u64, DatapathError> {
        let mut found = 0;
        let mut cursor = None;
        loop {
            let batch = self
                .embryos
                .lookup_batch(cursor, READ_BATCH)
                .map_err(failed(maps::EMBRYO4, "scan"))?;
            let young = batch
                .entries
                .iter()
                .filter(|(_, embryo)| embryo.last_seen_ns > since.as_nanos());
            found += young.count() as u64;
            match batch.next {
                Some(next) => cursor = Some(next),
                None => return Ok(found),
            }
        }
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

fn all<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &Map<K, V>,
) -> Result<Vec<(K, V)>, DatapathError> {
    map.all(READ_BATCH).map_err(failed(name, "scan"))
}

fn put<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &Map<K, V>,
    key: &K,
    value: &V,
) -> Result<(), DatapathError> {
    map.update(key, value, Update::Any)
        .map_err(|source| batch_failed(name, BatchError { done: 0, source }))
}

fn remove<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &Map<K, V>,
    key: &K,
) -> Result<(), DatapathError> {
    map.delete(key).map(drop).map_err(failed(name, "delete"))
}

/// An update's error: the kernel says `E2BIG` when a hash map is full.
fn batch_failed(map: &'static str, error: BatchError) -> DatapathError {
    if error.source.raw_os_error() == Some(libc::E2BIG) {
        DatapathError::Full {
            map,
            done: error.done,
        }
    } else {
        failed(map, "update")(error.source)
    }
}

fn failed(map: &'static str, operation: &'static str) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::Map {
        map,
        operation,
        source,
    }
}
