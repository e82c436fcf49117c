//! Connections: what the data plane of an open gate would put into its table.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_agent::datapath::family::{FlowKey, none_like};
use ha_agent::proto::rng::Rng;
use ha_agent::proto::sync::{Change, Record};
use ha_common::conn::flags;

use super::host::Table;

/// Connections a table holds at most before old ones end.
const OPEN_AT_MOST: usize = 60;

/// Makes connections and remembers all there ever were.
#[derive(Debug, Default)]
pub struct Traffic {
    next_client: u32,
    ever: HashSet<(FlowKey, IpAddr, u16, u8, u16)>,
}

impl Traffic {
    /// Something happens to the connections of a node whose gate is open.
    pub fn happen(&mut self, table: &Table, rng: &mut Rng) -> Change {
        let full = table.len() >= OPEN_AT_MOST;
        let existing = (!table.is_empty())
            .then(|| rng.below(table.len() as u64) as usize)
            .and_then(|index| table.values().nth(index));
        match (existing, rng.below(10)) {
            (Some(record), 0..=2) => {
                let record = Record {
                    state: 1 + rng.below(5) as u8,
                    version: record.version.wrapping_add(1),
                    ..*record
                };
                self.put(record)
            }
            (Some(record), choice) if full || choice == 3 => Change::Delete(record.key),
            _ => {
                self.next_client += 1;
                let v6 = rng.below(4) == 0;
                let address = |bits: u32| -> IpAddr {
                    if v6 {
                        Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(bits)).into()
                    } else {
                        Ipv4Addr::from_bits(bits).into()
                    }
                };
                let shared = address(0x0a00_0064);
                let mut record = Record {
                    key: FlowKey {
                        src: address(self.next_client),
                        dst: shared,
                        sport: (1024 + rng.below(60_000) as u16).to_be(),
                        dport: 80u16.to_be(),
                        proto: 6,
                    },
                    real_addr: address(0x0a01_0015 + rng.below(4) as u32),
                    from_addr: none_like(shared),
                    real_port: 8080u16.to_be(),
                    from_port: 0,
                    state: 1,
                    flags: 0,
                    version: 1,
                };
                match rng.below(6) {
                    0 => record.flags = flags::ONE_WAY,
                    1 => {
                        record.flags = flags::BOTH_ENDS;
                        record.from_addr = shared;
                        record.from_port = (self.next_client as u16).to_be();
                    }
                    _ => {}
                }
                self.put(record)
            }
        }
    }

    fn put(&mut self, record: Record) -> Change {
        self.ever.insert(identity(&record));
        Change::Put(record)
    }

    /// Whether a connection was once exactly this.
    pub fn existed(&self, record: &Record) -> bool {
        self.ever.contains(&identity(record))
    }

    /// Connections and their states so far.
    pub fn total(&self) -> u64 {
        self.next_client.into()
    }
}

fn identity(record: &Record) -> (FlowKey, IpAddr, u16, u8, u16) {
    (
        record.key,
        record.real_addr,
        record.real_port,
        record.state,
        record.version,
    )
}
