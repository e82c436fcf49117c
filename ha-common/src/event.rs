//! Records the data plane hands to the agent through ring buffers.

use crate::conn::ConnKey;
use crate::service::Addr6;

/// What happened to a connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Entered the established table.
    Add = 1,
    /// Changed its [`crate::conn::ConnState`].
    State = 2,
    /// Left the table.
    Delete = 3,
}

impl EventKind {
    /// The kind with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Add),
            2 => Some(Self::State),
            3 => Some(Self::Delete),
            _ => None,
        }
    }
}

/// A record of `ha_events`: one change of one connection, self-sufficient, so that the reader never
/// has to look the entry up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnEvent<A> {
    /// Precise `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Key of the forward entry.
    pub key: ConnKey<A>,
    /// Real server, network order.
    pub real_addr: A,
    /// [`crate::conn::Conn::from_addr`] of the forward entry.
    pub from_addr: A,
    /// Real server's port, network order.
    pub real_port: u16,
    /// [`crate::conn::Conn::from_port`] of the forward entry.
    pub from_port: u16,
    /// [`crate::conn::Conn::version`] after the change.
    pub version: u16,
    /// An [`EventKind`].
    pub kind: u8,
    /// The [`crate::conn::ConnState`] after the change.
    pub state: u8,
    /// [`crate::conn::flags`] of the forward entry.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// Service id on this node.
    pub service: u16,
    /// Real-server id on this node.
    pub real: u16,
    /// Zero.
    pub pad2: u16,
}

/// A change of an IPv4 connection. In `ha_events` the length of a record tells its family.
pub type ConnEvent4 = ConnEvent<u32>;
/// A change of an IPv6 connection.
pub type ConnEvent6 = ConnEvent<Addr6>;

const _: () = assert!(size_of::<ConnEvent4>() == 48);
const _: () = assert!(size_of::<ConnEvent6>() == 96);

/// Bytes of an advertisement kept in [`CarpSeen`]: the longest header (60) plus CARP (36), trailer
/// (92) and room for a longer trailer of a later version.
pub const CARP_SEEN_BYTES: usize = 232;

/// A record of `ha_carp`: an advertisement for our vhid that passed all checks of the data plane.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarpSeen {
    /// Precise `CLOCK_MONOTONIC` nanoseconds at reception.
    pub at_ns: u64,
    /// Interface it came in on.
    pub ifindex: u32,
    /// Number of valid bytes in `packet`.
    pub len: u16,
    /// Sender's Ethernet address: evidence for alarms, never a criterion.
    pub source_mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 4],
    /// The packet from its IP header, of either version, on.
    pub packet: [u8; CARP_SEEN_BYTES],
}

/// What a record of evidence shows.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceKind {
    /// An advertisement with a trailer whose tag is wrong. Detail: key id.
    BadTag = 0,
    /// An advertisement signed with a key that this node does not have. Detail: key id.
    UnknownKey = 1,
    /// An advertisement without trailer whose HMAC-SHA1 is wrong. Detail: `advbase` and `advskew`.
    BadDigest = 2,
    /// An advertisement with a trailer from an address that is not the partner's.
    WrongSource = 3,
    /// A VRRP router uses the same id. Detail: first byte of the packet.
    VrrpSameVhid = 4,
    /// CARP, or a trailer, of another version. Detail: first byte of the packet, or the trailer's
    /// version.
    CarpForeignVersion = 5,
    /// Somebody else claims an own or shared address. Detail: 1 if it is a shared one.
    DuplicateAddress = 6,
    /// An advertisement without the trailer that is demanded; its HMAC-SHA1 is right, as far as XDP can
    /// tell. Detail: `advbase` and `advskew`.
    NoTrailer = 7,
}

impl EvidenceKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::BadTag,
        Self::UnknownKey,
        Self::BadDigest,
        Self::WrongSource,
        Self::VrrpSameVhid,
        Self::CarpForeignVersion,
        Self::DuplicateAddress,
        Self::NoTrailer,
    ];

    /// The kind with this number.
    pub fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value)).copied()
    }
}

/// A record of `ha_evidence`: something that a person should hear of. No packet is handled
/// differently because of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Coarse `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Interface it came in on.
    pub ifindex: u32,
    /// See [`EvidenceKind`].
    pub detail: u32,
    /// Source of the packet, or the address that is claimed; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Sender's Ethernet address.
    pub source_mac: [u8; 6],
    /// An [`EvidenceKind`].
    pub kind: u8,
    /// 4 or 6.
    pub family: u8,
    /// The id in the packet; 0 if it has none.
    pub vhid: u8,
    /// Zero.
    pub pad: [u8; 7],
}

const _: () = assert!(size_of::<Evidence>() == 48);
const _: () = assert!(size_of::<CarpSeen>() == 256);

/// Longest frame kept in [`EarlyFragment`]: of an Ethernet of the usual MTU, with two tags, in whole words.
pub const EARLY_BYTES: usize = 1528;

/// A record of `ha_early`: a fragment that came before the first of its packet, to be run again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyFragment {
    /// Coarse `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Interface it came in on.
    pub ifindex: u32,
    /// Number of valid bytes in `frame`.
    pub len: u32,
    /// [`crate::conn::FragmentKey::src`], an IPv4 address in the first word.
    pub src: Addr6,
    /// [`crate::conn::FragmentKey::dst`], likewise.
    pub dst: Addr6,
    /// [`crate::conn::FragmentKey::id`].
    pub id: u32,
    /// [`crate::conn::FragmentKey::proto`].
    pub proto: u32,
    /// 4 or 6.
    pub family: u32,
    /// Zero.
    pub pad: u32,
    /// The frame.
    pub frame: [u8; EARLY_BYTES],
}

const _: () = assert!(size_of::<EarlyFragment>() == 1592);

/// Bytes of a packet kept in [`Sample`].
pub const SAMPLE_BYTES: usize = 160;

/// A record of `ha_samples`: a packet as the data plane left it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Precise `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Interface it came in on.
    pub ifindex: u32,
    /// The [`crate::reason::Reason`].
    pub reason: u32,
    /// Length of the frame.
    pub len: u32,
    /// Number of valid bytes in `frame`.
    pub kept: u32,
    /// The beginning of the frame.
    pub frame: [u8; SAMPLE_BYTES],
}

const _: () = assert!(size_of::<Sample>() == 184);
