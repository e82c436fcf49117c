//! Connections: the path of packets that belong to one, and what becomes of the others.
//!
//! One lookup serves both directions. The forward entry also remembers from where the client's
//! packets come, so that the reverse entry is touched only when that changes.

pub mod client;
pub mod entry;
pub mod server;
pub mod state;

use ha_common::conn::{Conn, ConnState, flags};
use ha_common::event::EventKind;
use ha_common::reason::Reason;
use ha_common::service::{Real, RealState, addr_kind};

use crate::family::Family;
use crate::packet::{Hop, Mac, Packet};
use crate::parse::ethernet;
use crate::parse::transport::Flow;
use crate::rewrite::{Direction, Translation, send, send_to};
use crate::tables::{Flows, Shared, Tables, gate_open, handing_over};
use crate::virtual_mac::from_here;

/// How far `last_seen_ns` may lag behind: a dirty cache line a second, not a packet.
const STAMP_NS: u64 = 1_000_000_000;

/// Judges a TCP or UDP packet.
#[inline(always)]
pub fn handle<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
) -> Reason {
    if let Some(entry) = tables.conn(&flow.key) {
        if let Some(reason) = established(packet, tables, flow, entry) {
            return reason;
        }
        entry::remove(tables, &flow.key, entry);
    }
    match flow.key.dst.kind(tables) {
        addr_kind::SHARED => client::handle(packet, tables, flow),
        addr_kind::NONE => server::handle(packet, tables, flow),
        _ => Reason::NotOurs,
    }
}

/// A packet with an entry. `None` if the entry is not to be used any more.
#[inline(always)]
fn established<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    entry: Shared<Conn<A>>,
) -> Option<Reason> {
    let now = tables.coarse_ns();
    // What begins a connection anew is no part of a hand-over.
    let open = gate_open(tables, now);
    if !open && (flow.is_syn() || !handing_over(tables)) {
        return Some(Reason::GateClosed);
    }
    // Fields are read where they are used: what is loaded earlier only fills the stack.
    let conn = entry.get();
    let real = tables.real(conn.real)?;
    let state = RealState::from_u8(real.get().state);
    if real.get().generation != conn.real_generation || state == RealState::Unused {
        return None;
    }
    let reverse = conn.is_reverse();
    if flow.is_syn() && !reverse && restarts(&conn, state) {
        return None;
    }
    if state == RealState::Down {
        return Some(Reason::RealServerDown);
    }
    if flow.ttl <= 1 {
        return Some(Reason::TtlExpired);
    }
    if now.saturating_sub(entry.get().last_seen_ns) >= STAMP_NS {
        entry.update(|entry| entry.last_seen_ns = now);
    }
    let direction = if reverse {
        Direction::Reverse
    } else {
        Direction::Forward
    };
    if flow.ends() {
        advance(tables, flow, entry, direction);
    }
    if reverse {
        if conn.flags & flags::HOP_KNOWN == 0 {
            return Some(find_client(packet, tables, flow, entry, open));
        }
        let translation = Translation::from(&entry.get());
        return Some(send_to(
            packet,
            flow,
            Direction::Reverse,
            &translation,
            || leaving(tables, known_hop(entry), open),
        ));
    }
    let way_back = ethernet::way_back(packet);
    if way_back.is_known() && (conn.flags & flags::HOP_KNOWN == 0 || way_back != known_hop(entry)) {
        learn(packet, tables, flow, entry);
    }
    if real.get().hop_known == 0 {
        return Some(find_real(packet, tables, flow, entry, open));
    }
    let translation = Translation::from(&entry.get());
    Some(send_to(
        packet,
        flow,
        Direction::Forward,
        &translation,
        || leaving(tables, real_hop(real), open),
    ))
}

/// What is remembered holds for an open gate.
#[inline(always)]
fn leaving<T: Tables>(tables: T, hop: Hop, open: bool) -> Hop {
    if open {
        hop
    } else {
        from_here(tables, hop, open)
    }
}

/// Whether a connection request replaces the entry.
///
/// A client may use its port again as soon as one side has closed. Within a connection that looks
/// established, the request goes to its real server, whose answer (RFC 9293 section 3.10.7.4) makes
/// the client reset a connection it no longer knows; unless that real server is gone.
#[inline(always)]
fn restarts<A>(conn: &Conn<A>, real: RealState) -> bool {
    conn.state != ConnState::Established as u8 || real == RealState::Down
}

/// The hop that an entry remembers.
#[inline(always)]
fn known_hop<A: Copy>(entry: Shared<Conn<A>>) -> Hop {
    let conn = entry.get();
    Hop {
        ifindex: conn.hop_ifindex,
        mac: Mac::read(&conn.hop_mac),
        src: Mac::read(&conn.hop_src),
    }
}

/// The way to a real server, as the agent found it.
#[inline(always)]
fn real_hop(real: Shared<Real>) -> Hop {
    let real = real.get();
    Hop {
        ifindex: real.ifindex,
        mac: Mac::read(&real.mac),
        src: Mac::read(&real.src_mac),
    }
}

/// Sends a client's packet by the kernel's route.
#[inline(never)]
fn find_real<A: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    entry: Shared<Conn<A>>,
    open: bool,
) -> Reason {
    let translation = Translation::from(&entry.get());
    let hop = translation.addr.route(packet, flow.key.src);
    let hop = from_here(tables, hop, open);
    send(packet, flow, Direction::Forward, &translation, &hop)
}

/// Sends a real server's packet by the kernel's route, and remembers it.
#[inline(never)]
fn find_client<A: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    entry: Shared<Conn<A>>,
    open: bool,
) -> Reason {
    let translation = Translation::from(&entry.get());
    let hop = flow.key.dst.route(packet, translation.addr);
    let hop = from_here(tables, hop, open);
    if hop.is_known() {
        remember(entry, &hop);
    }
    send(packet, flow, Direction::Reverse, &translation, &hop)
}

/// Remembers from where the client's packets come now, in both directions' entries.
#[inline(never)]
fn learn<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    entry: Shared<Conn<A>>,
) -> bool {
    let hop = ethernet::way_back(packet);
    remember(entry, &hop);
    let reverse_key = entry.get().partner_key(&flow.key);
    match tables.conn(&reverse_key) {
        Some(reverse) if reverse.get().partner_key(&reverse_key) == flow.key => {
            remember(reverse, &hop);
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
    let mut conn = forward.get();
    let Some(old) = ConnState::from_u8(conn.state) else {
        return false;
    };
    let new = state::next(old, direction, flow.flags);
    if new == old {
        return false;
    }
    conn.state = new as u8;
    conn.version = conn.version.wrapping_add(1);
    forward.update(|entry| {
        entry.state = conn.state;
        entry.version = conn.version;
    });
    entry::announce(tables, &key, &conn, EventKind::State);
    true
}
