//! Peers that know no trailer: ucarp and the BSDs, if the configuration allows them.
//!
//! They follow CARP's rules, so this node does too: the lower interval wins, three missed intervals
//! mean gone. Nothing binds such a peer, so nothing fences it: an active node renews its lease by itself.
//! Source of the rules: ucarp 1.5.2 `carp.c`, OpenBSD `ip_carp.c`.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wire::Header;
use crate::proto::time::Instant;

/// A trailer-less peer that advertises.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Foreign {
    /// Where it was heard last.
    pub(super) link: usize,
    /// Its address.
    pub(super) source: IpAddr,
    /// Its interval in 1/256 s.
    pub(super) ticks: u16,
    /// When it was heard last.
    pub(super) heard: Instant,
}

/// What an advertisement of such a peer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is master and may stay so.
    Master,
    /// It leaves, or is so slow that it would time out before its next advertisement.
    Gone,
    /// It is the slower one.
    Slower,
}

/// Interval of an advertisement in 1/256 s.
pub(super) fn ticks(header: &Header) -> u16 {
    u16::from_be_bytes([header.advbase, header.advskew])
}

/// 1/256 s each.
fn duration(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) * 1_000_000_000 / 256)
}

/// How long a node that advertises at `own` waits for a silent master: three seconds-parts and once the
/// skew; OpenBSD triples the skew if there are no whole seconds, and so a lost packet is no failover.
pub(super) fn master_down(own: u16) -> Duration {
    let [base, skew] = own.to_be_bytes();
    if base == 0 {
        duration(3 * u32::from(skew))
    } else {
        duration(3 * 256 * u32::from(base) + u32::from(skew))
    }
}

/// What an advertisement means to a node that is not master.
pub(super) fn meaning(own: u16, peer: u16) -> Meaning {
    if master_down(own) < duration(peer.into()) {
        Meaning::Gone
    } else if own < peer {
        Meaning::Slower
    } else {
        Meaning::Master
    }
}

/// Whether a master steps down for another one. A tie goes to the lower address as ucarp compares it:
/// as the bytes lie in memory on a little-endian machine, the last octet first. Over IPv6 nobody else
/// breaks ties, so the same rule serves.
pub(super) fn yields(own: (u16, IpAddr), peer: (u16, IpAddr)) -> bool {
    let rank = |(ticks, address): (u16, IpAddr)| {
        let number = match address {
            IpAddr::V4(v4) => u32::from_le_bytes(v4.octets()).into(),
            IpAddr::V6(v6) => u128::from_le_bytes(v6.octets()),
        };
        (ticks, number)
    };
    rank(peer) < rank(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_formula() {
        assert_eq!(master_down(0x0100), Duration::from_secs(3));
        assert_eq!(master_down(0x0164), Duration::from_micros(3_390_625));
        assert_eq!(master_down(0x001a), Duration::from_nanos(304_687_500));
    }

    #[test]
    fn slow_and_leaving_masters_are_told_apart() {
        assert_eq!(meaning(0x0100, 0x0100), Meaning::Master);
        assert_eq!(meaning(0x0100, 0x0080), Meaning::Master);
        assert_eq!(meaning(0x0100, 0x0101), Meaning::Slower);
        assert_eq!(meaning(0x0100, 0x0300), Meaning::Slower);
        assert_eq!(meaning(0x0100, 0x0301), Meaning::Gone);
        assert_eq!(meaning(0x0100, 0xffff), Meaning::Gone);
    }

    #[test]
    fn ties_go_where_ucarp_sends_them() {
        let a = IpAddr::from([10, 99, 1, 1]);
        let b = IpAddr::from([10, 99, 0, 9]);
        assert!(!yields((256, a), (256, b)), "measured: 10.99.1.1 stays");
        assert!(yields((256, b), (256, a)));
        assert!(yields((256, a), (255, b)));
        assert!(!yields((256, b), (257, a)));
    }
}
