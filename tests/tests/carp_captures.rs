//! Every packet of every capture of real `ucarp` daemons is decoded, and its digest verified.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use etherparse::{NetSlice, SlicedPacket};
use ha_agent::proto::carp::wire::{DecodeError, Group, Header};
use ha_common::{carp, proto};
use ha_tests::pcap;

/// A CARP packet of a capture.
struct Seen {
    source: Ipv4Addr,
    ttl: u8,
    payload: Vec<u8>,
}

/// The CARP packets of a capture; the other frames must be ARP.
fn carp_packets(name: &str) -> Vec<Seen> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/carp")
        .join(name);
    let mut seen = Vec::new();
    for frame in pcap::read(&path).unwrap() {
        let packet = SlicedPacket::from_ethernet(&frame.bytes).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else {
            assert!(
                matches!(packet.net, Some(NetSlice::Arp(_))),
                "{name}: neither IPv4 nor ARP"
            );
            continue;
        };
        assert_eq!(ip.header().protocol().0, proto::CARP, "{name}");
        seen.push(Seen {
            source: ip.header().source_addr(),
            ttl: ip.header().ttl(),
            payload: ip.payload().payload.to_vec(),
        });
    }
    seen
}

/// A capture: passphrase, shared addresses (of which each sender has one), what its packets are.
struct Capture {
    name: &'static str,
    passphrase: &'static str,
    shared: &'static [[u8; 4]],
    packets: &'static [(Finding, usize)],
}

/// What a packet was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    Verified,
    BadDigest,
    BadTtl,
    Version,
    Checksum,
    AuthLength,
}

fn judge(seen: &Seen, capture: &Capture) -> Finding {
    let header = match Header::decode(&seen.payload) {
        Ok(header) => header,
        Err(DecodeError::Version(_)) => return Finding::Version,
        Err(DecodeError::Checksum) => return Finding::Checksum,
        Err(DecodeError::AuthLength(_)) => return Finding::AuthLength,
        Err(error @ DecodeError::Truncated(_)) => panic!("{error}"),
    };
    let group = capture
        .shared
        .iter()
        .map(|address| {
            let address = Ipv4Addr::from(*address);
            Group::new(
                capture.passphrase.as_bytes(),
                header.vhid,
                &[address.into()],
            )
        })
        .find(|group| group.verify(&header));
    let Some(group) = group else {
        return Finding::BadDigest;
    };
    if seen.ttl != carp::TTL {
        return Finding::BadTtl;
    }
    // What verifies, this implementation makes byte for byte, but it never demotes itself.
    if seen.payload[carp::field::DEMOTE] == 0 {
        let made = group.header(header.advbase, header.advskew, header.counter);
        assert_eq!(made.encode(), seen.payload[..carp::HEADER_LEN]);
    }
    Finding::Verified
}

const VIP: [u8; 4] = [10, 99, 0, 100];

#[test]
fn every_packet_of_every_capture_is_what_it_should_be() {
    use Finding::{AuthLength, BadDigest, BadTtl, Checksum, Verified, Version};
    let captures = [
        Capture {
            name: "ucarp-v1-secret.pcap",
            passphrase: "secret",
            shared: &[VIP],
            packets: &[(Verified, 5)],
        },
        Capture {
            name: "ucarp-v42-len19.pcap",
            passphrase: "0123456789abcdefghi",
            shared: &[[192, 168, 77, 5]],
            packets: &[(Verified, 3)],
        },
        Capture {
            name: "ucarp-v255-bcast.pcap",
            passphrase: "s3",
            shared: &[[10, 99, 0, 200]],
            packets: &[(Verified, 5)],
        },
        Capture {
            name: "ucarp-v7-mcast239.pcap",
            passphrase: "two words!",
            shared: &[[10, 99, 0, 201]],
            packets: &[(Verified, 1)],
        },
        Capture {
            name: "bow-out-to-ucarp.pcap",
            passphrase: "pw",
            shared: &[VIP],
            packets: &[(Verified, 41)],
        },
        Capture {
            name: "python-vs-ucarp-interop.pcap",
            passphrase: "pw",
            shared: &[VIP],
            packets: &[(Verified, 86)],
        },
        // Each daemon would drop the other one's packets.
        Capture {
            name: "ucarp-same-vhid-diff-vip.pcap",
            passphrase: "pw",
            shared: &[VIP, [10, 99, 0, 101]],
            packets: &[(Verified, 12)],
        },
        Capture {
            name: "ucarp-splitbrain-heal-10.99.0.1-10.99.0.2.pcap",
            passphrase: "pw",
            shared: &[VIP],
            packets: &[(Verified, 30)],
        },
        Capture {
            name: "ucarp-splitbrain-heal-10.99.1.1-10.99.0.9.pcap",
            passphrase: "pw",
            shared: &[VIP],
            packets: &[(Verified, 30)],
        },
        // Spoilt on purpose: one packet in each way. The last one is doctored where the digest does
        // not look, and only the authentication length gives it away.
        Capture {
            name: "ucarp-replay-attack.pcap",
            passphrase: "pw",
            shared: &[VIP],
            packets: &[
                (Verified, 26),
                (BadDigest, 1),
                (BadTtl, 1),
                (Version, 1),
                (Checksum, 1),
                (AuthLength, 1),
            ],
        },
    ];
    for capture in &captures {
        let mut found = BTreeMap::new();
        for seen in carp_packets(capture.name) {
            *found.entry(judge(&seen, capture)).or_insert(0) += 1;
        }
        let expected: BTreeMap<Finding, usize> = capture.packets.iter().copied().collect();
        assert_eq!(found, expected, "{}", capture.name);
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/carp");
    let files = std::fs::read_dir(fixtures).unwrap().count();
    assert_eq!(files, captures.len(), "each capture is in the table");
}

/// The attack of the capture: packets of the active node itself, from another address, with election
/// fields that the digest does not cover.
#[test]
fn the_replayed_packets_verify_but_say_something_else() {
    let packets = carp_packets("ucarp-replay-attack.pcap");
    let group = Group::new(b"pw", 5, &[VIP.into()]);
    let forged: Vec<Header> = packets
        .iter()
        .filter(|seen| seen.source.octets()[3] == 0x42)
        .filter_map(|seen| Header::decode(&seen.payload).ok())
        .filter(|header| group.verify(header))
        .collect();
    assert!(!forged.is_empty());
    for header in &forged {
        let original = packets.iter().any(|seen| {
            seen.source.octets()[3] == 1
                && Header::decode(&seen.payload).is_ok_and(|own| {
                    own.counter == header.counter
                        && own.digest == header.digest
                        && (own.advbase, own.advskew) != (header.advbase, header.advskew)
                })
        });
        assert!(original, "{header:?}");
    }
}
