//! Virtual services, real servers and addresses, as the data plane sees them.

use crate::conn::ConnState;
use crate::{checksum, filter, proto};

/// Where a virtual service listens. Network byte order. Port 0 is every port that no other service of
/// the address has.
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
/// Where an IPv6 service listens.
pub type ServiceKey6 = ServiceKey<Addr6>;

/// How a virtual service chooses a real server for a new connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Weighted Maglev hash of the client's address and port.
    Mh = 1,
    /// Each real server in turn.
    Rr = 2,
    /// Each real server in turn, as often as its weight says: the member list repeats them.
    Wrr = 3,
    /// The real server with the fewest connections.
    Lc = 4,
    /// The real server with the fewest connections for its weight.
    Wlc = 5,
    /// Weighted Maglev hash of the client's address alone.
    Sh = 6,
}

impl Scheduler {
    /// The scheduler with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Mh),
            2 => Some(Self::Rr),
            3 => Some(Self::Wrr),
            4 => Some(Self::Lc),
            5 => Some(Self::Wlc),
            6 => Some(Self::Sh),
            _ => None,
        }
    }

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mh => "mh",
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sh => "sh",
        }
    }

    /// Whether the choice follows from packet and configuration alone, so that the partner makes the
    /// same.
    pub const fn is_hash(self) -> bool {
        matches!(self, Self::Mh | Self::Sh)
    }
}

/// How packets reach the real servers of a service.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Forwarding {
    /// The destination is translated; answers come back through the balancer.
    #[default]
    Nat = 0,
    /// Source and destination are translated; answers come back whatever route real servers have.
    FullNat = 1,
    /// The packet keeps its addresses and goes to the real server's Ethernet address; answers go
    /// straight to the client.
    Dsr = 2,
    /// The packet goes to the real server inside another one (RFC 2003, RFC 2473); answers go straight
    /// to the client.
    Tunnel = 3,
}

impl Forwarding {
    /// The method with this number; an unknown number counts as NAT.
    pub const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::FullNat,
            2 => Self::Dsr,
            3 => Self::Tunnel,
            _ => Self::Nat,
        }
    }

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full_nat",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
        }
    }
}

/// A virtual service: value of `ha_services4`.
///
/// The agent builds a new Maglev table and member list in a part of `ha_slots` that is not in use
/// and then replaces this value as a whole, so a packet sees the old choice or the new one and never
/// a mixture. In front of each table stands its length.
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
    /// Service id, local to this node; also the index of its turn in `ha_turns` and of its element in
    /// `ha_timeouts`.
    pub id: u16,
    /// A [`Scheduler`].
    pub scheduler: u8,
    /// Bits of [`service_flags`].
    pub flags: u8,
    /// Id of the real server that takes what nobody else may take; 0 = none.
    pub last_resort: u16,
    /// Leading bits of the client's address that make one client for persistence.
    pub persist_prefix: u8,
    /// Zero.
    pub pad: u8,
    /// How long a client without new connections keeps its real server, in seconds; 0 = no persistence.
    pub persist_seconds: u32,
    /// First slot of the Maglev table that was used before; 0 = none, or not any more.
    pub former_offset: u32,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// Mid-flow packets of unknown connections are dropped instead of being forwarded by hash.
    /// Set only to measure what replication is worth.
    pub const NO_RESTEER: u8 = 1 << 0;
}

/// Idle times of a service's connections: element of `ha_timeouts`, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP connections; 0 = no such service.
    pub established_ns: u64,
    /// TCP connections in which one end has sent FIN.
    pub closing_ns: u64,
    /// TCP connections that both ends have closed, or that were reset.
    pub closed_ns: u64,
    /// UDP flows.
    pub udp_ns: u64,
}

impl Timeouts {
    /// Those of a service that says nothing else; established connections live as long as with IPVS.
    pub const USUAL: Self = Self {
        established_ns: 900_000_000_000,
        closing_ns: 120_000_000_000,
        closed_ns: 30_000_000_000,
        udp_ns: 120_000_000_000,
    };

    /// How long a connection in this state may be idle.
    #[inline(always)]
    pub const fn of(&self, protocol: u32, state: u8) -> u64 {
        if protocol != proto::TCP as u32 {
            return self.udp_ns;
        }
        match ConnState::from_u8(state) {
            Some(ConnState::ClientClosing | ConnState::ServerClosing) => self.closing_ns,
            Some(ConnState::TimeWait | ConnState::Closed) => self.closed_ns,
            Some(ConnState::Established) | None => self.established_ns,
        }
    }
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
    /// Longest IP packet that is known to fit through `ifindex`, and through every other interface of
    /// the pair; what is longer is looked at more closely.
    pub mtu: u16,
    /// A [`Forwarding`].
    pub forwarding: u8,
    /// Bits of [`real_flags`].
    pub flags: u8,
    /// Connections it may have; 0 = no limit.
    pub connections_max: u32,
    /// Source of what is sent there where that is not the client: of the outer header (tunnel), or in
    /// the client's place (full NAT).
    pub source: Addr6,
}

/// Bits of [`Real::flags`].
pub mod real_flags {
    /// While it is down, packets of its connections are answered with a reset; else they still go there.
    pub const RESET_WHEN_DOWN: u8 = 1 << 0;
}

/// Connections of a real server: element of `ha_loads`, by real-server id.
///
/// The data plane adds and subtracts as entries come and go; the agent corrects it by what it finds in
/// the table, which on a standby is all there is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections.
    pub connections: u64,
    /// Weight, for schedulers that compare loads.
    pub weight: u64,
}

/// What went to and from a real server: element of `ha_traffic`, by real-server id, on each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that entered the table.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Their length from the IP header on.
    pub bytes_in: u64,
    /// Packets to clients; 0 where answers do not come back through the balancer.
    pub packets_out: u64,
    /// Their length.
    pub bytes_out: u64,
    /// Packets of its connections that were dropped.
    pub dropped: u64,
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
    /// Shared port, network order; 0: the port the packet comes from.
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
/// Value of `ha_return6`.
pub type ReturnPath6 = ReturnPath<Addr6>;

/// An IP address in map keys and values, in network byte order: a `u32` for IPv4.
pub trait Address: Copy + PartialEq + Default {
    /// What replacing `self` by `new` adds to a one's-complement sum.
    fn delta(self, new: Self) -> u32;
    /// The one's-complement sum of its words, not folded.
    fn sum(self) -> u32;
    /// The address as 64 bits for [`crate::hash`]; an IPv4 address keeps all of its bits.
    fn digest(self) -> u64;
    /// The address in a field for either family: an IPv4 address is the first word.
    fn wide(self) -> Addr6;
    /// The address in such a field.
    fn narrow(wide: Addr6) -> Self;
    /// The address without all but its first `bits`.
    #[must_use]
    fn prefix(self, bits: u8) -> Self;
    /// Its bit in the filter of addresses that concern the data plane ([`crate::filter`]).
    fn filter_bit(self) -> u32;
}

impl Address for u32 {
    #[inline(always)]
    fn delta(self, new: Self) -> u32 {
        checksum::delta32(self, new)
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        (self & 0xffff) + (self >> 16)
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

    #[inline(always)]
    fn prefix(self, bits: u8) -> Self {
        self & mask(bits)
    }

    #[inline(always)]
    fn filter_bit(self) -> u32 {
        filter::bit(self)
    }
}

/// The first `bits` of a word of an address.
#[inline(always)]
const fn mask(bits: u8) -> u32 {
    if bits >= 32 {
        u32::MAX
    } else {
        !(u32::MAX >> bits).to_be()
    }
}

/// An IPv6 address, network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr6 {
    /// Its words.
    pub words: [u32; 4],
}

impl Address for Addr6 {
    #[inline(always)]
    fn delta(self, new: Self) -> u32 {
        let [a, b, c, d] = self.words;
        let [first, second, third, last] = new.words;
        checksum::delta32(a, first)
            + checksum::delta32(b, second)
            + checksum::delta32(c, third)
            + checksum::delta32(d, last)
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let [a, b, c, d] = self.words;
        a.sum() + b.sum() + c.sum() + d.sum()
    }

    #[inline(always)]
    fn digest(self) -> u64 {
        let [a, b, c, d] = self.words;
        let (high, low) = (
            u64::from(a) << 32 | u64::from(b),
            u64::from(c) << 32 | u64::from(d),
        );
        // Neighbours differ in their low halves, networks in their high ones.
        high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low
    }

    #[inline(always)]
    fn wide(self) -> Addr6 {
        self
    }

    #[inline(always)]
    fn narrow(wide: Addr6) -> Self {
        wide
    }

    #[inline(always)]
    fn prefix(self, bits: u8) -> Self {
        let [a, b, c, d] = self.words;
        Self {
            words: [
                a & mask(bits),
                b & mask(bits.saturating_sub(32)),
                c & mask(bits.saturating_sub(64)),
                d & mask(bits.saturating_sub(96)),
            ],
        }
    }

    #[inline(always)]
    fn filter_bit(self) -> u32 {
        let [a, b, c, d] = self.words;
        filter::bit(a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d)
    }
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
const _: () = assert!(size_of::<ServiceKey6>() == 20);
const _: () = assert!(size_of::<Service>() == 40);
const _: () = assert!(size_of::<Timeouts>() == 32);
const _: () = assert!(size_of::<Load>() == 16);
const _: () = assert!(size_of::<Traffic>() == 48);
const _: () = assert!(size_of::<Real>() == 64);
const _: () = assert!(size_of::<ReturnPath4>() == 16);
const _: () = assert!(size_of::<ReturnPath6>() == 28);
const _: () = assert!(size_of::<Addr6>() == 16);
const _: () = assert!(size_of::<LocalAddr>() == 8);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn prefixes() {
        let four = u32::from_ne_bytes(Ipv4Addr::new(10, 20, 30, 45).octets());
        for (bits, wanted) in [
            (32, [10, 20, 30, 45]),
            (24, [10, 20, 30, 0]),
            (12, [10, 16, 0, 0]),
            (0, [0; 4]),
        ] {
            assert_eq!(four.prefix(bits), u32::from_ne_bytes(wanted), "{bits}");
        }
        let six: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let six = Addr6::new(six.octets());
        for (bits, wanted) in [
            (128, "2001:db8:1:2:3:4:5:6"),
            (64, "2001:db8:1:2::"),
            (40, "2001:db8::"),
            (0, "::"),
        ] {
            let wanted: Ipv6Addr = wanted.parse().unwrap();
            assert_eq!(six.prefix(bits), Addr6::new(wanted.octets()), "{bits}");
        }
    }
}
