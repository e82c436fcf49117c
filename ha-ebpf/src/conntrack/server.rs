//! Packets that belong to no established connection and go to none of this node's addresses: answers
//! within a handshake, packets of a connection that the other node knew, and what only passes through.

use ha_common::conn::{ConnKey, ConnState, Embryo, EmbryoKey, flags};
use ha_common::reason::{Reason, Tally};
use ha_common::service::{Address, RealState, ReturnPath, ServiceKey, service_flags};

use super::client::{is_fresh, table_full};
use super::entry::{Created, First, create, leads_to};
use crate::family::Family;
use crate::packet::{Hop, Mac, Packet};
use crate::parse::transport::{Flow, flag};
use crate::rewrite::{Direction, Translation, send};
use crate::schedule::Target;
use crate::tables::{Flows, Shared, Tables, gate_open, tally};
use crate::virtual_mac::from_here;

/// Judges a packet to an address that is not this node's.
#[inline(never)]
pub(super) fn handle<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
) -> Reason {
    let Some(path) = tables.return_path(&ServiceKey {
        addr: flow.key.src,
        port: flow.key.sport,
        proto: flow.key.proto as u16,
    }) else {
        return Reason::NotOurs;
    };
    // A real server that opens a connection of its own from the port it serves on.
    if flow.is_syn() {
        return Reason::NotOurs;
    }
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return Reason::GateClosed;
    }
    if flow.ttl <= 1 {
        return Reason::TtlExpired;
    }
    if flow.is_tcp()
        && let Some(embryo) = tables.embryo(&embryo_key(flow))
    {
        let half_open = embryo.get();
        if half_open.real_addr == flow.key.src
            && half_open.real_port == flow.key.sport
            && is_fresh(&half_open, now)
        {
            return answer(packet, tables, flow, embryo, now);
        }
    }
    orphan(packet, tables, flow, &path.get(), now)
}

/// A real server's packet within a handshake.
#[inline(always)]
fn answer<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    embryo: Shared<Embryo<A>>,
    now: u64,
) -> Reason {
    let half_open = embryo.get();
    let hop = Hop {
        ifindex: half_open.hop_ifindex,
        mac: Mac::read(&half_open.hop_mac),
        src: Mac::read(&half_open.hop_src),
    };
    if flow.is_syn_ack() {
        embryo.update(|embryo| {
            embryo.server_isn = flow.sequence;
            embryo.answered = 1;
            embryo.last_seen_ns = now;
        });
    } else if flow.flags & flag::RST != 0 {
        tables.remove_embryo(&embryo_key(flow));
    }
    return_to(packet, tables, flow, (half_open.vip, half_open.vport), &hop)
}

/// A real server's packet that no entry explains. It is attributed by the port it comes from, and
/// never leaves untranslated.
#[inline(never)]
fn orphan<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    path: &ReturnPath<A>,
    now: u64,
) -> Reason {
    if path.ambiguous != 0 {
        return Reason::AmbiguousReturn;
    }
    let target = Target {
        addr: flow.key.src,
        port: flow.key.sport,
        real: path.real,
        generation: path.real_generation,
        service: path.service,
        flags: 0,
    };
    let shared = (path.vip, path.vport);
    if let Some(reason) = refusal(tables, flow, path) {
        return reason;
    }
    if flow.is_syn_ack() {
        tables.put_embryo(&embryo_key(flow), &embryo_of(flow, shared, &target, now));
    } else if flow.rebuilds() {
        if table_full(tables) {
            tally(tables, Tally::Stateless);
        } else if !rebuild(tables, flow, path, &target) {
            return Reason::UnknownConnection;
        }
    }
    return_to(packet, tables, flow, shared, &Hop::UNKNOWN)
}

/// Why a packet of a real server may not be attributed by its port alone, if so.
#[inline(always)]
fn refusal<A: Family, T: Flows<A>>(
    tables: T,
    flow: &Flow<A>,
    path: &ReturnPath<A>,
) -> Option<Reason> {
    let Some(real) = tables.real(path.real) else {
        return Some(Reason::UnknownConnection);
    };
    let real = real.get();
    if real.generation != path.real_generation {
        return Some(Reason::UnknownConnection);
    }
    match RealState::from_u8(real.state) {
        RealState::Unused => return Some(Reason::UnknownConnection),
        RealState::Down => return Some(Reason::RealServerDown),
        RealState::Up | RealState::Draining => {}
    }
    let service = tables.service(&ServiceKey {
        addr: path.vip,
        port: path.vport,
        proto: flow.key.proto as u16,
    })?;
    (service.get().flags & service_flags::NO_RESTEER != 0).then_some(Reason::UnknownConnection)
}

/// Makes the entries of a connection of which the real server speaks first. `false` if the client
/// has since begun another connection with the same ports.
#[inline(never)]
fn rebuild<A: Family, T: Flows<A>>(
    tables: T,
    flow: &Flow<A>,
    path: &ReturnPath<A>,
    target: &Target<A>,
) -> bool {
    let key = ConnKey {
        src: flow.key.dst,
        dst: path.vip,
        sport: flow.key.dport,
        dport: path.vport,
        proto: flow.key.proto,
    };
    let first = First {
        flags: flags::RECONSTRUCTED,
        state: ConnState::Established,
    };
    match create(tables, &key, target, &first, &Hop::UNKNOWN) {
        Created::New => tally(tables, Tally::Reconstructed),
        Created::Full => tally(tables, Tally::Stateless),
        Created::Existing => return leads_to(tables, &key, target),
        Created::Clash => return false,
    }
    true
}

/// The half-open connection of which this is the answer, the request having gone through the other
/// node, or having been forgotten under a flood.
#[inline(always)]
fn embryo_of<A: Address>(
    flow: &Flow<A>,
    shared: (A, u16),
    target: &Target<A>,
    now: u64,
) -> Embryo<A> {
    Embryo {
        vip: shared.0,
        real_addr: target.addr,
        vport: shared.1,
        real_port: target.port,
        real: target.real,
        real_generation: target.generation,
        service: target.service,
        answered: 1,
        server_isn: flow.sequence,
        last_seen_ns: now,
        ..Embryo::default()
    }
}

/// Translates a packet and sends it to the client.
#[inline(always)]
fn return_to<A: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    shared: (A, u16),
    hop: &Hop,
) -> Reason {
    let route = if hop.is_known() {
        *hop
    } else {
        from_here(tables, flow.key.dst.route(packet, shared.0), true)
    };
    let translation = Translation::reverse(&flow.key, shared);
    send(packet, flow, Direction::Reverse, &translation, &route)
}

/// Key of the half-open connection of a packet to a client.
#[inline(always)]
const fn embryo_key<A: Copy>(flow: &Flow<A>) -> EmbryoKey<A> {
    EmbryoKey {
        client: flow.key.dst,
        port: flow.key.dport,
        pad: 0,
    }
}
