//! Packets that are not what they seem.

use ha_agent::config::model::CarpAuth;
use ha_agent::proto::carp::trailer::name_hash;
use ha_agent::proto::carp::wire::{Group, Header};
use ha_agent::proto::carp::{Action, Alarm, Role};
use ha_common::carp::HEADER_LEN;

use crate::Case;
use crate::script::{CABLE, FRONT, OWN, PARTNER, Packet, Script, TIMEOUT, ms, signer};

pub(crate) const CASES: &[Case] = &[
    (
        70,
        "replay",
        "Every packet of the partner again, on its link and later: counted, nothing else.\n\
        docs/protocol.md: a sequence is accepted once per link.",
        replay,
    ),
    (
        71,
        "reflection",
        "The node's own packets come back: counted, nothing else.\n\
        docs/protocol.md; OpenBSD drops its own cookie, FreeBSD and ucarp fall for it.",
        reflection,
    ),
    (
        72,
        "doctored-reflection",
        "An own packet with another interval in the CARP header, which no digest covers: the tag does.\n\
        docs/protocol.md, CARP advertisement; ucarp gives its address up to this packet.",
        doctored_reflection,
    ),
    (
        73,
        "recorded-epoch",
        "A recording of an earlier life of the partner: challenged, never answered, worth nothing.\n\
        docs/protocol.md: a new epoch is accepted only from a packet that echoes this node's own epoch.",
        recorded_epoch,
    ),
    (
        74,
        "restarted-partner",
        "A restarted partner answers the challenge and is accepted; its former epoch never is again.\n\
        docs/protocol.md: a new epoch is accepted only from a packet that echoes this node's own epoch.",
        restarted_partner,
    ),
    (
        75,
        "bad-tag",
        "One bit of a packet changed, each byte in turn: no byte is outside the tag.\n\
        docs/protocol.md: what the tag is computed over.",
        bad_tag,
    ),
    (
        76,
        "unknown-key",
        "A key id nobody has; the second of two live keys is as good as the first.\n\
        docs/protocol.md: two keys can be live, told apart by their id.",
        unknown_key,
    ),
    (
        77,
        "unsigned",
        "An advertisement without trailer in enforce mode, its digest right: dropped.\n\
        docs/configuration.md, ha.carp_auth: enforce.",
        unsigned,
    ),
    (
        78,
        "permissive-once-proven",
        "Permissive, and the partner has signed: from then on trailer-less advertisements are dropped.\n\
        docs/configuration.md, ha.carp_auth: permissive.",
        permissive_once_proven,
    ),
    (
        79,
        "wrong-source",
        "Right tag for another source address, and a right packet from the wrong one.\n\
        docs/protocol.md: a packet cannot be moved to another source.",
        wrong_source,
    ),
    (
        80,
        "wrong-link",
        "A HELLO moved to the other link.\n\
        docs/protocol.md: a packet cannot be moved to another link.",
        wrong_link,
    ),
    (
        81,
        "not-carp",
        "Truncated, VRRP version 3, VRRP version 2, bad checksum, another vhid: each has its counter.\n\
        docs/protocol.md, CARP advertisement.",
        not_carp,
    ),
    (
        82,
        "other-group",
        "Tag right, CARP digest wrong: passphrase or shared addresses differ. Accepted, with an alarm.\n\
        docs/protocol.md, CARP advertisement: digest.",
        other_group,
    ),
    (
        83,
        "silence-under-replay",
        "Replayed packets do not keep a dead active node alive.\n\
        docs/protocol.md: a sequence is accepted once per link.",
        silence_under_replay,
    ),
];

fn again(script: &mut Script, packets: &[Packet]) {
    for packet in packets {
        script.receive(packet);
    }
}

fn replay(script: &mut Script) {
    script.become_standby(3);
    let packets = script.heard.clone();
    let (before, term) = (script.actions.len(), script.term());
    again(script, &packets);
    assert_eq!(
        script.count("dropped_replayed"),
        packets.len() as u64 - 1 + 1
    );
    assert_eq!((script.actions.len(), script.term()), (before, term));
}

fn reflection(script: &mut Script) {
    script.become_active();
    let packets: Vec<Packet> = script.sent.iter().take(6).cloned().collect();
    let before = script.actions.len();
    again(script, &packets);
    assert_eq!(script.count("dropped_reflected"), 6);
    assert_eq!(script.actions.len(), before);
}

fn doctored_reflection(script: &mut Script) {
    script.become_active();
    let mut packet = script
        .sent
        .iter()
        .find(|packet| packet.advert)
        .unwrap()
        .clone();
    let mut header = Header::decode(&packet.payload).unwrap();
    (header.advbase, header.advskew) = (0, 1);
    packet.payload[..HEADER_LEN].copy_from_slice(&header.encode());
    let before = script.actions.len();
    script.say("from the partner's address");
    packet.source = PARTNER.into();
    script.receive(&packet);
    script.say("without the trailer");
    packet.payload.truncate(HEADER_LEN);
    script.receive(&packet);
    script.say("from the own address");
    packet.source = OWN.into();
    script.receive(&packet);
    assert_eq!(script.count("dropped_bad_tag"), 1);
    assert_eq!(script.count("dropped_unsigned"), 1);
    assert_eq!(script.count("dropped_reflected"), 1);
    let moved = &script.actions[before..];
    let alarms = |action: &Action| matches!(action, Action::Alarm { .. });
    assert!(moved.iter().all(alarms), "{moved:?}");
    assert!(script.is_open());
}

fn recorded_epoch(script: &mut Script) {
    script.become_active();
    script.follows = false;
    script.echoes = false;
    let genuine = script.partner;
    script.partner.epoch = 0x01d;
    script.partner.sequence = 500;
    script.partner.term = 900;
    script.partner.echo_epoch = 0x01d2;
    script.partner.role = ha_agent::proto::carp::trailer::WireRole::Active;
    let recording: Vec<Packet> = (0..3).map(|_| script.make_advert(0, 27)).collect();
    script.partner = genuine;
    let term = script.term();
    again(script, &recording);
    assert_eq!(script.count("dropped_unknown_epoch"), 3);
    script.echoes = true;
    script.follows = true;
    script.run(ms(300));
    assert_eq!((script.role(), script.term()), (Role::Active, term));
    assert!(script.is_open());
}

fn restarted_partner(script: &mut Script) {
    script.become_active();
    script.follows = false;
    script.echoes = false;
    let former = script.partner;
    script.partner.epoch = 0xcafe;
    script.partner.sequence = 0;
    (script.partner.echo_epoch, script.partner.echo_sequence) = (0, 0);
    script.echoes = true;
    script.hello(FRONT);
    assert_eq!(script.count("dropped_unknown_epoch"), 1);
    script.run(ms(30));
    script.hello(FRONT);
    assert!(script.is_open() && script.snapshot().partner.unwrap().heard);
    script.say("the former life");
    let present = script.partner;
    script.partner = former;
    script.hello(FRONT);
    script.partner = present;
    assert_eq!(script.count("dropped_retired_epoch"), 1);
}

fn bad_tag(script: &mut Script) {
    script.become_standby(3);
    let hello = script.make_hello(FRONT);
    let before = script.actions.len();
    for byte in (0..hello.payload.len()).step_by(5) {
        let mut changed = hello.clone();
        changed.payload[byte] ^= 1;
        script.receive(&changed);
    }
    assert_eq!(script.count("hello_accepted"), accepted(script));
    assert_eq!(script.actions.len(), before);
    assert!(script.count("dropped_bad_tag") >= 15);
}

/// HELLOs accepted before: those of `become_standby`, one on each link an interval.
fn accepted(script: &Script) -> u64 {
    script.heard.iter().filter(|packet| !packet.advert).count() as u64
        - script.count("dropped_bad_tag")
        - script.count("dropped_not_hello")
        - script.count("dropped_unknown_key")
        - script.count("dropped_unknown_epoch")
        - script.count("dropped_trailer_version")
}

fn unknown_key(script: &mut Script) {
    script.become_standby(3);
    let source = Script::source(FRONT);
    for (id, key) in [(2, [8; 16]), (3, [7; 16]), (2, [9; 16])] {
        script.partner.sequence += 1;
        let signer = ha_agent::proto::carp::trailer::Signer::new(110, vec![(id, key)]);
        let payload = signer.hello(source, &name_hash("front"), &script.partner);
        script.receive(&Packet {
            link: FRONT,
            source,
            advert: false,
            payload,
        });
    }
    assert_eq!(script.count("dropped_unknown_key"), 1);
    assert_eq!(script.count("dropped_bad_tag"), 1);
}

fn unsigned(script: &mut Script) {
    script.become_active();
    let mut packet = script.make_advert(0, 1);
    packet.payload.truncate(HEADER_LEN);
    script.receive(&packet);
    assert_eq!(script.count("dropped_unsigned"), 1);
    assert!(script.is_open());
}

fn permissive_once_proven(script: &mut Script) {
    script.config.auth = CarpAuth::Permissive;
    script.become_active();
    let mut packet = script.make_advert(0, 1);
    packet.payload.truncate(HEADER_LEN);
    script.receive(&packet);
    packet.source = [10, 0, 0, 66].into();
    script.receive(&packet);
    assert_eq!(script.count("dropped_unsigned"), 2);
    assert!(script.is_open());
}

fn wrong_source(script: &mut Script) {
    script.become_standby(3);
    let before = script.actions.len();
    let mut packet = script.make_hello(FRONT);
    packet.source = [10, 0, 0, 66].into();
    script.receive(&packet);
    script.say("signed for that address");
    script.partner.sequence += 1;
    packet.payload = signer().hello(packet.source, &name_hash("front"), &script.partner);
    script.receive(&packet);
    assert_eq!(script.count("dropped_bad_tag"), 1);
    assert_eq!(script.count("dropped_unexpected_source"), 1);
    assert_eq!(script.actions.len(), before);
}

fn wrong_link(script: &mut Script) {
    script.become_standby(3);
    let mut packet = script.make_hello(CABLE);
    packet.link = FRONT;
    script.receive(&packet);
    assert_eq!(script.count("dropped_bad_tag"), 1);
}

fn not_carp(script: &mut Script) {
    script.become_standby(3);
    let before = script.actions.len();
    let good = script.make_advert(0, 27);
    let mut change = |counter: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet.payload);
        script.receive(&packet);
        assert_eq!(script.count(counter), 1, "{counter}");
    };
    change("dropped_truncated", &|payload| payload.truncate(35));
    change("dropped_version", &|payload| payload[0] = 0x31);
    change("dropped_auth_length", &|payload| payload[3] = 1);
    change("dropped_checksum", &|payload| payload[7] ^= 1);
    let other = Group::new(b"secret", 111, &[]).header(0, 1, 1).encode();
    change("dropped_other_vhid", &|payload| {
        payload[..HEADER_LEN].copy_from_slice(&other);
    });
    assert_eq!(script.actions.len(), before);
}

fn other_group(script: &mut Script) {
    script.become_standby(3);
    let source = Script::source(FRONT);
    let header = Group::new(b"other", 110, &[[10, 0, 0, 100].into()])
        .header(0, 27, 9)
        .encode();
    script.partner.sequence += 1;
    let payload = signer().advert(source, &header, &script.partner);
    script.receive(&Packet {
        link: FRONT,
        source,
        advert: true,
        payload,
    });
    assert!(script.has_alarm(Alarm::CarpGroupDiffers));
    assert_eq!(script.count("digest_differs"), 1);
    assert_eq!(script.role(), Role::Standby);
}

fn silence_under_replay(script: &mut Script) {
    script.become_standby(3);
    let packets = script.heard.clone();
    script.run(ms(100));
    again(script, &packets);
    script.run(TIMEOUT - ms(200));
    assert!(
        script.is_open(),
        "one timeout after the last genuine packet"
    );
}
