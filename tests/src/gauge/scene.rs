//! The pair's node in which the packets of the bench arrive: one service, one real server, one partner.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::ProgramFd;
use ha_agent::datapath::pair::{self, PairLink, Secrets};
use ha_agent::proto::carp::trailer::{Body, Signer, WireRole};
use ha_agent::proto::carp::wire::Group;
use ha_common::conn::ConnKey4;
use ha_common::control::{Config, Gate};
use ha_common::gauge::vary;
use ha_common::pair::auth;
use ha_common::reason::Reason;
use ha_common::service::{
    Addr6, Address as _, Forwarding, LocalAddr, Real, RealState, ReturnPath4, ReturnPath6,
    Scheduler, Service, ServiceKey4, ServiceKey6, addr_kind,
};
use ha_common::stage::ENTRY;

use super::instrument::{Instrument, Traffic};
use crate::clock::now_ns;
use crate::packet::{Frame, carp_header, flag, mapped};
use crate::rig::bpf::{DataPlane, INGRESS, Sizes};
use crate::rig::locate;

/// The first client; the others have the addresses after it.
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(100, 64, 0, 0), 40_000);
/// The first of clients that never come twice; of those that come in a flood; and of those in mid-flow.
const NEWCOMER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, 0), 40_000);
const FLOODER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(13, 0, 0, 0), 40_000);
const STRANGER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(15, 0, 0, 0), 40_000);
const WEB: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), 80);
/// The service of datagrams.
pub(crate) const NAMES: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), 53);
const REAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 21), 8080);
/// Its real server.
pub(super) const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 22), 53);
const ELSEWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);
const PARTNER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const REAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Id of the real server of [`WEB`], and of its service.
const WEB_ID: u16 = 1;
/// Id of the real server of datagrams.
const RESOLVER_ID: u32 = 2;
/// Id of the real server of [`WEB`] over IPv6, and of its service.
const WEB6_ID: u16 = 3;
/// What stands in for clients, and sends the outer packet of a tunnel.
const STAND_IN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), 0);
const MTU: u16 = 1500;
const VHID: u8 = 110;
const EPOCH: u64 = 77;
const KEY: (u8, [u8; 16]) = (1, [7; 16]);
const TABLE_LEN: u32 = 1021;
const SIZES: Sizes = Sizes {
    conns: 2 << 20,
    embryos: 1 << 20,
    events: 32 << 20,
    carp: 1 << 16,
};

/// The data plane, set up.
pub(crate) struct Scene {
    pub(super) plane: DataPlane,
}

impl Scene {
    /// A node whose lease never ends, without connections.
    pub(super) fn new() -> Result<Self> {
        let mut plane = DataPlane::load(&locate::bpf_object("ha_xdp")?, SIZES)?;
        let shared = LocalAddr {
            kind: addr_kind::SHARED,
            ifindex: 0,
        };
        plane.addrs.insert(net(*WEB.ip()), shared, 0)?;
        plane.concern(net(*WEB.ip()))?;
        for (id, service, real, proto) in [(1, WEB, REAL, 6), (2, NAMES, RESOLVER, 17)] {
            plane.concern(net(*real.ip()))?;
            plane.reals.set(id.into(), real_server(id, real), 0)?;
            let value = fill_table(&mut plane, id)?;
            plane
                .services
                .insert(service_key(service, proto), value, 0)?;
            plane.return_paths.insert(
                service_key(real, proto),
                ReturnPath4 {
                    vip: net(*service.ip()),
                    vport: service.port().to_be(),
                    real: id,
                    service: id,
                    ..ReturnPath4::default()
                },
                0,
            )?;
        }
        let secrets = Secrets {
            vhid: VHID,
            auth: auth::ENFORCE,
            own_epoch: 1,
            keys: &[KEY],
            passphrase: b"passphrase",
        };
        let link = PairLink {
            ifindex: INGRESS,
            mac: NODE_MAC,
            flags: 0,
            checked: true,
            own: &[],
            partners: &[PARTNER.into()],
            shared: &[(*WEB.ip()).into()],
        };
        let tables = pair::tables(&secrets, &[link]);
        plane.pair.set(0, tables.pair, 0)?;
        for (index, (peer, digest)) in (0..).zip(tables.peers.iter().zip(&tables.digests)) {
            plane.peers.set(index, peer, 0)?;
            plane.digests.set(index, digest, 0)?;
        }
        let mut scene = Self { plane };
        scene.configure(false, false)?;
        scene.lease(Gate::ALWAYS)?;
        Ok(scene)
    }

    /// The same with [`WEB`] over IPv6 as well.
    pub(super) fn with_ipv6() -> Result<Self> {
        let mut scene = Self::new()?;
        let plane = &mut scene.plane;
        let [vip, real] = [WEB, REAL].map(|end| Addr6::new(mapped(*end.ip()).octets()));
        let shared = LocalAddr {
            kind: addr_kind::SHARED,
            ifindex: 0,
        };
        plane.addrs6.insert(vip, shared, 0)?;
        plane.concern(vip)?;
        plane.concern(real)?;
        let value = Real {
            addr: real,
            ..real_server(WEB6_ID, REAL)
        };
        plane.reals.set(WEB6_ID.into(), value, 0)?;
        let service = fill_table(plane, WEB6_ID)?;
        let key = |addr: Addr6, port: u16| ServiceKey6 {
            addr,
            port: port.to_be(),
            proto: 6,
        };
        plane.services6.insert(key(vip, WEB.port()), service, 0)?;
        let back = ReturnPath6 {
            vip,
            vport: WEB.port().to_be(),
            real: WEB6_ID,
            service: WEB6_ID,
            ..ReturnPath6::default()
        };
        plane
            .return_paths6
            .insert(key(real, REAL.port()), back, 0)?;
        Ok(scene)
    }

    /// The same with another forwarding method at [`WEB`].
    pub(super) fn with_method(method: Forwarding) -> Result<Self> {
        let mut scene = Self::new()?;
        let real = Real {
            forwarding: method as u8,
            source: net(*STAND_IN.ip()).wide(),
            ..real_server(WEB_ID, REAL)
        };
        scene.plane.reals.set(WEB_ID.into(), real, 0)?;
        Ok(scene)
    }

    /// The name under which the real server knows the one client that has asked for a connection.
    pub(super) fn stand_in(&self) -> Result<SocketAddrV4> {
        let address = net(*STAND_IN.ip());
        for key in self.plane.embryos.keys() {
            let key = key?;
            if key.client == address {
                return Ok(SocketAddrV4::new(*STAND_IN.ip(), u16::from_be(key.port)));
            }
        }
        bail!("nothing stands in for the client")
    }

    /// The program to measure.
    pub(super) fn program(&self) -> Result<ProgramFd> {
        Ok(self.plane.program(ENTRY)?.fd()?.try_clone()?)
    }

    /// Whether the table takes new connections, and whether events are wanted.
    pub(super) fn configure(&mut self, table_full: bool, events: bool) -> Result<()> {
        let config = Config {
            vhid: VHID.into(),
            table_full: table_full.into(),
            emit_events: events.into(),
            ..Config::default()
        };
        Ok(self.plane.config.set(0, config, 0)?)
    }

    /// Puts the real server of datagrams behind an interface.
    pub(super) fn resolver_behind(
        &mut self,
        ifindex: u32,
        mac: [u8; 6],
        own: [u8; 6],
    ) -> Result<()> {
        let real = self.plane.reals.get(&RESOLVER_ID, 0)?;
        let moved = Real {
            ifindex,
            mac,
            src_mac: own,
            ..real
        };
        Ok(self.plane.reals.set(RESOLVER_ID, moved, 0)?)
    }

    /// Opens the gate until then.
    pub(super) fn lease(&mut self, until_ns: u64) -> Result<()> {
        let gate = Gate {
            until_ns,
            term: 9,
            partner_epoch: EPOCH,
            ..Gate::default()
        };
        Ok(self.plane.gate.set(0, gate, 0)?)
    }

    /// A lease so near its end that the precise clock is asked, and far enough for a short run.
    pub(super) fn lease_is_ending(&mut self) -> Result<()> {
        self.lease(now_ns() + Gate::COARSE_SLACK_NS - 5_000_000)
    }

    /// Makes established connections of as many clients.
    pub(super) fn connect(&mut self, instrument: &mut Instrument, clients: u32) -> Result<()> {
        let program = self.program()?;
        for traffic in [requests(clients), answers(clients), completions(clients)] {
            instrument.run(&program, &traffic, clients)?;
        }
        let made = self.count(Reason::ForwardTransmit)?;
        ensure!(
            made >= 2 * u64::from(clients),
            "only {made} segments went on"
        );
        Ok(())
    }

    /// Packets that had this end so far.
    pub(super) fn count(&self, reason: Reason) -> Result<u64> {
        let counters = self.plane.counters()?;
        counters
            .get(reason as usize)
            .copied()
            .context("a counter of every reason")
    }
}

/// Segments of established connections, from clients.
pub(super) fn forward() -> Vec<u8> {
    client(CLIENT, WEB, flag::ACK)
}

/// Segments of established connections, from the real server.
pub(super) fn reverse() -> Vec<u8> {
    server(CLIENT, flag::ACK).build()
}

/// The segments of a handshake, and one of either direction after it, of a client that the real server knows
/// under this name.
pub(super) fn conversation(known_as: SocketAddrV4) -> [Frame; 5] {
    [
        Frame::tcp(CLIENT, WEB, flag::SYN),
        server(known_as, flag::SYN | flag::ACK),
        Frame::tcp(CLIENT, WEB, flag::ACK).numbers(1001, 5001),
        Frame::tcp(CLIENT, WEB, flag::ACK).payload(&[0; 64]),
        server(known_as, flag::ACK),
    ]
}

/// The first client.
pub(super) const fn first_client() -> SocketAddrV4 {
    CLIENT
}

/// Datagrams of clients.
pub(super) fn datagram() -> Vec<u8> {
    datagram_to(NODE_MAC)
}

/// The same to a node with this Ethernet address.
pub(super) fn datagram_to(node: [u8; 6]) -> Vec<u8> {
    Frame::udp(CLIENT, NAMES)
        .macs(CLIENT_MAC, node)
        .payload(&[0; 64])
        .build()
}

/// Segments that pass through.
pub(super) fn foreign() -> Vec<u8> {
    client(CLIENT, ELSEWHERE, flag::ACK)
}

/// Connection requests of clients that are new.
pub(super) fn newcomers(clients: u32) -> Traffic {
    Traffic::in_turn(client(NEWCOMER, WEB, flag::SYN), vary::SOURCE4, clients)
}

/// Connection requests of a flood.
pub(super) fn flood(clients: u32) -> Traffic {
    Traffic::in_turn(client(FLOODER, WEB, flag::SYN), vary::SOURCE4, clients)
}

/// Segments in mid-flow of connections that nobody knows.
pub(super) fn strangers(clients: u32) -> Traffic {
    Traffic::in_turn(client(STRANGER, WEB, flag::ACK), vary::SOURCE4, clients)
}

/// A connection request, repeated.
pub(super) fn request() -> Vec<u8> {
    client(NEWCOMER, WEB, flag::SYN)
}

/// Connection requests of clients that will complete them.
pub(super) fn requests(clients: u32) -> Traffic {
    Traffic::in_turn(client(CLIENT, WEB, flag::SYN), vary::SOURCE4, clients)
}

/// Answers to them.
pub(super) fn answers(clients: u32) -> Traffic {
    let frame = server(CLIENT, flag::SYN | flag::ACK).build();
    Traffic::in_turn(frame, vary::DESTINATION4, clients)
}

/// The last segments of their handshakes.
pub(super) fn completions(clients: u32) -> Traffic {
    let frame = Frame::tcp(CLIENT, WEB, flag::ACK)
        .numbers(1001, 5001)
        .macs(CLIENT_MAC, NODE_MAC)
        .payload(&[0; 64])
        .build();
    Traffic::in_turn(frame, vary::SOURCE4, clients)
}

/// An advertisement of another group.
pub(super) fn foreign_advert() -> Vec<u8> {
    advert(&carp_header(9))
}

/// An advertisement of ours with a wrong tag.
pub(super) fn forged_advert() -> Vec<u8> {
    let header = Group::new(b"passphrase", VHID, &[(*WEB.ip()).into()]).header(1, 0, 5);
    let body = Body {
        flags: 0,
        epoch: EPOCH,
        sequence: u64::MAX,
        term: 9,
        interval_us: 10_000,
        timeout_us: 30_000,
        mode: 2,
        role: WireRole::Active,
        ready: true,
        preferred: 0,
        health: 0,
        recent: 0,
        heard: 0,
        generation: 0,
        echo_epoch: 0,
        echo_sequence: 0,
    };
    let mut payload = Signer::new(VHID, vec![KEY]).advert(PARTNER.into(), &header.encode(), &body);
    if let Some(last) = payload.last_mut() {
        *last ^= 1;
    }
    advert(&payload)
}

fn advert(payload: &[u8]) -> Vec<u8> {
    Frame::raw(PARTNER, Ipv4Addr::new(224, 0, 0, 18), 112)
        .ttl(255)
        .payload(payload)
        .build()
}

fn client(client: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Vec<u8> {
    Frame::tcp(client, to, flags)
        .macs(CLIENT_MAC, NODE_MAC)
        .payload(&[0; 64])
        .build()
}

fn server(to: SocketAddrV4, flags: u8) -> Frame {
    Frame::tcp(REAL, to, flags)
        .numbers(5000, 1001)
        .macs(REAL_MAC, NODE_MAC)
        .payload(&[0; 64])
}

/// The flow of the client with this number to the service.
pub(super) fn forward_key(client: u32) -> ConnKey4 {
    ConnKey4 {
        src: (u32::from(*CLIENT.ip()) + client).to_be(),
        dst: net(*WEB.ip()),
        sport: CLIENT.port().to_be(),
        dport: WEB.port().to_be(),
        proto: 6,
    }
}

/// A real server that is up, behind the interface that packets come in on.
fn real_server(id: u16, end: SocketAddrV4) -> Real {
    Real {
        addr: net(*end.ip()).wide(),
        port: end.port().to_be(),
        ifindex: INGRESS,
        mac: REAL_MAC,
        src_mac: NODE_MAC,
        state: RealState::Up as u8,
        hop_known: 1,
        mtu: MTU,
        service: id,
        ..Real::default()
    }
}

/// Fills a Maglev table with the real server of the same id; the service to go with it.
fn fill_table(plane: &mut DataPlane, id: u16) -> Result<Service> {
    let table_offset = u32::from(id) * TABLE_LEN;
    for slot in 0..TABLE_LEN {
        plane.slots.set(table_offset + slot, u32::from(id), 0)?;
    }
    Ok(Service {
        hash_seed: 7,
        table_offset,
        table_len: TABLE_LEN,
        id,
        scheduler: Scheduler::Mh as u8,
        ..Service::default()
    })
}

fn net(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn service_key(address: SocketAddrV4, proto: u16) -> ServiceKey4 {
    ServiceKey4 {
        addr: net(*address.ip()),
        port: address.port().to_be(),
        proto,
    }
}
