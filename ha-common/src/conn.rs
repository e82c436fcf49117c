//! Connection-table entries (`ha_conns4`) and half-open connections (`ha_embryo4`).
//!
//! Every structure is generic over the address, so that a family has maps with keys no larger than it
//! needs, and one logic serves all.
//!
//! A NAT connection is two entries in one map. The *forward* entry (client to shared address) owns
//! the connection: it holds the TCP state and is the one that is counted and replicated. The
//! *reverse* entry (real server to client) is derived from it. Either is enough to rewrite a packet
//! of its direction, and either names the other's key through [`Conn::partner_key`].
//!
//! With full NAT the client's address is hidden as well: the forward entry also names the address and
//! port that stand in for the client's ([`flags::BOTH_ENDS`]), and the reverse entry is found by them. A
//! connection whose answers do not come back through the balancer (DSR, tunnel) is a forward entry
//! alone ([`flags::ONE_WAY`]).

use crate::service::Addr6;

/// A 5-tuple as it stands in the packet (network byte order).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IP protocol number, zero-extended so that the key has no padding.
    pub proto: u32,
}

/// An IPv4 5-tuple.
pub type ConnKey4 = ConnKey<u32>;
/// An IPv6 5-tuple.
pub type ConnKey6 = ConnKey<Addr6>;

/// State of a connection, as far as one balancer between the two ends can know it.
///
/// Values are stable: they are replicated and shown by `bpftool map dump`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnState {
    /// Handshake complete, or a UDP flow.
    #[default]
    Established = 1,
    /// The client has sent FIN.
    ClientClosing = 2,
    /// The real server has sent FIN.
    ServerClosing = 3,
    /// Both have sent FIN; the entry lingers so that late segments still find their way.
    TimeWait = 4,
    /// A reset was seen; the entry lingers briefly.
    Closed = 5,
}

impl ConnState {
    /// The state with this number, or `None` for a number no version of this layout used.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Established),
            2 => Some(Self::ClientClosing),
            3 => Some(Self::ServerClosing),
            4 => Some(Self::TimeWait),
            5 => Some(Self::Closed),
            _ => None,
        }
    }

    /// The name shown to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::ClientClosing => "client-closing",
            Self::ServerClosing => "server-closing",
            Self::TimeWait => "time-wait",
            Self::Closed => "closed",
        }
    }
}

/// Bits of [`Conn::flags`].
pub mod flags {
    /// This is the reverse entry (real server to client).
    pub const REVERSE: u8 = 1 << 0;
    /// Received from the partner, not created by this node's data plane.
    pub const REPLICATED: u8 = 1 << 1;
    /// Rebuilt from a mid-flow packet by hash or by reverse lookup, not from a handshake.
    pub const RECONSTRUCTED: u8 = 1 << 2;
    /// The real server was chosen by the Maglev table, so the partner can recompute it.
    pub const BY_HASH: u8 = 1 << 3;
    /// `hop_*` are filled in.
    pub const HOP_KNOWN: u8 = 1 << 4;
    /// Both ends of the packet are rewritten (full NAT): `from_addr` and `from_port` are filled in.
    pub const BOTH_ENDS: u8 = 1 << 5;
    /// There is no reverse entry: answers do not come back this way (DSR, tunnel).
    pub const ONE_WAY: u8 = 1 << 6;
}

/// One direction of a connection.
///
/// What every packet reads comes first. 64 bytes for IPv4: one cache line of value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conn<A> {
    /// Address written into the packet: as its destination (forward) the real server's, as its source
    /// (reverse) the shared one.
    pub to_addr: A,
    /// With [`flags::BOTH_ENDS`], the other address written into the packet: as its source (forward)
    /// the one that stands in for the client, as its destination (reverse) the client's. Else zero.
    pub from_addr: A,
    /// Port that goes with `to_addr`.
    pub to_port: u16,
    /// Port that goes with `from_addr`.
    pub from_port: u16,
    /// What the changes of addresses and ports add to the TCP or UDP checksum (RFC 1624, folded).
    pub l4_delta: u16,
    /// What the changes of addresses add to the IPv4 header checksum; the decrement of the time to live
    /// is not in it. 0 for IPv6.
    pub l3_delta: u16,
    /// Real-server id: index into `ha_reals`, local to this node, 0 = none.
    pub real: u16,
    /// Generation of that id when the entry was made; an id that was reused no longer matches.
    pub real_generation: u16,
    /// Bits of [`flags`].
    pub flags: u8,
    /// A [`ConnState`]; meaningful in the forward entry only.
    pub state: u8,
    /// Virtual-service id (index local to this node).
    pub service: u16,
    /// Grows with every replicated change of this connection (serial arithmetic).
    pub version: u16,
    /// Zero.
    pub pad: u16,
    /// Interface that leads to the client, local to this node.
    pub hop_ifindex: u32,
    /// Next hop's MAC towards the client, local to this node.
    pub hop_mac: [u8; 6],
    /// This node's MAC on `hop_ifindex`.
    pub hop_src: [u8; 6],
    /// Zero.
    pub pad2: u32,
    /// When this direction last moved, coarse `CLOCK_MONOTONIC` nanoseconds, at least 1 s apart.
    pub last_seen_ns: u64,
    /// When the entry was made, coarse `CLOCK_MONOTONIC` nanoseconds.
    pub created_ns: u64,
}

/// One direction of an IPv4 connection.
pub type Conn4 = Conn<u32>;
/// One direction of an IPv6 connection.
pub type Conn6 = Conn<Addr6>;

const _: () = assert!(size_of::<ConnKey4>() == 16);
const _: () = assert!(size_of::<ConnKey6>() == 40);
const _: () = assert!(size_of::<Conn4>() == 64);
const _: () = assert!(size_of::<Conn6>() == 88);

impl<A: Copy> Conn<A> {
    /// Whether this is the reverse entry.
    #[inline(always)]
    pub const fn is_reverse(&self) -> bool {
        self.flags & flags::REVERSE != 0
    }

    /// The key of the other direction's entry, given this entry's own key.
    ///
    /// Forward `(client, vip)` rewrites to the real server, whose answers are `(real, client)`;
    /// reverse `(real, client)` rewrites to the shared address, whose requests are `(client, vip)`.
    /// With full NAT the real server knows the client under `from_addr`. An entry without another half
    /// names one that does not exist.
    #[inline(always)]
    pub const fn partner_key(&self, own: &ConnKey<A>) -> ConnKey<A> {
        let both_ends = self.flags & flags::BOTH_ENDS != 0;
        let (near, near_port) = match (both_ends, self.is_reverse()) {
            (true, _) => (self.from_addr, self.from_port),
            (false, true) => (own.dst, own.dport),
            (false, false) => (own.src, own.sport),
        };
        if self.is_reverse() {
            ConnKey {
                src: near,
                dst: self.to_addr,
                sport: near_port,
                dport: self.to_port,
                proto: own.proto,
            }
        } else {
            ConnKey {
                src: self.to_addr,
                dst: near,
                sport: self.to_port,
                dport: near_port,
                proto: own.proto,
            }
        }
    }
}

/// Client end of a half-open connection: what its SYN and the server's SYN-ACK have in common.
///
/// With full NAT the server knows the client under another address and port; there is an entry for
/// either.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EmbryoKey<A> {
    /// Client address, network order.
    pub client: A,
    /// Client port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// A half-open connection: SYN seen, handshake not complete. Never replicated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Embryo<A> {
    /// Shared address and port the SYN was sent to.
    pub vip: A,
    /// Real server it was forwarded to.
    pub real_addr: A,
    /// With [`flags::BOTH_ENDS`], the client's other name: in the entry that the client's address finds,
    /// what stands in for it; in the other one, the client's own.
    pub from_addr: A,
    /// Shared port.
    pub vport: u16,
    /// Real server's port.
    pub real_port: u16,
    /// Port that goes with `from_addr`.
    pub from_port: u16,
    /// Real-server id.
    pub real: u16,
    /// Generation of the id.
    pub real_generation: u16,
    /// Virtual-service id.
    pub service: u16,
    /// Those [`flags`] that the connection will have from its service.
    pub flags: u8,
    /// 1 once the server's SYN-ACK was seen and `server_isn` is valid.
    pub answered: u8,
    /// Zero.
    pub pad: u16,
    /// The server's initial sequence number, host order.
    pub server_isn: u32,
    /// Interface the SYN came in on.
    pub hop_ifindex: u32,
    /// Source MAC of the SYN: the next hop towards the client.
    pub hop_mac: [u8; 6],
    /// Destination MAC of the SYN: this node's own.
    pub hop_src: [u8; 6],
    /// Coarse `CLOCK_MONOTONIC` nanoseconds.
    pub last_seen_ns: u64,
}

impl<A> Embryo<A> {
    /// How long a half-open connection is believed after its last packet: servers give up repeating
    /// their answer after about as long (Linux `tcp_synack_retries`, 63 s by default).
    pub const LIFETIME_NS: u64 = 64_000_000_000;
}

/// Client end of a half-open IPv4 connection.
pub type EmbryoKey4 = EmbryoKey<u32>;
/// Client end of a half-open IPv6 connection.
pub type EmbryoKey6 = EmbryoKey<Addr6>;
/// A half-open IPv4 connection.
pub type Embryo4 = Embryo<u32>;
/// A half-open IPv6 connection.
pub type Embryo6 = Embryo<Addr6>;

const _: () = assert!(size_of::<EmbryoKey4>() == 8);
const _: () = assert!(size_of::<EmbryoKey6>() == 20);
const _: () = assert!(size_of::<Embryo4>() == 56);
const _: () = assert!(size_of::<Embryo6>() == 96);

/// What the fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// Source address, network order.
    pub src: A,
    /// Destination address, network order.
    pub dst: A,
    /// Identification, as it stands in the packet.
    pub id: u32,
    /// IP protocol number.
    pub proto: u32,
}

/// Key of IPv4 fragments.
pub type FragmentKey4 = FragmentKey<u32>;
/// Key of IPv6 fragments.
pub type FragmentKey6 = FragmentKey<Addr6>;

/// How long the fragments that follow a first one are sent after it. Linux reassembles for as long
/// (`ipfrag_time`).
pub const FRAGMENT_LIFETIME_NS: u64 = 30_000_000_000;

const _: () = assert!(size_of::<FragmentKey4>() == 16);
const _: () = assert!(size_of::<FragmentKey6>() == 40);

/// A client, or the network it is in, of a service with persistence.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PersistKey<A> {
    /// Client address without the bits beyond the service's prefix length, network order.
    pub client: A,
    /// Virtual-service id.
    pub service: u16,
    /// Zero.
    pub pad: u16,
}

/// Where such a client's connections go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Persist {
    /// Real-server id.
    pub real: u16,
    /// Generation of the id.
    pub real_generation: u16,
    /// Zero.
    pub pad: u32,
    /// When its last connection began, coarse `CLOCK_MONOTONIC` nanoseconds.
    pub last_seen_ns: u64,
}

/// A client of an IPv4 service.
pub type PersistKey4 = PersistKey<u32>;
/// A client of an IPv6 service.
pub type PersistKey6 = PersistKey<Addr6>;

const _: () = assert!(size_of::<PersistKey4>() == 8);
const _: () = assert!(size_of::<PersistKey6>() == 20);
const _: () = assert!(size_of::<Persist>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    /// Either entry names the other's key, whatever is rewritten.
    #[test]
    fn halves_name_each_other() {
        let client = (1u32, 1000u16);
        let vip = (2u32, 80u16);
        let real = (3u32, 8080u16);
        let key = |src: (u32, u16), dst: (u32, u16)| ConnKey {
            src: src.0,
            dst: dst.0,
            sport: src.1,
            dport: dst.1,
            proto: 6,
        };
        for (near, both) in [(client, 0), ((4, 2000), flags::BOTH_ENDS)] {
            let half = |to: (u32, u16), from: (u32, u16), flags: u8| Conn4 {
                to_addr: to.0,
                to_port: to.1,
                from_addr: if both == 0 { 0 } else { from.0 },
                from_port: if both == 0 { 0 } else { from.1 },
                flags: flags | both,
                ..Conn4::default()
            };
            let (forward_key, reverse_key) = (key(client, vip), key(real, near));
            let forward = half(real, near, 0);
            let reverse = half(vip, client, flags::REVERSE);
            assert_eq!(forward.partner_key(&forward_key), reverse_key);
            assert_eq!(reverse.partner_key(&reverse_key), forward_key);
        }
    }
}
