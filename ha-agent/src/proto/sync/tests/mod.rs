//! Tests of the whole machine.

mod cells;
mod lengths;
mod packets;
mod records;
mod repair;
mod scenarios;
mod sim;
mod suspects;
mod sweep;
mod vectors;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_common::conn::flags;

use super::record::Item;
use super::wire::Knows;
use super::{Record, Sync, SyncConfig};
use crate::datapath::family::{FlowKey, none_like};
use crate::keys::{PairKey, PairKeys};
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// Parts of the protocol switched off.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of a test"
)]
pub(super) struct Sabotage {
    pub(super) no_deletes: bool,
    pub(super) no_nacks: bool,
    pub(super) no_digests: bool,
    /// Asks for a lost packet again without waiting longer and longer.
    pub(super) no_backoff: bool,
    pub(super) no_audit: bool,
    /// Changes reach the table and are never said.
    pub(super) mute: bool,
    /// Knows no record that carries its own length, and no extended part.
    pub(super) first_version: bool,
    /// Knows the extended part, but neither how buckets are repaired nor records that are no connections.
    pub(super) second_version: bool,
    /// Knows records that are no connections, but not how they are repaired.
    pub(super) third_version: bool,
    /// Knows connections only.
    pub(super) no_records: bool,
}

impl Sabotage {
    /// Whether this version does not know the record.
    pub(super) fn skips(self, item: &Item<'_>) -> bool {
        let repairs = matches!(
            item,
            Item::Sums(_) | Item::Bucket(_) | Item::Complete { .. }
        );
        let record_repairs = matches!(item, Item::Records | Item::RecordsComplete(_));
        self.first_version && item.is_skippable()
            || self.second_version && repairs
            || self.knows() != Knows::All && record_repairs
            || self.knows_connections_only() && matches!(item, Item::Told(_))
    }

    /// What this version knows.
    pub(super) const fn knows(self) -> Knows {
        if self.first_version || self.second_version {
            Knows::Transfers
        } else if self.third_version || self.no_records {
            Knows::Buckets
        } else {
            Knows::All
        }
    }

    pub(super) const fn knows_connections_only(self) -> bool {
        self.no_records || self.first_version || self.second_version
    }
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

/// A machine by itself: a standby with an empty table.
fn machine(now: Instant) -> Sync {
    let config = SyncConfig {
        max_entries: 1 << 10,
        ..SyncConfig::new(1, 110)
    };
    Sync::new(config, pair_keys(), [1; 16], Rng::new(1), now)
}

/// The connection of client number `client`: IPv4, one end translated.
fn record(client: u32, version: u16) -> Record {
    let shared = IpAddr::from([10, 0, 0, 100]);
    Record {
        key: FlowKey {
            src: Ipv4Addr::from_bits(0x0a00_0000 + (client >> 8)).into(),
            dst: shared,
            sport: (1024 + (client & 0xff) as u16).to_be(),
            dport: 80_u16.to_be(),
            proto: 6,
        },
        real_addr: Ipv4Addr::from_bits(0x0a01_0000 + client % 7).into(),
        from_addr: none_like(shared),
        real_port: 8080_u16.to_be(),
        from_port: 0,
        state: 1,
        flags: flags::BY_HASH,
        version,
    }
}

/// One of any kind: the same client's connection over IPv6, with both ends translated, one way, or all of it.
fn any_record(client: u32, version: u16) -> Record {
    let mut record = record(client, version);
    if client & 1 != 0 {
        for address in [
            &mut record.key.src,
            &mut record.key.dst,
            &mut record.real_addr,
        ] {
            *address = wide(*address);
        }
        record.from_addr = none_like(record.key.dst);
    }
    if client & 2 != 0 {
        record.flags |= flags::BOTH_ENDS;
        record.from_addr = record.key.dst;
        record.from_port = (client as u16).to_be();
    }
    if client & 4 != 0 {
        record.flags |= flags::ONE_WAY;
    }
    record
}

fn wide(address: IpAddr) -> IpAddr {
    let prefix: Ipv6Addr = "2001:db8::".parse().unwrap();
    match address {
        IpAddr::V4(v4) => Ipv6Addr::from_bits(prefix.to_bits() | u128::from(v4.to_bits())).into(),
        IpAddr::V6(_) => address,
    }
}
