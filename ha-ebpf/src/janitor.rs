//! Expiry. User space looks for candidates at leisure; what is deleted is decided here, in the
//! kernel, by the entries as they are now.

use ha_common::LAYOUT_VERSION;
use ha_common::conn::{ConnKey4, ConnState};
use ha_common::control::Config;
use ha_common::proto;
use ha_common::reason::Tally;

use crate::conntrack::entry::remove;
use crate::packet::Packet;
use crate::tables::{Flows, Shared, tally};

/// Bytes before the first key: a frame must be longer than an Ethernet header.
pub const HEADER_LEN: usize = 16;
/// Keys looked at in one run.
pub const KEYS: usize = 64;
/// Length of a key.
const KEY_LEN: usize = size_of::<ConnKey4>();

/// Deletes the connections among the listed keys that have been idle for too long, both directions
/// together, and returns how many there were. Maps of another layout are left alone.
#[inline(always)]
pub fn sweep<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T) -> u32 {
    let Some(config) = tables.config() else {
        return 0;
    };
    if tables.layout_version() != LAYOUT_VERSION {
        return 0;
    }
    let config = config.get();
    let now = tables.coarse_ns();
    let mut expired = 0;
    for index in 0..KEYS {
        let Some(bytes) = packet.window::<KEY_LEN>(HEADER_LEN + index * KEY_LEN) else {
            break;
        };
        let key = ConnKey4 {
            src: bytes.load::<0, _>(),
            dst: bytes.load::<4, _>(),
            sport: bytes.load::<8, _>(),
            dport: bytes.load::<10, _>(),
            proto: bytes.load::<12, _>(),
        };
        expired += expire(tables, &config, &key, now);
    }
    expired
}

/// Deletes one connection if it is idle; returns how many were deleted.
#[inline(never)]
fn expire<T: Flows<u32>>(tables: T, config: &Config, key: &ConnKey4, now: u64) -> u32 {
    let Some(entry) = tables.conn(key) else {
        return 0;
    };
    let conn = entry.get();
    let partner_key = conn.partner_key(key);
    let partner = tables.conn(&partner_key).map(Shared::get);
    let mut state = conn.state;
    let mut last_seen = conn.last_seen_ns;
    if let Some(partner) = partner
        && partner.partner_key(&partner_key) == *key
    {
        last_seen = last_seen.max(partner.last_seen_ns);
        if conn.is_reverse() {
            state = partner.state;
        }
    }
    if now.saturating_sub(last_seen) < timeout(config, key.proto, state)
        || !remove(tables, key, entry)
    {
        return 0;
    }
    tally(tables, Tally::Expired);
    1
}

/// How long a connection may be idle.
#[inline(always)]
fn timeout(config: &Config, protocol: u32, state: u8) -> u64 {
    if protocol != u32::from(proto::TCP) {
        return config.udp_timeout_ns;
    }
    match ConnState::from_u8(state) {
        Some(ConnState::ClientClosing | ConnState::ServerClosing) => config.closing_timeout_ns,
        Some(ConnState::TimeWait | ConnState::Closed) => config.closed_timeout_ns,
        Some(ConnState::Established) | None => config.tcp_timeout_ns,
    }
}
