//! The data plane's maps in memory: same semantics, same limits, no kernel.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ha_common::conn::{Conn4, ConnKey4, flags};
use ha_common::control::Config;
use ha_common::event::Evidence;
use ha_common::maps;
use ha_common::reason::{COUNTERS, Tally};
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};

use super::pair::PairTables;
use super::{Cursor, Datapath, DatapathError, Scan, idle_timeout_ns};
use crate::proto::time::Instant;

/// Buckets a scan of the connection table walks through.
const BUCKETS: u32 = 256;

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
    /// `ha_services4`.
    pub services: BTreeMap<ServiceKey4, Service>,
    /// `ha_reals`.
    pub reals: Vec<Real>,
    /// `ha_slots`.
    pub slots: Vec<u32>,
    /// `ha_return4`.
    pub return_paths: BTreeMap<ServiceKey4, ReturnPath4>,
    /// `ha_addrs4`.
    pub addrs: BTreeMap<u32, LocalAddr>,
    /// `ha_addrs6`.
    pub addrs6: BTreeMap<Addr6, LocalAddr>,
    /// `ha_pair`, `ha_peers` and `ha_digests`, once they are written.
    pub pair: Option<PairTables>,
    /// `ha_evidence`.
    pub evidence: Vec<Evidence>,
    /// `ha_conns4`.
    pub conns: BTreeMap<ConnKey4, Conn4>,
    /// `ha_embryo4`: when each half-open connection last moved.
    pub half_open: Vec<Instant>,
    /// `ha_reasons`, summed.
    pub counters: Vec<u64>,
    /// The clock that [`Datapath::expire`] compares with.
    pub now_ns: u64,
}

impl Fake {
    /// Empty maps with room for `entries` entries in the connection table.
    pub fn new(entries: usize) -> Self {
        Self {
            state: Mutex::new(State {
                config: Config::default(),
                services: BTreeMap::new(),
                reals: vec![Real::default(); maps::REALS_ENTRIES as usize],
                slots: vec![0; maps::SLOTS_ENTRIES as usize],
                return_paths: BTreeMap::new(),
                addrs: BTreeMap::new(),
                addrs6: BTreeMap::new(),
                pair: None,
                evidence: Vec::new(),
                conns: BTreeMap::new(),
                half_open: Vec::new(),
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
    pub fn table(&self, key: &ServiceKey4) -> Option<&[u32]> {
        let service = self.services.get(key)?;
        self.region(service.table_offset, service.table_len)
    }

    /// The real-server ids of a service's round-robin members.
    pub fn members(&self, key: &ServiceKey4) -> Option<&[u32]> {
        let service = self.services.get(key)?;
        self.region(service.members_offset, service.members_len)
    }

    fn region(&self, offset: u32, len: u32) -> Option<&[u32]> {
        let start = offset as usize;
        self.slots.get(start..start.checked_add(len as usize)?)
    }

    fn idle_over(&self, key: &ConnKey4, conn: &Conn4) -> bool {
        let reverse = self.conns.get(&conn.partner_key(key));
        let last = reverse.map_or(conn.last_seen_ns, |r| r.last_seen_ns.max(conn.last_seen_ns));
        let timeout = idle_timeout_ns(&self.config, key, conn.state);
        self.now_ns.saturating_sub(last) >= timeout
    }
}

fn bucket(key: &ConnKey4) -> u32 {
    ha_common::hash::flow(0, key) % BUCKETS
}

impl Datapath for Fake {
    fn set_config(&self, config: &Config) -> Result<(), DatapathError> {
        self.state().config = *config;
        Ok(())
    }

    fn services(&self) -> Result<Vec<(ServiceKey4, Service)>, DatapathError> {
        Ok(self
            .state()
            .services
            .iter()
            .map(|(k, v)| (*k, *v))
            .collect())
    }

    fn put_service(&self, key: &ServiceKey4, service: &Service) -> Result<(), DatapathError> {
        let mut state = self.state();
        let full = state.services.len() >= maps::SERVICES_ENTRIES as usize;
        if full && !state.services.contains_key(key) {
            return Err(DatapathError::Full {
                map: maps::SERVICES4,
                done: 0,
            });
        }
        state.services.insert(*key, *service);
        Ok(())
    }

    fn remove_service(&self, key: &ServiceKey4) -> Result<(), DatapathError> {
        self.state().services.remove(key);
        Ok(())
    }

    fn reals(&self) -> Result<Vec<Real>, DatapathError> {
        Ok(self.state().reals.clone())
    }

    fn put_real(&self, id: u16, real: &Real) -> Result<(), DatapathError> {
        match self.state().reals.get_mut(usize::from(id)) {
            Some(slot) => {
                *slot = *real;
                Ok(())
            }
            None => Err(out_of_range(maps::REALS)),
        }
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

    fn return_paths(&self) -> Result<Vec<(ServiceKey4, ReturnPath4)>, DatapathError> {
        let state = self.state();
        Ok(state.return_paths.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn put_return_path(&self, from: &ServiceKey4, path: &ReturnPath4) -> Result<(), DatapathError> {
        self.state().return_paths.insert(*from, *path);
        Ok(())
    }

    fn remove_return_path(&self, from: &ServiceKey4) -> Result<(), DatapathError> {
        self.state().return_paths.remove(from);
        Ok(())
    }

    fn addrs(&self) -> Result<Vec<(u32, LocalAddr)>, DatapathError> {
        Ok(self.state().addrs.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn put_addr(&self, addr: u32, value: LocalAddr) -> Result<(), DatapathError> {
        self.state().addrs.insert(addr, value);
        Ok(())
    }

    fn remove_addr(&self, addr: u32) -> Result<(), DatapathError> {
        self.state().addrs.remove(&addr);
        Ok(())
    }

    fn set_addrs6(&self, addrs: &[(Addr6, LocalAddr)]) -> Result<(), DatapathError> {
        self.state().addrs6 = addrs.iter().copied().collect();
        Ok(())
    }

    fn set_pair(&self, tables: &PairTables) -> Result<(), DatapathError> {
        self.state().pair = Some(tables.clone());
        Ok(())
    }

    fn evidence(&self) -> Result<Vec<Evidence>, DatapathError> {
        Ok(std::mem::take(&mut self.state().evidence))
    }

    fn get_conn(&self, key: &ConnKey4) -> Result<Option<Conn4>, DatapathError> {
        Ok(self.state().conns.get(key).copied())
    }

    fn put_conns(&self, entries: &[(ConnKey4, Conn4)]) -> Result<(), DatapathError> {
        let mut state = self.state();
        for (done, (key, conn)) in entries.iter().enumerate() {
            if state.conns.len() >= self.connections_max && !state.conns.contains_key(key) {
                return Err(DatapathError::Full {
                    map: maps::CONNS4,
                    done,
                });
            }
            state.conns.insert(*key, *conn);
        }
        Ok(())
    }

    fn remove_conns(&self, keys: &[ConnKey4]) -> Result<usize, DatapathError> {
        let mut state = self.state();
        Ok(keys
            .iter()
            .filter(|key| state.conns.remove(key).is_some())
            .count())
    }

    fn scan_conns(&self, cursor: Cursor, max: usize) -> Result<Scan, DatapathError> {
        let state = self.state();
        let mut scan = Scan::default();
        for at in cursor.0..BUCKETS {
            let piece = state.conns.iter().filter(|(key, _)| bucket(key) == at);
            let before = scan.entries.len();
            scan.entries.extend(piece.map(|(key, conn)| (*key, *conn)));
            if scan.entries.len() > max && before > 0 {
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

    fn expire(&self, keys: &[ConnKey4]) -> Result<usize, DatapathError> {
        let mut state = self.state();
        let mut expired = 0;
        for key in keys {
            let Some(conn) = state.conns.get(key).copied() else {
                continue;
            };
            if conn.flags & flags::REVERSE == 0 && state.idle_over(key, &conn) {
                state.conns.remove(&conn.partner_key(key));
                state.conns.remove(key);
                expired += 1;
            }
        }
        if let Some(tally) = state.counters.get_mut(Tally::Expired.index() as usize) {
            *tally += expired as u64;
        }
        Ok(expired)
    }

    fn counters(&self) -> Result<Vec<u64>, DatapathError> {
        Ok(self.state().counters.clone())
    }

    fn settle(&self) -> Result<(), DatapathError> {
        Ok(())
    }
}

fn out_of_range(map: &'static str) -> DatapathError {
    DatapathError::Map {
        map,
        operation: "update",
        source: std::io::Error::from_raw_os_error(libc::E2BIG),
    }
}
