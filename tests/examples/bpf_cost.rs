//! What the data plane costs: nanoseconds a packet, by `BPF_PROG_TEST_RUN`.
//!
//! A test run never restores the packet, so a program that rewrites would be measured on its own
//! output. Here the translation is to the address, port and Ethernet addresses that the packet has
//! already: everything is computed and written, and nothing changes but the time to live, which
//! allows some 250 repetitions a run. The figure is the median of many such runs; the program's
//! entry and the runner's loop (a bare pass) are in it.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result};
use ha_common::conn::{Conn4, ConnKey4, flags};
use ha_common::control::{Config, Gate};
use ha_common::service::{LocalAddr, Real4, RealState, addr_kind};
use ha_tests::packet::{Frame, carp_header, flag};
use ha_tests::rig::bpf::{DataPlane, INGRESS, Sizes};
use ha_tests::rig::locate;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// A packet with time to live 255 lasts this long.
const REPEAT: u32 = 250;
const RUNS: usize = 2001;

fn main() -> Result<()> {
    let client: SocketAddrV4 = "198.51.100.7:40000".parse()?;
    let shared: SocketAddrV4 = "10.0.0.100:80".parse()?;
    let mut plane = DataPlane::load(&locate::bpf_object("ha_xdp")?, Sizes::default())?;
    let word = |address: &SocketAddrV4| u32::from_ne_bytes(address.ip().octets());
    let key = ConnKey4 {
        src: word(&client),
        dst: word(&shared),
        sport: client.port().to_be(),
        dport: shared.port().to_be(),
        proto: 6,
    };
    plane.gate.set(
        0,
        Gate {
            until_ns: Gate::ALWAYS,
            ..Gate::default()
        },
        0,
    )?;
    plane.config.set(
        0,
        Config {
            vhid: 110,
            ..Config::default()
        },
        0,
    )?;
    plane.addrs.insert(
        key.dst,
        LocalAddr {
            kind: addr_kind::SHARED,
        },
        0,
    )?;
    let same = |ifindex| Real4 {
        ifindex,
        mac: NODE_MAC,
        src_mac: CLIENT_MAC,
        state: RealState::Up as u8,
        hop_known: 1,
        ..Real4::default()
    };
    plane.reals.set(1, same(INGRESS), 0)?;
    plane.reals.set(2, same(77), 0)?;
    let conn = Conn4 {
        l4_delta: 0xffff,
        l3_delta: 0xffff,
        state: 1,
        flags: flags::HOP_KNOWN,
        hop_ifindex: INGRESS,
        ..Conn4::default()
    };
    let forward = |real| Conn4 {
        to_addr: key.dst,
        to_port: key.dport,
        hop_mac: CLIENT_MAC,
        hop_src: NODE_MAC,
        real,
        ..conn
    };
    let reverse = Conn4 {
        to_addr: key.src,
        to_port: key.sport,
        hop_mac: NODE_MAC,
        hop_src: CLIENT_MAC,
        flags: conn.flags | flags::REVERSE,
        real: 1,
        ..conn
    };
    let segment = Frame::tcp(client, shared, flag::ACK)
        .macs(CLIENT_MAC, NODE_MAC)
        .ttl(255);
    let elsewhere = segment.clone().to("192.0.2.1:80".parse()?).build();
    let segment = segment.build();
    let advert = |vhid| {
        Frame::raw(*client.ip(), std::net::Ipv4Addr::new(224, 0, 0, 18), 112)
            .ttl(255)
            .payload(&[carp_header(vhid), vec![0; 92]].concat())
            .build()
    };

    show(
        "ARP for another address",
        &mut plane,
        &ha_tests::packet::arp_request(*client.ip(), *client.ip()),
    )?;
    show("not ours, passed", &mut plane, &elsewhere)?;
    show("CARP of another group, passed", &mut plane, &advert(9))?;
    show("CARP of ours, to the ring", &mut plane, &advert(110))?;
    for (name, entry) in [
        ("forward, transmitted", forward(1)),
        ("forward, redirected", forward(2)),
        ("reverse, transmitted", reverse),
    ] {
        plane.conns.insert(key, entry, 0)?;
        show(name, &mut plane, &segment)?;
    }
    for program in ["ha_xdp", "ha_janitor"] {
        let info = plane.info(program)?;
        println!(
            "{program}: {:?} instructions verified, {:?} bytes translated, {} bytes of machine code",
            info.verified_instruction_count(),
            info.size_translated(),
            info.size_jitted()
        );
    }
    Ok(())
}

fn show(what: &str, plane: &mut DataPlane, frame: &[u8]) -> Result<()> {
    let mut times = Vec::new();
    let mut action = 0;
    for _ in 0..RUNS {
        let outcome = plane.repeat(frame, REPEAT)?;
        times.push(outcome.duration.as_nanos());
        action = outcome.action;
        plane.adverts()?;
    }
    times.sort_unstable();
    let median = times.get(RUNS / 2).context("no runs")?;
    let least = times.first().context("no runs")?;
    println!("{what:32} action {action}  median {median} ns  least {least} ns");
    Ok(())
}
