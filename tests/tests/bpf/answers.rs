//! What the data plane tells senders by itself: that a packet lives no longer, or is too long.

use anyhow::{Result, ensure};
use ha_common::reason::Reason;
use ha_common::service::Forwarding;
use ha_tests::packet::{Frame, Trouble, flag};

use super::family::Family;
use super::lab::{
    CLIENT, CLIENT_MAC, Case, Lab, MTU, NAMES, NODE_MAC, ONE, OWN, RESOLVER, SECOND, USUAL, WEB,
    datagram, from_client, from_server, id,
};

pub(crate) const CASES: &[Case] = &[
    ("nobody_else_is_told_in_their_stead", USUAL, strangers),
    ("answers_are_bounded", USUAL, bounded),
    ("a_sender_without_an_address_is_not_told", USUAL, nobody),
    (
        "packets_with_more_headers_are_not_explained",
        USUAL,
        dressed,
    ),
    ("a_first_fragment_is_explained", USUAL, fragment),
    ("what_fits_after_all_is_sent", USUAL, fits),
];

pub(crate) const CASES_OF_METHODS: &[Case] = &[
    (
        "a_client_is_told_that_the_last_hop_was_here",
        USUAL,
        client_ttl,
    ),
    (
        "a_server_is_told_that_the_last_hop_was_here",
        USUAL,
        server_ttl,
    ),
    ("the_last_hop_but_one_is_none", USUAL, before_last),
    (
        "a_client_is_told_that_its_packet_is_too_big",
        USUAL,
        client_big,
    ),
    (
        "a_server_is_told_that_its_packet_is_too_big",
        USUAL,
        server_big,
    ),
    ("fragments_are_left_to_the_kernel", USUAL, divisible),
];

pub(crate) const CASES_DSR: &[Case] = &[(
    "there_is_no_kernel_on_the_way_to_a_neighbour",
    USUAL,
    neighbour,
)];

/// A frame whose IP packet has this length.
fn of_length(lab: &Lab, frame: &Frame, len: usize) -> Frame {
    let empty = frame.clone().payload(b"");
    let headers = lab.bytes(&empty).len() - frame.l3();
    frame.clone().payload(&vec![0x5a; len - headers])
}

/// Runs a frame of which its sender must be told.
fn told(lab: &mut Lab, frame: &Frame, reason: Reason, trouble: Trouble) -> Result<()> {
    let wanted = lab.told(frame, *WEB.ip(), trouble);
    lab.becomes(frame, reason, &wanted)
}

fn client_ttl(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    let other = "203.0.113.1:5".parse()?;
    for ttl in [0, 1] {
        for frame in [
            // Known, new, and rebuilt.
            from_client(CLIENT, WEB, flag::ACK).payload(b"data"),
            from_client(CLIENT, WEB, flag::FIN | flag::ACK),
            from_client(other, WEB, flag::SYN),
            from_client(other, WEB, flag::ACK).payload(&[1; 1000]),
            datagram(CLIENT, NAMES).payload(b""),
            datagram(other, NAMES),
            datagram(CLIENT, NAMES).without_checksum(),
        ] {
            for frame in [frame.clone().tag(0x8100, 1), frame.class(0xb8).whole()] {
                told(lab, &frame.ttl(ttl), Reason::TtlAnswered, Trouble::Expired)?;
            }
        }
    }
    let conns = lab.world.conns()?;
    let wanted = if lab.is_one_way() { 2 } else { 4 };
    ensure!(conns.len() == wanted, "an entry was made: {conns:?}");
    ensure!(lab.embryo(other)?.is_none(), "half-open");
    ensure!(lab.world.events()?.len() == 1, "a change was announced");
    Ok(())
}

fn server_ttl(lab: &mut Lab) -> Result<()> {
    if lab.is_one_way() {
        return Ok(());
    }
    // Within a handshake.
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    for ttl in [0, 1] {
        let answer = lab.answer(ONE, CLIENT, flag::SYN | flag::ACK)?.ttl(ttl);
        told(lab, &answer, Reason::TtlAnswered, Trouble::Expired)?;
    }
    ensure!(
        lab.embryo(CLIENT)?
            .is_some_and(|embryo| embryo.answered == 0),
        "what did not arrive counts"
    );
    lab.connect(CLIENT, WEB)?;
    for ttl in [0, 1] {
        let answer = lab
            .answer(ONE, CLIENT, flag::ACK)?
            .ttl(ttl)
            .payload(b"data");
        told(lab, &answer, Reason::TtlAnswered, Trouble::Expired)?;
    }
    if lab.setting.method == Forwarding::Nat {
        let orphan = from_server(ONE, "203.0.113.1:5".parse()?, flag::ACK).ttl(1);
        told(lab, &orphan, Reason::TtlAnswered, Trouble::Expired)?;
    }
    Ok(())
}

fn before_last(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let data = from_client(CLIENT, WEB, flag::ACK).ttl(2);
    let after = lab.run(&data, Reason::ForwardRedirect)?;
    let wanted = lab.at_server(&data, ONE)?;
    let wanted = match lab.setting.method {
        // It is the packet inside that grows older.
        Forwarding::Tunnel => {
            let (source, destination) = (super::lab::NODE_BACK_MAC, super::lab::ONE_MAC);
            let inner = data.ttl(1).macs(source, destination);
            inner.inside(OWN, *ONE.ip())
        }
        Forwarding::Nat | Forwarding::FullNat | Forwarding::Dsr => wanted.ttl(1),
    };
    ensure!(after == lab.bytes(&wanted), "{after:02x?}");
    Ok(())
}

/// What a tunnel puts in front.
fn overhead(lab: &Lab) -> usize {
    match lab.setting.method {
        Forwarding::Tunnel => lab.family().header(),
        Forwarding::Nat | Forwarding::FullNat | Forwarding::Dsr => 0,
    }
}

fn client_big(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    let fits = MTU - overhead(lab);
    for (frame, real) in [
        (from_client(CLIENT, WEB, flag::ACK), ONE),
        (datagram(CLIENT, NAMES), RESOLVER),
        (datagram("203.0.113.1:5".parse()?, NAMES), RESOLVER),
    ] {
        let frame = frame.whole();
        let longest = of_length(lab, &frame, fits);
        lab.forwards(&longest, Reason::ForwardRedirect, real)?;
        for len in [fits + 1, 3000] {
            let longer = of_length(lab, &frame, len);
            let trouble = Trouble::TooBig(fits as u32);
            told(lab, &longer, Reason::TooBigAnswered, trouble)?;
        }
    }
    Ok(())
}

fn server_big(lab: &mut Lab) -> Result<()> {
    if lab.is_one_way() {
        return Ok(());
    }
    lab.connect(CLIENT, WEB)?;
    let answer = lab.answer(ONE, CLIENT, flag::ACK)?.whole();
    let longest = of_length(lab, &answer, MTU);
    lab.returns(&longest, WEB, CLIENT)?;
    let longer = of_length(lab, &answer, MTU + 1);
    let trouble = Trouble::TooBig(MTU as u32);
    told(lab, &longer, Reason::TooBigAnswered, trouble)
}

/// What may be made into fragments.
fn divisible(lab: &mut Lab) -> Result<()> {
    if lab.family() == Family::V6 {
        // Routers make none of them.
        return Ok(());
    }
    lab.connect(CLIENT, WEB)?;
    let long = of_length(lab, &from_client(CLIENT, WEB, flag::ACK), MTU + 1);
    match lab.setting.method {
        Forwarding::Dsr => told(
            lab,
            &long,
            Reason::TooBigAnswered,
            Trouble::TooBig(MTU as u32),
        )?,
        Forwarding::Nat => lab.becomes(&long, Reason::ForwardKernel, &long.clone().to(ONE))?,
        Forwarding::FullNat => {
            let wanted = long.clone().to(ONE).from(lab.seen_by_server(CLIENT, WEB)?);
            lab.becomes(&long, Reason::ForwardKernel, &wanted)?;
        }
        Forwarding::Tunnel => {
            let wanted = long.clone().ttl(63).inside(OWN, *ONE.ip());
            lab.becomes(&long, Reason::ForwardKernel, &wanted)?;
        }
    }
    if !lab.is_one_way() {
        let answer = lab.answer(ONE, CLIENT, flag::ACK)?;
        let answer = of_length(lab, &answer, MTU + 1);
        let wanted = answer.clone().from(WEB).to(CLIENT);
        lab.becomes(&answer, Reason::ReverseKernel, &wanted)?;
    }
    Ok(())
}

fn neighbour(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.change_real(id::ONE, |real| real.hop_known = 0)?;
    let long = of_length(lab, &from_client(CLIENT, WEB, flag::ACK), MTU + 1);
    lab.run(&long, Reason::RealServerUnreachable)?;
    Ok(())
}

fn strangers(lab: &mut Lab) -> Result<()> {
    let elsewhere = "192.0.2.9:80".parse()?;
    for frame in [
        from_client(CLIENT, elsewhere, flag::ACK),
        from_server(ONE, elsewhere, flag::SYN),
        Frame::tcp(CLIENT, std::net::SocketAddrV4::new(OWN, 22), flag::SYN),
    ] {
        lab.untouched(&frame.clone().ttl(1), Reason::NotOurs)?;
        lab.untouched(&of_length(lab, &frame, MTU + 1), Reason::NotOurs)?;
    }
    Ok(())
}

fn bounded(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let dying = from_client(CLIENT, WEB, flag::ACK).ttl(1);
    let long = of_length(lab, &from_client(CLIENT, WEB, flag::ACK).whole(), MTU + 1);
    let mut answered = 0;
    let begun = ha_tests::clock::now_ns();
    let earned = || (ha_tests::clock::now_ns() - begun) * 1024 / SECOND;
    while lab.send(&dying)?.reason == Reason::TtlAnswered {
        answered += 1;
        // A machine that takes a millisecond for a frame earns a token with each.
        if answered == 1000 && earned() >= 1000 - 130 {
            return Ok(());
        }
        ensure!(answered < 10_000, "no end of answers");
    }
    // A burst, and what was earned meanwhile.
    let earned = earned();
    ensure!(
        (128..=130 + earned).contains(&answered),
        "{answered} answers, {earned} earned"
    );
    // What is not answered is dropped as it came; another token may come in between.
    let mut unanswered = 0;
    for _ in 0..1000 {
        let ran = lab.send(&long)?;
        if ran.reason == Reason::TooBig {
            ensure!(ran.frame == lab.bytes(&long), "changed");
            unanswered += 1;
        } else {
            ensure!(ran.reason == Reason::TooBigAnswered, "{:?}", ran.reason);
        }
    }
    let earned = (ha_tests::clock::now_ns() - begun) * 1024 / SECOND;
    ensure!(unanswered > 0 || earned >= 1000, "no end of answers");
    Ok(())
}

fn nobody(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let from_group = from_client(CLIENT, WEB, flag::ACK)
        .macs([0xff; 6], NODE_MAC)
        .ttl(1);
    lab.untouched(&from_group, Reason::TtlExpired)
}

/// IPv4 options would have to be repeated; IPv6 extension headers need not be.
fn dressed(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let dress = |frame: Frame| frame.options(&[1; 4]).extension(60, &[1, 4, 0, 0, 0, 0]);
    let data = dress(from_client(CLIENT, WEB, flag::ACK).whole());
    let dying = data.clone().ttl(1);
    let long = of_length(lab, &data, MTU + 1);
    match lab.family() {
        Family::V4 => {
            lab.untouched(&dying, Reason::TtlExpired)?;
            lab.untouched(&long, Reason::TooBig)
        }
        Family::V6 => {
            told(lab, &dying, Reason::TtlAnswered, Trouble::Expired)?;
            let trouble = Trouble::TooBig(MTU as u32);
            told(lab, &long, Reason::TooBigAnswered, trouble)
        }
    }
}

fn fragment(lab: &mut Lab) -> Result<()> {
    let first = datagram(CLIENT, NAMES)
        .payload(&[1; 200])
        .piece(0..64)
        .ttl(1);
    told(lab, &first, Reason::TtlAnswered, Trouble::Expired)?;
    ensure!(lab.world.fragments()?.is_empty(), "more is expected");
    Ok(())
}

/// The agent knows of less than the interface takes.
fn fits(lab: &mut Lab) -> Result<()> {
    lab.change_real(id::ONE, |real| real.mtu = 1280)?;
    lab.connect(CLIENT, WEB)?;
    let long = of_length(lab, &from_client(CLIENT, WEB, flag::ACK).whole(), MTU);
    lab.forwards(&long, Reason::ForwardRedirect, ONE)?;
    let answer = of_length(lab, &from_server(ONE, CLIENT, flag::ACK).whole(), MTU);
    let wanted = super::lab::at_client(&answer, WEB).macs(NODE_MAC, CLIENT_MAC);
    lab.becomes(&answer, Reason::ReverseTransmit, &wanted)?;
    Ok(())
}
