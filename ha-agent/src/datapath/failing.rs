//! A data plane that fails at moments drawn from a seed, to test what its users do then.

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ha_common::conn::Persist;
use ha_common::control::Config;
use ha_common::event::{EarlyFragment, Evidence, Sample};
use ha_common::service::{Load, LocalAddr, Real, Service, Timeouts, Traffic};

use super::family::{ClientKey, FlowEntry, FlowKey, ListenKey, ReturnRoute};
use super::pair::PairTables;
use super::{Cursor, Datapath, DatapathError, Filter, Scan};
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// Wraps a data plane and makes some of its operations fail before they reach it.
pub struct Failing<D> {
    inner: D,
    rng: Mutex<Rng>,
    per_thousand: u64,
}

impl<D: Datapath> Failing<D> {
    /// Makes `per_thousand` of a thousand operations on `inner` fail.
    pub fn new(inner: D, per_thousand: u64, rng: Rng) -> Self {
        Self {
            inner,
            rng: Mutex::new(rng),
            per_thousand,
        }
    }

    /// The data plane behind, which never fails by this wrapper.
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    fn fate(&self, operation: &'static str) -> Result<(), DatapathError> {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        if rng.below(1000) >= self.per_thousand {
            return Ok(());
        }
        Err(DatapathError::Map {
            map: "failing",
            operation,
            source: io::Error::from_raw_os_error(libc::ENOMEM),
        })
    }
}

macro_rules! delegate {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $result:ty;)+) => {
        impl<D: Datapath> Datapath for Failing<D> {
            $(fn $name(&self $(, $arg: $type)*) -> Result<$result, DatapathError> {
                self.fate(stringify!($name))?;
                self.inner.$name($($arg),*)
            })+
        }
    };
}

delegate! {
    fn set_config(&self, config: &Config) -> ();
    fn services(&self) -> Vec<(ListenKey, Service)>;
    fn put_service(&self, key: &ListenKey, service: &Service) -> ();
    fn remove_service(&self, key: &ListenKey) -> ();
    fn timeouts(&self) -> Vec<Timeouts>;
    fn put_timeouts(&self, service: u16, timeouts: &Timeouts) -> ();
    fn reals(&self) -> Vec<Real>;
    fn put_real(&self, id: u16, real: &Real) -> ();
    fn loads(&self) -> Vec<Load>;
    fn put_weight(&self, id: u16, weight: u64) -> ();
    fn set_load(&self, id: u16, connections: u64) -> ();
    fn traffic(&self) -> Vec<Traffic>;
    fn clear_traffic(&self, id: u16) -> ();
    fn put_slots(&self, offset: u32, ids: &[u32]) -> ();
    fn return_paths(&self) -> Vec<(ListenKey, ReturnRoute)>;
    fn put_return_path(&self, from: &ListenKey, path: &ReturnRoute) -> ();
    fn remove_return_path(&self, from: &ListenKey) -> ();
    fn addrs(&self) -> Vec<(IpAddr, LocalAddr)>;
    fn put_addr(&self, addr: IpAddr, value: LocalAddr) -> ();
    fn remove_addr(&self, addr: IpAddr) -> ();
    fn filter(&self) -> Filter;
    fn set_filter(&self, filter: &Filter) -> ();
    fn set_pair(&self, tables: &PairTables) -> ();
    fn evidence(&self) -> Vec<Evidence>;
    fn samples(&self) -> Vec<Sample>;
    fn early(&self) -> Vec<EarlyFragment>;
    fn first_came(&self, early: &EarlyFragment) -> bool;
    fn follow(&self, early: &EarlyFragment) -> ();
    fn get_conn(&self, key: &FlowKey) -> Option<FlowEntry>;
    fn put_conns(&self, entries: &[(FlowKey, FlowEntry)]) -> ();
    fn remove_conns(&self, keys: &[FlowKey]) -> usize;
    fn scan_conns(&self, cursor: Cursor, max: usize) -> Scan;
    fn expire(&self, keys: &[FlowKey]) -> usize;
    fn half_open(&self, since: Instant) -> u64;
    fn clients(&self) -> Vec<(ClientKey, Persist)>;
    fn put_clients(&self, clients: &[(ClientKey, Persist)]) -> ();
    fn remove_clients(&self, clients: &[ClientKey]) -> usize;
    fn forget_clients(&self, real: u16) -> usize;
    fn counters(&self) -> Vec<u64>;
    fn settle(&self) -> ();
}
