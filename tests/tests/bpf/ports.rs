//! Services and real servers of every port.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use ha_common::conn::{ConnState, flags};
use ha_common::event::EventKind;
use ha_common::proto;
use ha_common::reason::Reason;
use ha_tests::packet::{Frame, flag};

use super::lab::{
    CLIENT, Case, Lab, ONE, OTHER_VIP, TWIN, USUAL, VIP, WEB, at_client, at_server, conn_key,
    datagram, from_client, from_server, id,
};
use super::names::{service, service_key};

pub(crate) const CASES: &[Case] = &[
    (
        "a_service_of_every_port_takes_what_no_other_has",
        USUAL,
        every_port,
    ),
    (
        "a_real_server_of_every_port_is_reached_at_the_same",
        USUAL,
        same_port,
    ),
    (
        "a_real_server_of_every_port_may_speak_first",
        USUAL,
        speaks_first,
    ),
    ("the_protocols_are_apart", USUAL, protocols),
];

/// Lets the other shared address be a service of every port, whose real server is [`ONE`].
fn widen(lab: &mut Lab) -> Result<()> {
    let twin = service(TWIN)?;
    let every = SocketAddrV4::new(OTHER_VIP, 0);
    for protocol in [proto::TCP, proto::UDP] {
        lab.world.set_service(service_key(every, protocol), twin)?;
    }
    Ok(())
}

/// And be reached at the port that the client says.
fn keep_port(lab: &mut Lab) -> Result<()> {
    widen(lab)?;
    lab.change_real(id::TWIN_ONE, |real| real.port = 0)
}

fn every_port(lab: &mut Lab) -> Result<()> {
    widen(lab)?;
    for port in [1, 79, 81, 443, 8080, 65535] {
        let to = SocketAddrV4::new(OTHER_VIP, port);
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        let syn = from_client(client, to, flag::SYN);
        lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
        let answer = from_server(ONE, client, flag::SYN | flag::ACK);
        let wanted = at_client(&answer, to);
        lab.becomes(&answer, Reason::ReverseTransmit, &wanted)?;
        let question = datagram(client, to);
        lab.becomes(
            &question,
            Reason::ForwardRedirect,
            &at_server(&question, ONE),
        )?;
    }
    // A service of the port itself comes first; no other address is meant.
    lab.change_service(TWIN, proto::TCP, |service| service.table_len = 0)?;
    lab.untouched(&from_client(CLIENT, TWIN, flag::SYN), Reason::NoRealServer)?;
    let other = SocketAddrV4::new(VIP, 4711);
    lab.untouched(
        &from_client(CLIENT, other, flag::SYN),
        Reason::SharedAddressLocal,
    )
}

fn same_port(lab: &mut Lab) -> Result<()> {
    keep_port(lab)?;
    for port in [21, 8443] {
        let to = SocketAddrV4::new(OTHER_VIP, port);
        let there = SocketAddrV4::new(*ONE.ip(), port);
        let question = datagram(CLIENT, to);
        lab.becomes(
            &question,
            Reason::ForwardRedirect,
            &at_server(&question, there),
        )?;
        let answer = Frame::udp(there, CLIENT).payload(b"answer");
        lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, to))?;
        let data = from_client(CLIENT, to, flag::ACK).payload(b"data");
        lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, there))?;
    }
    // Several connections of one client port to one real server are no clash.
    ensure!(lab.world.conns()?.len() == 8, "{:?}", lab.world.conns()?);
    Ok(())
}

fn speaks_first(lab: &mut Lab) -> Result<()> {
    keep_port(lab)?;
    let every = SocketAddrV4::new(*ONE.ip(), 0);
    let service = SocketAddrV4::new(OTHER_VIP, 0);
    lab.set_return(every, proto::TCP, service, id::TWIN_ONE, false)?;
    let there = SocketAddrV4::new(*ONE.ip(), 2222);
    let shared = SocketAddrV4::new(OTHER_VIP, 2222);
    let push = from_server(there, CLIENT, flag::ACK).payload(b"still here");
    let wanted = push.clone().from(shared);
    lab.becomes(&push, Reason::ReverseKernel, &wanted)?;
    let event = lab.announced(EventKind::Add, ConnState::Established)?;
    let key = conn_key(CLIENT, shared, proto::TCP);
    ensure!(event.key == key, "{event:?}");
    ensure!(event.flags & flags::RECONSTRUCTED != 0, "{event:?}");
    // Its other service still is that of its own port.
    let push = from_server(ONE, CLIENT, flag::ACK).payload(b"still here");
    lab.becomes(&push, Reason::ReverseKernel, &push.clone().from(WEB))
}

fn protocols(lab: &mut Lab) -> Result<()> {
    let every = SocketAddrV4::new(OTHER_VIP, 0);
    let twin = service(TWIN)?;
    lab.world
        .set_service(service_key(every, proto::UDP), twin)?;
    let to = SocketAddrV4::new(OTHER_VIP, 4711);
    lab.untouched(
        &from_client(CLIENT, to, flag::SYN),
        Reason::SharedAddressLocal,
    )?;
    lab.run(&datagram(CLIENT, to), Reason::ForwardRedirect)?;
    Ok(())
}
