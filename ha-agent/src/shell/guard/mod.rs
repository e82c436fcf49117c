//! The second fence: an nftables table for what XDP should never let through to the kernel.
//!
//! While the XDP program is attached, the kernel sees no packet of a virtual service but those the
//! program has rewritten. Should it see one all the same (the program was detached), the packet must not be
//! answered with a reset, and a real server's answer must not leave untranslated. So table
//! `inet ha_agent` drops, in prerouting and before connection tracking,
//!
//! * what goes to a virtual service's address, port and protocol,
//! * what comes from a real server's address and port, but for answers to the node's own health checks:
//!   where answers come back this way, and the real server has one port (one that is reached on
//!   many may use any of them for itself, by way of this node),
//! * datagrams to the HELLO port, which only packet sockets read, and the kernel would answer with
//!   "port unreachable".
//!
//! A packet that XDP has rewritten matches neither of the first two: it goes to a real server, or comes
//! from a shared address. Each address family has sets of its own, of the same form.
//!
//! The table is replaced in one transaction and outlives an agent that is killed, as the program does.

mod nfnetlink;
pub mod readdressed;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ha_common::service::Forwarding;
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
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

/// First of the four-byte registers; the next ones follow.
const REGISTER: u32 = 8;
/// Size of a register.
const WORD: u32 = 4;
/// Where TCP and UDP headers have their ports.
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

/// An address family as nftables sees it.
#[derive(Clone, Copy, Debug)]
struct Network {
    v6: bool,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    protocol: u8,
    /// Data type of nft of an address.
    address_type: u32,
    /// Length of an address.
    address_len: u32,
    /// Where the header has its addresses.
    source: u32,
    destination: u32,
    /// Names of the sets: services, real servers, own addresses.
    sets: [&'static str; 3],
}

const NETWORKS: [Network; 2] = [
    Network {
        v6: false,
        protocol: 2,
        address_type: 7,
        address_len: 4,
        source: 12,
        destination: 16,
        sets: ["services", "real_servers", "own"],
    },
    Network {
        v6: true,
        protocol: 10,
        address_type: 8,
        address_len: 16,
        source: 8,
        destination: 24,
        sets: ["services6", "real_servers6", "own6"],
    },
];

/// An address with protocol and port; 0 is every port.
pub type Endpoint = (IpAddr, u8, u16);

/// What the table is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Virtual services.
    pub services: BTreeSet<Endpoint>,
    /// Real servers.
    pub reals: BTreeSet<Endpoint>,
    /// This node's own addresses.
    pub own: BTreeSet<IpAddr>,
}

impl Guard {
    /// For the services of this configuration.
    pub fn new(config: &Config) -> Self {
        let interfaces = config.node.interfaces.iter();
        let own = interfaces.flat_map(|interface| &interface.addresses);
        let mut guard = Self {
            own: own.map(|own| own.address).collect(),
            ..Self::default()
        };
        for service in &config.virtual_services {
            let protocol = match service.protocol {
                Protocol::Tcp => proto::TCP,
                Protocol::Udp => proto::UDP,
            };
            let ports = service.ports.numbers();
            let listen = ports.map(|port| (service.address, protocol, port));
            guard.services.extend(listen);
            if matches!(service.forwarding, Forwarding::Nat | Forwarding::FullNat) {
                let reals = service.all_servers().filter_map(|real| {
                    let port = service.port_of(real)?;
                    Some((real.address, protocol, port))
                });
                guard.reals.extend(reals);
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
        for (number, network) in (0..).zip(&NETWORKS) {
            self.add_network(&mut transaction, network, 3 * number + 1);
        }
        let hello = rule(&[vec![
            meta(L4_PROTOCOL, 0),
            equal(&[proto::UDP]),
            load(TRANSPORT, DESTINATION_PORT, 2, 0),
            equal(&carp::HELLO_PORT.to_be_bytes()),
        ]]);
        transaction.add(Operation::NewRule, &hello);
        transaction.commit()
    }

    /// Sets, numbered from `id` on, and rules of one family.
    fn add_network(&self, transaction: &mut Transaction, network: &Network, id: u32) {
        let endpoints = |all: &BTreeSet<Endpoint>| -> Vec<Vec<u8>> {
            let mine = all.iter().filter(|(address, ..)| network.has(address));
            mine.map(|&(address, protocol, port)| {
                // Each part fills whole registers.
                let mut key = octets(address);
                key.extend([protocol, 0, 0, 0]);
                key.extend(port.to_be_bytes());
                key.extend([0, 0]);
                key
            })
            .collect()
        };
        let own = self.own.iter().filter(|address| network.has(address));
        let own: Vec<Vec<u8>> = own.map(|address| octets(*address)).collect();
        let endpoint = (
            network.address_type << 12 | TYPE_PROTOCOL << 6 | TYPE_PORT,
            network.address_len + 2 * WORD,
        );
        let address = (network.address_type, network.address_len);
        let [services, reals, nodes] = network.sets;
        set(
            transaction,
            services,
            id,
            endpoint,
            &endpoints(&self.services),
        );
        set(
            transaction,
            reals,
            id + 1,
            endpoint,
            &endpoints(&self.reals),
        );
        set(transaction, nodes, id + 2, address, &own);
        for rule in [
            rule(&[
                network.is_it(),
                network.load_endpoint(network.destination, DESTINATION_PORT),
                vec![lookup(services, false)],
            ]),
            rule(&[
                network.is_it(),
                network.load_any_port(network.destination),
                vec![lookup(services, false)],
            ]),
            rule(&[
                network.is_it(),
                vec![
                    load(NETWORK, network.destination, network.address_len, 0),
                    lookup(nodes, true),
                ],
                network.load_endpoint(network.source, SOURCE_PORT),
                vec![lookup(reals, false)],
            ]),
        ] {
            transaction.add(Operation::NewRule, &rule);
        }
    }
}

impl Network {
    fn has(&self, address: &IpAddr) -> bool {
        address.is_ipv6() == self.v6
    }

    /// The packet is of this family.
    fn is_it(&self) -> Vec<Attributes> {
        vec![meta(FAMILY, 0), equal(&[self.protocol])]
    }

    /// Address, protocol and port, as the sets hold them.
    fn load_endpoint(&self, address: u32, port: u32) -> Vec<Attributes> {
        let words = self.address_len / WORD;
        vec![
            load(NETWORK, address, self.address_len, 0),
            meta(L4_PROTOCOL, words),
            load(TRANSPORT, port, 2, words + 1),
        ]
    }

    /// Address, protocol and every port, as the sets hold them.
    fn load_any_port(&self, address: u32) -> Vec<Attributes> {
        let words = self.address_len / WORD;
        vec![
            load(NETWORK, address, self.address_len, 0),
            meta(L4_PROTOCOL, words),
            zero(words + 1),
        ]
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
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

fn zero(register: u32) -> Attributes {
    let value = Attributes::new().bytes(1, &[0; WORD as usize]);
    let data = Attributes::new()
        .number(1, REGISTER + register)
        .nested(2, &value);
    expression("immediate", &data)
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
