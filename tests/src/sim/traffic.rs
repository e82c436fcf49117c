//! Connections: what the data plane of an open gate would put into its table.

use std::collections::HashSet;

use ha_agent::proto::rng::Rng;
use ha_agent::proto::sync::{Change, Record};
use ha_common::conn::ConnKey4;

use super::host::Table;

/// Connections a table holds at most before old ones end.
const OPEN_AT_MOST: usize = 60;

/// Makes connections and remembers all there ever were.
#[derive(Debug, Default)]
pub struct Traffic {
    next_client: u32,
    ever: HashSet<(ConnKey4, u32, u16, u8, u16)>,
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
                let record = Record {
                    key: ConnKey4 {
                        src: self.next_client.to_be(),
                        dst: u32::from_be_bytes([10, 0, 0, 100]).to_be(),
                        sport: (1024 + rng.below(60_000) as u16).to_be(),
                        dport: 80u16.to_be(),
                        proto: 6,
                    },
                    real_addr: (0x0a01_0015 + rng.below(4) as u32).to_be(),
                    real_port: 8080u16.to_be(),
                    state: 1,
                    flags: 0,
                    version: 1,
                };
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

fn identity(record: &Record) -> (ConnKey4, u32, u16, u8, u16) {
    (
        record.key,
        record.real_addr,
        record.real_port,
        record.state,
        record.version,
    )
}
