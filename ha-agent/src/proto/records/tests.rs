//! Bounds, lives, and hostile bodies.

use proptest::prelude::*;

use super::*;
use crate::proto::time::Instant;

const NOW: Instant = Instant::from_nanos(1_000_000_000);

fn table(records: u32, bytes: u64) -> Table {
    let mut table = Table::new(NOW);
    table.set_quotas([("web".to_owned(), Quota { records, bytes })]);
    table
}

fn put(key: &[u8], value: &[u8], ttl: Option<Duration>) -> Put {
    Put {
        namespace: "web".to_owned(),
        key: key.to_vec(),
        value: value.to_vec(),
        ttl,
        age: Duration::ZERO,
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut table = table(10, 10_000);
    let second = Some(Duration::from_secs(1));
    let cases = [
        (put(b"", b"v", None), Refusal::KeyLength(0)),
        (put(&[0; 129], b"v", None), Refusal::KeyLength(129)),
        (put(&[0; 100], &[0; 93], None), Refusal::TooLong(193)),
        (
            put(b"k", b"v", Some(Duration::from_micros(999))),
            Refusal::Ttl,
        ),
        (
            put(b"k", b"v", Some(TTL_MAX + Duration::from_millis(1))),
            Refusal::Ttl,
        ),
        (
            Put {
                namespace: "other".to_owned(),
                ..put(b"k", b"v", second)
            },
            Refusal::NoNamespace("other".to_owned()),
        ),
    ];
    for (put, wanted) in cases {
        assert_eq!(table.put(NOW, 1, put).map(drop), Err(wanted));
    }
    assert_eq!(table.snapshot().counters.refused_bad, 6);
    table.put(NOW, 1, put(&[0; 128], &[0; 64], second)).unwrap();
}

#[test]
fn quotas_count_what_is_there() {
    let mut table = table(3, 20);
    for key in [b"a", b"b", b"c"] {
        table.put(NOW, 1, put(key, b"12345", None)).unwrap();
    }
    let many = table.put(NOW, 1, put(b"d", b"", None));
    assert!(
        matches!(many, Err(Refusal::Records { records: 3, .. })),
        "{many:?}"
    );
    let long = table.put(NOW, 1, put(b"a", b"12345678", None));
    assert!(
        matches!(long, Err(Refusal::Bytes { bytes: 20, .. })),
        "{long:?}"
    );
    table.put(NOW, 1, put(b"a", b"1234567", None)).unwrap();
    assert!(table.delete(NOW, 1, "web", b"b").unwrap().is_some());
    assert!(table.delete(NOW, 1, "web", b"b").unwrap().is_none());
    table.put(NOW, 1, put(b"d", b"12345", None)).unwrap();
    let snapshot = table.snapshot();
    let space = &snapshot.namespaces[0];
    assert_eq!((space.records, space.bytes, space.refused), (3, 20, 2));
}

#[test]
fn what_is_written_again_lives_again() {
    let mut table = table(10, 1000);
    let life = Some(Duration::from_millis(300));
    for step in 0..10 {
        let now = NOW + Duration::from_millis(200) * step;
        let alive = table.get(now, "web", b"k").is_some();
        assert_eq!(alive, step > 0, "{step}");
        table.put(now, 1, put(b"k", b"v", life)).unwrap();
    }
    // One that began earlier is not news, and neither is the same beginning on a coarse clock.
    let written = table.snapshot().counters.written;
    let long = Some(Duration::from_mins(1));
    let began = |age| Put {
        age: Duration::from_millis(age),
        ..put(b"long", b"v", long)
    };
    for age in [5000, 4996, 9000] {
        table.put(NOW, 1, began(age)).unwrap();
    }
    assert_eq!(table.snapshot().counters.written, written + 1);
    table.put(NOW, 1, began(4000)).unwrap();
    assert_eq!(table.snapshot().counters.written, written + 2);
}

/// Also between being deleted and being said to be.
#[test]
fn what_waits_to_be_forgotten_counts_no_more() {
    let mut table = table(1, 20);
    table.begin_telling();
    let sum = |_: &[u8]| 1;
    table.put(NOW, 1, put(b"a", b"v", None)).unwrap();
    table.tell(NOW + SPACING, sum, |_| true);
    assert_eq!(table.said().count, 1);
    table.delete(NOW + SPACING, 1, "web", b"a").unwrap();
    assert_eq!(table.get(NOW + SPACING, "web", b"a"), None);
    assert_eq!(table.snapshot().waiting, 1);
    table.put(NOW + SPACING, 1, put(b"b", b"v", None)).unwrap();
    // Nobody listens any more, so nothing has to be said.
    table.stop_telling();
    let snapshot = table.snapshot();
    assert_eq!((snapshot.waiting, snapshot.namespaces[0].records), (0, 1));
    assert_eq!(table.said().count, 0);
    assert_eq!(table.dump().len(), 1);
}

#[test]
fn lists_come_in_pages() {
    let mut table = table(10, 1000);
    for key in [b"c", b"a", b"b"] {
        table.put(NOW, 1, put(key, b"v", None)).unwrap();
    }
    table.put(NOW, 1, put(b"aa", b"v", Some(SPACING))).unwrap();
    let keys = |after: Option<&[u8]>, limit, now| {
        let views = table.list(now, "web", after, limit).unwrap();
        views
            .into_iter()
            .map(|view| view.key.to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(None, 2, NOW), [b"a".to_vec(), b"aa".to_vec()]);
    assert_eq!(keys(Some(b"aa"), 9, NOW), [b"b".to_vec(), b"c".to_vec()]);
    assert_eq!(keys(None, 2, NOW + SPACING), [b"a".to_vec(), b"b".to_vec()]);
    assert_eq!(table.list(NOW, "other", None, 1), None);
}

#[test]
fn of_one_stream_the_later_word_wins_and_of_a_stale_record_any() {
    let mut table = table(10, 1000);
    let telling = |version, value: &'static [u8]| {
        Told::Put(Telling {
            namespace: "web",
            key: b"k",
            value,
            stamp: Stamp { term: 2, version },
            ttl: None,
            age: Duration::ZERO,
        })
    };
    let sum = |_: &[u8]| 5;
    let value = |table: &Table| table.get(NOW, "web", b"k").map(|view| view.value.to_vec());
    table.begin_hearing();
    assert!(table.hear(NOW, &telling(7, b"seven"), sum).is_some());
    assert!(table.hear(NOW, &telling(6, b"six"), sum).is_none());
    let gone = Told::Delete(Gone {
        namespace: "web",
        key: b"k",
        stamp: Stamp {
            term: 1,
            version: 99,
        },
    });
    assert!(table.hear(NOW, &gone, sum).is_none());
    assert_eq!(value(&table).as_deref(), Some(&b"seven"[..]));
    assert_eq!(table.snapshot().counters.outdated, 2);
    // Another transfer: what the partner holds counts, not what this node had heard.
    table.begin_hearing();
    assert!(table.hear(NOW, &telling(6, b"six"), sum).is_some());
    assert_eq!(value(&table).as_deref(), Some(&b"six"[..]));
    // What it says again is no news.
    assert!(table.hear(NOW, &telling(6, b"six"), sum).is_none());
    assert_eq!(table.said().count, 1);
}

#[test]
fn a_receiver_is_bounded() {
    let mut table = Table::new(NOW);
    table.begin_hearing();
    for number in 0..NAMESPACES_MAX + 5 {
        let namespace = format!("n{number}");
        let told = Told::Put(Telling {
            namespace: &namespace,
            key: b"k",
            value: b"v",
            stamp: Stamp::default(),
            ttl: None,
            age: Duration::ZERO,
        });
        table.hear(NOW, &told, |_| 1);
    }
    let snapshot = table.snapshot();
    assert_eq!(snapshot.namespaces.len(), NAMESPACES_MAX);
    assert_eq!(snapshot.counters.no_room, 5);
}

#[test]
fn names() {
    for good in ["a", "haproxy-sessions_2", &"x".repeat(NAMESPACE_MAX)] {
        assert!(is_namespace(good), "{good}");
    }
    for bad in ["", "A", "a b", "a/b", "ä", &"x".repeat(NAMESPACE_MAX + 1)] {
        assert!(!is_namespace(bad), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..=255)) {
        for told in [Told::decode_put(&body), Told::decode_delete(&body)].into_iter().flatten() {
            let mut table = Table::new(NOW);
            table.begin_hearing();
            table.hear(NOW, &told, |_| 1);
        }
    }

    #[test]
    fn what_is_written_is_read(
        key in proptest::collection::vec(any::<u8>(), 1..=KEY_MAX),
        value in proptest::collection::vec(any::<u8>(), 0..=64),
        ttl in proptest::option::of(1..86_400_000_u64),
        age in any::<u32>(),
        version in any::<u64>(),
        more in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let told = Told::Put(Telling {
            namespace: "web",
            key: &key,
            value: &value,
            stamp: Stamp { term: 1, version },
            ttl: ttl.map(Duration::from_millis),
            age: Duration::from_millis(age.into()),
        });
        let mut body = Vec::new();
        told.encode(&mut body);
        body.extend(more);
        prop_assert_eq!(Told::decode_put(&body), Some(told));
        for end in 0..27 {
            prop_assert_eq!(Told::decode_put(&body[..end]), None);
        }
    }
}
