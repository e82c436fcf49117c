//! Expiry. User space looks for candidates at leisure; what is deleted is decided here, in the
//! kernel, by the entries as they are now.

use ha_common::LAYOUT_VERSION;
use ha_common::conn::ConnKey;
use ha_common::reason::Tally;
use ha_common::service::{Addr6, Timeouts};
use ha_common::stage::{JANITOR_HEADER, JANITOR_KEYS};

use crate::conntrack::entry::remove;
use crate::family::Family;
use crate::packet::{Field, Packet};
use crate::tables::{Flows, Shared, Tables, tally};

/// Where in the header the family of the keys stands.
const FAMILY: usize = JANITOR_HEADER - 2;
/// Length of an IPv4 key.
const KEY4_LEN: usize = size_of::<ConnKey<u32>>();
/// Length of an IPv6 key.
const KEY6_LEN: usize = size_of::<ConnKey<Addr6>>();
/// IPv4 keys looked at in one run.
const KEYS4: usize = JANITOR_KEYS / KEY4_LEN;
/// IPv6 keys looked at in one run.
const KEYS6: usize = JANITOR_KEYS / KEY6_LEN;

/// Deletes the connections among the listed keys that have been idle for too long, both directions
/// together, and returns how many there were. Maps of another layout are left alone.
#[inline(always)]
pub fn sweep<P: Packet, T: Flows<u32> + Flows<Addr6>>(packet: &mut P, tables: T) -> u32 {
    if tables.layout_version() != LAYOUT_VERSION {
        return 0;
    }
    match packet.window::<JANITOR_HEADER>(0) {
        Some(header) if header.load::<FAMILY, u16>() == 4 => {
            sweep_family::<u32, KEY4_LEN, KEYS4, _, _>(packet, tables)
        }
        Some(header) if header.load::<FAMILY, u16>() == 6 => {
            sweep_family::<Addr6, KEY6_LEN, KEYS6, _, _>(packet, tables)
        }
        _ => 0,
    }
}

#[inline(always)]
fn sweep_family<A, const LEN: usize, const KEYS: usize, P, T>(packet: &mut P, tables: T) -> u32
where
    A: Family + Field,
    P: Packet,
    T: Flows<A>,
{
    let mut expired = 0;
    for index in 0..KEYS {
        let Some(bytes) = packet.window::<LEN>(JANITOR_HEADER + index * LEN) else {
            break;
        };
        expired += expire(tables, &read(bytes.bytes()));
    }
    expired
}

/// The key with these bytes, as it stands in memory.
#[inline(always)]
fn read<A: Family + Field, const LEN: usize>(bytes: &[u8; LEN]) -> ConnKey<A> {
    const { assert!(LEN == size_of::<ConnKey<A>>()) };
    let at = |offset: usize| bytes.as_ptr().wrapping_add(offset);
    let ports = 2 * A::LEN;
    ConnKey {
        // SAFETY: a field of the structure, whose length is that of the bytes.
        src: unsafe { A::load(at(0)) },
        // SAFETY: the same.
        dst: unsafe { A::load(at(A::LEN)) },
        // SAFETY: the same.
        sport: unsafe { u16::load(at(ports)) },
        // SAFETY: the same.
        dport: unsafe { u16::load(at(ports + 2)) },
        // SAFETY: the same.
        proto: unsafe { u32::load(at(ports + 4)) },
    }
}

/// Deletes one connection if it is idle; returns how many were deleted.
#[inline(never)]
fn expire<A: Family, T: Flows<A>>(tables: T, key: &ConnKey<A>) -> u32 {
    let Some(entry) = tables.conn(key) else {
        return 0;
    };
    let partner_key = entry.get().partner_key(key);
    let mut state = entry.get().state;
    let mut last_seen = entry.get().last_seen_ns;
    if let Some(partner) = tables.conn(&partner_key)
        && partner.get().partner_key(&partner_key) == *key
    {
        last_seen = last_seen.max(partner.get().last_seen_ns);
        if entry.get().is_reverse() {
            state = partner.get().state;
        }
    }
    let idle = tables.coarse_ns().saturating_sub(last_seen);
    if idle < timeout(tables, entry.get().service, key.proto, state) || !remove(tables, key, entry)
    {
        return 0;
    }
    tally(tables, Tally::Expired);
    1
}

/// How long a connection may be idle. Those of a service that is gone have the usual time.
#[inline(always)]
fn timeout<T: Tables>(tables: T, service: u16, protocol: u32, state: u8) -> u64 {
    tables
        .timeouts(service)
        .map(Shared::get)
        .filter(|timeouts| timeouts.established_ns != 0)
        .unwrap_or(Timeouts::USUAL)
        .of(protocol, state)
}
