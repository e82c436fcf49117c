//! Records: what is replicated of a connection, and how it stands in a packet.
//!
//! A packet's sealed part is a sequence of records, each one byte of kind and a body:
//!
//! ```text
//! 0x01 Put4     source 4, destination 4, ports 2+2, protocol 1, real server 4, its port 2, state 1, flags 1, version 2
//! 0x02 Delete4  source 4, destination 4, ports 2+2, protocol 1
//! 0x10 Begin    transfer id 8
//! 0x11 End      transfer id 8, connections 8, digest 8
//! 0x80..        length 1, body: skipped by a receiver that does not know the kind
//! ```
//!
//! Addresses and ports stand as in the connection's own packets, other numbers big-endian. Records name
//! real servers by address, so nodes whose tables are numbered differently still agree. A kind below
//! 0x80 that the receiver does not know ends the packet: what follows cannot be found.

use ha_common::conn::ConnKey4;

use super::wire::Reader;

const PUT4: u8 = 0x01;
const DELETE4: u8 = 0x02;
const BEGIN: u8 = 0x10;
const END: u8 = 0x11;
/// First of the kinds that carry their own length.
const SKIPPABLE: u8 = 0x80;

/// Length of the longest record: a packet with this much room takes any.
pub(super) const LONGEST: usize = 25;

/// A connection as both nodes see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Client to shared address.
    pub key: FlowKey,
    /// Real server, of the same family.
    pub real_addr: IpAddr,
    /// With [`ha_common::conn::flags::BOTH_ENDS`], what stands in for the client; else no address.
    pub from_addr: IpAddr,
    /// Real server's port, network order.
    pub real_port: u16,
    /// Port that goes with `from_addr`, network order; else 0.
    pub from_port: u16,
    /// A [`ha_common::conn::ConnState`].
    pub state: u8,
    /// [`ha_common::conn::flags`].
    pub flags: u8,
    /// Number of the connection's last change.
    pub version: u16,
}

/// A change of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The connection is now this.
    Put(Record),
    /// The connection is gone.
    Delete(FlowKey),
}

impl Change {
    /// The connection.
    pub(super) const fn key(&self) -> FlowKey {
        match self {
            Self::Put(record) => record.key,
            Self::Delete(key) => *key,
        }
    }
}

/// What a packet of the stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Change(Change),
    /// A full transfer starts: what it does not confirm is stale.
    Begin {
        id: u64,
    },
    /// It is complete. `count` and `digest` are over all connections said since its beginning.
    End {
        id: u64,
        count: u64,
        digest: u64,
    },
}

/// Why the rest of a packet is unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemError {
    /// Ends in the middle of a record.
    Truncated,
    /// A kind of a later version that must not be skipped.
    Unknown,
}

fn push_key(key: &ConnKey4, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.src.to_ne_bytes());
    out.extend_from_slice(&key.dst.to_ne_bytes());
    out.extend_from_slice(&key.sport.to_ne_bytes());
    out.extend_from_slice(&key.dport.to_ne_bytes());
    out.push(key.proto as u8);
}

fn read_key(reader: &mut Reader<'_>) -> Option<ConnKey4> {
    Some(ConnKey4 {
        src: u32::from_ne_bytes(reader.take()?),
        dst: u32::from_ne_bytes(reader.take()?),
        sport: u16::from_ne_bytes(reader.take()?),
        dport: u16::from_ne_bytes(reader.take()?),
        proto: u32::from(reader.u8()?),
    })
}

impl Item {
    /// Appends the record.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Change(Change::Put(record)) => {
                out.push(PUT4);
                push_key(&record.key, out);
                out.extend_from_slice(&record.real_addr.to_ne_bytes());
                out.extend_from_slice(&record.real_port.to_ne_bytes());
                out.push(record.state);
                out.push(record.flags);
                out.extend_from_slice(&record.version.to_be_bytes());
            }
            Self::Change(Change::Delete(key)) => {
                out.push(DELETE4);
                push_key(key, out);
            }
            Self::Begin { id } => {
                out.push(BEGIN);
                out.extend_from_slice(&id.to_be_bytes());
            }
            Self::End { id, count, digest } => {
                out.push(END);
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&count.to_be_bytes());
                out.extend_from_slice(&digest.to_be_bytes());
            }
        }
    }

    /// Reads the next record this version knows; `None` at the end.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Result<Self, ItemError>> {
        loop {
            let kind = reader.u8()?;
            if kind < SKIPPABLE {
                return Some(Self::decode_body(kind, reader));
            }
            let skipped = reader.u8().and_then(|len| reader.bytes(usize::from(len)));
            if skipped.is_none() {
                return Some(Err(ItemError::Truncated));
            }
        }
    }

    fn decode_body(kind: u8, reader: &mut Reader<'_>) -> Result<Self, ItemError> {
        match kind {
            PUT4 => read_put(reader).map(|record| Self::Change(Change::Put(record))),
            DELETE4 => read_key(reader).map(|key| Self::Change(Change::Delete(key))),
            BEGIN => reader.u64().map(|id| Self::Begin { id }),
            END => read_end(reader),
            _ => return Err(ItemError::Unknown),
        }
        .ok_or(ItemError::Truncated)
    }
}

fn read_put(reader: &mut Reader<'_>) -> Option<Record> {
    Some(Record {
        key: read_key(reader)?,
        real_addr: u32::from_ne_bytes(reader.take()?),
        real_port: u16::from_ne_bytes(reader.take()?),
        state: reader.u8()?,
        flags: reader.u8()?,
        version: u16::from_be_bytes(reader.take()?),
    })
}

fn read_end(reader: &mut Reader<'_>) -> Option<Item> {
    Some(Item::End {
        id: reader.u64()?,
        count: reader.u64()?,
        digest: reader.u64()?,
    })
}
