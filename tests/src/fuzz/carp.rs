//! Advertisements with their trailers, and HELLOs: as anybody may send them, and with the tag that only the pair can make.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_agent::proto::carp::trailer::{Body, DecodeError, Signer, WireRole, name_hash};
use ha_agent::proto::carp::wire::{Group, Header};
use ha_common::carp::HEADER_LEN;

use super::Seed;

const SOURCES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 12)),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 12)),
];
const LINK: &str = "front";

fn signer() -> Signer {
    Signer::new(110, vec![(1, [7; 16]), (2, [8; 16])])
}

/// Reads an input as an advertisement and as a HELLO.
pub fn play(input: &[u8]) {
    if let Ok(header) = Header::decode(input) {
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }
    for source in SOURCES {
        advert(source, input);
        hello(source, input);
    }
}

fn advert(source: IpAddr, input: &[u8]) {
    let signer = signer();
    let mut signed = input.to_vec();
    if !signer.retag_advert(source, &mut signed) {
        assert!(signer.open_advert(source, input).is_err());
        return;
    }
    let opened = signer.open_advert(source, &signed);
    assert_ne!(opened, Err(DecodeError::BadTag));
    if let Ok(body) = opened
        && let Some(header) = signed.first_chunk::<HEADER_LEN>()
    {
        let again = signer.advert(source, header, &body);
        assert_eq!(signer.open_advert(source, &again), Ok(body));
        let foreign = Signer::new(111, vec![(1, [7; 16]), (2, [8; 16])]);
        assert_eq!(
            foreign.open_advert(source, &signed),
            Err(DecodeError::BadTag)
        );
    }
}

fn hello(source: IpAddr, input: &[u8]) {
    let (signer, link) = (signer(), name_hash(LINK));
    let mut signed = input.to_vec();
    if !signer.retag_hello(source, &link, &mut signed) {
        assert!(signer.open_hello(source, &link, input).is_err());
        return;
    }
    let opened = signer.open_hello(source, &link, &signed);
    assert_ne!(opened, Err(DecodeError::BadTag));
    if let Ok(body) = opened {
        let again = signer.hello(source, &link, &body);
        assert_eq!(signer.open_hello(source, &link, &again), Ok(body));
        let elsewhere = signer.open_hello(source, &name_hash("back"), &signed);
        assert_eq!(elsewhere, Err(DecodeError::BadTag));
    }
}

/// What the partner may say in each role.
pub fn seeds() -> Vec<Seed> {
    let group = Group::new(b"secret", 110, &[IpAddr::from([10, 0, 0, 100])]);
    let header = group.header(1, 25, 42).encode();
    let mut seeds = vec![("bare-header".to_owned(), header.to_vec())];
    for (role, name) in [
        (WireRole::Init, "init"),
        (WireRole::Standby, "standby"),
        (WireRole::Active, "active"),
        (WireRole::Pacified, "pacified"),
        (WireRole::Maintenance, "maintenance"),
    ] {
        let body = body(role);
        let source = SOURCES[0];
        let advert = signer().advert(source, &header, &body);
        seeds.push((format!("advert-{name}"), advert));
        let hello = signer().hello(source, &name_hash(LINK), &body);
        seeds.push((format!("hello-{name}"), hello));
    }
    seeds
}

/// What a node that is well says in a role.
pub(super) fn body(role: WireRole) -> Body {
    Body {
        flags: 0,
        epoch: 77,
        sequence: 9,
        term: 10,
        interval_us: 100_000,
        timeout_us: 300_000,
        mode: 2,
        role,
        ready: true,
        preferred: 0,
        health: 0b1111,
        recent: 0,
        heard: 0b11,
        generation: 1,
        echo_epoch: 12,
        echo_sequence: 13,
    }
}
