//! Frames as the agent's packet sockets receive them, and a frame for the group turned to the partner.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_agent::shell::frame::{
    self, advertisement, arp_reply, arp_request, discovery, gratuitous_arp, hello, parse_hello,
    to_partner,
};

use super::Seed;

const MAC: frame::Mac = [2, 0, 0, 0, 0, 10];
const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 11);
const PARTNERS: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 12)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 12)),
];
/// Longest payload of a HELLO that is made again: what fits a datagram.
const PAYLOAD_MAX: usize = 60_000;

/// Asks of a frame everything that is asked of frames.
pub fn play(input: &[u8]) {
    assert_eq!(frame::source(input).is_some(), input.len() >= 12);
    if let Some((address, mac)) = arp_reply(input) {
        // A reply tells what a request would have to ask for.
        let asked = arp_request(mac, address, OWN4);
        assert_eq!(asked[22..32], input[22..32]);
    }
    if let Some(target) = discovery::advertised(input) {
        let again = discovery::announcement(MAC, target, false);
        assert_eq!(discovery::advertised(&again), Some(target));
    }
    let heard = parse_hello(input);
    if let Some((source, payload)) = heard
        && payload.len() <= PAYLOAD_MAX
    {
        let again = hello(MAC, source, payload);
        assert_eq!(parse_hello(&again), Some((source, payload)));
    }
    if let Some(turned) = to_partner(input, Some(MAC), &PARTNERS) {
        assert_eq!(turned.len(), input.len());
        assert_eq!(turned[..6], MAC);
        assert_eq!(parse_hello(&turned).is_some(), heard.is_some());
    }
}

/// One frame of each kind.
pub fn seeds() -> Vec<Seed> {
    let mut reply = arp_request(MAC, OWN4, Ipv4Addr::new(10, 0, 0, 254));
    // Operation 2.
    reply[21] = 2;
    [
        ("hello4", hello(MAC, OWN4.into(), &[0x5a; 92])),
        ("hello6", hello(MAC, OWN6.into(), &[0x5a; 92])),
        ("advert4", advertisement(MAC, OWN4.into(), &[0x21; 128])),
        ("advert6", advertisement(MAC, OWN6.into(), &[0x21; 128])),
        ("arp-reply", reply),
        ("arp-gratuitous", gratuitous_arp(MAC, OWN4)),
        ("nd-announcement", discovery::announcement(MAC, OWN6, true)),
        ("nd-solicitation", discovery::solicitation(MAC, OWN6, OWN6)),
        ("nd-probe", discovery::probe(MAC, OWN6)),
    ]
    .map(|(name, frame)| (name.to_owned(), frame))
    .to_vec()
}
