//! The pinned table of IPv4 connections of a node, as anybody with `bpftool` may read and change it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail};
use ha_agent::datapath::sys::{self, Update};
use ha_agent::proto::sync::Record;
use ha_common::conn::{Conn4, ConnKey4, flags};
use ha_common::maps;

use super::config::{SERVICE_PORT, SHARED_FRONT};
use super::pair::Node;

/// Entries read by one system call.
const PIECE: usize = 4096;
/// Entries that are no connections have this, and no packet has.
const NO_PROTOCOL: u32 = u32::MAX;

/// What an entry says on whichever node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    to: (u32, u16),
    from: (u32, u16),
    flags: u8,
    /// State and version, of a forward entry.
    state: Option<(u8, u16)>,
    /// What is added to checksums; of both forms of zero, the first.
    deltas: (u16, u16),
}

impl Lasting {
    fn of(entry: &Conn4) -> Self {
        let sum = |delta: u16| if delta == u16::MAX { 0 } else { delta };
        let reverse = entry.flags & flags::REVERSE != 0;
        let dropped = if reverse { flags::BY_HASH } else { 0 };
        Self {
            to: (entry.to_addr, entry.to_port),
            from: (entry.from_addr, entry.from_port),
            flags: entry.flags & (Record::LASTING | flags::REVERSE) & !dropped,
            state: if reverse {
                None
            } else {
                Some((entry.state, entry.version))
            },
            deltas: (sum(entry.l3_delta), sum(entry.l4_delta)),
        }
    }
}

/// A node's table.
pub struct Conns(sys::Map<ConnKey4, Conn4>);

impl Conns {
    /// Opens it.
    pub fn open(node: &Node) -> Result<Self> {
        let pin = node.bpf_dir().join(maps::CONNS4);
        Ok(Self(sys::Map::new(sys::object_get(&pin)?)?))
    }

    /// All entries, in the order of their keys.
    pub fn all(&self) -> Result<BTreeMap<ConnKey4, Conn4>> {
        let all = self.0.all(PIECE)?.into_iter();
        Ok(all.filter(|(key, _)| key.proto != NO_PROTOCOL).collect())
    }

    /// What lasts of all entries.
    pub fn lasting(&self) -> Result<BTreeMap<ConnKey4, Lasting>> {
        let all = self.all()?.into_iter();
        Ok(all.map(|(key, entry)| (key, Lasting::of(&entry))).collect())
    }

    /// Key and entry of a connection of this client's to the service.
    pub fn forward(&self, stream: &TcpStream) -> Result<(ConnKey4, Conn4)> {
        let key = key_of(stream)?;
        Ok((key, self.get(&key)?.context("no such connection")?))
    }

    /// Key and entry of its other half.
    pub fn reverse(&self, stream: &TcpStream) -> Result<(ConnKey4, Conn4)> {
        let (key, entry) = self.forward(stream)?;
        let key = entry.partner_key(&key);
        Ok((key, self.get(&key)?.context("no such half")?))
    }

    /// The entry with this key.
    pub fn get(&self, key: &ConnKey4) -> Result<Option<Conn4>> {
        Ok(self.0.lookup(key)?)
    }

    /// Stores an entry.
    pub fn put(&self, key: &ConnKey4, entry: &Conn4) -> Result<()> {
        Ok(self.0.update(key, entry, Update::Any)?)
    }

    /// Deletes an entry that is there.
    pub fn delete(&self, key: &ConnKey4) -> Result<()> {
        if self.0.delete(key)? {
            return Ok(());
        }
        bail!("no such entry")
    }
}

/// The forward key of a client's connection to the service.
pub fn key_of(stream: &TcpStream) -> Result<ConnKey4> {
    let SocketAddr::V4(client) = stream.local_addr()? else {
        bail!("not IPv4");
    };
    Ok(ConnKey4 {
        src: u32::from_ne_bytes(client.ip().octets()),
        dst: u32::from_ne_bytes(SHARED_FRONT.octets()),
        sport: client.port().to_be(),
        dport: SERVICE_PORT.to_be(),
        proto: 6,
    })
}

/// The keys of which two nodes do not have the same.
pub fn differing(one: &Conns, other: &Conns) -> Result<Vec<ConnKey4>> {
    let (one, other) = (one.lasting()?, other.lasting()?);
    let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = |key: &&ConnKey4| one.get(*key) != other.get(*key);
    Ok(keys.into_iter().filter(differ).copied().collect())
}
