//! The path of a packet of an established connection of which everything is known: one lookup, and out.
//!
//! Whatever is not as usual is left to [`crate::conntrack`], which knows all cases, in a program of its
//! own. Nothing here may differ from what would happen there.

use ha_common::conn::{Conn, flags};
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, Real, RealState};

use crate::family::Family;
use crate::packet::{Hop, Packet};
use crate::parse::ethernet;
use crate::parse::transport::{Flow, flag};
use crate::rewrite::{Direction, Translation, translate};
use crate::send::{account, known_hop, leave, real_hop, untouched};
use crate::tables::{Flows, Shared, gate_open};

/// How far `last_seen_ns` may lag behind: a dirty cache line a second, not a packet.
pub const STAMP_NS: u64 = 1_000_000_000;

/// Forwards the packet; `None`, with the packet as it was, if it needs more attention.
#[inline(always)]
pub fn forward<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
) -> Option<Reason> {
    // What begins or ends a connection changes more than the packet.
    if flow.flags & (flag::SYN | flag::FIN | flag::RST) != 0 || flow.ttl <= 1 {
        return None;
    }
    let entry = tables.conn(&flow.key)?;
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return None;
    }
    let id = entry.get().real;
    let real = tables.real(id)?;
    if !is_usable(entry, real) {
        return None;
    }
    let (direction, hop) = if entry.get().is_reverse() {
        if entry.get().flags & flags::HOP_KNOWN == 0 {
            return None;
        }
        (Direction::Reverse, known_hop(entry))
    } else {
        if real.get().hop_known == 0 || !is_way_back_known(packet, entry) {
            return None;
        }
        (Direction::Forward, real_hop(real))
    };
    let one_way = entry.get().flags & flags::ONE_WAY != 0;
    let tunnelled = one_way && real.get().forwarding == Forwarding::Tunnel as u8;
    let overhead = if tunnelled { A::HEADER as u32 } else { 0 };
    if flow.len + overhead > u32::from(real.get().mtu) {
        return None;
    }
    if now.saturating_sub(entry.get().last_seen_ns) >= STAMP_NS {
        entry.update(|entry| entry.last_seen_ns = now);
    }
    account(tables, id, direction, flow.len);
    if one_way {
        if let Some(reason) = untouched::<A, _>(packet, real, flow.l3, true) {
            return Some(reason);
        }
    } else {
        let translation = Translation::from(&entry.get());
        let (l3, l4, proto) = (flow.l3, flow.l4, flow.key.proto);
        if !translate(packet, l3, l4, proto, direction, &translation, 1) {
            return Some(Reason::Truncated);
        }
    }
    Some(leave(packet, direction, &hop))
}

/// Whether the entry's real server is still the one it was made for, and takes packets.
#[inline(always)]
fn is_usable<A: Copy>(entry: Shared<Conn<A>>, real: Shared<Real>) -> bool {
    let state = RealState::from_u8(real.get().state);
    real.get().generation == entry.get().real_generation
        && matches!(state, RealState::Up | RealState::Draining)
}

/// Whether the frame came from where the entry has the client.
#[inline(always)]
fn is_way_back_known<A: Copy, P: Packet>(packet: &mut P, entry: Shared<Conn<A>>) -> bool {
    let way_back: Hop = ethernet::way_back(packet);
    !way_back.is_known()
        || (entry.get().flags & flags::HOP_KNOWN != 0 && way_back == known_hop(entry))
}
