//! Advertisements with a trailer: the partner's, or somebody's who would like to be.

use core::mem::offset_of;

use ha_common::carp::{HEADER_LEN, TRAILER_LEN, TRAILER_TAGGED_LEN, TRAILER_VERSION, trailer};
use ha_common::event::EvidenceKind;
use ha_common::pair::{Heard, Pair, Peer, Rate, TAG_PREFIX_WORDS};
use ha_common::reason::Reason;
use ha_common::siphash::SipHash128;

use super::Datagram;
use crate::packet::{Packet, Window};
use crate::parse::ethernet;
use crate::tables::{Shared, Tables, overtake, partner_epoch};

/// What the sender signed, the constant words before it aside, and its tag.
const SIGNED_LEN: usize = HEADER_LEN + TRAILER_LEN;
/// The role on the wire of a node that forwards.
const ACTIVE: u8 = 2;
/// The first word without the checksum of the header, in its last two bytes.
const WITHOUT_CHECKSUM: u64 = 0x0000_ffff_ffff_ffff;

/// Why an advertisement with a trailer is not delivered.
#[inline(never)]
pub(super) fn refusal<P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    ip: &Datagram,
    link: u32,
    peer: Shared<Peer>,
) -> Option<Reason> {
    if ip.payload_len() < SIGNED_LEN {
        return Some(Reason::CarpTruncated);
    }
    let source = ip.source(packet);
    let Some(signed) = packet.window::<SIGNED_LEN>(ip.start()) else {
        return Some(Reason::CarpTruncated);
    };
    let version: u8 = signed.load::<{ HEADER_LEN + trailer::VERSION }, _>();
    let key_id: u8 = signed.load::<{ HEADER_LEN + trailer::KEY_ID }, _>();
    let role: u8 = signed.load::<{ HEADER_LEN + trailer::ROLE }, _>();
    let epoch = u64::from_be(signed.load::<{ HEADER_LEN + trailer::EPOCH }, _>());
    let sequence = u64::from_be(signed.load::<{ HEADER_LEN + trailer::SEQUENCE }, _>());
    let term = u64::from_be(signed.load::<{ HEADER_LEN + trailer::TERM }, _>());
    let evidence = if version != TRAILER_VERSION {
        Some((EvidenceKind::CarpForeignVersion, Reason::CarpTrailerVersion))
    } else if !is::<{ offset_of!(Peer, address) }>(peer, source) {
        if is::<{ offset_of!(Peer, own) }>(peer, source) {
            return Some(Reason::CarpReflected);
        }
        Some((EvidenceKind::WrongSource, Reason::CarpWrongSource))
    } else {
        None
    };
    if let Some((kind, reason)) = evidence {
        ip.show(packet, tables, kind, version.into());
        return Some(reason);
    }
    let pair = tables.pair()?;
    if epoch == pair.load::<{ offset_of!(Pair, own_epoch) }, u64>() {
        return Some(Reason::CarpReflected);
    }
    let heard = tables.heard(link)?;
    let known = epoch == partner_epoch(tables) && epoch != 0;
    if known
        && heard.load::<{ offset_of!(Heard, epoch) }, u64>() == epoch
        && sequence <= heard.load::<{ offset_of!(Heard, sequence) }, u64>()
    {
        return Some(Reason::CarpReplayed);
    }
    let evidence = match key(peer, key_id) {
        None => Some((EvidenceKind::UnknownKey, Reason::CarpUnknownKey)),
        Some(state) if !is_tagged(&signed, state) => {
            Some((EvidenceKind::BadTag, Reason::CarpBadTag))
        }
        Some(_) => None,
    };
    if let Some((kind, reason)) = evidence {
        ip.show(packet, tables, kind, key_id.into());
        return Some(reason);
    }
    let mac = ethernet::source(packet);
    heard.update(|heard| mac.write(&mut heard.partner_mac));
    if known {
        heard.update(|heard| {
            heard.epoch = epoch;
            heard.sequence = sequence;
        });
        if role == ACTIVE {
            overtake(tables, term);
        }
        return None;
    }
    match Rate::STRANGERS.take(heard.get().strangers, tables.coarse_ns()) {
        Some(left) => {
            heard.update(|heard| heard.strangers = left);
            None
        }
        None => Some(Reason::CarpStrangerLimited),
    }
}

/// Whether the packet comes from the address at `OFFSET`.
#[inline(always)]
fn is<const OFFSET: usize>(peer: Shared<Peer>, source: [u32; 4]) -> bool {
    let known: [u32; 4] = peer.load::<OFFSET, _>();
    let mut difference = 0;
    for (source, known) in source.into_iter().zip(known) {
        difference |= source ^ known;
    }
    difference == 0
}

/// `SipHash`'s state under the key with this id.
#[inline(always)]
fn key(peer: Shared<Peer>, id: u8) -> Option<[u64; 4]> {
    let [first, second]: [u16; 2] = peer.load::<{ offset_of!(Peer, key_ids) }, _>();
    if u16::from(id) == first {
        Some(peer.load::<{ offset_of!(Peer, tags) }, _>())
    } else if u16::from(id) == second {
        Some(peer.load::<{ offset_of!(Peer, tags) + 32 }, _>())
    } else {
        None
    }
}

/// Whether the tag is that of the header, its checksum taken as zero, and the trailer.
#[inline(always)]
fn is_tagged(signed: &Window<'_, SIGNED_LEN>, state: [u64; 4]) -> bool {
    let mut hash = SipHash128::resume(state, TAG_PREFIX_WORDS);
    hash.word(u64::from_le(signed.load::<0, _>()) & WITHOUT_CHECKSUM);
    macro_rules! absorb {
        ($($offset:literal)+) => {
            const { assert!([0, $($offset),+].len() * 8 == HEADER_LEN + TRAILER_TAGGED_LEN) };
            $(hash.word(u64::from_le(signed.load::<$offset, _>()));)+
        };
    }
    absorb!(8 16 24 32 40 48 56 64 72 80 88 96 104);
    hash.ends_with([
        u64::from_le(signed.load::<{ HEADER_LEN + trailer::TAG }, _>()),
        u64::from_le(signed.load::<{ HEADER_LEN + trailer::TAG + 8 }, _>()),
    ])
}
