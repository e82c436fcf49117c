//! Packets that belong to no established connection and go to none of this node's addresses: answers
//! within a handshake, packets of a connection that the other node knew, and what only passes through.

use ha_common::conn::{ConnKey, Embryo, EmbryoKey, flags};
use ha_common::reason::{Reason, Tally};
use ha_common::service::{RealState, ReturnPath, ServiceKey, service_flags};

use super::client::{Plan, is_fresh, service_at};
use super::entry::{Created, create, leads_to};
use crate::family::Family;
use crate::packet::{Hop, Mac, Packet};
use crate::parse::transport::{Flow, flag};
use crate::rewrite::{Direction, Translation};
use crate::tables::{Flows, Shared, Tables, gate_open, tally};
use crate::virtual_mac::from_here;
use crate::work::Work;

/// Judges a packet to an address that is not this node's.
#[inline(never)]
pub(super) fn handle<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Result<(), Reason> {
    let Some(path) = path_of(tables, &work.flow.key) else {
        return Err(Reason::NotOurs);
    };
    // A real server that opens a connection of its own from the port it serves on.
    if work.flow.is_syn() {
        return Err(Reason::NotOurs);
    }
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return Err(Reason::GateClosed);
    }
    work.vip = path.get().vip;
    if work.flow.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    match half_open(tables, &work.flow, now) {
        Some(embryo) => {
            answer(tables, work, embryo, now);
        }
        None => {
            if let Some(reason) = orphan(tables, work, path, now) {
                return Err(reason);
            }
        }
    }
    return_to(packet, tables, work);
    Ok(())
}

/// Judges a packet to a shared address at which no service listens: a real server's answer to what stands
/// in for a client, or the kernel's.
#[inline(always)]
pub(super) fn answer_to_stand_in<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Result<(), Reason> {
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return Err(Reason::GateClosed);
    }
    match half_open(tables, &work.flow, now) {
        Some(embryo) if embryo.get().flags & flags::BOTH_ENDS != 0 => {
            work.vip = embryo.get().vip;
            if work.flow.ttl <= 1 {
                return Err(Reason::TtlExpired);
            }
            answer(tables, work, embryo, now);
            return_to(packet, tables, work);
            Ok(())
        }
        _ => Err(Reason::SharedAddressLocal),
    }
}

/// The service to which a real server's packet belongs: by its port, else by its address alone.
#[inline(always)]
fn path_of<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>) -> Option<Shared<ReturnPath<A>>> {
    let mut from = ServiceKey {
        addr: key.src,
        port: key.sport,
        proto: key.proto as u16,
    };
    tables.return_path(&from).or_else(|| {
        from.port = 0;
        tables.return_path(&from)
    })
}

/// The handshake to which a real server's packet belongs.
#[inline(always)]
fn half_open<A: Family, T: Flows<A>>(
    tables: T,
    flow: &Flow<A>,
    now: u64,
) -> Option<Shared<Embryo<A>>> {
    if !flow.is_tcp() {
        return None;
    }
    let embryo = tables.embryo(&embryo_key(flow))?;
    (embryo.get().real_addr == flow.key.src
        && embryo.get().real_port == flow.key.sport
        && is_fresh(embryo, now))
    .then_some(embryo)
}

/// A real server's packet within a handshake. Returns whether the client has another name there.
#[inline(never)]
fn answer<A: Family, T: Flows<A>>(
    tables: T,
    work: &mut Work<A>,
    embryo: Shared<Embryo<A>>,
    now: u64,
) -> bool {
    let flow = &work.flow;
    if flow.is_syn_ack() {
        answered(embryo, flow, now);
    }
    let half_open = embryo.get();
    // The client's own name, if the server knows it under another.
    let both_ends = half_open.flags & flags::BOTH_ENDS != 0;
    if both_ends {
        let key = EmbryoKey {
            client: half_open.from_addr,
            port: half_open.from_port,
            pad: 0,
        };
        if flow.flags & flag::RST != 0 {
            tables.remove_embryo(&key);
        } else if flow.is_syn_ack()
            && let Some(embryo) = tables.embryo(&key)
        {
            answered(embryo, flow, now);
        }
    }
    work.hop = Hop {
        ifindex: half_open.hop_ifindex,
        mac: Mac::read(&half_open.hop_mac),
        src: Mac::read(&half_open.hop_src),
    };
    work.vip = half_open.vip;
    let shared = (half_open.vip, half_open.vport);
    let from = both_ends.then_some((half_open.from_addr, half_open.from_port));
    work.translation = Translation::new(&flow.key, Direction::Reverse, shared, from);
    if flow.flags & flag::RST != 0 {
        tables.remove_embryo(&embryo_key(flow));
    }
    work.real = half_open.real;
    both_ends
}

/// Notes that the server has answered.
#[inline(always)]
fn answered<A: Copy>(embryo: Shared<Embryo<A>>, flow: &Flow<A>, now: u64) {
    embryo.update(|embryo| {
        embryo.server_isn = flow.sequence;
        embryo.answered = 1;
        embryo.last_seen_ns = now;
    });
}

/// A real server's packet that no entry explains. It is attributed by the port it comes from, and
/// never leaves untranslated. Returns why it goes nowhere.
#[inline(never)]
fn orphan<A: Family, T: Flows<A>>(
    tables: T,
    work: &mut Work<A>,
    path: Shared<ReturnPath<A>>,
    now: u64,
) -> Option<Reason> {
    if path.get().ambiguous != 0 {
        return Some(Reason::AmbiguousReturn);
    }
    // Where a service has many ports, the real server uses the same.
    let vport = match path.get().vport {
        0 => work.flow.key.sport,
        port => port,
    };
    if let Some(reason) = refusal(tables, path, vport, work.flow.key.proto) {
        return Some(reason);
    }
    let (key, target) = (&mut work.key, &mut work.target);
    key.src = work.flow.key.dst;
    key.dst = work.vip;
    key.sport = work.flow.key.dport;
    key.dport = vport;
    key.proto = work.flow.key.proto;
    target.addr = work.flow.key.src;
    target.port = work.flow.key.sport;
    target.from_addr = A::default();
    target.from_port = 0;
    target.real = path.get().real;
    target.generation = path.get().real_generation;
    target.service = path.get().service;
    target.flags = 0;
    if work.flow.is_syn_ack() {
        expect(tables, work, now);
    } else if work.flow.rebuilds() {
        if tables.table_full() {
            tally(tables, Tally::Stateless);
        } else if !rebuild(tables, work) {
            return Some(Reason::UnknownConnection);
        }
    }
    let shared = (work.vip, vport);
    work.translation = Translation::new(&work.flow.key, Direction::Reverse, shared, None);
    work.hop = Hop::UNKNOWN;
    work.real = work.target.real;
    None
}

/// Why a packet of a real server may not be attributed by its port alone, if so.
#[inline(always)]
fn refusal<A: Family, T: Flows<A>>(
    tables: T,
    path: Shared<ReturnPath<A>>,
    vport: u16,
    proto: u32,
) -> Option<Reason> {
    let Some(real) = tables.real(path.get().real) else {
        return Some(Reason::UnknownConnection);
    };
    if real.get().generation != path.get().real_generation {
        return Some(Reason::UnknownConnection);
    }
    match RealState::from_u8(real.get().state) {
        RealState::Unused => return Some(Reason::UnknownConnection),
        RealState::Down => return Some(Reason::RealServerDown),
        RealState::Up | RealState::Draining => {}
    }
    let service = service_at(tables, path.get().vip, vport, proto)?;
    (service.get().flags & service_flags::NO_RESTEER != 0).then_some(Reason::UnknownConnection)
}

/// Makes the entries of a connection of which the real server speaks first. `false` if the client
/// has since begun another connection with the same ports.
#[inline(always)]
fn rebuild<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>) -> bool {
    work.plan = Plan::rebuilt();
    match create(tables, work, &Hop::UNKNOWN) {
        Created::New => tally(tables, Tally::Reconstructed),
        Created::Full => tally(tables, Tally::Stateless),
        Created::Existing => return leads_to(tables, &work.key, &work.target),
        Created::Clash => return false,
    }
    true
}

/// Remembers the half-open connection of which this is the answer, the request having gone through the
/// other node, or having been forgotten under a flood.
#[inline(always)]
fn expect<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>, now: u64) {
    work.embryo_key = embryo_key(&work.flow);
    work.embryo = Embryo {
        vip: work.key.dst,
        real_addr: work.target.addr,
        vport: work.key.dport,
        real_port: work.target.port,
        real: work.target.real,
        real_generation: work.target.generation,
        service: work.target.service,
        answered: 1,
        server_isn: work.flow.sequence,
        last_seen_ns: now,
        ..Embryo::default()
    };
    tables.put_embryo(&work.embryo_key, &work.embryo);
}

/// The way to the client: the hop that is known, else by the kernel's route.
#[inline(always)]
fn return_to<A: Family, P: Packet, T: Tables>(packet: &mut P, tables: T, work: &mut Work<A>) {
    work.direction = Direction::Reverse;
    if !work.hop.is_known() {
        let client = if work.translation.both_ends {
            &work.translation.from
        } else {
            &work.flow.key.dst
        };
        work.hop = from_here(tables, client.route(packet, &work.vip), true);
    }
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
