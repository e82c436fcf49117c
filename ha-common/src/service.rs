//! Virtual services, real servers and addresses, as the data plane sees them.

use crate::checksum;

/// Where a virtual service listens. Network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey<A> {
    /// Shared address.
    pub addr: A,
    /// Port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u16,
}

/// Where an IPv4 service listens.
pub type ServiceKey4 = ServiceKey<u32>;

/// How a virtual service chooses a real server for a new connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Weighted Maglev hash of the client's address and port.
    Mh = 1,
    /// Each real server in turn.
    Rr = 2,
}

impl Scheduler {
    /// The scheduler with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Mh),
            2 => Some(Self::Rr),
            _ => None,
        }
    }
}

/// A virtual service: value of `ha_services4`.
///
/// The agent builds a new Maglev table and member list in the half of `ha_slots` that is not in use
/// and then replaces this value as a whole, so a packet sees the old choice or the new one and never
/// a mixture.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Key of the hash that spreads clients; equal on both nodes, derived from the pair key.
    pub hash_seed: u64,
    /// First Maglev slot in `ha_slots`.
    pub table_offset: u32,
    /// Number of Maglev slots; 0 = no real server accepts new connections.
    pub table_len: u32,
    /// First round-robin member in `ha_slots`.
    pub members_offset: u32,
    /// Number of round-robin members.
    pub members_len: u32,
    /// Service id, local to this node; also the index of its counters and its turn in `ha_turns`.
    pub id: u16,
    /// A [`Scheduler`].
    pub scheduler: u8,
    /// Bits of [`service_flags`].
    pub flags: u8,
    /// Zero.
    pub pad: u32,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// Mid-flow packets of unknown connections are dropped instead of being forwarded by hash.
    /// Set only to measure what replication is worth.
    pub const NO_RESTEER: u8 = 1 << 0;
}

/// State of a real server.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealState {
    /// The id is free.
    Unused = 0,
    /// Takes new connections.
    Up = 1,
    /// Weight 0 or leaving: existing connections live on, no new ones.
    Draining = 2,
    /// Failed its health check.
    Down = 3,
}

impl RealState {
    /// The state with this number; an unknown number counts as unused.
    pub const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Up,
            2 => Self::Draining,
            3 => Self::Down,
            _ => Self::Unused,
        }
    }
}

/// A real server of one virtual service: element of `ha_reals`, indexed by real-server id.
///
/// Local to the node: ids, interfaces and MACs mean nothing to the partner and are never replicated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Real {
    /// Port, network order.
    pub port: u16,
    /// Grows each time the id is given to another real server.
    pub generation: u16,
    /// Interface that leads there; 0 = not known yet.
    pub ifindex: u32,
    /// Next hop's MAC; all zero = not known yet.
    pub mac: [u8; 6],
    /// This node's MAC on `ifindex`.
    pub src_mac: [u8; 6],
    /// A [`RealState`].
    pub state: u8,
    /// 1 if `ifindex`, `mac` and `src_mac` may be used.
    pub hop_known: u8,
    /// Service id this real server belongs to.
    pub service: u16,
    /// Address, of the family of its service; an IPv4 address is the first word.
    pub addr: Addr6,
    /// Zero; no element crosses a cache line.
    pub pad: [u32; 6],
}

impl Real {
    /// Its address.
    #[inline(always)]
    pub fn addr<A: Address>(&self) -> A {
        A::narrow(self.addr)
    }
}

/// Value of `ha_return4`: which service a packet *from* `(real server, port, protocol)` belongs to
/// when no connection entry says so (a server that speaks first after a failover).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReturnPath<A> {
    /// Shared address to translate to, network order.
    pub vip: A,
    /// Shared port, network order.
    pub vport: u16,
    /// Real-server id.
    pub real: u16,
    /// Generation of the id.
    pub real_generation: u16,
    /// Service id.
    pub service: u16,
    /// 1 if two services use this real server and port: the packet cannot be attributed.
    pub ambiguous: u32,
}

/// Value of `ha_return4`.
pub type ReturnPath4 = ReturnPath<u32>;

/// An IP address in map keys and values, in network byte order: a `u32` for IPv4.
pub trait Address: Copy + PartialEq + Default {
    /// What replacing `self` by `new` adds to a one's-complement sum.
    fn delta(self, new: Self) -> u32;
    /// The address as 64 bits for [`crate::hash`]; an IPv4 address keeps all of its bits.
    fn digest(self) -> u64;
    /// The address in a field for either family: an IPv4 address is the first word.
    fn wide(self) -> Addr6;
    /// The address in such a field.
    fn narrow(wide: Addr6) -> Self;
}

impl Address for u32 {
    #[inline(always)]
    fn delta(self, new: Self) -> u32 {
        checksum::delta32(self, new)
    }

    #[inline(always)]
    fn digest(self) -> u64 {
        u64::from(self)
    }

    #[inline(always)]
    fn wide(self) -> Addr6 {
        Addr6 {
            words: [self, 0, 0, 0],
        }
    }

    #[inline(always)]
    fn narrow(wide: Addr6) -> Self {
        let [first, ..] = wide.words;
        first
    }
}

/// An IPv6 address, network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr6 {
    /// Its words.
    pub words: [u32; 4],
}

impl Addr6 {
    /// The address with these bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self { words }
    }
}

/// Value of `ha_addrs4` and `ha_addrs6`: what an address is to this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalAddr {
    /// One of [`addr_kind`].
    pub kind: u32,
    /// The interface on which the data plane itself answers for it, with the virtual MAC. 0: the kernel
    /// answers.
    pub ifindex: u32,
}

/// Values of [`LocalAddr::kind`].
pub mod addr_kind {
    /// None of this node's: what is not in the map.
    pub const NONE: u32 = 0;
    /// This node's own address: its traffic is the kernel's.
    pub const OWN: u32 = 1;
    /// A shared address: answered only while the gate is open.
    pub const SHARED: u32 = 2;
}

const _: () = assert!(size_of::<ServiceKey4>() == 8);
const _: () = assert!(size_of::<Service>() == 32);
const _: () = assert!(size_of::<Real>() == 64);
const _: () = assert!(size_of::<ReturnPath4>() == 16);
const _: () = assert!(size_of::<Addr6>() == 16);
const _: () = assert!(size_of::<LocalAddr>() == 8);
