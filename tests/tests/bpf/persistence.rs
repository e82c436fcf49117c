//! Clients that come back to the real server they had.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use ha_common::conn::PersistKey4;
use ha_common::proto;
use ha_common::service::{Load, RealState};
use ha_tests::packet::flag;

use super::lab::{Case, Lab, SECOND, TURN, UDP_TURN, USUAL, datagram, from_client, id};

pub(crate) const CASES: &[Case] = &[
    ("a_client_comes_back", USUAL, comes_back),
    ("so_does_its_network", USUAL, network),
    ("datagrams_of_a_client_stay_together", USUAL, datagrams),
    ("a_client_is_forgotten_after_a_while", USUAL, forgotten),
    (
        "a_client_leaves_a_real_server_that_takes_no_more",
        USUAL,
        leaves,
    ),
];

const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const SECONDS: u32 = 60;

/// Clients of this prefix of [`TURN`] and [`UDP_TURN`] come back.
fn persist(lab: &mut Lab, prefix: u8) -> Result<()> {
    for (service, protocol) in [(TURN, proto::TCP), (UDP_TURN, proto::UDP)] {
        lab.change_service(service, protocol, |service| {
            service.persist_seconds = SECONDS;
            service.persist_prefix = prefix;
        })?;
        // Its real servers are of this service.
        lab.change_real(id::ONE, |real| real.service = 2)?;
        lab.change_real(id::TWO, |real| real.service = 2)?;
    }
    Ok(())
}

/// Opens a connection, and says to which real server.
fn open(lab: &mut Lab, host: Ipv4Addr, port: u16) -> Result<u16> {
    let client = SocketAddrV4::new(host, port);
    lab.connect(client, TURN)?;
    let conns = lab.world.conns()?;
    let of_client = conns.iter().find(|(key, conn)| {
        key.src == super::lab::net(host) && key.sport == port.to_be() && !conn.is_reverse()
    });
    Ok(of_client.context("an entry")?.1.real)
}

fn comes_back(lab: &mut Lab) -> Result<()> {
    persist(lab, 32)?;
    let first = open(lab, HOST, 1)?;
    for port in 2..8 {
        ensure!(open(lab, HOST, port)? == first, "port {port} moved");
    }
    // Others take turns, each with its own.
    let mut seen = [first; 6];
    for (host, seen) in (10..).zip(&mut seen) {
        *seen = open(lab, [203, 0, 113, host].into(), 1)?;
        ensure!(open(lab, [203, 0, 113, host].into(), 2)? == *seen, "{host}");
    }
    ensure!(
        seen.contains(&id::ONE) && seen.contains(&id::TWO),
        "{seen:?}"
    );
    let clients = lab.world.clients()?;
    ensure!(clients.len() == 7, "{clients:?}");
    Ok(())
}

fn network(lab: &mut Lab) -> Result<()> {
    persist(lab, 24)?;
    let first = open(lab, HOST, 1)?;
    for host in 10..16 {
        let real = open(lab, [203, 0, 113, host].into(), 1)?;
        ensure!(real == first, "host {host} moved");
    }
    let clients = lab.world.clients()?;
    let [(key, client)] = clients.as_slice() else {
        anyhow::bail!("{clients:?}");
    };
    let wanted = PersistKey4 {
        client: super::lab::net(Ipv4Addr::new(203, 0, 113, 0)),
        service: 2,
        pad: 0,
    };
    ensure!(*key == wanted && client.real == first, "{clients:?}");
    // Another network is another client.
    let mut others = Vec::new();
    for net in 20..26 {
        others.push(open(lab, [198, 18, net, 7].into(), 1)?);
    }
    ensure!(
        others.contains(&id::ONE) && others.contains(&id::TWO),
        "{others:?}"
    );
    Ok(())
}

fn datagrams(lab: &mut Lab) -> Result<()> {
    persist(lab, 32)?;
    for id in [id::ONE, id::TWO] {
        lab.change_real(id, |real| real.service = 5)?;
    }
    let mut seen = Vec::new();
    for port in 1..7 {
        let question = datagram(SocketAddrV4::new(HOST, port), UDP_TURN);
        seen.push(lab.send(&question)?.reason);
    }
    seen.dedup();
    ensure!(seen.len() == 1, "{seen:?}");
    Ok(())
}

/// The only client and what is known of it.
fn client(lab: &Lab) -> Result<(PersistKey4, ha_common::conn::Persist)> {
    let clients = lab.world.clients()?;
    match clients.as_slice() {
        [client] => Ok(*client),
        _ => anyhow::bail!("{clients:?}"),
    }
}

fn forgotten(lab: &mut Lab) -> Result<()> {
    persist(lab, 32)?;
    let first = open(lab, HOST, 1)?;
    let (key, mut known) = client(lab)?;
    // Each connection begins the time anew.
    known.last_seen_ns -= u64::from(SECONDS - 2) * SECOND;
    lab.world.set_client(key, known)?;
    ensure!(open(lab, HOST, 2)? == first, "too early");
    let (_, again) = client(lab)?;
    ensure!(again.last_seen_ns > known.last_seen_ns, "{again:?}");
    // Two in turn are not the same.
    let mut seen = Vec::new();
    for port in 3..5 {
        known.last_seen_ns = again.last_seen_ns - u64::from(SECONDS) * SECOND;
        lab.world.set_client(key, known)?;
        seen.push(open(lab, HOST, port)?);
    }
    ensure!(seen[0] != seen[1], "{seen:?}");
    Ok(())
}

fn leaves(lab: &mut Lab) -> Result<()> {
    persist(lab, 32)?;
    let first = open(lab, HOST, 1)?;
    let second = id::ONE + id::TWO - first;
    let mut port = 1;
    let mut wanted = |lab: &mut Lab, why: &str, real: u16| -> Result<()> {
        port += 1;
        let client = SocketAddrV4::new(HOST, port);
        lab.send(&from_client(client, TURN, flag::SYN))?;
        let found = lab.embryo(client)?.context("half-open")?.real;
        ensure!(found == real, "{why}: {found}");
        Ok(())
    };
    let back = |lab: &mut Lab| lab.change_real(first, |real| real.service = 2);
    for state in [RealState::Draining, RealState::Down, RealState::Unused] {
        lab.change_real(first, |real| {
            real.service = 2;
            real.state = state as u8;
        })?;
        wanted(lab, "not up", second)?;
        back(lab)?;
        // As long as no connection was made elsewhere.
        wanted(lab, "up again", first)?;
    }
    lab.change_real(first, |real| {
        real.service = 2;
        real.connections_max = 1;
    })?;
    let load = |connections| Load {
        connections,
        weight: 1,
    };
    lab.world.set_load(first, load(1))?;
    wanted(lab, "full", second)?;
    lab.world.set_load(first, load(0))?;
    wanted(lab, "has room", first)?;
    // The id belongs to another now, which may have its turn.
    lab.change_real(first, |real| {
        real.service = 2;
        real.generation += 1;
    })?;
    let mut seen = Vec::new();
    for port in 100..104 {
        let client = SocketAddrV4::new(HOST, port);
        lab.send(&from_client(client, TURN, flag::SYN))?;
        seen.push(lab.embryo(client)?.context("half-open")?.real);
    }
    ensure!(seen.contains(&first) && seen.contains(&second), "{seen:?}");
    Ok(())
}
