//! Who is who in the cases, and how their frames look.
//!
//! Frames come in on one interface. Real server [`ONE`] is reached through another, so its packets are
//! redirected; [`TWO`] through the same, so its packets are transmitted back.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{Conn4, ConnKey4, EmbryoKey4, flags};
use ha_common::proto;
use ha_common::service::{Scheduler, Service, ServiceKey4, Timeouts, service_flags};
use ha_tests::packet::{Frame, Mac};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const VHID: u8 = 110;

pub(crate) const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 40000);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
pub(crate) const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);
pub(crate) const OWN: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);

/// Maglev, TCP.
pub(crate) const WEB: SocketAddrV4 = SocketAddrV4::new(VIP, 80);
/// Round robin, TCP.
pub(crate) const TURN: SocketAddrV4 = SocketAddrV4::new(VIP, 81);
/// Maglev, TCP, unknown connections are refused.
pub(crate) const STRICT: SocketAddrV4 = SocketAddrV4::new(VIP, 82);
/// Maglev, TCP, on the other shared address but with the real servers of [`WEB`].
pub(crate) const TWIN: SocketAddrV4 = SocketAddrV4::new(OTHER_VIP, 80);
/// Maglev, TCP, without real servers.
pub(crate) const EMPTY: SocketAddrV4 = SocketAddrV4::new(VIP, 83);
/// Maglev, UDP.
pub(crate) const NAMES: SocketAddrV4 = SocketAddrV4::new(VIP, 53);
/// Round robin, UDP.
pub(crate) const UDP_TURN: SocketAddrV4 = SocketAddrV4::new(VIP, 54);

pub(crate) const ONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 21), 8080);
pub(crate) const TWO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 22), 8080);
/// Serves [`STRICT`].
pub(crate) const THREE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 23), 8082);
/// Serves [`NAMES`].
pub(crate) const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 21), 5353);

/// What stands in for clients with full NAT, as far as it is known beforehand.
pub(crate) const STAND_IN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 100), 0);

/// Longest IP packet of every interface.
pub(crate) const MTU: usize = 1500;

/// All services.
pub(crate) const SERVICES: [(SocketAddrV4, u8); 7] = [
    (WEB, proto::TCP),
    (TURN, proto::TCP),
    (STRICT, proto::TCP),
    (NAMES, proto::UDP),
    (UDP_TURN, proto::UDP),
    (TWIN, proto::TCP),
    (EMPTY, proto::TCP),
];

/// Their idle times. A machine that has just booted has no longer past in which something could have been seen.
pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    established_ns: 90 * SECOND,
    closing_ns: 70 * SECOND,
    closed_ns: 10 * SECOND,
    udp_ns: 60 * SECOND,
};

/// Ids of the real servers.
pub(crate) mod id {
    pub(crate) const ALL: [u16; 6] = [ONE, TWO, THREE, RESOLVER, TWIN_ONE, TWIN_TWO];
    pub(crate) const ONE: u16 = 1;
    pub(crate) const TWO: u16 = 2;
    pub(crate) const THREE: u16 = 3;
    pub(crate) const RESOLVER: u16 = 4;
    pub(crate) const TWIN_ONE: u16 = 5;
    pub(crate) const TWIN_TWO: u16 = 6;
}

/// Where the members of services are in the slots.
pub(crate) const WEB_TABLE: u32 = 0;
pub(crate) const TWO_MEMBERS: u32 = 16;
pub(crate) const THREE_TABLE: u32 = 24;
pub(crate) const RESOLVER_TABLE: u32 = 32;
pub(crate) const TWIN_TABLE: u32 = 40;
pub(crate) const TABLE_LEN: u32 = 8;
/// A table that a service had before; its length is in front of it.
pub(crate) const FORMER_TABLE: u32 = 49;

pub(crate) const GENERATION: u16 = 3;
pub(crate) const BACK: u32 = 77;

pub(crate) const CLIENT_MAC: Mac = [0x02, 0xc1, 0, 0, 0, 0x07];
pub(crate) const NODE_MAC: Mac = [0x02, 0x1b, 0, 0, 0, 0x01];
pub(crate) const NODE_BACK_MAC: Mac = [0x02, 0x1b, 0, 0, 0, 0x02];
pub(crate) const ONE_MAC: Mac = [0x02, 0x4e, 0, 0, 0, 0x01];
pub(crate) const TWO_MAC: Mac = [0x02, 0x4e, 0, 0, 0, 0x02];

/// An address as maps hold it.
pub(crate) fn net(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// A service as it is at first; its id is its place in the list.
pub(crate) fn service(address: SocketAddrV4) -> Result<Service> {
    let index = SERVICES.iter().position(|(service, _)| *service == address);
    let id = index.context("no such service")? as u16 + 1;
    let (table, scheduler, flags) = match address {
        TURN | UDP_TURN => (WEB_TABLE, Scheduler::Rr, 0),
        STRICT => (THREE_TABLE, Scheduler::Mh, service_flags::NO_RESTEER),
        NAMES => (RESOLVER_TABLE, Scheduler::Mh, 0),
        TWIN => (TWIN_TABLE, Scheduler::Mh, 0),
        _ => (WEB_TABLE, Scheduler::Mh, 0),
    };
    let empty = address == EMPTY;
    Ok(Service {
        hash_seed: 7,
        table_offset: table,
        table_len: if empty { 0 } else { TABLE_LEN },
        members_offset: TWO_MEMBERS,
        members_len: if empty { 0 } else { 2 },
        id,
        scheduler: scheduler as u8,
        flags,
        ..Service::default()
    })
}

pub(crate) fn service_key(address: SocketAddrV4, protocol: u8) -> ServiceKey4 {
    ServiceKey4 {
        addr: net(*address.ip()),
        port: address.port().to_be(),
        proto: u16::from(protocol),
    }
}

pub(crate) fn conn_key(from: SocketAddrV4, to: SocketAddrV4, protocol: u8) -> ConnKey4 {
    ConnKey4 {
        src: net(*from.ip()),
        dst: net(*to.ip()),
        sport: from.port().to_be(),
        dport: to.port().to_be(),
        proto: u32::from(protocol),
    }
}

pub(crate) fn embryo_key(client: SocketAddrV4) -> EmbryoKey4 {
    EmbryoKey4 {
        client: net(*client.ip()),
        port: client.port().to_be(),
        pad: 0,
    }
}

/// A segment of the client.
pub(crate) fn from_client(client: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Frame {
    Frame::tcp(client, to, flags).macs(CLIENT_MAC, NODE_MAC)
}

/// A datagram of the client.
pub(crate) fn datagram(client: SocketAddrV4, to: SocketAddrV4) -> Frame {
    Frame::udp(client, to)
        .macs(CLIENT_MAC, NODE_MAC)
        .payload(b"question")
}

/// A segment of a real server.
pub(crate) fn from_server(real: SocketAddrV4, client: SocketAddrV4, flags: u8) -> Frame {
    Frame::tcp(real, client, flags).macs(ONE_MAC, NODE_BACK_MAC)
}

/// The client's frame as it must reach a real server.
pub(crate) fn at_server(frame: &Frame, real: SocketAddrV4) -> Frame {
    let (node, mac) = if real == TWO {
        (NODE_MAC, TWO_MAC)
    } else {
        (NODE_BACK_MAC, ONE_MAC)
    };
    frame.clone().to(real).ttl(63).macs(node, mac)
}

/// The real server's frame as it must reach the client.
pub(crate) fn at_client(frame: &Frame, service: SocketAddrV4) -> Frame {
    frame
        .clone()
        .from(service)
        .ttl(63)
        .macs(NODE_MAC, CLIENT_MAC)
}

/// Asserts the flags of an entry.
pub(crate) fn has_flags(conn: &Conn4, wanted: u8) -> Result<()> {
    ensure!(
        conn.flags & !flags::HOP_KNOWN == wanted,
        "flags {:#x}, not {wanted:#x}",
        conn.flags
    );
    Ok(())
}
