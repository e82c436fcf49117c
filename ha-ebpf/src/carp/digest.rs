//! Advertisements without trailer, of `ucarp` or a BSD: believed if they are to be, and if their
//! HMAC-SHA1 is right.
//!
//! The digest costs several times what a tag does, so it is computed only as often as the link's bucket
//! allows. The partner needs no token: it has a trailer. Where nobody is believed without one, some are
//! looked at all the same, to tell user space who they are.

use core::mem::offset_of;

use ha_common::carp::{HEADER_LEN, field};
use ha_common::event::EvidenceKind;
use ha_common::pair::{Digest, Pair, Rate, auth, peer_index};
use ha_common::reason::Reason;
use ha_common::sha1::{self, Block, State};

use super::Datagram;
use crate::packet::{Packet, Window};
use crate::tables::{Shared, Tables, partner_epoch};

/// Why an advertisement without trailer is not delivered.
#[inline(never)]
pub(super) fn refusal<P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    ip: &Datagram,
    link: u32,
) -> Option<Reason> {
    let believed = match tables.pair()?.load::<{ offset_of!(Pair, auth) }, u32>() {
        auth::OFF => true,
        auth::PERMISSIVE => partner_epoch(tables) == 0,
        _ => false,
    };
    let heard = tables.heard(link)?;
    let (rate, limited) = if believed {
        (Rate::TRAILERLESS, Reason::CarpTrailerlessLimited)
    } else {
        (Rate::NAMED, Reason::CarpNoTrailer)
    };
    match rate.take(heard.get().trailerless, tables.coarse_ns()) {
        Some(left) => heard.update(|heard| heard.trailerless = left),
        None => return Some(limited),
    }
    let digest = tables.digest(peer_index(link, ip.v6))?;
    let usable = digest.load::<{ offset_of!(Digest, usable) }, u32>() != 0;
    let Some(carp) = packet.window::<HEADER_LEN>(ip.start()) else {
        return Some(Reason::CarpTruncated);
    };
    let speed = u32::from(carp.load::<{ field::ADVBASE }, u8>()) << 8
        | u32::from(carp.load::<{ field::ADVSKEW }, u8>());
    let wrong = usable && !is_digest(&carp, digest);
    if believed && !wrong {
        return None;
    }
    let kind = if wrong {
        EvidenceKind::BadDigest
    } else {
        EvidenceKind::NoTrailer
    };
    ip.show(packet, tables, kind, speed);
    Some(if believed {
        Reason::CarpBadDigest
    } else {
        Reason::CarpNoTrailer
    })
}

/// Whether the header's digest is that of the group for the header's counter.
#[inline(always)]
fn is_digest(carp: &Window<'_, HEADER_LEN>, digest: Shared<Digest>) -> bool {
    let mut hash: State = digest.load::<{ offset_of!(Digest, inner) }, _>();
    let counter: [u32; 2] = carp.load::<{ field::COUNTER }, _>();
    hash[0] = inner(digest, &mut hash, counter[0], counter[1]);
    hash[0] = outer(digest, &mut hash);
    let sent: State = carp.load::<{ field::DIGEST }, _>();
    let mut difference = 0;
    for (right, sent) in hash.into_iter().zip(sent) {
        difference |= right ^ u32::from_be(sent);
    }
    difference == 0
}

/// Takes the last block, with the counter in it, into the inner hash; returns its first word.
///
/// A function of its own, like the next: both blocks on one stack would be too much.
#[inline(never)]
fn inner(digest: Shared<Digest>, hash: &mut State, high: u32, low: u32) -> u32 {
    let mut block: Block = [0; 16];
    digest.copy::<{ offset_of!(Digest, last) }, 16>(&mut block);
    let at = digest.load::<{ offset_of!(Digest, counter_at) }, u32>() as usize;
    // The counter may begin in the middle of a word, so it lies across three of them.
    let shift = (at % 4) * 8;
    let [high, low] = [high, low].map(|word| u64::from(u32::from_be(word)) << 32 >> shift);
    for (index, piece) in [high >> 32, high | low >> 32, low].into_iter().enumerate() {
        if let Some(word) = block.get_mut((at / 4 + index) % 16) {
            *word |= piece as u32;
        }
    }
    sha1::compress(hash, &mut block)
}

/// Turns the inner hash into the outer one; returns its first word.
#[inline(never)]
fn outer(digest: Shared<Digest>, hash: &mut State) -> u32 {
    let mut block = sha1::hmac_last(hash);
    *hash = digest.load::<{ offset_of!(Digest, outer) }, _>();
    sha1::compress(hash, &mut block)
}
