//! Fragments: the first one has the ports and goes the way of any packet; the others follow it.
//!
//! A fragment that comes before the first of its packet belongs to nobody known: [`crate::early`]. What no
//! first one comes for is left to the kernel, like fragments of packets to the node itself.

use ha_common::conn::{FRAGMENT_LIFETIME_NS, FragmentKey, flags};
use ha_common::reason::{Reason, Verdict};
use ha_common::service::{Forwarding, RealState};

use crate::family::Family;
use crate::packet::{Hop, Packet};
use crate::rewrite::{Direction, Translation};
use crate::send::{account, known_hop, leave, real_hop, untouched};
use crate::tables::{Flows, gate_open};
use crate::work::Work;

/// Remembers where a first fragment went, if it went anywhere: the connection as it is now.
#[inline(never)]
pub fn expect<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>, reason: Reason) -> bool {
    let sent = match reason.verdict() {
        Verdict::Transmit | Verdict::Redirect => true,
        Verdict::Pass => matches!(reason, Reason::ForwardKernel | Reason::ReverseKernel),
        Verdict::Drop => false,
    };
    if !sent {
        return false;
    }
    let flow = &work.flow;
    let Some(entry) = tables.conn(&flow.key) else {
        return false;
    };
    work.forward = entry.get();
    work.forward.created_ns = tables.coarse_ns();
    let key = FragmentKey {
        src: flow.key.src,
        dst: flow.key.dst,
        id: flow.id,
        proto: flow.key.proto,
    };
    tables.put_fragments(&key, &work.forward)
}

/// A fragment that is not the first of its packet.
#[derive(Clone, Copy, Debug)]
pub struct Later<A> {
    /// What it has in common with the first.
    pub key: FragmentKey<A>,
    /// Where the IP header starts.
    pub l3: usize,
    /// Length of the IP packet.
    pub len: u32,
    /// Time to live.
    pub ttl: u8,
}

/// Sends it after the first one. `None` if that is not known.
#[inline(never)]
pub fn follow<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    later: &Later<A>,
) -> Option<Reason> {
    let first = tables.fragments(&later.key)?;
    let now = tables.coarse_ns();
    if now.saturating_sub(first.get().created_ns) >= FRAGMENT_LIFETIME_NS {
        return None;
    }
    if !gate_open(tables, now) {
        return Some(Reason::GateClosed);
    }
    let real = tables.real(first.get().real)?;
    if real.get().generation != first.get().real_generation
        || RealState::from_u8(real.get().state) == RealState::Unused
    {
        return None;
    }
    // Nobody is told of a part of a packet.
    if later.ttl <= 1 {
        return Some(Reason::TtlExpired);
    }
    let direction = if first.get().is_reverse() {
        Direction::Reverse
    } else {
        Direction::Forward
    };
    let mut hop = match direction {
        Direction::Forward if real.get().hop_known != 0 => real_hop(real),
        Direction::Reverse if first.get().flags & flags::HOP_KNOWN != 0 => known_hop(first),
        Direction::Forward | Direction::Reverse => Hop::UNKNOWN,
    };
    let one_way = first.get().flags & flags::ONE_WAY != 0;
    let method = Forwarding::from_u8(real.get().forwarding);
    let overhead = if one_way && method == Forwarding::Tunnel {
        A::HEADER as u32
    } else {
        0
    };
    let len = later.len + overhead;
    if len > u32::from(real.get().mtu) && packet.exceeds_mtu(hop.ifindex, len).is_some() {
        if one_way && method == Forwarding::Dsr {
            return Some(Reason::TooBig);
        }
        // The kernel makes smaller ones of it.
        hop = Hop::UNKNOWN;
    }
    account(tables, first.get().real, direction, later.len);
    let l3 = later.l3;
    if one_way {
        if let Some(reason) = untouched::<A, _>(packet, real, l3, hop.is_known()) {
            return Some(reason);
        }
    } else {
        let translation = Translation::from(&first.get());
        let hops = u8::from(hop.is_known());
        if !A::readdress(packet, l3, direction, &translation, hops) {
            return Some(Reason::Truncated);
        }
    }
    Some(leave(packet, direction, &hop))
}
