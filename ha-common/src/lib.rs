//! What both sides of the kernel boundary share.
//!
//! Map keys and values, ring records, drop reasons, checksum arithmetic, the CARP wire layout,
//! SipHash and SHA-1. Everything here is `no_std`, allocates nothing and never panics, so the same lines run
//! in the XDP program, in the agent and in the tests.
//!
//! Conventions: structures that live in a BPF map are `#[repr(C)]`, carry their padding as named
//! fields (the verifier refuses uninitialised bytes and garbage in padding would silently miss a
//! lookup) and have their size asserted. Addresses and ports in them are in **network byte order**,
//! exactly as they stand in the packet; everything else is in host order.
#![no_std]

pub mod carp;
pub mod checksum;
pub mod conn;
pub mod control;
pub mod event;
pub mod filter;
pub mod gauge;
pub mod hash;
pub mod line;
pub mod maps;
pub mod pair;
pub mod reason;
pub mod rig;
pub mod service;
pub mod sha1;
pub mod siphash;
pub mod stage;

/// Version of every pinned map's layout taken together.
///
/// Stored in the `ha_version` map. An agent that finds pinned maps of another version refuses to
/// touch them and says so; it never guesses.
pub const LAYOUT_VERSION: u32 = 8;

/// IP protocol numbers the data plane tells apart.
///
/// Source: IANA "Assigned Internet Protocol Numbers".
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// An IPv4 packet inside another packet (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// An IPv6 packet inside another packet (RFC 2473).
    pub const IPV6: u8 = 41;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// CARP, which shares its number and group with VRRP.
    pub const CARP: u8 = 112;
}

#[cfg(feature = "user")]
mod pod {
    //! Plain-old-data markers for the agent's side of the maps.
    use crate::{conn, control, event, gauge, line, pair, rig, service};

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, only integers and byte arrays, no padding (sizes are asserted
            // where the types are defined), so every bit pattern is valid and every byte is
            // initialised.
            unsafe impl aya::Pod for $type {}
        )+};
    }

    pod!(
        conn::ConnKey4,
        conn::ConnKey6,
        conn::Conn4,
        conn::Conn6,
        conn::EmbryoKey4,
        conn::EmbryoKey6,
        conn::Embryo4,
        conn::Embryo6,
        conn::FragmentKey4,
        conn::FragmentKey6,
        conn::PersistKey4,
        conn::PersistKey6,
        conn::Persist,
        service::ServiceKey4,
        service::ServiceKey6,
        service::Service,
        service::Timeouts,
        service::Real,
        service::Load,
        service::Traffic,
        service::ReturnPath4,
        service::ReturnPath6,
        service::LocalAddr,
        service::Addr6,
        pair::Pair,
        pair::Peer,
        pair::Digest,
        pair::Heard,
        control::Gate,
        control::Config,
        control::Pace,
        event::ConnEvent4,
        event::ConnEvent6,
        event::Sample,
        event::CarpSeen,
        event::EarlyFragment,
        event::Evidence,
        gauge::Gauge,
        line::Line,
        rig::Flood,
        rig::PortCtl,
    );
}
