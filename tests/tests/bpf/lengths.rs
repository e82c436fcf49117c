//! Every template at every length: a verdict, no panic, and not a byte changed that is not the data
//! plane's to change.

use super::partner::{PARTNER6, VIP6, advert, packet6};
use anyhow::{Result, ensure};
use ha_common::reason::{Reason, Verdict};
use ha_tests::packet::{Frame, arp_request, carp_header, flag};

use super::lab::{
    CLIENT, Lab, NAMES, ONE, RESOLVER, VHID, VIP, WEB, datagram, from_client, from_server,
};

/// Shortest and longest frame tried.
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=128;

fn templates() -> Vec<Vec<u8>> {
    let mut carp = carp_header(VHID);
    carp.extend([7; 92]);
    let frames = [
        from_client(CLIENT, WEB, flag::SYN),
        from_client(CLIENT, WEB, flag::ACK),
        from_client(CLIENT, WEB, flag::FIN | flag::ACK),
        from_client(CLIENT, WEB, flag::RST),
        from_server(ONE, CLIENT, flag::SYN | flag::ACK),
        from_server(ONE, CLIENT, flag::ACK),
        datagram(CLIENT, NAMES),
        Frame::udp(RESOLVER, CLIENT),
        Frame::raw(*CLIENT.ip(), VIP, 1),
        Frame::raw(*CLIENT.ip(), VIP, 112).ttl(255).payload(&carp),
        Frame::raw(*CLIENT.ip(), VIP, 112)
            .ttl(255)
            .options(&[1; 40])
            .payload(&carp),
        from_client(CLIENT, WEB, flag::ACK).options(&[1; 8]),
        from_client(CLIENT, WEB, flag::ACK).fragment(0x2001),
    ];
    let mut templates = vec![
        arp_request(*CLIENT.ip(), VIP),
        advert(1).frame(),
        advert(1).v6().frame(),
        packet6(PARTNER6, VIP6, 58, 255, &[136; 32]),
    ];
    for frame in frames {
        templates.push(frame.build());
        templates.push(frame.clone().tag(0x8100, 1).build());
        templates.push(frame.clone().tag(0x88a8, 1).tag(0x8100, 2).build());
        templates.push(
            frame
                .clone()
                .tag(0x88a8, 1)
                .tag(0x8100, 2)
                .tag(0x8100, 3)
                .build(),
        );
    }
    templates
}

/// Cut short or padded; the IPv4 length as it was, or as the frame has it.
pub(crate) fn sweep(lab: &mut Lab) -> Result<usize> {
    let mut ran = 0;
    for template in templates() {
        for len in LENGTHS {
            for consistent in [false, true] {
                let mut frame = template.clone();
                frame.resize(len, 0xee);
                if consistent {
                    adjust(&mut frame);
                }
                check(lab, &frame)?;
                ran += 1;
            }
        }
    }
    Ok(ran)
}

/// Makes the IPv4 length that of the frame.
fn adjust(frame: &mut [u8]) {
    let tags = frame
        .get(12..)
        .into_iter()
        .flat_map(|rest| rest.chunks(4))
        .take_while(|tag| matches!(tag, [0x81, 0, ..] | [0x88, 0xa8, ..]))
        .count();
    let start = 14 + 4 * tags;
    let len = frame.len().saturating_sub(start) as u16;
    if let Some(field) = frame.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

fn check(lab: &mut Lab, frame: &[u8]) -> Result<()> {
    let after = lab.world.run(frame)?;
    lab.seen.push(after.reason);
    ensure!(after.frame.len() == frame.len(), "another length");
    let translated = matches!(
        after.reason.verdict(),
        Verdict::Redirect | Verdict::Transmit
    ) || matches!(after.reason, Reason::ForwardKernel | Reason::ReverseKernel);
    let changed: Vec<usize> = frame
        .iter()
        .zip(&after.frame)
        .enumerate()
        .filter_map(|(offset, (before, after))| (before != after).then_some(offset))
        .collect();
    if !translated {
        ensure!(
            changed.is_empty(),
            "{:?} changed bytes {changed:?}",
            after.reason
        );
        return Ok(());
    }
    // MACs; or, relative to the IPv4 header: TTL, checksum, addresses, ports, transport checksum.
    let l3 = frame
        .windows(2)
        .position(|pair| pair == [8, 0])
        .map_or(14, |at| at + 2);
    for offset in changed {
        let ours = offset < 12
            || offset.checked_sub(l3).is_some_and(
                |offset| matches!(offset, 8 | 10..=11 | 12..=19 | 20..=23 | 26..=27 | 36..=37),
            );
        ensure!(ours, "{:?} changed byte {offset}", after.reason);
    }
    Ok(())
}
