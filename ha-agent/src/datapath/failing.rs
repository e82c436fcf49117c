//! A data plane that fails at moments drawn from a seed, to test what its users do then.

use std::io;
use std::sync::{Mutex, PoisonError};

use ha_common::conn::{Conn4, ConnKey4};
use ha_common::control::Config;
use ha_common::event::Evidence;
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};

use super::pair::PairTables;
use super::{Cursor, Datapath, DatapathError, Scan};
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
    fn services(&self) -> Vec<(ServiceKey4, Service)>;
    fn put_service(&self, key: &ServiceKey4, service: &Service) -> ();
    fn remove_service(&self, key: &ServiceKey4) -> ();
    fn reals(&self) -> Vec<Real>;
    fn put_real(&self, id: u16, real: &Real) -> ();
    fn put_slots(&self, offset: u32, ids: &[u32]) -> ();
    fn return_paths(&self) -> Vec<(ServiceKey4, ReturnPath4)>;
    fn put_return_path(&self, from: &ServiceKey4, path: &ReturnPath4) -> ();
    fn remove_return_path(&self, from: &ServiceKey4) -> ();
    fn addrs(&self) -> Vec<(u32, LocalAddr)>;
    fn put_addr(&self, addr: u32, value: LocalAddr) -> ();
    fn remove_addr(&self, addr: u32) -> ();
    fn set_addrs6(&self, addrs: &[(Addr6, LocalAddr)]) -> ();
    fn set_pair(&self, tables: &PairTables) -> ();
    fn evidence(&self) -> Vec<Evidence>;
    fn get_conn(&self, key: &ConnKey4) -> Option<Conn4>;
    fn put_conns(&self, entries: &[(ConnKey4, Conn4)]) -> ();
    fn remove_conns(&self, keys: &[ConnKey4]) -> usize;
    fn scan_conns(&self, cursor: Cursor, max: usize) -> Scan;
    fn expire(&self, keys: &[ConnKey4]) -> usize;
    fn half_open(&self, since: Instant) -> u64;
    fn counters(&self) -> Vec<u64>;
    fn settle(&self) -> ();
}
