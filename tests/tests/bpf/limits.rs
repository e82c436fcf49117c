//! Full tables and full rings.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use ha_common::reason::{Reason, Tally};
use ha_tests::packet::{Frame, flag};
use ha_tests::rig::bpf::Sizes;

use super::lab::{
    CLIENT, Case, Lab, NAMES, ONE, RESOLVER, TURN, TWO, UDP_TURN, USUAL, WEB, at_server, datagram,
    from_client, from_server,
};

pub(crate) const CASES: &[Case] = &[
    (
        "a_full_table_is_forwarded_by_hash",
        Sizes { conns: 2, ..USUAL },
        full,
    ),
    (
        "half_a_pair_is_taken_back",
        Sizes { conns: 3, ..USUAL },
        taken_back,
    ),
    ("a_nearly_full_table_takes_nothing_new", USUAL, nearly_full),
    (
        "lost_events_are_counted",
        Sizes {
            events: 4096,
            ..USUAL
        },
        lost_events,
    ),
    ("events_can_be_turned_off", USUAL, no_events),
    ("beyond_the_pace_the_hash_decides", USUAL, paced),
];

/// Opens a connection as far as it goes: its entries need not fit.
fn open(lab: &mut Lab, client: SocketAddrV4) -> Result<()> {
    let syn = from_client(client, WEB, flag::SYN);
    lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
    let answer = from_server(ONE, client, flag::SYN | flag::ACK).numbers(5000, 1001);
    lab.run(&answer, Reason::ReverseTransmit)?;
    let ack = from_client(client, WEB, flag::ACK).numbers(1001, 5001);
    lab.becomes(&ack, Reason::ForwardRedirect, &at_server(&ack, ONE))
}

fn full(lab: &mut Lab) -> Result<()> {
    open(lab, CLIENT)?;
    lab.pair()?;
    let other = SocketAddrV4::new(*CLIENT.ip(), 1);
    open(lab, other)?;
    lab.pair()?;
    lab.tallied(Tally::Stateless, 1)?;
    // It stays half-open, so its packets go on reaching the same real server.
    let data = from_client(other, WEB, flag::ACK)
        .numbers(1001, 5001)
        .payload(b"data");
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    lab.run(&from_server(ONE, other, flag::ACK), Reason::ReverseTransmit)?;
    lab.tallied(Tally::Stateless, 2)?;

    let third = SocketAddrV4::new(*CLIENT.ip(), 3);
    let stray = from_client(third, TURN, flag::ACK);
    lab.becomes(&stray, Reason::ForwardRedirect, &at_server(&stray, ONE))?;
    let question = datagram(third, NAMES);
    lab.becomes(
        &question,
        Reason::ForwardRedirect,
        &at_server(&question, RESOLVER),
    )?;
    lab.tallied(Tally::Stateless, 4)?;
    let answer = Frame::udp(RESOLVER, third);
    lab.becomes(&answer, Reason::ReverseKernel, &answer.clone().from(NAMES))?;
    lab.tallied(Tally::Stateless, 5)?;
    lab.pair()?;
    // By turns there is no telling without an entry, so the hash decides for every datagram.
    for _ in 0..4 {
        let question = datagram(third, UDP_TURN);
        lab.becomes(
            &question,
            Reason::ForwardRedirect,
            &at_server(&question, ONE),
        )?;
    }
    Ok(())
}

fn taken_back(lab: &mut Lab) -> Result<()> {
    open(lab, CLIENT)?;
    let other = SocketAddrV4::new(*CLIENT.ip(), 1);
    open(lab, other)?;
    lab.pair()?;
    lab.tallied(Tally::Stateless, 1)?;
    lab.tallied(Tally::Established, 1)
}

fn nearly_full(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.configure(|config| (config.table_full, config.table_full6) = (1, 1))?;
    // What is known goes on.
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
    let before = lab.world.tally(Tally::Stateless)?;
    let other = SocketAddrV4::new(*CLIENT.ip(), 1);
    for frame in [
        from_client(other, TURN, flag::SYN),
        from_client(other, TURN, flag::ACK),
    ] {
        lab.becomes(&frame, Reason::ForwardRedirect, &at_server(&frame, ONE))?;
    }
    let question = datagram(other, NAMES);
    lab.becomes(
        &question,
        Reason::ForwardRedirect,
        &at_server(&question, RESOLVER),
    )?;
    let data = from_server(TWO, other, flag::ACK);
    lab.becomes(&data, Reason::ReverseKernel, &data.clone().from(WEB))?;
    ensure!(lab.embryo(other)?.is_none(), "half-open");
    lab.pair()?;
    lab.tallied(Tally::Stateless, before + 4)?;
    // A handshake that began before keeps its real server.
    lab.configure(|config| (config.table_full, config.table_full6) = (0, 0))?;
    lab.run(&from_client(other, WEB, flag::SYN), Reason::ForwardRedirect)?;
    lab.configure(|config| (config.table_full, config.table_full6) = (1, 1))?;
    let answer = from_server(ONE, other, flag::SYN | flag::ACK).numbers(5000, 1001);
    lab.run(&answer, Reason::ReverseTransmit)?;
    let ack = from_client(other, WEB, flag::ACK).numbers(1001, 5001);
    lab.becomes(&ack, Reason::ForwardRedirect, &at_server(&ack, ONE))?;
    lab.pair()?;
    lab.tallied(Tally::Stateless, before + 5)
}

fn lost_events(lab: &mut Lab) -> Result<()> {
    let mut flows = 0u16;
    while lab.world.tally(Tally::EventLost)? == 0 {
        flows += 1;
        ensure!(flows < 125, "the ring never fills");
        let question = datagram(SocketAddrV4::new(*CLIENT.ip(), flows), NAMES);
        lab.run(&question, Reason::ForwardRedirect)?;
    }
    // The connection is there all the same.
    ensure!(
        lab.world.conns()?.len() == 2 * usize::from(flows),
        "an entry is missing"
    );
    ensure!(
        lab.world.events()?.len() == usize::from(flows) - 1,
        "an event is missing"
    );
    Ok(())
}

fn no_events(lab: &mut Lab) -> Result<()> {
    lab.configure(|config| config.emit_events = 0)?;
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    ensure!(lab.world.events()?.is_empty(), "an event");
    lab.tallied(Tally::EventLost, 0)
}

/// A flood of new flows makes no entries, and what is known is not touched.
fn paced(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.configure(|config| config.new_flows_max = 2)?;
    let client = |port| SocketAddrV4::new(*CLIENT.ip(), port);
    for port in 1..31 {
        let question = datagram(client(port), NAMES);
        let wanted = at_server(&question, RESOLVER);
        lab.becomes(&question, Reason::ForwardRedirect, &wanted)?;
        let syn = from_client(client(port), WEB, flag::SYN);
        lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
        let stray = from_client(client(100 + port), WEB, flag::ACK);
        lab.becomes(&stray, Reason::ForwardRedirect, &at_server(&stray, ONE))?;
    }
    // Two a second, and the second may have changed once or twice.
    let limited = lab.world.tally(Tally::FlowsLimited)?;
    ensure!((80..=88).contains(&limited), "{limited} limited");
    lab.tallied(Tally::Stateless, 0)?;
    let entries = lab.world.conns()?.len() as u64;
    ensure!(entries <= 2 + 2 * (90 - limited), "{entries} entries");
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))
}
