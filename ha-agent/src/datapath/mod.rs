//! The only way from the agent to the BPF maps.
//!
//! [`Datapath`] is what the rest of the agent sees. Behind it are [`bpf`], the kernel's maps;
//! [`fake`], maps in memory with the same semantics; and [`failing`], which makes any of them fail at
//! moments drawn from a seed. [`load`] brings the XDP program and its maps into the kernel and takes
//! over what a previous agent left there; [`gate`] is the fence, which is written without a system call.
//!
//! Deliberately absent: decisions. What belongs into the maps is planned by [`crate::services`] and
//! by the replication machine; here it is only carried out.

pub mod attach;
pub mod bpf;
pub mod bpffs;
pub mod failing;
pub mod fake;
pub mod gate;
pub mod load;
mod milestones;
pub mod pair;
mod successor;
pub mod sys;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::pair::PairTables;
use crate::proto::time::Instant;
use ha_common::conn::{Conn4, ConnKey4, ConnState};
use ha_common::control::Config;
use ha_common::event::Evidence;
use ha_common::proto;
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};

/// Most keys [`Datapath::expire`] hands to the kernel in one run of the janitor program.
pub const EXPIRE_MAX: usize = 64;

/// An operation on the data plane that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel refused an operation on a map.
    #[error("{operation} in map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A map has no room left.
    #[error("map {map} is full ({done} of the entries were stored)")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// How many entries of the request were stored before there was no room left.
        done: usize,
    },
    /// A program could not be run.
    #[error("running program {program}: {source}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where a scan of the connection table stands; 0 is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u32);

/// A piece of the connection table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Entries of both directions, in the table's order.
    pub entries: Vec<(ConnKey4, Conn4)>,
    /// Where to go on; `None` at the end of the table.
    pub next: Option<Cursor>,
}

/// The maps of the data plane.
///
/// Every operation is idempotent: removing what is not there succeeds, and storing the same again
/// changes nothing. Implementations may be called from several threads at once.
pub trait Datapath: Send + Sync {
    /// Replaces the data plane's settings.
    fn set_config(&self, config: &Config) -> Result<(), DatapathError>;

    /// All virtual services.
    fn services(&self) -> Result<Vec<(ServiceKey4, Service)>, DatapathError>;
    /// Stores a virtual service; packets see the old value or the new one.
    fn put_service(&self, key: &ServiceKey4, service: &Service) -> Result<(), DatapathError>;
    /// Removes a virtual service.
    fn remove_service(&self, key: &ServiceKey4) -> Result<(), DatapathError>;

    /// All real servers, indexed by id, unused ones included.
    fn reals(&self) -> Result<Vec<Real>, DatapathError>;
    /// Stores a real server.
    fn put_real(&self, id: u16, real: &Real) -> Result<(), DatapathError>;

    /// Stores real-server ids from `offset` on.
    fn put_slots(&self, offset: u32, ids: &[u32]) -> Result<(), DatapathError>;

    /// All return paths.
    fn return_paths(&self) -> Result<Vec<(ServiceKey4, ReturnPath4)>, DatapathError>;
    /// Stores where packets of a real server that belong to no known connection go.
    fn put_return_path(&self, from: &ServiceKey4, path: &ReturnPath4) -> Result<(), DatapathError>;
    /// Removes a return path.
    fn remove_return_path(&self, from: &ServiceKey4) -> Result<(), DatapathError>;

    /// All addresses the data plane knows, in network byte order.
    fn addrs(&self) -> Result<Vec<(u32, LocalAddr)>, DatapathError>;
    /// Tells what an address (network byte order) is to this node.
    fn put_addr(&self, addr: u32, value: LocalAddr) -> Result<(), DatapathError>;
    /// Forgets an address.
    fn remove_addr(&self, addr: u32) -> Result<(), DatapathError>;

    /// Makes these the IPv6 addresses that the data plane knows, and no others.
    fn set_addrs6(&self, addrs: &[(Addr6, LocalAddr)]) -> Result<(), DatapathError>;

    /// Replaces what the data plane knows of the pair. An advertisement that is handled meanwhile may be
    /// dropped.
    fn set_pair(&self, tables: &PairTables) -> Result<(), DatapathError>;
    /// What the data plane has shown since the last call, oldest first. Nobody is woken for it: ask
    /// now and then.
    fn evidence(&self) -> Result<Vec<Evidence>, DatapathError>;

    /// One entry of the connection table.
    fn get_conn(&self, key: &ConnKey4) -> Result<Option<Conn4>, DatapathError>;
    /// Stores entries, replacing what is there. [`DatapathError::Full`] tells how many were stored.
    fn put_conns(&self, entries: &[(ConnKey4, Conn4)]) -> Result<(), DatapathError>;
    /// Removes entries, in any order, and tells how many were there.
    fn remove_conns(&self, keys: &[ConnKey4]) -> Result<usize, DatapathError>;
    /// A piece of the connection table of about `max` entries.
    ///
    /// An entry that is there from the first piece to the last is seen at least once; others may or
    /// may not be.
    fn scan_conns(&self, cursor: Cursor, max: usize) -> Result<Scan, DatapathError>;
    /// Has the kernel look at the connections with these forward keys again and delete, in both
    /// directions, those whose idle time is over. Tells how many connections were deleted.
    ///
    /// Only the kernel can decide: a packet may arrive between the scan and the deletion.
    fn expire(&self, keys: &[ConnKey4]) -> Result<usize, DatapathError>;

    /// Half-open connections whose last packet is younger than `since`.
    fn half_open(&self, since: Instant) -> Result<u64, DatapathError>;

    /// Counters summed over all CPUs: the reasons in their order, then the tallies.
    fn counters(&self) -> Result<Vec<u64>, DatapathError>;

    /// Returns once no packet is being handled that may have seen what was replaced before.
    fn settle(&self) -> Result<(), DatapathError>;
}

/// Removes connections in both directions, given their forward keys, and tells how many entries were
/// there.
///
/// A reverse entry that meanwhile belongs to another connection (the client's port was used again
/// through another service) stays.
pub fn remove_connections(
    datapath: &dyn Datapath,
    forward: &[ConnKey4],
) -> Result<usize, DatapathError> {
    let mut keys = Vec::with_capacity(forward.len() * 2);
    for key in forward {
        let Some(conn) = datapath.get_conn(key)? else {
            continue;
        };
        keys.push(*key);
        let partner = conn.partner_key(key);
        if let Some(reverse) = datapath.get_conn(&partner)?
            && reverse.partner_key(&partner) == *key
        {
            keys.push(partner);
        }
    }
    datapath.remove_conns(&keys)
}

/// Idle time after which an established TCP connection is forgotten (as long as IPVS waits).
pub const TCP_TIMEOUT: Duration = Duration::from_mins(15);
/// The same once one end has closed.
pub const CLOSING_TIMEOUT: Duration = Duration::from_mins(2);
/// The same once both ends have closed, or after a reset.
pub const CLOSED_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for UDP.
pub const UDP_TIMEOUT: Duration = Duration::from_mins(2);

/// Settings of a data plane without replication, with the usual idle times.
pub fn default_config(vhid: u8) -> Config {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Config {
        vhid: u32::from(vhid),
        table_full: 0,
        emit_events: 0,
        pad: 0,
        tcp_timeout_ns: nanos(TCP_TIMEOUT),
        closing_timeout_ns: nanos(CLOSING_TIMEOUT),
        closed_timeout_ns: nanos(CLOSED_TIMEOUT),
        udp_timeout_ns: nanos(UDP_TIMEOUT),
    }
}

/// Idle time after which a connection may be deleted, as the janitor program computes it.
pub(crate) fn idle_timeout_ns(config: &Config, key: &ConnKey4, state: u8) -> u64 {
    if key.proto != u32::from(proto::TCP) {
        return config.udp_timeout_ns;
    }
    match ConnState::from_u8(state) {
        Some(ConnState::ClientClosing | ConnState::ServerClosing) => config.closing_timeout_ns,
        Some(ConnState::TimeWait | ConnState::Closed) => config.closed_timeout_ns,
        Some(ConnState::Established) | None => config.tcp_timeout_ns,
    }
}

/// A data plane together with its settings, which several parts of the agent change.
pub struct Settings {
    datapath: Arc<dyn Datapath>,
    config: Mutex<Config>,
}

impl Settings {
    /// Stores the first settings.
    pub fn new(datapath: Arc<dyn Datapath>, config: Config) -> Result<Self, DatapathError> {
        datapath.set_config(&config)?;
        Ok(Self {
            datapath,
            config: Mutex::new(config),
        })
    }

    /// The data plane.
    pub fn datapath(&self) -> &dyn Datapath {
        &*self.datapath
    }

    /// The settings as they are.
    pub fn get(&self) -> Config {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes some of them.
    pub fn update(&self, change: impl FnOnce(&mut Config)) -> Result<(), DatapathError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = *config;
        change(&mut changed);
        self.datapath.set_config(&changed)?;
        *config = changed;
        drop(config);
        Ok(())
    }
}
