//! Golden packets of version 1: whatever changes, these must still be made and understood.
//! Those of what came later are at the end.

use std::time::Duration;

use super::{any_record, pair_keys, record};
use crate::proto::records::{Gone, Stamp, Telling, Told};
use crate::proto::sync::Change;
use crate::proto::sync::ask::{Ask, What};
use crate::proto::sync::buckets::{Bucket, BucketSet};
use crate::proto::sync::record::{Item, Said, Sums};
use crate::proto::sync::seal::{Incoming, Keyring, SessionKey};
use crate::proto::sync::short::{Items, Ways};
use crate::proto::sync::wire::{
    Header, Hello, Kind, Knows, Position, Range, Welcome, decode_nack, encode_nack,
};

const SALT: [u8; 16] = *b"sixteen bytes ok";

fn key() -> SessionKey {
    Keyring::new(pair_keys(), 110).own(2, &SALT).unwrap()
}

fn header(kind: Kind) -> Header {
    Header {
        kind,
        cluster: 110,
        node: 0,
        key_id: 0,
        len: 0,
        session: 0,
        seq: 5,
        term: 3,
        generation: 9,
        salt: None,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Seals `body`, compares with the golden packet, and reads that back.
fn check(kind: Kind, body: &[u8], golden: &str) {
    let packet = key().seal(header(kind), body).unwrap();
    assert_eq!(hex(&packet), golden.replace(['\n', ' '], ""));
    let (header, aad, sealed) = Header::split(&packet).unwrap();
    assert_eq!((header.kind, header.node, header.seq), (kind, 2, 5));
    assert_eq!((header.term, header.generation), (3, 9));
    let incoming = Incoming {
        header,
        aad,
        sealed,
    };
    let mut plain = Vec::new();
    assert!(key().open(&incoming, &mut plain));
    assert_eq!(plain, body);
}

fn position() -> Position {
    Position {
        current: true,
        transferring: true,
        knows: Knows::Transfers,
        head: 1,
        tail: 2,
        begin: 3,
        basic: Said {
            count: 4,
            digest: 5,
        },
        extended: None,
        records: None,
        total: 6,
        hello: 7,
        hello_age: 8,
    }
}

#[test]
fn data() {
    let items = [
        Item::Begin { id: 5 },
        Item::Change(Change::Put(record(0x1234, 2))),
        Item::Change(Change::Delete(record(0x1234, 2).key)),
        Item::End {
            id: 5,
            said: Said {
                count: 6,
                digest: 7,
            },
        },
    ];
    let mut body = Vec::new();
    for item in &items {
        item.encode(&mut body);
    }
    assert_eq!(
        hex(&body),
        "100000000000000005010a0000120a00006404340050060a0100051f9001080002020a0000120a00\
         0064043400500611000000000000000500000000000000060000000000000007"
    );
    check(
        Kind::Data,
        &body,
        "485301010000006e020100487369787465656e200000000000000005000000000000000300000000\
         00000009d8bec8fa74f57548f0bf108ab4eb7a04735a8dd699f0adb0a0eaf0834ccc4780c89320db\
         dd8666148e68f1d20250ce0228cee2b46d9b8b165214a1eb460bef977c56a0405863965d7923361f\
         d71b7493f5877c2420413280",
    );
}

#[test]
fn hello() {
    let hello = Hello {
        challenge: 1,
        stream: 2,
        token: 3,
        next: 4,
        wants_transfer: true,
        ready: true,
        knows: Knows::Transfers,
        sample: 5,
        sample_age: 6,
    };
    let mut body = Vec::new();
    hello.encode(&mut body);
    assert_eq!(Hello::decode(&body), Some(hello));
    check(
        Kind::Hello,
        &body,
        "485301020000006e020100317369787465656e200000000000000005000000000000000300000000\
         000000097369787465656e206279746573206f6b7fe8c56ea197038d3b63662790f8ebc87e2a6fb7\
         c584b2c3cfe02fa3e3dcdd98d5118a4765a65e5dae86bb6e3eed7d827979fe7ed9ae7e3aa5a96f01\
         f97d7c56df",
    );
}

#[test]
fn welcome() {
    let welcome = Welcome {
        challenge: 1,
        listener: 2,
        token: 3,
        position: position(),
    };
    let mut body = Vec::new();
    welcome.encode(&mut body);
    assert_eq!(Welcome::decode(&body), Some(welcome));
    check(
        Kind::Welcome,
        &body,
        "485301030000006e020100597369787465656e200000000000000005000000000000000300000000\
         000000097369787465656e206279746573206f6b7fe8c56ea197038d3b63662790f8ebc87e2a6fb7\
         c584b2c3cce02fa3e3dcdd9cd7118a4765a65e5da986bb6e3eed7d827ca42467ee1dc0f2d8e47848\
         fa84e12f7b2e8dd4b71b64a2cda79d294375bfe4eab5fb7edb01f349b25f093f1330ac540e20a1b1\
         c89f1cfb28",
    );
}

#[test]
fn heartbeat() {
    let mut body = Vec::new();
    position().encode(&mut body);
    assert_eq!(Position::decode(&body), Some(position()));
    check(
        Kind::Heartbeat,
        &body,
        "485301040000006e020100417369787465656e200000000000000005000000000000000300000000\
         000000097369787465656e206279746573206f6b7ce8c56ea197038c3a63662790f8ebca7c2a6fb7\
         c584b2c0cce02fa3e3dcdd9cd2118a4765a65e5dae86bb6e3eed7d8279a42467ee1dc0f2dbe47848\
         fa84e12f764040d57e14f41ff230fdd0054e9d3a21",
    );
}

#[test]
fn nack() {
    let ranges = [Range { first: 3, len: 1 }, Range { first: 9, len: 4 }];
    let mut body = Vec::new();
    encode_nack(1, &ranges, &mut body);
    let (stream, read) = decode_nack(&body).unwrap();
    assert_eq!(stream, 1);
    assert!(read.eq(ranges));
    check(
        Kind::Nack,
        &body,
        "485301050000006e0201001d7369787465656e200000000000000005000000000000000300000000\
         000000097369787465656e206279746573206f6b7fe8c56ea197038d3963662790f8ebca7d2a6eb7\
         c584b2c0cfe026a3e7b3209af6818af3ca7195a3947f95f41d",
    );
}

#[test]
fn digest_of_a_record() {
    assert_eq!(key().sum(&record(0x1234, 2)), 0xb966_987e_8066_9500);
}

/// Every kind of connection that the first version did not know.
#[test]
fn extended_records() {
    for (client, golden) in GOLDEN {
        let put = any_record(client, 2);
        let mut body = Vec::new();
        Item::Change(Change::Put(put)).encode(&mut body);
        Item::Change(Change::Delete(put.key)).encode(&mut body);
        assert_eq!(hex(&body), golden.replace(['\n', ' '], ""), "{client}");
    }
}

/// Client number, and what it takes to make and to delete its connection.
const GOLDEN: [(u32, &str); 4] = [
    (
        1,
        "823b20010db800000000000000000a00000020010db800000000000000000a000064040100500620\
         010db800000000000000000a0100011f9001080002832520010db800000000000000000a00000020\
         010db800000000000000000a0000640401005006",
    ),
    (
        2,
        "811d0a0000000a00006404020050060a0100021f90012800020a0000640002020a0000000a000064\
         0402005006",
    ),
    (
        3,
        "824d20010db800000000000000000a00000020010db800000000000000000a000064040300500620\
         010db800000000000000000a0100031f900128000220010db800000000000000000a000064000383\
         2520010db800000000000000000a00000020010db800000000000000000a0000640403005006",
    ),
    (
        4,
        "81170a0000000a00006404040050060a0100041f9001480002020a0000000a0000640404005006",
    ),
];

#[test]
fn extended_heartbeat() {
    let position = Position {
        extended: Some(Said {
            count: 9,
            digest: 10,
        }),
        ..position()
    };
    let mut body = Vec::new();
    position.encode(&mut body);
    assert_eq!(Position::decode(&body), Some(position));
    let (basic, extended) = body.split_at(body.len() - 16);
    assert_eq!(hex(extended), "0000000000000009000000000000000a");
    // What an older version reads.
    assert_eq!(Position::decode(basic), Some(self::position()));
}

/// What the version after that knows more: the sender of a hello or heartbeat repairs buckets.
#[test]
fn flags_of_those_who_mend() {
    // The version after that one knows all that this one does.
    for (knows, flags) in [(Knows::Buckets, 4), (Knows::All, 12)] {
        let hello = Hello {
            knows,
            ..Hello::default()
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        assert_eq!(body[32], flags);
        assert_eq!(Hello::decode(&body), Some(hello));
        let position = Position {
            knows,
            ..Position::default()
        };
        let mut body = Vec::new();
        position.encode(&mut body);
        assert_eq!(body[0], flags);
        assert_eq!(Position::decode(&body), Some(position));
    }
}

#[test]
fn ask() {
    let mut buckets = BucketSet::new();
    for number in [0, 65, 4095] {
        buckets.insert(Bucket::new(number).unwrap());
    }
    let ask = Ask {
        stream: 1,
        what: What::Contents,
        buckets,
    };
    let mut body = Vec::new();
    ask.encode(&mut body);
    assert_eq!(Ask::decode(&body), Some(ask));
    assert_eq!(
        hex(&body),
        "00000000000000010203\
         00000000000000000101000000000000000\
         23f8000000000000000"
    );
    assert!((0..body.len()).all(|end| Ask::decode(&body[..end]).is_none()));
    check(
        Kind::Ask,
        &body,
        "485301060000006e020100257369787465656e200000000000000005000000000000000300000000\
         000000097369787465656e206279746573206f6b7fe8c56ea197038d3960662790f8ebca7e2a6eb6\
         c584b2c0cfe02fa1dc5cdd9cd6118a4765ec2985ca0341cd37bcb11184d4299625",
    );
}

#[test]
fn bucket_records() {
    let mut values = [0; 16];
    (values[0], values[15]) = (1, u64::MAX);
    let sums = Sums {
        group: 64,
        first: 48,
        values,
    };
    let bucket = Bucket::new(0xabc).unwrap();
    let items = [
        (
            Item::Sums(sums),
            format!("87824030{:016x}{}{:016x}", 1, "0".repeat(14 * 16), u64::MAX),
        ),
        (Item::Bucket(bucket), "88020abc".to_owned()),
        (
            Item::Complete { bucket, sum: 7 },
            "890a0abc0000000000000007".to_owned(),
        ),
    ];
    for (item, golden) in items {
        let mut body = Vec::new();
        item.encode(&mut body);
        assert_eq!(hex(&body), golden);
        assert_eq!(Items::new(&body).next(), Some(Ok(item)));
    }
    let past_the_last = [0x88, 2, 0x10, 0];
    let read = Items::new(&past_the_last).next();
    assert!(matches!(read, Some(Err(_))));
}

#[test]
fn repair_of_records() {
    let ask = Ask {
        stream: 1,
        what: What::Records,
        buckets: BucketSet::new(),
    };
    let mut body = Vec::new();
    ask.encode(&mut body);
    assert_eq!(Ask::decode(&body), Some(ask));
    assert_eq!(hex(&body), "00000000000000010300");

    let said = Said {
        count: 6,
        digest: 7,
    };
    let items = [Item::Records, Item::RecordsComplete(said)];
    let mut body = Vec::new();
    for item in &items {
        item.encode(&mut body);
    }
    assert_eq!(hex(&body), "8a008b1000000000000000060000000000000007");
    assert!(Items::new(&body).eq(items.map(Ok)));
}

/// Short forms, behind the full ones whose way they go.
#[test]
fn short_records() {
    for (client, golden) in GOLDEN_SHORT {
        let put = any_record(client, 2);
        let changes = [Change::Put(put), Change::Put(put), Change::Delete(put.key)];
        let mut ways = Ways::default();
        let mut body = Vec::new();
        ways.encode(&changes[0], &mut body);
        let full = body.len();
        for change in &changes[1..] {
            assert!(ways.encode(change, &mut body));
        }
        assert_eq!(hex(&body[full..]), golden, "{client}");
        assert!(Items::new(&body).eq(changes.map(|change| Ok(Item::Change(change)))));
    }
}

/// Where there are deletions alone, the first one names the way.
#[test]
fn short_deletions() {
    let keys = [record(1, 0).key, record(0x201, 0).key];
    let (mut ways, mut body) = (Ways::default(), Vec::new());
    for key in keys {
        ways.encode(&Change::Delete(key), &mut body);
    }
    assert_eq!(hex(&body), "020a0000000a000064040100500604000a0000020401");
    let deletions = keys.map(|key| Ok(Item::Change(Change::Delete(key))));
    assert!(Items::new(&body).eq(deletions));
}

/// Client number, and its connection in short.
const GOLDEN_SHORT: [(u32, &str); 3] = [
    (0, "03000a00000004000108000204000a0000000400"),
    (
        1,
        "030020010db800000000000000000a000000040101080002040020010db800000000000000000a0000000401",
    ),
    (4, "03000a00000004040148000204000a0000000404"),
];

#[test]
fn bucket_of_a_connection() {
    let of = |record: crate::proto::sync::Record| key().bucket(&record.key).number();
    let found = [of(record(0x1234, 2)), of(any_record(1, 2))];
    assert_eq!(found, [1396, 2876]);
    assert_eq!(of(record(0x1234, 3)), found[0], "of the key alone");
}

/// Records that are no connections, which an older version skips.
#[test]
fn records() {
    let stamp = Stamp {
        term: 3,
        version: 4,
    };
    let put = Told::Put(Telling {
        namespace: "web",
        key: b"k",
        value: b"value",
        stamp,
        ttl: Some(Duration::from_secs(1)),
        age: Duration::from_millis(2),
    });
    let delete = Told::Delete(Gone {
        namespace: "web",
        key: b"k",
        stamp,
    });
    let mut body = Vec::new();
    for told in [put, delete] {
        Item::Told(told).encode(&mut body);
    }
    assert_eq!(
        hex(&body),
        "852400000002000000000000000300000000000000040000\
         03e80301057765626b76616c756586160000000000000003000000000000000403017765626b"
    );
    assert!(Items::new(&body).eq([put, delete].map(|told| Ok(Item::Told(told)))));
    assert_eq!(key().sum_bytes(b"any"), 0x4f4a_9b6f_e961_e0d0);
}

#[test]
fn heartbeat_with_records() {
    let said = |count| {
        Some(Said {
            count,
            digest: count + 1,
        })
    };
    let position = Position {
        extended: said(9),
        records: said(11),
        ..position()
    };
    let mut body = Vec::new();
    position.encode(&mut body);
    assert_eq!(Position::decode(&body), Some(position));
    let (known, records) = body.split_at(body.len() - 16);
    assert_eq!(hex(records), "000000000000000b000000000000000c");
    // What an older version reads.
    let without = Position {
        records: None,
        ..position
    };
    assert_eq!(Position::decode(known), Some(without));
}
