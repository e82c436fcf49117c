//! What stands in for clients.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{ConnKey4, ConnState, flags};
use ha_common::event::EventKind;
use ha_common::proto;
use ha_common::reason::{Reason, Tally};
use ha_tests::packet::{Frame, flag};
use ha_tests::rig::bpf::Sizes;

use super::lab::{
    CLIENT, Case, Lab, NAMES, ONE, RESOLVER, SECOND, STAND_IN, TIMEOUTS, USUAL, WEB, conn_key,
    datagram, embryo_key, from_client, from_server, net,
};

pub(crate) const CASES: &[Case] = &[
    ("the_nodes_take_ports_of_different_parity", USUAL, parity),
    ("a_port_that_is_taken_is_passed_over", USUAL, taken),
    ("entries_name_both_clients", USUAL, entries),
    ("an_unknown_connection_cannot_be_rebuilt", USUAL, unknown),
    ("answers_to_nobody_are_the_kernels", USUAL, nobody),
    ("a_refusal_is_forgotten_under_both_names", USUAL, refused),
    ("a_request_that_is_repeated_keeps_its_port", USUAL, repeated),
    ("without_an_entry_nothing_is_sent", USUAL, nearly_full),
    (
        "a_full_table_sends_no_datagram",
        Sizes { conns: 2, ..USUAL },
        full,
    ),
    ("beyond_the_pace_nothing_is_sent", USUAL, paced),
];

fn client(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(*CLIENT.ip(), port)
}

fn parity(lab: &mut Lab) -> Result<()> {
    for bit in [0, 1] {
        lab.configure(|config| config.node_bit = bit)?;
        let mut ports = BTreeSet::new();
        for port in 1..51 {
            let client = client(1000 * (bit as u16 + 1) + port);
            lab.run(
                &from_client(client, WEB, flag::SYN),
                Reason::ForwardRedirect,
            )?;
            lab.run(&datagram(client, NAMES), Reason::ForwardRedirect)?;
            let key = conn_key(client, NAMES, proto::UDP);
            let conns = lab.world.conns()?;
            let (_, conn) = conns
                .iter()
                .find(|(found, _)| *found == key)
                .context("entry")?;
            let embryo = lab.embryo(client)?.context("half-open")?;
            for port in [embryo.from_port, conn.from_port].map(u16::from_be) {
                ensure!(u32::from(port & 1) == bit && port >= 1024, "port {port}");
                ports.insert(port);
            }
        }
        ensure!(ports.len() > 90, "only {} ports", ports.len());
    }
    Ok(())
}

/// Ages the half-open connection of a client, and that of what stands in for it.
fn forget(lab: &mut Lab, client: SocketAddrV4) -> Result<u16> {
    let mut embryo = lab.embryo(client)?.context("half-open")?;
    let port = embryo.from_port;
    let stand_in = SocketAddrV4::new(*STAND_IN.ip(), u16::from_be(port));
    embryo.last_seen_ns -= 65 * SECOND;
    for name in [client, stand_in] {
        lab.world.set_embryo(embryo_key(name), embryo)?;
    }
    Ok(port)
}

fn taken(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, WEB, flag::SYN);
    // Once more than ports are tried, but the last time none is left.
    let mut ports = BTreeSet::new();
    for _ in 0..8 {
        lab.run(&syn, Reason::ForwardRedirect)?;
        let port = forget(lab, CLIENT)?;
        ensure!(ports.insert(port), "{port} twice");
        // Now it is another's.
        let key = ConnKey4 {
            src: net(*ONE.ip()),
            dst: net(*STAND_IN.ip()),
            sport: ONE.port().to_be(),
            dport: port,
            proto: u32::from(proto::TCP),
        };
        lab.world.set_conn(key, ha_common::conn::Conn4::default())?;
    }
    lab.untouched(&syn, Reason::PortClash)?;
    // Another client tries others.
    lab.run(
        &from_client(client(1), WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    // One that is waited for is taken as well: the same client once more, with its name kept.
    let lab = &mut lab.anew()?;
    lab.run(&syn, Reason::ForwardRedirect)?;
    let mut embryo = lab.embryo(CLIENT)?.context("half-open")?;
    let waiting = embryo.from_port;
    embryo.last_seen_ns -= 65 * SECOND;
    lab.world.set_embryo(embryo_key(CLIENT), embryo)?;
    lab.run(&syn, Reason::ForwardRedirect)?;
    let other = lab.embryo(CLIENT)?.context("half-open")?.from_port;
    ensure!(other != waiting, "{waiting} twice");
    Ok(())
}

fn entries(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let [(key, forward), (reverse_key, reverse)] = lab.pair()?;
    let stand_in = lab.seen_by_server(CLIENT, WEB)?;
    ensure!(key == conn_key(CLIENT, WEB, proto::TCP), "{key:?}");
    let wanted = conn_key(ONE, stand_in, proto::TCP);
    ensure!(reverse_key == wanted, "{reverse_key:?}");
    ensure!(forward.flags & flags::BOTH_ENDS != 0, "{forward:?}");
    ensure!(forward.from_addr == net(*STAND_IN.ip()), "{forward:?}");
    ensure!(reverse.from_addr == net(*CLIENT.ip()), "{reverse:?}");
    ensure!(reverse.from_port == CLIENT.port().to_be(), "{reverse:?}");
    for name in [CLIENT, stand_in] {
        ensure!(lab.embryo(name)?.is_none(), "{name} is half-open");
    }
    // Both directions, and the janitor, find the other half.
    let fin = lab.answer(ONE, CLIENT, flag::FIN | flag::ACK)?;
    lab.returns(&fin, WEB, CLIENT)?;
    let event = lab.announced(EventKind::State, ConnState::ServerClosing)?;
    ensure!(event.from_port == stand_in.port().to_be(), "{event:?}");
    for (key, mut conn) in lab.pair()? {
        conn.last_seen_ns -= TIMEOUTS.closing_ns + SECOND;
        lab.world.set_conn(key, conn)?;
    }
    ensure!(lab.world.janitor(&[reverse_key])? == 1, "not deleted");
    ensure!(lab.world.conns()?.is_empty(), "an entry is left");
    Ok(())
}

fn unknown(lab: &mut Lab) -> Result<()> {
    for flags in [
        flag::ACK,
        flag::ACK | flag::PSH,
        flag::FIN | flag::ACK,
        flag::RST,
    ] {
        let data = from_client(CLIENT, WEB, flags).payload(b"on and on");
        lab.untouched(&data, Reason::UnknownConnection)?;
    }
    ensure!(lab.world.conns()?.is_empty(), "an entry");
    Ok(())
}

fn nobody(lab: &mut Lab) -> Result<()> {
    let stand_in = SocketAddrV4::new(*STAND_IN.ip(), 4000);
    for flags in [flag::SYN | flag::ACK, flag::ACK, flag::RST] {
        let answer = from_server(ONE, stand_in, flags);
        lab.untouched(&answer, Reason::SharedAddressLocal)?;
    }
    lab.untouched(&Frame::udp(RESOLVER, stand_in), Reason::SharedAddressLocal)?;
    // From another than the one that was asked.
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    let stranger = SocketAddrV4::new(*ONE.ip(), 9);
    let answer = lab.answer(stranger, CLIENT, flag::SYN | flag::ACK)?;
    lab.untouched(&answer, Reason::SharedAddressLocal)
}

fn refused(lab: &mut Lab) -> Result<()> {
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    let stand_in = lab.seen_by_server(CLIENT, WEB)?;
    let reset = from_server(ONE, stand_in, flag::RST | flag::ACK).numbers(0, 1001);
    lab.returns(&reset, WEB, CLIENT)?;
    for name in [CLIENT, stand_in] {
        ensure!(lab.embryo(name)?.is_none(), "{name} is half-open");
    }
    Ok(())
}

fn repeated(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, WEB, flag::SYN);
    lab.forwards(&syn, Reason::ForwardRedirect, ONE)?;
    let stand_in = lab.seen_by_server(CLIENT, WEB)?;
    lab.forwards(&syn, Reason::ForwardRedirect, ONE)?;
    ensure!(
        lab.seen_by_server(CLIENT, WEB)? == stand_in,
        "the port moved"
    );
    // Sent before the answer came.
    let early = from_client(CLIENT, WEB, flag::ACK).numbers(1001, 1);
    lab.forwards(&early, Reason::ForwardRedirect, ONE)?;
    ensure!(lab.world.conns()?.is_empty(), "an entry");
    Ok(())
}

fn nearly_full(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.configure(|config| (config.table_full, config.table_full6) = (1, 1))?;
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.forwards(&data, Reason::ForwardRedirect, ONE)?;
    lab.untouched(&from_client(client(1), WEB, flag::SYN), Reason::TableFull)?;
    lab.untouched(&datagram(client(1), NAMES), Reason::TableFull)
}

fn full(lab: &mut Lab) -> Result<()> {
    lab.run(&datagram(client(1), NAMES), Reason::ForwardRedirect)?;
    lab.untouched(&datagram(client(2), NAMES), Reason::TableFull)?;
    lab.forwards(
        &datagram(client(1), NAMES),
        Reason::ForwardRedirect,
        RESOLVER,
    )?;
    lab.pair()?;
    Ok(())
}

fn paced(lab: &mut Lab) -> Result<()> {
    lab.configure(|config| config.new_flows_max = 1)?;
    let mut reasons = Vec::new();
    for port in 1..21 {
        reasons.push(lab.send(&from_client(client(port), WEB, flag::SYN))?.reason);
    }
    // A second may begin in between.
    let refused = reasons
        .iter()
        .filter(|reason| **reason == Reason::TableFull)
        .count();
    ensure!((17..20).contains(&refused), "{reasons:?}");
    let limited = lab.world.tally(Tally::FlowsLimited)?;
    ensure!(limited == refused as u64, "{limited} counted");
    Ok(())
}
