//! Power-off of the active node under each way of forwarding, both families at once: round robin, and a set
//! of real servers that changed before the fault, so that only the replicated table knows where connections go.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_common::proto;
use ha_tests::demo::Fault;
use ha_tests::rig::capture::{Capture, Frame};
use ha_tests::rig::config::{
    Forwarding, PairConfig, RealServer, SERVER_PORT, SERVICE_PORT, SHARED_BACK, SHARED_BACK6,
    SHARED_FRONT, SHARED_FRONT6, Scheduler,
};
use ha_tests::rig::pair::Pair;
use ha_tests::traffic::conversation::Conversation;
use ha_tests::traffic::load::Load;

const CONNECTIONS: usize = 100;
const NEW_RATE: u64 = 150;
const SHARED: [IpAddr; 2] = [IpAddr::V4(SHARED_FRONT), IpAddr::V6(SHARED_FRONT6)];

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("nat", || power_off(Forwarding::Nat)),
            ("full_nat", || power_off(Forwarding::FullNat)),
            ("dsr", || power_off(Forwarding::Dsr)),
            ("tunnel", || power_off(Forwarding::Tunnel)),
            ("stand_ins_of_two_nodes_never_clash", stand_ins),
        ],
    )
}

fn whole(forwarding: Forwarding) -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        scheduler: Scheduler::Rr,
        forwarding,
        ipv6: true,
        ..PairConfig::default()
    })?;
    pair.start()?;
    Ok(pair)
}

fn power_off(forwarding: Forwarding) -> Result<()> {
    let mut pair = whole(forwarding)?;
    let old = pair.active()?;
    let loads = SHARED
        .iter()
        .map(|shared| {
            let service = SocketAddr::new(*shared, SERVICE_PORT);
            Load::start(&pair.client, service, CONNECTIONS)
        })
        .collect::<Result<Vec<_>>>()?;
    let server = |number, weight| RealServer { number, weight };
    pair.change_servers(vec![server(1, 0), server(2, 1), server(3, 1)])?;
    pair.wait_whole()?;
    for load in &loads {
        load.open(NEW_RATE, Duration::from_secs(1));
    }
    // With round robin those younger than the replication's delay have no other chance, and a machine that
    // is busy with other things delays it.
    for load in &loads {
        load.open(0, Duration::from_secs(2));
    }
    pair.wait_whole()?;
    let fault_ns = Fault::PowerOff.inject(&mut pair, old)?;
    for load in &loads {
        load.fault_at(fault_ns);
    }
    for (load, shared) in loads.into_iter().zip(SHARED) {
        let (tcp, udp) = load.finish(fault_ns, pair.config.timeout)?;
        ensure!(tcp.connections > CONNECTIONS, "{shared}: {tcp:#?}");
        ensure!(
            (tcp.survived, tcp.broken_before) == (tcp.connections, 0),
            "{shared}: {tcp:#?}"
        );
        ensure!(
            (udp.lost_flows, udp.moved_flows, udp.wrong_answers) == (0, 0, 0),
            "{shared}: {udp:#?}"
        );
    }
    assert_eq!(pair.active()?, 1 - old);
    Ok(())
}

/// Connections made by one node live on while the other makes new ones: no port of the shared source is ever
/// used by both.
fn stand_ins() -> Result<()> {
    let mut pair = whole(Forwarding::FullNat)?;
    let old = pair.active()?;
    let mut kept = Vec::new();
    let (first, mut before) = open(&pair)?;
    kept.append(&mut before);
    sleep(Duration::from_secs(1));
    Fault::PowerOff.inject(&mut pair, old)?;
    pair.nodes.get(1 - old).context("no such node")?.wait_role(
        ha_agent::status::model::Role::Active,
        Duration::from_secs(10),
    )?;
    let (second, mut after) = open(&pair)?;
    kept.append(&mut after);
    for conversation in &mut kept {
        conversation.talk(1000)?;
    }
    for (ports, others) in [(&first, &second), (&second, &first)] {
        ensure!(ports.len() >= CONNECTIONS, "{} ports", ports.len());
        let parities: BTreeSet<u16> = ports.iter().map(|port| port % 2).collect();
        ensure!(parities.len() == 1, "ports of both parities: {ports:?}");
        ensure!(ports.is_disjoint(others), "{ports:?} and {others:?}");
    }
    Ok(())
}

/// Opens connections to both families; the ports that stand in for them.
fn open(pair: &Pair) -> Result<(BTreeSet<u16>, Vec<Conversation>)> {
    let capture = Capture::start(pair.switch.netns(), &["back-rs1", "back-rs2"])?;
    let mut conversations = Vec::new();
    for shared in SHARED {
        for _ in 0..CONNECTIONS {
            let service = SocketAddr::new(shared, SERVICE_PORT);
            let mut conversation = Conversation::open(&pair.client, service)?;
            conversation.talk(100)?;
            conversations.push(conversation);
        }
    }
    let frames = capture.finish()?;
    Ok((
        frames.iter().filter_map(request_port).collect(),
        conversations,
    ))
}

/// The source port of a connection request through the service.
fn request_port(frame: &Frame) -> Option<u16> {
    const SYN: u8 = 2;
    let flow = frame.flow()?;
    let back: [IpAddr; 2] = [SHARED_BACK.into(), SHARED_BACK6.into()];
    let flags_at = 13 + if flow.source.is_ipv4() { 34 } else { 54 };
    let flags = frame.bytes.get(flags_at)?;
    let wanted = !frame.from_node
        && flow.protocol == proto::TCP
        && back.contains(&flow.source)
        && flow.ports.1 == SERVER_PORT
        && *flags == SYN;
    wanted.then_some(flow.ports.0)
}
