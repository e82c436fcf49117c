//! Whom the data plane believes: tags, epochs, sequences, digests, and the term that closes the gate.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use ha_agent::proto::carp::trailer::WireRole;
use ha_agent::proto::carp::wire::Group;
use ha_agent::proto::rng::Rng;
use ha_common::carp::{HEADER_LEN, trailer};
use ha_common::control::Gate;
use ha_common::event::EvidenceKind;
use ha_common::pair::{Heard, Rate, auth};
use ha_common::reason::{Reason, Tally};
use ha_tests::packet::flag;

use super::lab::{CLIENT, Case, Lab, ONE, USUAL, VHID, WEB, at_server, from_client};
use super::partner::{
    self, Advert, EPOCH, KEYS, OWN_EPOCH, OWN4, OWN6, PARTNER4, PASSPHRASE, advert, frame, shared,
    sum,
};

pub(crate) const CASES: &[Case] = &[
    ("a_forgery_dies_by_its_tag", USUAL, forged),
    ("a_replay_dies_before_its_tag_is_checked", USUAL, replayed),
    ("a_reflection_is_dropped", USUAL, reflected),
    ("strangers_are_shown_by_kind", USUAL, strangers),
    ("both_live_keys_count", USUAL, two_keys),
    ("an_unknown_epoch_is_limited", USUAL, unknown_epoch),
    ("an_interface_of_no_link_expects_nothing", USUAL, no_link),
    (
        "only_a_higher_active_term_closes_the_gate",
        USUAL,
        overtaken,
    ),
    ("without_trailer_needs_permission", USUAL, trailerless),
    ("a_digest_is_checked_for_any_group", USUAL, digests),
    (
        "a_flood_without_trailer_does_not_cost_the_partner_anything",
        USUAL,
        trailerless_flood,
    ),
    ("evidence_is_limited_by_kind", USUAL, limited),
];

fn spoil(advert: &Advert, offset: usize, bit: u8) -> Vec<u8> {
    let mut payload = advert.payload();
    payload[offset] ^= bit;
    sum(&mut payload);
    frame(advert.source, &payload)
}

/// Offsets of a payload whose change must be noticed by the tag alone.
fn covered() -> impl Iterator<Item = usize> {
    let header = [2, 4, 5].into_iter().chain(8..HEADER_LEN);
    // Epoch and sequence decide before; so do magic, version and key.
    let at = |offset| HEADER_LEN + offset;
    header
        .chain(at(trailer::FLAGS)..at(trailer::EPOCH))
        .chain(at(trailer::TERM)..at(trailer::TAG + 16))
}

fn forged(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    for advert in [advert(50), advert(50).v6()] {
        for (number, offset) in covered().enumerate() {
            let forgery = spoil(&advert, offset, 1 << (number % 8));
            lab.untouched(&forgery, Reason::CarpBadTag)?;
        }
        // A higher sequence than was signed.
        let later = spoil(&advert, HEADER_LEN + trailer::SEQUENCE + 7, 0x80);
        lab.untouched(&later, Reason::CarpBadTag)?;
        // Signed with another key under the same id; of another sender; of another family's packet.
        let other = advert.clone().with(|advert| advert.key.1[3] ^= 1);
        lab.untouched(&other.frame(), Reason::CarpBadTag)?;
        let moved = frame(
            advert.source,
            &advert.clone().with(|a| a.source = OWN4.into()).payload(),
        );
        lab.untouched(&moved, Reason::CarpBadTag)?;
    }
    ensure!(lab.world.adverts()?.is_empty(), "a record");
    let shown = lab.world.evidence()?;
    ensure!(
        shown
            .iter()
            .all(|e| e.kind == EvidenceKind::BadTag as u8 && e.detail == 7),
        "{shown:?}"
    );
    ensure!(!shown.is_empty(), "no evidence");
    // None of it counts as heard.
    lab.untouched(&advert(1).frame(), Reason::CarpDelivered)
}

fn replayed(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    lab.untouched(&advert(10).frame(), Reason::CarpDelivered)?;
    for sequence in [10, 9, 1] {
        lab.untouched(&advert(sequence).frame(), Reason::CarpReplayed)?;
        lab.untouched(&advert(sequence).v6().frame(), Reason::CarpReplayed)?;
        let forgery = spoil(&advert(sequence), HEADER_LEN + trailer::TAG, 1);
        lab.untouched(&forgery, Reason::CarpReplayed)?;
    }
    ensure!(
        lab.world.evidence()?.is_empty(),
        "a late packet is no evidence"
    );
    lab.untouched(&advert(11).v6().frame(), Reason::CarpDelivered)?;
    // The partner has restarted: its numbers begin anew.
    lab.know(EPOCH + 1)?;
    let anew = advert(1).with(|advert| advert.body.epoch = EPOCH + 1);
    lab.untouched(&anew.frame(), Reason::CarpDelivered)?;
    lab.untouched(&anew.frame(), Reason::CarpReplayed)
}

fn reflected(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    for own in [IpAddr::from(OWN4), OWN6.into()] {
        let ours = advert(99).with(|advert| advert.source = own);
        lab.untouched(&ours.frame(), Reason::CarpReflected)?;
    }
    let ours = advert(99).with(|advert| advert.body.epoch = OWN_EPOCH);
    lab.untouched(&ours.frame(), Reason::CarpReflected)?;
    ensure!(lab.world.evidence()?.is_empty(), "evidence");
    Ok(())
}

fn strangers(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    let third = "10.0.0.13".parse()?;
    let elsewhere = advert(5).with(|advert| advert.source = third);
    lab.untouched(&elsewhere.frame(), Reason::CarpWrongSource)?;
    let shown = lab.shown(EvidenceKind::WrongSource)?;
    ensure!(shown.address[..4] == [10, 0, 0, 13], "{shown:?}");
    let key = advert(5).with(|advert| advert.key.0 = 9);
    lab.untouched(&key.frame(), Reason::CarpUnknownKey)?;
    ensure!(lab.shown(EvidenceKind::UnknownKey)?.detail == 9, "key id");
    let mut later = advert(5).payload();
    later[HEADER_LEN + trailer::VERSION] = 2;
    lab.untouched(&frame(PARTNER4.into(), &later), Reason::CarpTrailerVersion)?;
    let shown = lab.shown(EvidenceKind::CarpForeignVersion)?;
    ensure!(shown.detail == 2, "{shown:?}");
    ensure!(lab.world.adverts()?.is_empty(), "a record");
    Ok(())
}

fn two_keys(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    for (sequence, key) in (1..).zip(KEYS) {
        let signed = advert(sequence).with(|advert| advert.key = key);
        lab.untouched(&signed.frame(), Reason::CarpDelivered)?;
    }
    let swapped = advert(9).with(|advert| advert.key = (KEYS[0].0, KEYS[1].1));
    lab.untouched(&swapped.frame(), Reason::CarpBadTag)
}

fn unknown_epoch(lab: &mut Lab) -> Result<()> {
    // Whether the partner is known or not.
    for known in [0, EPOCH] {
        let mut lab = lab.anew()?;
        lab.know(known)?;
        let stranger = advert(3).with(|advert| advert.body.epoch = EPOCH + 7);
        for _ in 0..40 {
            let forgery = spoil(&stranger, HEADER_LEN + trailer::TAG, 1);
            lab.untouched(&forgery, Reason::CarpBadTag)?;
        }
        let mut delivered = 0;
        for _ in 0..200 {
            let ran = lab.world.run(&stranger.frame())?;
            lab.world.adverts()?;
            lab.seen.push(ran.reason);
            match ran.reason {
                Reason::CarpDelivered => delivered += 1,
                Reason::CarpStrangerLimited => {}
                other => anyhow::bail!("{other:?}"),
            }
        }
        ensure!(delivered >= Rate::STRANGERS.burst, "{delivered} delivered");
        if known != 0 {
            lab.untouched(&advert(1).frame(), Reason::CarpDelivered)?;
        }
    }
    let empty = Heard {
        strangers: u64::MAX,
        ..Heard::default()
    };
    lab.world.set_heard(0, empty)?;
    lab.untouched(&advert(3).frame(), Reason::CarpStrangerLimited)
}

fn no_link(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    let mut tables = partner::enforcing();
    tables.pair.ifindexes = [0; 16];
    lab.world.set_pair(&tables)?;
    lab.untouched(&advert(1).frame(), Reason::CarpNotExpected)?;
    // A family without addresses of the pair.
    let mut tables = partner::enforcing();
    tables.peers[1].expected = 0;
    lab.world.set_pair(&tables)?;
    lab.untouched(&advert(1).v6().frame(), Reason::CarpNotExpected)?;
    lab.untouched(&advert(1).frame(), Reason::CarpDelivered)
}

fn overtaken(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let open = Gate {
        until_ns: Gate::ALWAYS,
        term: 5,
        partner_epoch: EPOCH,
        ..Gate::default()
    };
    lab.world.put_gate(open)?;
    let claim = |sequence, term| advert(sequence).with(|advert| advert.body.term = term);
    let segment = from_client(CLIENT, WEB, flag::ACK);
    lab.untouched(&claim(10, 5).frame(), Reason::CarpDelivered)?;
    lab.untouched(&claim(11, 4).frame(), Reason::CarpDelivered)?;
    // Higher, but: forged, late, of an unknown epoch, from a standby node.
    lab.untouched(
        &spoil(&claim(12, 6), HEADER_LEN + trailer::TAG, 4),
        Reason::CarpBadTag,
    )?;
    lab.untouched(&claim(11, 6).frame(), Reason::CarpReplayed)?;
    let stranger = claim(12, 6).with(|advert| advert.body.epoch += 1);
    lab.untouched(&stranger.frame(), Reason::CarpDelivered)?;
    let standby = claim(12, 6).with(|advert| advert.body.role = WireRole::Standby);
    lab.untouched(&standby.frame(), Reason::CarpDelivered)?;
    ensure!(lab.world.gate()? == open, "{:?}", lab.world.gate()?);
    lab.becomes(&segment, Reason::ForwardRedirect, &at_server(&segment, ONE))?;
    lab.tallied(Tally::Overtaken, 0)?;

    lab.untouched(&claim(13, 6).v6().frame(), Reason::CarpDelivered)?;
    let closed = Gate {
        overtaken: 6,
        ..open
    };
    ensure!(lab.world.gate()? == closed, "{:?}", lab.world.gate()?);
    lab.untouched(&segment.build(), Reason::GateClosed)?;
    lab.tallied(Tally::Overtaken, 1)?;
    // A lower one does not take it back; a term of its own that is as high does.
    lab.untouched(&claim(14, 3).frame(), Reason::CarpDelivered)?;
    ensure!(lab.world.gate()? == closed, "{:?}", lab.world.gate()?);
    lab.world.put_gate(Gate { term: 7, ..closed })?;
    lab.becomes(&segment, Reason::ForwardRedirect, &at_server(&segment, ONE))
}

/// An advertisement without trailer.
fn bare(group: &Group, counter: u64) -> Vec<u8> {
    group.header(1, 0, counter).encode().to_vec()
}

fn trailerless(lab: &mut Lab) -> Result<()> {
    let foreigner = "10.0.0.77".parse()?;
    let group = Group::new(PASSPHRASE, VHID, &shared());
    let good = frame(foreigner, &bare(&group, 0x1122_3344_5566_7788));
    let mut bad = bare(&group, 1);
    bad[20] ^= 1;
    sum(&mut bad);
    let bad = frame(foreigner, &bad);
    lab.know(0)?;
    lab.untouched(&good, Reason::CarpNoTrailer)?;
    lab.shown(EvidenceKind::NoTrailer)?;
    // It counts as little, but it is told apart: another group.
    lab.untouched(&bad, Reason::CarpNoTrailer)?;
    lab.shown(EvidenceKind::BadDigest)?;
    lab.world
        .set_pair(&partner::tables(auth::PERMISSIVE, &shared()))?;
    lab.untouched(&good, Reason::CarpDelivered)?;
    lab.untouched(&bad, Reason::CarpBadDigest)?;
    ensure!(
        lab.shown(EvidenceKind::BadDigest)?.detail == 0x100,
        "advbase"
    );
    lab.know(EPOCH)?;
    lab.untouched(&good, Reason::CarpNoTrailer)?;
    lab.world.set_pair(&partner::tables(auth::OFF, &shared()))?;
    lab.untouched(&good, Reason::CarpDelivered)?;
    lab.untouched(&bad, Reason::CarpBadDigest)?;
    // Nobody is believed before the agent has said whom to believe.
    lab.world
        .set_pair(&partner::tables(auth::NONE, &shared()))?;
    lab.untouched(&good, Reason::CarpNoTrailer)
}

fn digests(lab: &mut Lab) -> Result<()> {
    lab.know(0)?;
    let mut rng = Rng::new(9);
    for count in 0..=20u8 {
        let mut shared: Vec<IpAddr> = (0..count).map(|n| [10, 0, 0, 100 + n].into()).collect();
        if count % 5 == 4 {
            shared.push(partner::VIP6.into());
        }
        let group = Group::new(PASSPHRASE, VHID, &shared);
        let tables = partner::tables(auth::OFF, &shared);
        lab.world.set_pair(&tables)?;
        for _ in 0..4 {
            let header = bare(&group, rng.next_u64());
            lab.untouched(&frame(PARTNER4.into(), &header), Reason::CarpDelivered)?;
            let mut wrong = header.clone();
            wrong[8 + rng.below(28) as usize] ^= 1 << rng.below(8);
            sum(&mut wrong);
            let wanted = if tables.digests[0].usable != 0 {
                Reason::CarpBadDigest
            } else {
                Reason::CarpDelivered
            };
            lab.untouched(&frame(PARTNER4.into(), &wrong), wanted)?;
        }
        lab.world.adverts()?;
    }
    Ok(())
}

fn trailerless_flood(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    lab.world.set_pair(&partner::tables(auth::OFF, &shared()))?;
    let mut bad = bare(&Group::new(PASSPHRASE, VHID, &shared()), 1);
    bad[20] ^= 1;
    sum(&mut bad);
    let bad = frame("10.0.0.77".parse()?, &bad);
    lab.untouched(&bad, Reason::CarpBadDigest)?;
    // As after a flood: a word that is never reached by the clock.
    lab.world.set_heard(
        0,
        Heard {
            trailerless: u64::MAX,
            ..Heard::default()
        },
    )?;
    for sequence in 1..20 {
        lab.untouched(&bad, Reason::CarpTrailerlessLimited)?;
        lab.untouched(&advert(sequence).frame(), Reason::CarpDelivered)?;
        lab.untouched(&bad, Reason::CarpTrailerlessLimited)?;
    }
    Ok(())
}

fn limited(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    let forgery = spoil(&advert(5), HEADER_LEN + trailer::TAG, 1);
    for _ in 0..300 {
        lab.untouched(&forgery, Reason::CarpBadTag)?;
    }
    let shown = lab.world.evidence()?.len() as u64;
    // Three hundred take a few seconds at worst.
    ensure!(
        (Rate::EVIDENCE.burst..300).contains(&shown),
        "{shown} records"
    );
    let key = advert(5).with(|advert| advert.key.0 = 9);
    lab.untouched(&key.frame(), Reason::CarpUnknownKey)?;
    lab.shown(EvidenceKind::UnknownKey)?;
    Ok(())
}
