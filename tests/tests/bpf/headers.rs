//! IPv4 options and IPv6 extension headers: looked behind as far as they make sense.

use anyhow::Result;
use ha_common::reason::Reason;
use ha_tests::packet::{Frame, flag};

use super::lab::{
    CLIENT, Case, Lab, NAMES, ONE, RESOLVER, USUAL, VIP, WEB, at_client, at_server, datagram,
    from_client, from_server,
};

pub(crate) const CASES_V4: &[Case] = &[
    ("options_do_not_hide_a_connection", USUAL, options),
    ("options_end_where_the_header_does", USUAL, options_short),
];

pub(crate) const CASES_V6: &[Case] = &[
    (
        "extension_headers_do_not_hide_a_connection",
        USUAL,
        extensions,
    ),
    ("too_many_extension_headers_are_dropped", USUAL, too_many),
    (
        "extension_headers_that_are_cut_off_are_dropped",
        USUAL,
        cut_off,
    ),
    (
        "a_packet_on_its_way_to_others_first_is_dropped",
        USUAL,
        routed,
    ),
    ("other_headers_are_the_kernels", USUAL, others),
    ("a_packet_that_is_not_all_there_is_dropped", USUAL, short),
];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

/// Six bytes of padding (RFC 8200 section 4.2).
const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
/// The rest of a routing header with nobody left to go to.
const ARRIVED: [u8; 6] = [0, 0, 0, 0, 0, 0];

fn options(lab: &mut Lab) -> Result<()> {
    for words in 1..=10 {
        let lab = &mut lab.anew()?;
        let dress = |frame: Frame| frame.options(&vec![1; 4 * words]);
        conversation(lab, &dress)?;
        let tagged = dress(datagram(CLIENT, NAMES)).tag(0x88a8, 1).tag(0x8100, 2);
        lab.becomes(
            &tagged,
            Reason::ForwardRedirect,
            &at_server(&tagged, RESOLVER),
        )?;
    }
    Ok(())
}

/// A handshake and data of both directions, and a question.
fn conversation(lab: &mut Lab, dress: &dyn Fn(Frame) -> Frame) -> Result<()> {
    let syn = dress(from_client(CLIENT, WEB, flag::SYN));
    lab.becomes(&syn, Reason::ForwardRedirect, &at_server(&syn, ONE))?;
    let answer = dress(from_server(ONE, CLIENT, flag::SYN | flag::ACK).numbers(5000, 1001));
    lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, WEB))?;
    for payload in [b"".as_slice(), b"data"] {
        let data = from_client(CLIENT, WEB, flag::ACK).numbers(1001, 5001);
        let data = dress(data.payload(payload));
        lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))?;
        let answer = dress(from_server(ONE, CLIENT, flag::ACK).payload(payload));
        lab.becomes(&answer, Reason::ReverseTransmit, &at_client(&answer, WEB))?;
    }
    lab.pair()?;
    let question = dress(datagram(CLIENT, NAMES));
    lab.becomes(
        &question,
        Reason::ForwardRedirect,
        &at_server(&question, RESOLVER),
    )
}

fn options_short(lab: &mut Lab) -> Result<()> {
    // The header says it is longer than the packet, or leaves no room for the ports.
    let mut frame = datagram(CLIENT, NAMES).payload(b"").build();
    frame[14] = 0x4f;
    lab.untouched(&frame, Reason::BadIpHeader)?;
    let raw = Frame::raw(*CLIENT.ip(), VIP, 17)
        .options(&[1; 40])
        .payload(&[0; 7]);
    lab.untouched(&raw, Reason::Truncated)
}

fn extensions(lab: &mut Lab) -> Result<()> {
    let lists: [&[(u8, &[u8])]; 6] = [
        &[(HOP_BY_HOP, &PADDING)],
        &[(DESTINATION, &PADDING)],
        &[(ROUTING, &ARRIVED)],
        &[
            (HOP_BY_HOP, &PADDING),
            (DESTINATION, &PADDING),
            (ROUTING, &ARRIVED),
        ],
        &[(DESTINATION, &[0; 62])],
        &[(DESTINATION, PADDING.as_slice()); 6],
    ];
    for list in lists {
        let lab = &mut lab.anew()?;
        conversation(lab, &|frame| {
            list.iter()
                .fold(frame, |frame, (kind, bytes)| frame.extension(*kind, bytes))
        })?;
    }
    Ok(())
}

fn too_many(lab: &mut Lab) -> Result<()> {
    let with = |count: usize| {
        (0..count).fold(from_client(CLIENT, WEB, flag::SYN), |frame, _| {
            frame.extension(DESTINATION, &PADDING)
        })
    };
    lab.run(&with(6), Reason::ForwardRedirect)?;
    for count in [7, 8, 20] {
        lab.untouched(&with(count), Reason::BadIpHeader)?;
    }
    // One that is longer than is looked behind.
    let long = from_client(CLIENT, WEB, flag::SYN).extension(DESTINATION, &[0; 254]);
    lab.untouched(&long, Reason::BadIpHeader)?;
    let passing = from_client(CLIENT, "192.0.2.9:80".parse()?, flag::SYN);
    let passing = (0..9).fold(passing, |frame, _| frame.extension(DESTINATION, &PADDING));
    lab.untouched(&passing, Reason::NotOurs)
}

fn cut_off(lab: &mut Lab) -> Result<()> {
    // The last header says that it goes on behind the end of the packet.
    for (kind, rest) in [
        (HOP_BY_HOP, PADDING),
        (DESTINATION, PADDING),
        (ROUTING, ARRIVED),
    ] {
        let frame = Frame::raw(*CLIENT.ip(), VIP, 6).extension(kind, &rest);
        let mut bytes = lab.bytes(&frame);
        bytes[14 + 41] = 3;
        lab.untouched(&bytes, Reason::Truncated)?;
        bytes[14 + 40] = DESTINATION;
        lab.untouched(&bytes, Reason::BadIpHeader)?;
    }
    // A fragment header that is not all there.
    let mut bytes = lab.bytes(&Frame::raw(*CLIENT.ip(), VIP, 44).payload(&[6, 0, 0, 1]));
    lab.untouched(&bytes, Reason::BadIpHeader)?;
    // What pads the frame is no part of the packet.
    bytes.extend([0; 4]);
    lab.untouched(&bytes, Reason::Truncated)
}

/// A routing header with segments left: the destination is not the last one, and the checksum is that of
/// the last one.
fn routed(lab: &mut Lab) -> Result<()> {
    for kind in [0, 2, 4] {
        let mut header = vec![kind, 1, 0, 0, 0, 0];
        header.extend([0x20; 16]);
        let frame = from_client(CLIENT, WEB, flag::SYN).extension(ROUTING, &header);
        lab.untouched(&frame, Reason::BadIpHeader)?;
    }
    Ok(())
}

fn others(lab: &mut Lab) -> Result<()> {
    // Authentication, encryption, no next header, unknown.
    for next in [51, 50, 59, 253] {
        let frame = Frame::raw(*CLIENT.ip(), VIP, next).payload(&[0; 40]);
        lab.untouched(&frame, Reason::SharedAddressLocal)?;
        let frame = frame.extension(DESTINATION, &PADDING);
        lab.untouched(&frame, Reason::SharedAddressLocal)?;
    }
    Ok(())
}

fn short(lab: &mut Lab) -> Result<()> {
    let whole = lab.bytes(&from_client(CLIENT, WEB, flag::SYN).payload(b"payload"));
    lab.untouched(&whole[..whole.len() - 1], Reason::BadIpHeader)?;
    let mut longer = whole.clone();
    longer[14 + 5] += 1;
    lab.untouched(&longer, Reason::BadIpHeader)?;
    let mut empty = whole;
    empty[14 + 4..14 + 6].fill(0);
    lab.untouched(&empty, Reason::Truncated)
}
