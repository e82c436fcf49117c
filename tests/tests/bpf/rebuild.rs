//! Packets of connections that this node never saw begin.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{ConnState, flags};
use ha_common::event::EventKind;
use ha_common::proto;
use ha_common::reason::{Reason, Tally};
use ha_common::service::RealState;
use ha_tests::packet::{Frame, flag};

use super::lab::{
    CLIENT, Case, FORMER_TABLE, Lab, NAMES, ONE, OWN, RESOLVER, STRICT, TABLE_LEN, THREE, TURN,
    TWIN, TWIN_TABLE, TWO, USUAL, WEB, at_client, at_server, conn_key, from_client, from_server,
    has_flags, id, net,
};

pub(crate) const CASES: &[Case] = &[
    (
        "a_segment_of_an_unknown_connection_is_steered_by_hash",
        USUAL,
        by_hash,
    ),
    (
        "a_segment_of_an_unknown_connection_goes_where_the_table_before_led_it",
        USUAL,
        formerly,
    ),
    (
        "a_former_real_server_that_serves_nobody_is_passed_over",
        USUAL,
        formerly_dead,
    ),
    (
        "a_former_table_that_says_nothing_changes_nothing",
        USUAL,
        formerly_the_same,
    ),
    ("a_fin_or_reset_makes_no_entry", USUAL, endings),
    ("strict_services_refuse_unknown_connections", USUAL, strict),
    ("a_real_server_may_speak_first", USUAL, server_first),
    (
        "a_datagram_of_a_real_server_may_come_first",
        USUAL,
        datagram_first,
    ),
    ("an_answer_makes_the_request_known", USUAL, answer_first),
    ("a_port_of_two_services_is_ambiguous", USUAL, ambiguous),
    (
        "a_half_open_connection_resolves_the_ambiguity",
        USUAL,
        resolved,
    ),
    (
        "a_late_packet_of_the_old_real_server_stops_here",
        USUAL,
        late,
    ),
    ("health_checks_are_left_alone", USUAL, health),
];

fn by_hash(lab: &mut Lab) -> Result<()> {
    // Also with a scheduler that takes turns: the table is the same on both nodes.
    for (service, port) in [(WEB, 1), (TURN, 2)] {
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        let data = from_client(client, service, flag::ACK | flag::PSH).payload(b"on and on");
        lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
        let event = lab.announced(EventKind::Add, ConnState::Established)?;
        ensure!(
            event.key == conn_key(client, service, proto::TCP),
            "{event:?}"
        );
        let answer = from_server(ONE, client, flag::ACK);
        lab.becomes(
            &answer,
            Reason::ReverseTransmit,
            &at_client(&answer, service),
        )?;
    }
    for (_, conn) in lab.world.conns()? {
        let direction = if conn.is_reverse() {
            flags::REVERSE
        } else {
            flags::BY_HASH
        };
        has_flags(&conn, direction | flags::RECONSTRUCTED)?;
    }
    lab.tallied(Tally::Reconstructed, 2)?;
    lab.tallied(Tally::Established, 0)
}

/// [`WEB`] had a table before that led everybody to this real server.
fn replace_table(lab: &mut Lab, id: u16) -> Result<()> {
    lab.world.set_slot(FORMER_TABLE - 1, TABLE_LEN)?;
    for index in 0..TABLE_LEN {
        lab.world.set_slot(FORMER_TABLE + index, u32::from(id))?;
    }
    lab.change_service(WEB, proto::TCP, |service| {
        service.former_offset = FORMER_TABLE;
    })
}

fn formerly(lab: &mut Lab) -> Result<()> {
    replace_table(lab, id::TWO)?;
    // One that drains serves what it has.
    for (port, state) in [(1, RealState::Up), (2, RealState::Draining)] {
        lab.change_real(id::TWO, |real| real.state = state as u8)?;
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        let data = from_client(client, WEB, flag::ACK);
        lab.becomes(&data, Reason::ForwardTransmit, &at_server(&data, TWO))?;
        let event = lab.announced(EventKind::Add, ConnState::Established)?;
        ensure!(event.real_addr == net(*TWO.ip()), "{event:?}");
        // The partner has no such table, perhaps.
        ensure!(event.flags & flags::BY_HASH == 0, "{event:?}");
    }
    // What makes no entry goes there, too; what begins does not.
    let other = SocketAddrV4::new(*CLIENT.ip(), 3);
    let end = from_client(other, WEB, flag::FIN | flag::ACK);
    lab.becomes(&end, Reason::ForwardTransmit, &at_server(&end, TWO))?;
    let syn = from_client(other, WEB, flag::SYN);
    lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
    lab.tallied(Tally::Reconstructed, 2)
}

fn formerly_dead(lab: &mut Lab) -> Result<()> {
    replace_table(lab, id::TWO)?;
    let data = from_client(CLIENT, WEB, flag::FIN);
    for state in [RealState::Down, RealState::Unused] {
        lab.change_real(id::TWO, |real| real.state = state as u8)?;
        lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    }
    // The number was given to a real server of another service.
    lab.change_real(id::TWO, |real| real.service = 3)?;
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    lab.change_real(id::TWO, |_| {})?;
    lab.becomes(&data, Reason::ForwardTransmit, &at_server(&data, TWO))?;
    // Another connection of this client's port goes there already.
    for index in 0..TABLE_LEN {
        lab.world
            .set_slot(TWIN_TABLE + index, u32::from(id::TWIN_TWO))?;
    }
    lab.connect(CLIENT, TWIN)?;
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))
}

fn formerly_the_same(lab: &mut Lab) -> Result<()> {
    replace_table(lab, id::ONE)?;
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    let event = lab.announced(EventKind::Add, ConnState::Established)?;
    ensure!(event.flags & flags::BY_HASH != 0, "{event:?}");
    // One of no length, and one beyond the last slot.
    let other = SocketAddrV4::new(*CLIENT.ip(), 3);
    let data = from_client(other, WEB, flag::FIN);
    replace_table(lab, id::TWO)?;
    lab.world.set_slot(FORMER_TABLE - 1, 0)?;
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    lab.change_service(WEB, proto::TCP, |service| service.former_offset = u32::MAX)?;
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))
}

fn endings(lab: &mut Lab) -> Result<()> {
    for flags in [
        flag::RST,
        flag::RST | flag::ACK,
        flag::FIN | flag::ACK,
        flag::FIN,
        flag::SYN | flag::ACK,
        flag::SYN | flag::RST,
        flag::SYN | flag::FIN,
        0,
        0xff,
    ] {
        let end = from_client(CLIENT, WEB, flags);
        lab.becomes(&end, Reason::ForwardRedirect, &at_server(&end, ONE))?;
    }
    for flags in [flag::RST, flag::FIN | flag::ACK, 0] {
        let end = from_server(ONE, CLIENT, flags);
        lab.becomes(&end, Reason::ReverseKernel, &end.clone().from(WEB))?;
    }
    ensure!(lab.world.conns()?.is_empty(), "an entry");
    ensure!(lab.world.events()?.is_empty(), "an event");
    ensure!(lab.embryo(CLIENT)?.is_none(), "a half-open connection");
    Ok(())
}

fn strict(lab: &mut Lab) -> Result<()> {
    for flags in [
        flag::ACK,
        flag::FIN | flag::ACK,
        flag::RST,
        flag::SYN | flag::ACK,
    ] {
        let frame = from_client(CLIENT, STRICT, flags);
        lab.untouched(&frame, Reason::UnknownConnection)?;
        let frame = from_server(THREE, CLIENT, flags);
        lab.untouched(&frame, Reason::UnknownConnection)?;
    }
    ensure!(
        lab.world.conns()?.is_empty() && lab.embryo(CLIENT)?.is_none(),
        "an entry"
    );
    // A handshake is not unknown.
    let syn = from_client(CLIENT, STRICT, flag::SYN);
    lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, THREE))?;
    let answer = from_server(THREE, CLIENT, flag::SYN | flag::ACK).numbers(5000, 1001);
    lab.becomes(
        &answer,
        Reason::ReverseTransmit,
        &at_client(&answer, STRICT),
    )?;
    let ack = from_client(CLIENT, STRICT, flag::ACK).numbers(1001, 5001);
    lab.becomes(&ack, Reason::ForwardRedirect, &at_server(&ack, THREE))?;
    lab.pair()?;
    Ok(())
}

fn server_first(lab: &mut Lab) -> Result<()> {
    let data = from_server(ONE, CLIENT, flag::ACK).payload(b"pushed");
    lab.becomes(&data, Reason::ReverseKernel, &data.clone().from(WEB))?;
    let event = lab.announced(EventKind::Add, ConnState::Established)?;
    ensure!(event.key == conn_key(CLIENT, WEB, proto::TCP), "{event:?}");
    ensure!(event.real_addr == net(*ONE.ip()), "{event:?}");
    let [(_, forward), (_, reverse)] = lab.pair()?;
    has_flags(&forward, flags::RECONSTRUCTED)?;
    has_flags(&reverse, flags::RECONSTRUCTED | flags::REVERSE)?;
    lab.tallied(Tally::Reconstructed, 1)?;
    // The client's next packet shows the way back.
    let ack = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&ack, Reason::ForwardRedirect, &at_server(&ack, ONE))?;
    lab.becomes(&data, Reason::ReverseTransmit, &at_client(&data, WEB))
}

fn datagram_first(lab: &mut Lab) -> Result<()> {
    let answer = Frame::udp(RESOLVER, CLIENT).payload(b"late answer");
    lab.becomes(&answer, Reason::ReverseKernel, &answer.clone().from(NAMES))?;
    lab.announced(EventKind::Add, ConnState::Established)?;
    lab.pair()?;
    lab.tallied(Tally::Reconstructed, 1)
}

fn answer_first(lab: &mut Lab) -> Result<()> {
    // The request went through the other node, to the real server that hashing would not choose.
    let answer = from_server(TWO, CLIENT, flag::SYN | flag::ACK).numbers(5000, 1001);
    lab.becomes(&answer, Reason::ReverseKernel, &answer.clone().from(WEB))?;
    let embryo = lab.embryo(CLIENT)?.context("half-open")?;
    ensure!(embryo.real == id::TWO && embryo.answered == 1, "{embryo:?}");
    let ack = from_client(CLIENT, WEB, flag::ACK).numbers(1001, 5001);
    lab.becomes(&ack, Reason::ForwardTransmit, &at_server(&ack, TWO))?;
    let [(_, forward), _] = lab.pair()?;
    has_flags(&forward, 0)?;
    lab.tallied(Tally::Established, 1)
}

fn ambiguous(lab: &mut Lab) -> Result<()> {
    lab.set_return(ONE, proto::TCP, WEB, id::ONE, true)?;
    for flags in [flag::ACK, flag::SYN | flag::ACK, flag::RST] {
        let frame = from_server(ONE, CLIENT, flags);
        lab.untouched(&frame, Reason::AmbiguousReturn)?;
    }
    ensure!(lab.world.conns()?.is_empty(), "an entry");
    Ok(())
}

fn resolved(lab: &mut Lab) -> Result<()> {
    lab.set_return(ONE, proto::TCP, WEB, id::ONE, true)?;
    lab.run(
        &from_client(CLIENT, TWIN, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    let answer = from_server(ONE, CLIENT, flag::SYN | flag::ACK).numbers(5000, 1001);
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, TWIN))
}

fn late(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let stray = from_server(TWO, CLIENT, flag::ACK);
    lab.untouched(&stray, Reason::UnknownConnection)?;
    lab.pair()?;
    // Unknown in general: the id of the return path was given to another.
    lab.change_real(id::TWO, |real| real.generation += 1)?;
    let other = from_server(TWO, "198.51.100.9:9".parse()?, flag::ACK);
    lab.untouched(&other, Reason::UnknownConnection)
}

fn health(lab: &mut Lab) -> Result<()> {
    let probe = SocketAddrV4::new(OWN, 50123);
    for flags in [
        flag::SYN | flag::ACK,
        flag::ACK,
        flag::RST | flag::ACK,
        flag::FIN | flag::ACK,
    ] {
        lab.untouched(&from_server(ONE, probe, flags), Reason::NotOurs)?;
    }
    lab.world.set_gate(0)?;
    lab.untouched(&from_server(ONE, probe, flag::ACK), Reason::NotOurs)
}
