//! The word by which a test rig cuts a switch port. Not part of the product.

/// Name of the memory-mapped `Array<PortCtl>` of [`PORTS`] elements.
pub const PORT_CTL: &str = "ha_port_ctl";
/// Name of the `Hash<u32, u32>` from a switch port's interface to its element in [`PORT_CTL`].
pub const PORT_SLOT: &str = "ha_port_slot";
/// Ports one rig can have.
pub const PORTS: u32 = 64;

/// What happens at a switch port; takes effect with the store.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCtl {
    /// Bits of [`port_flags`].
    pub flags: u32,
    /// Frames from the node that are lost at random, per million.
    pub loss_ppm: u32,
}

/// Bits of [`PortCtl::flags`].
pub mod port_flags {
    /// Frames from the node are dropped.
    pub const CUT_FROM_NODE: u32 = 1 << 0;
    /// Frames to the node are dropped.
    pub const CUT_TO_NODE: u32 = 1 << 1;
    /// IPv4 packets from the node that come from [`super::FLOODERS`] end here: the hosts behind the node
    /// need not bear what the node has to.
    pub const SWALLOW_FLOOD: u32 = 1 << 2;
}

/// Name of the `Array<Flood>` of one element that paces [`FLOOD`].
pub const FLOOD_CTL: &str = "ha_flood_ctl";
/// Name of the program that, run with live frames, sends them out of the interface of its context.
pub const FLOOD: &str = "ha_flood";

/// The first of [`FLOODERS_COUNT`] addresses from which floods come: 198.18.0.0/15, set aside for measurements
/// (RFC 2544 appendix C.2.2).
pub const FLOODERS: u32 = 0xc612_0000;
/// A power of two.
pub const FLOODERS_COUNT: u32 = 1 << 17;

/// Words of a frame that a flood restores: the headers of TCP in IPv4, and two bytes more.
pub const FLOOD_HEAD: usize = 7;

/// The pace of a flood, and who sends it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// Time between two frames, in nanoseconds.
    pub step_ns: u64,
    /// When the next one is due, by `bpf_ktime_get_ns`.
    pub next_ns: u64,
    /// Frames sent.
    pub sent: u64,
    /// Whether each frame, which is then a TCP segment in IPv4 without options, is to come from another port
    /// of another one of [`FLOODERS`].
    pub many_clients: u64,
    /// If not 0, such frames come in turn from the next client and, as a reset, from the one that many before it.
    pub lives: u64,
    /// The beginning of the frame, restored each time: the kernel sends the same memory again, with what
    /// its receivers made of it.
    pub head: [u64; FLOOD_HEAD],
}

const _: () = assert!(size_of::<PortCtl>() == 8);
const _: () = assert!(size_of::<Flood>() == 40 + 8 * FLOOD_HEAD);
