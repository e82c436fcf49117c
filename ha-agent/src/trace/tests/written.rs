//! Captures that are read, frames that are built.

use proptest::prelude::*;

use crate::trace::frame::Packet;
use crate::trace::model::FRAME_MAX;
use crate::trace::pcap::{PcapError, read};

fn classic(big: bool, magic: u32, link: u32, packets: &[(&[u8], u32)]) -> Vec<u8> {
    let long = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut file = long(magic).to_vec();
    file.extend([0; 16]);
    file.extend(long(link));
    for (bytes, length) in packets {
        file.extend([0; 8]);
        file.extend(long(bytes.len() as u32));
        file.extend(long(*length));
        file.extend(*bytes);
    }
    file
}

fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let long = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = long(body.len() as u32 + 12);
    [&long(kind)[..], &length, &body[..], &length].concat()
}

#[test]
fn classic_captures_of_every_kind() {
    for big in [false, true] {
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d] {
            let file = classic(big, magic, 1, &[(&[1; 20], 20), (&[2; 20], 60)]);
            let packets = read(&file).unwrap();
            assert_eq!(packets.len(), 2);
            assert_eq!(packets[0].frame, [1; 20]);
            assert_eq!((packets[1].frame.len(), packets[1].kept), (60, 20));
            assert_eq!(packets[1].frame[19..21], [2, 0]);
        }
    }
}

#[test]
fn next_generation_captures() {
    for big in [false, true] {
        let long = |value: u32| {
            if big {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let link = if big { [0, 1] } else { [1, 0] };
        let section = [&long(0x1a2b_3c4d)[..], &[0; 12]].concat();
        let packet = [&long(0)[..], &[0; 8], &long(15), &long(30), &[7; 15]].concat();
        let simple = [&long(14)[..], &[8; 14]].concat();
        let file = [
            block(big, 0x0a0d_0d0a, &section),
            block(big, 1, &[&link[..], &[0; 6]].concat()),
            block(big, 6, &packet),
            block(big, 5, &[0; 12]),
            block(big, 3, &simple),
        ]
        .concat();
        let packets = read(&file).unwrap();
        assert_eq!(packets.len(), 2, "{packets:?}");
        assert_eq!((packets[0].frame.len(), packets[0].kept), (30, 15));
        assert_eq!(packets[1].frame, [8; 14]);
    }
}

#[test]
fn files_that_are_no_captures() {
    for (file, error) in [
        (vec![], PcapError::Unknown),
        (b"version: 1".to_vec(), PcapError::Unknown),
        (
            classic(false, 0xa1b2_c3d4, 113, &[]),
            PcapError::LinkType(113),
        ),
        (
            classic(false, 0xa1b2_c3d4, 1, &[(&[0; 14], FRAME_MAX as u32 + 1)]),
            PcapError::TooLong(1, FRAME_MAX + 1),
        ),
    ] {
        assert_eq!(read(&file), Err(error));
    }
    let mut torn = classic(false, 0xa1b2_c3d4, 1, &[(&[0; 20], 20), (&[0; 20], 20)]);
    torn.pop();
    assert_eq!(read(&torn), Err(PcapError::Damaged(1)));
}

proptest! {
    #[test]
    fn damaged_captures_do_no_harm(
        which in 0usize..3,
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let magics = [0xa1b2_c3d4u32, 0xa1b2_3c4d, 0x0a0d_0d0a];
        let mut file = magics[which].to_le_bytes().to_vec();
        file.extend(rest);
        if let Ok(packets) = read(&file) {
            prop_assert!(packets.iter().all(|packet| packet.frame.len() <= FRAME_MAX));
        }
    }
}

/// The one's-complement sum of what a checksum covers; all ones if it is right.
fn folded(covered: &[u8]) -> u32 {
    let words = covered.chunks(2).map(|word| {
        let [high, low] = [word[0], *word.get(1).unwrap_or(&0)];
        u32::from(high) << 8 | u32::from(low)
    });
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn frames_are_whole_and_sound() {
    for (from, to, header, addresses) in [
        ("10.0.0.50:40000", "10.0.0.100:80", 20, 12),
        ("[2001:db8::50]:40000", "[2001:db8::100]:80", 40, 8),
    ] {
        for (tcp_flags, protocol, transport) in [(None, 17, 8), (Some(0x12), 6, 20)] {
            for length in [0, 61, 1500] {
                let packet = Packet {
                    from: from.parse().unwrap(),
                    to: to.parse().unwrap(),
                    tcp_flags,
                    ttl: 9,
                    length,
                };
                let frame = packet.frame().unwrap();
                let ip = &frame[14..];
                assert_eq!(ip.len(), usize::from(length).max(header + transport));
                if header == 20 {
                    assert_eq!(folded(&ip[..header]), 0xffff);
                }
                let segment = &ip[header..];
                assert_eq!(segment[..4], [156, 64, 0, 80]);
                let pseudo = [0, protocol, 0, 0];
                let mut covered = [&ip[addresses..header], &pseudo].concat();
                covered[header - addresses + 2..]
                    .copy_from_slice(&(segment.len() as u16).to_be_bytes());
                covered.extend(segment);
                assert_eq!(folded(&covered), 0xffff, "{packet:?}");
            }
        }
    }
    let mixed = Packet {
        from: "10.0.0.50:1".parse().unwrap(),
        to: "[::1]:1".parse().unwrap(),
        tcp_flags: None,
        ttl: 1,
        length: 0,
    };
    assert_eq!(mixed.frame(), None);
}
