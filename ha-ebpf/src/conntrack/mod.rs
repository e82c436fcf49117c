//! Connections: every packet of TCP and UDP that is not as usual ([`crate::fast`]).
//!
//! One lookup serves both directions. The forward entry also remembers from where the client's
//! packets come, so that the reverse entry is touched only when that changes.

pub mod client;
pub mod entry;
mod full_nat;
pub mod server;
pub mod state;

use ha_common::conn::{Conn, ConnKey, ConnState, flags};
use ha_common::event::EventKind;
use ha_common::reason::{Reason, Verdict};
use ha_common::service::{Real, RealState, addr_kind, real_flags};

use crate::answer::{self, Trouble};
use crate::family::Family;
use crate::fast::STAMP_NS;
use crate::fragment;
use crate::packet::{Hop, Packet};
use crate::parse::ethernet;
use crate::parse::transport::Flow;
use crate::rewrite::{Direction, Translation};
use crate::send::{deliver, known_hop, real_hop};
use crate::tables::{Flows, Shared, Tables, gate_open, handing_over};
use crate::virtual_mac::from_here;
use crate::work::Work;

/// Judges the TCP or UDP packet [`Work::flow`].
#[inline(always)]
pub fn handle<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Reason {
    work.real = 0;
    let reason = match judge(packet, tables, work) {
        Ok(()) => deliver(packet, tables, work),
        Err(reason) => reason,
    };
    if matches!(reason.verdict(), Verdict::Drop)
        && work.real != 0
        && let Some(traffic) = tables.traffic(work.real)
    {
        traffic.update(|traffic| traffic.dropped += 1);
    }
    let (trouble, told) = if reason == Reason::TtlExpired {
        (Trouble::TTL_EXPIRED, Reason::TtlAnswered)
    } else if reason == Reason::TooBig {
        (Trouble::too_big(work.mtu), Reason::TooBigAnswered)
    } else {
        if work.flow.fragment {
            fragment::expect(tables, work, reason);
        }
        return reason;
    };
    if answer::explain(packet, tables, &work.flow, &work.vip, trouble) {
        told
    } else {
        reason
    }
}

/// Finds out where the packet goes, or why nowhere.
#[inline(always)]
fn judge<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Result<(), Reason> {
    let unknown = core::mem::take(&mut work.unknown);
    if !unknown && let Some(entry) = tables.conn(&work.flow.key) {
        match established(packet, tables, work, entry) {
            Established::Sent => return Ok(()),
            Established::Refused(reason) => return Err(reason),
            Established::Stale => entry::remove(tables, &work.flow.key, entry),
        };
    }
    // What services listen at is shared. Only an answer to a request more likely comes from a server.
    if !work.flow.is_syn_ack()
        && let Some(service) = client::service_of(tables, &work.flow)
    {
        return client::handle(packet, tables, work, service);
    }
    match work.flow.key.dst.kind(tables) {
        addr_kind::SHARED => match client::service_of(tables, &work.flow) {
            Some(service) => client::handle(packet, tables, work, service),
            None => server::answer_to_stand_in(packet, tables, work),
        },
        addr_kind::NONE => server::handle(packet, tables, work),
        _ => Err(Reason::NotOurs),
    }
}

/// What an entry means for a packet.
enum Established {
    /// It is sent on.
    Sent,
    /// It is not, because of this.
    Refused(Reason),
    /// Nothing: the entry is not to be used any more.
    Stale,
}

/// A packet with an entry.
#[inline(never)]
fn established<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    entry: Shared<Conn<A>>,
) -> Established {
    let now = tables.coarse_ns();
    // What begins a connection anew is no part of a hand-over.
    let open = gate_open(tables, now);
    if !open && (work.flow.is_syn() || !handing_over(tables)) {
        return Established::Refused(Reason::GateClosed);
    }
    // Fields are read where they are used: what is loaded earlier only fills the stack.
    let id = entry.get().real;
    work.real = id;
    let Some(real) = tables.real(id) else {
        return Established::Stale;
    };
    let state = RealState::from_u8(real.get().state);
    if real.get().generation != entry.get().real_generation || state == RealState::Unused {
        return Established::Stale;
    }
    let direction = if entry.get().is_reverse() {
        Direction::Reverse
    } else {
        Direction::Forward
    };
    if work.flow.is_syn() && direction == Direction::Forward && restarts(entry, state) {
        return Established::Stale;
    }
    if state == RealState::Down && real.get().flags & real_flags::RESET_WHEN_DOWN != 0 {
        return ended(packet, tables, work, entry, direction);
    }
    work.vip = match direction {
        Direction::Forward => work.flow.key.dst,
        Direction::Reverse => entry.get().to_addr,
    };
    if work.flow.ttl <= 1 {
        return Established::Refused(Reason::TtlExpired);
    }
    if now.saturating_sub(entry.get().last_seen_ns) >= STAMP_NS {
        entry.update(|entry| entry.last_seen_ns = now);
    }
    if work.flow.ends() {
        advance(tables, &work.flow, entry, direction);
    }
    work.translation = Translation::from(&entry.get());
    let hop = match direction {
        Direction::Forward => {
            learn(packet, tables, &work.flow.key, entry);
            to_real(packet, work, real)
        }
        Direction::Reverse => to_client(packet, tables, work, entry),
    };
    // What is remembered holds for an open gate.
    work.hop = from_here(tables, hop, open);
    work.direction = direction;
    Established::Sent
}

/// A connection whose real server is down, of a service that ends such connections. A flow of datagrams may
/// go to another.
#[inline(always)]
fn ended<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &Work<A>,
    entry: Shared<Conn<A>>,
    direction: Direction,
) -> Established {
    if direction == Direction::Reverse {
        return Established::Refused(Reason::RealServerDown);
    }
    if !work.flow.is_tcp() {
        return Established::Stale;
    }
    if !answer::reset(packet, tables, &work.flow) {
        return Established::Refused(Reason::RealServerDown);
    }
    entry::remove(tables, &work.flow.key, entry);
    Established::Refused(Reason::ResetAnswered)
}

/// Whether a connection request replaces the entry.
///
/// A client may use its port again as soon as one side has closed. Within a connection that looks
/// established, the request goes to its real server, whose answer (RFC 9293 section 3.10.7.4) makes
/// the client reset a connection it no longer knows; unless that real server is gone.
#[inline(always)]
fn restarts<A: Copy>(entry: Shared<Conn<A>>, real: RealState) -> bool {
    entry.get().state != ConnState::Established as u8 || real == RealState::Down
}

/// The way to a real server: as the agent found it, else by the kernel's route.
#[inline(always)]
fn to_real<A: Family, P: Packet>(packet: &mut P, work: &Work<A>, real: Shared<Real>) -> Hop {
    if real.get().hop_known != 0 {
        return real_hop(real);
    }
    let source = if work.translation.both_ends {
        &work.translation.from
    } else {
        &work.flow.key.src
    };
    work.translation.to.route(packet, source)
}

/// The way to a client: as it is remembered, else by the kernel's route, which is then remembered.
#[inline(always)]
fn to_client<A: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    work: &Work<A>,
    entry: Shared<Conn<A>>,
) -> Hop {
    if entry.get().flags & flags::HOP_KNOWN != 0 {
        return known_hop(entry);
    }
    let client = if work.translation.both_ends {
        &work.translation.from
    } else {
        &work.flow.key.dst
    };
    let hop = client.route(packet, &work.translation.to);
    if hop.is_known() {
        remember(entry, &from_here(tables, hop, true));
    }
    hop
}

/// Remembers from where the client's packets come now, in both directions' entries.
#[inline(always)]
fn learn<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    key: &ConnKey<A>,
    entry: Shared<Conn<A>>,
) {
    let hop = ethernet::way_back(packet);
    let known = entry.get().flags & flags::HOP_KNOWN != 0 && hop == known_hop(entry);
    if hop.is_known() && !known {
        learn_anew(tables, key, entry, &hop);
    }
}

#[inline(never)]
fn learn_anew<A: Family, T: Flows<A>>(
    tables: T,
    key: &ConnKey<A>,
    entry: Shared<Conn<A>>,
    hop: &Hop,
) -> bool {
    remember(entry, hop);
    let reverse_key = entry.get().partner_key(key);
    match tables.conn(&reverse_key) {
        Some(reverse) if reverse.get().partner_key(&reverse_key) == *key => {
            remember(reverse, hop);
            true
        }
        _ => false,
    }
}

#[inline(always)]
fn remember<A: Copy>(entry: Shared<Conn<A>>, hop: &Hop) {
    entry.update(|entry| {
        entry.hop_ifindex = hop.ifindex;
        hop.mac.write(&mut entry.hop_mac);
        hop.src.write(&mut entry.hop_src);
        entry.flags |= flags::HOP_KNOWN;
    });
}

/// Brings the connection's state up to date after a FIN or RST.
#[inline(never)]
fn advance<A: Family, T: Flows<A>>(
    tables: T,
    flow: &Flow<A>,
    entry: Shared<Conn<A>>,
    direction: Direction,
) -> bool {
    let (key, forward) = match direction {
        Direction::Forward => (flow.key, entry),
        Direction::Reverse => {
            let key = entry.get().partner_key(&flow.key);
            match tables.conn(&key) {
                Some(forward) if forward.get().partner_key(&key) == flow.key => (key, forward),
                _ => return false,
            }
        }
    };
    let Some(old) = ConnState::from_u8(forward.get().state) else {
        return false;
    };
    let new = state::next(old, direction, flow.flags);
    if new == old {
        return false;
    }
    forward.update(|entry| {
        entry.state = new as u8;
        entry.version = entry.version.wrapping_add(1);
    });
    entry::announce(tables, &key, &forward.get(), EventKind::State);
    true
}
