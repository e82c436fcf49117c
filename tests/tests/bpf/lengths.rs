//! Every template at every length: a verdict, no panic, and not a byte changed that is not the data
//! plane's to change.

use anyhow::{Context as _, Result, ensure};
use ha_common::reason::{Reason, Verdict};
use ha_tests::packet::verify_outer;

use super::lab::{CLIENT, Lab, NAMES, WEB, datagram};
use super::templates::templates;
use super::world::Ran;

/// Shortest and longest frame tried.
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=128;

/// Cut short or padded; the length in the IP header as it was, or as the frame has it.
pub(crate) fn sweep(lab: &mut Lab) -> Result<usize> {
    lab.connect(CLIENT, WEB)?;
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    let mut ran = 0;
    for template in templates(lab) {
        for len in LENGTHS {
            for consistent in [false, true] {
                let mut frame = template.clone();
                frame.resize(len, 0xee);
                if consistent {
                    adjust(&mut frame);
                }
                check(lab, &frame).with_context(|| format!("{frame:02x?}"))?;
                ran += 1;
            }
        }
        lab.world.events()?;
        lab.world.adverts()?;
    }
    Ok(ran)
}

/// Where the network header starts, and its type.
fn network(frame: &[u8]) -> (usize, u16) {
    let kind = |at: usize| {
        let bytes = frame.get(at..at + 2);
        bytes.map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let mut at = 12;
    while matches!(kind(at), 0x8100 | 0x88a8) {
        at += 4;
    }
    (at + 2, kind(at))
}

/// Makes the length in the IP header that of the frame.
fn adjust(frame: &mut [u8]) {
    let (start, kind) = network(frame);
    let behind = frame.len().saturating_sub(start);
    let (at, len) = match kind {
        0x0800 => (start + 2, behind),
        0x86dd => (start + 4, behind.saturating_sub(40)),
        _ => return,
    };
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&(len as u16).to_be_bytes());
    }
}

/// Runs a frame and looks at what became of it.
pub(crate) fn check(lab: &mut Lab, frame: &[u8]) -> Result<Reason> {
    let ran = lab.world.run(frame)?;
    let reason = ran.reason;
    lab.seen.push(reason);
    match reason {
        Reason::TtlAnswered | Reason::TooBigAnswered | Reason::ResetAnswered => {
            // Whole and right, whatever it is an answer to.
            verify_outer(&ran.frame).map_err(|error| anyhow::anyhow!("{reason:?}: {error}"))?;
        }
        Reason::ArpAnswered | Reason::NdAnswered => {
            ensure!(ran.frame.len() == frame.len(), "{reason:?}: another length");
        }
        Reason::ForwardKernel | Reason::ReverseKernel => forwarded(frame, &ran)?,
        // The frame ends here; what is left of it goes nowhere.
        _ if reason.verdict() == Verdict::Drop => {}
        _ if reason.verdict() == Verdict::Pass => {
            ensure!(ran.frame == frame, "{reason:?} changed the frame");
        }
        _ => forwarded(frame, &ran)?,
    }
    Ok(reason)
}

/// A packet that was sent on: nothing but addresses, ports, checksums and the time to live may differ.
fn forwarded(frame: &[u8], ran: &Ran) -> Result<()> {
    let (start, kind) = network(frame);
    let header = if kind == 0x0800 { 20 } else { 40 };
    let grown = ran.frame.len().checked_sub(frame.len());
    let grown = grown.context("the frame is shorter")?;
    ensure!(grown == 0 || grown == header, "the frame grew by {grown}");
    ensure!(ran.frame[12..start] == frame[12..start], "type or tags");
    let (before, after) = (&frame[start..], &ran.frame[start + grown..]);
    for (offset, (before, after)) in before.iter().zip(after).enumerate() {
        ensure!(
            before == after || may_change(&frame[start..], kind == 0x0800, offset),
            "{:?} changed byte {offset} of the packet to {after:#04x}",
            ran.reason
        );
    }
    Ok(())
}

/// Whether forwarding may change this byte of a packet.
fn may_change(packet: &[u8], v4: bool, offset: usize) -> bool {
    if v4 {
        if matches!(offset, 8 | 10..20) {
            return true;
        }
        let header = usize::from(packet[0] & 0x0f) * 4;
        return behind_header(packet, packet[9], header, offset, 20);
    }
    if matches!(offset, 7..40) {
        return true;
    }
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, 0 | 43 | 44 | 60) {
        let Some([following, len]) = packet.get(at..at + 2) else {
            return false;
        };
        at += if next == 44 {
            8
        } else {
            (usize::from(*len) + 1) * 8
        };
        next = *following;
    }
    behind_header(packet, next, at, offset, 40)
}

/// The same for what is behind the header of `header` bytes: ports and checksum, or an ICMP error and the
/// packet it repeats.
fn behind_header(packet: &[u8], protocol: u8, start: usize, offset: usize, header: usize) -> bool {
    let Some(offset) = offset.checked_sub(start) else {
        return false;
    };
    match protocol {
        6 => matches!(offset, 0..4 | 16..18),
        17 => matches!(offset, 0..4 | 6..8),
        1 | 58 => {
            let inner = 8 + header;
            match offset {
                2..4 => true,
                // The repeated header's checksum and addresses.
                _ if offset < 8 => false,
                _ if offset < inner && header == 20 => matches!(offset - 8, 10..20),
                _ if offset < inner => matches!(offset - 8, 8..40),
                _ => {
                    let at = start + 8 + if header == 20 { 9 } else { 6 };
                    let udp = packet.get(at) == Some(&17);
                    match offset - inner {
                        0..4 => true,
                        6..8 => udp,
                        16..18 => !udp,
                        _ => false,
                    }
                }
            }
        }
        _ => false,
    }
}
