//! Same state, same frame: same reason, same bytes, and nothing changed by asking.

use ha_common::conn::{Persist, PersistKey};
use ha_common::control::{Config, Gate};
use ha_common::service::{Addr6, Address as _, Forwarding, RealState, Service};
use ha_ebpf::fake::FakePacket;
use ha_ebpf::parse::transport::flag;
use proptest::prelude::*;

use super::scene::{BACK, DOWN, FRONT, OWN, ROUTER, SERVER, Scene, UP, addressed};
use crate::datapath::family::Kernel as _;
use crate::trace::frame::Packet;

const SYN_ACK: u8 = flag::SYN | flag::ACK;
const ETHERNET: usize = 14;

const fn header(frame: &[u8]) -> usize {
    if frame[ETHERNET] >> 4 == 4 { 20 } else { 40 }
}

/// Where the acknowledgement number is.
const fn acknowledgement(frame: &[u8]) -> usize {
    ETHERNET + header(frame) + 8
}

/// A client's segment that acknowledges the server's first byte.
fn acknowledging(scene: &Scene, flags: u8) -> Vec<u8> {
    let mut frame = addressed(&scene.request(Some(flags)), ROUTER);
    let at = acknowledgement(&frame);
    frame[at..at + 4].copy_from_slice(&1u32.to_be_bytes());
    frame
}

/// The real server's answer to what reached it.
fn answer(scene: &Scene, reached: &FakePacket, flags: Option<u8>) -> Vec<u8> {
    let frame = &reached.bytes;
    let l4 = ETHERNET + header(frame);
    let client = match scene.forwarding {
        Forwarding::FullNat => scene.vip,
        Forwarding::Nat | Forwarding::Dsr | Forwarding::Tunnel => scene.client,
    };
    let packet = Packet {
        from: (scene.up, scene.real_port()).into(),
        to: (client, u16::from_be_bytes([frame[l4], frame[l4 + 1]])).into(),
        ..scene.request(flags)
    };
    addressed(&packet, SERVER)
}

/// An ICMP error of a router on the way to the real server, about what was sent there.
fn icmp_error(scene: &Scene, sent: &FakePacket) -> Vec<u8> {
    let ip = header(&sent.bytes);
    let repeated = &sent.bytes[ETHERNET..ETHERNET + ip + 8];
    let mut frame = addressed(&scene.request(None), SERVER);
    frame.truncate(ETHERNET + ip);
    let length = ((if ip == 20 { ip } else { 0 }) + 8 + repeated.len()) as u16;
    let (length_at, protocol_at, protocol, kind) = if ip == 20 {
        (16, 23, 1, [3, 4])
    } else {
        (18, 20, 58, [2, 0])
    };
    frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    frame[protocol_at] = protocol;
    // To whoever sent what it is about.
    let (address, from, to) = if ip == 20 { (4, 12, 16) } else { (16, 8, 24) };
    let source = repeated[from..from + address].to_vec();
    frame[ETHERNET + to..ETHERNET + to + address].copy_from_slice(&source);
    frame.extend(kind);
    frame.extend([0; 6]);
    frame.extend(repeated);
    frame
}

fn expect(scene: &Scene, frame: Vec<u8>, ingress: u32, wanted: &str) -> FakePacket {
    let (told, packet) = scene.pass(frame, ingress);
    let reason = &told.outcome.reason;
    assert_eq!(
        reason, wanted,
        "{:?} {}: {told:#?}",
        scene.forwarding, scene.vip
    );
    packet
}

#[test]
fn connections_from_first_to_last_packet() {
    for scene in Scene::all() {
        let syn = addressed(&scene.request(Some(flag::SYN)), ROUTER);
        let reached = expect(&scene, syn.clone(), FRONT, "forward_redirect");
        if !scene.one_way() {
            let answered = answer(&scene, &reached, Some(SYN_ACK));
            expect(&scene, answered, BACK, "reverse_redirect");
        }
        expect(
            &scene,
            acknowledging(&scene, flag::ACK),
            FRONT,
            "forward_redirect",
        );
        let data = acknowledging(&scene, flag::ACK | 8);
        let sent = expect(&scene, data.clone(), FRONT, "forward_redirect");
        if !scene.one_way() {
            let answered = answer(&scene, &reached, Some(flag::ACK));
            expect(&scene, answered, BACK, "reverse_redirect");
            let error = icmp_error(&scene, &sent);
            expect(&scene, error, BACK, "reverse_redirect");
        }
        let fin = acknowledging(&scene, flag::FIN | flag::ACK);
        expect(&scene, fin, FRONT, "forward_redirect");
        if !scene.one_way() {
            let answered = answer(&scene, &reached, Some(flag::FIN | flag::ACK));
            expect(&scene, answered, BACK, "reverse_redirect");
        }
        // The client's port again, of a connection that both ends have closed or one might have.
        expect(&scene, syn, FRONT, "forward_redirect");
    }
}

#[test]
fn datagrams_and_the_end_of_a_real_server() {
    for scene in Scene::all() {
        let datagram = addressed(&scene.request(None), ROUTER);
        let reached = expect(&scene, datagram.clone(), FRONT, "forward_redirect");
        expect(&scene, datagram.clone(), FRONT, "forward_redirect");
        if !scene.one_way() {
            let answered = answer(&scene, &reached, None);
            expect(&scene, answered, BACK, "reverse_redirect");
        }
        // Its id has gone to another real server, and nobody is left.
        let mut real = scene.tables.reals.get(&UP).unwrap();
        (real.generation, real.state) = (8, RealState::Draining as u8);
        scene.tables.reals.put(UP, real);
        expect(&scene, datagram, FRONT, "real_servers_full");
    }
}

#[test]
fn segments_of_unknown_connections() {
    for scene in Scene::all() {
        // A stand-in's port was known to the other node alone; the second entry of the Maglev table is up.
        let wanted = match scene.forwarding {
            Forwarding::FullNat => "unknown_connection",
            Forwarding::Nat | Forwarding::Dsr | Forwarding::Tunnel => "forward_redirect",
        };
        expect(&scene, acknowledging(&scene, flag::ACK), FRONT, wanted);
    }
    for v6 in [false, true] {
        let scene = Scene::new(v6, Forwarding::Nat);
        let request = addressed(&scene.request(Some(flag::SYN)), ROUTER);
        let reached = expect(&scene, request, FRONT, "forward_redirect");
        let scene = Scene::new(v6, Forwarding::Nat);
        let answered = answer(&scene, &reached, Some(flag::ACK));
        expect(&scene, answered, BACK, "reverse_redirect");
    }
}

#[test]
fn what_is_not_forwarded() {
    for scene in Scene::all() {
        let syn = scene.request(Some(flag::SYN));
        let ttl = addressed(&Packet { ttl: 1, ..syn }, ROUTER);
        expect(&scene, ttl, FRONT, "ttl_answered");
        let length = 1500 + 1;
        let long = Packet { length, ..syn };
        // An IPv4 packet of ours must not be made into fragments.
        expect(&scene, addressed(&long, ROUTER), FRONT, "too_big_answered");
        let to = (scene.vip, 81).into();
        let elsewhere = addressed(&Packet { to, ..syn }, ROUTER);
        expect(&scene, elsewhere, FRONT, "shared_address_local");
        let to = (scene.client, 80).into();
        let foreign = addressed(&Packet { to, ..syn }, ROUTER);
        expect(&scene, foreign, FRONT, "not_ours");

        let config = scene.tables.config.get(&()).unwrap();
        let full = Config {
            table_full: 1,
            table_full6: 1,
            ..config
        };
        scene.tables.config.put((), full);
        let wanted = match scene.forwarding {
            Forwarding::FullNat => "table_full",
            Forwarding::Nat | Forwarding::Dsr | Forwarding::Tunnel => "forward_redirect",
        };
        // Not the connection that the long request has begun.
        let from = (scene.client, 40_001).into();
        let fresh = addressed(&Packet { from, ..syn }, ROUTER);
        expect(&scene, fresh, FRONT, wanted);
        scene.tables.gate.put((), Gate::default());
        expect(&scene, addressed(&syn, ROUTER), FRONT, "gate_closed");
    }
}

#[test]
fn ways_that_only_the_kernel_knows() {
    for mut scene in Scene::all().filter(|scene| !scene.one_way()) {
        let mut real = scene.tables.reals.get(&UP).unwrap();
        real.hop_known = 0;
        scene.tables.reals.put(UP, real);
        let group = [1, 0, 0x5e, 0, 0, 1];
        let syn = addressed(&scene.request(Some(flag::SYN)), group);
        let reached = expect(&scene, syn, FRONT, "forward_kernel");
        let answered = answer(&scene, &reached, Some(SYN_ACK));
        expect(&scene, answered.clone(), BACK, "reverse_redirect");
        scene.routed = false;
        expect(&scene, answered, BACK, "reverse_kernel");
    }
}

#[test]
fn fragments_follow_the_first() {
    for forwarding in [Forwarding::Nat, Forwarding::Dsr, Forwarding::Tunnel] {
        let scene = Scene::new(false, forwarding);
        let mut first = addressed(&scene.request(None), ROUTER);
        first[20] = 0x20;
        let mut later = first.clone();
        (later[20], later[21]) = (0, 1);
        expect(&scene, later.clone(), FRONT, "fragment_held");
        expect(&scene, first, FRONT, "forward_redirect");
        expect(&scene, later, FRONT, "forward_redirect");
    }
}

#[test]
fn clients_that_are_known() {
    for scene in Scene::all() {
        for (id, idle) in [(UP, 0), (DOWN, 0), (UP, 1000)] {
            let record = Persist {
                real: id,
                real_generation: 7,
                last_seen_ns: scene.tables.now_ns.get() - idle * 1_000_000_000,
                ..Persist::default()
            };
            persistent(&scene, record);
            let datagram = addressed(&scene.request(None), ROUTER);
            expect(&scene, datagram, FRONT, "forward_redirect");
            scene.forget_connections();
        }
    }
}

fn persistent(scene: &Scene, record: Persist) {
    let tables = &scene.tables;
    for (key, service) in tables.v4.services.all() {
        let (persist_seconds, persist_prefix) = (300, 24);
        let service = Service {
            persist_seconds,
            persist_prefix,
            ..service
        };
        tables.v4.services.put(key, service);
        let client = PersistKey {
            client: u32::from_ip(scene.client).prefix(24),
            service: 1,
            pad: 0,
        };
        tables.v4.persist.put(client, record);
    }
    for (key, service) in tables.v6.services.all() {
        let (persist_seconds, persist_prefix) = (300, 64);
        let service = Service {
            persist_seconds,
            persist_prefix,
            ..service
        };
        tables.v6.services.put(key, service);
        let client = PersistKey {
            client: Addr6::from_ip(scene.client).prefix(64),
            service: 1,
            pad: 0,
        };
        tables.v6.persist.put(client, record);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever a frame is made of, the trace says what happens to it.
    #[test]
    fn damaged_frames(
        v6: bool,
        forwarding in 0u8..4,
        flags in proptest::option::of(any::<u8>()),
        damage in proptest::collection::vec((0usize..80, any::<u8>()), 0..4),
        length in 14usize..120,
        from_server: bool,
    ) {
        let scene = Scene::new(v6, Forwarding::from_u8(forwarding));
        let (ingress, from) = if from_server { (BACK, SERVER) } else { (FRONT, ROUTER) };
        let mut packet = scene.request(flags);
        packet.length = length as u16;
        if from_server {
            packet.from = (scene.up, scene.real_port()).into();
            packet.to = (scene.client, 40_000).into();
        }
        let mut frame = addressed(&packet, from);
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(length.max(14));
        scene.pass(frame, ingress);
    }

    /// Frames of nothing but noise.
    #[test]
    fn noise(frame in proptest::collection::vec(any::<u8>(), 14..200)) {
        Scene::new(false, Forwarding::Nat).pass(frame, FRONT);
    }
}

#[test]
fn advertisements_and_arp() {
    let scene = Scene::new(false, Forwarding::Nat);
    let mut carp = addressed(&scene.request(None), ROUTER);
    carp[23] = 112;
    for vhid in [109, 110] {
        carp[ETHERNET + 20 + 1] = vhid;
        scene.pass(carp.clone(), FRONT);
    }
    let mut arp = vec![0xff; 6];
    arp.extend(OWN);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(ROUTER);
    arp.extend(u32::from_ip(scene.client).to_ne_bytes());
    arp.extend([0; 6]);
    arp.extend(u32::from_ip(scene.vip).to_ne_bytes());
    expect(&scene, arp.clone(), FRONT, "shared_address_local");
    scene.tables.gate.put((), Gate::default());
    expect(&scene, arp, FRONT, "arp_gate_closed");
}
