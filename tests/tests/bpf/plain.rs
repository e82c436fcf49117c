//! What is not a connection: foreign traffic, malformed packets, fragments, ARP, the gate.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use ha_common::control::Gate;
use ha_common::reason::Reason;
use ha_tests::clock::now_ns;
use ha_tests::packet::{Frame, arp_request, flag, mapped};

use super::family::Family;
use super::lab::{
    CLIENT, Case, Lab, NAMES, ONE, OWN, SECOND, USUAL, VIP, WEB, at_server, datagram, from_client,
    from_server,
};
use super::neighbour::nd;

pub(crate) const CASES: &[Case] = &[
    ("what_is_not_ip_passes", USUAL, not_ip),
    ("a_third_tag_passes", USUAL, tags),
    ("tagged_packets_keep_their_tags", USUAL, tagged),
    ("foreign_packets_pass_untouched", USUAL, foreign),
    (
        "a_shared_address_without_service_is_the_kernels",
        USUAL,
        no_service,
    ),
    (
        "a_short_segment_to_a_shared_address_is_dropped",
        USUAL,
        truncated,
    ),
    ("a_closed_gate_drops_everything_shared", USUAL, closed),
    ("the_gate_closes_at_the_end_of_the_lease", USUAL, lease),
    ("a_higher_term_closes_the_gate", USUAL, overtaken),
    (
        "a_hand_over_lets_established_connections_through",
        USUAL,
        hand_over,
    ),
];

pub(crate) const CASES_V4: &[Case] = &[
    ("arp_for_a_shared_address_needs_the_gate", USUAL, arp),
    (
        "a_malformed_header_to_a_shared_address_is_dropped",
        USUAL,
        bad_header,
    ),
];

/// Who has the shared address, and what becomes of the question while the gate is closed.
fn question(lab: &Lab) -> (Vec<u8>, Reason) {
    match lab.family() {
        Family::V4 => (arp_request(*CLIENT.ip(), VIP), Reason::ArpGateClosed),
        Family::V6 => (
            nd(135, mapped(*CLIENT.ip()), mapped(VIP)),
            Reason::NdGateClosed,
        ),
    }
}

fn not_ip(lab: &mut Lab) -> Result<()> {
    let mut frame = vec![0; 60];
    for ethertype in [0x86ddu16, 0x8847, 0x0000, 0xffff] {
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        lab.untouched(&frame, Reason::NotIp)?;
    }
    // Ends before the IPv4 header does, so it is not known whose it is.
    let whole = lab.bytes(&from_client(CLIENT, WEB, flag::SYN));
    lab.untouched(&whole[..33], Reason::NotIp)
}

fn tags(lab: &mut Lab) -> Result<()> {
    let frame = from_client(CLIENT, WEB, flag::SYN)
        .tag(0x88a8, 1)
        .tag(0x8100, 2)
        .tag(0x8100, 3);
    lab.untouched(&frame, Reason::TooManyTags)?;
    let bytes = lab.bytes(&frame);
    lab.untouched(&bytes[..16], Reason::NotIp)
}

fn tagged(lab: &mut Lab) -> Result<()> {
    let one = from_client(CLIENT, WEB, flag::SYN).tag(0x8100, 5);
    lab.becomes(&one, Reason::ForwardRedirect, &at_server(&one, ONE))?;
    let two = from_client(CLIENT, WEB, flag::SYN)
        .tag(0x88a8, 6)
        .tag(0x8100, 7)
        .payload(b"x");
    lab.becomes(&two, Reason::ForwardRedirect, &at_server(&two, ONE))
}

fn foreign(lab: &mut Lab) -> Result<()> {
    let elsewhere = "192.0.2.9:80".parse()?;
    for frame in [
        from_client(CLIENT, elsewhere, flag::SYN),
        from_client(CLIENT, elsewhere, flag::ACK),
        datagram(CLIENT, elsewhere),
        Frame::tcp(ONE, SocketAddrV4::new(OWN, 50000), flag::ACK),
        Frame::tcp(CLIENT, SocketAddrV4::new(OWN, 22), flag::SYN),
        Frame::raw(*CLIENT.ip(), OWN, 1).payload(&[8, 0, 0, 0]),
        Frame::tcp(CLIENT, elsewhere, flag::ACK).fragment(0x2000),
        Frame::tcp(CLIENT, elsewhere, flag::ACK).options(&[1; 4]),
        // A real server's own connection, from a port on which it serves.
        Frame::tcp(ONE, elsewhere, flag::SYN),
    ] {
        lab.untouched(&frame, Reason::NotOurs)?;
    }
    lab.world.set_gate(Gate::CLOSED)?;
    lab.untouched(&datagram(CLIENT, elsewhere), Reason::NotOurs)?;
    ensure!(lab.world.conns()?.is_empty(), "an entry was made");
    Ok(())
}

fn no_service(lab: &mut Lab) -> Result<()> {
    for frame in [
        from_client(CLIENT, SocketAddrV4::new(VIP, 9999), flag::SYN),
        datagram(CLIENT, WEB),
        Frame::raw(*CLIENT.ip(), VIP, 1).payload(&[8, 0, 0, 0]),
        Frame::raw(*CLIENT.ip(), VIP, 47),
    ] {
        lab.untouched(&frame, Reason::SharedAddressLocal)?;
    }
    Ok(())
}

fn bad_header(lab: &mut Lab) -> Result<()> {
    let good = lab.bytes(&from_client(CLIENT, WEB, flag::SYN).payload(b"payload"));
    let broken: [fn(&mut Vec<u8>); 5] = [
        |frame| frame[14] = 0x65,
        |frame| frame[14] = 0x44,
        |frame| frame[14 + 2..14 + 4].copy_from_slice(&19u16.to_be_bytes()),
        |frame| frame[14 + 2..14 + 4].copy_from_slice(&1500u16.to_be_bytes()),
        |frame| frame.truncate(frame.len() - 1),
    ];
    for spoil in broken {
        let mut frame = good.clone();
        spoil(&mut frame);
        lab.untouched(&frame, Reason::BadIpHeader)?;
    }
    let mut foreign = lab.bytes(&from_client(CLIENT, "192.0.2.9:80".parse()?, flag::ACK));
    foreign[14] = 0x55;
    lab.untouched(&foreign, Reason::NotOurs)
}

fn truncated(lab: &mut Lab) -> Result<()> {
    let tcp = Frame::raw(*CLIENT.ip(), VIP, 6).payload(&[0; 19]);
    lab.untouched(&tcp, Reason::Truncated)?;
    let udp = Frame::raw(*CLIENT.ip(), VIP, 17).payload(&[0; 7]);
    lab.untouched(&udp, Reason::Truncated)?;
    // Ethernet padding does not count.
    let mut padded = lab.bytes(&tcp);
    padded.extend([0; 7]);
    lab.untouched(&padded, Reason::Truncated)
}

fn arp(lab: &mut Lab) -> Result<()> {
    let shared = arp_request(Ipv4Addr::new(10, 0, 0, 1), VIP);
    let own = arp_request(Ipv4Addr::new(10, 0, 0, 1), OWN);
    lab.untouched(&shared, Reason::SharedAddressLocal)?;
    lab.untouched(&own, Reason::NotIp)?;
    lab.world.set_gate(Gate::CLOSED)?;
    lab.untouched(&shared, Reason::ArpGateClosed)?;
    lab.untouched(&own, Reason::NotIp)?;
    lab.untouched(&shared[..41], Reason::NotIp)
}

fn closed(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.world.set_gate(Gate::CLOSED)?;
    let resolver = super::lab::RESOLVER;
    for frame in [
        from_client(CLIENT, WEB, flag::ACK),
        from_client(CLIENT, WEB, flag::SYN),
        from_client(CLIENT, WEB, flag::RST),
        from_client(CLIENT, SocketAddrV4::new(VIP, 9999), flag::SYN),
        from_client("203.0.113.1:5".parse()?, WEB, flag::ACK),
        datagram(CLIENT, NAMES),
        Frame::raw(*CLIENT.ip(), VIP, 1),
        // From real servers, with an entry and without.
        Frame::tcp(ONE, CLIENT, flag::ACK),
        from_server(ONE, "203.0.113.1:5".parse()?, flag::ACK),
        Frame::udp(resolver, CLIENT),
    ] {
        lab.untouched(&frame, Reason::GateClosed)?;
    }
    ensure!(
        lab.world.conns()?.len() == 2,
        "a closed gate changed the table"
    );
    ensure!(
        lab.world.events()?.is_empty(),
        "a closed gate told of a change"
    );
    Ok(())
}

fn lease(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, WEB, flag::SYN);
    lab.world.set_gate(now_ns() + 3600 * SECOND)?;
    lab.run(&syn, Reason::ForwardRedirect)?;
    // Near its end the precise clock decides.
    lab.world.set_gate(now_ns() - 1)?;
    lab.untouched(&syn, Reason::GateClosed)?;
    let until = now_ns() + 30_000_000;
    lab.world.set_gate(until)?;
    let ran = lab.send(&syn)?;
    ensure!(
        ran.reason == Reason::ForwardRedirect || now_ns() >= until,
        "{:?}",
        ran.reason
    );
    while now_ns() < until {
        std::thread::yield_now();
    }
    lab.untouched(&syn, Reason::GateClosed)
}

fn overtaken(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let segment = from_client(CLIENT, WEB, flag::ACK);
    for (term, overtaken, open) in [(3, 0, true), (3, 3, true), (3, 4, false), (5, 4, true)] {
        lab.world.put_gate(Gate {
            until_ns: now_ns() + 3600 * SECOND,
            term,
            overtaken,
            ..Gate::default()
        })?;
        if open {
            lab.run(&segment, Reason::ForwardRedirect)?;
        } else {
            lab.untouched(&segment, Reason::GateClosed)?;
            let (question, closed) = question(lab);
            lab.untouched(&question, closed)?;
        }
    }
    Ok(())
}

/// A node that has handed over goes on with what it knows for a moment, and takes nothing on.
fn hand_over(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let opening = "203.0.113.1:5".parse()?;
    lab.run(
        &from_client(opening, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    lab.run(
        &from_server(ONE, opening, flag::SYN | flag::ACK).numbers(5000, 1001),
        Reason::ReverseTransmit,
    )?;
    let closed = |established_until_ns| Gate {
        established_until_ns,
        overtaken: 9,
        ..Gate::default()
    };
    let established = [
        (from_client(CLIENT, WEB, flag::ACK), Reason::ForwardRedirect),
        (
            from_server(ONE, CLIENT, flag::ACK | flag::PSH),
            Reason::ReverseTransmit,
        ),
    ];
    let others = [
        (from_client(CLIENT, WEB, flag::SYN), Reason::GateClosed),
        (
            from_client("203.0.113.2:5".parse()?, WEB, flag::SYN),
            Reason::GateClosed,
        ),
        (
            from_client("203.0.113.2:5".parse()?, WEB, flag::ACK),
            Reason::GateClosed,
        ),
        (
            from_client(opening, WEB, flag::ACK).numbers(1001, 5001),
            Reason::GateClosed,
        ),
        (
            from_server(ONE, "203.0.113.3:5".parse()?, flag::ACK),
            Reason::GateClosed,
        ),
        (datagram(CLIENT, NAMES), Reason::GateClosed),
    ];
    // Everything must be over within the hand-over: the node may be held up between two packets.
    let mut done = false;
    for _ in 0..100 {
        let until = now_ns() + Gate::HAND_OVER_NS - 1_000_000;
        lab.world.put_gate(closed(until))?;
        let mut ran = Vec::new();
        for (frame, wanted) in &established {
            ran.push((lab.send(frame)?.reason, *wanted));
        }
        if now_ns() < until {
            ensure!(
                ran.iter().all(|(reason, wanted)| reason == wanted),
                "{ran:?}"
            );
            done = true;
            break;
        }
    }
    ensure!(done, "never within the time of a hand-over");
    lab.world.put_gate(closed(now_ns() + Gate::HAND_OVER_NS))?;
    for (frame, wanted) in &others {
        lab.untouched(frame, *wanted)?;
    }
    let (question, gate_closed) = question(lab);
    lab.untouched(&question, gate_closed)?;
    ensure!(lab.world.conns()?.len() == 2, "entries were made or lost");
    // Over, or longer than a hand-over may be.
    for until in [now_ns(), now_ns() + 2 * SECOND] {
        lab.world.put_gate(closed(until))?;
        for (frame, _) in &established {
            lab.untouched(frame, Reason::GateClosed)?;
        }
    }
    Ok(())
}
