//! Requests and answers of the configuration channel, as the partner may send them.

use ha_agent::proto::confsync::{
    Claim, ContentHash, PREFIX, Record, Request, Response, Version, lengths,
};

use super::{Seed, is_plain};

/// Reads an input as a request and as an answer.
pub fn play(input: &[u8]) {
    if let Some(prefix) = input.first_chunk::<PREFIX>() {
        let _too_long = lengths(*prefix).err();
    }
    if let Ok(request) = Request::decode(input) {
        let again = Request::decode(&request.encode()).expect("its own request");
        assert_eq!(again, request);
    }
    if let Ok(response) = Response::decode(input) {
        if let Response::Refused(_, reason) = &response {
            assert!(is_plain(reason, 1), "{reason:?}");
        }
        let again = Response::decode(&response.encode()).expect("its own answer");
        assert_eq!(again, response);
    }
}

/// A node's claim to a version.
pub(super) fn claim(generation: u64, content: u8) -> Claim {
    let hash = |byte| ContentHash::new([byte; 32]);
    Claim {
        name: "lb2".to_owned(),
        first: false,
        active: false,
        edited: false,
        record: Record {
            version: Version {
                generation,
                hash: hash(content),
            },
            ancestors: vec![hash(content.wrapping_sub(1))],
        },
    }
}

/// One of each kind.
pub fn seeds() -> Vec<Seed> {
    let document = "ha: { timeout: 3s }\n".to_owned();
    let reason = "line 3: \u{1b}[2J not a port".to_owned();
    [
        ("compare", Request::Compare(claim(7, 7)).encode()),
        ("fetch", Request::Fetch(claim(7, 7)).encode()),
        (
            "offer",
            Request::Offer(claim(8, 8), document.clone()).encode(),
        ),
        ("claim", Response::Claim(claim(7, 7)).encode()),
        (
            "document",
            Response::Document(claim(9, 9), document).encode(),
        ),
        ("refused", Response::Refused(claim(9, 9), reason).encode()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}
