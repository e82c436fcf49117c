//! Packets to a shared address that belong to no established connection.

use ha_common::conn::{ConnState, Embryo, EmbryoKey, flags};
use ha_common::reason::{Reason, Tally};
use ha_common::service::{Address, RealState, Service, ServiceKey, service_flags};

use super::entry::{Created, First, create};
use super::full_nat::stand_in;
use super::{expired, server};
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::ethernet;
use crate::parse::transport::{Flow, flag};
use crate::rewrite::{Direction, Translation};
use crate::schedule::{Choice, Target, choose, remember};
use crate::send::{deliver, real_hop};
use crate::tables::{Flows, Shared, Tables, gate_open, tally};
use crate::virtual_mac::from_here;
use crate::work::Work;

/// How far beyond the server's first byte a client may acknowledge and still complete the handshake:
/// what a server may send before it, with TCP Fast Open.
const HANDSHAKE_WINDOW: u32 = 1 << 16;
/// Time in which [`ha_common::control::Config::new_flows_max`] flows may begin.
const PACE_NS: u64 = 1_000_000_000;

/// The service that listens at an address and port: one of that port, else one of every port.
#[inline(always)]
pub(super) fn service_at<A: Family, T: Flows<A>>(
    tables: T,
    addr: A,
    port: u16,
    proto: u32,
) -> Option<Shared<Service>> {
    let proto = proto as u16;
    tables
        .service(&ServiceKey { addr, port, proto })
        .or_else(|| {
            tables.service(&ServiceKey {
                addr,
                port: 0,
                proto,
            })
        })
}

/// Judges a packet to a shared address.
#[inline(always)]
pub(super) fn handle<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Reason {
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return Reason::GateClosed;
    }
    let key = &work.flow.key;
    let Some(service) = service_at(tables, key.dst, key.dport, key.proto) else {
        return server::answer_to_stand_in(packet, tables, work, now);
    };
    work.vip = work.flow.key.dst;
    work.key = work.flow.key;
    if work.flow.ttl <= 1 {
        return expired(packet, tables, work);
    }
    if !work.flow.is_tcp() {
        return open(packet, tables, work, service, Choice::Scheduled);
    }
    if work.flow.is_syn() {
        return request(packet, tables, work, service, now);
    }
    if let Some(embryo) = tables.embryo(&embryo_key(&work.flow))
        && is_of(embryo, &work.flow, now)
        && let Some(reason) = half_open(packet, tables, work, service, embryo)
    {
        return reason;
    }
    if service.get().flags & service_flags::NO_RESTEER != 0 {
        return Reason::UnknownConnection;
    }
    if work.flow.rebuilds() {
        open(packet, tables, work, service, Choice::ByHash)
    } else {
        stateless(packet, tables, work, service)
    }
}

/// A connection request: a new half-open connection, or one of which the request is repeated.
#[inline(never)]
fn request<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    service: Shared<Service>,
    now: u64,
) -> Reason {
    work.embryo_key = embryo_key(&work.flow);
    let before = tables.embryo(&work.embryo_key);
    if let Some(before) = before
        && is_of(before, &work.flow, now)
        && usable(tables, before.get().real, before.get().real_generation)
    {
        let hop = ethernet::way_back(packet);
        before.update(|embryo| {
            embryo.last_seen_ns = now;
            if hop.is_known() {
                embryo.hop_ifindex = hop.ifindex;
                hop.mac.write(&mut embryo.hop_mac);
                hop.src.write(&mut embryo.hop_src);
            }
        });
        take_target(work, before);
        return forward_to(packet, tables, work);
    }
    if cannot_remember::<A, _>(tables, now) {
        return stateless(packet, tables, work, service);
    }
    let target = &mut work.target;
    if let Some(reason) = choose(tables, service, &work.key, Choice::Scheduled, target) {
        return reason;
    }
    let both_ends = work.target.flags & flags::BOTH_ENDS != 0;
    if both_ends && !stand_in(tables, &work.key, &mut work.target) {
        return Reason::PortClash;
    }
    if before.is_some() {
        tally(tables, Tally::EmbryoReplaced);
    }
    fill_embryo(packet, work, now);
    let mut kept = tables.put_embryo(&work.embryo_key, &work.embryo);
    if both_ends && kept {
        // The answer is found by what stands in for the client.
        work.embryo_key = stand_in_key(&work.target);
        work.embryo.from_addr = work.key.src;
        work.embryo.from_port = work.key.sport;
        kept = tables.put_embryo(&work.embryo_key, &work.embryo);
    }
    if !kept {
        tally(tables, Tally::Stateless);
        if both_ends {
            return Reason::TableFull;
        }
    }
    forward_to(packet, tables, work)
}

/// Fills in the half-open connection of a request.
#[inline(always)]
fn fill_embryo<A: Family, P: Packet>(packet: &mut P, work: &mut Work<A>, now: u64) {
    let hop = ethernet::way_back(packet);
    let (embryo, target) = (&mut work.embryo, &work.target);
    embryo.vip = work.key.dst;
    embryo.real_addr = target.addr;
    embryo.from_addr = target.from_addr;
    embryo.vport = work.key.dport;
    embryo.real_port = target.port;
    embryo.from_port = target.from_port;
    embryo.real = target.real;
    embryo.real_generation = target.generation;
    embryo.service = target.service;
    embryo.flags = target.flags;
    embryo.answered = 0;
    embryo.server_isn = 0;
    embryo.hop_ifindex = hop.ifindex;
    hop.mac.write(&mut embryo.hop_mac);
    hop.src.write(&mut embryo.hop_src);
    embryo.last_seen_ns = now;
}

/// A packet of a half-open connection. `None` if its real server's id has gone to another.
///
/// It completes the handshake if it acknowledges what the server sent, which a sender that does not
/// receive cannot know; where the server's answer does not come this way, the client's next packet has to
/// do. Else it is forwarded and changes nothing: the real server judges it.
#[inline(never)]
fn half_open<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    service: Shared<Service>,
    embryo: Shared<Embryo<A>>,
) -> Option<Reason> {
    let real = tables.real(embryo.get().real)?;
    if real.get().generation != embryo.get().real_generation {
        return None;
    }
    match RealState::from_u8(real.get().state) {
        RealState::Unused => return None,
        RealState::Down => return Some(Reason::RealServerDown),
        RealState::Up | RealState::Draining => {}
    }
    take_target(work, embryo);
    if completes(&work.flow, embryo) {
        if tables.table_full() {
            tally(tables, Tally::Stateless);
            return Some(forward_to(packet, tables, work));
        }
        let fin = work.flow.flags & flag::FIN != 0;
        let first = First {
            flags: 0,
            state: if fin {
                ConnState::ClientClosing
            } else {
                ConnState::Established
            },
        };
        match create(tables, work, first, &ethernet::way_back(packet)) {
            Created::New => {
                tally(tables, Tally::Established);
                remember(tables, service, &work.key, &work.target);
                tables.remove_embryo(&embryo_key(&work.flow));
                if work.target.flags & flags::BOTH_ENDS != 0 {
                    tables.remove_embryo(&stand_in_key(&work.target));
                }
            }
            Created::Existing => winner(tables, work),
            Created::Clash => return Some(Reason::PortClash),
            Created::Full => tally(tables, Tally::Stateless),
        }
    }
    Some(forward_to(packet, tables, work))
}

/// Whether a packet completes the handshake of a half-open connection.
#[inline(always)]
fn completes<A: Copy>(flow: &Flow<A>, embryo: Shared<Embryo<A>>) -> bool {
    let acknowledged = flow
        .acknowledgement
        .wrapping_sub(embryo.get().server_isn.wrapping_add(1));
    let proven = embryo.get().flags & flags::ONE_WAY != 0
        || (embryo.get().answered != 0 && acknowledged < HANDSHAKE_WINDOW);
    flow.flags & (flag::SYN | flag::RST | flag::ACK) == flag::ACK && proven
}

/// A packet that makes a connection by itself: a first datagram, or a segment of a connection that
/// the other node knew.
#[inline(never)]
fn open<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    service: Shared<Service>,
    choice: Choice,
) -> Reason {
    if cannot_remember::<A, _>(tables, tables.coarse_ns()) {
        return stateless(packet, tables, work, service);
    }
    if let Some(reason) = choose(tables, service, &work.key, choice, &mut work.target) {
        return reason;
    }
    let rebuilt = work.flow.is_tcp();
    if work.target.flags & flags::BOTH_ENDS != 0 {
        // Which port stood in for this client, only the other node knew.
        if rebuilt {
            return Reason::UnknownConnection;
        }
        if !stand_in(tables, &work.key, &mut work.target) {
            return Reason::PortClash;
        }
    }
    let first = First {
        flags: if rebuilt { flags::RECONSTRUCTED } else { 0 },
        state: ConnState::Established,
    };
    match create(tables, work, first, &ethernet::way_back(packet)) {
        Created::New => {
            let entered = if rebuilt {
                Tally::Reconstructed
            } else {
                Tally::Established
            };
            tally(tables, entered);
            remember(tables, service, &work.key, &work.target);
        }
        Created::Existing => winner(tables, work),
        Created::Clash => return Reason::PortClash,
        Created::Full => {
            tally(tables, Tally::Stateless);
            return stateless(packet, tables, work, service);
        }
    }
    forward_to(packet, tables, work)
}

/// Forwards by hash and remembers nothing.
#[inline(never)]
fn stateless<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    service: Shared<Service>,
) -> Reason {
    let target = &mut work.target;
    if let Some(reason) = choose(tables, service, &work.key, Choice::ByHash, target) {
        return reason;
    }
    // Without an entry nobody would know whom the answer is for.
    if work.target.flags & flags::BOTH_ENDS != 0 {
        return Reason::TableFull;
    }
    forward_to(packet, tables, work)
}

/// Sends a packet to its target.
#[inline(never)]
fn forward_to<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Reason {
    let Some(real) = tables.real(work.target.real) else {
        return Reason::NoRealServer;
    };
    let both_ends = aim(work);
    work.hop = if real.get().hop_known != 0 {
        real_hop(real)
    } else {
        let source = if both_ends {
            &work.target.from_addr
        } else {
            &work.flow.key.src
        };
        from_here(tables, work.target.addr.route(packet, source), true)
    };
    let id = work.target.real;
    deliver(packet, tables, work, Direction::Forward, id)
}

/// Finds out what the packet's way to its target writes into it. Returns whether at both ends.
#[inline(never)]
fn aim<A: Family>(work: &mut Work<A>) -> bool {
    let target = &work.target;
    let both_ends = target.flags & flags::BOTH_ENDS != 0;
    let from = both_ends.then_some((target.from_addr, target.from_port));
    let to = (target.addr, target.port);
    work.translation = Translation::new(&work.flow.key, Direction::Forward, to, from);
    both_ends
}

/// Whether a flow that begins now is to be forwarded without an entry: the table is nearly full, or too
/// many flows begin.
#[inline(always)]
fn cannot_remember<A, T: Flows<A>>(tables: T, now: u64) -> bool {
    if tables.table_full() {
        tally(tables, Tally::Stateless);
        return true;
    }
    let max = tables
        .config()
        .map_or(0, |config| config.get().new_flows_max);
    let Some(pace) = tables.pace().filter(|_| max != 0) else {
        return false;
    };
    let mut counted = pace.get();
    if now.saturating_sub(counted.since_ns) >= PACE_NS {
        (counted.since_ns, counted.flows) = (now, 0);
    }
    counted.flows += 1;
    pace.update(|pace| *pace = counted);
    let limited = counted.flows > u64::from(max);
    if limited {
        tally(tables, Tally::FlowsLimited);
    }
    limited
}

/// Turns to the real server of the entry that another CPU made for this flow.
#[inline(always)]
fn winner<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>) {
    if let Some(entry) = tables.conn(&work.key) {
        let (entry, target) = (entry.get(), &mut work.target);
        target.addr = entry.to_addr;
        target.port = entry.to_port;
        target.from_addr = entry.from_addr;
        target.from_port = entry.from_port;
        target.real = entry.real;
        target.generation = entry.real_generation;
    }
}

/// Key of the half-open connection of a packet from a client.
#[inline(always)]
const fn embryo_key<A: Copy>(flow: &Flow<A>) -> EmbryoKey<A> {
    EmbryoKey {
        client: flow.key.src,
        port: flow.key.sport,
        pad: 0,
    }
}

/// The key by which a real server's answer finds it with full NAT.
#[inline(always)]
const fn stand_in_key<A: Copy>(target: &Target<A>) -> EmbryoKey<A> {
    EmbryoKey {
        client: target.from_addr,
        port: target.from_port,
        pad: 0,
    }
}

/// Whether a half-open connection is that of this packet from a client, and still believed.
#[inline(always)]
fn is_of<A: Address>(embryo: Shared<Embryo<A>>, flow: &Flow<A>, now: u64) -> bool {
    embryo.get().vip == flow.key.dst
        && embryo.get().vport == flow.key.dport
        && is_fresh(embryo, now)
}

/// Whether a half-open connection is still believed.
#[inline(always)]
pub(super) fn is_fresh<A: Copy>(embryo: Shared<Embryo<A>>, now: u64) -> bool {
    now.saturating_sub(embryo.get().last_seen_ns) < Embryo::<A>::LIFETIME_NS
}

/// Whether a real server still takes packets of a handshake that began with it.
#[inline(always)]
fn usable<T: Tables>(tables: T, id: u16, generation: u16) -> bool {
    tables.real(id).is_some_and(|real| {
        let real = real.get();
        real.generation == generation
            && matches!(
                RealState::from_u8(real.state),
                RealState::Up | RealState::Draining
            )
    })
}

/// Takes the real server of a half-open connection.
#[inline(always)]
fn take_target<A: Copy>(work: &mut Work<A>, embryo: Shared<Embryo<A>>) {
    let (embryo, target) = (embryo.get(), &mut work.target);
    target.addr = embryo.real_addr;
    target.from_addr = embryo.from_addr;
    target.port = embryo.real_port;
    target.from_port = embryo.from_port;
    target.real = embryo.real;
    target.generation = embryo.real_generation;
    target.service = embryo.service;
    target.flags = embryo.flags;
}
