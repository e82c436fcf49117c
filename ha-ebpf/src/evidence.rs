//! Evidence for alarms: what should not happen is shown to user space, a few times a second of each
//! kind, so that a flood costs neither.

use ha_common::event::{Evidence, EvidenceKind};
use ha_common::pair::Rate;
use ha_common::reason::Tally;

use crate::packet::{Mac, Packet};
use crate::tables::{Tables, tally};

/// What is shown besides the kind.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit {
    /// Source of the packet, or the address that is claimed.
    pub address: [u32; 4],
    /// Who sent it, or says it has the address.
    pub mac: Mac,
    /// 4 or 6.
    pub family: u8,
    /// The id in the packet.
    pub vhid: u8,
    /// See [`EvidenceKind`].
    pub detail: u32,
}

/// Shows a packet to user space, if it is not one too many. Tells whether it did.
#[inline(always)]
pub fn show<P: Packet, T: Tables>(
    packet: &P,
    tables: T,
    kind: EvidenceKind,
    exhibit: &Exhibit,
) -> bool {
    let Some(bucket) = tables.bucket(kind as u32) else {
        return false;
    };
    // Two CPUs may take the same token. A bucket bounds work, it does not count.
    let now = tables.coarse_ns();
    let Some(left) = Rate::EVIDENCE.take(bucket.get(), now) else {
        return false;
    };
    bucket.update(|word| *word = left);
    let mut address = [0; 16];
    for (bytes, word) in address
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(exhibit.address)
    {
        *bytes = word.to_ne_bytes();
    }
    let shown = tables.evidence(&Evidence {
        at_ns: now,
        ifindex: packet.ingress(),
        detail: exhibit.detail,
        address,
        source_mac: exhibit.mac.bytes(),
        kind: kind as u8,
        family: exhibit.family,
        vhid: exhibit.vhid,
        pad: [0; 7],
    });
    if !shown {
        tally(tables, Tally::EvidenceLost);
    }
    shown
}
