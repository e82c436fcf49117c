//! Records: what is replicated of a connection, and how it stands in a packet.
//!
//! A packet's sealed part is a sequence of records, each one byte of kind and a body:
//!
//! ```text
//! 0x01 Put4      source 4, destination 4, ports 2+2, protocol 1, real server 4, its port 2, state 1, flags 1, version 2
//! 0x02 Delete4   source 4, destination 4, ports 2+2, protocol 1
//! 0x03, 0x04     the same in short: super::short
//! 0x10 Begin     transfer id 8
//! 0x11 End       transfer id 8, connections 8, digest 8
//!
//! 0x80..         length 1, body: skipped by a receiver that does not know the kind, and so is what it does not
//!                know at the end of a body
//! 0x81 Put4+     as Put4, then, if the flags have both ends: what stands in for the client 4, its port 2
//! 0x82 Put6      the same with addresses of 16
//! 0x83 Delete6   source 16, destination 16, ports 2+2, protocol 1
//! 0x84 Extended  connections 8, digest 8: of the extended part, before End
//! 0x85, 0x86     records that are no connections: crate::proto::records
//! 0x87 Sums      group 1 (64: the groups themselves), first 1, then the sums of 16 buckets (or groups) from there 8 each
//! 0x88 Bucket    bucket 2: what follows is all that it holds
//! 0x89 Complete  bucket 2, sum 8
//! 0x8a Records   nothing: all records that are no connections follow, and no others are held
//! 0x8b All       records 8, digest 8: that was all of them
//! ```
//!
//! Addresses and ports stand as in the connection's own packets, other numbers big-endian. Records name
//! real servers by address, so nodes whose tables are numbered differently still agree. A kind below
//! 0x80 that the receiver does not know ends the packet: what follows cannot be found.
//!
//! The first four kinds are all that the first version knew: IPv4, with its answers coming back this way, one
//! end translated. Such connections are the *basic* part of the table; all others are the *extended* part,
//! which a node of the first version skips. Each part has its own digest. So an older standby is whole as
//! soon as it holds all that it can hold, and what it cannot hold is the clients' loss only if it takes
//! over before it is upgraded.

use std::net::IpAddr;

use ha_common::conn::flags;

use super::buckets::Bucket;
use super::wire::Reader;
use crate::datapath::family::{FlowEntry, FlowEvent, FlowKey, none_like};
use crate::proto::records::{self, Told};

const PUT4: u8 = 0x01;
const DELETE4: u8 = 0x02;
pub(super) const PUT_SHORT: u8 = 0x03;
pub(super) const DELETE_SHORT: u8 = 0x04;
const BEGIN: u8 = 0x10;
const END: u8 = 0x11;
/// First of the kinds that carry their own length.
const SKIPPABLE: u8 = 0x80;
const PUT4_EXTENDED: u8 = 0x81;
const PUT6: u8 = 0x82;
const DELETE6: u8 = 0x83;
const EXTENDED: u8 = 0x84;
const SUMS: u8 = 0x87;
const BUCKET: u8 = 0x88;
const COMPLETE: u8 = 0x89;
const RECORDS: u8 = 0x8a;
const RECORDS_COMPLETE: u8 = 0x8b;

/// Length of the longest record but [`Item::Sums`]: a packet with this much room takes any.
pub(super) const LONGEST: usize = 79;
/// Sums in one [`Item::Sums`].
pub(super) const SUMS_AT_ONCE: usize = 16;
/// Length of an [`Item::Sums`].
pub(super) const SUMS_LEN: usize = 4 + 8 * SUMS_AT_ONCE;

/// A part of the table that is compared by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What every version knows.
    Basic = 0,
    /// The rest.
    Extended = 1,
}

/// Whether the partner could do without the record of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Only this node knows where it goes.
    Unique = 0,
    /// The partner would forward it to the same real server by hash.
    Recomputable = 1,
}

/// Entries of a part that were said, and the keyed sum over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proto) struct Said {
    pub(in crate::proto) count: u64,
    pub(in crate::proto) digest: u64,
}

/// A connection as both nodes see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Client to shared address, ports in network order.
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

impl Record {
    /// Those [`flags`] that hold on whichever node the connection is.
    pub const LASTING: u8 =
        flags::RECONSTRUCTED | flags::BY_HASH | flags::BOTH_ENDS | flags::ONE_WAY;

    /// The connection that has this forward entry.
    pub fn from_entry(key: &FlowKey, entry: &FlowEntry) -> Self {
        Self {
            key: *key,
            real_addr: entry.to_addr,
            from_addr: entry.from_addr,
            real_port: entry.to_port,
            from_port: entry.from_port,
            state: entry.state,
            flags: entry.flags,
            version: entry.version,
        }
        .with_one_stand_in()
    }

    /// Whether the reverse entries of both are the same: state and version stand in the forward entry alone.
    pub fn shares_reverse(&self, other: &Self) -> bool {
        let (state, version) = (self.state, self.version);
        *self
            == Self {
                state,
                version,
                ..*other
            }
    }

    /// Whether both are the same state of the same connection, wherever each was read.
    pub fn agrees(&self, other: &Self) -> bool {
        let lasting = |record: &Self| Self {
            flags: record.flags & Self::LASTING,
            ..*record
        };
        lasting(self) == lasting(other)
    }

    /// The connection that an event tells of.
    pub fn from_event(event: &FlowEvent) -> Self {
        Self {
            key: event.key,
            real_addr: event.real_addr,
            from_addr: event.from_addr,
            real_port: event.real_port,
            from_port: event.from_port,
            state: event.state,
            flags: event.flags,
            version: event.version,
        }
        .with_one_stand_in()
    }

    /// Nothing stands in for the client but with full NAT, whatever else the data plane has in these fields.
    fn with_one_stand_in(mut self) -> Self {
        if !self.has_stand_in() {
            (self.from_addr, self.from_port) = (none_like(self.key.dst), 0);
        }
        self
    }

    /// Whether something stands in for the client.
    pub(super) const fn has_stand_in(&self) -> bool {
        self.flags & flags::BOTH_ENDS != 0
    }

    /// Whether answers do not come back this way: there is no other half.
    pub(super) const fn is_one_way(&self) -> bool {
        self.flags & flags::ONE_WAY != 0
    }

    /// Full NAT is always unique: the port that stands in for the client is of this node's half.
    pub(super) const fn class(&self) -> Class {
        if self.flags & (flags::BY_HASH | flags::BOTH_ENDS) == flags::BY_HASH {
            Class::Recomputable
        } else {
            Class::Unique
        }
    }

    /// The part of the table it is in.
    pub(super) const fn part(&self) -> Part {
        if self.key.dst.is_ipv4() && self.flags & (flags::BOTH_ENDS | flags::ONE_WAY) == 0 {
            Part::Basic
        } else {
            Part::Extended
        }
    }
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
    /// Bytes it takes in a packet in full.
    pub(super) const fn len(&self) -> usize {
        let address = if self.key().dst.is_ipv4() { 4 } else { 16 };
        let key = 2 * address + 5;
        match self {
            Self::Put(record) => {
                let put = key + address + 6;
                let stand_in = if record.has_stand_in() {
                    address + 2
                } else {
                    0
                };
                match record.part() {
                    Part::Basic => 1 + put,
                    Part::Extended => 2 + put + stand_in,
                }
            }
            Self::Delete(_) if address == 4 => 1 + key,
            Self::Delete(_) => 2 + key,
        }
    }

    /// The connection.
    pub const fn key(&self) -> FlowKey {
        match self {
            Self::Put(record) => record.key,
            Self::Delete(key) => *key,
        }
    }
}

/// What a packet of the stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Change(Change),
    /// Of a record that is no connection.
    Told(Told<'a>),
    /// A full transfer starts: what it does not confirm is stale.
    Begin {
        id: u64,
    },
    /// Connections of the extended part said since the beginning of the transfer that is complete now.
    Extended(Said),
    /// It is complete. What was said of the basic part since its beginning.
    End {
        id: u64,
        said: Said,
    },
    /// The sums of some buckets, or of some groups of them, at this place of the stream.
    Sums(Sums),
    /// The repair of a bucket starts: what it does not confirm is stale.
    Bucket(Bucket),
    /// It is complete; the sum over what the bucket holds now.
    Complete {
        bucket: Bucket,
        sum: u64,
    },
    /// The repair of the records that are no connections starts: what it does not confirm is stale.
    Records,
    /// It is complete. What was said of them since its beginning.
    RecordsComplete(Said),
}

/// Consecutive sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    /// The group whose buckets they are of; [`GROUPS`](super::buckets::GROUPS) if they are of groups.
    pub(super) group: u8,
    /// The first one's place in the group.
    pub(super) first: u8,
    pub(super) values: [u64; SUMS_AT_ONCE],
}

impl Sums {
    /// The buckets, or the groups, of these sums: number and sum.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u8, u64)> {
        (self.first..64).zip(self.values)
    }
}

/// Why the rest of a packet is unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemError {
    /// Ends in the middle of a record.
    Truncated,
    /// A kind of a later version that must not be skipped.
    Unknown,
}

pub(super) fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

fn push_key(key: &FlowKey, out: &mut Vec<u8>) {
    push_address(key.src, out);
    push_address(key.dst, out);
    out.extend_from_slice(&key.sport.to_ne_bytes());
    out.extend_from_slice(&key.dport.to_ne_bytes());
    out.push(key.proto as u8);
}

fn push_put(record: &Record, out: &mut Vec<u8>) {
    push_key(&record.key, out);
    push_address(record.real_addr, out);
    out.extend_from_slice(&record.real_port.to_ne_bytes());
    out.push(record.state);
    out.push(record.flags);
    out.extend_from_slice(&record.version.to_be_bytes());
    if record.has_stand_in() {
        push_address(record.from_addr, out);
        out.extend_from_slice(&record.from_port.to_ne_bytes());
    }
}

fn push_said(said: Said, out: &mut Vec<u8>) {
    out.extend_from_slice(&said.count.to_be_bytes());
    out.extend_from_slice(&said.digest.to_be_bytes());
}

/// Appends a record that carries its own length.
fn push_skippable(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[kind, 0]);
    let start = out.len();
    body(out);
    let length = out.len() - start;
    if let Some(place) = out.get_mut(start - 1) {
        *place = length as u8;
    }
}

pub(super) fn read_v4(reader: &mut Reader<'_>) -> Option<IpAddr> {
    reader.take::<4>().map(IpAddr::from)
}

pub(super) fn read_v6(reader: &mut Reader<'_>) -> Option<IpAddr> {
    reader.take::<16>().map(IpAddr::from)
}

/// How addresses of a family are read.
pub(super) type ReadAddress = fn(&mut Reader<'_>) -> Option<IpAddr>;

fn read_key(reader: &mut Reader<'_>, address: ReadAddress) -> Option<FlowKey> {
    Some(FlowKey {
        src: address(reader)?,
        dst: address(reader)?,
        sport: u16::from_ne_bytes(reader.take()?),
        dport: u16::from_ne_bytes(reader.take()?),
        proto: u32::from(reader.u8()?),
    })
}

fn read_put(reader: &mut Reader<'_>, address: ReadAddress) -> Option<Record> {
    let key = read_key(reader, address)?;
    Some(Record {
        key,
        real_addr: address(reader)?,
        from_addr: none_like(key.dst),
        real_port: u16::from_ne_bytes(reader.take()?),
        from_port: 0,
        state: reader.u8()?,
        flags: reader.u8()?,
        version: u16::from_be_bytes(reader.take()?),
    })
}

/// Reads a record that may have a stand-in for the client.
fn read_put_extended(reader: &mut Reader<'_>, address: ReadAddress) -> Option<Record> {
    let mut record = read_put(reader, address)?;
    if record.has_stand_in() {
        record.from_addr = address(reader)?;
        record.from_port = u16::from_ne_bytes(reader.take()?);
    }
    Some(record)
}

fn read_said(reader: &mut Reader<'_>) -> Option<Said> {
    Some(Said {
        count: reader.u64()?,
        digest: reader.u64()?,
    })
}

impl<'a> Item<'a> {
    /// Appends the record in full.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Change(Change::Put(record)) => match (record.part(), record.key.dst) {
                (Part::Basic, _) => {
                    out.push(PUT4);
                    push_put(record, out);
                }
                (Part::Extended, IpAddr::V4(_)) => {
                    push_skippable(PUT4_EXTENDED, out, |out| push_put(record, out));
                }
                (Part::Extended, IpAddr::V6(_)) => {
                    push_skippable(PUT6, out, |out| push_put(record, out));
                }
            },
            Self::Change(Change::Delete(key)) if key.dst.is_ipv4() => {
                out.push(DELETE4);
                push_key(key, out);
            }
            Self::Change(Change::Delete(key)) => {
                push_skippable(DELETE6, out, |out| push_key(key, out));
            }
            Self::Begin { id } => {
                out.push(BEGIN);
                out.extend_from_slice(&id.to_be_bytes());
            }
            Self::Extended(said) => push_skippable(EXTENDED, out, |out| push_said(*said, out)),
            Self::Told(told @ Told::Put(_)) => {
                push_skippable(records::PUT, out, |out| told.encode(out));
            }
            Self::Told(told @ Told::Delete(_)) => {
                push_skippable(records::DELETE, out, |out| told.encode(out));
            }
            Self::End { id, said } => {
                out.push(END);
                out.extend_from_slice(&id.to_be_bytes());
                push_said(*said, out);
            }
            Self::Sums(sums) => push_skippable(SUMS, out, |out| {
                out.extend_from_slice(&[sums.group, sums.first]);
                out.extend(sums.values.iter().flat_map(|sum| sum.to_be_bytes()));
            }),
            Self::Bucket(bucket) => push_skippable(BUCKET, out, |out| {
                out.extend_from_slice(&bucket.number().to_be_bytes());
            }),
            Self::Complete { bucket, sum } => push_skippable(COMPLETE, out, |out| {
                out.extend_from_slice(&bucket.number().to_be_bytes());
                out.extend_from_slice(&sum.to_be_bytes());
            }),
            Self::Records => push_skippable(RECORDS, out, |_out| {}),
            Self::RecordsComplete(said) => {
                push_skippable(RECORDS_COMPLETE, out, |out| push_said(*said, out));
            }
        }
    }

    /// Reads a record of this kind; `None` of a later version's, which is skipped.
    pub(super) fn decode(kind: u8, reader: &mut Reader<'a>) -> Option<Result<Self, ItemError>> {
        if kind < SKIPPABLE {
            return Some(Self::decode_body(kind, reader));
        }
        let body = reader.u8().and_then(|len| reader.bytes(usize::from(len)));
        let Some(body) = body else {
            return Some(Err(ItemError::Truncated));
        };
        Some(Self::decode_skippable(kind, body)).filter(|item| *item != Err(ItemError::Unknown))
    }

    /// Whether an older version skips it.
    #[cfg(test)]
    pub(super) fn is_skippable(&self) -> bool {
        let mut body = Vec::new();
        self.encode(&mut body);
        body.first().is_some_and(|kind| *kind >= SKIPPABLE)
    }

    fn decode_body(kind: u8, reader: &mut Reader<'_>) -> Result<Self, ItemError> {
        match kind {
            PUT4 => read_put(reader, read_v4).map(|record| Self::Change(Change::Put(record))),
            DELETE4 => read_key(reader, read_v4).map(|key| Self::Change(Change::Delete(key))),
            BEGIN => reader.u64().map(|id| Self::Begin { id }),
            END => read_end(reader),
            _ => return Err(ItemError::Unknown),
        }
        .ok_or(ItemError::Truncated)
    }

    /// [`ItemError::Unknown`] for a kind of a later version, which is skipped.
    fn decode_skippable(kind: u8, body: &'a [u8]) -> Result<Self, ItemError> {
        let reader = &mut Reader::new(body);
        let put = |record| Self::Change(Change::Put(record));
        match kind {
            PUT4_EXTENDED => read_put_extended(reader, read_v4).map(put),
            PUT6 => read_put_extended(reader, read_v6).map(put),
            DELETE6 => read_key(reader, read_v6).map(|key| Self::Change(Change::Delete(key))),
            EXTENDED => read_said(reader).map(Self::Extended),
            SUMS => read_sums(reader).map(Self::Sums),
            BUCKET => read_bucket(reader).map(Self::Bucket),
            COMPLETE => read_complete(reader),
            RECORDS => Some(Self::Records),
            RECORDS_COMPLETE => read_said(reader).map(Self::RecordsComplete),
            records::PUT => Told::decode_put(body).map(Self::Told),
            records::DELETE => Told::decode_delete(body).map(Self::Told),
            _ => return Err(ItemError::Unknown),
        }
        .ok_or(ItemError::Truncated)
    }
}

fn read_end(reader: &mut Reader<'_>) -> Option<Item<'static>> {
    Some(Item::End {
        id: reader.u64()?,
        said: read_said(reader)?,
    })
}

fn read_sums(reader: &mut Reader<'_>) -> Option<Sums> {
    let (group, first) = (reader.u8()?, reader.u8()?);
    Some(Sums {
        group,
        first,
        values: reader.words()?,
    })
}

fn read_bucket(reader: &mut Reader<'_>) -> Option<Bucket> {
    Bucket::new(u16::from_be_bytes(reader.take()?))
}

fn read_complete<'a>(reader: &mut Reader<'a>) -> Option<Item<'a>> {
    Some(Item::Complete {
        bucket: read_bucket(reader)?,
        sum: reader.u64()?,
    })
}
