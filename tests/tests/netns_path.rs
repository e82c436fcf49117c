//! What clients learn of the way to a service: echoes, hops, path MTU, closed ports, fragments.

mod common;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;
use ha_common::proto;
use ha_common::reason::Reason;
use ha_tests::clock::{now_ns, until};
use ha_tests::rig::capture::{Capture, Frame};
use ha_tests::rig::config::{
    CLIENT, CLIENT6, Forwarding, PairConfig, SERVICE_PORT, SHARED_BACK, SHARED_BACK6, SHARED_FRONT,
    SHARED_FRONT6,
};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::switch::Port;
use ha_tests::traffic::conversation::{Conversation, Datagrams};
use ha_tests::traffic::path::{self, forbid_fragments, hear_errors, ping, tcp_hop, told, udp_hop};

/// A takeover may take this long, on a machine that stalls.
const TAKEOVER: Duration = Duration::from_secs(10);
/// MTU on the real servers' side where it is smaller.
const NARROW: u32 = 1400;
const SHARED: [IpAddr; 2] = [IpAddr::V4(SHARED_FRONT), IpAddr::V6(SHARED_FRONT6)];
/// A port of the shared addresses whose real servers do not listen.
const CLOSED: u16 = 9;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("the_active_node_alone_answers_echoes", echoes),
            ("the_shared_address_is_a_hop", || hops(Forwarding::Nat)),
            ("the_shared_address_is_a_hop_of_a_tunnel", || {
                hops(Forwarding::Tunnel)
            }),
            ("a_narrow_path_is_learnt", || {
                narrow_path(Forwarding::Nat, NARROW)
            }),
            ("long_a_narrow_path_is_learnt_with_full_nat", || {
                narrow_path(Forwarding::FullNat, NARROW)
            }),
            ("the_room_of_a_tunnel_is_learnt", || {
                narrow_path(Forwarding::Tunnel, 1500)
            }),
            ("a_closed_port_is_refused", || refused(Forwarding::Nat)),
            ("a_closed_port_is_refused_with_full_nat", || {
                refused(Forwarding::FullNat)
            }),
            ("fragments_find_their_way", fragments),
            ("the_first_fragment_may_come_last", backwards),
        ],
    )
}

fn whole(config: PairConfig) -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        ipv6: true,
        ..config
    })?;
    pair.start()?;
    Ok(pair)
}

fn service(shared: IpAddr) -> SocketAddr {
    SocketAddr::new(shared, SERVICE_PORT)
}

/// At the client's port, and at all of both nodes.
fn capture(pair: &Pair) -> Result<Capture> {
    let mut ports = vec!["front-client"];
    ports.extend(pair.nodes.iter().flat_map(Node::ports).map(Port::name));
    Capture::start(pair.switch.netns(), &ports)
}

fn right_checksums(frames: &[Frame]) {
    for frame in frames {
        assert_eq!(frame.checksum_fault(), None, "{frame:?}");
    }
}

/// The nodes (1, 2) that sent echo replies to the client.
fn repliers(frames: &[Frame]) -> Vec<&str> {
    let mut found: Vec<&str> = frames
        .iter()
        .filter(|frame| frame.from_node && frame.port.starts_with("front-lb"))
        .filter(|frame| {
            frame.flow().is_some_and(|flow| {
                let at = if flow.source.is_ipv4() { 34 } else { 54 };
                let kind = frame.bytes.get(at).copied();
                matches!(
                    (flow.protocol, kind),
                    (proto::ICMP, Some(0)) | (proto::ICMPV6, Some(129))
                ) && SHARED.contains(&flow.source)
            })
        })
        .map(|frame| &*frame.port)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn echoes() -> Result<()> {
    let pair = whole(PairConfig::default())?;
    let mut active = pair.active()?;
    for _ in 0..2 {
        let capture = capture(&pair)?;
        for shared in SHARED {
            // The addresses come a little later than the role.
            until(&format!("an echo from {shared}"), || {
                ping(&pair.client, shared)
            })?;
        }
        let frames = capture.finish()?;
        right_checksums(&frames);
        assert_eq!(repliers(&frames), [format!("front-lb{}", active + 1)]);
        let old = pair.nodes.get(active).context("no such node")?;
        active = 1 - active;
        let new = pair.nodes.get(active).context("no such node")?;
        old.failover()?;
        new.wait_role(Role::Active, TAKEOVER)?;
        old.wait_role(Role::Standby, TAKEOVER)?;
    }
    Ok(())
}

fn hops(forwarding: Forwarding) -> Result<()> {
    let pair = whole(PairConfig {
        forwarding,
        ..PairConfig::default()
    })?;
    let capture = capture(&pair)?;
    for shared in SHARED {
        let target = service(shared);
        let told = udp_hop(&pair.client, target, 1)?;
        ensure!(told.is_time_exceeded(), "{told:?}");
        assert_eq!(told.by, shared);

        let (connected, told) = tcp_hop(&pair.client, target, 1)?;
        let told = told.with_context(|| format!("nothing is told of {connected:?}"))?;
        ensure!(told.is_time_exceeded(), "{told:?}");
        assert_eq!(told.by, shared);
        ensure!(connected.is_err(), "connected");

        // The real server is the next hop.
        tcp_hop(&pair.client, target, 2)?.0?;

        // Of a connection that exists, too.
        let mut datagrams = Datagrams::open(&pair.client, target)?;
        datagrams.ask()?;
        hear_errors(datagrams.socket(), target)?;
        match target {
            SocketAddr::V4(_) => datagrams.socket().set_ttl(1)?,
            SocketAddr::V6(_) => {
                socket2::SockRef::from(datagrams.socket()).set_unicast_hops_v6(1)?;
            }
        }
        datagrams.socket().send(b"and now?")?;
        let told = told_within(&datagrams)?;
        ensure!(told.is_time_exceeded() && told.by == shared, "{told:?}");
    }
    right_checksums(&capture.finish()?);
    Ok(())
}

fn told_within(datagrams: &Datagrams) -> Result<path::Told> {
    told(datagrams.socket(), Duration::from_secs(5))?.context("nothing is told")
}

/// Makes the network of the real servers narrow, while they go on offering full segments: as if the narrow
/// part were somewhere between the nodes and them.
fn narrow(pair: &Pair, mtu: u32) -> Result<()> {
    let switch = pair.switch.netns();
    for node in &pair.nodes {
        node.netns.ip(&format!("link set back mtu {mtu}"))?;
        switch.ip(&format!("link set {} mtu {mtu}", node.back.name()))?;
    }
    for (number, real) in (1..).zip(&pair.reals) {
        real.ip(&format!("link set back mtu {mtu}"))?;
        switch.ip(&format!("link set back-rs{number} mtu {mtu}"))?;
        let (route, route6) = match pair.config.forwarding {
            Forwarding::FullNat => (
                "replace 10.77.2.0/24 dev back".to_owned(),
                "replace fd00:77:2::/64 dev back proto kernel metric 256".to_owned(),
            ),
            Forwarding::Nat | Forwarding::Dsr | Forwarding::Tunnel => (
                format!("replace default via {SHARED_BACK}"),
                format!("replace default via {SHARED_BACK6}"),
            ),
        };
        real.ip(&format!(
            "route {route} advmss 1460\nroute {route6} advmss 1440"
        ))?;
    }
    Ok(())
}

fn narrow_path(forwarding: Forwarding, mtu: u32) -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        ipv6: true,
        forwarding,
        ..PairConfig::default()
    })?;
    if mtu < 1500 {
        narrow(&pair, mtu)?;
    }
    pair.start()?;
    let capture = capture(&pair)?;
    for shared in SHARED {
        let header: u32 = if shared.is_ipv4() { 20 } else { 40 };
        let tunnel = if forwarding == Forwarding::Tunnel {
            header
        } else {
            0
        };
        let fits = mtu - tunnel;
        learn_by_datagrams(&pair, service(shared), fits)
            .with_context(|| format!("datagrams to {shared}"))?;
        // What was learnt would spare the connection the experience.
        forget(&pair, shared)?;
        bulk(&pair, service(shared), fits).with_context(|| format!("bulk to {shared}"))?;
    }
    let frames = capture.finish()?;
    right_checksums(&frames);
    Ok(())
}

/// Has the client forget what it learnt of the path.
fn forget(pair: &Pair, shared: IpAddr) -> Result<()> {
    pair.client.ip(if shared.is_ipv4() {
        "route flush cache"
    } else {
        // What was learnt goes with the route that it was learnt of.
        "route replace fd00:77:1::/64 dev front proto kernel metric 256"
    })
}

/// A datagram that fills a packet is too long; the sender is told what fits, and that arrives.
fn learn_by_datagrams(pair: &Pair, target: SocketAddr, fits: u32) -> Result<()> {
    let headers: u32 = if target.is_ipv4() { 28 } else { 48 };
    let full = vec![7; usize::try_from(1500 - headers)?];
    let mut datagrams = Datagrams::open(&pair.client, target)?;
    datagrams.ask()?;
    let socket = datagrams.socket();
    forbid_fragments(socket, target)?;
    hear_errors(socket, target)?;
    assert_eq!(path::mtu(socket, target)?, 1500);
    let end = now_ns() + 10_000_000_000;
    loop {
        // A datagram may be lost; once the kernel knows better it refuses it.
        match socket.send(&full) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            other => {
                other?;
            }
        }
        if let Some(told) = told(socket, Duration::from_millis(500))?
            && told.mtu != 0
        {
            assert_eq!(told.mtu, fits, "{told:?}");
            assert_eq!(told.by, target.ip(), "{told:?}");
            break;
        }
        ensure!(now_ns() < end, "nothing is told");
    }
    assert_eq!(path::mtu(socket, target)?, fits);
    datagrams.echo(usize::try_from(fits - headers)?)
}

/// Full segments get through after all.
fn bulk(pair: &Pair, target: SocketAddr, fits: u32) -> Result<()> {
    let mut conversation = Conversation::open(&pair.client, target)?;
    let before = path::mtu(conversation.stream(), target)?;
    assert_eq!(before, 1500, "known before");
    conversation.talk(2_000_000)?;
    assert_eq!(path::mtu(conversation.stream(), target)?, fits);
    Ok(())
}

fn refused(forwarding: Forwarding) -> Result<()> {
    let mut services = String::new();
    let config = PairConfig {
        forwarding,
        ..PairConfig::default()
    };
    for shared in SHARED {
        writeln!(
            services,
            "  - name: closed{}
    address: '{shared}'
    port: {CLOSED}
    protocol: udp
    forwarding: {}
    real_servers:",
            if shared.is_ipv4() { 4 } else { 6 },
            forwarding.as_str()
        )?;
        for server in &config.servers {
            let (v4, v6) = config.addresses(*server);
            let own: IpAddr = if shared.is_ipv4() {
                v4.into()
            } else {
                v6.into()
            };
            writeln!(services, "      - {{ address: '{own}', port: {CLOSED} }}")?;
        }
    }
    let pair = whole(PairConfig { services, ..config })?;
    for shared in SHARED {
        let seen = errors(&pair, shared)?;
        let told = seen.iter().find(|frame| {
            let to_client = !frame.from_node && &*frame.port == "front-client";
            to_client && frame.flow().is_some_and(|flow| flow.source == shared)
        });
        let told = told.with_context(|| format!("no error from {shared}, but {seen:?}"))?;
        // What the client was told is about a packet to it.
        let inner = if shared.is_ipv4() {
            34 + 8 + 20
        } else {
            54 + 8 + 40
        };
        let ports = frame_ports(&told.bytes, inner);
        assert_eq!(ports.map(|(_, to)| to), Some(CLOSED), "{told:?}");
    }
    Ok(())
}

/// Sends to the closed port until that is refused; the frames that say so, to the client or on the way to it.
fn errors(pair: &Pair, shared: IpAddr) -> Result<Vec<Frame>> {
    let target = SocketAddr::new(shared, CLOSED);
    let capture = capture(pair)?;
    let datagrams = Datagrams::open(&pair.client, target)?;
    let socket = datagrams.socket();
    let refused = (0..10).any(|_| {
        // The error of one datagram is that of the next call.
        let sent = socket.send(b"anybody?").map(|_| ());
        let heard = socket.recv(&mut [0; 16]).map(|_| ());
        [sent, heard].iter().any(|result| {
            let error = result.as_ref().err();
            error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        })
    });
    ensure!(refused, "{target} is not refused");
    let mut frames = capture.finish()?;
    right_checksums(&frames);
    let (at, protocol, unreachable, client): (_, _, _, IpAddr) = if shared.is_ipv4() {
        (34, proto::ICMP, 3, CLIENT.into())
    } else {
        (54, proto::ICMPV6, 1, CLIENT6.into())
    };
    frames.retain(|frame| {
        let flow = frame.flow();
        flow.is_some_and(|flow| flow.protocol == protocol && flow.destination == client)
            && frame.bytes.get(at) == Some(&unreachable)
    });
    Ok(frames)
}

fn frame_ports(bytes: &[u8], at: usize) -> Option<(u16, u16)> {
    let half = |at: usize| {
        let bytes = bytes.get(at..at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    Some((half(at)?, half(at + 2)?))
}

fn fragments() -> Result<()> {
    let pair = whole(PairConfig::default())?;
    let capture = capture(&pair)?;
    for shared in SHARED {
        let mut datagrams = Datagrams::open(&pair.client, service(shared))?;
        datagrams.ask()?;
        for length in [1473, 2000, 4000, 9000] {
            datagrams
                .echo(length)
                .with_context(|| format!("{length} bytes to {shared}"))?;
        }
        // Also as the first packet of a flow.
        Datagrams::open(&pair.client, service(shared))?.echo(4000)?;
    }
    right_checksums(&capture.finish()?);
    Ok(())
}

/// Late first fragments are waited for: the whole datagram comes back.
fn backwards() -> Result<()> {
    let pair = whole(PairConfig::default())?;
    let capture = capture(&pair)?;
    let active = pair.nodes.get(pair.active()?).context("no such node")?;
    for shared in SHARED {
        let mut datagrams = Datagrams::open(&pair.client, service(shared))?;
        datagrams.ask()?;
        let before = held(active)?;
        datagrams
            .echo_backwards(&pair.client, 3000)
            .with_context(|| format!("to {shared}"))?;
        ensure!(held(active)? >= before + 2, "nothing was held for {shared}");
    }
    right_checksums(&capture.finish()?);
    Ok(())
}

/// Fragments that came before the first of their packet.
fn held(node: &Node) -> Result<u64> {
    let counters = node.counters()?;
    let held = Reason::FragmentHeld.as_str();
    let found = counters
        .counters
        .iter()
        .find(|counter| counter.name == held);
    Ok(found.context("no such counter")?.value)
}
