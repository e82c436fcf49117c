//! Packets that come in pieces.

use std::ops::Range;

use anyhow::{Result, ensure};
use ha_common::conn::{FRAGMENT_LIFETIME_NS, FragmentKey4};
use ha_common::control::Gate;
use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, RealState};
use ha_tests::packet::{Frame, flag};

use super::family::Family;
use super::lab::{
    CLIENT, Case, Lab, MTU, NAMES, ONE, OWN, RESOLVER, SECOND, USUAL, WEB, at_server, datagram,
    from_client, from_server, id, net,
};

pub(crate) const CASES: &[Case] = &[
    ("fragments_of_nothing_known_are_the_kernels", USUAL, unknown),
    ("fragments_are_expected_for_a_while", USUAL, expired),
    ("fragments_need_the_gate", USUAL, gate),
    ("a_fragment_at_its_last_hop_ends_here", USUAL, last_hop),
    ("fragments_leave_a_real_server_that_is_gone", USUAL, gone),
    ("an_only_fragment_is_a_packet", USUAL, only),
];

pub(crate) const CASES_OF_METHODS: &[Case] = &[
    ("fragments_follow_the_first", USUAL, follow),
    ("fragments_follow_through_the_kernel", USUAL, kernel),
    ("a_fragment_that_is_too_big_is_not_lost", USUAL, big),
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
                lab.untouched(&fragment, Reason::Fragment)?;
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
            lab.untouched(&second, Reason::Fragment)?;
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
    lab.untouched(&question().piece(second.clone()), Reason::Fragment)?;
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
    lab.untouched(&nobody.piece(second.clone()), Reason::Fragment)?;
    // Of another packet than the one that is known.
    lab.run(&question().piece(first), Reason::ForwardRedirect)?;
    let later = question().piece(second);
    lab.untouched(&later.clone().id(0x4321), Reason::Fragment)?;
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
    lab.untouched(&second, Reason::Fragment)
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
    lab.untouched(&second, Reason::Fragment)?;
    lab.change_real(id::RESOLVER, |real| real.state = RealState::Unused as u8)?;
    lab.untouched(&second, Reason::Fragment)
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
