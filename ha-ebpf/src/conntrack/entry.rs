//! Pairs of entries: made, announced and removed together.

use ha_common::conn::{Conn, ConnKey, ConnState, flags};
use ha_common::event::{ConnEvent, EventKind};
use ha_common::reason::Tally;
use ha_common::service::Address;

use crate::family::Family;
use crate::packet::Hop;
use crate::rewrite::Translation;
use crate::schedule::{Target, reverse_key};
use crate::tables::{Flows, InsertError, Shared, tally};

/// How a connection enters the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// [`flags`] besides those that follow from other things.
    pub flags: u8,
    /// State.
    pub state: ConnState,
}

/// What came of making a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// Both entries were made.
    New,
    /// Another CPU was faster; its entry holds.
    Existing,
    /// Another flow with this client address and port goes to the same real server.
    Clash,
    /// The table is full.
    Full,
}

/// Makes both entries of a connection from a client to `target` and announces it.
///
/// The reverse entry comes first: once the forward entry exists, answers find theirs. Whoever adds
/// the forward entry has made the connection, so two CPUs that see packets of one flow at the same
/// time agree on one of them.
#[inline(never)]
pub fn create<A: Family, T: Flows<A>>(
    tables: T,
    key: &ConnKey<A>,
    target: &Target<A>,
    first: &First,
    way_back: &Hop,
) -> Created {
    let reverse_key = reverse_key(key, (target.addr, target.port));
    let mut entry = fresh(target, first, way_back, tables.coarse_ns());
    entry.flags |= flags::REVERSE;
    translate(&mut entry, (target.addr, target.port), (key.dst, key.dport));
    let mut added = tables.add_conn(&reverse_key, &entry);
    if added == Err(InsertError::Exists) {
        if !is_half_of(tables, &reverse_key, key) {
            return Created::Clash;
        }
        // Of this flow: another CPU's, or left over from a pair that lost its other half.
        tables.remove_conn(&reverse_key);
        added = tables.add_conn(&reverse_key, &entry);
    }
    if added == Err(InsertError::Full) {
        return Created::Full;
    }
    entry.flags = entry.flags & !flags::REVERSE | target.flags;
    translate(&mut entry, (key.dst, key.dport), (target.addr, target.port));
    match tables.add_conn(key, &entry) {
        Ok(()) => {
            announce(tables, key, &entry, EventKind::Add);
            Created::New
        }
        Err(error) => {
            if !leads_to(tables, key, target) {
                tables.remove_conn(&reverse_key);
            }
            match error {
                InsertError::Exists => Created::Existing,
                InsertError::Full => Created::Full,
            }
        }
    }
}

/// Whether the connection of this client goes to that real server.
#[inline(always)]
pub fn leads_to<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>, target: &Target<A>) -> bool {
    tables.conn(key).is_some_and(|entry| {
        let entry = entry.get();
        entry.to_addr == target.addr && entry.to_port == target.port
    })
}

/// Whether the entry at `key` belongs to the same connection as the one at `other`.
#[inline(always)]
pub fn is_half_of<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>, other: &ConnKey<A>) -> bool {
    tables
        .conn(key)
        .is_some_and(|entry| entry.get().partner_key(key) == *other)
}

/// An entry without its translation.
#[inline(always)]
fn fresh<A: Address>(target: &Target<A>, first: &First, way_back: &Hop, now: u64) -> Conn<A> {
    Conn {
        real: target.real,
        real_generation: target.generation,
        flags: if way_back.is_known() {
            first.flags | flags::HOP_KNOWN
        } else {
            first.flags
        },
        state: first.state as u8,
        service: target.service,
        hop_ifindex: way_back.ifindex,
        hop_mac: way_back.mac.bytes(),
        hop_src: way_back.src.bytes(),
        last_seen_ns: now,
        created_ns: now,
        ..Conn::default()
    }
}

#[inline(always)]
fn translate<A: Address>(entry: &mut Conn<A>, from: (A, u16), to: (A, u16)) {
    let translation = Translation::new(from, to);
    entry.to_addr = translation.addr;
    entry.to_port = translation.port;
    entry.l3_delta = translation.l3_delta;
    entry.l4_delta = translation.l4_delta;
}

/// Deletes both entries of a connection, given either.
#[inline(never)]
pub fn remove<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>, entry: Shared<Conn<A>>) -> bool {
    let partner_key = entry.get().partner_key(key);
    if let Some(partner) = tables.conn(&partner_key)
        && partner.get().partner_key(&partner_key) == *key
    {
        remove_one(tables, &partner_key, partner);
    }
    remove_one(tables, key, entry)
}

#[inline(always)]
fn remove_one<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>, entry: Shared<Conn<A>>) -> bool {
    let conn = entry.get();
    let removed = tables.remove_conn(key);
    if removed && !conn.is_reverse() {
        announce(tables, key, &conn, EventKind::Delete);
    }
    removed
}

/// Tells the agent of a change of a connection, given its forward entry, if it wants to know.
#[inline(always)]
pub fn announce<A: Family, T: Flows<A>>(
    tables: T,
    key: &ConnKey<A>,
    forward: &Conn<A>,
    kind: EventKind,
) {
    if tables
        .config()
        .is_none_or(|config| config.get().emit_events == 0)
    {
        return;
    }
    let told = tables.event(&ConnEvent {
        at_ns: tables.precise_ns(),
        key: *key,
        real_addr: forward.to_addr,
        real_port: forward.to_port,
        version: forward.version,
        kind: kind as u8,
        state: forward.state,
        flags: forward.flags,
        service: forward.service,
        real: forward.real,
        pad: 0,
    });
    if !told {
        tally(tables, Tally::EventLost);
    }
}
