//! How the bench restores and varies the packet between two runs of a program. Not part of the product.

/// Name of the program that prepares the packet and jumps to the program that is measured.
pub const WRAPPER: &str = "ha_gauge";
/// Name of the program that passes everything.
pub const FLOOR: &str = "ha_floor";
/// Name of the program that looks its packet up in [`FLOWS`], and passes it if it is there.
pub const LOOKUP: &str = "ha_lookup";
/// Name of the `ProgArray` whose element 0 is the program that is measured.
pub const UNDER_TEST: &str = "ha_under_test";
/// Name of the `Array<Gauge>` of one element.
pub const CONTROL: &str = "ha_gauge_ctl";
/// Name of the `Hash<ConnKey4, Conn4>` of [`LOOKUP`].
pub const FLOWS: &str = "ha_gauge_flows";

/// Words at the start of the packet that are restored: everything up to the ports of a packet inside
/// an ICMP error, or of an IPv6 packet behind two tags.
pub const HEAD_WORDS: usize = 12;
/// The same in bytes; no packet may be shorter.
pub const HEAD_LEN: usize = 8 * HEAD_WORDS;

/// Which packet comes next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Start of every packet.
    pub head: [u64; HEAD_WORDS],
    /// Length of every packet.
    pub len: u32,
    /// One of [`vary`]; 0 if all packets are of one flow.
    pub vary: u32,
    /// The address word of the first flow, host order; those of the others follow it.
    pub first: u32,
    /// Number of flows; 0 is one.
    pub flows: u32,
    /// 1 if flows come in random order, else they take turns.
    pub random: u32,
    /// Whose turn it is.
    pub turn: u32,
}

/// Where in the packet is what tells the flows apart: the last word of an address.
pub mod vary {
    /// IPv4 source address.
    pub const SOURCE4: u32 = 26;
    /// IPv4 destination address.
    pub const DESTINATION4: u32 = 30;
    /// IPv6 source address.
    pub const SOURCE6: u32 = 34;
    /// IPv6 destination address.
    pub const DESTINATION6: u32 = 50;
}

const _: () = assert!(size_of::<Gauge>() == 120);
