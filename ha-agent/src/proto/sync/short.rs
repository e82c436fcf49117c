//! Short records: what a connection has in common with one before it in the same packet is said once.
//!
//! ```text
//! 0x03 Put     way 1, source 4 or 16, its port 2, state 1, flags 1, version 2
//! 0x04 Delete  way 1, source 4 or 16, its port 2
//! ```
//!
//! A *way* is what a client does not choose: shared address and port, protocol, real server and its port. Each
//! put of a packet that is in full, has no stand-in for the client, and goes another way than all before it,
//! names the next way, the first one number 0; 256 have a number. A deletion says any way to the
//! connection's shared address and port; if it is in full, since there is none, it names one without a real server. So
//! no packet depends on another one, and where nothing is in common nothing is longer.

use std::net::IpAddr;

use super::record::{
    Change, DELETE_SHORT, Item, ItemError, PUT_SHORT, ReadAddress, Record, push_address, read_v4,
    read_v6,
};
use super::wire::Reader;
use crate::datapath::family::{FlowKey, none_like};

/// Ways that have a number.
const WAYS: usize = 256;

/// What connections of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    dst: IpAddr,
    real_addr: IpAddr,
    dport: u16,
    real_port: u16,
    proto: u32,
}

impl Way {
    /// That of a connection which has one.
    fn of(record: &Record) -> Option<Self> {
        (!record.has_stand_in()).then_some(Self {
            dst: record.key.dst,
            real_addr: record.real_addr,
            dport: record.key.dport,
            real_port: record.real_port,
            proto: record.key.proto,
        })
    }

    /// One that nothing but deletions can go.
    const fn to(key: &FlowKey) -> Self {
        Self {
            dst: key.dst,
            real_addr: none_like(key.dst),
            dport: key.dport,
            real_port: 0,
            proto: key.proto,
        }
    }

    fn leads_to(&self, key: &FlowKey) -> bool {
        (self.dst, self.dport, self.proto) == (key.dst, key.dport, key.proto)
    }

    const fn address(&self) -> ReadAddress {
        match self.dst {
            IpAddr::V4(_) => read_v4,
            IpAddr::V6(_) => read_v6,
        }
    }

    fn key(&self, reader: &mut Reader<'_>) -> Option<FlowKey> {
        Some(FlowKey {
            src: (self.address())(reader)?,
            dst: self.dst,
            sport: u16::from_ne_bytes(reader.take()?),
            dport: self.dport,
            proto: self.proto,
        })
    }
}

/// The ways that a packet has named so far.
#[derive(Debug, Default)]
pub(super) struct Ways(Vec<Way>);

impl Ways {
    /// Appends a change, in short if a way is known; whether it was.
    pub(super) fn encode(&mut self, change: &Change, out: &mut Vec<u8>) -> bool {
        let key = change.key();
        let number = match change {
            Change::Put(record) => {
                Way::of(record).and_then(|way| self.0.iter().position(|known| *known == way))
            }
            Change::Delete(key) => self.0.iter().position(|way| way.leads_to(key)),
        };
        let Some(number) = number else {
            Item::Change(*change).encode(out);
            self.learn(change);
            return false;
        };
        let kind = match change {
            Change::Put(_) => PUT_SHORT,
            Change::Delete(_) => DELETE_SHORT,
        };
        out.extend_from_slice(&[kind, number as u8]);
        push_address(key.src, out);
        out.extend_from_slice(&key.sport.to_ne_bytes());
        if let Change::Put(record) = change {
            out.extend_from_slice(&[record.state, record.flags]);
            out.extend_from_slice(&record.version.to_be_bytes());
        }
        true
    }

    /// Numbers the way of a change that is said in full.
    fn learn(&mut self, change: &Change) {
        let way = match change {
            Change::Put(record) => Way::of(record),
            Change::Delete(key) if self.0.iter().any(|way| way.leads_to(key)) => None,
            Change::Delete(key) => Some(Way::to(key)),
        };
        if let Some(way) = way
            && self.0.len() < WAYS
            && !self.0.contains(&way)
        {
            self.0.push(way);
        }
    }

    fn decode_put(&self, reader: &mut Reader<'_>) -> Option<Change> {
        let way = self.0.get(usize::from(reader.u8()?))?;
        let key = way.key(reader)?;
        Some(Change::Put(Record {
            key,
            real_addr: way.real_addr,
            from_addr: none_like(key.dst),
            real_port: way.real_port,
            from_port: 0,
            state: reader.u8()?,
            flags: reader.u8()?,
            version: u16::from_be_bytes(reader.take()?),
        }))
    }

    fn decode_delete(&self, reader: &mut Reader<'_>) -> Option<Change> {
        let way = self.0.get(usize::from(reader.u8()?))?;
        way.key(reader).map(Change::Delete)
    }
}

/// Bytes that a change takes if its way is known.
pub(super) const fn short_len(change: &Change) -> usize {
    let client = if change.key().dst.is_ipv4() { 8 } else { 20 };
    match change {
        Change::Put(record) if record.has_stand_in() => change.len(),
        Change::Put(_) => client + 4,
        Change::Delete(_) => client,
    }
}

/// The records of a packet that this version knows.
pub(super) struct Items<'a> {
    reader: Reader<'a>,
    ways: Ways,
}

impl<'a> Items<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(body),
            ways: Ways::default(),
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, ItemError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = loop {
            let short = match self.reader.u8()? {
                PUT_SHORT => self.ways.decode_put(&mut self.reader),
                DELETE_SHORT => self.ways.decode_delete(&mut self.reader),
                kind => match Item::decode(kind, &mut self.reader) {
                    Some(item) => break item,
                    None => continue,
                },
            };
            break short.map(Item::Change).ok_or(ItemError::Truncated);
        };
        match &item {
            Ok(Item::Change(change)) => self.ways.learn(change),
            Ok(_) => {}
            // What follows cannot be found.
            Err(_) => self.reader = Reader::new(&[]),
        }
        Some(item)
    }
}
