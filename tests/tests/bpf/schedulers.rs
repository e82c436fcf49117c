//! Which real server a new connection gets.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::{Load, RealState, Scheduler, Service};
use ha_tests::packet::flag;

use super::lab::{
    CLIENT, Case, Lab, TABLE_LEN, TWO_MEMBERS, USUAL, WEB, WEB_TABLE, from_client, id,
};

pub(crate) const CASES: &[Case] = &[
    (
        "weighted_turns_follow_the_member_list",
        USUAL,
        weighted_turns,
    ),
    ("the_fewest_connections_win", USUAL, least),
    ("weights_count_among_connections", USUAL, weighted_least),
    ("the_hash_spreads_flows", USUAL, flows),
    (
        "the_hash_of_addresses_keeps_clients_together",
        USUAL,
        addresses,
    ),
    ("a_full_real_server_is_passed_over", USUAL, full),
    ("a_last_resort_takes_what_nobody_may", USUAL, last_resort),
    ("no_other_services_real_server_is_taken", USUAL, neighbours),
];

/// Lets [`WEB`] choose so.
fn schedule(lab: &mut Lab, scheduler: Scheduler, change: impl FnOnce(&mut Service)) -> Result<()> {
    lab.change_service(WEB, proto::TCP, |service| {
        service.scheduler = scheduler as u8;
        change(service);
    })
}

/// Which real server this client is given.
fn given(lab: &mut Lab, client: SocketAddrV4) -> Result<u16> {
    lab.send(&from_client(client, WEB, flag::SYN))?;
    Ok(lab.embryo(client)?.context("half-open")?.real)
}

/// How many of so many clients the first real server is given, and the second.
fn shares(lab: &mut Lab, ports: std::ops::Range<u16>) -> Result<[usize; 2]> {
    let mut shares = [0; 2];
    for port in ports {
        match given(lab, SocketAddrV4::new(*CLIENT.ip(), port))? {
            id::ONE => shares[0] += 1,
            id::TWO => shares[1] += 1,
            other => anyhow::bail!("real server {other}"),
        }
    }
    Ok(shares)
}

fn load(lab: &mut Lab, real: u16, connections: u64, weight: u64) -> Result<()> {
    let load = Load {
        connections,
        weight,
    };
    lab.world.set_load(real, load)
}

fn weighted_turns(lab: &mut Lab) -> Result<()> {
    schedule(lab, Scheduler::Wrr, |service| service.members_len = 3)?;
    for (index, id) in [id::ONE, id::TWO, id::ONE].into_iter().enumerate() {
        lab.world
            .set_slot(TWO_MEMBERS + index as u32, u32::from(id))?;
    }
    let shares = shares(lab, 1..31)?;
    ensure!(shares == [20, 10], "{shares:?}");
    Ok(())
}

fn least(lab: &mut Lab) -> Result<()> {
    schedule(lab, Scheduler::Lc, |_| {})?;
    for (one, two, wanted) in [(5, 4, [0, 8]), (0, 1, [8, 0]), (1 << 20, 7, [0, 8])] {
        load(lab, id::ONE, one, 100)?;
        load(lab, id::TWO, two, 1)?;
        let shares = shares(lab, 1..9)?;
        ensure!(shares == wanted, "{shares:?} with {one} and {two}");
        *lab = lab.anew()?;
        schedule(lab, Scheduler::Lc, |_| {})?;
    }
    // Of equals not always the same.
    let shares = shares(lab, 1..9)?;
    ensure!(shares == [4, 4], "{shares:?}");
    // One that is not up does not count.
    *lab = lab.anew()?;
    schedule(lab, Scheduler::Lc, |_| {})?;
    load(lab, id::TWO, 1000, 1)?;
    for state in [RealState::Draining, RealState::Down, RealState::Unused] {
        lab.change_real(id::ONE, |real| real.state = state as u8)?;
        let client = SocketAddrV4::new(*CLIENT.ip(), 100 + state as u16);
        ensure!(given(lab, client)? == id::TWO, "{state:?}");
    }
    Ok(())
}

fn weighted_least(lab: &mut Lab) -> Result<()> {
    for (one, two, wanted) in [
        ((40, 10), (5, 1), [8, 0]),
        ((40, 10), (3, 1), [0, 8]),
        ((0, 1), (1, 65535), [8, 0]),
        // A weight of zero is no division.
        ((3, 0), (4, 1), [8, 0]),
    ] {
        let lab = &mut lab.anew()?;
        schedule(lab, Scheduler::Wlc, |_| {})?;
        load(lab, id::ONE, one.0, one.1)?;
        load(lab, id::TWO, two.0, two.1)?;
        let shares = shares(lab, 1..9)?;
        ensure!(shares == wanted, "{shares:?} with {one:?} and {two:?}");
    }
    Ok(())
}

/// Every second slot leads to the other real server.
fn mix(lab: &mut Lab) -> Result<()> {
    for index in (0..TABLE_LEN).step_by(2) {
        lab.world.set_slot(WEB_TABLE + index, u32::from(id::TWO))?;
    }
    Ok(())
}

fn flows(lab: &mut Lab) -> Result<()> {
    mix(lab)?;
    let first = shares(lab, 1..101)?;
    ensure!(first.iter().all(|share| *share > 25), "{first:?}");
    // The same again for whoever knows nothing of it.
    let mut other = lab.anew()?;
    mix(&mut other)?;
    for port in 1..101 {
        let client = SocketAddrV4::new(*CLIENT.ip(), port);
        let (here, there) = (lab.embryo(client)?, given(&mut other, client)?);
        ensure!(here.context("half-open")?.real == there, "port {port}");
    }
    Ok(())
}

fn addresses(lab: &mut Lab) -> Result<()> {
    mix(lab)?;
    schedule(lab, Scheduler::Sh, |_| {})?;
    let mut all = [0; 2];
    for host in 1..33 {
        let address = [203, 0, 113, host].into();
        let first = given(lab, SocketAddrV4::new(address, 1))?;
        for port in 2..5 {
            let client = SocketAddrV4::new(address, port);
            ensure!(given(lab, client)? == first, "{client} moved");
        }
        all[usize::from(first == id::TWO)] += 1;
    }
    ensure!(all.iter().all(|share| *share > 4), "{all:?}");
    Ok(())
}

fn full(lab: &mut Lab) -> Result<()> {
    mix(lab)?;
    for id in [id::ONE, id::TWO] {
        lab.change_real(id, |real| real.connections_max = 10)?;
    }
    load(lab, id::ONE, 10, 1)?;
    load(lab, id::TWO, 9, 1)?;
    let shares = shares(lab, 1..9)?;
    ensure!(shares == [0, 8], "{shares:?}");
    load(lab, id::TWO, 11, 1)?;
    let syn = from_client("203.0.113.1:5".parse()?, WEB, flag::SYN);
    lab.untouched(&syn, Reason::RealServersFull)?;
    // What is full is not down.
    lab.change_real(id::TWO, |real| real.state = RealState::Down as u8)?;
    lab.untouched(&syn, Reason::RealServersFull)?;
    load(lab, id::ONE, 9, 1)?;
    lab.run(&syn, Reason::ForwardRedirect)?;
    Ok(())
}

fn last_resort(lab: &mut Lab) -> Result<()> {
    schedule(lab, Scheduler::Mh, |service| {
        service.last_resort = id::THREE;
    })?;
    let client = |port| SocketAddrV4::new(*CLIENT.ip(), port);
    ensure!(given(lab, client(1))? == id::ONE, "not the usual one");
    lab.change_real(id::ONE, |real| real.connections_max = 1)?;
    load(lab, id::ONE, 1, 1)?;
    ensure!(given(lab, client(2))? == id::THREE, "one is full");
    lab.change_real(id::ONE, |real| real.state = RealState::Down as u8)?;
    ensure!(given(lab, client(3))? == id::THREE, "one is down");
    schedule(lab, Scheduler::Rr, |service| {
        (service.members_len, service.table_len) = (0, 0);
        service.last_resort = id::THREE;
    })?;
    ensure!(given(lab, client(4))? == id::THREE, "nobody is left");
    lab.change_real(id::THREE, |real| real.state = RealState::Down as u8)?;
    let syn = from_client(client(5), WEB, flag::SYN);
    lab.untouched(&syn, Reason::NoRealServer)
}

/// Behind a short list begins that of another service.
fn neighbours(lab: &mut Lab) -> Result<()> {
    for len in [1, 2] {
        for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc, Scheduler::Wlc] {
            let lab = &mut lab.anew()?;
            schedule(lab, scheduler, |service| service.members_len = len)?;
            for id in [id::ONE, id::TWO] {
                lab.change_real(id, |real| real.state = RealState::Down as u8)?;
            }
            for port in 1..5 {
                let client = SocketAddrV4::new(*CLIENT.ip(), port);
                let syn = from_client(client, WEB, flag::SYN);
                lab.untouched(&syn, Reason::NoRealServer)?;
            }
        }
    }
    Ok(())
}
