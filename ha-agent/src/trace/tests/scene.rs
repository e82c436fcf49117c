//! A data plane in memory with one service of each protocol, in either family, and frames for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, Persist, PersistKey};
use ha_common::control::{Config, Gate, Pace};
use ha_common::pair::{Digest, Heard, Pair, Peer};
use ha_common::proto;
use ha_common::service::{
    Addr6, Forwarding, Load, LocalAddr, Real, RealState, ReturnPath, Scheduler, Service,
    ServiceKey, addr_kind,
};
use ha_ebpf::fake::{FakeFlows, FakePacket, FakeTables};
use ha_ebpf::packet::{Hop, Mac};
use ha_ebpf::tables::Tables as _;

use crate::datapath::family::{Kernel as _, wide};
use crate::datapath::inspect::{Found, Inspect, Remembered};
use crate::trace::flows::Side;
use crate::trace::frame::Packet;
use crate::trace::model::Trace;
use crate::trace::{Device, Surroundings, Ways, trace};

/// Interfaces.
pub(super) const FRONT: u32 = 2;
pub(super) const BACK: u32 = 3;
/// Ethernet addresses.
pub(super) const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0x50];
pub(super) const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
pub(super) const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// Ids of a real server that is down, one that is full, and one that takes the packet.
pub(super) const DOWN: u16 = 1;
pub(super) const FULL: u16 = 2;
pub(super) const UP: u16 = 3;

const NOW: u64 = 1 << 40;

/// The state, and which addresses are in it.
pub(super) struct Scene {
    pub(super) tables: FakeTables,
    pub(super) forwarding: Forwarding,
    pub(super) client: IpAddr,
    pub(super) vip: IpAddr,
    pub(super) up: IpAddr,
    /// Whether the kernel knows the way to clients.
    pub(super) routed: bool,
}

impl Scene {
    pub(super) fn new(v6: bool, forwarding: Forwarding) -> Self {
        let texts = if v6 {
            ["2001:db8::50", "2001:db8::100", "2001:db8:1::23"]
        } else {
            ["10.0.0.50", "10.0.0.100", "10.1.0.23"]
        };
        let [client, vip, up] = texts.map(|text| text.parse().unwrap());
        let scene = Self {
            tables: FakeTables::default(),
            forwarding,
            client,
            vip,
            up,
            routed: true,
        };
        if v6 {
            scene.fill::<Addr6>();
        } else {
            scene.fill::<u32>();
        }
        scene
    }

    /// All forwarding methods in both families.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(|v6| {
            [
                Forwarding::Nat,
                Forwarding::FullNat,
                Forwarding::Dsr,
                Forwarding::Tunnel,
            ]
            .into_iter()
            .map(move |forwarding| Self::new(v6, forwarding))
        })
    }

    fn fill<A: Side>(&self) {
        let tables = &self.tables;
        tables.now_ns.set(NOW);
        tables.gate.put(
            (),
            Gate {
                until_ns: Gate::ALWAYS,
                ..Gate::default()
            },
        );
        tables.config.put(
            (),
            Config {
                vhid: 110,
                emit_events: 1,
                ..Config::default()
            },
        );
        let shared = LocalAddr {
            kind: addr_kind::SHARED,
            ifindex: 0,
        };
        match self.vip {
            IpAddr::V4(_) => tables.addrs.put(u32::from_ip(self.vip), shared),
            IpAddr::V6(_) => tables.addrs6.put(Addr6::from_ip(self.vip), shared),
        }
        tables.concern(A::from_ip(self.vip));
        tables.concern(A::from_ip(self.up));
        let states = [RealState::Down, RealState::Up, RealState::Up];
        for (id, state) in (DOWN..).zip(states) {
            let mut address = wide(self.up);
            if id != UP {
                // Neighbours of the one that is up.
                let last = if self.up.is_ipv6() { 3 } else { 0 };
                address.words[last] ^= u32::from_ne_bytes([0, 0, 0, 4 * id as u8]);
            }
            let real = Real {
                port: self.real_port().to_be(),
                generation: 7,
                ifindex: BACK,
                mac: SERVER,
                src_mac: OWN,
                state: state as u8,
                hop_known: 1,
                service: 1,
                addr: address,
                mtu: 1500,
                forwarding: self.forwarding as u8,
                connections_max: u32::from(id == FULL),
                source: wide(self.vip),
                ..Real::default()
            };
            tables.reals.put(id, real);
            let connections = u64::from(id == FULL);
            let load = Load {
                connections,
                weight: 1,
            };
            tables.loads.put(id, load);
            let place = u32::from(id) - 1;
            tables.slots.put(place, id.into());
        }
        let flows = A::overlay(tables);
        for protocol in [proto::TCP, proto::UDP] {
            let at = |addr, port: u16| ServiceKey {
                addr: A::from_ip(addr),
                port: port.to_be(),
                proto: protocol.into(),
            };
            let service = Service {
                hash_seed: 5,
                table_len: 3,
                members_len: 3,
                id: 1,
                scheduler: Scheduler::Rr as u8,
                ..Service::default()
            };
            flows.services.put(at(self.vip, 80), service);
            if self.one_way() {
                continue;
            }
            let path = ReturnPath {
                vip: A::from_ip(self.vip),
                vport: 80u16.to_be(),
                real: UP,
                real_generation: 7,
                service: 1,
                ambiguous: 0,
            };
            flows.return_paths.put(at(self.up, self.real_port()), path);
        }
    }

    /// Whether answers do not come back.
    pub(super) const fn one_way(&self) -> bool {
        matches!(self.forwarding, Forwarding::Dsr | Forwarding::Tunnel)
    }

    pub(super) const fn real_port(&self) -> u16 {
        if self.one_way() { 80 } else { 8080 }
    }

    /// A client's packet.
    pub(super) fn request(&self, flags: Option<u8>) -> Packet {
        Packet {
            from: SocketAddr::new(self.client, 40_000),
            to: SocketAddr::new(self.vip, 80),
            tcp_flags: flags,
            ttl: 64,
            length: 0,
        }
    }

    /// What the data plane makes of a frame; the trace must have told so, without touching a thing.
    pub(super) fn pass(&self, frame: Vec<u8>, ingress: u32) -> (Trace, FakePacket) {
        let before = self.snapshot();
        let told = self.trace(frame.clone(), ingress);
        assert_eq!(self.snapshot(), before, "the trace changed something");

        let mut packet = FakePacket::new(frame, ingress);
        for (source, destination) in [(self.vip, self.client), (self.client, self.up)] {
            let Ok(hop) = self.hop(source, destination) else {
                continue;
            };
            match destination {
                IpAddr::V4(_) => drop(packet.routes.insert(u32::from_ip(destination), hop)),
                IpAddr::V6(_) => drop(packet.routes6.insert(Addr6::from_ip(destination), hop)),
            }
        }
        let reason = self.tables.run(&mut packet);
        assert_eq!(told.outcome.reason, reason.as_str(), "{told:#?}");
        assert_eq!(told.outcome.after, packet.bytes, "{told:#?}");
        (told, packet)
    }

    /// Has the tables forget all connections.
    pub(super) fn forget_connections(&self) {
        for (key, _) in self.tables.v4.conns.all() {
            self.tables.v4.conns.remove(&key);
        }
        for (key, _) in self.tables.v6.conns.all() {
            self.tables.v6.conns.remove(&key);
        }
    }

    /// Asks.
    pub(super) fn trace(&self, frame: Vec<u8>, ingress: u32) -> Trace {
        let device = |name: &str| Device {
            name: name.to_owned(),
            mtu: 1500,
        };
        let name = |address, _, port| {
            (address == self.vip && u16::from_be(port) == 80).then(|| "web".to_owned())
        };
        let surroundings = Surroundings {
            devices: BTreeMap::from([(FRONT, device("eth0")), (BACK, device("eth1"))]),
            service: &name,
            ways: self,
            now_ns: self.tables.now_ns.get(),
        };
        trace(&Maps(&self.tables), &surroundings, frame, ingress).unwrap()
    }

    /// Everything that a packet might change, as text.
    fn snapshot(&self) -> String {
        fn sorted<K: std::fmt::Debug, V: std::fmt::Debug>(all: &[(K, V)]) -> Vec<String> {
            let mut texts: Vec<String> = all.iter().map(|pair| format!("{pair:?}")).collect();
            texts.sort_unstable();
            texts
        }
        fn family<A>(flows: &FakeFlows<A>) -> Vec<Vec<String>>
        where
            A: Side,
        {
            vec![
                sorted(&flows.conns.all()),
                sorted(&flows.embryos.all()),
                sorted(&flows.fragments.all()),
                sorted(&flows.persist.all()),
                vec![format!("{:?}", flows.events.borrow())],
            ]
        }
        let tables = &self.tables;
        let counters = tables.counters.borrow();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            family(&tables.v4),
            family(&tables.v6),
            tables.gate.get(&()),
            sorted(&tables.buckets.all()),
            sorted(&tables.loads.all()),
            sorted(&tables.traffic.all()),
            sorted(&tables.turns.all()),
            counters,
        )
    }
}

impl Ways for Scene {
    fn hop(&self, _: IpAddr, destination: IpAddr) -> Result<Hop, String> {
        if !self.routed || destination != self.client {
            return Err("the kernel has no route".to_owned());
        }
        Ok(Hop {
            ifindex: FRONT,
            mac: Mac::read(&ROUTER),
            src: Mac::read(&OWN),
        })
    }
}

/// A frame with Ethernet addresses.
pub(super) fn addressed(packet: &Packet, from: [u8; 6]) -> Vec<u8> {
    let mut frame = packet.frame().unwrap();
    frame[..6].copy_from_slice(&OWN);
    frame[6..12].copy_from_slice(&from);
    frame
}

/// The maps of the stand-ins, only read.
struct Maps<'a>(&'a FakeTables);

impl Inspect for Maps<'_> {
    fn v4(&self) -> &dyn Remembered<u32> {
        self
    }

    fn v6(&self) -> &dyn Remembered<Addr6> {
        self
    }

    fn gate(&self) -> Found<Gate> {
        Ok(self.0.gate.get(&()))
    }

    fn config(&self) -> Found<Config> {
        Ok(self.0.config.get(&()))
    }

    fn pair(&self) -> Found<Pair> {
        Ok(self.0.pair.get(&()))
    }

    fn peer(&self, index: u32) -> Found<Peer> {
        Ok(self.0.peers.get(&index))
    }

    fn digest(&self, index: u32) -> Found<Digest> {
        Ok(self.0.digests.get(&index))
    }

    fn heard(&self, link: u32) -> Found<Heard> {
        Ok(self.0.heard.get(&link))
    }

    fn bucket(&self, index: u32) -> Found<u64> {
        Ok(self.0.buckets.get(&index))
    }

    fn filter_word(&self, word: u32) -> Found<u64> {
        Ok(self.0.filter.get(&word))
    }

    fn pace(&self) -> Found<Pace> {
        Ok(self.0.pace.get(&()))
    }

    fn real(&self, id: u16) -> Found<Real> {
        Ok(self.0.reals.get(&id))
    }

    fn load(&self, id: u16) -> Found<Load> {
        Ok(self.0.loads.get(&id))
    }

    fn slot(&self, index: u32) -> Found<u32> {
        Ok(self.0.slots.get(&index))
    }

    fn turn(&self, service: u16) -> Found<u32> {
        Ok(self.0.turns.get(&service))
    }
}

impl<A: Side> Remembered<A> for Maps<'_> {
    fn service(&self, key: &ServiceKey<A>) -> Found<Service> {
        Ok(A::overlay(self.0).services.get(key))
    }

    fn return_path(&self, from: &ServiceKey<A>) -> Found<ReturnPath<A>> {
        Ok(A::overlay(self.0).return_paths.get(from))
    }

    fn addr(&self, addr: A) -> Found<LocalAddr> {
        let find = |kind, ifindex| LocalAddr { kind, ifindex };
        let found = match addr.ip() {
            IpAddr::V4(_) => {
                let addr = u32::from_ip(addr.ip());
                find(self.0.addr_kind(addr), self.0.addr_home(addr))
            }
            IpAddr::V6(_) => {
                let addr = Addr6::from_ip(addr.ip());
                find(self.0.addr6_kind(&addr), self.0.addr6_home(&addr))
            }
        };
        Ok((found != LocalAddr::default()).then_some(found))
    }

    fn conn(&self, key: &ConnKey<A>) -> Found<Conn<A>> {
        Ok(A::overlay(self.0).conns.get(key))
    }

    fn embryo(&self, key: &EmbryoKey<A>) -> Found<Embryo<A>> {
        Ok(A::overlay(self.0).embryos.get(key))
    }

    fn fragments(&self, key: &FragmentKey<A>) -> Found<Conn<A>> {
        Ok(A::overlay(self.0).fragments.get(key))
    }

    fn persist(&self, key: &PersistKey<A>) -> Found<Persist> {
        Ok(A::overlay(self.0).persist.get(key))
    }
}
