//! The words by which the agent steers the data plane.

/// `ha_gate`: the fence. A memory-mapped array of one element whose words the election thread stores
/// atomically, without a system call, and XDP reads for every packet that concerns a shared address.
///
/// Each word has one writer: XDP [`Gate::overtaken`], the agent all others. So the agent cannot reopen by
/// accident what the kernel has closed; only a term of its own that is high enough can.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// `CLOCK_MONOTONIC` nanoseconds until which this node may act for the shared addresses.
    /// [`Gate::CLOSED`] and [`Gate::ALWAYS`] are special.
    pub until_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds until which a node that has handed over still forwards what hits
    /// an established entry; at most [`Gate::HAND_OVER_NS`] ahead.
    pub established_until_ns: u64,
    /// The term in which the gate was opened.
    pub term: u64,
    /// Highest term above [`Gate::term`] in which the partner was heard as active. The gate is open
    /// only as long as this is not above the term.
    pub overtaken: u64,
    /// The partner's epoch; 0 = not known. Only its advertisements are delivered without limit.
    pub partner_epoch: u64,
}

impl Gate {
    /// The node must not act for the shared addresses.
    pub const CLOSED: u64 = 0;
    /// High availability is off: the node is alone by configuration.
    pub const ALWAYS: u64 = u64::MAX;
    /// How far the coarse clock may lag behind the precise one before it must not be trusted.
    /// 5.5 ms were measured at `CONFIG_HZ=250`; one tick at `HZ=100` is 10 ms.
    pub const COARSE_SLACK_NS: u64 = 60_000_000;
    /// How long established connections may be forwarded after a hand-over.
    pub const HAND_OVER_NS: u64 = 50_000_000;

    /// Whether the gate is open, with the precise clock asked only near the end of the lease.
    #[inline(always)]
    pub fn is_open(&self, coarse_ns: u64, precise_ns: impl FnOnce() -> u64) -> bool {
        if self.overtaken > self.term {
            return false;
        }
        if self.until_ns > coarse_ns && self.until_ns - coarse_ns > Self::COARSE_SLACK_NS {
            return true;
        }
        self.until_ns != Self::CLOSED && precise_ns() < self.until_ns
    }

    /// Whether a gate that is not open lets established connections through.
    #[inline(always)]
    pub fn is_handing_over(&self, precise_ns: impl FnOnce() -> u64) -> bool {
        self.established_until_ns != 0
            && matches!(
                self.established_until_ns.checked_sub(precise_ns()),
                Some(1..=Self::HAND_OVER_NS)
            )
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
    /// The same for IPv6.
    pub table_full6: u32,
    /// 1 if connection events are wanted (replication on).
    pub emit_events: u32,
    /// 0 on the first node, 1 on the second: the lowest bit of the ports by which full NAT stands in for
    /// clients, so that the nodes never take the same.
    pub node_bit: u32,
    /// Flows that may begin on one CPU in one second; beyond, they are forwarded by hash, without an entry.
    /// 0 = no bound.
    pub new_flows_max: u32,
    /// One packet in so many is shown to whoever captures; 0 = none.
    pub sample_every: u32,
    /// Zero.
    pub pad: u32,
}

/// `ha_pace`: how many flows begin on this CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Beginning of the second that is counted, coarse `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// Flows that began in it.
    pub flows: u64,
}

const _: () = assert!(size_of::<Gate>() == 40);
const _: () = assert!(size_of::<Config>() == 32);
const _: () = assert!(size_of::<Pace>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_until_the_lease_ends_or_a_higher_term_is_heard() {
        let gate = Gate {
            until_ns: 1_000_000_000,
            term: 7,
            ..Gate::default()
        };
        assert!(gate.is_open(0, || u64::MAX));
        assert!(gate.is_open(999_000_000, || 999_999_999));
        assert!(!gate.is_open(999_000_000, || 1_000_000_000));
        assert!(!Gate::default().is_open(0, || 0));
        for (overtaken, open) in [
            (0, true),
            (6, true),
            (7, true),
            (8, false),
            (u64::MAX, false),
        ] {
            let gate = Gate { overtaken, ..gate };
            assert_eq!(gate.is_open(0, || u64::MAX), open, "{overtaken}");
        }
        let always = Gate {
            until_ns: Gate::ALWAYS,
            ..Gate::default()
        };
        assert!(always.is_open(1 << 62, || u64::MAX));
    }

    #[test]
    fn a_hand_over_is_short() {
        let gate = Gate {
            established_until_ns: 1_000_000_000,
            ..Gate::default()
        };
        assert!(gate.is_handing_over(|| 1_000_000_000 - Gate::HAND_OVER_NS));
        assert!(gate.is_handing_over(|| 999_999_999));
        assert!(!gate.is_handing_over(|| 1_000_000_000));
        assert!(!gate.is_handing_over(|| 1_000_000_001));
        assert!(!gate.is_handing_over(|| 999_999_999 - Gate::HAND_OVER_NS));
        assert!(!Gate::default().is_handing_over(|| u64::MAX));
    }
}
