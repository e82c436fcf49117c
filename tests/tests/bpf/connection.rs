//! The life of an established connection.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{ConnState, flags};
use ha_common::event::EventKind;
use ha_common::proto;
use ha_common::reason::{Reason, Tally};
use ha_common::service::{Address as _, RealState};
use ha_tests::clock::now_ns;
use ha_tests::packet::flag;
use ha_tests::rig::bpf::INGRESS;

use super::lab::{
    BACK, CLIENT, CLIENT_MAC, Case, Lab, NODE_BACK_MAC, NODE_MAC, ONE, ONE_MAC, SECOND, TURN, TWO,
    USUAL, WEB, at_client, at_server, conn_key, from_client, from_server, id,
};

pub(crate) const CASES: &[Case] = &[
    ("both_fins_end_in_time_wait", USUAL, fins),
    ("the_server_may_close_first", USUAL, server_first),
    ("a_reset_of_either_side_closes", USUAL, resets),
    (
        "a_request_within_a_connection_goes_to_its_real_server",
        USUAL,
        request_within,
    ),
    ("a_request_after_the_end_starts_anew", USUAL, request_after),
    ("a_request_leaves_a_dead_real_server", USUAL, request_dead),
    (
        "a_real_server_that_is_down_keeps_its_connections",
        USUAL,
        down,
    ),
    (
        "a_draining_real_server_keeps_its_connections",
        USUAL,
        draining,
    ),
    ("an_id_given_to_another_is_unknown", USUAL, reused_id),
    ("the_way_back_follows_the_client", USUAL, way_back),
    ("without_a_known_hop_the_kernel_forwards", USUAL, kernel),
    ("the_stamp_moves_once_a_second", USUAL, stamp),
    ("half_a_pair_is_made_whole", USUAL, half),
];

fn state(lab: &mut Lab, wanted: ConnState, version: u16) -> Result<()> {
    let event = lab.announced(EventKind::State, wanted)?;
    ensure!(event.key == conn_key(CLIENT, WEB, proto::TCP), "{event:?}");
    ensure!(event.version == version, "{event:?}");
    ensure!(lab.state()? == (wanted, version), "{:?}", lab.state()?);
    Ok(())
}

fn fins(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let client_fin = from_client(CLIENT, WEB, flag::FIN | flag::ACK);
    let server_fin = from_server(ONE, CLIENT, flag::FIN | flag::ACK);
    lab.becomes(
        &client_fin,
        Reason::ForwardRedirect,
        &at_server(&client_fin, ONE),
    )?;
    state(lab, ConnState::ClientClosing, 1)?;
    // Repeated, it changes nothing more.
    lab.run(&client_fin, Reason::ForwardRedirect)?;
    ensure!(lab.world.events()?.is_empty(), "a repeated FIN");
    lab.becomes(
        &server_fin,
        Reason::ReverseTransmit,
        &at_client(&server_fin, WEB),
    )?;
    state(lab, ConnState::TimeWait, 2)?;
    lab.run(&server_fin, Reason::ReverseTransmit)?;
    lab.run(
        &from_client(CLIENT, WEB, flag::ACK),
        Reason::ForwardRedirect,
    )?;
    ensure!(lab.world.events()?.is_empty(), "after the end");
    Ok(())
}

fn server_first(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let fin = from_server(ONE, CLIENT, flag::FIN | flag::ACK);
    lab.run(&fin, Reason::ReverseTransmit)?;
    state(lab, ConnState::ServerClosing, 1)?;
    let fin = from_client(CLIENT, WEB, flag::FIN | flag::ACK);
    lab.run(&fin, Reason::ForwardRedirect)?;
    state(lab, ConnState::TimeWait, 2)
}

fn resets(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let reset = from_client(CLIENT, WEB, flag::RST);
    lab.becomes(&reset, Reason::ForwardRedirect, &at_server(&reset, ONE))?;
    state(lab, ConnState::Closed, 1)?;
    lab.connect(CLIENT, WEB)?;
    let reset = from_server(ONE, CLIENT, flag::RST | flag::ACK);
    lab.becomes(&reset, Reason::ReverseTransmit, &at_client(&reset, WEB))?;
    state(lab, ConnState::Closed, 1)
}

fn request_within(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let syn = from_client(CLIENT, WEB, flag::SYN).numbers(99, 0);
    lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
    ensure!(lab.embryo(CLIENT)?.is_none(), "half-open");
    let challenge = from_server(ONE, CLIENT, flag::ACK);
    lab.becomes(
        &challenge,
        Reason::ReverseTransmit,
        &at_client(&challenge, WEB),
    )
}

fn request_after(lab: &mut Lab) -> Result<()> {
    for last in [flag::FIN | flag::ACK, flag::RST] {
        lab.connect(CLIENT, WEB)?;
        lab.run(&from_client(CLIENT, WEB, last), Reason::ForwardRedirect)?;
        lab.world.events()?;
        let syn = from_client(CLIENT, WEB, flag::SYN);
        lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
        lab.embryo(CLIENT)?.context("half-open")?;
        ensure!(lab.world.conns()?.is_empty(), "the old connection");
        let event = lab.event()?;
        ensure!(event.kind == EventKind::Delete as u8, "{event:?}");
        ensure!(event.key == conn_key(CLIENT, WEB, proto::TCP), "{event:?}");
    }
    Ok(())
}

fn request_dead(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, TURN)?;
    let [(_, forward), _] = lab.pair()?;
    lab.change_real(forward.real, |real| real.state = RealState::Down as u8)?;
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

/// What its health check missed may still answer.
fn down(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.state = RealState::Down as u8)?;
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    let answer = from_server(ONE, CLIENT, flag::ACK);
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, WEB))?;
    lab.pair()?;
    // Half-open, and without an entry.
    lab.change_real(id::ONE, |_| {})?;
    let other = "198.51.100.7:40001".parse()?;
    let syn = from_client(other, WEB, flag::SYN);
    lab.run(&syn, Reason::ForwardRedirect)?;
    lab.change_real(id::ONE, |real| real.state = RealState::Down as u8)?;
    lab.untouched(&from_client(other, WEB, flag::ACK), Reason::RealServerDown)?;
    let stray = from_server(ONE, "198.51.100.7:40002".parse()?, flag::ACK);
    lab.untouched(&stray, Reason::RealServerDown)
}

fn draining(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.state = RealState::Draining as u8)?;
    let data = from_client(CLIENT, WEB, flag::ACK).payload(b"more");
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    let data = from_server(ONE, CLIENT, flag::ACK).payload(b"more");
    lab.becomes(&data, Reason::ReverseTransmit, &at_client(&data, WEB))
}

fn reused_id(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| {
        real.generation += 1;
        real.addr = super::lab::net(*TWO.ip()).wide();
    })?;
    // The id now is another real server, and the Maglev table says so too.
    let data = from_client(CLIENT, WEB, flag::ACK);
    let moved = at_server(&data, SocketAddrV4::new(*TWO.ip(), ONE.port()));
    lab.becomes(
        &data,
        Reason::ForwardRedirect,
        &moved.macs(NODE_BACK_MAC, ONE_MAC),
    )?;
    let kinds: Vec<u8> = lab.world.events()?.iter().map(|event| event.kind).collect();
    ensure!(
        kinds == [EventKind::Delete as u8, EventKind::Add as u8],
        "{kinds:?}"
    );
    lab.pair()?;
    lab.tallied(Tally::Reconstructed, 1)?;
    // Packets of the old one can no longer be attributed.
    let late = from_server(ONE, CLIENT, flag::ACK);
    lab.untouched(&late, Reason::UnknownConnection)
}

fn way_back(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let router = [0x02, 0xc1, 0, 0, 0, 0x99];
    let twin = [0x02, 0x1b, 0, 0, 0, 0x55];
    let data = from_client(CLIENT, WEB, flag::ACK).macs(router, twin);
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    let answer = from_server(ONE, CLIENT, flag::ACK);
    let wanted = at_client(&answer, WEB).macs(twin, router);
    lab.becomes(&answer, Reason::ReverseTransmit, &wanted)?;
    let [(_, forward), (_, reverse)] = lab.pair()?;
    ensure!(
        forward.hop_mac == router && reverse.hop_mac == router,
        "{forward:?}"
    );
    // Another interface.
    let [_, (key, mut other)] = lab.pair()?;
    other.hop_ifindex = BACK;
    lab.world.set_conn(key, other)?;
    lab.becomes(&answer, Reason::ReverseRedirect, &wanted)?;
    other.hop_ifindex = INGRESS;
    lab.world.set_conn(key, other)?;
    // A group address is nobody's way back.
    for (source, destination) in [([0xff; 6], NODE_MAC), (CLIENT_MAC, [1, 0, 0x5e, 0, 0, 1])] {
        let data = from_client(CLIENT, WEB, flag::ACK).macs(source, destination);
        lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
        lab.becomes(&answer, Reason::ReverseTransmit, &wanted)?;
    }
    Ok(())
}

fn kernel(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.hop_known = 0)?;
    // The kernel decrements the time to live itself, and needs the frame to be addressed to it.
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&data, Reason::ForwardKernel, &data.clone().to(ONE))?;
    let syn = from_client("198.51.100.8:1".parse()?, WEB, flag::SYN);
    lab.becomes(&syn, Reason::ForwardKernel, &syn.clone().to(ONE))?;

    let [_, (key, mut reverse)] = lab.pair()?;
    reverse.flags &= !flags::HOP_KNOWN;
    lab.world.set_conn(key, reverse)?;
    let answer = from_server(ONE, CLIENT, flag::ACK);
    lab.becomes(&answer, Reason::ReverseKernel, &answer.clone().from(WEB))
}

fn stamp(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let [(key, mut forward), (reverse_key, mut reverse)] = lab.pair()?;
    let seen = (forward.last_seen_ns, reverse.last_seen_ns);
    let data = from_client(CLIENT, WEB, flag::ACK);
    let answer = from_server(ONE, CLIENT, flag::ACK);
    lab.run(&data, Reason::ForwardRedirect)?;
    let [(_, after), _] = lab.pair()?;
    ensure!(
        after.last_seen_ns == seen.0 || now_ns() - seen.0 >= SECOND,
        "a dirty line"
    );
    forward.last_seen_ns -= 2 * SECOND;
    reverse.last_seen_ns -= 2 * SECOND;
    lab.world.set_conn(key, forward)?;
    lab.world.set_conn(reverse_key, reverse)?;
    lab.run(&data, Reason::ForwardRedirect)?;
    let [(_, after), (_, other)] = lab.pair()?;
    ensure!(after.last_seen_ns >= seen.0, "the stamp did not move");
    ensure!(
        other.last_seen_ns < seen.1,
        "the other direction did not move"
    );
    lab.run(&answer, Reason::ReverseTransmit)?;
    let [_, (_, after)] = lab.pair()?;
    ensure!(after.last_seen_ns >= seen.1, "the stamp did not move");
    Ok(())
}

fn half(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let [(key, _), (reverse_key, _)] = lab.pair()?;
    lab.world.remove_conn(key)?;
    lab.run(
        &from_client(CLIENT, WEB, flag::ACK),
        Reason::ForwardRedirect,
    )?;
    lab.pair()?;
    lab.world.remove_conn(reverse_key)?;
    // The way back is not known to a rebuilt reverse entry; here the kernel knows none either.
    let answer = from_server(ONE, CLIENT, flag::ACK);
    lab.becomes(&answer, Reason::ReverseKernel, &answer.clone().from(WEB))?;
    lab.pair()?;
    // A state change finds no forward entry: the packet goes its way all the same.
    lab.world.remove_conn(key)?;
    let fin = from_server(ONE, CLIENT, flag::FIN | flag::ACK);
    lab.becomes(&fin, Reason::ReverseKernel, &fin.clone().from(WEB))?;
    Ok(())
}
