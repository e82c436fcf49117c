//! One packet of every kind, to be cut, stretched and spoiled.

use std::net::Ipv4Addr;

use ha_tests::packet::{Frame, Trouble, arp_request, carp_header, flag};

use super::lab::{
    CLIENT, Lab, NAMES, NODE_BACK_MAC, ONE, ONE_MAC, RESOLVER, Sent as _, VHID, VIP, WEB, datagram,
    from_client, from_server,
};
use super::partner::{PARTNER6, VIP6, advert, packet6};

/// Frames of the lab's family, and those that are of either.
pub(crate) fn templates(lab: &Lab) -> Vec<Vec<u8>> {
    let mut carp = carp_header(VHID);
    carp.extend([7; 92]);
    let router = Ipv4Addr::new(192, 0, 2, 254);
    let answer = Frame::tcp(WEB, CLIENT, flag::ACK).payload(b"data");
    let request = Frame::tcp(CLIENT, ONE, flag::ACK).payload(b"data");
    let question = Frame::udp(CLIENT, RESOLVER).payload(b"question");
    let bare = Frame::udp(NAMES, CLIENT).without_checksum();
    let longer = datagram(CLIENT, NAMES).payload(&[9; 100]);
    let padding = [1, 4, 0, 0, 0, 0];
    let frames = [
        from_client(CLIENT, WEB, flag::SYN),
        from_client(CLIENT, WEB, flag::ACK),
        from_client(CLIENT, WEB, flag::FIN | flag::ACK),
        from_client(CLIENT, WEB, flag::RST),
        from_client(CLIENT, WEB, flag::ACK).ttl(1),
        from_server(ONE, CLIENT, flag::SYN | flag::ACK),
        from_server(ONE, CLIENT, flag::ACK),
        from_server(ONE, CLIENT, flag::ACK).ttl(1),
        datagram(CLIENT, NAMES),
        datagram(CLIENT, NAMES).ttl(1),
        Frame::udp(RESOLVER, CLIENT),
        Frame::udp(RESOLVER, CLIENT).without_checksum(),
        longer.clone().piece(0..48),
        longer.clone().piece(48..96),
        longer.piece(96..108),
        Frame::error(router, Trouble::TooBig(1400), &answer, 8),
        Frame::error(router, Trouble::Port, &answer, 100),
        Frame::error(router, Trouble::Expired, &bare, 8),
        Frame::error(*ONE.ip(), Trouble::Port, &question, 8),
        Frame::error(router, Trouble::TooBig(1280), &request, 100).macs(ONE_MAC, NODE_BACK_MAC),
        Frame::raw(*CLIENT.ip(), VIP, 1).payload(&[8, 0, 0, 0]),
        Frame::raw(*CLIENT.ip(), VIP, 58).payload(&[128, 0, 0, 0]),
        Frame::raw(*CLIENT.ip(), VIP, 112).ttl(255).payload(&carp),
        Frame::raw(*CLIENT.ip(), VIP, 112)
            .ttl(255)
            .options(&[1; 40])
            .payload(&carp),
        from_client(CLIENT, WEB, flag::ACK)
            .options(&[1; 8])
            .extension(0, &padding),
        datagram(CLIENT, NAMES)
            .options(&[1; 40])
            .extension(60, &padding)
            .extension(43, &[0; 6]),
        from_client(CLIENT, WEB, flag::ACK).inside(*CLIENT.ip(), VIP),
    ];
    let mut templates = vec![
        arp_request(*CLIENT.ip(), VIP),
        advert(1).frame(),
        advert(1).v6().frame(),
        packet6(PARTNER6, VIP6, 58, 255, &[136; 32]),
    ];
    let family = lab.family();
    for frame in frames {
        let tagged = frame.clone().tag(0x8100, 1);
        let twice = frame.clone().tag(0x88a8, 1).tag(0x8100, 2);
        let thrice = twice.clone().tag(0x8100, 3);
        for frame in [frame, tagged, twice, thrice] {
            templates.push(frame.bytes(family));
        }
    }
    templates
}
