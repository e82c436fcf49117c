//! What a service does with its real servers, under real connections: persistence, limits, the last resort,
//! draining, servers that go down, several ports.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::RealServerState;
use ha_tests::clock::until;
use ha_tests::rig::config::{
    PairConfig, RealServer, SERVER_PORT, SERVICE_PORT, SHARED_FRONT, SHARED_FRONT6, Scheduler,
};
use ha_tests::rig::pair::Pair;
use ha_tests::traffic::conversation::{Conversation, Datagrams};

const SHARED: [IpAddr; 2] = [IpAddr::V4(SHARED_FRONT), IpAddr::V6(SHARED_FRONT6)];

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("a_persistent_client_stays_where_it_was", persistence),
            ("full_servers_leave_it_to_the_last_resort", limits),
            ("weight_zero_drains", draining),
            ("connections_to_a_server_that_is_down_are_reset", || {
                down("on_down: reset")
            }),
            ("connections_to_a_server_that_is_down_are_kept", || {
                down("on_down: keep")
            }),
            ("several_ports_and_any_port", ports),
        ],
    )
}

fn whole(config: PairConfig) -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        scheduler: Scheduler::Rr,
        ipv6: true,
        ..config
    })?;
    pair.start()?;
    Ok(pair)
}

fn service(shared: IpAddr) -> SocketAddr {
    SocketAddr::new(shared, SERVICE_PORT)
}

/// Gives the client's host more addresses: each is a client of its own.
fn clients(pair: &Pair, count: u8) -> Result<Vec<Ipv4Addr>> {
    let addresses: Vec<_> = (0..count)
        .map(|n| Ipv4Addr::new(10, 77, 1, 200 + n))
        .collect();
    for address in &addresses {
        pair.client
            .ip(&format!("addr add {address}/24 dev front"))?;
    }
    Ok(addresses)
}

fn persistence() -> Result<()> {
    let pair = whole(PairConfig {
        keys: vec!["persistence: { timeout: 300s }"],
        ..PairConfig::default()
    })?;
    let target = service(SHARED_FRONT.into());
    let mut used = BTreeSet::new();
    let mut kept = Vec::new();
    for client in clients(&pair, 6)? {
        let first = Conversation::open_from(&pair.client, client.into(), target)?;
        used.insert(first.server());
        for _ in 0..6 {
            let next = Conversation::open_from(&pair.client, client.into(), target)?;
            ensure!(
                next.server() == first.server(),
                "{client} came to {} after {}",
                next.server(),
                first.server()
            );
            kept.push(next);
        }
        kept.push(first);
    }
    ensure!(used == [1, 2].into(), "only {used:?} used");
    let six = service(SHARED_FRONT6.into());
    let first = Conversation::open(&pair.client, six)?.server();
    for _ in 0..6 {
        assert_eq!(Conversation::open(&pair.client, six)?.server(), first);
    }
    Ok(())
}

fn limits() -> Result<()> {
    const LIMITED: u16 = 81;
    let [first, second, last] = [1, 2, 3].map(|number| RealServer { number, weight: 1 }.address());
    let pair = whole(PairConfig {
        services: format!(
            "  - name: limited
    address: {SHARED_FRONT}
    port: {LIMITED}
    scheduler: rr
    last_resort: {{ address: {last}, port: {SERVER_PORT} }}
    timeouts: {{ closed: 2s }}
    real_servers:
      - {{ address: {first}, port: {SERVER_PORT}, connections: 2 }}
      - {{ address: {second}, port: {SERVER_PORT}, connections: 2 }}
"
        ),
        ..PairConfig::default()
    })?;
    let target = SocketAddr::new(SHARED_FRONT.into(), LIMITED);
    let open = || Conversation::open(&pair.client, target);
    let mut kept = (0..4).map(|_| open()).collect::<Result<Vec<_>>>()?;
    let servers = |kept: &[Conversation]| {
        let mut servers: Vec<_> = kept.iter().map(Conversation::server).collect();
        servers.sort_unstable();
        servers
    };
    assert_eq!(servers(&kept), [1, 1, 2, 2]);
    for _ in 0..3 {
        let sorry = open()?;
        assert_eq!(sorry.server(), 3);
        kept.push(sorry);
    }
    for conversation in &mut kept {
        conversation.talk(1000)?;
    }
    // Room that is made is used again.
    kept.retain(|conversation| conversation.server() != 1);
    until("no connection came to rs1 again", || {
        Ok(open()?.server() == 1)
    })
}

fn draining() -> Result<()> {
    let mut pair = whole(PairConfig::default())?;
    let mut kept = Vec::new();
    for shared in SHARED {
        for _ in 0..6 {
            kept.push(Conversation::open(&pair.client, service(shared))?);
        }
    }
    let on_first = kept.iter().filter(|open| open.server() == 1).count();
    ensure!(on_first >= 4, "{on_first} connections to rs1");
    let server = |number, weight| RealServer { number, weight };
    pair.change_servers(vec![server(1, 0), server(2, 1)])?;
    pair.wait_whole()?;
    for shared in SHARED {
        for _ in 0..6 {
            let fresh = Conversation::open(&pair.client, service(shared))?;
            assert_eq!(fresh.server(), 2);
        }
    }
    for open in &mut kept {
        open.talk(10_000)?;
    }
    Ok(())
}

/// rs1 is cut off; what becomes of its connections depends on the service.
fn down(key: &'static str) -> Result<()> {
    let pair = whole(PairConfig {
        keys: vec![key],
        ..PairConfig::default()
    })?;
    let mut kept = Vec::new();
    for shared in SHARED {
        for _ in 0..4 {
            let mut open = Conversation::open(&pair.client, service(shared))?;
            open.talk(100)?;
            kept.push(open);
        }
    }
    let active = pair.nodes.get(pair.active()?).context("no such node")?;
    let state_of_first = || -> Result<Vec<RealServerState>> {
        let services = active.services()?.services;
        let servers = services.iter().filter_map(|s| s.real_servers.first());
        Ok(servers.map(|server| server.state).collect())
    };
    let is_everywhere = |state| Ok(state_of_first()?.iter().all(|found| *found == state));
    pair.switch.netns().ip("link set back-rs1 down")?;
    until("rs1 is not down", || is_everywhere(RealServerState::Down))?;
    let reset = key.ends_with("reset");
    for open in &mut kept {
        open.stream()
            .set_read_timeout(Some(Duration::from_secs(3)))?;
        let result = open.talk(100);
        let kind = result.as_ref().err().map(std::io::Error::kind);
        match (open.server(), reset) {
            (1, true) => ensure!(kind == Some(ErrorKind::ConnectionReset), "{result:?}"),
            (1, false) => ensure!(kind == Some(ErrorKind::WouldBlock), "{result:?}"),
            _ => result?,
        }
    }
    for shared in SHARED {
        assert_eq!(
            Conversation::open(&pair.client, service(shared))?.server(),
            2
        );
    }
    if !reset {
        // It was not its fault.
        pair.switch.netns().ip("link set back-rs1 up")?;
        until("rs1 is not up", || is_everywhere(RealServerState::Up))?;
        for open in kept.iter_mut().filter(|open| open.server() == 1) {
            open.stream()
                .set_read_timeout(Some(Duration::from_secs(30)))?;
            open.catch_up()?;
            open.talk(1000)?;
        }
    }
    Ok(())
}

fn ports() -> Result<()> {
    const RANGE: [u16; 3] = [8000, 8001, 8003];
    const OTHER: [u16; 2] = [5353, 33_333];
    let mut services = String::new();
    for (family, shared) in [(4, SHARED[0]), (6, SHARED[1])] {
        let own = |number| -> IpAddr {
            let server = RealServer { number, weight: 1 };
            if family == 4 {
                server.address().into()
            } else {
                server.address6().into()
            }
        };
        let (first, second) = (own(1), own(2));
        for (name, port, protocol) in [
            ("range", "8000-8003", "tcp"),
            ("any", "any", "udp"),
            ("any-tcp", "any", "tcp"),
        ] {
            writeln!(
                services,
                "  - name: {name}{family}
    address: '{shared}'
    port: {port}
    protocol: {protocol}
    scheduler: rr
    real_servers:
      - {{ address: '{first}' }}
      - {{ address: '{second}' }}"
            )?;
        }
    }
    let pair = whole(PairConfig {
        services,
        ports: RANGE.into_iter().chain(OTHER).collect(),
        ..PairConfig::default()
    })?;
    for shared in SHARED {
        for port in RANGE.into_iter().chain(OTHER) {
            let target = SocketAddr::new(shared, port);
            let mut servers = BTreeSet::new();
            for _ in 0..4 {
                let mut open = Conversation::open(&pair.client, target)
                    .with_context(|| format!("TCP to {target}"))?;
                open.talk(1000)?;
                servers.insert(open.server());
            }
            ensure!(servers == [1, 2].into(), "{target}: {servers:?}");
            Datagrams::open(&pair.client, target)?
                .ask()
                .with_context(|| format!("UDP to {target}"))?;
        }
        // A service of its own goes first.
        Conversation::open(&pair.client, service(shared))?.talk(1000)?;
        // At a port nobody listens at the real server refuses, not the node.
        let refused = Conversation::open(&pair.client, SocketAddr::new(shared, 7777));
        ensure!(refused.is_err(), "somebody listens at {shared} port 7777");
    }
    Ok(())
}
