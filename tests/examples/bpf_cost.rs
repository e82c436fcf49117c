//! What the data plane costs: nanoseconds a packet, by `BPF_PROG_TEST_RUN`.
//!
//! A test run never restores the packet, so a program that rewrites would be measured on its own
//! output. Here the translation is to the address, port and Ethernet addresses that the packet has
//! already: everything is computed and written, and nothing changes but the time to live, which
//! allows some 250 repetitions a run. The figure is the median of many such runs; the program's
//! entry and the runner's loop are in it. They are measured first, as a bare pass, and again at the
//! end: the figures of a run in which the two differ are not worth much.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use ha_agent::datapath::pair::{self, PairLink, Secrets};
use ha_agent::proto::carp::trailer::{Body, Signer, WireRole};
use ha_agent::proto::carp::wire::Group;
use ha_common::conn::{Conn4, ConnKey4, flags};
use ha_common::control::{Config, Gate};
use ha_common::pair::auth;
use ha_common::service::{LocalAddr, Real4, RealState, addr_kind};
use ha_tests::packet::{Frame, carp_header, flag};
use ha_tests::rig::bpf::{DataPlane, INGRESS, Sizes};
use ha_tests::rig::locate;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const VHID: u8 = 110;
const EPOCH: u64 = 77;
const KEY: (u8, [u8; 16]) = (1, [7; 16]);
const PASSPHRASE: &[u8] = b"passphrase";
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
            vhid: VHID.into(),
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
    let rig = locate::bpf_object("ha_rig")?;
    let mut bare = Ebpf::load_file(&rig)?;
    let bare: &mut Xdp = bare
        .program_mut("ha_pass")
        .context("no ha_pass")?
        .try_into()?;
    bare.load()?;
    let floor = bare_pass(bare, &segment)?;

    show(
        floor,
        "ARP for another address",
        &mut plane,
        &ha_tests::packet::arp_request(*client.ip(), *client.ip()),
    )?;
    show(floor, "not ours, passed", &mut plane, &elsewhere)?;
    advertisements(floor, &mut plane, *client.ip(), *shared.ip())?;
    for (name, entry) in [
        ("forward, transmitted", forward(1)),
        ("forward, redirected", forward(2)),
        ("reverse, transmitted", reverse),
    ] {
        plane.conns.insert(key, entry, 0)?;
        show(floor, name, &mut plane, &segment)?;
    }
    bare_pass(bare, &segment)?;
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

/// What becomes of advertisements, true and false.
fn advertisements(
    floor: u128,
    plane: &mut DataPlane,
    partner: Ipv4Addr,
    shared: Ipv4Addr,
) -> Result<()> {
    let frame = |payload: &[u8]| {
        Frame::raw(partner, Ipv4Addr::new(224, 0, 0, 18), 112)
            .ttl(255)
            .payload(payload)
            .build()
    };
    configure(plane, auth::ENFORCE, partner, shared)?;
    let gate = Gate {
        until_ns: Gate::ALWAYS,
        term: 9,
        partner_epoch: EPOCH,
        ..Gate::default()
    };
    plane.gate.set(0, gate, 0)?;
    let header = Group::new(PASSPHRASE, VHID, &[shared.into()]).header(1, 0, 5);
    let signed = |epoch, sequence| {
        let body = Body {
            flags: 0,
            epoch,
            sequence,
            term: 9,
            interval_us: 10_000,
            timeout_us: 30_000,
            mode: 2,
            role: WireRole::Active,
            ready: true,
            preferred: 0,
            health: 0,
            heard: 0,
            generation: 0,
            echo_epoch: 0,
            echo_sequence: 0,
        };
        let signer = Signer::new(VHID, vec![KEY]);
        signer.advert(partner.into(), &header.encode(), &body)
    };
    let mut forged = signed(EPOCH, u64::MAX);
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    show(
        floor,
        "CARP of another group, passed",
        plane,
        &frame(&carp_header(9)),
    )?;
    show(floor, "advertisement, forged", plane, &frame(&forged))?;
    show(
        floor,
        "advertisement, good, unknown epoch",
        plane,
        &frame(&signed(EPOCH + 1, 1)),
    )?;
    one_by_one(floor, plane, |sequence| frame(&signed(EPOCH, sequence)))?;
    show(
        floor,
        "advertisement, replayed",
        plane,
        &frame(&signed(EPOCH, 1)),
    )?;
    let bare = header.encode();
    show(floor, "trailer-less, refused", plane, &frame(&bare))?;
    configure(plane, auth::OFF, partner, shared)?;
    let wrong = Group::new(b"another", VHID, &[shared.into()]).header(1, 0, 5);
    let wrong = frame(&wrong.encode());
    show(floor, "trailer-less flood", plane, &wrong)?;
    digests(floor, plane, &wrong)
}

/// Tells the data plane of a pair whose keys are known here.
fn configure(plane: &mut DataPlane, auth: u32, partner: Ipv4Addr, shared: Ipv4Addr) -> Result<()> {
    let secrets = Secrets {
        vhid: VHID,
        auth,
        own_epoch: 1,
        keys: &[KEY],
        passphrase: PASSPHRASE,
    };
    let link = PairLink {
        ifindex: INGRESS,
        mac: NODE_MAC,
        checked: true,
        own: &[],
        partners: &[partner.into()],
        shared: &[shared.into()],
    };
    let tables = pair::tables(&secrets, &[link]);
    plane.pair.set(0, tables.pair, 0)?;
    for (index, (peer, digest)) in (0..).zip(tables.peers.iter().zip(&tables.digests)) {
        plane.peers.set(index, peer, 0)?;
        plane.digests.set(index, digest, 0)?;
    }
    Ok(())
}

/// Advertisements that are accepted, of which no two are the same: one a run, so the figure holds the
/// costs of a run, to be compared with the next line.
fn one_by_one(floor: u128, plane: &mut DataPlane, packet: impl Fn(u64) -> Vec<u8>) -> Result<()> {
    let mut good = Vec::new();
    let mut replayed = Vec::new();
    for sequence in 1..=RUNS as u64 {
        let frame = packet(sequence);
        good.push(plane.repeat(&frame, 1)?.duration.as_nanos());
        replayed.push(plane.repeat(&frame, 1)?.duration.as_nanos());
        plane.adverts()?;
    }
    print(floor, "advertisement, good, alone", 1, good)?;
    print(floor, "advertisement, replayed, alone", 1, replayed)
}

/// Advertisements without trailer whose digest is wrong: as many at a time as the bucket has tokens.
fn digests(floor: u128, plane: &mut DataPlane, frame: &[u8]) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..21 {
        std::thread::sleep(Duration::from_millis(300));
        times.push(plane.repeat(frame, REPEAT)?.duration.as_nanos());
    }
    print(floor, "trailer-less, digest wrong", 1, times)
}

/// What running nothing costs.
fn bare_pass(bare: &Xdp, frame: &[u8]) -> Result<u128> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let mut output = vec![0; frame.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut output);
        options.repeat = REPEAT;
        times.push(bare.test_run(options)?.duration.as_nanos());
    }
    times.sort_unstable();
    let median = *times.get(RUNS / 2).context("no runs")?;
    println!("{:36} action 2  median {median} ns", "bare pass");
    Ok(median)
}

fn show(floor: u128, what: &str, plane: &mut DataPlane, frame: &[u8]) -> Result<()> {
    let mut times = Vec::new();
    let mut action = 0;
    for _ in 0..RUNS {
        let outcome = plane.repeat(frame, REPEAT)?;
        times.push(outcome.duration.as_nanos());
        action = outcome.action;
        plane.adverts()?;
    }
    print(floor, what, action, times)
}

fn print(floor: u128, what: &str, action: u32, mut times: Vec<u128>) -> Result<()> {
    times.sort_unstable();
    let median = *times.get(times.len() / 2).context("no runs")?;
    let least = times.first().context("no runs")?;
    let ratio = median as f64 / floor.max(1) as f64;
    let net = median.saturating_sub(floor);
    println!(
        "{what:36} action {action}  median {median} ns  least {least} ns  net {net} ns  \
         {ratio:.1} times the bare pass"
    );
    Ok(())
}
