//! Connection-table entries (`ha_conns4`) and half-open connections (`ha_embryo4`).
//!
//! Every structure is generic over the address, so that a family has maps with keys no larger than it
//! needs, and one logic serves all. IPv4 is the only one so far.
//!
//! A NAT connection is two entries in one map. The *forward* entry (client to shared address) owns
//! the connection: it holds the TCP state and is the one that is counted and replicated. The
//! *reverse* entry (real server to client) is derived from it. Either is enough to rewrite a packet
//! of its direction, and either names the other's key through [`Conn::partner_key`].

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

/// State of a connection, as far as one balancer between the two ends can know it.
///
/// Values are stable: they are replicated and shown by `bpftool map dump`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnState {
    /// Handshake complete, or a UDP flow.
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
}

/// One direction of a connection.
///
/// What every packet reads comes first. 64 bytes for IPv4: one cache line of value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conn<A> {
    /// Address written into the packet: the real server's (forward) or the shared one (reverse).
    pub to_addr: A,
    /// Port written into the packet.
    pub to_port: u16,
    /// What the address and port change adds to the TCP or UDP checksum (RFC 1624, folded).
    pub l4_delta: u16,
    /// What the address change adds to the IPv4 header checksum. The TTL decrement is not in it.
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
    /// Interface that leads to the client (reverse entries only), local to this node.
    pub hop_ifindex: u32,
    /// Next hop's MAC towards the client (reverse entries only), local to this node.
    pub hop_mac: [u8; 6],
    /// This node's MAC on `hop_ifindex` (reverse entries only).
    pub hop_src: [u8; 6],
    /// Zero.
    pub pad: u32,
    /// When this direction last moved, coarse `CLOCK_MONOTONIC` nanoseconds, at least 1 s apart.
    pub last_seen_ns: u64,
    /// When the entry was made, coarse `CLOCK_MONOTONIC` nanoseconds.
    pub created_ns: u64,
    /// Space for later layouts; zero.
    pub reserved: u64,
}

/// One direction of an IPv4 connection.
pub type Conn4 = Conn<u32>;

const _: () = assert!(size_of::<ConnKey4>() == 16);
const _: () = assert!(size_of::<Conn4>() == 64);

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
    #[inline(always)]
    pub const fn partner_key(&self, own: &ConnKey<A>) -> ConnKey<A> {
        if self.is_reverse() {
            ConnKey {
                src: own.dst,
                dst: self.to_addr,
                sport: own.dport,
                dport: self.to_port,
                proto: own.proto,
            }
        } else {
            ConnKey {
                src: self.to_addr,
                dst: own.src,
                sport: self.to_port,
                dport: own.sport,
                proto: own.proto,
            }
        }
    }
}

/// Client end of a half-open connection: what its SYN and the server's SYN-ACK have in common.
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
    /// Shared port.
    pub vport: u16,
    /// Real server's port.
    pub real_port: u16,
    /// Real-server id.
    pub real: u16,
    /// Generation of the id.
    pub real_generation: u16,
    /// Virtual-service id.
    pub service: u16,
    /// [`flags::BY_HASH`] if the Maglev table chose.
    pub flags: u8,
    /// 1 once the server's SYN-ACK was seen and `server_isn` is valid.
    pub answered: u8,
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
/// A half-open IPv4 connection.
pub type Embryo4 = Embryo<u32>;

const _: () = assert!(size_of::<EmbryoKey4>() == 8);
const _: () = assert!(size_of::<Embryo4>() == 48);
