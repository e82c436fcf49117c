//! The data plane's maps in memory: same semantics, same limits, no kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ha_common::conn::{Persist, flags};
use ha_common::control::Config;
use ha_common::event::{EarlyFragment, Evidence, Sample};
use ha_common::maps;
use ha_common::reason::{COUNTERS, Tally};
use ha_common::service::{Addr6, Load, LocalAddr, Real, Service, Timeouts, Traffic};

use super::family::{ClientKey, FlowEntry, FlowKey, Kernel as _, ListenKey, ReturnRoute, map_key};
use super::pair::PairTables;
use super::{Cursor, Datapath, DatapathError, Filter, Scan};
use crate::proto::time::Instant;

/// Buckets of each family that a scan of the connection tables walks through.
const BUCKETS: u64 = 256;

/// A data plane without a kernel.
pub struct Fake {
    state: Mutex<State>,
    connections_max: usize,
}

/// Everything the maps hold.
#[derive(Clone, Debug)]
pub struct State {
    /// `ha_config`.
    pub config: Config,
    /// `ha_services4` and `ha_services6`.
    pub services: BTreeMap<ListenKey, Service>,
    /// `ha_timeouts`.
    pub timeouts: Vec<Timeouts>,
    /// `ha_reals`.
    pub reals: Vec<Real>,
    /// `ha_loads`.
    pub loads: Vec<Load>,
    /// `ha_traffic`, summed.
    pub traffic: Vec<Traffic>,
    /// `ha_slots`.
    pub slots: Vec<u32>,
    /// `ha_return4` and `ha_return6`.
    pub return_paths: BTreeMap<ListenKey, ReturnRoute>,
    /// `ha_addrs4` and `ha_addrs6`.
    pub addrs: BTreeMap<IpAddr, LocalAddr>,
    /// `ha_filter`.
    pub filter: Filter,
    /// `ha_pair`, `ha_peers` and `ha_digests`, once they are written.
    pub pair: Option<PairTables>,
    /// `ha_evidence`.
    pub evidence: Vec<Evidence>,
    /// `ha_samples`.
    pub samples: Vec<Sample>,
    /// `ha_early`.
    pub early: Vec<EarlyFragment>,
    /// Packets of which the first fragment came, by identification.
    pub firsts: BTreeSet<u32>,
    /// Fragments that were run once more.
    pub followed: Vec<EarlyFragment>,
    /// `ha_conns4` and `ha_conns6`.
    pub conns: BTreeMap<FlowKey, FlowEntry>,
    /// `ha_embryo4` and `ha_embryo6`: when each half-open connection last moved.
    pub half_open: Vec<Instant>,
    /// `ha_persist4` and `ha_persist6`.
    pub clients: Vec<(ClientKey, Persist)>,
    /// `ha_reasons`, summed.
    pub counters: Vec<u64>,
    /// The clock that [`Datapath::expire`] compares with.
    pub now_ns: u64,
}

impl Fake {
    /// Empty maps with room for `entries` entries in the connection table of each family.
    pub fn new(entries: usize) -> Self {
        let reals = maps::REALS_ENTRIES as usize;
        Self {
            state: Mutex::new(State {
                config: Config::default(),
                services: BTreeMap::new(),
                timeouts: vec![Timeouts::default(); maps::SERVICES_MAX as usize],
                reals: vec![Real::default(); reals],
                loads: vec![Load::default(); reals],
                traffic: vec![Traffic::default(); reals],
                slots: vec![0; maps::SLOTS_ENTRIES as usize],
                return_paths: BTreeMap::new(),
                addrs: BTreeMap::new(),
                filter: Filter::default(),
                pair: None,
                evidence: Vec::new(),
                samples: Vec::new(),
                early: Vec::new(),
                firsts: BTreeSet::new(),
                followed: Vec::new(),
                conns: BTreeMap::new(),
                half_open: Vec::new(),
                clients: Vec::new(),
                counters: vec![0; COUNTERS],
                now_ns: 0,
            }),
            connections_max: entries,
        }
    }

    /// Looks at, or changes, what the maps hold.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The real-server ids of a service's Maglev table.
    pub fn table(&self, key: &ListenKey) -> Option<&[u32]> {
        let service = self.services.get(key)?;
        self.region(service.table_offset, service.table_len)
    }

    /// The real-server ids of a service's round-robin members.
    pub fn members(&self, key: &ListenKey) -> Option<&[u32]> {
        let service = self.services.get(key)?;
        self.region(service.members_offset, service.members_len)
    }

    fn region(&self, offset: u32, len: u32) -> Option<&[u32]> {
        let start = offset as usize;
        self.slots.get(start..start.checked_add(len as usize)?)
    }

    fn idle_over(&self, key: &FlowKey, conn: &FlowEntry) -> bool {
        let reverse = self.conns.get(&conn.partner_key(key));
        let last = reverse.map_or(conn.last_seen_ns, |r| r.last_seen_ns.max(conn.last_seen_ns));
        let timeouts = self.timeouts.get(usize::from(conn.service));
        let timeout = super::idle_ns(timeouts, key, conn);
        self.now_ns.saturating_sub(last) >= timeout
    }

    fn connections(&self, v6: bool) -> usize {
        let of_family = |key: &&FlowKey| key.dst.is_ipv6() == v6;
        self.conns.keys().filter(of_family).count()
    }
}

fn bucket(key: &FlowKey) -> u64 {
    match key.dst {
        IpAddr::V4(_) => {
            let key = map_key(key, u32::from_ip);
            u64::from(ha_common::hash::flow(0, &key)) % BUCKETS
        }
        IpAddr::V6(_) => {
            let key = map_key(key, Addr6::from_ip);
            BUCKETS + u64::from(ha_common::hash::flow(0, &key)) % BUCKETS
        }
    }
}

impl Datapath for Fake {
    fn set_config(&self, config: &Config) -> Result<(), DatapathError> {
        self.state().config = *config;
        Ok(())
    }

    fn services(&self) -> Result<Vec<(ListenKey, Service)>, DatapathError> {
        Ok(pairs(&self.state().services))
    }

    fn put_service(&self, key: &ListenKey, service: &Service) -> Result<(), DatapathError> {
        let mut state = self.state();
        let same = |found: &&ListenKey| found.addr.is_ipv6() == key.addr.is_ipv6();
        let most = maps::SERVICES_ENTRIES as usize;
        // Counted only where it matters: tests fill the maps.
        let full = || {
            let services = &state.services;
            services.len() >= most && services.keys().filter(same).count() >= most
        };
        if !state.services.contains_key(key) && full() {
            return Err(DatapathError::Full {
                map: by_family(key.addr, maps::SERVICES4, maps::SERVICES6),
                done: 0,
            });
        }
        state.services.insert(*key, *service);
        Ok(())
    }

    fn remove_service(&self, key: &ListenKey) -> Result<(), DatapathError> {
        self.state().services.remove(key);
        Ok(())
    }

    fn timeouts(&self) -> Result<Vec<Timeouts>, DatapathError> {
        Ok(self.state().timeouts.clone())
    }

    fn put_timeouts(&self, service: u16, timeouts: &Timeouts) -> Result<(), DatapathError> {
        set(maps::TIMEOUTS, &mut self.state().timeouts, service, |to| {
            *to = *timeouts;
        })
    }

    fn reals(&self) -> Result<Vec<Real>, DatapathError> {
        Ok(self.state().reals.clone())
    }

    fn put_real(&self, id: u16, real: &Real) -> Result<(), DatapathError> {
        set(maps::REALS, &mut self.state().reals, id, |to| *to = *real)
    }

    fn loads(&self) -> Result<Vec<Load>, DatapathError> {
        Ok(self.state().loads.clone())
    }

    fn put_weight(&self, id: u16, weight: u64) -> Result<(), DatapathError> {
        set(maps::LOADS, &mut self.state().loads, id, |load| {
            load.weight = weight;
        })
    }

    fn set_load(&self, id: u16, connections: u64) -> Result<(), DatapathError> {
        set(maps::LOADS, &mut self.state().loads, id, |load| {
            load.connections = connections;
        })
    }

    fn traffic(&self) -> Result<Vec<Traffic>, DatapathError> {
        Ok(self.state().traffic.clone())
    }

    fn clear_traffic(&self, id: u16) -> Result<(), DatapathError> {
        set(maps::TRAFFIC, &mut self.state().traffic, id, |traffic| {
            *traffic = Traffic::default();
        })
    }

    fn put_slots(&self, offset: u32, ids: &[u32]) -> Result<(), DatapathError> {
        let start = offset as usize;
        match self.state().slots.get_mut(start..start + ids.len()) {
            Some(slots) => {
                slots.copy_from_slice(ids);
                Ok(())
            }
            None => Err(out_of_range(maps::SLOTS)),
        }
    }

    fn return_paths(&self) -> Result<Vec<(ListenKey, ReturnRoute)>, DatapathError> {
        Ok(pairs(&self.state().return_paths))
    }

    fn put_return_path(&self, from: &ListenKey, path: &ReturnRoute) -> Result<(), DatapathError> {
        self.state().return_paths.insert(*from, *path);
        Ok(())
    }

    fn remove_return_path(&self, from: &ListenKey) -> Result<(), DatapathError> {
        self.state().return_paths.remove(from);
        Ok(())
    }

    fn addrs(&self) -> Result<Vec<(IpAddr, LocalAddr)>, DatapathError> {
        Ok(pairs(&self.state().addrs))
    }

    fn put_addr(&self, addr: IpAddr, value: LocalAddr) -> Result<(), DatapathError> {
        self.state().addrs.insert(addr, value);
        Ok(())
    }

    fn remove_addr(&self, addr: IpAddr) -> Result<(), DatapathError> {
        self.state().addrs.remove(&addr);
        Ok(())
    }

    fn filter(&self) -> Result<Filter, DatapathError> {
        Ok(self.state().filter.clone())
    }

    fn set_filter(&self, filter: &Filter) -> Result<(), DatapathError> {
        self.state().filter = filter.clone();
        Ok(())
    }

    fn set_pair(&self, tables: &PairTables) -> Result<(), DatapathError> {
        self.state().pair = Some(tables.clone());
        Ok(())
    }

    fn evidence(&self) -> Result<Vec<Evidence>, DatapathError> {
        Ok(std::mem::take(&mut self.state().evidence))
    }

    fn samples(&self) -> Result<Vec<Sample>, DatapathError> {
        Ok(std::mem::take(&mut self.state().samples))
    }

    fn early(&self) -> Result<Vec<EarlyFragment>, DatapathError> {
        Ok(std::mem::take(&mut self.state().early))
    }

    fn first_came(&self, early: &EarlyFragment) -> Result<bool, DatapathError> {
        Ok(self.state().firsts.contains(&early.id))
    }

    fn follow(&self, early: &EarlyFragment) -> Result<(), DatapathError> {
        self.state().followed.push(*early);
        Ok(())
    }

    fn get_conn(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError> {
        Ok(self.state().conns.get(key).copied())
    }

    fn put_conns(&self, entries: &[(FlowKey, FlowEntry)]) -> Result<(), DatapathError> {
        let mut state = self.state();
        let mut stored = Ok(());
        for (v6, map) in [(false, maps::CONNS4), (true, maps::CONNS6)] {
            let mut room = self.connections_max.saturating_sub(state.connections(v6));
            let entries = entries.iter().filter(|(key, _)| key.dst.is_ipv6() == v6);
            for (done, (key, conn)) in entries.enumerate() {
                if !state.conns.contains_key(key) {
                    let Some(left) = room.checked_sub(1) else {
                        stored = stored.and(Err(DatapathError::Full { map, done }));
                        break;
                    };
                    room = left;
                }
                state.conns.insert(*key, *conn);
            }
        }
        stored
    }

    fn remove_conns(&self, keys: &[FlowKey]) -> Result<usize, DatapathError> {
        let mut state = self.state();
        Ok(keys
            .iter()
            .filter(|key| state.conns.remove(key).is_some())
            .count())
    }

    fn scan_conns(&self, cursor: Cursor, max: usize) -> Result<Scan, DatapathError> {
        let state = self.state();
        let mut scan = Scan::default();
        for at in cursor.0..2 * BUCKETS {
            let piece = state.conns.iter().filter(|(key, _)| bucket(key) == at);
            let before = scan.entries.len();
            scan.entries.extend(piece.map(|(key, conn)| (*key, *conn)));
            let over = scan.entries.len() > max || at == BUCKETS;
            if over && before > 0 {
                scan.entries.truncate(before);
                scan.next = Some(Cursor(at));
                return Ok(scan);
            }
        }
        Ok(scan)
    }

    fn half_open(&self, since: Instant) -> Result<u64, DatapathError> {
        let state = self.state();
        let young = state
            .half_open
            .iter()
            .filter(|last_seen| **last_seen > since);
        Ok(young.count() as u64)
    }

    fn expire(&self, keys: &[FlowKey]) -> Result<usize, DatapathError> {
        let mut state = self.state();
        let mut expired = 0;
        for key in keys {
            let Some(conn) = state.conns.get(key).copied() else {
                continue;
            };
            if conn.flags & flags::REVERSE == 0 && state.idle_over(key, &conn) {
                state.conns.remove(&conn.partner_key(key));
                state.conns.remove(key);
                if let Some(load) = state.loads.get_mut(usize::from(conn.real)) {
                    load.connections = load.connections.saturating_sub(1);
                }
                expired += 1;
            }
        }
        if let Some(tally) = state.counters.get_mut(Tally::Expired.index() as usize) {
            *tally += expired as u64;
        }
        Ok(expired)
    }

    fn clients(&self) -> Result<Vec<(ClientKey, Persist)>, DatapathError> {
        Ok(self.state().clients.clone())
    }

    fn put_clients(&self, clients: &[(ClientKey, Persist)]) -> Result<(), DatapathError> {
        for (key, held) in clients {
            self.remove_clients(&[*key])?;
            self.state().clients.push((*key, *held));
        }
        Ok(())
    }

    fn remove_clients(&self, clients: &[ClientKey]) -> Result<usize, DatapathError> {
        let mut state = self.state();
        let before = state.clients.len();
        state.clients.retain(|(key, _)| !clients.contains(key));
        Ok(before - state.clients.len())
    }

    fn forget_clients(&self, real: u16) -> Result<usize, DatapathError> {
        let mut state = self.state();
        let before = state.clients.len();
        state.clients.retain(|(_, held)| held.real != real);
        Ok(before - state.clients.len())
    }

    fn counters(&self) -> Result<Vec<u64>, DatapathError> {
        Ok(self.state().counters.clone())
    }

    fn settle(&self) -> Result<(), DatapathError> {
        Ok(())
    }
}

fn pairs<K: Copy, V: Copy>(map: &BTreeMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (*key, *value)).collect()
}

const fn by_family(address: IpAddr, v4: &'static str, v6: &'static str) -> &'static str {
    match address {
        IpAddr::V4(_) => v4,
        IpAddr::V6(_) => v6,
    }
}

/// Changes an element of an array.
fn set<T>(
    map: &'static str,
    array: &mut [T],
    index: u16,
    change: impl FnOnce(&mut T),
) -> Result<(), DatapathError> {
    let element = array.get_mut(usize::from(index));
    element.map(change).ok_or_else(|| out_of_range(map))
}

fn out_of_range(map: &'static str) -> DatapathError {
    DatapathError::Map {
        map,
        operation: "update",
        source: std::io::Error::from_raw_os_error(libc::E2BIG),
    }
}
