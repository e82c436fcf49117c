//! Tests of the whole machine.

mod packets;
mod scenarios;
mod sim;
mod vectors;

use ha_common::conn::ConnKey4;

use super::Record;
use crate::keys::{PairKey, PairKeys};
use crate::proto::rng::Rng;

/// Parts of the protocol switched off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sabotage {
    pub(super) no_deletes: bool,
    pub(super) no_nacks: bool,
    pub(super) no_digests: bool,
}

fn pair_keys() -> PairKeys {
    PairKeys::new(vec![PairKey::new(1, [7; 32])])
}

fn salt(rng: &mut Rng) -> [u8; 16] {
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&rng.next_u64().to_be_bytes());
    salt[8..].copy_from_slice(&rng.next_u64().to_be_bytes());
    salt
}

/// The connection of client number `client`.
fn record(client: u32, version: u16) -> Record {
    Record {
        key: ConnKey4 {
            src: (0x0a00_0000 + (client >> 8)).to_be(),
            dst: 0x0a00_0064_u32.to_be(),
            sport: (1024 + (client & 0xff) as u16).to_be(),
            dport: 80_u16.to_be(),
            proto: 6,
        },
        real_addr: (0x0a01_0000 + client % 7).to_be(),
        real_port: 8080_u16.to_be(),
        state: 1,
        flags: 8,
        version,
    }
}
