//! Pairs of entries: made, announced and removed together.

use ha_common::conn::{Conn, ConnKey, ConnState, flags};
use ha_common::event::EventKind;
use ha_common::reason::Tally;
use ha_common::service::Load;

use crate::family::Family;
use crate::packet::Hop;
use crate::rewrite::{Direction, Translation};
use crate::schedule::Target;
use crate::tables::{Flows, InsertError, Shared, Tables, tally};
use crate::work::Work;

/// How a connection enters the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct First {
    /// [`flags`] besides those that follow from other things.
    pub flags: u8,
    /// State.
    pub state: ConnState,
}

/// What came of making a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The entries were made.
    New,
    /// Another CPU was faster; its entry holds.
    Existing,
    /// Another flow with this client address and port goes to the same real server.
    Clash,
    /// The table is full.
    Full,
}

/// Makes the entries of the connection [`Work::key`] to [`Work::target`], as [`Work::plan`] says, and
/// announces it.
///
/// The reverse entry comes first: once the forward entry exists, answers find theirs. Whoever adds
/// the forward entry has made the connection, so two CPUs that see packets of one flow at the same
/// time agree on one of them.
#[inline(never)]
pub fn create<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>, way_back: &Hop) -> Created {
    forward(work, way_back, tables.coarse_ns());
    let one_way = work.target.flags & flags::ONE_WAY != 0;
    if !one_way {
        reverse_key(work);
        reverse(work);
        match add_reverse(tables, work) {
            Created::New => {}
            refused @ (Created::Existing | Created::Clash | Created::Full) => return refused,
        }
    }
    match tables.add_conn(&work.key, &work.forward) {
        Ok(()) => {
            began(tables, work.target.real);
            announce(tables, &work.key, &work.forward, EventKind::Add);
            Created::New
        }
        Err(error) => {
            if !one_way && !leads_to(tables, &work.key, &work.target) {
                tables.remove_conn(&work.reverse_key);
            }
            match error {
                InsertError::Exists => Created::Existing,
                InsertError::Full => Created::Full,
            }
        }
    }
}

/// Adds the entry of a real server's packets.
#[inline(always)]
fn add_reverse<A: Family, T: Flows<A>>(tables: T, work: &Work<A>) -> Created {
    match tables.add_conn(&work.reverse_key, &work.reverse) {
        Ok(()) => Created::New,
        Err(InsertError::Full) => Created::Full,
        Err(InsertError::Exists) => {
            if !is_half_of(tables, &work.reverse_key, &work.key) {
                return Created::Clash;
            }
            // Of this flow: another CPU's, or left over from a pair that lost its other half.
            tables.remove_conn(&work.reverse_key);
            match tables.add_conn(&work.reverse_key, &work.reverse) {
                Err(InsertError::Full) => Created::Full,
                Ok(()) | Err(InsertError::Exists) => Created::New,
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

/// Fills in the entry of a client's packets.
#[inline(never)]
fn forward<A: Family>(work: &mut Work<A>, way_back: &Hop, now: u64) -> bool {
    let (entry, target, first) = (&mut work.forward, &work.target, &work.plan.first);
    entry.real = target.real;
    entry.real_generation = target.generation;
    entry.flags = first.flags | target.flags;
    if way_back.is_known() {
        entry.flags |= flags::HOP_KNOWN;
    }
    entry.state = first.state as u8;
    entry.service = target.service;
    entry.version = 0;
    entry.hop_ifindex = way_back.ifindex;
    way_back.mac.write(&mut entry.hop_mac);
    way_back.src.write(&mut entry.hop_src);
    entry.last_seen_ns = now;
    entry.created_ns = now;
    let from =
        (target.flags & flags::BOTH_ENDS != 0).then_some((target.from_addr, target.from_port));
    let to = (target.addr, target.port);
    translate(
        entry,
        Translation::new(&work.key, Direction::Forward, to, from),
    );
    from.is_some()
}

/// Fills in the key of a real server's packets, given the entry of the client's. Apart from the entry: both ask whether
/// both ends are translated, and that the answers are one is more than the verifier remembers before Linux 6.3.
#[inline(never)]
fn reverse_key<A: Family>(work: &mut Work<A>) -> bool {
    work.reverse_key = work.forward.partner_key(&work.key);
    true
}

/// Fills in the entry of a real server's packets, given that of the client's and its own key.
#[inline(never)]
fn reverse<A: Family>(work: &mut Work<A>) -> bool {
    let (entry, forward) = (&mut work.reverse, &work.forward);
    entry.real = forward.real;
    entry.real_generation = forward.real_generation;
    entry.flags = forward.flags & !flags::BY_HASH | flags::REVERSE;
    entry.state = forward.state;
    entry.service = forward.service;
    entry.version = 0;
    entry.hop_ifindex = forward.hop_ifindex;
    entry.hop_mac = forward.hop_mac;
    entry.hop_src = forward.hop_src;
    entry.last_seen_ns = forward.last_seen_ns;
    entry.created_ns = forward.created_ns;
    let from = (forward.flags & flags::BOTH_ENDS != 0).then_some((work.key.src, work.key.sport));
    let to = (work.key.dst, work.key.dport);
    let translation = Translation::new(&work.reverse_key, Direction::Reverse, to, from);
    translate(entry, translation);
    from.is_some()
}

#[inline(always)]
fn translate<A: Family>(entry: &mut Conn<A>, translation: Translation<A>) {
    entry.to_addr = translation.to;
    entry.to_port = translation.to_port;
    entry.from_addr = translation.from;
    entry.from_port = translation.from_port;
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
    // Read first: the element may be given to another key as soon as it is removed.
    let conn = entry.get();
    let removed = tables.remove_conn(key);
    if removed && !conn.is_reverse() {
        ended(tables, conn.real);
        announce(tables, key, &conn, EventKind::Delete);
    }
    removed
}

/// Counts a connection of a real server. What two CPUs do at once may be counted once; the agent puts it
/// right.
#[inline(always)]
fn began<T: Tables>(tables: T, real: u16) {
    if let Some(load) = tables.load(real) {
        load.update(|load: &mut Load| load.connections += 1);
    }
    if let Some(traffic) = tables.traffic(real) {
        traffic.update(|traffic| traffic.connections += 1);
    }
}

#[inline(always)]
fn ended<T: Tables>(tables: T, real: u16) {
    if let Some(load) = tables.load(real)
        && load.get().connections > 0
    {
        load.update(|load: &mut Load| load.connections -= 1);
    }
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
    let told = tables.event(|event| {
        event.at_ns = tables.precise_ns();
        event.key = *key;
        event.real_addr = forward.to_addr;
        event.real_port = forward.to_port;
        event.from_addr = forward.from_addr;
        event.from_port = forward.from_port;
        event.version = forward.version;
        event.kind = kind as u8;
        event.state = forward.state;
        event.flags = forward.flags;
        event.service = forward.service;
        event.real = forward.real;
    });
    if !told {
        tally(tables, Tally::EventLost);
    }
}
