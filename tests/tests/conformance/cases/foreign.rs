//! Peers that know no trailer: captures of ucarp 1.5.2, and packets made as it makes them.

use std::time::Duration;

use ha_agent::config::model::CarpAuth;
use ha_agent::proto::carp::{Role, RoleReason};

use crate::Case;
use crate::script::{Script, ms};

pub(crate) const CASES: &[Case] = &[
    (
        90,
        "ucarp-master",
        "A captured ucarp master is followed, and replaced three seconds after its last packet.\n\
        ucarp 1.5.2, fixtures/carp/ucarp-v1-secret.pcap; ucarp itself needs four seconds.",
        ucarp_master,
    ),
    (
        91,
        "ucarp-bow-out",
        "A captured bow-out is taken at once.\n\
        OpenBSD ip_carp.c sends 255/255; fixtures/carp/bow-out-to-ucarp.pcap.",
        ucarp_bow_out,
    ),
    (
        92,
        "ucarp-enforced",
        "The same master in enforce mode does not count at all.\n\
        docs/configuration.md, ha.carp_auth: enforce; ucarp 1.5.2.",
        ucarp_enforced,
    ),
    (
        93,
        "ucarp-other-address",
        "Masters of the same vhid with another address: their digest is wrong, they do not count.\n\
        ucarp 1.5.2, fixtures/carp/ucarp-same-vhid-diff-vip.pcap.",
        ucarp_other_address,
    ),
    (
        94,
        "faster-foreign-master",
        "An active node gives way to a foreign one that advertises faster.\n\
        ucarp 1.5.2 and OpenBSD: the lower interval wins.",
        faster_foreign_master,
    ),
    (
        95,
        "slower-foreign-master",
        "A slower one is told otherwise: an advertisement and the announcements at once.\n\
        ucarp 1.5.2 and OpenBSD: the lower interval wins.",
        slower_foreign_master,
    ),
    (
        96,
        "foreign-tie",
        "Equal intervals: ucarp compares the addresses, last octet first.\n\
        ucarp 1.5.2 carp.c; measured in fixtures/carp/ucarp-splitbrain-heal-10.99.1.1-10.99.0.9.pcap.",
        foreign_tie,
    ),
];

fn ucarp_master(script: &mut Script) {
    script.with_ucarp(CarpAuth::Permissive);
    script.run(ms(10));
    script.capture("ucarp-v1-secret.pcap", 4);
    assert!(script.count("foreign_accepted") >= 2);
    assert_eq!(script.role(), Role::Standby);
    script.run(ms(2990));
    assert!(!script.is_open());
    script.run(ms(110));
    assert!(script.is_open());
    assert_eq!(script.last_reason(), Some(RoleReason::ForeignSilent));
}

fn ucarp_bow_out(script: &mut Script) {
    script.with_ucarp(CarpAuth::Off);
    script.run(ms(10));
    script.foreign(1, 1, 0);
    script.run(Duration::from_secs(1));
    for _ in 0..3 {
        script.foreign(1, 1, 0);
        script.run(Duration::from_secs(1));
    }
    assert_eq!(script.role(), Role::Standby);
    script.foreign(1, 255, 255);
    assert_eq!(script.last_reason(), Some(RoleReason::ForeignGone));
    assert!(script.is_open());
}

fn ucarp_enforced(script: &mut Script) {
    script.with_ucarp(CarpAuth::Enforce);
    script.run(ms(10));
    script.capture("ucarp-v1-secret.pcap", 4);
    assert_eq!(script.count("dropped_unsigned"), 4);
    script.run(Duration::from_secs(3));
    assert!(script.is_open());
    assert_eq!(script.last_reason(), Some(RoleReason::PartnerSilent));
}

fn ucarp_other_address(script: &mut Script) {
    script.with_ucarp(CarpAuth::Off);
    script.passphrase = "pw";
    script.config.vhid = 5;
    script.config.links[0].shared = vec![[10, 99, 0, 77].into()];
    script.run(ms(10));
    script.capture("ucarp-same-vhid-diff-vip.pcap", 6);
    assert_eq!(script.count("dropped_bad_digest"), 6);
    assert_eq!(script.count("foreign_accepted"), 0);
}

fn faster_foreign_master(script: &mut Script) {
    script.with_ucarp(CarpAuth::Off);
    script.run(Duration::from_secs(3));
    assert!(script.is_open());
    script.foreign(1, 0, 100);
    assert!(!script.is_open());
    assert_eq!(script.last_reason(), Some(RoleReason::ForeignFaster));
}

fn slower_foreign_master(script: &mut Script) {
    script.with_ucarp(CarpAuth::Off);
    script.run(Duration::from_secs(6));
    let (announced, sent) = (script.announcements(), script.sent.len());
    script.foreign(1, 1, 50);
    assert!(script.is_open());
    assert_eq!(script.announcements(), announced + 1);
    assert!(script.sent[sent..].iter().any(|packet| packet.advert));
}

fn foreign_tie(script: &mut Script) {
    script.with_ucarp(CarpAuth::Off);
    script.config.links[0].addresses = vec![[10, 99, 0, 9].into()];
    script.run(Duration::from_secs(3));
    assert!(script.is_open());
    script.say("10.99.0.10 is higher in its last octet");
    script.foreign(10, 1, 0);
    assert!(script.is_open());
    script.say("10.99.0.1 is lower");
    script.foreign(1, 1, 0);
    assert!(!script.is_open());
}
