//! The words by which the agent steers the data plane.

/// `ha_gate`: the fence. A memory-mapped array of one element that the election thread stores
/// atomically, without a system call, and XDP reads for every packet that concerns a shared address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// `CLOCK_MONOTONIC` nanoseconds until which this node may act for the shared addresses.
    /// [`Gate::CLOSED`] and [`Gate::ALWAYS`] are special.
    pub until_ns: u64,
}

impl Gate {
    /// The node must not act for the shared addresses.
    pub const CLOSED: u64 = 0;
    /// High availability is off: the node is alone by configuration.
    pub const ALWAYS: u64 = u64::MAX;
    /// How far the coarse clock may lag behind the precise one before it must not be trusted.
    /// 5.5 ms were measured at `CONFIG_HZ=250`; one tick at `HZ=100` is 10 ms.
    pub const COARSE_SLACK_NS: u64 = 60_000_000;

    /// Whether the gate is open, with the precise clock asked only near the end of the lease.
    #[inline(always)]
    pub fn is_open(until_ns: u64, coarse_ns: u64, precise_ns: impl FnOnce() -> u64) -> bool {
        if coarse_ns.saturating_add(Self::COARSE_SLACK_NS) < until_ns {
            return true;
        }
        until_ns != Self::CLOSED && precise_ns() < until_ns
    }
}

/// `ha_config`: what the data plane needs to know besides services; an array of one element.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// CARP virtual host id of this pair.
    pub vhid: u32,
    /// 1 if the connection table is nearly full: new flows are forwarded by hash, without an entry.
    pub table_full: u32,
    /// 1 if connection events are wanted (replication on).
    pub emit_events: u32,
    /// Zero.
    pub pad: u32,
    /// Idle time after which an established TCP connection may be deleted, in nanoseconds.
    pub tcp_timeout_ns: u64,
    /// The same for connections in which one end has sent FIN.
    pub closing_timeout_ns: u64,
    /// The same for connections that both ends have closed, or that were reset.
    pub closed_timeout_ns: u64,
    /// The same for UDP flows.
    pub udp_timeout_ns: u64,
}

const _: () = assert!(size_of::<Gate>() == 8);
const _: () = assert!(size_of::<Config>() == 48);
