use proptest::prelude::*;

use crate::proto::confsync::*;

pub(super) fn claim(generation: u64) -> Claim {
    Claim {
        name: "lb1".to_owned(),
        first: true,
        active: true,
        edited: false,
        record: Record {
            version: Version {
                generation,
                hash: ContentHash::new([7; 32]),
            },
            ancestors: vec![ContentHash::new([1; 32]); 3],
        },
    }
}

fn messages() -> (Vec<Request>, Vec<Response>) {
    let document = || "ha: { timeout: 9s } # \u{e9}\n".to_owned();
    (
        vec![
            Request::Compare(claim(1)),
            Request::Fetch(claim(2)),
            Request::Offer(claim(3), document()),
        ],
        vec![
            Response::Claim(claim(4)),
            Response::Document(claim(5), document()),
            Response::Refused(claim(6), "no interface `back`".to_owned()),
        ],
    )
}

#[test]
fn messages_survive_the_way() {
    let (requests, responses) = messages();
    for request in requests {
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes).unwrap(), request);
        assert!(Response::decode(&bytes).is_err());
    }
    for response in responses {
        let bytes = response.encode();
        assert_eq!(Response::decode(&bytes).unwrap(), response);
        assert!(Request::decode(&bytes).is_err());
    }
}

#[test]
fn a_truncated_message_is_none() {
    let bytes = messages().0.pop().unwrap().encode();
    for length in 0..bytes.len() {
        assert!(Request::decode(&bytes[..length]).is_err(), "{length}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(Request::decode(&longer), Err(WireError::Length)));
}

#[test]
fn lengths_are_bounded_before_anything_is_read() {
    let prefix = |header: u32, document: u32| {
        let mut prefix = [0; PREFIX];
        prefix[..4].copy_from_slice(&header.to_be_bytes());
        prefix[4..].copy_from_slice(&document.to_be_bytes());
        lengths(prefix)
    };
    assert!(prefix(HEADER_MAX as u32, DOCUMENT_MAX as u32).is_ok());
    assert!(prefix(HEADER_MAX as u32 + 1, 0).is_err());
    assert!(prefix(0, DOCUMENT_MAX as u32 + 1).is_err());
    assert!(prefix(u32::MAX, u32::MAX).is_err());
}

#[test]
fn what_is_shown_to_people_moves_no_cursor() {
    let refused = Response::Refused(claim(1), "a\u{1b}[2Jb".to_owned());
    let Response::Refused(_, reason) = Response::decode(&refused.encode()).unwrap() else {
        panic!("another kind");
    };
    assert_eq!(reason, "a [2Jb");
    let mut named = claim(1);
    for name in ["", "a b", "\u{1b}[2J", &"x".repeat(64)] {
        name.clone_into(&mut named.name);
        let bytes = Request::Compare(named.clone()).encode();
        assert!(matches!(
            Request::decode(&bytes),
            Err(WireError::Field("name"))
        ));
    }
    let bytes = Request::Compare(claim(u64::MAX)).encode();
    assert!(matches!(
        Request::decode(&bytes),
        Err(WireError::Field("generation"))
    ));
    let mut many = claim(1);
    many.record.ancestors = vec![ContentHash::new([1; 32]); ANCESTORS_MAX + 1];
    assert!(Request::decode(&Request::Compare(many).encode()).is_err());
}

#[test]
fn the_longest_claim_fits() {
    let mut longest = claim(1 << 53);
    longest.name = "n".repeat(63);
    longest.record.ancestors = vec![ContentHash::new([1; 32]); ANCESTORS_MAX];
    let refused = Response::Refused(longest, "\u{1}".repeat(1 << 20));
    assert!(Response::decode(&refused.encode()).is_ok());
}

#[test]
fn a_newer_partner_may_say_more() {
    let bytes = Request::Compare(claim(1)).encode();
    let header = String::from_utf8(bytes[PREFIX..].to_vec()).unwrap();
    let header = header.replacen('{', "{\"mood\":[1,2],", 1);
    let length = u32::try_from(header.len()).unwrap().to_be_bytes();
    let bytes = [&length[..], &[0; 4], header.as_bytes()].concat();
    assert_eq!(Request::decode(&bytes).unwrap(), Request::Compare(claim(1)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Request::decode(&bytes).is_err());
        prop_assert!(Response::decode(&bytes).is_err());
    }

    #[test]
    fn spoilt_messages_never_panic(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        for request in messages().0 {
            let mut bytes = request.encode();
            let at = at.index(bytes.len());
            bytes[at] = value;
            // Whether it is still one does not matter.
            let _either = Request::decode(&bytes);
        }
    }
}
