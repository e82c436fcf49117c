//! Choosing a real server for a new connection.

use ha_common::conn::{ConnKey, Persist, PersistKey, flags};
use ha_common::hash;
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, Real, RealState, Scheduler, Service};

use crate::family::Family;
use crate::tables::{Flows, Shared, Tables};

/// How many candidates are looked at: the first choice and four more.
const CANDIDATES: u32 = 5;
/// How many real servers are compared by their connections; of more, as many in turn.
pub const COMPARED: u32 = 32;

/// A real server that was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target<A> {
    /// Its address, network order.
    pub addr: A,
    /// With full NAT, what stands in for the client, see [`ha_common::conn::Conn::from_addr`]; else of no meaning.
    pub from_addr: A,
    /// Its port, network order.
    pub port: u16,
    /// Port that goes with `from_addr`; 0 as long as none was chosen.
    pub from_port: u16,
    /// Its id.
    pub real: u16,
    /// Generation of the id.
    pub generation: u16,
    /// Service id.
    pub service: u16,
    /// The [`flags`] of its connections: [`flags::BY_HASH`] if the partner would choose the same,
    /// [`flags::BOTH_ENDS`] and [`flags::ONE_WAY`] by the forwarding method.
    pub flags: u8,
}

/// How to choose.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Not at all: the real server is known.
    #[default]
    Made,
    /// As the service's scheduler says.
    Scheduled,
    /// By the Maglev table, whatever the scheduler: for packets of connections not in the table. Where the
    /// table has just been replaced by another, such a connection is older than that.
    ByHash,
    /// By the Maglev table for a flow that leaves nothing in the table. Another flow with this client address
    /// and port may go to the same real server, which tells them apart; to find out would cost more than all
    /// the rest.
    Stateless,
    /// The same for a connection that is not in the table, and is not to be.
    StatelessByHash,
}

impl Choice {
    /// The same without an entry in the table.
    #[must_use]
    #[inline(always)]
    pub const fn stateless(self) -> Self {
        match self {
            Self::Made => Self::Made,
            Self::Scheduled | Self::Stateless => Self::Stateless,
            Self::ByHash | Self::StatelessByHash => Self::StatelessByHash,
        }
    }

    /// Whether no other flow with this client address and port may go to the same real server.
    #[inline(always)]
    const fn is_alone(self) -> bool {
        matches!(self, Self::Made | Self::Scheduled | Self::ByHash)
    }
}

/// Chooses a real server that is up, has room, and to which no other flow has this client address and
/// port.
///
/// Returns why there is none.
#[inline(never)]
pub fn choose<A: Family, T: Flows<A>>(
    tables: T,
    service: Shared<Service>,
    key: &ConnKey<A>,
    choice: Choice,
    target: &mut Target<A>,
) -> Option<Reason> {
    let alone = choice.is_alone();
    if service.get().persist_seconds != 0 && persisted(tables, service, key, target) {
        return None;
    }
    if matches!(choice, Choice::ByHash | Choice::StatelessByHash)
        && service.get().former_offset != 0
        && formerly(tables, service, key, alone, target)
    {
        return None;
    }
    let value = service;
    let service = service.get();
    let scheduler = match (choice, Scheduler::from_u8(service.scheduler)) {
        (Choice::ByHash | Choice::Stateless | Choice::StatelessByHash, Some(Scheduler::Sh)) => {
            Scheduler::Sh
        }
        (Choice::ByHash | Choice::Stateless | Choice::StatelessByHash | Choice::Made, _)
        | (Choice::Scheduled, None) => Scheduler::Mh,
        (Choice::Scheduled, Some(scheduler)) => scheduler,
    };
    let by_hash = scheduler.is_hash();
    let (offset, len) = if by_hash {
        (service.table_offset, service.table_len)
    } else {
        (service.members_offset, service.members_len)
    };
    let mut failure = Reason::NoRealServer;
    if len != 0 {
        let first = match scheduler {
            Scheduler::Mh | Scheduler::Sh => hash::reduce(hash_of(&service, key), len),
            Scheduler::Rr | Scheduler::Wrr => tables.turn(service.id, len),
            Scheduler::Lc => least(tables, value, false),
            Scheduler::Wlc => least(tables, value, true),
        };
        for attempt in 0..CANDIDATES {
            // Behind the list begins that of another service.
            if attempt >= len {
                break;
            }
            if let Some(id) = tables.slot(offset.wrapping_add(wrapped(first + attempt, len))) {
                match take(tables, key, id as u16, alone, target) {
                    None => {
                        if by_hash && attempt == 0 {
                            target.flags |= flags::BY_HASH;
                        }
                        return None;
                    }
                    Some(Reason::NoRealServer) => {}
                    Some(reason) => failure = reason,
                }
            }
        }
    }
    if service.last_resort != 0 {
        return take(tables, key, service.last_resort, alone, target);
    }
    Some(failure)
}

/// What leads this flow to a slot of a Maglev table.
#[inline(always)]
fn hash_of<A: Family>(service: &Service, key: &ConnKey<A>) -> u32 {
    if service.scheduler == Scheduler::Sh as u8 {
        hash::client(service.hash_seed, key.src)
    } else {
        hash::flow(service.hash_seed, key)
    }
}

/// Takes the real server that the Maglev table before this one named, if that is another one and still
/// serves the connections it has. The partner need not know that table, so it is not told that it would
/// choose the same.
#[inline(never)]
fn formerly<A: Family, T: Flows<A>>(
    tables: T,
    service: Shared<Service>,
    key: &ConnKey<A>,
    alone: bool,
    target: &mut Target<A>,
) -> bool {
    let service = &service.get();
    let hash = hash_of(service, key);
    let slot = |offset: u32, len: u32| match len {
        0 => None,
        _ => tables.slot(offset.wrapping_add(hash::reduce(hash, len))),
    };
    let len = tables.slot(service.former_offset.wrapping_sub(1));
    let Some(was) = slot(service.former_offset, len.unwrap_or(0)) else {
        return false;
    };
    if slot(service.table_offset, service.table_len) == Some(was) {
        return false;
    }
    let Some(real) = tables.real(was as u16) else {
        return false;
    };
    let real = real.get();
    real.service == service.id
        && matches!(
            RealState::from_u8(real.state),
            RealState::Up | RealState::Draining
        )
        && aim(tables, key, (was as u16, &real), alone, target).is_none()
}

/// Takes a real server if it is up, has room, and, where it is to be `alone` there, if the connection would
/// not clash with another. Returns why not.
#[inline(never)]
fn take<A: Family, T: Flows<A>>(
    tables: T,
    key: &ConnKey<A>,
    id: u16,
    alone: bool,
    target: &mut Target<A>,
) -> Option<Reason> {
    let Some(real) = tables.real(id) else {
        return Some(Reason::NoRealServer);
    };
    let real = real.get();
    if RealState::from_u8(real.state) != RealState::Up {
        return Some(Reason::NoRealServer);
    }
    if is_full(tables, &real, id) {
        return Some(Reason::RealServersFull);
    }
    aim(tables, key, (id, &real), alone, target)
}

/// Takes a real server unless the connection would clash with another.
#[inline(always)]
fn aim<A: Family, T: Flows<A>>(
    tables: T,
    key: &ConnKey<A>,
    (id, real): (u16, &Real),
    alone: bool,
    target: &mut Target<A>,
) -> Option<Reason> {
    let port = if real.port == 0 { key.dport } else { real.port };
    let addr: A = real.addr();
    let forwarding = Forwarding::from_u8(real.forwarding);
    if alone && forwarding == Forwarding::Nat && !is_free(tables, key, (addr, port)) {
        return Some(Reason::PortClash);
    }
    target.addr = addr;
    target.port = port;
    target.real = id;
    target.generation = real.generation;
    target.service = real.service;
    target.from_addr = A::narrow(real.source);
    target.from_port = 0;
    target.flags = match forwarding {
        Forwarding::Nat => 0,
        Forwarding::FullNat => flags::BOTH_ENDS,
        Forwarding::Dsr | Forwarding::Tunnel => flags::ONE_WAY,
    };
    None
}

/// Whether a real server has as many connections as it may have.
#[inline(always)]
fn is_full<T: Tables>(tables: T, real: &Real, id: u16) -> bool {
    real.connections_max != 0
        && tables
            .load(id)
            .is_some_and(|load| load.get().connections >= u64::from(real.connections_max))
}

/// The member with the fewest connections, or with the fewest for its weight.
#[inline(never)]
fn least<T: Tables>(tables: T, service: Shared<Service>, weighted: bool) -> u32 {
    let service = service.get();
    let len = service.members_len;
    // Of more members than are compared others each time; and of equals not always the same.
    let first = tables.turn(service.id, len);
    let (mut best, mut best_connections, mut best_weight) = (first, u64::from(u32::MAX), 1);
    for compared in 0..COMPARED {
        if compared >= len {
            break;
        }
        let index = wrapped(first + compared, len);
        if let Some(id) = tables.slot(service.members_offset.wrapping_add(index))
            && let Some(real) = tables.real(id as u16)
            && let Some(load) = tables.load(id as u16)
        {
            let (real, load) = (real.get(), load.get());
            let connections = load.connections & u64::from(u32::MAX);
            let weight = if weighted {
                (load.weight & 0xffff).max(1)
            } else {
                1
            };
            // a / b < c / d without a division; the products fit into 48 bits.
            if RealState::from_u8(real.state) == RealState::Up
                && connections * best_weight < best_connections * weight
            {
                (best, best_connections, best_weight) = (index, connections, weight);
            }
        }
    }
    best
}

/// An index beyond the end of a list, but not of a second one behind it, as if the list were a ring.
#[inline(always)]
const fn wrapped(index: u32, len: u32) -> u32 {
    if index >= len { index - len } else { index }
}

/// Takes the real server that the client's earlier connections went to, if it is still to be had.
#[inline(never)]
fn persisted<A: Family, T: Flows<A>>(
    tables: T,
    service: Shared<Service>,
    key: &ConnKey<A>,
    target: &mut Target<A>,
) -> bool {
    let service = &service.get();
    let Some(found) = tables.persist(&persist_key(service, key.src)) else {
        return false;
    };
    let found = found.get();
    let age = tables.coarse_ns().saturating_sub(found.last_seen_ns);
    if age >= u64::from(service.persist_seconds) * 1_000_000_000 {
        return false;
    }
    let Some(real) = tables.real(found.real) else {
        return false;
    };
    let real = real.get();
    real.generation == found.real_generation
        && real.service == service.id
        && take(tables, key, found.real, true, target).is_none()
}

/// Remembers where a client's connection went.
#[inline(always)]
pub fn remember<A: Family, T: Flows<A>>(
    tables: T,
    service: Shared<Service>,
    key: &ConnKey<A>,
    target: &Target<A>,
) {
    let service = &service.get();
    // The last resort is nobody's own: the client goes elsewhere as soon as it can.
    if service.persist_seconds == 0 || target.real == service.last_resort {
        return;
    }
    tables.put_persist(
        &persist_key(service, key.src),
        &Persist {
            real: target.real,
            real_generation: target.generation,
            pad: 0,
            last_seen_ns: tables.coarse_ns(),
        },
    );
}

#[inline(always)]
fn persist_key<A: Family>(service: &Service, client: A) -> PersistKey<A> {
    PersistKey {
        client: client.prefix(service.persist_prefix),
        service: service.id,
        pad: 0,
    }
}

/// The key of the real server's packets to the client.
#[inline(always)]
pub const fn reverse_key<A: Copy>(key: &ConnKey<A>, real: (A, u16)) -> ConnKey<A> {
    ConnKey {
        src: real.0,
        dst: key.src,
        sport: real.1,
        dport: key.sport,
        proto: key.proto,
    }
}

/// Whether no other flow of this client address and port goes to the real server.
#[inline(always)]
fn is_free<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>, real: (A, u16)) -> bool {
    match tables.conn(&reverse_key(key, real)) {
        None => true,
        Some(taken) => {
            let taken = taken.get();
            taken.to_addr == key.dst && taken.to_port == key.dport
        }
    }
}
