//! Packets that come in pieces.

use std::net::SocketAddrV4;
use std::ops::Range;

use anyhow::{Result, ensure};
use ha_common::conn::{FRAGMENT_LIFETIME_NS, FragmentKey4};
use ha_common::control::Gate;
use ha_common::event::EARLY_BYTES;
use ha_common::pair::Rate;
use ha_common::proto;
use ha_common::reason::{Reason, Tally};
use ha_common::service::{Forwarding, RealState};
use ha_tests::clock::now_ns;
use ha_tests::packet::{Frame, flag};

use super::family::Family;
use super::lab::{
    CLIENT, Case, Lab, MTU, NAMES, ONE, OWN, RESOLVER, SECOND, USUAL, WEB, at_client, at_server,
    datagram, from_client, from_server, id, net,
};

pub(crate) const CASES: &[Case] = &[
    ("fragments_of_nothing_known_are_the_kernels", USUAL, unknown),
    ("fragments_are_expected_for_a_while", USUAL, expired),
    ("fragments_need_the_gate", USUAL, gate),
    ("a_fragment_at_its_last_hop_ends_here", USUAL, last_hop),
    ("fragments_leave_a_real_server_that_is_gone", USUAL, gone),
    ("an_only_fragment_is_a_packet", USUAL, only),
    ("fragments_that_are_held_are_few", USUAL, few),
    ("what_is_not_forwarded_is_not_held", USUAL, not_held),
];

pub(crate) const CASES_OF_METHODS: &[Case] = &[
    ("fragments_follow_the_first", USUAL, follow),
    ("fragments_follow_through_the_kernel", USUAL, kernel),
    ("a_fragment_that_is_too_big_is_not_lost", USUAL, big),
    ("fragments_wait_for_the_first", USUAL, early),
];

/// What is behind the IP header of a datagram, in three pieces.
const PIECES: [Range<usize>; 3] = [0..64, 64..128, 128..208];

fn question() -> Frame {
    datagram(CLIENT, NAMES).payload(&(0..200).collect::<Vec<u8>>())
}

fn follow(lab: &mut Lab) -> Result<()> {
    let [first, second, last] = PIECES;
    // In any order after the first, and again.
    for piece in [first, last.clone(), second, last] {
        let fragment = question().piece(piece).tag(0x8100, 3);
        lab.forwards(&fragment, Reason::ForwardRedirect, RESOLVER)?;
    }
    lab.connect(CLIENT, WEB)?;
    let segment = from_client(CLIENT, WEB, flag::ACK).payload(&[3; 100]);
    for piece in [0..24, 24..120] {
        lab.forwards(&segment.clone().piece(piece), Reason::ForwardRedirect, ONE)?;
    }
    if lab.is_one_way() {
        return Ok(());
    }
    let to = lab.seen_by_server(CLIENT, WEB)?;
    let answer = from_server(ONE, to, flag::ACK).payload(&[4; 100]).id(0x77);
    for piece in [0..24, 24..120] {
        lab.returns(&answer.clone().piece(piece), WEB, CLIENT)?;
    }
    Ok(())
}

/// The first one is the last to come, in either direction.
fn early(lab: &mut Lab) -> Result<()> {
    let [first, second, last] = PIECES;
    let later = [last, second].map(|piece| question().piece(piece).tag(0x8100, 3));
    for fragment in &later {
        lab.held(fragment)?;
    }
    let first = question().piece(first).tag(0x8100, 3);
    lab.forwards(&first, Reason::ForwardRedirect, RESOLVER)?;
    for fragment in &later {
        let after = lab.follows(fragment, Reason::ForwardRedirect)?;
        let wanted = lab.at_server(fragment, RESOLVER)?;
        lab.same(&after, &wanted, Reason::ForwardRedirect)?;
    }
    if lab.is_one_way() {
        return Ok(());
    }
    lab.connect(CLIENT, WEB)?;
    let to = lab.seen_by_server(CLIENT, WEB)?;
    let answer = from_server(ONE, to, flag::ACK).payload(&[4; 100]).id(0x77);
    let later = answer.clone().piece(24..120);
    lab.held(&later)?;
    lab.returns(&answer.piece(0..24), WEB, CLIENT)?;
    let after = lab.follows(&later, Reason::ReverseTransmit)?;
    let wanted = at_client(&later, WEB).to(CLIENT);
    lab.same(&after, &wanted, Reason::ReverseTransmit)
}

/// So many, and then as many as the rate allows; and never more than the agent takes.
fn few(lab: &mut Lab) -> Result<()> {
    let nth = |id| question().id(id).piece(64..128);
    let mut held = 0;
    for id in 0..u32::try_from(3 * Rate::EARLY.burst)? {
        let ran = lab.send(&nth(id))?;
        ensure!(ran.frame == lab.bytes(&nth(id)), "changed");
        match ran.reason {
            Reason::FragmentHeld => held += 1,
            Reason::Fragment => break,
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(held >= Rate::EARLY.burst, "{held} held");
    let begin = now_ns();
    let mut id = 1000;
    while lab.world.tally(Tally::EarlyLost)? == 0 {
        ensure!(now_ns() - begin < 10 * SECOND, "the ring does not end");
        lab.send(&nth(id))?;
        id += 1;
    }
    let records = lab.world.early()?.len();
    ensure!(records as u64 > Rate::EARLY.burst, "{records} records");
    Ok(())
}

fn not_held(lab: &mut Lab) -> Result<()> {
    let later = question().piece(64..128);
    // Behind the first fragment of an echo request are no ports either.
    let icmp = Frame::raw(*CLIENT.ip(), *NAMES.ip(), lab.family().icmp()).payload(&[0; 200]);
    lab.untouched(&icmp.piece(64..128), Reason::Fragment)?;
    let own = datagram(CLIENT, SocketAddrV4::new(OWN, 53)).payload(&[1; 200]);
    lab.untouched(&own.piece(64..128), Reason::NotOurs)?;
    let long = datagram(CLIENT, NAMES).payload(&[1; 4000]);
    let jumbo = long.piece(64..64 + EARLY_BYTES / 8 * 8);
    lab.untouched(&jumbo, Reason::Fragment)?;
    ensure!(lab.world.early()?.is_empty(), "held");
    // What a real server sends on its own account is the kernel's in the end.
    let answer = Frame::udp(RESOLVER, CLIENT)
        .payload(&[1; 200])
        .piece(64..128);
    lab.held(&answer)?;
    let after = lab.follows(&answer, Reason::NotOurs)?;
    ensure!(after == lab.bytes(&answer), "changed");
    // The node is not active any more.
    lab.held(&later)?;
    lab.world.set_gate(Gate::CLOSED)?;
    lab.follows(&later, Reason::GateClosed)?;
    Ok(())
}

fn kernel(lab: &mut Lab) -> Result<()> {
    lab.run(&question(), Reason::ForwardRedirect)?;
    lab.change_real(id::RESOLVER, |real| real.hop_known = 0)?;
    for piece in PIECES {
        let fragment = question().piece(piece);
        let (reason, wanted) = match lab.setting.method {
            Forwarding::Nat => (Reason::ForwardKernel, fragment.clone().to(RESOLVER)),
            Forwarding::FullNat => {
                let from = lab.seen_by_server(CLIENT, NAMES)?;
                (
                    Reason::ForwardKernel,
                    fragment.clone().to(RESOLVER).from(from),
                )
            }
            Forwarding::Dsr if fragment == question().piece(0..64) => {
                lab.run(&fragment, Reason::RealServerUnreachable)?;
                continue;
            }
            Forwarding::Dsr => {
                // The first went nowhere, and so no other is expected.
                lab.given_up(&fragment)?;
                continue;
            }
            Forwarding::Tunnel => {
                let inside = fragment.clone().ttl(63).inside(OWN, *RESOLVER.ip());
                (Reason::ForwardKernel, inside)
            }
        };
        lab.becomes(&fragment, reason, &wanted)?;
    }
    Ok(())
}

/// As long as the interface takes; with the header of a tunnel, longer.
fn big(lab: &mut Lab) -> Result<()> {
    let header = lab.family().header();
    let room = match lab.family() {
        Family::V4 => (MTU - header) / 8 * 8,
        Family::V6 => (MTU - header - 8) / 8 * 8,
    };
    let whole = datagram(CLIENT, NAMES).payload(&vec![5; 2 * room]);
    let (first, second) = (whole.clone().piece(0..room), whole.piece(room..2 * room));
    match (lab.setting.method, lab.family()) {
        (Forwarding::Tunnel, Family::V4) => {
            for fragment in [first, second] {
                let wanted = fragment.clone().ttl(63).inside(OWN, *RESOLVER.ip());
                lab.becomes(&fragment, Reason::ForwardKernel, &wanted)?;
            }
        }
        (Forwarding::Tunnel, Family::V6) => {
            // The sender is told, once.
            lab.run(&first, Reason::TooBigAnswered)?;
            lab.given_up(&second)?;
        }
        _ => {
            for fragment in [first, second] {
                lab.forwards(&fragment, Reason::ForwardRedirect, RESOLVER)?;
            }
        }
    }
    Ok(())
}

fn unknown(lab: &mut Lab) -> Result<()> {
    let [first, second, _] = PIECES;
    lab.given_up(&question().piece(second.clone()))?;
    let elsewhere = "192.0.2.9:53".parse()?;
    for piece in [first.clone(), second.clone()] {
        let passing = datagram(CLIENT, elsewhere).payload(&[1; 200]).piece(piece);
        lab.untouched(&passing, Reason::NotOurs)?;
    }
    // To no service: also the first is the kernel's.
    let nobody = datagram(CLIENT, WEB).payload(&[1; 200]);
    lab.untouched(
        &nobody.clone().piece(first.clone()),
        Reason::SharedAddressLocal,
    )?;
    lab.given_up(&nobody.piece(second.clone()))?;
    // Of another packet than the one that is known.
    lab.run(&question().piece(first), Reason::ForwardRedirect)?;
    let later = question().piece(second);
    lab.given_up(&later.clone().id(0x4321))?;
    lab.run(&later, Reason::ForwardRedirect)?;
    Ok(())
}

/// The key under which the fragments of [`question`] are expected.
fn expected(lab: &Lab) -> FragmentKey4 {
    FragmentKey4 {
        src: net(*CLIENT.ip()),
        dst: net(*NAMES.ip()),
        id: match lab.family() {
            Family::V4 => u32::from(0x1234u16.to_be()),
            Family::V6 => 0x1234u32.to_be(),
        },
        proto: u32::from(proto::UDP),
    }
}

fn expired(lab: &mut Lab) -> Result<()> {
    let [first, second, _] = PIECES;
    lab.run(&question().piece(first), Reason::ForwardRedirect)?;
    let known = lab.world.fragments()?;
    let [(key, mut entry)] = known.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(key == expected(lab), "{key:?}");
    let second = question().piece(second);
    entry.created_ns -= FRAGMENT_LIFETIME_NS - SECOND;
    lab.world.set_fragments(key, entry)?;
    lab.becomes(
        &second,
        Reason::ForwardRedirect,
        &at_server(&second, RESOLVER),
    )?;
    entry.created_ns -= 2 * SECOND;
    lab.world.set_fragments(key, entry)?;
    lab.given_up(&second)
}

fn gate(lab: &mut Lab) -> Result<()> {
    let [first, second, last] = PIECES;
    lab.run(&question().piece(first.clone()), Reason::ForwardRedirect)?;
    lab.world.set_gate(Gate::CLOSED)?;
    for piece in [first, second, last] {
        lab.untouched(&question().piece(piece), Reason::GateClosed)?;
    }
    let unknown = question().id(9).piece(64..128);
    lab.untouched(&unknown, Reason::GateClosed)
}

fn last_hop(lab: &mut Lab) -> Result<()> {
    let [first, second, _] = PIECES;
    lab.run(&question().piece(first), Reason::ForwardRedirect)?;
    // RFC 1812 section 4.3.2.7: nobody is told of a fragment but the first.
    lab.untouched(&question().piece(second).ttl(1), Reason::TtlExpired)
}

fn gone(lab: &mut Lab) -> Result<()> {
    let [first, second, _] = PIECES;
    lab.run(&question().piece(first), Reason::ForwardRedirect)?;
    let second = question().piece(second);
    for state in [RealState::Draining, RealState::Down] {
        lab.change_real(id::RESOLVER, |real| real.state = state as u8)?;
        lab.run(&second, Reason::ForwardRedirect)?;
    }
    lab.change_real(id::RESOLVER, |real| real.generation += 1)?;
    lab.given_up(&second)?;
    lab.change_real(id::RESOLVER, |real| real.state = RealState::Unused as u8)?;
    lab.given_up(&second)
}

/// "Do not fragment" makes none; nor does an IPv6 fragment header in front of a whole packet (RFC 6946).
fn only(lab: &mut Lab) -> Result<()> {
    let whole = question().whole();
    lab.becomes(
        &whole,
        Reason::ForwardRedirect,
        &at_server(&whole, RESOLVER),
    )?;
    let all = question().piece(0..208);
    lab.run(&all, Reason::ForwardRedirect)?;
    ensure!(lab.world.fragments()?.is_empty(), "more is expected");
    Ok(())
}
