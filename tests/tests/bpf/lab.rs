//! The configuration in which the cases play.
//!
//! Frames come in on one interface. Real server `ONE` is reached through another, so its packets are
//! redirected; `TWO` through the same, so its packets are transmitted back.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{Conn4, ConnKey4, ConnState, Embryo4, EmbryoKey4, flags};
use ha_common::control::{Config, Gate};
use ha_common::event::{ConnEvent4, EventKind, Evidence, EvidenceKind};
use ha_common::proto;
use ha_common::reason::{Reason, Tally, Verdict};
use ha_common::service::{
    Addr6, Address as _, Real, RealState, ReturnPath4, Scheduler, Service, ServiceKey4, addr_kind,
    service_flags,
};
use ha_tests::packet::{Frame, Mac, flag, verify};
use ha_tests::rig::bpf::{INGRESS, Sizes};

use crate::bpf::partner::{self, OWN4, OWN6, VIP6};
use crate::bpf::world::{Place, World};

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

/// Ids of the real servers.
pub(crate) mod id {
    pub(crate) const ONE: u16 = 1;
    pub(crate) const TWO: u16 = 2;
    pub(crate) const THREE: u16 = 3;
    pub(crate) const RESOLVER: u16 = 4;
    pub(crate) const TWIN_ONE: u16 = 5;
    pub(crate) const TWIN_TWO: u16 = 6;
}

/// Where the members of services are in the slots.
pub(crate) const WEB_TABLE: u32 = 0;
const TWO_MEMBERS: u32 = 16;
const THREE_TABLE: u32 = 24;
const RESOLVER_TABLE: u32 = 32;
const TWIN_TABLE: u32 = 40;
pub(crate) const TABLE_LEN: u32 = 8;

pub(crate) const GENERATION: u16 = 3;
pub(crate) const BACK: u32 = 77;

pub(crate) const CLIENT_MAC: Mac = [0x02, 0xc1, 0, 0, 0, 0x07];
pub(crate) const NODE_MAC: Mac = [0x02, 0x1b, 0, 0, 0, 0x01];
pub(crate) const NODE_BACK_MAC: Mac = [0x02, 0x1b, 0, 0, 0, 0x02];
pub(crate) const ONE_MAC: Mac = [0x02, 0x4e, 0, 0, 0, 0x01];
pub(crate) const TWO_MAC: Mac = [0x02, 0x4e, 0, 0, 0, 0x02];

/// A case: what it shows, the map sizes it needs, and how.
pub(crate) type Case = (&'static str, Sizes, fn(&mut Lab) -> Result<()>);

/// Sizes that are enough for most cases.
pub(crate) const USUAL: Sizes = Sizes {
    conns: 256,
    embryos: 1024,
    events: 1 << 14,
    carp: 1 << 14,
};

pub(crate) struct Lab {
    place: Place,
    sizes: Sizes,
    pub(crate) world: Box<dyn World>,
    pub(crate) config: Config,
    /// Reasons seen.
    pub(crate) seen: Vec<Reason>,
}

impl Lab {
    pub(crate) fn new(place: &Place, sizes: Sizes) -> Result<Self> {
        let mut world = place.world(sizes)?;
        let config = Config {
            vhid: u32::from(VHID),
            table_full: 0,
            emit_events: 1,
            pad: 0,
            tcp_timeout_ns: 900 * SECOND,
            closing_timeout_ns: 120 * SECOND,
            closed_timeout_ns: 10 * SECOND,
            udp_timeout_ns: 60 * SECOND,
        };
        world.set_config(config)?;
        world.set_gate(Gate::ALWAYS)?;
        for shared in [VIP, OTHER_VIP] {
            world.set_addr(net(shared), addr_kind::SHARED)?;
        }
        world.set_addr(net(OWN), addr_kind::OWN)?;

        let services = [
            (WEB, proto::TCP, WEB_TABLE, Scheduler::Mh, 0),
            (TURN, proto::TCP, WEB_TABLE, Scheduler::Rr, 0),
            (
                STRICT,
                proto::TCP,
                THREE_TABLE,
                Scheduler::Mh,
                service_flags::NO_RESTEER,
            ),
            (NAMES, proto::UDP, RESOLVER_TABLE, Scheduler::Mh, 0),
            (UDP_TURN, proto::UDP, WEB_TABLE, Scheduler::Rr, 0),
            (TWIN, proto::TCP, TWIN_TABLE, Scheduler::Mh, 0),
        ];
        for (number, (address, protocol, table, scheduler, flags)) in services.iter().enumerate() {
            let service = Service {
                hash_seed: 7,
                table_offset: *table,
                table_len: TABLE_LEN,
                members_offset: TWO_MEMBERS,
                members_len: 2,
                id: number as u16 + 1,
                scheduler: *scheduler as u8,
                flags: *flags,
                pad: 0,
            };
            world.set_service(service_key(*address, *protocol), service)?;
        }
        let nobody = Service {
            id: 9,
            scheduler: Scheduler::Mh as u8,
            ..Service::default()
        };
        world.set_service(service_key(EMPTY, proto::TCP), nobody)?;

        for index in 0..TABLE_LEN {
            world.set_slot(WEB_TABLE + index, u32::from(id::ONE))?;
            world.set_slot(THREE_TABLE + index, u32::from(id::THREE))?;
            world.set_slot(RESOLVER_TABLE + index, u32::from(id::RESOLVER))?;
            world.set_slot(TWIN_TABLE + index, u32::from(id::TWIN_ONE))?;
        }
        world.set_slot(TWO_MEMBERS, u32::from(id::ONE))?;
        world.set_slot(TWO_MEMBERS + 1, u32::from(id::TWO))?;

        world.set_addr(net(OWN4), addr_kind::OWN)?;
        world.set_addr6(Addr6::new(OWN6.octets()), addr_kind::OWN)?;
        world.set_addr6(Addr6::new(VIP6.octets()), addr_kind::SHARED)?;
        world.set_pair(&partner::enforcing())?;

        let mut lab = Self {
            place: place.clone(),
            sizes,
            world,
            config,
            seen: Vec::new(),
        };
        for (id, address, service) in [
            (id::ONE, ONE, 1),
            (id::TWO, TWO, 1),
            (id::THREE, THREE, 3),
            (id::RESOLVER, RESOLVER, 4),
            (id::TWIN_ONE, ONE, 6),
            (id::TWIN_TWO, TWO, 6),
        ] {
            lab.world.set_real(id, real(address, service))?;
        }
        lab.set_return(ONE, proto::TCP, WEB, id::ONE, false)?;
        lab.set_return(TWO, proto::TCP, WEB, id::TWO, false)?;
        lab.set_return(THREE, proto::TCP, STRICT, id::THREE, false)?;
        lab.set_return(RESOLVER, proto::UDP, NAMES, id::RESOLVER, false)?;
        Ok(lab)
    }

    /// Another one like this was at first.
    pub(crate) fn anew(&self) -> Result<Self> {
        Self::new(&self.place, self.sizes)
    }

    /// The partner lives in this epoch; the gate is open, in the term of its advertisements.
    pub(crate) fn know(&mut self, partner_epoch: u64) -> Result<()> {
        self.world.put_gate(Gate {
            until_ns: Gate::ALWAYS,
            term: 1,
            partner_epoch,
            ..Gate::default()
        })
    }

    /// The only record of evidence since the last call, which must be of this kind.
    pub(crate) fn shown(&mut self, kind: EvidenceKind) -> Result<Evidence> {
        let records = self.world.evidence()?;
        let [record] = records.as_slice() else {
            anyhow::bail!("{} records: {records:?}", records.len());
        };
        ensure!(
            record.kind == kind as u8 && record.ifindex == INGRESS,
            "{record:?} instead of {kind:?}"
        );
        Ok(*record)
    }

    pub(crate) fn set_return(
        &mut self,
        from: SocketAddrV4,
        protocol: u8,
        service: SocketAddrV4,
        real: u16,
        ambiguous: bool,
    ) -> Result<()> {
        let path = ReturnPath4 {
            vip: net(*service.ip()),
            vport: service.port().to_be(),
            real,
            real_generation: GENERATION,
            service: 1,
            ambiguous: u32::from(ambiguous),
        };
        self.world
            .set_return_path(service_key(from, protocol), path)
    }

    /// Changes a real server.
    pub(crate) fn change_real(&mut self, id: u16, change: impl FnOnce(&mut Real)) -> Result<()> {
        let address = match id {
            id::ONE | id::TWIN_ONE => ONE,
            id::TWO | id::TWIN_TWO => TWO,
            id::THREE => THREE,
            _ => RESOLVER,
        };
        let mut changed = real(address, 1);
        change(&mut changed);
        self.world.set_real(id, changed)
    }

    /// Changes the configuration.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        change(&mut self.config);
        self.world.set_config(self.config)
    }

    /// Runs a frame, which must come to this end.
    pub(crate) fn run(&mut self, frame: &[u8], wanted: Reason) -> Result<Vec<u8>> {
        let ran = self.world.run(frame)?;
        self.seen.push(ran.reason);
        ensure!(
            ran.reason == wanted,
            "{:?} instead of {wanted:?}",
            ran.reason
        );
        Ok(ran.frame)
    }

    /// Runs a frame that must come to this end and stay as it is.
    pub(crate) fn untouched(&mut self, frame: &[u8], wanted: Reason) -> Result<()> {
        ensure!(
            matches!(wanted.verdict(), Verdict::Pass | Verdict::Drop),
            "{wanted:?}"
        );
        let after = self.run(frame, wanted)?;
        ensure!(after == frame, "{wanted:?} changed the frame");
        Ok(())
    }

    /// Runs a frame that must become another.
    pub(crate) fn becomes(&mut self, frame: &Frame, reason: Reason, wanted: &Frame) -> Result<()> {
        let after = self.run(&frame.build(), reason)?;
        verify(&after).map_err(anyhow::Error::msg)?;
        let wanted = wanted.build();
        ensure!(
            after == wanted,
            "{reason:?}\n  frame  {after:02x?}\n  wanted {wanted:02x?}"
        );
        Ok(())
    }

    /// A connection of the client to a service through a handshake; the events of it are taken.
    pub(crate) fn connect(&mut self, client: SocketAddrV4, service: SocketAddrV4) -> Result<()> {
        let to = self
            .world
            .run(&from_client(client, service, flag::SYN).build())?;
        let (reason, real) = match to.reason {
            Reason::ForwardRedirect => (Reason::ReverseTransmit, ONE),
            Reason::ForwardTransmit => (Reason::ReverseTransmit, TWO),
            other => anyhow::bail!("{other:?} for a SYN"),
        };
        let answer = from_server(real, client, flag::SYN | flag::ACK).numbers(5000, 1001);
        self.run(&answer.build(), reason)?;
        let last = from_client(client, service, flag::ACK).numbers(1001, 5001);
        self.run(&last.build(), to.reason)?;
        self.world.events()?;
        Ok(())
    }

    /// The only connection's two entries, forward and reverse.
    pub(crate) fn pair(&self) -> Result<[(ConnKey4, Conn4); 2]> {
        let mut conns = self.world.conns()?;
        ensure!(conns.len() == 2, "{} entries", conns.len());
        conns.sort_by_key(|(_, conn)| conn.is_reverse());
        let pair: [(ConnKey4, Conn4); 2] =
            conns.try_into().ok().context("two entries are a pair")?;
        let [(forward_key, forward), (reverse_key, reverse)] = pair;
        ensure!(
            !forward.is_reverse() && reverse.is_reverse(),
            "two of one direction"
        );
        ensure!(
            forward.partner_key(&forward_key) == reverse_key,
            "the reverse is not its own"
        );
        ensure!(
            reverse.partner_key(&reverse_key) == forward_key,
            "the forward is not its own"
        );
        Ok(pair)
    }

    /// The only connection's state and version.
    pub(crate) fn state(&self) -> Result<(ConnState, u16)> {
        let [(_, forward), _] = self.pair()?;
        let state = ConnState::from_u8(forward.state).context("a state")?;
        Ok((state, forward.version))
    }

    /// The only event since the last call.
    pub(crate) fn event(&mut self) -> Result<ConnEvent4> {
        let events = self.world.events()?;
        let [event] = events.as_slice() else {
            anyhow::bail!("{} events: {events:?}", events.len());
        };
        Ok(*event)
    }

    /// Asserts that there was exactly one event, of this kind and state.
    pub(crate) fn announced(&mut self, kind: EventKind, state: ConnState) -> Result<ConnEvent4> {
        let event = self.event()?;
        ensure!(
            event.kind == kind as u8 && event.state == state as u8,
            "{event:?}"
        );
        Ok(event)
    }

    pub(crate) fn tallied(&self, tally: Tally, wanted: u64) -> Result<()> {
        let found = self.world.tally(tally)?;
        ensure!(found == wanted, "{tally:?} is {found}, not {wanted}");
        Ok(())
    }

    pub(crate) fn embryo(&self, client: SocketAddrV4) -> Result<Option<Embryo4>> {
        self.world.embryo(embryo_key(client))
    }
}

/// An address as maps hold it.
pub(crate) fn net(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
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

fn real(address: SocketAddrV4, service: u16) -> Real {
    let back = address != TWO;
    Real {
        addr: net(*address.ip()).wide(),
        port: address.port().to_be(),
        generation: GENERATION,
        ifindex: if back { BACK } else { INGRESS },
        mac: if back { ONE_MAC } else { TWO_MAC },
        src_mac: if back { NODE_BACK_MAC } else { NODE_MAC },
        state: RealState::Up as u8,
        hop_known: 1,
        service,
        pad: [0; 6],
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
