//! The data plane's packet logic on the host.
//!
//! A node with services of both families, and packets that come to it one after the other.
//!
//! An input is two bytes that say how the node is set up, and then frames, each behind its length of two
//! bytes, most significant first. What a packet must never do is asserted here, whatever it is.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ha_common::control::{Config, Gate};
use ha_common::reason::{Reason, Verdict};
use ha_common::service::{
    Addr6, Address, LocalAddr, Real, RealState, ReturnPath, Scheduler, Service, ServiceKey,
    addr_kind, real_flags,
};
use ha_ebpf::fake::{FakeFlows, FakePacket, FakeTables};

use super::Seed;
use crate::packet::{Frame, Trouble, flag};

/// Interface that frames come in on.
const INGRESS: u32 = 1;
/// Interface behind which the real servers are.
const BACK: u32 = 2;
/// Most frames of an input that are looked at.
const FRAMES: usize = 64;

/// Addresses of the node and its real server, as their last byte.
const VIP: u8 = 100;
const STAND_IN: u8 = 101;
const OWN: u8 = 11;
const REAL: u8 = 21;

/// An address of the scene: `10.0.0.x`, or `2001:db8::x`.
pub trait Placed: Address {
    /// The address that ends so.
    fn at(last: u8) -> Self;
    /// Makes the address one of the node's.
    fn own(self, tables: &FakeTables, kind: u32);
    /// What is remembered of the family.
    fn flows(tables: &FakeTables) -> &FakeFlows<Self>;
}

impl Placed for u32 {
    fn at(last: u8) -> Self {
        Self::from_ne_bytes([10, 0, 0, last])
    }

    fn own(self, tables: &FakeTables, kind: u32) {
        tables.addrs.put(self, LocalAddr { kind, ifindex: 0 });
    }

    fn flows(tables: &FakeTables) -> &FakeFlows<Self> {
        &tables.v4
    }
}

impl Placed for Addr6 {
    fn at(last: u8) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        bytes[15] = last;
        Self::new(bytes)
    }

    fn own(self, tables: &FakeTables, kind: u32) {
        tables.addrs6.put(self, LocalAddr { kind, ifindex: 0 });
    }

    fn flows(tables: &FakeTables) -> &FakeFlows<Self> {
        &tables.v6
    }
}

/// Ids of a family's real server of TCP and of UDP.
fn ids(first: u16) -> [(u16, u16); 2] {
    [(first, 6), (first + 1, 17)]
}

/// Sets one family up: a TCP service at port 80, a UDP service at port 53, one real server each.
fn furnish<A: Placed + Eq + std::hash::Hash>(tables: &FakeTables, first: u16, how: [u8; 2]) {
    for (last, kind) in [
        (VIP, addr_kind::SHARED),
        (STAND_IN, addr_kind::SHARED),
        (OWN, addr_kind::OWN),
    ] {
        A::at(last).own(tables, kind);
        tables.concern(A::at(last));
    }
    tables.concern(A::at(REAL));
    for (id, proto) in ids(first) {
        let port = if proto == 6 { 80u16 } else { 53 }.to_be();
        let state = [
            RealState::Up,
            RealState::Up,
            RealState::Down,
            RealState::Draining,
        ];
        let real = Real {
            addr: A::at(REAL).wide(),
            port: 8000u16.to_be(),
            ifindex: BACK,
            mac: [2, 0, 0, 0, 0, 3],
            src_mac: [2, 0, 0, 0, 0, 2],
            state: state[usize::from(how[0] >> 2 & 3)] as u8,
            hop_known: u8::from(how[0] & 0x10 == 0),
            service: id,
            mtu: 1500,
            forwarding: how[0] & 3,
            flags: real_flags::RESET_WHEN_DOWN,
            source: A::at(STAND_IN).wide(),
            ..Real::default()
        };
        tables.reals.put(id, real);
        let offset = u32::from(id) * 8;
        for slot in offset..offset + 8 {
            tables.slots.put(slot, u32::from(id));
        }
        let scheduler = Scheduler::from_u8(1 + how[1] % 6).map_or(1, |scheduler| scheduler as u8);
        let service = Service {
            hash_seed: 7,
            table_offset: offset,
            table_len: 4,
            members_offset: offset + 4,
            members_len: 2,
            id,
            scheduler,
            persist_seconds: u32::from(how[1] & 0x10),
            persist_prefix: 24,
            ..Service::default()
        };
        let flows = A::flows(tables);
        let addr = A::at(VIP);
        flows
            .services
            .put(ServiceKey { addr, port, proto }, service);
        let from = ServiceKey {
            addr: A::at(REAL),
            port: 8000u16.to_be(),
            proto,
        };
        let path = ReturnPath {
            vip: addr,
            vport: port,
            real: id,
            real_generation: 0,
            service: id,
            ambiguous: 0,
        };
        flows.return_paths.put(from, path);
    }
}

/// A node set up as the two bytes say.
pub fn node(how: [u8; 2]) -> FakeTables {
    let tables = FakeTables::default();
    tables.now_ns.set(1_000_000_000_000);
    tables.gate.put(
        (),
        Gate {
            until_ns: if how[0] & 0x20 == 0 {
                Gate::ALWAYS
            } else {
                Gate::CLOSED
            },
            ..Gate::default()
        },
    );
    tables.config.put(
        (),
        Config {
            vhid: 110,
            emit_events: 1,
            table_full: u32::from(how[0] & 0x40 != 0),
            table_full6: u32::from(how[0] & 0x40 != 0),
            new_flows_max: if how[0] & 0x80 == 0 { 0 } else { 2 },
            node_bit: u32::from(how[1] & 0x20 != 0),
            sample_every: 1,
            ..Config::default()
        },
    );
    tables.conns_max.set(16);
    furnish::<u32>(&tables, 1, how);
    furnish::<Addr6>(&tables, 3, how);
    tables
}

/// Runs the frames of an input.
pub fn play(input: &[u8]) {
    let Some((how, mut rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    let tables = node(*how);
    for _ in 0..FRAMES {
        let Some((len, behind)) = rest.split_first_chunk::<2>() else {
            return;
        };
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (frame, behind) = behind.split_at(len);
        rest = behind;
        run(&tables, frame);
        tables.now_ns.set(tables.now_ns.get() + 300_000_000);
    }
}

/// Runs one frame and asserts what holds for any.
pub fn run(tables: &FakeTables, frame: &[u8]) -> Reason {
    let mut packet = FakePacket::new(frame.to_vec(), INGRESS);
    let reason = tables.run(&mut packet);
    let redirected = packet.redirected == Some(BACK) || packet.redirected == Some(INGRESS);
    assert_eq!(
        redirected,
        reason.verdict() == Verdict::Redirect,
        "{reason:?} with redirection to {:?}",
        packet.redirected
    );
    let translated = matches!(reason, Reason::ForwardKernel | Reason::ReverseKernel);
    match reason.verdict() {
        Verdict::Pass if !translated => assert_eq!(packet.bytes, frame, "{reason:?} changed it"),
        Verdict::Drop => {}
        Verdict::Pass | Verdict::Transmit | Verdict::Redirect => left(frame, &packet.bytes, reason),
    }
    let samples = tables.samples.take();
    assert_eq!(samples.len(), usize::from(!frame.is_empty()), "{reason:?}");
    reason
}

/// Asserts what holds for a frame that is sent on.
fn left(before: &[u8], after: &[u8], reason: Reason) {
    let answered = matches!(
        reason,
        Reason::TtlAnswered | Reason::TooBigAnswered | Reason::ResetAnswered
    );
    // A tunnel's header, or that of an error and of ICMP.
    assert!(
        after.len() <= before.len() + 48,
        "{reason:?} grew the frame"
    );
    assert!(
        answered || after.len() >= before.len(),
        "{reason:?} cut the frame"
    );
    let l3 = network(after);
    if after[l3] >> 4 == 4 && (answered || after.len() > before.len()) {
        assert_eq!(
            sum(&after[l3..l3 + 20]),
            0xffff,
            "{reason:?}: header checksum"
        );
    }
    if before.len() == after.len() && !answered {
        assert_eq!(
            before[12..l3],
            after[12..l3],
            "{reason:?} changed type or tags"
        );
    }
}

/// Where the network header starts.
fn network(frame: &[u8]) -> usize {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    at + 2
}

/// The one's-complement sum of a header.
fn sum(header: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in header.as_chunks::<2>().0 {
        sum += u32::from(u16::from_be_bytes(*pair));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Frames of a connection and around it, in one family.
fn frames(v4: bool) -> Vec<Frame> {
    let at = |last: u8, port: u16| -> SocketAddr {
        if v4 {
            (Ipv4Addr::new(10, 0, 0, last), port).into()
        } else {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into());
            (address, port).into()
        }
    };
    let (client, web, names) = (at(200, 4000), at(100, 80), at(100, 53));
    let (server, resolver) = (at(21, 8000), at(21, 8000));
    let router = at(254, 0).ip();
    let answer = Frame::tcp(web, client, flag::ACK).payload(b"data");
    let request = Frame::tcp(client, server, flag::ACK).payload(b"data");
    let long = Frame::udp(client, names).payload(&[7; 200]);
    vec![
        Frame::tcp(client, web, flag::SYN),
        Frame::tcp(server, client, flag::SYN | flag::ACK).numbers(5000, 1001),
        Frame::tcp(client, web, flag::ACK).numbers(1001, 5001),
        Frame::tcp(client, web, flag::ACK).payload(b"data"),
        Frame::tcp(server, client, flag::ACK).payload(b"data"),
        Frame::tcp(client, web, flag::ACK).ttl(1),
        Frame::udp(client, names).payload(b"question"),
        Frame::udp(resolver, client).payload(b"answer"),
        long.clone().piece(0..64),
        long.piece(64..208),
        Frame::error(router, Trouble::TooBig(1400), &answer, 8),
        Frame::error(router, Trouble::Port, &request, 20),
        Frame::tcp(client, web, flag::ACK)
            .options(&[1; 8])
            .extension(0, &[1, 4, 0, 0, 0, 0]),
        Frame::tcp(client, web, flag::ACK)
            .whole()
            .payload(&[1; 1470]),
        Frame::tcp(client, web, flag::FIN | flag::ACK).tag(0x8100, 1),
        Frame::tcp(server, client, flag::RST),
    ]
}

/// A node set up so, and these frames.
fn input(how: [u8; 2], frames: &[Frame]) -> Vec<u8> {
    let mut input = how.to_vec();
    for frame in frames {
        let bytes = frame.build();
        input.extend((bytes.len() as u16).to_be_bytes());
        input.extend(bytes);
    }
    input
}

/// A conversation in each family and by each method, under odd circumstances
/// as well.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (family, v4) in [("v4", true), ("v6", false)] {
        for (method, name) in ["nat", "full-nat", "dsr", "tunnel"].iter().enumerate() {
            for (what, bits, scheduler) in [
                ("up", 0x00, 0),
                ("down", 0x08, 1),
                ("kernel", 0x10, 0x13),
                ("full", 0x40, 5),
            ] {
                let how = [method as u8 | bits, scheduler];
                seeds.push((format!("{family}-{name}-{what}"), input(how, &frames(v4))));
            }
        }
    }
    seeds
}
