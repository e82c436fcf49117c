//! The path of a packet that begins a flow while too many begin: by hash, and out, with nothing remembered.
//!
//! This is what a flood of requests costs, so it looks up no more than it must: the service, a slot of its
//! Maglev table, the real server. As with [`crate::fast`], whatever is not as usual is left to
//! [`crate::conntrack`], and nothing here may differ from what would happen there, but for one thing: a
//! request that was seen before the flood is not looked for. The hash leads it where it went before.

use ha_common::hash;
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, Real, RealState, Scheduler, ServiceKey};

use crate::family::Family;
use crate::pace;
use crate::packet::Packet;
use crate::parse::transport::Flow;
use crate::rewrite::{Direction, Translation, translate};
use crate::send::{account, leave_to, untouched};
use crate::tables::{Flows, Shared, gate_open};

/// Forwards a packet of no known connection; `None`, with the packet as it was, if it needs more attention.
#[inline(always)]
pub fn forward<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
) -> Option<Reason> {
    // Any other segment may complete a handshake.
    if flow.is_tcp() && !flow.is_syn() {
        return None;
    }
    let now = tables.coarse_ns();
    if !pace::is_exceeded::<A, _>(tables, now) || !gate_open(tables, now) {
        return None;
    }
    let (id, real) = chosen(tables, flow)?;
    let one_way = match Forwarding::from_u8(real.get().forwarding) {
        Forwarding::Nat => false,
        Forwarding::Dsr | Forwarding::Tunnel => true,
        Forwarding::FullNat => return None,
    };
    let tunnelled = real.get().forwarding == Forwarding::Tunnel as u8;
    let overhead = if tunnelled { A::HEADER as u32 } else { 0 };
    if flow.len + overhead > u32::from(real.get().mtu) {
        return None;
    }
    pace::exceeds::<A, _>(tables, now);
    account(tables, id, Direction::Forward, flow.len);
    if one_way {
        if let Some(reason) = untouched::<A, _>(packet, real, flow.l3, true) {
            return Some(reason);
        }
    } else {
        let port = match real.get().port {
            0 => flow.key.dport,
            port => port,
        };
        let to = (real.get().addr(), port);
        let translation = Translation::new(&flow.key, Direction::Forward, to, None);
        let (l3, l4, proto) = (flow.l3, flow.l4, flow.key.proto);
        if !translate(packet, l3, l4, proto, Direction::Forward, &translation, 1) {
            return Some(Reason::Truncated);
        }
    }
    Some(leave_to(packet, real))
}

/// The real server that the hash leads to, if it takes any number of connections and the way is known.
#[inline(always)]
fn chosen<A: Family, T: Flows<A>>(tables: T, flow: &Flow<A>) -> Option<(u16, Shared<Real>)> {
    let service = tables.service(&ServiceKey {
        addr: flow.key.dst,
        port: flow.key.dport,
        proto: flow.key.proto as u16,
    })?;
    let service = service.get();
    if service.persist_seconds != 0 || service.table_len == 0 {
        return None;
    }
    let hash = match Scheduler::from_u8(service.scheduler)? {
        Scheduler::Mh => hash::flow(service.hash_seed, &flow.key),
        Scheduler::Sh => hash::client(service.hash_seed, flow.key.src),
        Scheduler::Rr | Scheduler::Wrr | Scheduler::Lc | Scheduler::Wlc => return None,
    };
    let slot = hash::reduce(hash, service.table_len);
    let id = tables.slot(service.table_offset.wrapping_add(slot))? as u16;
    let real = tables.real(id)?;
    let usable = real.get().state == RealState::Up as u8
        && real.get().connections_max == 0
        && real.get().hop_known != 0;
    usable.then_some((id, real))
}
