//! What is counted, what is shown, and what is not looked at.

use anyhow::{Result, ensure};
use ha_common::event::SAMPLE_BYTES;
use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::{Load, RealState, Traffic, real_flags};
use ha_tests::clock::now_ns;
use ha_tests::packet::{Frame, flag};
use ha_tests::rig::bpf::INGRESS;

use super::lab::{
    CLIENT, Case, Lab, NAMES, ONE, SECOND, TIMEOUTS, USUAL, WEB, at_server, conn_key, datagram,
    from_client, from_server, id, net,
};

pub(crate) const CASES: &[Case] = &[
    (
        "packets_and_bytes_are_counted_by_real_server",
        USUAL,
        traffic,
    ),
    ("connections_are_counted_by_real_server", USUAL, loads),
    ("who_does_not_concern_us_is_not_looked_at", USUAL, filter),
    ("what_leaves_can_be_shown", USUAL, samples),
    ("a_missing_program_is_counted", USUAL, stages),
];

pub(crate) const CASES_TUNNEL: &[Case] = &[("a_tunnel_needs_room", USUAL, headroom)];

fn traffic(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let header = lab.family().header() as u64;
    // Three packets of the handshake, without payload.
    let mut wanted = Traffic {
        connections: 1,
        packets_in: 2,
        bytes_in: 2 * (header + 20),
        packets_out: 1,
        bytes_out: header + 20,
        dropped: 0,
    };
    ensure!(lab.world.traffic(id::ONE)? == wanted, "the handshake");
    for len in [0, 1000] {
        let data = vec![1; len as usize];
        // Neither tags nor what pads a frame counts.
        let mut padded = lab.bytes(
            &from_client(CLIENT, WEB, flag::ACK)
                .tag(0x8100, 1)
                .payload(&data),
        );
        padded.extend([0; 20]);
        lab.run(&padded, Reason::ForwardRedirect)?;
        lab.run(
            &from_server(ONE, CLIENT, flag::ACK).payload(&data),
            Reason::ReverseTransmit,
        )?;
        wanted.packets_in += 1;
        wanted.bytes_in += header + 20 + len;
        wanted.packets_out += 1;
        wanted.bytes_out += header + 20 + len;
    }
    let found = lab.world.traffic(id::ONE)?;
    ensure!(found == wanted, "{found:?} instead of {wanted:?}");
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    let found = lab.world.traffic(id::RESOLVER)?;
    ensure!(found.connections == 1 && found.packets_in == 1, "{found:?}");
    ensure!(lab.world.traffic(id::ONE)? == wanted, "of another");
    lab.change_real(id::ONE, |real| {
        real.state = RealState::Down as u8;
        real.flags = real_flags::RESET_WHEN_DOWN;
    })?;
    let late = from_server(ONE, CLIENT, flag::ACK);
    lab.untouched(&late, Reason::RealServerDown)?;
    wanted.dropped = 1;
    ensure!(lab.world.traffic(id::ONE)? == wanted, "not dropped");
    Ok(())
}

fn loads(lab: &mut Lab) -> Result<()> {
    let connections = |lab: &Lab| Ok::<_, anyhow::Error>(lab.world.load(id::ONE)?.connections);
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    ensure!(connections(lab)? == 0, "half-open counts");
    lab.connect(CLIENT, WEB)?;
    ensure!(connections(lab)? == 1, "established");
    lab.connect("198.51.100.7:40001".parse()?, WEB)?;
    ensure!(connections(lab)? == 2, "another");
    // Closed, its port may be used again, which ends it.
    lab.run(
        &from_client(CLIENT, WEB, flag::RST),
        Reason::ForwardRedirect,
    )?;
    ensure!(connections(lab)? == 2, "closed, but not gone");
    lab.run(
        &from_client(CLIENT, WEB, flag::SYN),
        Reason::ForwardRedirect,
    )?;
    ensure!(connections(lab)? == 1, "gone");
    // Never below nothing.
    lab.world.set_load(id::ONE, Load::default())?;
    let other = conn_key("198.51.100.7:40001".parse()?, WEB, proto::TCP);
    for (key, mut conn) in lab.world.conns()? {
        conn.last_seen_ns -= TIMEOUTS.established_ns + SECOND;
        lab.world.set_conn(key, conn)?;
    }
    ensure!(lab.world.janitor(&[other])? == 1, "not deleted");
    ensure!(connections(lab)? == 0, "below nothing");
    Ok(())
}

/// Were it looked at, its entry would be found.
fn filter(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    let [(_, forward), _] = lab.pair()?;
    let elsewhere = "192.0.2.9:80".parse()?;
    lab.world
        .set_conn(conn_key(CLIENT, elsewhere, proto::TCP), forward)?;
    for flags in [flag::SYN, flag::ACK, flag::RST] {
        let passing = from_client(CLIENT, elsewhere, flags);
        lab.untouched(&passing, Reason::NotOurs)?;
        let dressed = passing.options(&[1; 4]).extension(60, &[1, 4, 0, 0, 0, 0]);
        lab.untouched(&dressed, Reason::NotOurs)?;
    }
    // As soon as an address might concern us, it is.
    let mut real = ha_common::service::Real::default();
    real.addr.words[0] = net(*elsewhere.ip());
    lab.world.set_real(60, real)?;
    lab.run(
        &from_client(CLIENT, elsewhere, flag::ACK),
        Reason::ForwardRedirect,
    )?;
    Ok(())
}

fn samples(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    ensure!(lab.world.samples()?.is_empty(), "shown without being asked");
    lab.configure(|config| config.sample_every = 1)?;
    let data = from_client(CLIENT, WEB, flag::ACK).payload(&[7; 1000]);
    let short = from_client(CLIENT, WEB, flag::ACK);
    let passing = Frame::udp(CLIENT, "192.0.2.9:53".parse::<std::net::SocketAddrV4>()?);
    for (frame, reason, left) in [
        (&data, Reason::ForwardRedirect, at_server(&data, ONE)),
        (&short, Reason::ForwardRedirect, at_server(&short, ONE)),
        (&passing, Reason::NotOurs, passing.clone()),
    ] {
        let before = now_ns();
        lab.run(frame, reason)?;
        let samples = lab.world.samples()?;
        let [sample] = samples.as_slice() else {
            anyhow::bail!("{} samples", samples.len());
        };
        let left = lab.bytes(&left);
        let kept = left.len().min(SAMPLE_BYTES);
        ensure!(sample.len as usize == left.len(), "{}", sample.len);
        ensure!(sample.kept as usize == kept, "{}", sample.kept);
        ensure!(sample.frame[..kept] == left[..kept], "other bytes");
        ensure!(
            sample.frame[kept..].iter().all(|byte| *byte == 0),
            "rubbish"
        );
        ensure!(sample.reason == reason as u32, "{}", sample.reason);
        ensure!(sample.ifindex == INGRESS, "{}", sample.ifindex);
        ensure!(
            (before..=now_ns()).contains(&sample.at_ns),
            "{}",
            sample.at_ns
        );
    }
    Ok(())
}

fn stages(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    if !lab.world.lose_stages()? {
        return Ok(());
    }
    for frame in [
        from_client(CLIENT, WEB, flag::SYN),
        from_client(CLIENT, WEB, flag::FIN | flag::ACK),
        datagram(CLIENT, NAMES),
        from_client(CLIENT, WEB, flag::ACK).ttl(1),
    ] {
        lab.untouched(&frame, Reason::StageMissing)?;
    }
    // What is established needs none of them.
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.becomes(&data, Reason::ForwardRedirect, &at_server(&data, ONE))
}

fn headroom(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    if !lab.world.crowd() {
        return Ok(());
    }
    let data = from_client(CLIENT, WEB, flag::ACK);
    lab.run(&data, Reason::NoHeadroom)?;
    lab.run(&data.ttl(1), Reason::TtlExpired)?;
    Ok(())
}
