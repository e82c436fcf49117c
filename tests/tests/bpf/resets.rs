//! A real server that is down, of a service that ends its connections.

use anyhow::{Result, ensure};
use ha_common::event::EventKind;
use ha_common::reason::Reason;
use ha_common::service::{RealState, real_flags};
use ha_tests::packet::{Frame, flag};

use super::lab::{
    CLIENT, Case, Lab, NAMES, ONE, RESOLVER_TABLE, TABLE_LEN, TURN, TWO, USUAL, WEB, at_server,
    datagram, from_client, from_server, id,
};

pub(crate) const CASES: &[Case] = &[
    ("a_segment_is_answered_with_a_reset", USUAL, segments),
    ("a_reset_is_never_answered", USUAL, resets),
    ("a_request_goes_to_another_real_server", USUAL, request),
    ("answers_of_the_dead_stop_here", USUAL, answers),
    ("datagrams_go_to_another_real_server", USUAL, datagrams),
    ("a_lying_header_is_not_answered", USUAL, lying),
];

fn fall(lab: &mut Lab, id: u16) -> Result<()> {
    lab.change_real(id, |real| {
        real.state = RealState::Down as u8;
        real.flags = real_flags::RESET_WHEN_DOWN;
    })
}

/// RFC 9293 section 3.10.7.1: what the client must believe.
fn segments(lab: &mut Lab) -> Result<()> {
    let with_ack = (flag::RST, 5001, 0);
    let without = |next| (flag::RST | flag::ACK, 0, next);
    for (flags, payload, wanted) in [
        (flag::ACK, b"".as_slice(), with_ack),
        (flag::ACK | flag::PSH, b"data", with_ack),
        (flag::FIN | flag::ACK, b"", with_ack),
        (flag::SYN | flag::ACK, b"", with_ack),
        (0, b"data", without(u32::MAX.wrapping_add(4))),
        (flag::PSH, b"", without(u32::MAX)),
        (flag::FIN, b"data", without(u32::MAX.wrapping_add(5))),
        (
            flag::SYN | flag::FIN,
            b"",
            without(u32::MAX.wrapping_add(2)),
        ),
    ] {
        for tags in [0, 1] {
            *lab = lab.anew()?;
            lab.connect(CLIENT, WEB)?;
            fall(lab, id::ONE)?;
            let segment = from_client(CLIENT, WEB, flags)
                .numbers(u32::MAX, 5001)
                .payload(payload)
                .class(0xb8);
            let segment = if tags == 0 {
                segment
            } else {
                segment.tag(0x8100, 4)
            };
            let (flags, sequence, acknowledgement) = wanted;
            let reset = Frame::tcp(WEB, CLIENT, flags)
                .answering(&segment)
                .numbers(sequence, acknowledgement)
                .window(0)
                .id(0)
                .whole();
            lab.becomes(&segment, Reason::ResetAnswered, &reset)?;
            ensure!(lab.world.conns()?.is_empty(), "the connection is left");
            let event = lab.event()?;
            ensure!(event.kind == EventKind::Delete as u8, "{event:?}");
        }
    }
    Ok(())
}

fn resets(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    fall(lab, id::ONE)?;
    for flags in [flag::RST, flag::RST | flag::ACK] {
        lab.untouched(&from_client(CLIENT, WEB, flags), Reason::RealServerDown)?;
    }
    // Nor is what has options, or comes from nobody.
    let dressed = from_client(CLIENT, WEB, flag::ACK)
        .options(&[1; 4])
        .extension(60, &[1, 4, 0, 0, 0, 0]);
    lab.untouched(&dressed, Reason::RealServerDown)?;
    lab.pair()?;
    Ok(())
}

fn request(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, TURN)?;
    let [(_, forward), _] = lab.pair()?;
    fall(lab, forward.real)?;
    let (other, reason) = if forward.real == id::ONE {
        (TWO, Reason::ForwardTransmit)
    } else {
        (ONE, Reason::ForwardRedirect)
    };
    let syn = from_client(CLIENT, TURN, flag::SYN);
    lab.becomes(&syn, reason, &at_server(&syn, other))?;
    ensure!(lab.world.conns()?.is_empty(), "the old connection");
    Ok(())
}

fn answers(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    fall(lab, id::ONE)?;
    for flags in [flag::ACK, flag::FIN | flag::ACK, flag::RST] {
        lab.untouched(&from_server(ONE, CLIENT, flags), Reason::RealServerDown)?;
    }
    lab.pair()?;
    Ok(())
}

fn datagrams(lab: &mut Lab) -> Result<()> {
    let question = datagram(CLIENT, NAMES);
    lab.run(&question, Reason::ForwardRedirect)?;
    fall(lab, id::RESOLVER)?;
    lab.untouched(&question, Reason::NoRealServer)?;
    ensure!(lab.world.conns()?.is_empty(), "the old flow");
    for index in 0..TABLE_LEN {
        lab.world
            .set_slot(RESOLVER_TABLE + index, u32::from(id::ONE))?;
    }
    lab.becomes(
        &question,
        Reason::ForwardRedirect,
        &at_server(&question, ONE),
    )
}

/// A TCP header that says it is longer than the packet.
fn lying(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    fall(lab, id::ONE)?;
    let mut bytes = lab.bytes(&from_client(CLIENT, WEB, flag::ACK));
    let offset = 14 + lab.family().header() + 12;
    bytes[offset] = 0xf0;
    lab.untouched(&bytes, Reason::RealServerDown)
}
