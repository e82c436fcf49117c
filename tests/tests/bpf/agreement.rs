//! The library on the host and the program in the kernel on the same random packets: same reasons,
//! same bytes, same tables.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use ha_agent::proto::rng::Rng;
use ha_common::conn::{Conn4, ConnKey4};
use ha_common::control::Gate;
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, RealState, real_flags};
use ha_tests::packet::{Frame, Trouble, carp_header, flag};

use super::family::Family;
use super::lab::{
    CLIENT, Lab, NAMES, NODE_BACK_MAC, NODE_MAC, ONE, OWN, RESOLVER, STAND_IN, STRICT, Setting,
    THREE, TURN, TWIN, TWO, USUAL, VHID, VIP, WEB, id,
};
use super::partner::{EPOCH, KEYS, advert};
use super::world::Place;
use ha_tests::rig::bpf::Sizes;

/// Packets per seed.
const STEPS: usize = 400;

/// Runs a sequence in both places; returns the reasons that came up.
pub(crate) fn compare(kernel: &Place, seed: u64) -> Result<Vec<Reason>> {
    let families = [Family::V4, Family::V6];
    let methods = [
        Forwarding::Nat,
        Forwarding::FullNat,
        Forwarding::Dsr,
        Forwarding::Tunnel,
    ];
    let setting = Setting {
        family: families[seed as usize % 2],
        method: methods[seed as usize / 2 % 4],
        sizes: Sizes { conns: 64, ..USUAL },
    };
    let mut host = Lab::new(&Place::Host, setting)?;
    let mut kernel = Lab::new(kernel, setting)?;
    for lab in [&mut host, &mut kernel] {
        lab.know(EPOCH)?;
    }
    let mut rng = Rng::new(seed);
    for step in 0..STEPS {
        let context = || format!("{setting:?}, seed {seed}, step {step}");
        disturb(&mut rng, [&mut host, &mut kernel])?;
        let frame = packet(&mut rng, &host);
        let [there, here] = [kernel.world.run(&frame)?, host.world.run(&frame)?];
        ensure!(
            there.reason == here.reason && (there.frame == here.frame || is_spoilt(here.reason)),
            "{}: kernel {there:02x?}, host {here:02x?}",
            context()
        );
        host.seen.push(here.reason);
        let tables = [table(&kernel)?, table(&host)?];
        ensure!(tables[0] == tables[1], "{}: tables {tables:#?}", context());
        let events = [events(&mut kernel)?, events(&mut host)?];
        ensure!(events[0] == events[1], "{}: events {events:#?}", context());
    }
    Ok(host.seen)
}

/// Whether a frame may be dropped half done.
fn is_spoilt(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoHeadroom | Reason::RealServerUnreachable | Reason::TtlExpired | Reason::TooBig
    )
}

/// Entries without what depends on the clock.
fn table(lab: &Lab) -> Result<Vec<(ConnKey4, Conn4)>> {
    let mut conns = lab.world.conns()?;
    for (_, conn) in &mut conns {
        conn.last_seen_ns = 0;
        conn.created_ns = 0;
    }
    Ok(conns)
}

fn events(lab: &mut Lab) -> Result<Vec<ha_common::event::ConnEvent4>> {
    let mut events = lab.world.events()?;
    for event in &mut events {
        event.at_ns = 0;
    }
    Ok(events)
}

/// Now and then something changes between two packets.
fn disturb(rng: &mut Rng, labs: [&mut Lab; 2]) -> Result<()> {
    let what = rng.below(70);
    let real = [id::ONE, id::TWO, id::THREE][rng.below(3) as usize];
    let state = [
        RealState::Up,
        RealState::Up,
        RealState::Draining,
        RealState::Down,
    ][rng.below(4) as usize];
    let index = rng.below(8) as u32;
    for lab in labs {
        match what {
            0 => lab.change_real(real, |real| real.state = state as u8)?,
            1 => lab.change_real(real, |real| real.hop_known = 0)?,
            2 => lab.change_real(real, |real| real.generation += 1)?,
            3 => lab.world.put_gate(Gate {
                partner_epoch: EPOCH,
                ..Gate::default()
            })?,
            4..=9 => lab.know(EPOCH)?,
            10 => lab.configure(|config| (config.table_full, config.table_full6) = (1, 1))?,
            11..=14 => lab.configure(|config| (config.table_full, config.table_full6) = (0, 0))?,
            15 => lab.world.set_slot(index, u32::from(real))?,
            16 => lab.change_real(real, |real| {
                real.state = state as u8;
                real.flags = real_flags::RESET_WHEN_DOWN;
            })?,
            17 => lab.change_real(real, |real| real.connections_max = 1)?,
            _ => {}
        }
    }
    Ok(())
}

fn packet(rng: &mut Rng, lab: &Lab) -> Vec<u8> {
    if rng.below(80) == 0 {
        return advertisement(rng);
    }
    let mut frame = conversation(rng, lab);
    let kind = rng.below(40);
    if kind < 4 {
        let troubles = [Trouble::Port, Trouble::TooBig(1400), Trouble::Expired];
        let trouble = troubles[rng.below(3) as usize];
        let source = Ipv4Addr::new(192, 0, 2, rng.below(3) as u8);
        frame = Frame::error(source, trouble, &frame, 8 + rng.below(30) as usize);
    } else if kind < 5 {
        let vhid = VHID + rng.below(2) as u8;
        frame = Frame::raw(*CLIENT.ip(), Ipv4Addr::new(224, 0, 0, 18), 112)
            .ttl(255)
            .payload(&carp_header(vhid));
    } else if kind < 8 {
        let start = 8 * rng.below(6) as usize;
        frame = frame.piece(start..start + 8 * (1 + rng.below(4) as usize));
    }
    let mac = [2, 0xc1, 0, 0, 0, rng.below(2) as u8];
    let node = [NODE_MAC, NODE_BACK_MAC][rng.below(2) as usize];
    frame = frame.macs(mac, node);
    if rng.below(8) == 0 {
        frame = frame.tag(0x8100, 1);
    }
    if rng.below(30) == 0 {
        frame = frame.ttl(rng.below(3) as u8);
    }
    if rng.below(30) == 0 {
        frame = frame.fragment(rng.below(0x4000) as u16);
    }
    if rng.below(20) == 0 {
        frame = frame.options(&[1; 4]);
        frame = frame.extension([0, 43, 60][rng.below(3) as usize], &[1, 4, 0, 0, 0, 0]);
    }
    let mut bytes = lab.bytes(&frame);
    // What is broken must be broken in the same way.
    if rng.below(20) == 0 {
        bytes.truncate(14 + rng.below(70) as usize);
    }
    if rng.below(20) == 0 {
        let at = rng.below(bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << rng.below(8);
        }
    }
    bytes
}

/// A packet between clients and services, real servers and clients, or what stands in for them.
fn conversation(rng: &mut Rng, lab: &Lab) -> Frame {
    let client = SocketAddrV4::new(*CLIENT.ip(), 40000 + rng.below(4) as u16);
    let services = [WEB, TURN, TWIN, STRICT, NAMES, SocketAddrV4::new(VIP, 9)];
    let reals = [ONE, TWO, THREE, RESOLVER];
    let service = services[rng.below(6) as usize];
    let real = reals[rng.below(4) as usize];
    let near = match lab.seen_by_server(client, service) {
        Ok(near) if rng.below(8) != 0 => near,
        _ => SocketAddrV4::new(*STAND_IN.ip(), 5000),
    };
    let flags = [
        flag::SYN,
        flag::SYN | flag::ACK,
        flag::ACK,
        flag::ACK,
        flag::ACK | flag::PSH,
        flag::FIN | flag::ACK,
        flag::RST,
        rng.below(256) as u8,
    ][rng.below(8) as usize];
    let (from, to) = match rng.below(10) {
        0..=4 => (client, service),
        5 => (real, SocketAddrV4::new(OWN, 9)),
        6 => (service, client),
        7 => (near, real),
        _ => (real, near),
    };
    let udp = to == NAMES || from == RESOLVER || from == NAMES || rng.below(40) == 0;
    let frame = if udp && rng.below(4) == 0 {
        Frame::udp(from, to).without_checksum()
    } else if udp {
        Frame::udp(from, to)
    } else {
        // Numbers from a small range, so that handshakes do complete.
        let frame = Frame::tcp(from, to, flags);
        frame.numbers(5000 + rng.below(2) as u32, 5000 + rng.below(3) as u32)
    };
    let len = match rng.below(12) {
        0..=3 => rng.below(40),
        4 => 1400 + rng.below(150),
        _ => 0,
    };
    let payload: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
    let frame = frame.payload(&payload);
    if rng.below(2) == 0 {
        frame.whole()
    } else {
        frame
    }
}

/// An advertisement of the partner, often with something wrong.
fn advertisement(rng: &mut Rng) -> Vec<u8> {
    let mut advert = advert(1 + rng.below(40)).with(|advert| {
        advert.body.term = rng.below(3);
        advert.key = KEYS[rng.below(2) as usize];
    });
    if rng.below(2) == 0 {
        advert = advert.v6();
    }
    let mut frame = advert.frame();
    if rng.below(3) == 0 {
        let at = 14 + rng.below(frame.len() as u64 - 14) as usize;
        frame[at] ^= 1 << rng.below(8);
    }
    if rng.below(10) == 0 {
        frame.truncate(60 + rng.below(100) as usize);
    }
    frame
}
