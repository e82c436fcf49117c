//! Capture files, as `trace-packet` reads them; the data plane's logic takes every packet of them.

use std::net::SocketAddr;

use ha_agent::trace::model::FRAME_MAX;
use ha_agent::trace::pcap::read;

use super::{Seed, xdp_process};
use crate::packet::{Frame, flag};

/// Packets of a capture that are played.
const PLAYED: usize = 64;

/// Reads an input as a capture.
pub fn play(input: &[u8]) {
    let Ok(packets) = read(input) else {
        return;
    };
    let kept: usize = packets.iter().map(|packet| packet.kept).sum();
    assert!(kept <= input.len(), "more than there is");
    for packet in &packets {
        assert!(packet.kept <= packet.frame.len() && packet.frame.len() <= FRAME_MAX);
        assert!(packet.frame[packet.kept..].iter().all(|byte| *byte == 0));
    }
    let node = xdp_process::node([0, 0]);
    for packet in packets.iter().take(PLAYED) {
        xdp_process::run(&node, &packet.frame);
    }
}

/// Both formats in both byte orders.
pub fn seeds() -> Vec<Seed> {
    let client = SocketAddr::from(([10, 0, 0, 200], 4000));
    let web = SocketAddr::from(([10, 0, 0, 100], 80));
    let frames = [
        Frame::tcp(client, web, flag::SYN).build(),
        Frame::udp(client, web).payload(&[7; 40]).build(),
    ];
    let mut seeds = Vec::new();
    for (order, big) in [("little", false), ("big", true)] {
        for (unit, magic) in [("micro", 0xa1b2_c3d4), ("nano", 0xa1b2_3c4d)] {
            seeds.push((
                format!("classic-{order}-{unit}"),
                classic(big, magic, &frames),
            ));
        }
        seeds.push((format!("ng-{order}"), next_generation(big, &frames)));
    }
    seeds
}

/// Writes numbers in one byte order.
struct Writer {
    big: bool,
    out: Vec<u8>,
}

impl Writer {
    fn long(&mut self, number: u32) {
        let bytes = if self.big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        };
        self.out.extend(bytes);
    }

    fn short(&mut self, number: u16) {
        let bytes = if self.big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        };
        self.out.extend(bytes);
    }

    /// A block of pcapng.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Self)) {
        let mut inner = Self {
            big: self.big,
            out: Vec::new(),
        };
        body(&mut inner);
        inner.out.resize(inner.out.len().next_multiple_of(4), 0);
        let length = inner.out.len() as u32 + 12;
        self.long(kind);
        self.long(length);
        self.out.extend(inner.out);
        self.long(length);
    }
}

fn classic(big: bool, magic: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let out = Vec::new();
    let mut file = Writer { big, out };
    file.long(magic);
    file.short(2);
    file.short(4);
    for word in [0, 0, 0xffff, 1] {
        file.long(word);
    }
    for frame in frames {
        let length = frame.len() as u32;
        for word in [7, 8, length, length + 10] {
            file.long(word);
        }
        file.out.extend(frame);
    }
    file.out
}

fn next_generation(big: bool, frames: &[Vec<u8>]) -> Vec<u8> {
    let out = Vec::new();
    let mut file = Writer { big, out };
    file.block(0x0a0d_0d0a, |section| {
        section.long(0x1a2b_3c4d);
        section.short(1);
        section.short(0);
        section.long(u32::MAX);
        section.long(u32::MAX);
    });
    file.block(1, |interface| {
        interface.short(1);
        interface.short(0);
        interface.long(0);
    });
    for frame in frames {
        let length = frame.len() as u32;
        file.block(6, |packet| {
            for word in [0, 7, 8, length, length] {
                packet.long(word);
            }
            packet.out.extend(frame);
        });
        file.block(3, |packet| {
            packet.long(length);
            packet.out.extend(frame);
        });
        file.block(0xbad, |unknown| unknown.long(1));
    }
    file.out
}
