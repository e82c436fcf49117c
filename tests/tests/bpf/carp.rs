//! CARP: whose it is, whether its form is right, and that it reaches the ring as it came.

use anyhow::{Result, ensure};
use ha_common::carp::{HEADER_LEN, trailer};
use ha_common::event::{CARP_SEEN_BYTES, EvidenceKind};
use ha_common::reason::Reason;
use ha_tests::clock::now_ns;
use ha_tests::packet::{Frame, carp_header};
use ha_tests::rig::bpf::{INGRESS, Sizes};

use super::lab::{Case, Lab, NODE_MAC, USUAL, VHID};
use super::partner::{
    EPOCH, OWN4, PARTNER_MAC, PARTNER4, PARTNER6, advert, frame, packet4, packet6, sum,
};

pub(crate) const CASES: &[Case] = &[
    ("an_advertisement_reaches_the_ring", USUAL, delivered),
    ("an_advertisement_may_come_by_unicast", USUAL, unicast),
    ("a_long_advertisement_is_cut", USUAL, long),
    ("options_do_not_hide_an_advertisement", USUAL, options),
    ("other_groups_and_vrrp_pass", USUAL, foreign),
    (
        "a_malformed_advertisement_is_counted_by_its_fault",
        USUAL,
        malformed,
    ),
    ("vrrp_with_our_id_is_shown", USUAL, vrrp),
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

fn packet(payload: &[u8]) -> Frame {
    packet4(PARTNER4, payload)
}

fn delivered(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    for (sequence, padding) in (1..).zip([0, 1, 60]) {
        for advert in [advert(2 * sequence), advert(2 * sequence + 1).v6()] {
            let mut frame = advert.frame();
            let packet = frame[14..].to_vec();
            frame.resize(frame.len() + padding, 0xee);
            let before = now_ns();
            lab.untouched(&frame, Reason::CarpDelivered)?;
            let adverts = lab.world.adverts()?;
            let [seen] = adverts.as_slice() else {
                anyhow::bail!("{} records", adverts.len());
            };
            let (known, rest) = seen.packet.split_at(usize::from(seen.len));
            ensure!(known == packet, "{:?}", seen.packet);
            ensure!(rest.iter().all(|byte| *byte == 0), "rubbish");
            ensure!((before..=now_ns()).contains(&seen.at_ns), "{}", seen.at_ns);
            ensure!(
                seen.source_mac == PARTNER_MAC && seen.ifindex == INGRESS,
                "{seen:?}"
            );
        }
    }
    Ok(())
}

/// To the node's own address: checked as to the group, and delivered once of both ways.
fn unicast(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    for (sequence, mac) in (1..).zip([NODE_MAC, [0xff; 6]]) {
        let group = advert(sequence);
        let own = |payload: &[u8]| {
            let packet = Frame::raw(PARTNER4, OWN4, 112);
            packet.macs(PARTNER_MAC, mac).ttl(255).payload(payload)
        };
        let mut forged = group.payload();
        forged[HEADER_LEN + trailer::TAG] ^= 1;
        lab.untouched(&own(&forged).build(), Reason::CarpBadTag)?;
        lab.untouched(&own(&group.payload()).build(), Reason::CarpDelivered)?;
        lab.untouched(&group.frame(), Reason::CarpReplayed)?;
    }
    ensure!(lab.world.adverts()?.len() == 2, "records");
    Ok(())
}

fn long(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    let mut payload = advert(1).payload();
    payload.resize(400, 0x77);
    let frame = packet(&payload).build();
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
    lab.know(EPOCH)?;
    for words in 1..=10 {
        let frame = packet(&advert(words as u64).payload())
            .options(&vec![1; 4 * words])
            .build();
        lab.untouched(&frame, Reason::CarpDelivered)?;
    }
    ensure!(lab.world.adverts()?.len() == 10, "records");
    let tagged = packet(&advert(11).payload()).tag(0x8100, 9).build();
    lab.untouched(&tagged, Reason::CarpDelivered)?;
    let twice = packet(&advert(12).payload())
        .tag(0x88a8, 9)
        .tag(0x8100, 9)
        .options(&[1; 40]);
    lab.untouched(&twice.build(), Reason::CarpDelivered)
}

fn foreign(lab: &mut Lab) -> Result<()> {
    for frame in [
        packet(&carp_header(VHID + 1)),
        packet(&[0x21]),
        packet(&[]),
        packet(&advert(1).payload()).fragment(0x2000),
        packet(&advert(1).payload()).fragment(0x0001),
        // VRRP version 3 of another router.
        packet(&[0x31, 1, 100, 1, 0, 100, 0, 0, 10, 0, 0, 1]),
    ] {
        lab.untouched(&frame.build(), Reason::CarpForeign)?;
    }
    lab.untouched(
        &frame(PARTNER6.into(), &carp_header(VHID + 1)),
        Reason::CarpForeign,
    )?;
    ensure!(lab.world.adverts()?.is_empty(), "a record");
    ensure!(lab.world.evidence()?.is_empty(), "evidence");
    Ok(())
}

fn malformed(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    for advert in [advert(1), advert(1).v6()] {
        let good = advert.payload();
        let frame = |payload: &[u8]| frame(advert.source, payload);
        lab.untouched(&frame(&good[..35]), Reason::CarpTruncated)?;
        lab.untouched(&frame(&good[..3]), Reason::CarpTruncated)?;
        lab.untouched(&frame(&good[..2]), Reason::CarpTruncated)?;
        // A trailer that ends too soon.
        lab.untouched(&frame(&good[..40]), Reason::CarpTruncated)?;
        lab.untouched(&frame(&good[..127]), Reason::CarpTruncated)?;
        // What the frame pads does not belong to the packet.
        let mut padded = frame(&good[..20]);
        padded.resize(200, 0);
        lab.untouched(&padded, Reason::CarpTruncated)?;
        for (offset, value) in [(0, 0x31), (0, 0x22), (3, 1)] {
            let mut other = good.clone();
            other[offset] = value;
            sum(&mut other);
            lab.untouched(&frame(&other), Reason::CarpBadVersion)?;
        }
        for offset in [2, 4, 5, 6, 7, 8, 35] {
            let mut spoiled = good.clone();
            spoiled[offset] ^= 0x40;
            lab.untouched(&frame(&spoiled), Reason::CarpBadChecksum)?;
        }
    }
    let good = advert(1).payload();
    lab.untouched(&packet(&good).ttl(254).build(), Reason::CarpBadTtl)?;
    let group = "ff02::12".parse()?;
    let routed = packet6(PARTNER6, group, 112, 64, &advert(1).v6().payload());
    lab.untouched(&routed, Reason::CarpBadTtl)?;
    ensure!(lab.world.adverts()?.is_empty(), "a record");
    Ok(())
}

fn vrrp(lab: &mut Lab) -> Result<()> {
    let v3 = [0x31, VHID, 100, 1, 0, 100, 0, 0, 10, 0, 0, 1];
    let v2 = [0x21, VHID, 100, 1, 1, 1, 0, 0, 10, 0, 0, 1];
    let later = [0x41, VHID, 0, 7, 0, 0, 0, 0];
    for (payload, kind) in [
        (v3.as_slice(), EvidenceKind::VrrpSameVhid),
        (&v2, EvidenceKind::VrrpSameVhid),
        (&later, EvidenceKind::CarpForeignVersion),
    ] {
        lab.untouched(&packet(payload).build(), Reason::CarpBadVersion)?;
        let shown = lab.shown(kind)?;
        ensure!(
            shown.detail == u32::from(payload[0]) && shown.vhid == VHID && shown.family == 4,
            "{shown:?}"
        );
        ensure!(shown.address[..4] == PARTNER4.octets(), "{shown:?}");
        ensure!(shown.source_mac == PARTNER_MAC, "{shown:?}");
    }
    Ok(())
}

fn full_ring(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    let mut delivered = 0;
    loop {
        let ran = lab.world.run(&advert(delivered + 1).frame())?;
        lab.seen.push(ran.reason);
        match ran.reason {
            Reason::CarpDelivered => delivered += 1,
            Reason::CarpRingFull => break,
            other => anyhow::bail!("{other:?}"),
        }
        ensure!(delivered < 100, "the ring never fills");
    }
    ensure!(
        lab.world.adverts()?.len() as u64 == delivered,
        "records are missing"
    );
    lab.untouched(&advert(delivered + 2).frame(), Reason::CarpDelivered)
}

fn gate(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    let mut gate = lab.world.gate()?;
    gate.until_ns = 0;
    lab.world.put_gate(gate)?;
    lab.untouched(&advert(1).frame(), Reason::CarpDelivered)
}
