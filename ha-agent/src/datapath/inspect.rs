//! Single elements of the maps, for whoever asks what the data plane would do with a packet.
//!
//! Unlike [`super::Datapath`] this only reads, also what the data plane alone writes, and keys and values
//! are those of each family's maps: the packet logic is to read them. A look from here leaves no trace in
//! the kernel; not even the order in which half-open connections are evicted changes.

use std::os::fd::OwnedFd;

use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, Persist, PersistKey};
use ha_common::control::{Config, Gate, Pace};
use ha_common::maps;
use ha_common::pair::{Digest, Heard, Pair, Peer};
use ha_common::service::{Addr6, Load, LocalAddr, Real, ReturnPath, Service, ServiceKey};

use super::DatapathError;
use super::bpf::Bpf;
use super::named::{Named, failed};
use super::per_cpu::PerCpu;

/// What an element of a map is; `None` if there is none.
pub type Found<T> = Result<Option<T>, DatapathError>;

/// Elements of the maps that there are once.
pub trait Inspect {
    /// The maps of IPv4.
    fn v4(&self) -> &dyn Remembered<u32>;
    /// The maps of IPv6.
    fn v6(&self) -> &dyn Remembered<Addr6>;
    /// `ha_gate`.
    fn gate(&self) -> Found<Gate>;
    /// `ha_config`.
    fn config(&self) -> Found<Config>;
    /// `ha_pair`.
    fn pair(&self) -> Found<Pair>;
    /// An element of `ha_peers`.
    fn peer(&self, index: u32) -> Found<Peer>;
    /// An element of `ha_digests`.
    fn digest(&self, index: u32) -> Found<Digest>;
    /// An element of `ha_heard`.
    fn heard(&self, link: u32) -> Found<Heard>;
    /// An element of `ha_buckets`.
    fn bucket(&self, index: u32) -> Found<u64>;
    /// A word of `ha_filter`.
    fn filter_word(&self, word: u32) -> Found<u64>;
    /// `ha_pace` of the CPU on which a flow began last: each counts its own.
    fn pace(&self) -> Found<Pace>;
    /// A real server by id.
    fn real(&self, id: u16) -> Found<Real>;
    /// Connections of a real server.
    fn load(&self, id: u16) -> Found<Load>;
    /// An element of `ha_slots`.
    fn slot(&self, index: u32) -> Found<u32>;
    /// Whose turn it is in a service, on the first CPU: each has its own.
    fn turn(&self, service: u16) -> Found<u32>;
}

/// Elements of the maps that there are for each family.
pub trait Remembered<A> {
    /// The virtual service that listens there.
    fn service(&self, key: &ServiceKey<A>) -> Found<Service>;
    /// The service to which packets from that real server and port belong.
    fn return_path(&self, from: &ServiceKey<A>) -> Found<ReturnPath<A>>;
    /// What an address is to this node.
    fn addr(&self, addr: A) -> Found<LocalAddr>;
    /// One direction of a connection.
    fn conn(&self, key: &ConnKey<A>) -> Found<Conn<A>>;
    /// A half-open connection.
    fn embryo(&self, key: &EmbryoKey<A>) -> Found<Embryo<A>>;
    /// Where the fragments of a packet go.
    fn fragments(&self, key: &FragmentKey<A>) -> Found<Conn<A>>;
    /// Where a client's connections go.
    fn persist(&self, key: &PersistKey<A>) -> Found<Persist>;
}

/// The maps that the agent has no other reason to read one by one.
#[derive(Debug)]
pub(super) struct Unwritten {
    gate: Named<u32, Gate>,
    heard: Named<u32, Heard>,
    buckets: Named<u32, u64>,
    pace: PerCpu<Pace>,
    turns: PerCpu<u32>,
}

impl Unwritten {
    /// Wraps the maps that `open` returns by name.
    pub(super) fn open(
        open: impl Fn(&'static str) -> Result<OwnedFd, DatapathError>,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            gate: Named::open(maps::GATE, &open)?,
            heard: Named::open(maps::HEARD, &open)?,
            buckets: Named::open(maps::BUCKETS, &open)?,
            pace: PerCpu::new(open(maps::PACE)?).map_err(failed(maps::PACE, "check sizes"))?,
            turns: PerCpu::new(open(maps::TURNS)?).map_err(failed(maps::TURNS, "check sizes"))?,
        })
    }
}

impl Inspect for Bpf {
    fn v4(&self) -> &dyn Remembered<u32> {
        &self.v4
    }

    fn v6(&self) -> &dyn Remembered<Addr6> {
        &self.v6
    }

    fn gate(&self) -> Found<Gate> {
        self.unwritten.gate.get(&0)
    }

    fn config(&self) -> Found<Config> {
        self.config.get(&0)
    }

    fn pair(&self) -> Found<Pair> {
        self.pair.get(&0)
    }

    fn peer(&self, index: u32) -> Found<Peer> {
        self.peers.get(&index)
    }

    fn digest(&self, index: u32) -> Found<Digest> {
        self.digests.get(&index)
    }

    fn heard(&self, link: u32) -> Found<Heard> {
        self.unwritten.heard.get(&link)
    }

    fn bucket(&self, index: u32) -> Found<u64> {
        self.unwritten.buckets.get(&index)
    }

    fn filter_word(&self, word: u32) -> Found<u64> {
        self.filter.get(&word)
    }

    fn pace(&self) -> Found<Pace> {
        let paces = self.unwritten.pace.get(0);
        let paces = paces.map_err(failed(maps::PACE, "lookup"))?;
        Ok(paces
            .into_iter()
            .max_by_key(|pace| (pace.since_ns, pace.flows)))
    }

    fn real(&self, id: u16) -> Found<Real> {
        self.reals.get(&u32::from(id))
    }

    fn load(&self, id: u16) -> Found<Load> {
        self.loads.get(&u32::from(id))
    }

    fn slot(&self, index: u32) -> Found<u32> {
        self.slots.get(&index)
    }

    fn turn(&self, service: u16) -> Found<u32> {
        let turns = self.unwritten.turns.get(service.into());
        let turns = turns.map_err(failed(maps::TURNS, "lookup"))?;
        Ok(turns.first().copied())
    }
}
