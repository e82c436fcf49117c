//! From a connection request to an entry, or not.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{ConnState, flags};
use ha_common::event::EventKind;
use ha_common::proto;
use ha_common::reason::{Reason, Tally};
use ha_common::service::RealState;
use ha_tests::clock::now_ns;
use ha_tests::packet::{Frame, flag};
use ha_tests::rig::bpf::INGRESS;

use super::lab::{
    CLIENT, CLIENT_MAC, Case, EMPTY, GENERATION, Lab, NAMES, NODE_MAC, ONE, RESOLVER, SECOND,
    TABLE_LEN, TURN, TWIN, TWO, UDP_TURN, USUAL, WEB, WEB_TABLE, at_client, at_server, conn_key,
    datagram, embryo_key, from_client, from_server, has_flags, id, net,
};

pub(crate) const CASES: &[Case] = &[
    ("a_handshake_makes_a_connection", USUAL, handshake),
    ("round_robin_takes_turns", USUAL, round_robin),
    ("a_repeated_request_keeps_its_real_server", USUAL, repeated),
    (
        "a_repeated_request_to_a_real_server_that_is_gone_moves",
        USUAL,
        moved,
    ),
    (
        "an_acknowledgement_of_nothing_makes_no_connection",
        USUAL,
        wrong_acknowledgement,
    ),
    (
        "a_handshake_may_be_completed_by_data_or_fin",
        USUAL,
        completed_by,
    ),
    (
        "a_refused_request_is_translated_and_forgotten",
        USUAL,
        refused,
    ),
    (
        "another_service_replaces_the_half_open_connection",
        USUAL,
        replaced,
    ),
    ("an_old_half_open_connection_is_not_believed", USUAL, stale),
    ("no_real_server_up", USUAL, nobody),
    ("a_port_clash_takes_the_next_real_server", USUAL, clash),
    ("a_clash_everywhere_is_dropped", USUAL, clash_everywhere),
    ("a_datagram_makes_a_connection", USUAL, datagrams),
    (
        "a_datagram_without_checksum_stays_without",
        USUAL,
        no_checksum,
    ),
    ("datagrams_take_turns_by_flow", USUAL, datagram_turns),
];

fn handshake(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, WEB, flag::SYN).payload(b"fast open");
    lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
    let embryo = lab.embryo(CLIENT)?.context("half-open")?;
    ensure!(
        embryo.real == id::ONE && embryo.real_generation == GENERATION,
        "{embryo:?}"
    );
    ensure!(
        embryo.vip == net(*WEB.ip()) && embryo.answered == 0,
        "{embryo:?}"
    );
    ensure!(
        lab.world.conns()?.is_empty() && lab.world.events()?.is_empty(),
        "too early"
    );

    let answer = from_server(ONE, CLIENT, flag::SYN | flag::ACK).numbers(u32::MAX, 1001);
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, WEB))?;
    let embryo = lab.embryo(CLIENT)?.context("half-open")?;
    ensure!(
        embryo.answered == 1 && embryo.server_isn == u32::MAX,
        "{embryo:?}"
    );

    let ack = from_client(CLIENT, WEB, flag::ACK).numbers(1001, 0);
    lab.becomes(&ack, Reason::ForwardRedirect, &at_server(&ack, ONE))?;
    ensure!(lab.embryo(CLIENT)?.is_none(), "still half-open");
    let [(key, forward), (reverse_key, reverse)] = lab.pair()?;
    ensure!(key == conn_key(CLIENT, WEB, proto::TCP), "{key:?}");
    ensure!(
        reverse_key == conn_key(ONE, CLIENT, proto::TCP),
        "{reverse_key:?}"
    );
    has_flags(&forward, flags::BY_HASH)?;
    has_flags(&reverse, flags::REVERSE)?;
    for conn in [forward, reverse] {
        ensure!(
            conn.real == id::ONE && conn.real_generation == GENERATION,
            "{conn:?}"
        );
        ensure!(
            conn.state == ConnState::Established as u8 && conn.service == 1,
            "{conn:?}"
        );
        ensure!(
            conn.hop_mac == CLIENT_MAC && conn.hop_src == NODE_MAC,
            "{conn:?}"
        );
        ensure!(conn.hop_ifindex == INGRESS && conn.version == 0, "{conn:?}");
        ensure!(now_ns() - conn.created_ns < 5 * SECOND, "{conn:?}");
    }
    let event = lab.announced(EventKind::Add, ConnState::Established)?;
    ensure!(
        event.key == key && event.real_addr == net(*ONE.ip()),
        "{event:?}"
    );
    ensure!(
        event.real_port == ONE.port().to_be() && event.real == id::ONE,
        "{event:?}"
    );
    lab.tallied(Tally::Established, 1)?;

    let data = from_client(CLIENT, WEB, flag::ACK | flag::PSH).payload(b"GET / HTTP/1.0\r\n\r\n");
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    let data = from_server(ONE, CLIENT, flag::ACK).payload(&[0xa5; 777]);
    lab.becomes(&data, Reason::ReverseTransmit, &at_client(&data, WEB))?;
    ensure!(lab.world.events()?.is_empty(), "data is no event");
    Ok(())
}

fn round_robin(lab: &mut Lab) -> Result<()> {
    let mut reasons = Vec::new();
    for port in 1..=6 {
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        let ran = lab.send(&from_client(client, TURN, flag::SYN))?;
        reasons.push(ran.reason);
    }
    take_turns(&reasons)
}

fn take_turns(reasons: &[Reason]) -> Result<()> {
    let one_then_two = [Reason::ForwardRedirect, Reason::ForwardTransmit].repeat(3);
    let two_then_one = [Reason::ForwardTransmit, Reason::ForwardRedirect].repeat(3);
    ensure!(
        reasons == one_then_two || reasons == two_then_one,
        "{reasons:?}"
    );
    Ok(())
}

fn repeated(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, TURN, flag::SYN);
    let first = lab.send(&syn)?;
    for _ in 0..5 {
        ensure!(lab.send(&syn)? == first, "the request moved");
    }
    // Also while the real server drains, and with the answer kept.
    let embryo = lab.embryo(CLIENT)?.context("half-open")?;
    let real = if embryo.real == id::ONE { ONE } else { TWO };
    let answer = from_server(real, CLIENT, flag::SYN | flag::ACK).numbers(5000, 1001);
    lab.run(&answer, Reason::ReverseTransmit)?;
    lab.change_real(embryo.real, |real| real.state = RealState::Draining as u8)?;
    ensure!(lab.send(&syn)? == first, "the request moved");
    ensure!(
        lab.embryo(CLIENT)?.context("half-open")?.answered == 1,
        "the answer was lost"
    );
    lab.tallied(Tally::EmbryoReplaced, 0)
}

fn moved(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, TURN, flag::SYN);
    lab.send(&syn)?;
    let embryo = lab.embryo(CLIENT)?.context("half-open")?;
    let (other, reason) = if embryo.real == id::ONE {
        (TWO, Reason::ForwardTransmit)
    } else {
        (ONE, Reason::ForwardRedirect)
    };
    lab.change_real(embryo.real, |real| real.state = RealState::Down as u8)?;
    lab.becomes(&syn, reason, &at_server(&syn, other))?;
    lab.tallied(Tally::EmbryoReplaced, 1)?;
    // An id that meanwhile stands for another real server is as good as gone.
    let embryo = lab.embryo(CLIENT)?.context("half-open")?;
    lab.change_real(embryo.real, |real| real.generation += 1)?;
    lab.becomes(&syn, reason, &at_server(&syn, other))?;
    lab.tallied(Tally::EmbryoReplaced, 2)
}

fn wrong_acknowledgement(lab: &mut Lab) -> Result<()> {
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    let ack = |number| from_client(CLIENT, WEB, flag::ACK).numbers(1001, number);
    // Before the real server has answered, no number is right.
    lab.becomes(&ack(1), Reason::ForwardRedirect, &at_server(&ack(1), ONE))?;
    let answer = from_server(ONE, CLIENT, flag::SYN | flag::ACK).numbers(7000, 1001);
    lab.run(&answer, Reason::ReverseTransmit)?;
    for number in [0, 7000, 7001 + (1 << 16), 7001u32.wrapping_add(1 << 31)] {
        lab.becomes(
            &ack(number),
            Reason::ForwardRedirect,
            &at_server(&ack(number), ONE),
        )?;
        ensure!(lab.world.conns()?.is_empty(), "{number} made a connection");
    }
    for flags in [
        flag::RST | flag::ACK,
        flag::SYN | flag::ACK,
        flag::FIN,
        flag::RST,
        0,
    ] {
        let odd = from_client(CLIENT, WEB, flags).numbers(1001, 7001);
        lab.becomes(&odd, Reason::ForwardRedirect, &at_server(&odd, ONE))?;
        ensure!(
            lab.world.conns()?.is_empty(),
            "flags {flags:#x} made a connection"
        );
    }
    lab.run(&ack(7001), Reason::ForwardRedirect)?;
    lab.pair()?;
    Ok(())
}

fn completed_by(lab: &mut Lab) -> Result<()> {
    for (port, flags, number, state) in [
        (1, flag::ACK | flag::PSH, 5001, ConnState::Established),
        (2, flag::ACK, 5001 + 65535, ConnState::Established),
        (3, flag::ACK | flag::FIN, 5001, ConnState::ClientClosing),
    ] {
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        lab.run(
            &from_client(client, WEB, flag::SYN),
            Reason::ForwardRedirect,
        )?;
        let answer = from_server(ONE, client, flag::SYN | flag::ACK).numbers(5000, 1001);
        lab.run(&answer, Reason::ReverseTransmit)?;
        let first = from_client(client, WEB, flags)
            .numbers(1001, number)
            .payload(b"hello");
        lab.becomes(&first, Reason::ForwardRedirect, &at_server(&first, ONE))?;
        lab.announced(EventKind::Add, state)?;
    }
    lab.tallied(Tally::Established, 3)
}

fn refused(lab: &mut Lab) -> Result<()> {
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    let reset = from_server(ONE, CLIENT, flag::RST | flag::ACK).numbers(0, 1001);
    lab.becomes(&reset, Reason::ReverseTransmit, &at_client(&reset, WEB))?;
    ensure!(
        lab.embryo(CLIENT)?.is_none() && lab.world.conns()?.is_empty(),
        "not forgotten"
    );
    Ok(())
}

fn replaced(lab: &mut Lab) -> Result<()> {
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    lab.run(
        &from_client(CLIENT, TWIN, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    lab.tallied(Tally::EmbryoReplaced, 1)?;
    let embryo = lab.embryo(CLIENT)?.context("half-open")?;
    ensure!(
        embryo.vip == net(*TWIN.ip()) && embryo.real == id::TWIN_ONE,
        "{embryo:?}"
    );
    let answer = from_server(ONE, CLIENT, flag::SYN | flag::ACK);
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, TWIN))
}

fn stale(lab: &mut Lab) -> Result<()> {
    lab.send(&from_client(CLIENT, TURN, flag::SYN))?;
    let mut embryo = lab.embryo(CLIENT)?.context("half-open")?;
    embryo.answered = 1;
    embryo.server_isn = 5000;
    embryo.last_seen_ns -= 65 * SECOND;
    lab.world.set_embryo(embryo_key(CLIENT), embryo)?;
    // Not a completed handshake any more, but a packet of an unknown connection.
    let ack = from_client(CLIENT, TURN, flag::ACK).numbers(1001, 5001);
    lab.run(&ack, Reason::ForwardRedirect)?;
    lab.tallied(Tally::Established, 0)?;
    lab.tallied(Tally::Reconstructed, 1)
}

fn nobody(lab: &mut Lab) -> Result<()> {
    let empty = from_client(CLIENT, EMPTY, flag::SYN);
    lab.untouched(&empty, Reason::NoRealServer)?;
    lab.untouched(&from_client(CLIENT, EMPTY, flag::ACK), Reason::NoRealServer)?;
    for state in [RealState::Down, RealState::Draining, RealState::Unused] {
        lab.change_real(id::ONE, |real| real.state = state as u8)?;
        let syn = from_client(CLIENT, WEB, flag::SYN);
        lab.untouched(&syn, Reason::NoRealServer)?;
    }
    ensure!(lab.embryo(CLIENT)?.is_none(), "half-open to nobody");
    Ok(())
}

/// Lets the second half of the slots of [`WEB`] and [`TWIN`] lead to the other real server.
fn mix(lab: &mut Lab) -> Result<()> {
    for index in (0..TABLE_LEN).step_by(2) {
        lab.world.set_slot(WEB_TABLE + index, u32::from(id::TWO))?;
    }
    Ok(())
}

fn clash(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, TWIN)?;
    mix(lab)?;
    // Whatever the hash says, one of two neighbouring slots is the free real server.
    let syn = from_client(CLIENT, WEB, flag::SYN);
    lab.becomes(&syn, Reason::ForwardTransmit, &at_server(&syn, TWO))?;
    let answer = from_server(TWO, CLIENT, flag::SYN | flag::ACK).numbers(5000, 1001);
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, WEB))?;
    let ack = from_client(CLIENT, WEB, flag::ACK).numbers(1001, 5001);
    lab.becomes(&ack, Reason::ForwardTransmit, &at_server(&ack, TWO))?;
    ensure!(lab.world.conns()?.len() == 4, "two connections");
    // The other connection still works.
    let data = from_server(ONE, CLIENT, flag::ACK).payload(b"twin");
    lab.becomes(&data, Reason::ReverseTransmit, &at_client(&data, TWIN))
}

fn clash_everywhere(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, TWIN)?;
    lab.untouched(&from_client(CLIENT, WEB, flag::SYN), Reason::PortClash)?;
    lab.untouched(&from_client(CLIENT, WEB, flag::ACK), Reason::PortClash)?;
    ensure!(lab.world.conns()?.len() == 2, "the clash made an entry");
    // A clash that arose after the request.
    let other = SocketAddrV4::new(*CLIENT.ip(), 41000);
    lab.run(&from_client(other, WEB, flag::SYN), Reason::ForwardRedirect)?;
    let mut embryo = lab.embryo(other)?.context("half-open")?;
    embryo.answered = 1;
    embryo.server_isn = 5000;
    lab.connect(other, TWIN)?;
    lab.world.set_embryo(embryo_key(other), embryo)?;
    let ack = from_client(other, WEB, flag::ACK).numbers(1001, 5001);
    lab.untouched(&ack, Reason::PortClash)
}

fn datagrams(lab: &mut Lab) -> Result<()> {
    let question = datagram(CLIENT, NAMES);
    lab.becomes(
        &question,
        Reason::ForwardRedirect,
        &at_server(&question, RESOLVER),
    )?;
    let event = lab.announced(EventKind::Add, ConnState::Established)?;
    ensure!(
        event.key == conn_key(CLIENT, NAMES, proto::UDP),
        "{event:?}"
    );
    let [(_, forward), _] = lab.pair()?;
    has_flags(&forward, flags::BY_HASH)?;
    lab.tallied(Tally::Established, 1)?;
    lab.becomes(
        &question,
        Reason::ForwardRedirect,
        &at_server(&question, RESOLVER),
    )?;
    let answer = Frame::udp(RESOLVER, CLIENT).payload(b"answer");
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, NAMES))?;
    ensure!(lab.world.events()?.is_empty(), "one event");
    // A sum that comes out as zero is written as all ones: some two bytes of payload make it so.
    let mut zeros = 0;
    for last in 0..=u16::MAX {
        let frame = Frame::udp(RESOLVER, CLIENT).payload(&last.to_be_bytes());
        let wanted = at_client(&frame, NAMES);
        let sum = wanted.l3() + lab.family().header() + 6;
        if lab.bytes(&wanted)[sum..sum + 2] == [0xff, 0xff] {
            zeros += 1;
            lab.becomes(&frame, Reason::ReverseTransmit, &wanted)?;
        }
    }
    ensure!(zeros > 0, "no payload gives a sum of zero");
    Ok(())
}

fn no_checksum(lab: &mut Lab) -> Result<()> {
    let question = datagram(CLIENT, NAMES).without_checksum();
    lab.becomes(
        &question,
        Reason::ForwardRedirect,
        &at_server(&question, RESOLVER),
    )?;
    let answer = Frame::udp(RESOLVER, CLIENT).without_checksum();
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, NAMES))
}

fn datagram_turns(lab: &mut Lab) -> Result<()> {
    let mut seen = Vec::new();
    for port in 1..=6 {
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        let first = lab.send(&datagram(client, UDP_TURN))?;
        ensure!(
            lab.send(&datagram(client, UDP_TURN))? == first,
            "a flow moved"
        );
        seen.push(first.reason);
    }
    take_turns(&seen)
}
