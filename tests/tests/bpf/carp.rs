//! CARP: what reaches the election, and what does not.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use ha_common::event::CARP_SEEN_BYTES;
use ha_common::reason::Reason;
use ha_tests::clock::now_ns;
use ha_tests::packet::{Frame, carp_header, checksum};
use ha_tests::rig::bpf::{INGRESS, Sizes};

use super::lab::{CLIENT_MAC, Case, Lab, USUAL, VHID};

pub(crate) const CASES: &[Case] = &[
    ("an_advertisement_is_delivered_whole", USUAL, delivered),
    ("a_long_advertisement_is_delivered_in_part", USUAL, long),
    ("options_do_not_hide_an_advertisement", USUAL, options),
    ("other_groups_and_vrrp_pass", USUAL, foreign),
    (
        "a_malformed_advertisement_is_counted_by_its_fault",
        USUAL,
        malformed,
    ),
    (
        "a_full_ring_is_counted",
        Sizes {
            carp: 4096,
            ..USUAL
        },
        full_ring,
    ),
    ("the_gate_does_not_matter", USUAL, gate),
];

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

fn advert(payload: &[u8]) -> Frame {
    Frame::raw(Ipv4Addr::new(10, 0, 0, 11), GROUP, 112)
        .macs(CLIENT_MAC, [0x01, 0, 0x5e, 0, 0, 0x12])
        .ttl(255)
        .payload(payload)
}

fn with_trailer(len: usize) -> Vec<u8> {
    let mut payload = carp_header(VHID);
    payload.extend((0..len).map(|byte| byte as u8));
    payload
}

fn delivered(lab: &mut Lab) -> Result<()> {
    for trailer in [0, 1, 92] {
        let mut frame = advert(&with_trailer(trailer)).build();
        let packet = frame[14..].to_vec();
        frame.resize(frame.len().max(60), 0);
        let before = now_ns();
        lab.untouched(&frame, Reason::CarpDelivered)?;
        let adverts = lab.world.adverts()?;
        let [seen] = adverts.as_slice() else {
            anyhow::bail!("{} records", adverts.len());
        };
        ensure!(
            seen.packet[..usize::from(seen.len)] == packet,
            "{:?}",
            seen.packet
        );
        ensure!(
            seen.packet[usize::from(seen.len)..]
                .iter()
                .all(|byte| *byte == 0),
            "rubbish"
        );
        ensure!(
            (before..=now_ns()).contains(&seen.at_ns),
            "at {}",
            seen.at_ns
        );
        ensure!(
            seen.source_mac == CLIENT_MAC && seen.ifindex == INGRESS,
            "{seen:?}"
        );
    }
    Ok(())
}

fn long(lab: &mut Lab) -> Result<()> {
    let frame = advert(&with_trailer(400)).build();
    lab.untouched(&frame, Reason::CarpDelivered)?;
    let adverts = lab.world.adverts()?;
    let seen = adverts.first().expect("one record");
    ensure!(
        usize::from(seen.len) == CARP_SEEN_BYTES,
        "{} bytes",
        seen.len
    );
    ensure!(
        seen.packet[..] == frame[14..14 + CARP_SEEN_BYTES],
        "other bytes"
    );
    Ok(())
}

fn options(lab: &mut Lab) -> Result<()> {
    for words in 1..=10 {
        let frame = advert(&with_trailer(92))
            .options(&vec![1; 4 * words])
            .build();
        lab.untouched(&frame, Reason::CarpDelivered)?;
    }
    ensure!(lab.world.adverts()?.len() == 10, "records");
    let tagged = advert(&with_trailer(92)).tag(0x8100, 9).build();
    lab.untouched(&tagged, Reason::CarpDelivered)
}

fn foreign(lab: &mut Lab) -> Result<()> {
    for frame in [
        advert(&carp_header(VHID + 1)),
        advert(&[0x21]),
        advert(&[]),
        advert(&with_trailer(92)).fragment(0x2000),
        advert(&with_trailer(92)).fragment(0x0001),
        // VRRP version 3 of another router.
        advert(&[0x31, 1, 100, 1, 0, 100, 0, 0, 10, 0, 0, 1]),
    ] {
        lab.untouched(&frame.build(), Reason::CarpForeign)?;
    }
    ensure!(lab.world.adverts()?.is_empty(), "a record");
    Ok(())
}

fn malformed(lab: &mut Lab) -> Result<()> {
    let good = with_trailer(92);
    lab.untouched(&advert(&good[..35]).build(), Reason::CarpTruncated)?;
    lab.untouched(&advert(&good[..2]).build(), Reason::CarpTruncated)?;
    // What the frame pads does not belong to the packet.
    let mut padded = advert(&good[..20]).build();
    padded.resize(100, 0);
    lab.untouched(&padded, Reason::CarpTruncated)?;
    for (offset, value) in [(0, 0x31), (0, 0x22), (3, 1)] {
        let mut other = good.clone();
        other[offset] = value;
        other[6..8].fill(0);
        let sum = checksum(&other[..36]).to_be_bytes();
        other[6..8].copy_from_slice(&sum);
        lab.untouched(&advert(&other).build(), Reason::CarpBadVersion)?;
    }
    lab.untouched(&advert(&good).ttl(254).build(), Reason::CarpBadTtl)?;
    for offset in [2, 4, 5, 6, 7, 8, 35] {
        let mut spoiled = good.clone();
        spoiled[offset] ^= 0x40;
        lab.untouched(&advert(&spoiled).build(), Reason::CarpBadChecksum)?;
    }
    ensure!(lab.world.adverts()?.is_empty(), "a record");
    Ok(())
}

fn full_ring(lab: &mut Lab) -> Result<()> {
    let frame = advert(&with_trailer(92)).build();
    let mut delivered = 0;
    loop {
        let ran = lab.world.run(&frame)?;
        lab.seen.push(ran.reason);
        match ran.reason {
            Reason::CarpDelivered => delivered += 1,
            Reason::CarpRingFull => break,
            other => anyhow::bail!("{other:?}"),
        }
        ensure!(delivered < 100, "the ring never fills");
    }
    ensure!(
        lab.world.adverts()?.len() == delivered,
        "records are missing"
    );
    lab.untouched(&frame, Reason::CarpDelivered)
}

fn gate(lab: &mut Lab) -> Result<()> {
    lab.world.set_gate(0)?;
    lab.untouched(&advert(&with_trailer(92)).build(), Reason::CarpDelivered)
}
