//! Fragments that come before the first of their packet.
//!
//! Nothing in them tells which connection they belong to: the ports are in the first one, which may be just
//! behind, on another path or on another queue of the interface. So they are handed to the agent, a bounded
//! number of them, which has them follow the first when that has come, or a moment later leaves them to the
//! kernel like any other fragment of nothing known.

use ha_common::event::{EARLY_BYTES, EarlyFragment};
use ha_common::maps::EARLY_BUCKET;
use ha_common::pair::Rate;
use ha_common::reason::{Reason, Tally};
use ha_common::service::addr_kind;

use crate::family::{Family, is_transport};
use crate::fragment::Later;
use crate::packet::Packet;
use crate::tables::{Flows, concerns, gate_open, tally};

/// Hands a later fragment to the agent. `None`, and it goes where it would have gone, if it is not one of a
/// packet that the data plane would forward, or is one too many.
#[inline(never)]
pub fn hold<A: Family, P: Packet, T: Flows<A>>(
    packet: &P,
    tables: T,
    later: &Later<A>,
) -> Option<Reason> {
    let ours = match later.key.dst.kind(tables) {
        addr_kind::SHARED => true,
        // Of a real server: the filter is all that knows it without a port.
        0 => concerns(tables, later.key.src),
        _ => false,
    };
    if !ours || !is_transport(later.key.proto as u8) || packet.frame_len() > EARLY_BYTES {
        return None;
    }
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return None;
    }
    let bucket = tables.bucket(EARLY_BUCKET)?;
    // Two CPUs may take the same token. A bucket bounds work, it does not count.
    let left = Rate::EARLY.take(bucket.get(), now)?;
    bucket.update(|word| *word = left);
    if show(packet, tables, later, now) {
        return Some(Reason::FragmentHeld);
    }
    tally(tables, Tally::EarlyLost);
    None
}

#[inline(never)]
fn show<A: Family, P: Packet, T: Flows<A>>(
    packet: &P,
    tables: T,
    later: &Later<A>,
    now: u64,
) -> bool {
    let len = packet.frame_len();
    tables.early(|early: &mut EarlyFragment| {
        early.at_ns = now;
        early.ifindex = packet.ingress();
        early.len = len as u32;
        early.src = later.key.src.wide();
        early.dst = later.key.dst.wide();
        early.id = later.key.id;
        early.proto = later.key.proto;
        early.family = A::NUMBER.into();
        packet.copy_out(0, len, &mut early.frame)
    })
}
