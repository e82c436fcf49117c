//! Every way of forwarding, from the first packet of a connection to the last.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::{ConnState, flags};
use ha_common::event::EventKind;
use ha_common::proto;
use ha_common::reason::{Reason, Tally};
use ha_common::service::{Forwarding, RealState};
use ha_tests::packet::{Frame, flag};

use super::lab::{
    CLIENT, Case, Lab, NAMES, NODE_BACK_MAC, ONE, ONE_MAC, RESOLVER, TWO, USUAL, WEB, conn_key,
    datagram, from_client, id,
};

pub(crate) const CASES: &[Case] = &[
    (
        "a_connection_from_its_first_packet_to_its_last",
        USUAL,
        life,
    ),
    ("a_reset_of_the_client_closes", USUAL, reset),
    ("datagrams_of_a_flow", USUAL, datagrams),
    ("tags_are_kept", USUAL, tags),
    ("the_kernel_finds_the_way", USUAL, kernel),
    ("traffic_class_and_dont_fragment_are_kept", USUAL, class),
    (
        "a_draining_real_server_keeps_its_connections",
        USUAL,
        draining,
    ),
    ("a_flood_goes_by_hash_and_leaves_nothing", USUAL, flooded),
];

pub(crate) const CASES_ONE_WAY: &[Case] = &[
    (
        "the_clients_next_packet_completes_the_handshake",
        USUAL,
        completed,
    ),
    ("one_end_tells_the_state", USUAL, one_end),
    ("answers_that_come_this_way_pass", USUAL, passing),
    ("a_segment_of_an_unknown_connection", USUAL, rebuilt),
];

/// What a frame may have in front of its packet.
const DRESSES: [fn(Frame) -> Frame; 3] = [
    |frame| frame,
    |frame| frame.tag(0x8100, 5),
    |frame| frame.tag(0x88a8, 6).tag(0x8100, 7),
];

/// Entries of one connection.
fn entries(lab: &Lab) -> usize {
    if lab.is_one_way() { 1 } else { 2 }
}

/// The only connection's state.
fn state(lab: &Lab) -> Result<ConnState> {
    let conns = lab.world.conns()?;
    ensure!(conns.len() == entries(lab), "{conns:?}");
    let forward = conns.iter().find(|(_, conn)| !conn.is_reverse());
    let (_, forward) = forward.context("a forward entry")?;
    ConnState::from_u8(forward.state).context("a state")
}

fn life(lab: &mut Lab) -> Result<()> {
    for (real, id, reason) in [
        (ONE, id::ONE, Reason::ForwardRedirect),
        (TWO, id::TWO, Reason::ForwardTransmit),
    ] {
        let lab = &mut lab.anew()?;
        lab.lead_to(id)?;
        converse(lab, real, reason, |frame| frame)?;
    }
    Ok(())
}

fn tags(lab: &mut Lab) -> Result<()> {
    for dress in DRESSES {
        let lab = &mut lab.anew()?;
        converse(lab, ONE, Reason::ForwardRedirect, dress)?;
        let question = dress(datagram(CLIENT, NAMES));
        lab.forwards(&question, Reason::ForwardRedirect, RESOLVER)?;
    }
    Ok(())
}

/// A connection to [`WEB`], which leads to `real`.
fn converse(
    lab: &mut Lab,
    real: SocketAddrV4,
    reason: Reason,
    dress: fn(Frame) -> Frame,
) -> Result<()> {
    let client = |flags| dress(from_client(CLIENT, WEB, flags));
    lab.forwards(&client(flag::SYN).payload(b"fast open"), reason, real)?;
    ensure!(lab.world.conns()?.is_empty(), "too early");
    if !lab.is_one_way() {
        let answer = lab.answer(real, CLIENT, flag::SYN | flag::ACK)?;
        lab.returns(&dress(answer.numbers(5000, 1001)), WEB, CLIENT)?;
    }
    lab.forwards(&client(flag::ACK).numbers(1001, 5001), reason, real)?;
    let event = lab.announced(EventKind::Add, ConnState::Established)?;
    ensure!(event.key == conn_key(CLIENT, WEB, proto::TCP), "{event:?}");
    ensure!(state(lab)? == ConnState::Established, "{:?}", state(lab)?);
    lab.tallied(Tally::Established, 1)?;
    for len in [0, 1, 2, 777, 1200] {
        let data = vec![0xa5; len];
        let segment = client(flag::ACK | flag::PSH).payload(&data);
        lab.forwards(&segment, reason, real)?;
        if !lab.is_one_way() {
            let segment = lab.answer(real, CLIENT, flag::ACK)?.payload(&data);
            lab.returns(&dress(segment), WEB, CLIENT)?;
        }
    }
    ensure!(lab.world.events()?.is_empty(), "data is no event");
    lab.forwards(&client(flag::FIN | flag::ACK), reason, real)?;
    ensure!(state(lab)? == ConnState::ClientClosing, "{:?}", state(lab)?);
    if !lab.is_one_way() {
        // The client still gets what it has not got yet.
        let data = lab.answer(real, CLIENT, flag::ACK)?.payload(b"the rest");
        lab.returns(&dress(data), WEB, CLIENT)?;
        let fin = lab.answer(real, CLIENT, flag::FIN | flag::ACK)?;
        lab.returns(&dress(fin), WEB, CLIENT)?;
        ensure!(state(lab)? == ConnState::TimeWait, "{:?}", state(lab)?);
    }
    lab.forwards(&client(flag::ACK), reason, real)?;
    lab.world.events()?;
    Ok(())
}

fn reset(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let reset = from_client(CLIENT, WEB, flag::RST);
    lab.forwards(&reset, Reason::ForwardRedirect, ONE)?;
    ensure!(state(lab)? == ConnState::Closed, "{:?}", state(lab)?);
    lab.announced(EventKind::State, ConnState::Closed)?;
    // The port may be used again at once.
    let syn = from_client(CLIENT, WEB, flag::SYN).numbers(7, 0);
    lab.forwards(&syn, Reason::ForwardRedirect, ONE)?;
    ensure!(lab.world.conns()?.is_empty(), "the old connection");
    lab.embryo(CLIENT)?.context("half-open")?;
    Ok(())
}

fn datagrams(lab: &mut Lab) -> Result<()> {
    for (port, bare) in [(1, false), (2, true)] {
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        let dress = |frame: Frame| {
            if bare {
                frame.without_checksum()
            } else {
                frame
            }
        };
        for payload in [b"".as_slice(), b"q", b"question", &[7; 1000]] {
            let question = dress(datagram(client, NAMES).payload(payload));
            lab.forwards(&question, Reason::ForwardRedirect, RESOLVER)?;
            if lab.is_one_way() {
                continue;
            }
            let answer = Frame::udp(RESOLVER, lab.seen_by_server(client, NAMES)?)
                .macs(ONE_MAC, NODE_BACK_MAC)
                .payload(payload);
            lab.returns(&dress(answer), NAMES, client)?;
        }
    }
    let wanted = 2 * entries(lab);
    ensure!(lab.world.conns()?.len() == wanted, "{wanted} entries");
    lab.tallied(Tally::Established, 2)
}

fn kernel(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.hop_known = 0)?;
    for dress in DRESSES {
        let data = dress(from_client(CLIENT, WEB, flag::ACK).payload(b"data"));
        // The kernel needs the frame to be addressed to it, and itself ages what it forwards.
        match lab.setting.method {
            Forwarding::Nat => {
                let wanted = data.clone().to(ONE);
                lab.becomes(&data, Reason::ForwardKernel, &wanted)?;
            }
            Forwarding::FullNat => {
                let wanted = data.clone().to(ONE).from(lab.seen_by_server(CLIENT, WEB)?);
                lab.becomes(&data, Reason::ForwardKernel, &wanted)?;
            }
            Forwarding::Dsr => {
                lab.run(&data, Reason::RealServerUnreachable)?;
            }
            Forwarding::Tunnel => {
                let wanted = data.clone().ttl(63).inside(super::lab::OWN, *ONE.ip());
                lab.becomes(&data, Reason::ForwardKernel, &wanted)?;
            }
        }
    }
    if lab.is_one_way() {
        return Ok(());
    }
    let [_, (key, mut reverse)] = lab.pair()?;
    reverse.flags &= !flags::HOP_KNOWN;
    lab.world.set_conn(key, reverse)?;
    for dress in DRESSES {
        let answer = dress(lab.answer(ONE, CLIENT, flag::ACK)?);
        let wanted = answer.clone().from(WEB).to(CLIENT);
        lab.becomes(&answer, Reason::ReverseKernel, &wanted)?;
    }
    Ok(())
}

fn class(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    for class in [0x01, 0xb8, 0xff] {
        let data = from_client(CLIENT, WEB, flag::ACK).class(class);
        lab.forwards(&data, Reason::ForwardRedirect, ONE)?;
        lab.forwards(&data.whole(), Reason::ForwardRedirect, ONE)?;
    }
    Ok(())
}

fn draining(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.state = RealState::Draining as u8)?;
    let data = from_client(CLIENT, WEB, flag::ACK).payload(b"more");
    lab.forwards(&data, Reason::ForwardRedirect, ONE)?;
    if !lab.is_one_way() {
        let data = lab.answer(ONE, CLIENT, flag::ACK)?.payload(b"more");
        lab.returns(&data, WEB, CLIENT)?;
    }
    let syn = from_client("198.51.100.8:1".parse()?, WEB, flag::SYN);
    lab.untouched(&syn, Reason::NoRealServer)
}

fn flooded(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.configure(|config| (config.table_full, config.table_full6) = (1, 1))?;
    let other = SocketAddrV4::new(*CLIENT.ip(), 1);
    for dress in DRESSES {
        let request = dress(from_client(other, WEB, flag::SYN).payload(b"fast open"));
        let question = dress(datagram(other, NAMES));
        for (frame, real) in [(request, ONE), (question, RESOLVER)] {
            if lab.method() == Forwarding::FullNat {
                lab.untouched(&frame, Reason::TableFull)?;
            } else {
                lab.forwards(&frame, Reason::ForwardRedirect, real)?;
            }
        }
    }
    ensure!(lab.embryo(other)?.is_none(), "half-open");
    ensure!(lab.world.conns()?.len() == entries(lab), "an entry");
    lab.tallied(Tally::Stateless, 6)?;
    // Within a connection that is known, a request begins nothing.
    let request = from_client(CLIENT, WEB, flag::SYN);
    lab.forwards(&request, Reason::ForwardRedirect, ONE)?;
    lab.tallied(Tally::Stateless, 6)?;
    lab.change_real(id::ONE, |real| real.state = RealState::Down as u8)?;
    let request = from_client(other, WEB, flag::SYN);
    lab.untouched(&request, Reason::NoRealServer)
}

fn completed(lab: &mut Lab) -> Result<()> {
    let syn = from_client(CLIENT, WEB, flag::SYN);
    lab.forwards(&syn, Reason::ForwardRedirect, ONE)?;
    // A reset does not.
    let reset = from_client(CLIENT, WEB, flag::RST);
    lab.forwards(&reset, Reason::ForwardRedirect, ONE)?;
    ensure!(lab.world.conns()?.is_empty(), "an entry");
    // The numbers of the real server are not known here.
    let data = from_client(CLIENT, WEB, flag::ACK).numbers(1001, 77);
    lab.forwards(&data.payload(b"hello"), Reason::ForwardRedirect, ONE)?;
    let conns = lab.world.conns()?;
    let [(key, conn)] = conns.as_slice() else {
        anyhow::bail!("{conns:?}");
    };
    ensure!(*key == conn_key(CLIENT, WEB, proto::TCP), "{key:?}");
    let wanted = flags::ONE_WAY | flags::BY_HASH | flags::HOP_KNOWN;
    ensure!(conn.flags == wanted, "{conn:?}");
    ensure!(lab.embryo(CLIENT)?.is_none(), "half-open");
    lab.tallied(Tally::Established, 1)
}

fn one_end(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    for (flags, wanted) in [
        (flag::ACK, ConnState::Established),
        (flag::FIN | flag::ACK, ConnState::ClientClosing),
        (flag::FIN | flag::ACK, ConnState::ClientClosing),
        (flag::ACK, ConnState::ClientClosing),
        (flag::RST, ConnState::Closed),
    ] {
        let segment = from_client(CLIENT, WEB, flags);
        lab.forwards(&segment, Reason::ForwardRedirect, ONE)?;
        ensure!(state(lab)? == wanted, "{:?} for {wanted:?}", state(lab)?);
    }
    Ok(())
}

fn passing(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    for flags in [flag::SYN | flag::ACK, flag::ACK, flag::RST] {
        let answer = Frame::tcp(WEB, CLIENT, flags).macs(ONE_MAC, NODE_BACK_MAC);
        lab.untouched(&answer, Reason::NotOurs)?;
    }
    let answer = Frame::udp(NAMES, CLIENT).macs(ONE_MAC, NODE_BACK_MAC);
    lab.untouched(&answer, Reason::NotOurs)
}

fn rebuilt(lab: &mut Lab) -> Result<()> {
    let data = from_client(CLIENT, WEB, flag::ACK).payload(b"on and on");
    lab.forwards(&data, Reason::ForwardRedirect, ONE)?;
    ensure!(state(lab)? == ConnState::Established, "{:?}", state(lab)?);
    lab.tallied(Tally::Reconstructed, 1)
}
