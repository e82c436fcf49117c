//! Every way of forwarding, in both families and both layouts of the network: real connections with checked
//! payload, datagrams, and captures at both ends that say how packets looked and that every checksum on the
//! way was right.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_common::proto;
use ha_tests::rig::capture::{Capture, Flow, Frame};
use ha_tests::rig::config::{
    CLIENT, CLIENT6, Forwarding, PairConfig, RealServer, SERVICE_PORT, SHARED_BACK, SHARED_BACK6,
    SHARED_FRONT, SHARED_FRONT6, Scheduler,
};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::switch::Port;
use ha_tests::traffic::conversation::{Conversation, Datagrams};

/// Bytes of each connection, there and back.
const BYTES: usize = 200_000;
/// Connections, and flows of datagrams, of each family.
const FLOWS: usize = 4;
/// How long closed connections may go on.
const GOODBYES: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("nat", || carries(Forwarding::Nat, false)),
            ("long_nat_one_arm", || carries(Forwarding::Nat, true)),
            ("full_nat", || carries(Forwarding::FullNat, false)),
            ("full_nat_one_arm", || carries(Forwarding::FullNat, true)),
            ("dsr", || carries(Forwarding::Dsr, false)),
            ("long_dsr_one_arm", || carries(Forwarding::Dsr, true)),
            ("tunnel", || carries(Forwarding::Tunnel, false)),
            ("long_tunnel_one_arm", || carries(Forwarding::Tunnel, true)),
        ],
    )
}

/// Of each family: the shared address of clients, the client, and that of the real servers.
const ENDS: [(IpAddr, IpAddr, IpAddr); 2] = [
    (
        IpAddr::V4(SHARED_FRONT),
        IpAddr::V4(CLIENT),
        IpAddr::V4(SHARED_BACK),
    ),
    (
        IpAddr::V6(SHARED_FRONT6),
        IpAddr::V6(CLIENT6),
        IpAddr::V6(SHARED_BACK6),
    ),
];

fn carries(forwarding: Forwarding, one_arm: bool) -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        scheduler: Scheduler::Rr,
        forwarding,
        one_arm,
        ipv6: true,
        ..PairConfig::default()
    })?;
    pair.start()?;
    let capture = capture(&pair)?;
    for (shared, _, _) in ENDS {
        converse(&pair, SocketAddr::new(shared, SERVICE_PORT))
            .with_context(|| format!("{} to {shared}", forwarding.as_str()))?;
    }
    // Connections whose ends are closed say goodbye: what one port has seen of that, the others must have as well.
    sleep(GOODBYES);
    let frames = capture.finish()?;
    for frame in &frames {
        assert_eq!(frame.checksum_fault(), None, "{frame:?}");
    }
    for family in ENDS {
        let seen = Seen {
            pair: &pair,
            frames: &frames,
            family,
        };
        for protocol in [proto::TCP, proto::UDP] {
            seen.arrived(protocol)?;
            seen.answered(protocol)?;
        }
    }
    Ok(())
}

/// At every port of the switch that packets of clients and their answers pass.
fn capture(pair: &Pair) -> Result<Capture> {
    let nodes = pair.nodes.iter().flat_map(Node::ports);
    let mut ports: Vec<String> = nodes.map(Port::name).map(str::to_owned).collect();
    ports.push("front-client".to_owned());
    for server in &pair.config.servers {
        let (back, front) = legs(&pair.config);
        let host = format!("rs{}", server.number);
        if back {
            ports.push(format!("back-{host}"));
        }
        if front {
            ports.push(format!("front-{host}"));
        }
    }
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    Capture::start(pair.switch.netns(), &ports)
}

/// Whether real servers have a leg in the back and in the front network.
fn legs(config: &PairConfig) -> (bool, bool) {
    (
        !config.one_arm,
        config.one_arm || config.forwarding.is_one_way(),
    )
}

/// Connections and datagrams, of which each real server gets some.
fn converse(pair: &Pair, service: SocketAddr) -> Result<()> {
    let wanted: BTreeSet<u64> = [1, 2].into();
    let mut servers = BTreeSet::new();
    let mut open = Vec::new();
    for _ in 0..FLOWS {
        let conversation = Conversation::open(&pair.client, service)?;
        servers.insert(u64::from(conversation.server()));
        open.push(conversation);
    }
    for conversation in &mut open {
        conversation.talk(BYTES)?;
    }
    ensure!(servers == wanted, "TCP: {servers:?}");
    let mut servers = BTreeSet::new();
    for _ in 0..FLOWS {
        let mut datagrams = Datagrams::open(&pair.client, service)?;
        let server = datagrams.ask()?;
        for _ in 0..20 {
            ensure!(datagrams.ask()? == server, "a flow changed its server");
        }
        servers.insert(server);
    }
    ensure!(servers == wanted, "UDP: {servers:?}");
    Ok(())
}

/// What the captures say of a family.
struct Seen<'a> {
    pair: &'a Pair,
    frames: &'a [Frame],
    family: (IpAddr, IpAddr, IpAddr),
}

impl Seen<'_> {
    /// Flows of frames at ports that begin so, from or to the host there.
    fn at(&self, port: &str, from: bool) -> Vec<Flow> {
        let (shared, _, _) = self.family;
        self.frames
            .iter()
            .filter(|frame| frame.port.starts_with(port) && frame.from_node == from)
            .filter_map(Frame::flow)
            .filter(|flow| flow.source.is_ipv4() == shared.is_ipv4())
            .collect()
    }

    /// How clients' packets arrived at the real servers: as the way of forwarding says, and no other.
    fn arrived(&self, protocol: u8) -> Result<()> {
        let config = &self.pair.config;
        let (shared, client, back) = self.family;
        let stand_in = if config.one_arm { shared } else { back };
        let network = if config.one_arm { "front" } else { "back" };
        for server in &config.servers {
            let (v4, v6) = config.addresses(RealServer {
                number: server.number,
                weight: 1,
            });
            let own: IpAddr = if shared.is_ipv4() {
                v4.into()
            } else {
                v6.into()
            };
            let tunnelled = if shared.is_ipv4() {
                proto::IPIP
            } else {
                proto::IPV6
            };
            let (source, destination, protocol) = match config.forwarding {
                Forwarding::Nat => (client, own, protocol),
                Forwarding::FullNat => (stand_in, own, protocol),
                Forwarding::Dsr => (client, shared, protocol),
                Forwarding::Tunnel => (stand_in, own, tunnelled),
            };
            let port = format!("{network}-rs{}", server.number);
            let found = self.at(&port, false);
            let count = found
                .iter()
                .filter(|flow| flow.source == source && flow.destination == destination)
                .filter(|flow| flow.protocol == protocol)
                .count();
            ensure!(count > 20, "{count} packets of {protocol} at {port}");
            // A real server in the clients' network sees their neighbour discovery as well.
            let carried = [proto::TCP, proto::UDP, tunnelled];
            let strange: Vec<_> = found
                .iter()
                .filter(|flow| carried.contains(&flow.protocol))
                .filter(|flow| flow.destination == shared || flow.source == client)
                .filter(|flow| (flow.source, flow.destination) != (source, destination))
                .collect();
            ensure!(strange.is_empty(), "{strange:?} at {port}");
        }
        Ok(())
    }

    /// The client got all answers from the shared address, through a node or past them.
    fn answered(&self, protocol: u8) -> Result<()> {
        let (shared, client, _) = self.family;
        let answers = |port: &str, from: bool| {
            let found = self.at(port, from);
            found
                .into_iter()
                .filter(|flow| flow.protocol == protocol && flow.destination == client)
                .filter(|flow| flow.source == shared)
                .count()
        };
        let received = answers("front-client", false);
        ensure!(received > 80, "{received} answers of {protocol}");
        let active = format!("front-lb{}", self.pair.active()? + 1);
        let through = answers(&active, true);
        if self.pair.config.forwarding.is_one_way() {
            ensure!(through == 0, "{through} answers came through {active}");
        } else {
            ensure!(
                through == received,
                "{through} of {received} answers came through {active}"
            );
        }
        Ok(())
    }
}
