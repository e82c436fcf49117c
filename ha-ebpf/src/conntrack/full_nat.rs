//! Full NAT: which port stands in for a client.
//!
//! The nodes of a pair share the address that stands in for clients, and each may be active while the
//! other's connections live on. They take ports of different parity, so none is ever taken twice, not
//! even while each believes to be alone.

use ha_common::conn::{ConnKey, EmbryoKey};
use ha_common::hash;

use super::client::is_fresh;
use crate::family::Family;
use crate::schedule::Target;
use crate::tables::Flows;

/// First port that stands in for a client; those below are reserved (RFC 6335 section 6).
const FIRST: u32 = 1024;
/// Ports of one parity from there on.
const PORTS: u32 = (65536 - FIRST) / 2;
/// How many ports are tried.
const ATTEMPTS: u32 = 8;
/// Keeps the choice of ports apart from that of real servers.
const SALT: u64 = 0x706f_7274_6e61_7421;

/// Chooses the port that stands in for the client on its way to the target. `false` if all that were
/// tried are taken.
#[inline(never)]
pub(super) fn stand_in<A: Family, T: Flows<A>>(
    tables: T,
    key: &ConnKey<A>,
    target: &mut Target<A>,
) -> bool {
    let Some(config) = tables.config() else {
        return false;
    };
    let parity = config.get().node_bit & 1;
    let hash = hash::flow(SALT, key);
    for attempt in 0..ATTEMPTS {
        // An odd step visits different ports.
        let index = hash::reduce(hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b1)), PORTS);
        let port = ((FIRST + 2 * index + parity) as u16).to_be();
        let answers = ConnKey {
            src: target.addr,
            dst: target.from_addr,
            sport: target.port,
            dport: port,
            proto: key.proto,
        };
        let half_open = EmbryoKey {
            client: target.from_addr,
            port,
            pad: 0,
        };
        let waiting = tables
            .embryo(&half_open)
            .is_some_and(|embryo| is_fresh(embryo, tables.coarse_ns()));
        if !waiting && tables.conn(&answers).is_none() {
            target.from_port = port;
            return true;
        }
    }
    false
}
