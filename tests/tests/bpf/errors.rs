//! ICMP errors about packets of a connection, which go the way of the connection.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{Embryo4, flags};
use ha_common::control::Gate;
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, RealState};
use ha_tests::packet::{Frame, Trouble, flag};

use super::family::Family;
use super::lab::{
    CLIENT, CLIENT_MAC, Case, Lab, NAMES, NODE_BACK_MAC, NODE_MAC, ONE, ONE_MAC, RESOLVER, SECOND,
    THREE, TURN, USUAL, WEB, datagram, embryo_key, from_client, id,
};

pub(crate) const CASES: &[Case] = &[
    ("an_error_about_nothing_known_is_left_alone", USUAL, unknown),
    ("an_error_needs_the_gate", USUAL, gate),
    ("an_error_at_its_last_hop_ends_here", USUAL, last_hop),
    ("an_error_without_a_known_hop_is_the_kernels", USUAL, kernel),
    (
        "an_error_about_a_real_server_that_is_gone_is_not_sent_on",
        USUAL,
        gone,
    ),
    ("what_is_no_error_is_left_alone", USUAL, queries),
];

pub(crate) const CASES_OF_METHODS: &[Case] = &[
    (
        "an_error_about_an_answer_reaches_the_server",
        USUAL,
        about_answers,
    ),
    (
        "an_error_about_a_request_reaches_the_client",
        USUAL,
        about_requests,
    ),
    ("an_error_within_a_handshake_goes_its_way", USUAL, handshake),
];

/// A router that is nobody's.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

const TROUBLES: [Trouble; 3] = [Trouble::Port, Trouble::TooBig(1400), Trouble::Expired];

/// How much of the packet an error repeats behind the IP header: the least there is, all but the checksum
/// of TCP, up to it, the header, more than there is.
const REPEATED: [usize; 5] = [8, 16, 18, 20, 2000];

/// A connection of each protocol, and packets of both directions as they leave the balancer.
struct Talk {
    client: SocketAddrV4,
    service: SocketAddrV4,
    real: SocketAddrV4,
    /// From the shared address to the client.
    answer: Frame,
    /// From the client, or what stands in for it, to the real server.
    request: Frame,
}

fn talks(lab: &mut Lab) -> Result<Vec<Talk>> {
    lab.connect(CLIENT, WEB)?;
    let client = lab.seen_by_server(CLIENT, WEB)?;
    let tcp = |from, to| {
        let segment = Frame::tcp(from, to, flag::ACK | flag::PSH).numbers(77, 99);
        segment.ttl(61).payload(b"something that was too long")
    };
    let mut talks = vec![Talk {
        client: CLIENT,
        service: WEB,
        real: ONE,
        answer: tcp(WEB, CLIENT),
        request: tcp(client, ONE),
    }];
    for bare in [false, true] {
        let asker = SocketAddrV4::new(*CLIENT.ip(), 5000 + u16::from(bare));
        lab.run(&datagram(asker, NAMES), Reason::ForwardRedirect)?;
        let client = lab.seen_by_server(asker, NAMES)?;
        let udp = |from, to| {
            let datagram = Frame::udp(from, to).ttl(61).payload(b"too long as well");
            if bare {
                datagram.without_checksum()
            } else {
                datagram
            }
        };
        talks.push(Talk {
            client: asker,
            service: NAMES,
            real: RESOLVER,
            answer: udp(NAMES, asker),
            request: udp(client, RESOLVER),
        });
    }
    lab.world.events()?;
    Ok(talks)
}

fn about_answers(lab: &mut Lab) -> Result<()> {
    for talk in talks(lab)? {
        for (trouble, repeated) in TROUBLES
            .into_iter()
            .zip(REPEATED.into_iter().cycle().skip(1))
        {
            about_answer(lab, &talk, trouble, repeated)?;
        }
        for repeated in REPEATED {
            about_answer(lab, &talk, Trouble::TooBig(1400), repeated)?;
        }
    }
    ensure!(lab.world.events()?.is_empty(), "an error is no event");
    Ok(())
}

fn about_answer(lab: &mut Lab, talk: &Talk, trouble: Trouble, repeated: usize) -> Result<()> {
    let error =
        |source, about: &Frame| Frame::error(source, trouble, about, repeated).tag(0x8100, 9);
    let (real, answer) = (talk.real, &talk.answer);
    let sent = error(ROUTER, answer).macs(CLIENT_MAC, NODE_MAC);
    let there = |frame: Frame| frame.ttl(63).macs(NODE_BACK_MAC, ONE_MAC);
    // As the real server sent it.
    let client = lab.seen_by_server(talk.client, talk.service)?;
    let original = answer.clone().from(real).to(client);
    let wanted = match lab.setting.method {
        Forwarding::Nat => there(error(ROUTER, &original)),
        Forwarding::FullNat => there(error(*client.ip(), &original)),
        Forwarding::Dsr => there(sent.clone()),
        Forwarding::Tunnel => there(sent.clone()).inside(super::lab::OWN, *real.ip()),
    };
    lab.becomes(&sent, Reason::ForwardRedirect, &wanted)
}

fn about_requests(lab: &mut Lab) -> Result<()> {
    for talk in talks(lab)? {
        for repeated in REPEATED {
            about_request(lab, &talk, Trouble::TooBig(1300), repeated)?;
        }
    }
    Ok(())
}

fn about_request(lab: &mut Lab, talk: &Talk, trouble: Trouble, repeated: usize) -> Result<()> {
    for source in [ROUTER, *talk.real.ip()] {
        let sent =
            Frame::error(source, trouble, &talk.request, repeated).macs(ONE_MAC, NODE_BACK_MAC);
        if lab.is_one_way() {
            // It is between the real server and the client.
            lab.untouched(&sent, Reason::NotOurs)?;
            continue;
        }
        // As the client sent it.
        let original = talk.request.clone().from(talk.client).to(talk.service);
        let wanted = Frame::error(*talk.service.ip(), trouble, &original, repeated)
            .ttl(63)
            .macs(NODE_MAC, CLIENT_MAC);
        lab.becomes(&sent, Reason::ReverseTransmit, &wanted)?;
    }
    Ok(())
}

/// An error about an answer of [`WEB`] to the client.
fn about_web() -> Frame {
    let answer = Frame::tcp(WEB, CLIENT, flag::ACK).payload(b"data");
    Frame::error(ROUTER, Trouble::Expired, &answer, 8).macs(CLIENT_MAC, NODE_MAC)
}

/// An error about a request of the client to [`ONE`].
fn about_one() -> Frame {
    let request = Frame::tcp(CLIENT, ONE, flag::ACK).payload(b"data");
    Frame::error(ROUTER, Trouble::Expired, &request, 8).macs(ONE_MAC, NODE_BACK_MAC)
}

fn unknown(lab: &mut Lab) -> Result<()> {
    lab.untouched(&about_web(), Reason::SharedAddressLocal)?;
    lab.untouched(&about_one(), Reason::NotOurs)?;
    // A half-open connection of the same client to another service, or to another real server.
    lab.run(
        &from_client(CLIENT, TURN, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    lab.untouched(&about_web(), Reason::SharedAddressLocal)?;
    let elsewhere = Frame::tcp(CLIENT, THREE, flag::SYN);
    let error = Frame::error(ROUTER, Trouble::Port, &elsewhere, 8).macs(ONE_MAC, NODE_BACK_MAC);
    lab.untouched(&error, Reason::NotOurs)?;
    // One that is no longer believed.
    let mut old = lab.embryo(CLIENT)?.context("half-open")?;
    old.last_seen_ns -= Embryo4::LIFETIME_NS + SECOND;
    lab.world.set_embryo(embryo_key(CLIENT), old)?;
    lab.untouched(&about_one(), Reason::NotOurs)?;
    // Too short to tell what it is about.
    lab.connect(CLIENT, WEB)?;
    let answer = Frame::tcp(WEB, CLIENT, flag::ACK);
    for repeated in 0..8 {
        let error = Frame::error(ROUTER, Trouble::Port, &answer, repeated);
        lab.untouched(&error, Reason::SharedAddressLocal)?;
    }
    // About a part of a packet that has no ports.
    let later = Frame::tcp(WEB, CLIENT, flag::ACK)
        .payload(&[1; 64])
        .piece(24..64);
    let error = Frame::error(ROUTER, Trouble::Port, &later, 40);
    lab.untouched(&error, Reason::SharedAddressLocal)
}

/// Nobody has answered the request yet, or nobody the answer.
fn handshake(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, WEB, flag::SYN);
    lab.run(&syn, Reason::ForwardRedirect)?;
    let talk = Talk {
        client: CLIENT,
        service: WEB,
        real: ONE,
        answer: Frame::tcp(WEB, CLIENT, flag::SYN | flag::ACK).numbers(5000, 1001),
        request: Frame::tcp(lab.seen_by_server(CLIENT, WEB)?, ONE, flag::SYN).ttl(61),
    };
    for repeated in REPEATED {
        about_answer(lab, &talk, Trouble::Port, repeated)?;
        about_request(lab, &talk, Trouble::Port, repeated)?;
    }
    ensure!(
        lab.world.conns()?.is_empty() && lab.world.events()?.is_empty(),
        "an error makes no connection"
    );
    Ok(())
}

fn gate(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.world.set_gate(Gate::CLOSED)?;
    lab.untouched(&about_web(), Reason::GateClosed)?;
    lab.untouched(&about_one(), Reason::GateClosed)
}

fn last_hop(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    for ttl in [0, 1] {
        lab.untouched(&about_web().ttl(ttl), Reason::TtlExpired)?;
        lab.untouched(&about_one().ttl(ttl), Reason::TtlExpired)?;
    }
    Ok(())
}

fn kernel(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.hop_known = 0)?;
    let [_, (key, mut reverse)] = lab.pair()?;
    reverse.flags &= !flags::HOP_KNOWN;
    lab.world.set_conn(key, reverse)?;
    let answer = Frame::tcp(ONE, CLIENT, flag::ACK).payload(b"data");
    let wanted = Frame::error(ROUTER, Trouble::Expired, &answer, 8).macs(CLIENT_MAC, NODE_MAC);
    lab.becomes(&about_web(), Reason::ForwardKernel, &wanted)?;
    let request = Frame::tcp(CLIENT, WEB, flag::ACK).payload(b"data");
    let wanted = Frame::error(*WEB.ip(), Trouble::Expired, &request, 8);
    let wanted = wanted.macs(ONE_MAC, NODE_BACK_MAC);
    lab.becomes(&about_one(), Reason::ReverseKernel, &wanted)
}

fn gone(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.generation += 1)?;
    lab.untouched(&about_web(), Reason::SharedAddressLocal)?;
    lab.untouched(&about_one(), Reason::NotOurs)?;
    lab.change_real(id::ONE, |real| real.state = RealState::Unused as u8)?;
    lab.untouched(&about_web(), Reason::SharedAddressLocal)
}

/// Echo to a shared address is the kernel's to answer, and only while the gate is open.
fn queries(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let protocol = lab.family().icmp();
    let kinds: &[u8] = match lab.family() {
        Family::V4 => &[0, 5, 8, 13],
        Family::V6 => &[0, 128, 129],
    };
    for kind in kinds {
        let mut payload = vec![*kind, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(&lab.bytes(&Frame::tcp(WEB, CLIENT, flag::ACK))[14..]);
        let query = Frame::raw(ROUTER, *WEB.ip(), protocol).payload(&payload);
        lab.untouched(&query, Reason::SharedAddressLocal)?;
        let passing = Frame::raw(ROUTER, *CLIENT.ip(), protocol).payload(&payload);
        lab.untouched(&passing, Reason::NotOurs)?;
    }
    lab.world.set_gate(Gate::CLOSED)?;
    let echo = Frame::raw(ROUTER, *WEB.ip(), protocol).payload(&[kinds[1], 0, 0, 0, 0, 0, 0, 0]);
    lab.untouched(&echo, Reason::GateClosed)
}
