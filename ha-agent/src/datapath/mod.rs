//! The only way from the agent to the BPF maps.
//!
//! [`Datapath`] is what the rest of the agent sees. Behind it are [`bpf`], the kernel's maps;
//! [`fake`], maps in memory with the same semantics; and [`failing`], which makes any of them fail at
//! moments drawn from a seed. Addresses are of either family ([`family`]). [`load`] brings the XDP program and its maps into the kernel and takes
//! over what a previous agent left there; [`gate`] is the fence, which is written without a system call;
//! [`inspect`] reads single elements, also of what only the data plane writes.
//!
//! Deliberately absent: decisions. What belongs into the maps is planned by [`crate::services`] and
//! by the replication machine; here it is only carried out.

pub mod attach;
pub mod bpf;
pub mod bpffs;
pub mod failing;
pub mod fake;
pub mod family;
pub mod gate;
pub mod inspect;
pub mod load;
mod milestones;
mod named;
pub mod pair;
mod per_cpu;
mod programs;
pub mod sys;
mod tables;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::family::{ClientKey, FlowEntry, FlowKey, ListenKey, ReturnRoute};
use self::pair::PairTables;
use crate::proto::time::Instant;
use ha_common::conn::{Persist, flags};
use ha_common::control::Config;
use ha_common::event::{EarlyFragment, Evidence, Sample};
use ha_common::filter;
use ha_common::service::{Load, LocalAddr, Real, Service, Timeouts, Traffic};

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

/// Where a scan of the connection tables stands; 0 is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// A piece of the connection tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Entries of both directions, in the tables' order. All are of one family.
    pub entries: Vec<(FlowKey, FlowEntry)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// The words of `ha_filter`: [`filter::WORDS`] of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Box<[u64]>);

impl Default for Filter {
    fn default() -> Self {
        Self(vec![0; filter::WORDS].into())
    }
}

impl Filter {
    /// From words in the map's order; missing ones are zero.
    pub fn from_words(words: &[u64]) -> Self {
        let mut all = Self::default();
        for (to, from) in all.0.iter_mut().zip(words) {
            *to = *from;
        }
        all
    }

    /// The words, in the map's order.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Sets an address's bit.
    pub fn insert(&mut self, address: IpAddr) {
        let (word, mask) = filter::place(family::filter_bit(address));
        if let Some(word) = self.0.get_mut(word as usize) {
            *word |= mask;
        }
    }

    /// Whether an address's bit is set.
    pub fn has(&self, address: IpAddr) -> bool {
        let (word, mask) = filter::place(family::filter_bit(address));
        let word = self.0.get(word as usize);
        word.is_some_and(|word| word & mask != 0)
    }

    /// The bits of both: what is stored while one replaces the other.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let words = self.0.iter().zip(&other.0);
        Self(words.map(|(one, other)| one | other).collect())
    }
}

/// The maps of the data plane.
///
/// Every operation is idempotent: removing what is not there succeeds, and storing the same again
/// changes nothing. Implementations may be called from several threads at once.
pub trait Datapath: Send + Sync {
    /// Replaces the data plane's settings.
    fn set_config(&self, config: &Config) -> Result<(), DatapathError>;

    /// All virtual services, each once for every port.
    fn services(&self) -> Result<Vec<(ListenKey, Service)>, DatapathError>;
    /// Stores a virtual service; packets see the old value or the new one.
    fn put_service(&self, key: &ListenKey, service: &Service) -> Result<(), DatapathError>;
    /// Removes a virtual service.
    fn remove_service(&self, key: &ListenKey) -> Result<(), DatapathError>;

    /// Idle times, indexed by service id, those of unused ids included.
    fn timeouts(&self) -> Result<Vec<Timeouts>, DatapathError>;
    /// Stores a service's idle times.
    fn put_timeouts(&self, service: u16, timeouts: &Timeouts) -> Result<(), DatapathError>;

    /// All real servers, indexed by id, unused ones included.
    fn reals(&self) -> Result<Vec<Real>, DatapathError>;
    /// Stores a real server.
    fn put_real(&self, id: u16, real: &Real) -> Result<(), DatapathError>;

    /// Connections and weights, indexed by real-server id.
    fn loads(&self) -> Result<Vec<Load>, DatapathError>;
    /// Stores a real server's weight, for schedulers that compare loads. Connections that come or go
    /// meanwhile may be miscounted, until [`Self::set_load`] is called.
    fn put_weight(&self, id: u16, weight: u64) -> Result<(), DatapathError>;
    /// Corrects the number of a real server's connections.
    fn set_load(&self, id: u16, connections: u64) -> Result<(), DatapathError>;

    /// What went to and from the real servers, summed over all CPUs and indexed by id.
    fn traffic(&self) -> Result<Vec<Traffic>, DatapathError>;
    /// Counts an id's traffic from zero on.
    fn clear_traffic(&self, id: u16) -> Result<(), DatapathError>;

    /// Stores real-server ids from `offset` on.
    fn put_slots(&self, offset: u32, ids: &[u32]) -> Result<(), DatapathError>;

    /// All return paths.
    fn return_paths(&self) -> Result<Vec<(ListenKey, ReturnRoute)>, DatapathError>;
    /// Stores where packets of a real server that belong to no known connection go.
    fn put_return_path(&self, from: &ListenKey, path: &ReturnRoute) -> Result<(), DatapathError>;
    /// Removes a return path.
    fn remove_return_path(&self, from: &ListenKey) -> Result<(), DatapathError>;

    /// All addresses the data plane knows.
    fn addrs(&self) -> Result<Vec<(IpAddr, LocalAddr)>, DatapathError>;
    /// Tells what an address is to this node.
    fn put_addr(&self, addr: IpAddr, value: LocalAddr) -> Result<(), DatapathError>;
    /// Forgets an address.
    fn remove_addr(&self, addr: IpAddr) -> Result<(), DatapathError>;

    /// The filter as it is.
    fn filter(&self) -> Result<Filter, DatapathError>;
    /// Replaces the filter, word by word. A packet of an address whose bit is missing is nobody's, so
    /// bits are set before what needs them is stored, and cleared after what needed them is gone: whoever
    /// changes it stores the [`Filter::union`] first.
    fn set_filter(&self, filter: &Filter) -> Result<(), DatapathError>;

    /// Replaces what the data plane knows of the pair. An advertisement that is handled meanwhile may be
    /// dropped.
    fn set_pair(&self, tables: &PairTables) -> Result<(), DatapathError>;
    /// What the data plane has shown since the last call, oldest first. Nobody is woken for it: ask
    /// now and then.
    fn evidence(&self) -> Result<Vec<Evidence>, DatapathError>;
    /// The packets it has shown since the last call, oldest first, if it was told to
    /// ([`Config::sample_every`]). Nobody is woken for them either.
    fn samples(&self) -> Result<Vec<Sample>, DatapathError>;

    /// The fragments that were held since the last call, oldest first.
    fn early(&self) -> Result<Vec<EarlyFragment>, DatapathError>;
    /// Whether the first of a fragment's packet has come.
    fn first_came(&self, early: &EarlyFragment) -> Result<bool, DatapathError>;
    /// Runs a fragment once more, as if it came in now: after the first one, or to the kernel.
    fn follow(&self, early: &EarlyFragment) -> Result<(), DatapathError>;

    /// One entry of the connection tables.
    fn get_conn(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError>;
    /// Stores entries, replacing what is there. [`DatapathError::Full`] tells how many of a family were
    /// stored; those of the other one are stored all the same.
    fn put_conns(&self, entries: &[(FlowKey, FlowEntry)]) -> Result<(), DatapathError>;
    /// Removes entries, in any order, and tells how many were there.
    fn remove_conns(&self, keys: &[FlowKey]) -> Result<usize, DatapathError>;
    /// A piece of the connection tables of about `max` entries: IPv4 first, then IPv6.
    ///
    /// An entry that is there from the first piece to the last is seen at least once; others may or
    /// may not be.
    fn scan_conns(&self, cursor: Cursor, max: usize) -> Result<Scan, DatapathError>;
    /// Has the kernel look at the connections with these forward keys again and delete, in both
    /// directions, those whose idle time is over. Tells how many connections were deleted.
    ///
    /// Only the kernel can decide: a packet may arrive between the scan and the deletion.
    fn expire(&self, keys: &[FlowKey]) -> Result<usize, DatapathError>;

    /// Half-open connections of both families whose last packet is younger than `since`.
    fn half_open(&self, since: Instant) -> Result<u64, DatapathError>;

    /// Clients of services with persistence, and their real servers. Old ones are among them: the data
    /// plane looks at their age when they come again.
    fn clients(&self) -> Result<Vec<(ClientKey, Persist)>, DatapathError>;
    /// Stores where clients go.
    fn put_clients(&self, clients: &[(ClientKey, Persist)]) -> Result<(), DatapathError>;
    /// Forgets clients, and tells how many were known.
    fn remove_clients(&self, clients: &[ClientKey]) -> Result<usize, DatapathError>;
    /// Forgets the clients of a real server, so that their next connections are free to go elsewhere, and
    /// tells how many there were.
    fn forget_clients(&self, real: u16) -> Result<usize, DatapathError>;

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
    forward: &[FlowKey],
) -> Result<usize, DatapathError> {
    let mut pairs = Vec::with_capacity(forward.len());
    for key in forward {
        if let Some(conn) = datapath.get_conn(key)? {
            let both_ways = conn.flags & flags::ONE_WAY == 0;
            pairs.push((*key, both_ways.then(|| conn.partner_key(key))));
        }
    }
    remove_pairs(datapath, &pairs)
}

/// Does what [`remove_connections`] does, given the keys of both entries.
pub fn remove_pairs(
    datapath: &dyn Datapath,
    pairs: &[(FlowKey, Option<FlowKey>)],
) -> Result<usize, DatapathError> {
    let mut keys = Vec::with_capacity(pairs.len() * 2);
    for (forward, reverse) in pairs {
        keys.push(*forward);
        if let Some(reverse) = reverse
            && let Some(entry) = datapath.get_conn(reverse)?
            && entry.partner_key(reverse) == *forward
        {
            keys.push(*reverse);
        }
    }
    datapath.remove_conns(&keys)
}

/// A time as the maps hold it.
pub const fn nanos(time: Duration) -> u64 {
    let nanos = time.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// How long a connection may be idle before it may be deleted, as the janitor program computes it.
/// `timeouts` are those of its service, if there is one.
pub(crate) fn idle_ns(timeouts: Option<&Timeouts>, key: &FlowKey, conn: &FlowEntry) -> u64 {
    let known = timeouts.filter(|timeouts| timeouts.established_ns != 0);
    known.unwrap_or(&Timeouts::USUAL).of(key.proto, conn.state)
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
