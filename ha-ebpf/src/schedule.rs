//! Choosing a real server for a new connection.

use ha_common::conn::{ConnKey, flags};
use ha_common::hash;
use ha_common::reason::Reason;
use ha_common::service::{RealState, Scheduler, Service};

use crate::family::Family;
use crate::tables::Flows;

/// How many candidates are looked at: the first choice and four more.
const CANDIDATES: u32 = 5;

/// A real server that was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target<A> {
    /// Its address, network order.
    pub addr: A,
    /// Its port, network order.
    pub port: u16,
    /// Its id.
    pub real: u16,
    /// Generation of the id.
    pub generation: u16,
    /// Service id.
    pub service: u16,
    /// [`flags::BY_HASH`] if the partner would choose the same.
    pub flags: u8,
}

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As the service's scheduler says.
    Scheduled,
    /// By the Maglev table, whatever the scheduler: for packets of connections not in the table.
    ByHash,
}

/// Chooses a real server that is up and to which no other flow has this client address and port.
///
/// Returns why there is none.
#[inline(never)]
pub fn choose<A: Family, T: Flows<A>>(
    tables: T,
    service: &Service,
    key: &ConnKey<A>,
    choice: Choice,
    target: &mut Target<A>,
) -> Option<Reason> {
    let round_robin =
        choice == Choice::Scheduled && Scheduler::from_u8(service.scheduler) == Some(Scheduler::Rr);
    let (offset, len) = if round_robin {
        (service.members_offset, service.members_len)
    } else {
        (service.table_offset, service.table_len)
    };
    if len == 0 {
        return Some(Reason::NoRealServer);
    }
    let mut index = if round_robin {
        tables.turn(service.id, len)
    } else {
        hash::reduce(hash::flow(service.hash_seed, key), len)
    };
    let mut failure = Reason::NoRealServer;
    for attempt in 0..CANDIDATES {
        if let Some(id) = tables.slot(offset.wrapping_add(index))
            && let Some(real) = tables.real(id as u16)
        {
            let real = real.get();
            if RealState::from_u8(real.state) == RealState::Up {
                if free(tables, key, (real.addr(), real.port)) {
                    let by_hash = !round_robin && attempt == 0;
                    *target = Target {
                        addr: real.addr(),
                        port: real.port,
                        real: id as u16,
                        generation: real.generation,
                        service: service.id,
                        flags: if by_hash { flags::BY_HASH } else { 0 },
                    };
                    return None;
                }
                failure = Reason::PortClash;
            }
        }
        index = if index + 1 < len { index + 1 } else { 0 };
    }
    Some(failure)
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
fn free<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>, real: (A, u16)) -> bool {
    match tables.conn(&reverse_key(key, real)) {
        None => true,
        Some(taken) => {
            let taken = taken.get();
            taken.to_addr == key.dst && taken.to_port == key.dport
        }
    }
}
