//! What a record of evidence means, and how often each was seen. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_common::event::{Evidence, EvidenceKind};

use crate::proto::time::Instant;
use crate::shell::alarms::{EACH, Kind, SHOWN};
use crate::shell::frame::{Mac, mac_text};

/// Details below are versions of trailers; CARP has its version in the upper half of the byte.
const TRAILER_VERSIONS: u32 = 0x10;

/// A record in terms of alarms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// Its alarm.
    pub(super) kind: Kind,
    /// Source of the packet, or the address that is claimed.
    pub(super) address: IpAddr,
    mac: Mac,
    /// What was seen, up to the sender.
    what: String,
}

impl Sighting {
    /// `None` for a kind that a newer data plane may have.
    pub(super) fn of(record: &Evidence) -> Option<Self> {
        let detail = record.detail;
        let speed = || format!("advbase {}, advskew {}", detail >> 8 & 0xff, detail & 0xff);
        let (kind, what) = match EvidenceKind::from_u8(record.kind)? {
            EvidenceKind::BadTag => (
                Kind::BadTag,
                format!("advertisements with a wrong tag of key {detail}"),
            ),
            EvidenceKind::UnknownKey => (
                Kind::UnknownKey,
                format!("advertisements signed with key {detail}"),
            ),
            EvidenceKind::BadDigest => (
                Kind::CarpGroupDiffers,
                format!(
                    "advertisements for this virtual_id with another digest ({})",
                    speed()
                ),
            ),
            EvidenceKind::NoTrailer => (
                Kind::UnsignedPeer,
                format!("advertisements without trailer ({})", speed()),
            ),
            EvidenceKind::WrongSource => (
                Kind::WrongSource,
                "advertisements with a trailer".to_owned(),
            ),
            EvidenceKind::VrrpSameVhid => (
                Kind::VrrpSameVhid,
                format!(
                    "VRRP version {} with router id {}",
                    detail >> 4,
                    record.vhid
                ),
            ),
            EvidenceKind::CarpForeignVersion if detail < TRAILER_VERSIONS => (
                Kind::VersionMismatch,
                format!("advertisements with a trailer of layout version {detail}"),
            ),
            EvidenceKind::CarpForeignVersion => (
                Kind::CarpForeignVersion,
                format!("CARP, first byte {detail:#04x}"),
            ),
            EvidenceKind::DuplicateAddress => (
                Kind::DuplicateAddress,
                if detail == 1 {
                    "claims to have the shared address"
                } else {
                    "claims to have this node's address"
                }
                .to_owned(),
            ),
        };
        Some(Self {
            kind,
            address: address(record),
            mac: record.source_mac,
            what,
        })
    }
}

/// The address in a record.
pub(super) fn address(record: &Evidence) -> IpAddr {
    let [a, b, c, d, ..] = record.address;
    if record.family == 6 {
        Ipv6Addr::from(record.address).into()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    }
}

#[derive(Debug)]
struct Times {
    first: Instant,
    last: Instant,
    count: u64,
}

/// How often each thing was seen, as long as its alarm is shown.
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<(Kind, String), Times>);

impl Ledger {
    /// Counts a sighting. What its alarm is about and what it says, unless there are too many of the kind.
    pub(super) fn note(
        &mut self,
        now: Instant,
        sighting: &Sighting,
        interface: &str,
    ) -> Option<(String, String)> {
        let Sighting {
            kind,
            address,
            mac,
            what,
        } = sighting;
        let mac = mac_text(*mac);
        let about = format!("{address} {mac} {interface}");
        let key = (*kind, about.clone());
        let others = self.0.keys().filter(|(known, _)| known == kind).count();
        if others >= EACH && !self.0.contains_key(&key) {
            return None;
        }
        let times = self.0.entry(key).or_insert(Times {
            first: now,
            last: now,
            count: 0,
        });
        times.last = now;
        times.count += 1;
        let since = now.since(times.first).as_secs();
        let how_often = format!("{} times in {since} s", times.count);
        let text = if *kind == Kind::DuplicateAddress {
            format!("{mac} on {interface} {what} {address}; {how_often}")
        } else {
            format!("{what}, from {address} ({mac}) on {interface}; {how_often}")
        };
        Some((about, text))
    }

    /// Forgets what was not seen for as long as an alarm is shown.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, times| now < times.last + SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: EvidenceKind, detail: u32) -> Evidence {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, 66]);
        Evidence {
            kind: kind as u8,
            detail,
            address,
            source_mac: [2, 0x66, 0, 0, 0, 0xa],
            family: 4,
            vhid: 110,
            ..Evidence::default()
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn every_kind_has_a_name_and_says_who_and_where() {
        let cases = [
            (EvidenceKind::BadTag, 7, "bad_tag", "wrong tag of key 7"),
            (
                EvidenceKind::UnknownKey,
                9,
                "unknown_key",
                "signed with key 9",
            ),
            (
                EvidenceKind::BadDigest,
                0x164,
                "carp_group_differs",
                "advbase 1, advskew 100",
            ),
            (
                EvidenceKind::NoTrailer,
                0x100,
                "unsigned_peer",
                "without trailer",
            ),
            (
                EvidenceKind::WrongSource,
                1,
                "wrong_source",
                "with a trailer",
            ),
            (
                EvidenceKind::VrrpSameVhid,
                0x31,
                "vrrp_same_vhid",
                "VRRP version 3 with router id 110",
            ),
            (
                EvidenceKind::VrrpSameVhid,
                0x21,
                "vrrp_same_vhid",
                "VRRP version 2",
            ),
            (
                EvidenceKind::CarpForeignVersion,
                0x41,
                "carp_foreign_version",
                "first byte 0x41",
            ),
            (
                EvidenceKind::CarpForeignVersion,
                2,
                "version_mismatch",
                "layout version 2",
            ),
            (
                EvidenceKind::DuplicateAddress,
                1,
                "duplicate_address",
                "the shared address 10.0.0.66",
            ),
            (
                EvidenceKind::DuplicateAddress,
                0,
                "duplicate_address",
                "this node's address 10.0.0.66",
            ),
        ];
        for kind in EvidenceKind::ALL {
            assert!(cases.iter().any(|(known, ..)| known == kind), "{kind:?}");
        }
        for (kind, detail, name, what) in cases {
            let sighting = Sighting::of(&record(kind, detail)).unwrap();
            assert_eq!(sighting.kind.as_str(), name);
            let (_, text) = Ledger::default().note(at(1), &sighting, "front").unwrap();
            for part in [
                what,
                "10.0.0.66",
                "02:66:00:00:00:0a",
                "front",
                "1 times in 0 s",
            ] {
                assert!(text.contains(part), "no `{part}` in `{text}`");
            }
        }
        let newer = Evidence {
            kind: 200,
            ..record(EvidenceKind::BadTag, 0)
        };
        assert_eq!(Sighting::of(&newer), None);
    }

    #[test]
    fn addresses_of_both_families() {
        let mut six = record(EvidenceKind::DuplicateAddress, 1);
        six.family = 6;
        six.address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets();
        assert_eq!(address(&six), "fd00::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn sightings_add_up_and_are_forgotten() {
        let sighting = Sighting::of(&record(EvidenceKind::BadTag, 7)).unwrap();
        let mut ledger = Ledger::default();
        ledger.note(at(0), &sighting, "front");
        let (_, text) = ledger.note(at(30), &sighting, "front").unwrap();
        assert!(text.ends_with("2 times in 30 s"), "{text}");
        ledger.forget(at(89));
        assert!(!ledger.0.is_empty());
        ledger.forget(at(90));
        assert!(ledger.0.is_empty());
    }

    #[test]
    fn a_flood_with_forged_senders_is_bounded() {
        let mut ledger = Ledger::default();
        for number in 0..=255 {
            let mut forged = record(EvidenceKind::BadTag, 7);
            forged.source_mac[5] = number;
            ledger.note(at(1), &Sighting::of(&forged).unwrap(), "front");
        }
        assert_eq!(ledger.0.len(), EACH);
        let other = Sighting::of(&record(EvidenceKind::UnknownKey, 7)).unwrap();
        assert!(ledger.note(at(1), &other, "front").is_some());
    }
}
