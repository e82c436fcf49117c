//! The configuration in which the cases play.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{Conn4, ConnKey4, ConnState, Embryo4};
use ha_common::control::{Config, Gate};
use ha_common::event::{ConnEvent4, EventKind, Evidence, EvidenceKind};
use ha_common::proto;
use ha_common::reason::{Reason, Tally, Verdict};
use ha_common::service::{
    Addr6, Address as _, Forwarding, Real, RealState, ReturnPath4, Service, addr_kind,
};
use ha_tests::packet::{Frame, Trouble, flag, verify};
use ha_tests::rig::bpf::{INGRESS, Sizes};

use super::family::Family;
pub(crate) use super::names::*;
use super::partner::{self, OWN4, OWN6, VIP6};
use super::world::{Place, Ran, World};

/// A case: what it shows, the map sizes it needs, and how.
pub(crate) type Case = (&'static str, Sizes, fn(&mut Lab) -> Result<()>);

/// Sizes that are enough for most cases.
pub(crate) const USUAL: Sizes = Sizes {
    conns: 256,
    embryos: 1024,
    events: 1 << 14,
    carp: 1 << 14,
};

/// How a case is played: in which family, and how packets reach the real servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) family: Family,
    pub(crate) method: Forwarding,
    pub(crate) sizes: Sizes,
}

/// A frame of a case: written in IPv4, sent in the lab's family; or bytes, sent as they are.
pub(crate) trait Sent {
    fn bytes(&self, family: Family) -> Vec<u8>;
}

impl Sent for Frame {
    fn bytes(&self, family: Family) -> Vec<u8> {
        match family {
            Family::V4 => self.build(),
            Family::V6 => self.v6().build(),
        }
    }
}

impl Sent for [u8] {
    fn bytes(&self, _: Family) -> Vec<u8> {
        self.to_vec()
    }
}

impl Sent for Vec<u8> {
    fn bytes(&self, _: Family) -> Vec<u8> {
        self.clone()
    }
}

pub(crate) struct Lab {
    place: Place,
    pub(crate) setting: Setting,
    pub(crate) world: Box<dyn World>,
    pub(crate) config: Config,
    /// Reasons seen.
    pub(crate) seen: Vec<Reason>,
}

impl Lab {
    pub(crate) fn new(place: &Place, setting: Setting) -> Result<Self> {
        let mut world = place.world(setting.family, setting.sizes)?;
        let config = Config {
            vhid: u32::from(VHID),
            emit_events: 1,
            ..Config::default()
        };
        world.set_config(config)?;
        world.set_gate(Gate::ALWAYS)?;
        for shared in [VIP, OTHER_VIP, *STAND_IN.ip()] {
            world.set_addr(net(shared), addr_kind::SHARED)?;
        }
        for own in [OWN, OWN4] {
            world.set_addr(net(own), addr_kind::OWN)?;
        }
        world.set_addr6(Addr6::new(OWN6.octets()), addr_kind::OWN)?;
        world.set_addr6(Addr6::new(VIP6.octets()), addr_kind::SHARED)?;
        world.set_pair(&partner::enforcing())?;
        let mut lab = Self {
            place: place.clone(),
            setting,
            world,
            config,
            seen: Vec::new(),
        };
        lab.fill_slots()?;
        for (address, protocol) in SERVICES {
            lab.change_service(address, protocol, |_| {})?;
        }
        for id in id::ALL {
            lab.change_real(id, |_| {})?;
        }
        lab.set_return(ONE, proto::TCP, WEB, id::ONE, false)?;
        lab.set_return(TWO, proto::TCP, WEB, id::TWO, false)?;
        lab.set_return(THREE, proto::TCP, STRICT, id::THREE, false)?;
        lab.set_return(RESOLVER, proto::UDP, NAMES, id::RESOLVER, false)?;
        Ok(lab)
    }

    fn fill_slots(&mut self) -> Result<()> {
        for index in 0..TABLE_LEN {
            for (table, id) in [
                (WEB_TABLE, id::ONE),
                (THREE_TABLE, id::THREE),
                (RESOLVER_TABLE, id::RESOLVER),
                (TWIN_TABLE, id::TWIN_ONE),
            ] {
                self.world.set_slot(table + index, u32::from(id))?;
            }
        }
        self.world.set_slot(TWO_MEMBERS, u32::from(id::ONE))?;
        self.world.set_slot(TWO_MEMBERS + 1, u32::from(id::TWO))?;
        // What follows belongs to another service.
        for index in TWO_MEMBERS + 2..THREE_TABLE {
            self.world.set_slot(index, u32::from(id::THREE))?;
        }
        Ok(())
    }

    /// Changes a service, which gets its idle times as well.
    pub(crate) fn change_service(
        &mut self,
        address: SocketAddrV4,
        protocol: u8,
        change: impl FnOnce(&mut Service),
    ) -> Result<()> {
        let mut changed = service(address)?;
        change(&mut changed);
        self.world.set_timeouts(changed.id, TIMEOUTS)?;
        let key = service_key(address, protocol);
        self.world.set_service(key, changed)
    }

    pub(crate) fn family(&self) -> Family {
        self.setting.family
    }

    /// What the frame is in this family.
    pub(crate) fn bytes(&self, frame: &(impl Sent + ?Sized)) -> Vec<u8> {
        frame.bytes(self.family())
    }

    /// Another one like this was at first, which has seen what this has.
    pub(crate) fn anew(&self) -> Result<Self> {
        let mut lab = Self::new(&self.place, self.setting)?;
        lab.seen.clone_from(&self.seen);
        Ok(lab)
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
        let mut changed = self.real(id);
        change(&mut changed);
        self.world.set_real(id, changed)
    }

    /// A real server as it is at first.
    fn real(&self, id: u16) -> Real {
        let (address, service) = match id {
            id::ONE => (ONE, 1),
            id::TWO => (TWO, 1),
            id::THREE => (THREE, 3),
            id::TWIN_ONE => (ONE, 6),
            id::TWIN_TWO => (TWO, 6),
            _ => (RESOLVER, 4),
        };
        let back = address != TWO;
        let source = match self.setting.method {
            Forwarding::FullNat => net(*STAND_IN.ip()),
            Forwarding::Tunnel => net(OWN),
            Forwarding::Nat | Forwarding::Dsr => 0,
        };
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
            mtu: MTU as u16,
            forwarding: self.setting.method as u8,
            flags: 0,
            connections_max: 0,
            source: source.wide(),
        }
    }

    /// Changes the configuration.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        change(&mut self.config);
        self.world.set_config(self.config)
    }

    /// Runs a frame.
    pub(crate) fn send(&mut self, frame: &(impl Sent + ?Sized)) -> Result<Ran> {
        let ran = self.world.run(&frame.bytes(self.family()))?;
        self.seen.push(ran.reason);
        Ok(ran)
    }

    /// Runs a frame, which must come to this end.
    pub(crate) fn run(&mut self, frame: &(impl Sent + ?Sized), wanted: Reason) -> Result<Vec<u8>> {
        let ran = self.send(frame)?;
        ensure!(
            ran.reason == wanted,
            "{:?} instead of {wanted:?}",
            ran.reason
        );
        Ok(ran.frame)
    }

    /// Runs a frame that must come to this end and stay as it is.
    pub(crate) fn untouched(&mut self, frame: &(impl Sent + ?Sized), wanted: Reason) -> Result<()> {
        ensure!(
            matches!(wanted.verdict(), Verdict::Pass | Verdict::Drop),
            "{wanted:?}"
        );
        let after = self.run(frame, wanted)?;
        ensure!(after == self.bytes(frame), "{wanted:?} changed the frame");
        Ok(())
    }

    /// Runs a fragment that comes before the first of its packet, and must be handed to the agent.
    pub(crate) fn held(&mut self, frame: &Frame) -> Result<()> {
        self.untouched(frame, Reason::FragmentHeld)?;
        let held = self.world.early()?;
        let [early] = held.as_slice() else {
            anyhow::bail!("{} fragments are held", held.len());
        };
        let kept = early.frame.get(..early.len as usize).unwrap_or_default();
        ensure!(kept == self.bytes(frame), "{early:?}");
        ensure!(early.ifindex == INGRESS, "{early:?}");
        Ok(())
    }

    /// Runs a fragment that was held once more, which must come to this end.
    pub(crate) fn follows(&mut self, frame: &Frame, wanted: Reason) -> Result<Vec<u8>> {
        let ran = self.world.follow(&self.bytes(frame))?;
        self.seen.push(ran.reason);
        ensure!(
            ran.reason == wanted,
            "{:?} instead of {wanted:?}",
            ran.reason
        );
        Ok(ran.frame)
    }

    /// Runs a fragment that belongs to nothing known: it is held, and in the end the kernel's.
    pub(crate) fn given_up(&mut self, frame: &Frame) -> Result<()> {
        self.held(frame)?;
        let after = self.follows(frame, Reason::Fragment)?;
        ensure!(after == self.bytes(frame), "changed");
        Ok(())
    }

    /// Runs a frame that must become another.
    pub(crate) fn becomes(
        &mut self,
        frame: &(impl Sent + ?Sized),
        reason: Reason,
        wanted: &Frame,
    ) -> Result<()> {
        let after = self.run(frame, reason)?;
        self.same(&after, wanted, reason)
    }

    /// Runs a client's frame, which must reach this real server.
    pub(crate) fn forwards(
        &mut self,
        frame: &Frame,
        reason: Reason,
        real: SocketAddrV4,
    ) -> Result<()> {
        let after = self.run(frame, reason)?;
        // What stands in for the client is known only now.
        let wanted = self.at_server(frame, real)?;
        self.same(&after, &wanted, reason)
    }

    /// Runs a real server's frame to the client, as [`Self::answer`] makes it, which must reach the
    /// client.
    pub(crate) fn returns(
        &mut self,
        frame: &Frame,
        service: SocketAddrV4,
        client: SocketAddrV4,
    ) -> Result<()> {
        let wanted = at_client(frame, service).to(client);
        self.becomes(frame, Reason::ReverseTransmit, &wanted)
    }

    /// A segment of a real server of [`WEB`] to a client, by the name it knows it by.
    pub(crate) fn answer(
        &self,
        real: SocketAddrV4,
        client: SocketAddrV4,
        flags: u8,
    ) -> Result<Frame> {
        Ok(from_server(real, self.seen_by_server(client, WEB)?, flags))
    }

    pub(crate) fn same(&self, after: &[u8], wanted: &Frame, reason: Reason) -> Result<()> {
        let wanted = self.bytes(wanted);
        ensure!(
            after == wanted,
            "{reason:?}\n  frame  {after:02x?}\n  wanted {wanted:02x?}"
        );
        verify(after).map_err(anyhow::Error::msg)
    }

    /// What the sender of a frame is told about it by the data plane, in the name of `source`.
    pub(crate) fn told(&self, frame: &Frame, source: Ipv4Addr, trouble: Trouble) -> Frame {
        let error = Frame::error(source, trouble, frame, 8)
            .id(0)
            .answering(frame);
        match self.family() {
            // Internetwork control.
            Family::V4 => error.class(0xc0),
            Family::V6 => error,
        }
    }

    /// Lets [`WEB`] have only this real server.
    pub(crate) fn lead_to(&mut self, id: u16) -> Result<()> {
        for index in 0..TABLE_LEN {
            self.world.set_slot(WEB_TABLE + index, u32::from(id))?;
        }
        Ok(())
    }

    /// A connection of the client to a service through a handshake; the events of it are taken.
    pub(crate) fn connect(&mut self, client: SocketAddrV4, service: SocketAddrV4) -> Result<()> {
        let to = self.send(&from_client(client, service, flag::SYN))?;
        let real = match to.reason {
            Reason::ForwardRedirect => ONE,
            Reason::ForwardTransmit => TWO,
            other => anyhow::bail!("{other:?} for a SYN"),
        };
        if !self.is_one_way() {
            let answer = from_server(
                real,
                self.seen_by_server(client, service)?,
                flag::SYN | flag::ACK,
            );
            self.run(&answer.numbers(5000, 1001), Reason::ReverseTransmit)?;
        }
        let last = from_client(client, service, flag::ACK).numbers(1001, 5001);
        self.run(&last, to.reason)?;
        self.world.events()?;
        Ok(())
    }

    /// How packets reach real servers.
    pub(crate) const fn method(&self) -> Forwarding {
        self.setting.method
    }

    /// Whether answers do not come back this way.
    pub(crate) fn is_one_way(&self) -> bool {
        matches!(self.setting.method, Forwarding::Dsr | Forwarding::Tunnel)
    }

    /// By what name a real server knows the client: its own, or what stands in for it.
    pub(crate) fn seen_by_server(
        &self,
        client: SocketAddrV4,
        service: SocketAddrV4,
    ) -> Result<SocketAddrV4> {
        if self.setting.method != Forwarding::FullNat {
            return Ok(client);
        }
        let ends = |key: &ConnKey4| (key.src, key.sport, key.dst, key.dport);
        let wanted = ends(&conn_key(client, service, 0));
        let conns = self.world.conns()?;
        let entry = conns
            .iter()
            .find(|(key, conn)| ends(key) == wanted && !conn.is_reverse());
        let port = match entry {
            Some((_, conn)) => conn.from_port,
            None => {
                self.embryo(client)?
                    .context("no entry of the client")?
                    .from_port
            }
        };
        Ok(SocketAddrV4::new(*STAND_IN.ip(), u16::from_be(port)))
    }

    /// The client's frame as it must reach a real server.
    pub(crate) fn at_server(&self, frame: &Frame, real: SocketAddrV4) -> Result<Frame> {
        let translated = at_server(frame, real);
        let (source, destination) = if real == TWO {
            (NODE_MAC, TWO_MAC)
        } else {
            (NODE_BACK_MAC, ONE_MAC)
        };
        let as_sent = frame.clone().ttl(63).macs(source, destination);
        Ok(match self.setting.method {
            Forwarding::Nat => translated,
            Forwarding::FullNat => {
                let (client, service) = frame.ends_v4().context("an IPv4 frame")?;
                translated.from(self.seen_by_server(client, service)?)
            }
            Forwarding::Dsr => as_sent,
            Forwarding::Tunnel => as_sent.inside(OWN, *real.ip()),
        })
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
