//! The library on the host and the program in the kernel on the same random packets: same reasons,
//! same bytes, same tables.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use ha_agent::proto::rng::Rng;
use ha_common::conn::{Conn4, ConnKey4};
use ha_common::control::Gate;
use ha_common::reason::Reason;
use ha_common::service::RealState;
use ha_tests::packet::{Frame, carp_header, flag};

use super::lab::{
    CLIENT, Lab, NAMES, NODE_BACK_MAC, NODE_MAC, ONE, OWN, RESOLVER, STRICT, THREE, TWIN, TWO,
    USUAL, VHID, VIP, WEB, id,
};
use super::partner::{EPOCH, KEYS, advert};
use super::world::Place;
use ha_tests::rig::bpf::Sizes;

/// Packets per seed.
const STEPS: usize = 400;

/// Runs a sequence in both places; returns the reasons that came up.
pub(crate) fn compare(kernel: &Place, seed: u64) -> Result<Vec<Reason>> {
    let sizes = Sizes { conns: 64, ..USUAL };
    let mut host = Lab::new(&Place::Host, sizes)?;
    let mut kernel = Lab::new(kernel, sizes)?;
    for lab in [&mut host, &mut kernel] {
        lab.know(EPOCH)?;
    }
    let mut rng = Rng::new(seed);
    for step in 0..STEPS {
        let context = || format!("seed {seed}, step {step}");
        disturb(&mut rng, [&mut host, &mut kernel])?;
        let frame = packet(&mut rng);
        let [there, here] = [kernel.world.run(&frame)?, host.world.run(&frame)?];
        ensure!(
            there == here,
            "{}: kernel {there:?}, host {here:?}",
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
    let what = rng.below(60);
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
            10 => lab.configure(|config| config.table_full ^= 1)?,
            11..=14 => lab.configure(|config| config.table_full = 0)?,
            15 => lab.world.set_slot(index, u32::from(real))?,
            _ => {}
        }
    }
    Ok(())
}

fn packet(rng: &mut Rng) -> Vec<u8> {
    let client = SocketAddrV4::new(*CLIENT.ip(), 40000 + rng.below(4) as u16);
    let services = [WEB, TWIN, STRICT, NAMES, SocketAddrV4::new(VIP, 9)];
    let reals = [ONE, TWO, THREE, RESOLVER];
    let service = services[rng.below(5) as usize];
    let real = reals[rng.below(4) as usize];
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
    let (from, to) = match rng.below(8) {
        0..=4 => (client, service),
        5 => (real, SocketAddrV4::new(OWN, 9)),
        _ => (real, client),
    };
    let frame = if to == NAMES || from == RESOLVER || rng.below(40) == 0 {
        let frame = Frame::udp(from, to);
        if rng.below(4) == 0 {
            frame.without_checksum()
        } else {
            frame
        }
    } else if rng.below(40) == 0 {
        if rng.below(2) == 0 {
            return advertisement(rng);
        }
        let vhid = VHID + rng.below(2) as u8;
        Frame::raw(*client.ip(), Ipv4Addr::new(224, 0, 0, 18), 112)
            .ttl(255)
            .payload(&carp_header(vhid))
    } else {
        // Numbers from a small range, so that handshakes do complete.
        let frame = Frame::tcp(from, to, flags);
        frame.numbers(5000 + rng.below(2) as u32, 5000 + rng.below(3) as u32)
    };
    let mac = [2, 0xc1, 0, 0, 0, rng.below(2) as u8];
    let node = if from == client {
        NODE_MAC
    } else {
        NODE_BACK_MAC
    };
    let mut frame = frame.macs(mac, node);
    let payload: Vec<u8> = (0..rng.below(40)).map(|_| rng.below(256) as u8).collect();
    if rng.below(3) == 0 {
        frame = frame.payload(&payload);
    }
    if rng.below(8) == 0 {
        frame = frame.tag(0x8100, 1);
    }
    if rng.below(30) == 0 {
        frame = frame.ttl(rng.below(3) as u8);
    }
    if rng.below(30) == 0 {
        frame = frame.fragment(rng.below(0x4000) as u16);
    }
    if rng.below(30) == 0 {
        frame = frame.options(&[1; 4]);
    }
    let mut bytes = frame.build();
    // What is broken must be broken in the same way.
    if rng.below(20) == 0 {
        bytes.truncate(14 + rng.below(50) as usize);
    }
    if rng.below(20) == 0 {
        let at = rng.below(bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << rng.below(8);
        }
    }
    bytes
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
