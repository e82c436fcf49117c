//! Packets to a shared address that belong to no established connection.

use ha_common::conn::{ConnState, Embryo, EmbryoKey, flags};
use ha_common::reason::{Reason, Tally};
use ha_common::service::{Address, RealState, Service, ServiceKey, service_flags};

use super::entry::{Created, First, create};
use super::real_hop;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::ethernet;
use crate::parse::transport::{Flow, flag};
use crate::rewrite::{Direction, Translation, send, send_to};
use crate::schedule::{Choice, Target, choose};
use crate::tables::{Flows, Shared, Tables, gate_open, tally};
use crate::virtual_mac::from_here;

/// How far beyond the server's first byte a client may acknowledge and still complete the handshake:
/// what a server may send before it, with TCP Fast Open.
const HANDSHAKE_WINDOW: u32 = 1 << 16;

/// Judges a packet to a shared address.
#[inline(never)]
pub(super) fn handle<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
) -> Reason {
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return Reason::GateClosed;
    }
    let Some(service) = tables.service(&ServiceKey {
        addr: flow.key.dst,
        port: flow.key.dport,
        proto: flow.key.proto as u16,
    }) else {
        return Reason::SharedAddressLocal;
    };
    let service = service.get();
    if flow.ttl <= 1 {
        return Reason::TtlExpired;
    }
    if !flow.is_tcp() {
        return open(packet, tables, flow, &service, Choice::Scheduled);
    }
    if flow.is_syn() {
        return request(packet, tables, flow, &service, now);
    }
    if let Some(embryo) = tables.embryo(&embryo_key(flow))
        && is_of(embryo, flow, now)
        && let Some(reason) = half_open(packet, tables, flow, embryo)
    {
        return reason;
    }
    if service.flags & service_flags::NO_RESTEER != 0 {
        return Reason::UnknownConnection;
    }
    if flow.rebuilds() {
        open(packet, tables, flow, &service, Choice::ByHash)
    } else {
        stateless(packet, tables, flow, &service)
    }
}

/// A connection request: a new half-open connection, or one of which the request is repeated.
#[inline(never)]
fn request<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    service: &Service,
    now: u64,
) -> Reason {
    if table_full(tables) {
        tally(tables, Tally::Stateless);
        return stateless(packet, tables, flow, service);
    }
    let key = embryo_key(flow);
    let before = tables.embryo(&key);
    if let Some(before) = before {
        let embryo = before.get();
        if is_of(before, flow, now) && usable(tables, embryo.real, embryo.real_generation) {
            let hop = ethernet::way_back(packet);
            before.update(|embryo| {
                embryo.last_seen_ns = now;
                if hop.is_known() {
                    embryo.hop_ifindex = hop.ifindex;
                    hop.mac.write(&mut embryo.hop_mac);
                    hop.src.write(&mut embryo.hop_src);
                }
            });
            return forward_to(packet, tables, flow, &target_of(&before.get()));
        }
    }
    let mut target = Target::default();
    if let Some(reason) = choose(tables, service, &flow.key, Choice::Scheduled, &mut target) {
        return reason;
    }
    if before.is_some() {
        tally(tables, Tally::EmbryoReplaced);
    }
    let hop = ethernet::way_back(packet);
    let kept = tables.put_embryo(
        &key,
        &Embryo {
            vip: flow.key.dst,
            real_addr: target.addr,
            vport: flow.key.dport,
            real_port: target.port,
            real: target.real,
            real_generation: target.generation,
            service: target.service,
            flags: target.flags,
            answered: 0,
            server_isn: 0,
            hop_ifindex: hop.ifindex,
            hop_mac: hop.mac.bytes(),
            hop_src: hop.src.bytes(),
            last_seen_ns: now,
        },
    );
    if !kept {
        tally(tables, Tally::Stateless);
    }
    forward_to(packet, tables, flow, &target)
}

/// A packet of a half-open connection. `None` if its real server's id has gone to another.
///
/// It completes the handshake if it acknowledges what the server sent, which a sender that does not
/// receive cannot know. Else it is forwarded and changes nothing: the real server judges it.
#[inline(never)]
fn half_open<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    embryo: Shared<Embryo<A>>,
) -> Option<Reason> {
    let embryo = embryo.get();
    let real = tables.real(embryo.real)?.get();
    if real.generation != embryo.real_generation {
        return None;
    }
    match RealState::from_u8(real.state) {
        RealState::Unused => return None,
        RealState::Down => return Some(Reason::RealServerDown),
        RealState::Up | RealState::Draining => {}
    }
    let mut target = target_of(&embryo);
    let acknowledged = flow
        .acknowledgement
        .wrapping_sub(embryo.server_isn.wrapping_add(1));
    let completes = flow.flags & (flag::SYN | flag::RST | flag::ACK) == flag::ACK
        && embryo.answered != 0
        && acknowledged < HANDSHAKE_WINDOW;
    if completes {
        if table_full(tables) {
            tally(tables, Tally::Stateless);
            return Some(forward_to(packet, tables, flow, &target));
        }
        let fin = flow.flags & flag::FIN != 0;
        let state = if fin {
            ConnState::ClientClosing
        } else {
            ConnState::Established
        };
        let way_back = ethernet::way_back(packet);
        match create(
            tables,
            &flow.key,
            &target,
            &First { flags: 0, state },
            &way_back,
        ) {
            Created::New => {
                tally(tables, Tally::Established);
                tables.remove_embryo(&embryo_key(flow));
            }
            Created::Existing => target = winner(tables, flow, target),
            Created::Clash => return Some(Reason::PortClash),
            Created::Full => tally(tables, Tally::Stateless),
        }
    }
    Some(forward_to(packet, tables, flow, &target))
}

/// A packet that makes a connection by itself: a first datagram, or a segment of a connection that
/// the other node knew.
#[inline(never)]
fn open<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    service: &Service,
    choice: Choice,
) -> Reason {
    if table_full(tables) {
        tally(tables, Tally::Stateless);
        return stateless(packet, tables, flow, service);
    }
    let mut target = Target::default();
    if let Some(reason) = choose(tables, service, &flow.key, choice, &mut target) {
        return reason;
    }
    let rebuilt = flow.is_tcp();
    let first = First {
        flags: if rebuilt { flags::RECONSTRUCTED } else { 0 },
        state: ConnState::Established,
    };
    let way_back = ethernet::way_back(packet);
    match create(tables, &flow.key, &target, &first, &way_back) {
        Created::New if rebuilt => tally(tables, Tally::Reconstructed),
        Created::New => tally(tables, Tally::Established),
        Created::Existing => target = winner(tables, flow, target),
        Created::Clash => return Reason::PortClash,
        Created::Full => {
            tally(tables, Tally::Stateless);
            return stateless(packet, tables, flow, service);
        }
    }
    forward_to(packet, tables, flow, &target)
}

/// Forwards by hash and remembers nothing.
#[inline(never)]
fn stateless<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    service: &Service,
) -> Reason {
    let mut target = Target::default();
    if let Some(reason) = choose(tables, service, &flow.key, Choice::ByHash, &mut target) {
        return reason;
    }
    forward_to(packet, tables, flow, &target)
}

/// Translates a packet and sends it to a real server.
#[inline(never)]
fn forward_to<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    target: &Target<A>,
) -> Reason {
    let Some(real) = tables.real(target.real) else {
        return Reason::NoRealServer;
    };
    let translation = Translation::forward(&flow.key, (target.addr, target.port));
    if real.get().hop_known != 0 {
        return send_to(packet, flow, Direction::Forward, &translation, || {
            real_hop(real)
        });
    }
    let hop = target.addr.route(packet, flow.key.src);
    let hop = from_here(tables, hop, true);
    send(packet, flow, Direction::Forward, &translation, &hop)
}

/// The real server of the entry that another CPU made for this flow.
#[inline(always)]
fn winner<A: Family, T: Flows<A>>(tables: T, flow: &Flow<A>, loser: Target<A>) -> Target<A> {
    match tables.conn(&flow.key) {
        Some(entry) => {
            let entry = entry.get();
            Target {
                addr: entry.to_addr,
                port: entry.to_port,
                real: entry.real,
                generation: entry.real_generation,
                ..loser
            }
        }
        None => loser,
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

/// Whether a half-open connection is that of this packet from a client, and still believed.
#[inline(always)]
fn is_of<A: Address>(embryo: Shared<Embryo<A>>, flow: &Flow<A>, now: u64) -> bool {
    let embryo = embryo.get();
    embryo.vip == flow.key.dst && embryo.vport == flow.key.dport && is_fresh(&embryo, now)
}

/// Whether a half-open connection is still believed.
#[inline(always)]
pub(super) const fn is_fresh<A>(embryo: &Embryo<A>, now: u64) -> bool {
    now.saturating_sub(embryo.last_seen_ns) < Embryo::<A>::LIFETIME_NS
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

#[inline(always)]
const fn target_of<A: Copy>(embryo: &Embryo<A>) -> Target<A> {
    Target {
        addr: embryo.real_addr,
        port: embryo.real_port,
        real: embryo.real,
        generation: embryo.real_generation,
        service: embryo.service,
        flags: embryo.flags & flags::BY_HASH,
    }
}

/// Whether the agent asks to make no more entries.
#[inline(always)]
pub(super) fn table_full<T: Tables>(tables: T) -> bool {
    tables
        .config()
        .is_some_and(|config| config.get().table_full != 0)
}
