//! The second fence: an nftables table for what XDP should never let through to the kernel.
//!
//! While the XDP program is attached, the kernel sees no packet of a virtual service but those the
//! program has rewritten. Should it see one all the same (the program was detached), the packet must not be
//! answered with a reset, and a real server's answer must not leave untranslated. So table
//! `inet ha_agent` drops, in prerouting and before connection tracking,
//!
//! * what goes to a virtual service's address, port and protocol,
//! * what comes from a real server's address and port, but for answers to the node's own health checks,
//! * datagrams to the HELLO port, which only packet sockets read, and the kernel would answer with
//!   "port unreachable".
//!
//! A packet that XDP has rewritten matches neither of the first two: it goes to a real server, or comes
//! from a shared address.
//!
//! The table is replaced in one transaction and outlives an agent that is killed, as the program does.

mod nfnetlink;
pub mod readdressed;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ha_common::{carp, proto};
use nfnetlink::{Attributes, Family, Operation, Transaction};

use crate::config::model::{Config, Protocol};

const TABLE: &str = "ha_agent";
const CHAIN: &str = "prerouting";
/// Before connection tracking (-200), which would keep entries of what is dropped.
const PRIORITY: i32 = -300;
/// Elements in one message: an attribute is at most 64 KiB long.
const PIECE: usize = 1000;

/// Data types of nft, six bits each in a concatenation: only for those who list the table.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

/// First of the four-byte registers; the next ones follow.
const REGISTER: u32 = 8;
/// Where an IPv4 header has its addresses.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// Where TCP and UDP headers have their ports.
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

/// An address with protocol and port.
type Endpoint = (Ipv4Addr, u8, u16);

/// What the table is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    services: BTreeSet<Endpoint>,
    reals: BTreeSet<Endpoint>,
    own: BTreeSet<Ipv4Addr>,
}

impl Guard {
    /// For the services of this configuration.
    pub fn new(config: &Config) -> Self {
        let mut guard = Self {
            own: config
                .node
                .interfaces
                .iter()
                .flat_map(|interface| &interface.addresses)
                .filter_map(|own| match own.address {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                })
                .collect(),
            ..Self::default()
        };
        for service in &config.virtual_services {
            let protocol = match service.protocol {
                Protocol::Tcp => proto::TCP,
                Protocol::Udp => proto::UDP,
            };
            guard
                .services
                .insert((service.address, protocol, service.port));
            for real in &service.real_servers {
                guard.reals.insert((real.address, protocol, real.port));
            }
        }
        guard
    }

    /// Puts the table into the kernel, in place of one that is there.
    pub fn install(&self) -> io::Result<()> {
        let mut transaction = Transaction::new(Family::Inet);
        let table = Attributes::new().text(1, TABLE);
        // A table that is not there cannot be deleted: make it first.
        transaction.add(Operation::NewTable, &table);
        transaction.add(Operation::DeleteTable, &table);
        transaction.add(Operation::NewTable, &table);
        transaction.add(Operation::NewChain, &chain());
        let endpoint = |&(address, protocol, port): &Endpoint| {
            // Each part fills a register.
            let mut key = address.octets().to_vec();
            key.extend([protocol, 0, 0, 0]);
            key.extend(port.to_be_bytes());
            key.extend([0, 0]);
            key
        };
        let endpoints = TYPE_ADDRESS << 12 | TYPE_PROTOCOL << 6 | TYPE_PORT;
        let services: Vec<_> = self.services.iter().map(endpoint).collect();
        let reals: Vec<_> = self.reals.iter().map(endpoint).collect();
        let own: Vec<_> = self.own.iter().map(|own| own.octets().to_vec()).collect();
        set(&mut transaction, "services", 1, (endpoints, 12), &services);
        set(&mut transaction, "real_servers", 2, (endpoints, 12), &reals);
        set(&mut transaction, "own", 3, (TYPE_ADDRESS, 4), &own);
        for rule in [
            rule(&[
                ipv4(),
                load_endpoint(DESTINATION, DESTINATION_PORT),
                vec![lookup("services", false)],
            ]),
            rule(&[
                ipv4(),
                vec![load(NETWORK, DESTINATION, 4, 0), lookup("own", true)],
                load_endpoint(SOURCE, SOURCE_PORT),
                vec![lookup("real_servers", false)],
            ]),
            rule(&[vec![
                meta(L4_PROTOCOL, 0),
                equal(&[proto::UDP]),
                load(TRANSPORT, DESTINATION_PORT, 2, 0),
                equal(&carp::HELLO_PORT.to_be_bytes()),
            ]]),
        ] {
            transaction.add(Operation::NewRule, &rule);
        }
        transaction.commit()
    }
}

/// Removes the table, if it is there.
pub fn remove() -> io::Result<()> {
    let mut transaction = Transaction::new(Family::Inet);
    let table = Attributes::new().text(1, TABLE);
    transaction.add(Operation::NewTable, &table);
    transaction.add(Operation::DeleteTable, &table);
    transaction.commit()
}

fn chain() -> Attributes {
    const HOOK: u16 = 4;
    /// `NF_INET_PRE_ROUTING`.
    const PREROUTING: u32 = 0;
    /// `NF_ACCEPT`.
    const ACCEPT: u32 = 1;
    let hook = Attributes::new()
        .number(1, PREROUTING)
        .number(2, PRIORITY.cast_unsigned());
    Attributes::new()
        .text(1, TABLE)
        .text(3, CHAIN)
        .nested(HOOK, &hook)
        .number(5, ACCEPT)
        .text(7, "filter")
}

fn set(
    transaction: &mut Transaction,
    name: &str,
    id: u32,
    (kind, length): (u32, u32),
    keys: &[Vec<u8>],
) {
    let new = Attributes::new()
        .text(1, TABLE)
        .text(2, name)
        .number(3, 0)
        .number(4, kind)
        .number(5, length)
        .number(10, id);
    transaction.add(Operation::NewSet, &new);
    for piece in keys.chunks(PIECE) {
        let elements = piece.iter().fold(Attributes::new(), |list, key| {
            let element = Attributes::new().nested(1, &Attributes::new().bytes(1, key));
            list.nested(1, &element)
        });
        let add = Attributes::new()
            .text(1, TABLE)
            .text(2, name)
            .nested(3, &elements)
            .number(4, id);
        transaction.add(Operation::NewElements, &add);
    }
}

/// A rule that counts and drops what all expressions are true of.
fn rule(expressions: &[Vec<Attributes>]) -> Attributes {
    let counter = expression("counter", &Attributes::new());
    let verdict = Attributes::new().nested(2, &Attributes::new().number(1, 0));
    let drop = Attributes::new().number(1, 0).nested(2, &verdict);
    let drop = expression("immediate", &drop);
    let list = expressions
        .iter()
        .flatten()
        .chain([&counter, &drop])
        .fold(Attributes::new(), |list, found| list.nested(1, found));
    Attributes::new()
        .text(1, TABLE)
        .text(2, CHAIN)
        .nested(4, &list)
}

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const FAMILY: u32 = 15;
const L4_PROTOCOL: u32 = 16;

fn ipv4() -> Vec<Attributes> {
    /// `NFPROTO_IPV4`.
    const IPV4: u8 = 2;
    vec![meta(FAMILY, 0), equal(&[IPV4])]
}

/// Address, protocol and port, as the sets hold them.
fn load_endpoint(address: u32, port: u32) -> Vec<Attributes> {
    vec![
        load(NETWORK, address, 4, 0),
        meta(L4_PROTOCOL, 1),
        load(TRANSPORT, port, 2, 2),
    ]
}

fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::new().text(1, name).nested(2, data)
}

fn meta(key: u32, register: u32) -> Attributes {
    let data = Attributes::new()
        .number(1, REGISTER + register)
        .number(2, key);
    expression("meta", &data)
}

fn load(base: u32, offset: u32, length: u32, register: u32) -> Attributes {
    let data = Attributes::new()
        .number(1, REGISTER + register)
        .number(2, base)
        .number(3, offset)
        .number(4, length);
    expression("payload", &data)
}

fn equal(value: &[u8]) -> Attributes {
    let data = Attributes::new()
        .number(1, REGISTER)
        .number(2, 0)
        .nested(3, &Attributes::new().bytes(1, value));
    expression("cmp", &data)
}

fn lookup(set: &str, absent: bool) -> Attributes {
    let data = Attributes::new()
        .text(1, set)
        .number(2, REGISTER)
        .number(5, u32::from(absent));
    expression("lookup", &data)
}
