//! How records stand in a packet of the stream: the bodies of kinds 0x85 and 0x86.
//!
//! ```text
//! 0x85 Put     age 4, term 8, version 8, time to live 4, lengths 1+1+1, namespace, key, value
//! 0x86 Delete  term 8, version 8, lengths 1+1, namespace, key
//! ```
//!
//! Times are milliseconds; a time to live of 0 means for ever. What follows is ignored, as everywhere at the
//! end of such a body. A share of the digest covers a put from its term to the end of the value.

use std::time::Duration;

use super::model::{KEY_MAX, KEY_VALUE_MAX, NAMESPACE_MAX, Stamp, TTL_MAX, is_namespace};

/// Kind of a put.
pub(in crate::proto) const PUT: u8 = 0x85;
/// Kind of a deletion.
pub(in crate::proto) const DELETE: u8 = 0x86;

/// Bytes of a put before namespace, key and value.
const FIXED: usize = 27;
/// Bytes of the age, which no digest covers.
const AGE: usize = 4;

/// Length of the longest record, kind and length included: a packet with this much room takes any.
pub(in crate::proto) const LONGEST: usize = 2 + FIXED + NAMESPACE_MAX + KEY_VALUE_MAX;

const _: () = assert!(LONGEST - 2 <= u8::MAX as usize);

/// What the stream says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum Told<'a> {
    /// It is now this.
    Put(Telling<'a>),
    /// It is gone.
    Delete(Gone<'a>),
}

/// A record as the stream says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) struct Telling<'a> {
    pub(in crate::proto) namespace: &'a str,
    pub(in crate::proto) key: &'a [u8],
    pub(in crate::proto) value: &'a [u8],
    pub(in crate::proto) stamp: Stamp,
    pub(in crate::proto) ttl: Option<Duration>,
    pub(in crate::proto) age: Duration,
}

/// A deletion as the stream says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) struct Gone<'a> {
    pub(in crate::proto) namespace: &'a str,
    pub(in crate::proto) key: &'a [u8],
    pub(in crate::proto) stamp: Stamp,
}

impl Telling<'_> {
    /// Appends the body; what the digest covers is returned.
    fn encode<'b>(&self, out: &'b mut Vec<u8>) -> &'b [u8] {
        out.extend_from_slice(&millis(self.age).to_be_bytes());
        let start = out.len();
        push_stamp(self.stamp, out);
        out.extend_from_slice(&self.ttl.map_or(0, millis).to_be_bytes());
        let lengths = [self.namespace.len(), self.key.len(), self.value.len()];
        out.extend(lengths.map(|length| length as u8));
        out.extend_from_slice(self.namespace.as_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
        out.get(start..).unwrap_or_default()
    }

    /// Its share of a digest.
    pub(super) fn sum(&self, sum: impl Fn(&[u8]) -> u64) -> u64 {
        let mut body = Vec::with_capacity(LONGEST);
        sum(self.encode(&mut body))
    }
}

impl<'a> Told<'a> {
    /// Appends the body.
    pub(in crate::proto) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put(said) => {
                said.encode(out);
            }
            Self::Delete(gone) => {
                push_stamp(gone.stamp, out);
                let lengths = [gone.namespace.len(), gone.key.len()];
                out.extend(lengths.map(|length| length as u8));
                out.extend_from_slice(gone.namespace.as_bytes());
                out.extend_from_slice(gone.key);
            }
        }
    }

    /// Reads the body of a put; `None` if it ends too early or no writer can have made it.
    pub(in crate::proto) fn decode_put(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let age = take_u32(&mut rest)?;
        let stamp = take_stamp(&mut rest)?;
        let ttl = take_u32(&mut rest)?;
        let [namespace, key, value] = take(&mut rest)?;
        let namespace = take_name(&mut rest, namespace)?;
        let key = take_key(&mut rest, key)?;
        let value = take_slice(&mut rest, value)?;
        let ttl = Duration::from_millis(ttl.into());
        if key.len() + value.len() > KEY_VALUE_MAX || ttl > TTL_MAX {
            return None;
        }
        Some(Self::Put(Telling {
            namespace,
            key,
            value,
            stamp,
            ttl: Some(ttl).filter(|ttl| !ttl.is_zero()),
            age: Duration::from_millis(age.into()),
        }))
    }

    /// The same of a deletion.
    pub(in crate::proto) fn decode_delete(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let stamp = take_stamp(&mut rest)?;
        let [namespace, key] = take(&mut rest)?;
        Some(Self::Delete(Gone {
            namespace: take_name(&mut rest, namespace)?,
            key: take_key(&mut rest, key)?,
            stamp,
        }))
    }
}

/// A time as it stands in packets.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn push_stamp(stamp: Stamp, out: &mut Vec<u8>) {
    out.extend_from_slice(&stamp.term.to_be_bytes());
    out.extend_from_slice(&stamp.version.to_be_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_be_bytes)
}

fn take_stamp(rest: &mut &[u8]) -> Option<Stamp> {
    Some(Stamp {
        term: u64::from_be_bytes(take(rest)?),
        version: u64::from_be_bytes(take(rest)?),
    })
}

fn take_slice<'a>(rest: &mut &'a [u8], length: u8) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length.into())?;
    *rest = after;
    Some(taken)
}

fn take_name<'a>(rest: &mut &'a [u8], length: u8) -> Option<&'a str> {
    let name = std::str::from_utf8(take_slice(rest, length)?).ok()?;
    is_namespace(name).then_some(name)
}

fn take_key<'a>(rest: &mut &'a [u8], length: u8) -> Option<&'a [u8]> {
    take_slice(rest, length).filter(|key| (1..=KEY_MAX).contains(&key.len()))
}

const _: () = assert!(FIXED == AGE + 16 + 4 + 3);
