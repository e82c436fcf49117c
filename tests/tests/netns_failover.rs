//! Real agents, real kernels' worth of network: every fault of the demonstration with a modest load,
//! and what captures at the switch say about who forwarded when.
//!
//! Times are bounded generously: the machine that runs this stalls by itself.

mod common;

use std::ops::Range;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::clock::{PATIENCE, now_ns};
use ha_tests::demo::{Fault, SERVICE};
use ha_tests::rig::capture::Frame;
use ha_tests::rig::config::{CLIENT, PairConfig, RealServer, SHARED_BACK, SHARED_FRONT, Scheduler};
use ha_tests::rig::pair::Pair;
use ha_tests::traffic::load::Load;
use ha_tests::traffic::report::{TcpReport, UdpReport};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("power_off_loses_nothing", power_off),
            ("a_killed_agent_is_fenced_and_starts_again", agent_kill),
            ("a_frozen_agent_is_fenced_and_goes_standby", freeze),
            ("a_dead_link_loses_nothing", link_down),
            ("a_planned_hand_over_loses_nothing", failover),
            ("sigterm_hands_over", sigterm),
            ("a_one_way_link_never_has_two_forward", one_way),
            ("a_standby_that_joins_late_gets_everything", late_standby),
            ("round_robin_survives_by_replication_alone", round_robin),
            (
                "round_robin_without_replication_breaks",
                control_round_robin,
            ),
            ("changed_servers_survive_by_replication", changed_servers),
            ("changed_servers_without_replication_break", control_changed),
        ],
    )
}

const CONNECTIONS: usize = 200;
const NEW_RATE: u64 = 300;
/// A takeover may take this much longer than the timeout on a machine that stalls.
const SLACK: Duration = Duration::from_secs(4);

fn config() -> PairConfig {
    PairConfig {
        timeout: Duration::from_millis(500),
        ..PairConfig::default()
    }
}

fn whole(config: PairConfig) -> Result<Pair> {
    let mut pair = Pair::build(config)?;
    pair.start()?;
    Ok(pair)
}

/// Load up to the moment of the fault.
fn load(pair: &Pair) -> Result<Load> {
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    load.open(NEW_RATE, Duration::from_secs(1));
    load.burst();
    Ok(load)
}

/// What a run showed.
struct Seen {
    pair: Pair,
    /// Index of the node that was active.
    old: usize,
    fault_ns: u64,
    tcp: TcpReport,
    udp: UdpReport,
    frames: Vec<Frame>,
}

/// What happens while the clients go on: with the pair, the index of the node that was active, and
/// the time of the fault.
type Meanwhile = fn(&mut Pair, usize, u64) -> Result<()>;

/// Injects `fault` under load; `meanwhile` runs while the clients go on.
fn inject(fault: Fault, config: PairConfig, meanwhile: Option<Meanwhile>) -> Result<Seen> {
    let mut pair = whole(config)?;
    let old = pair.active()?;
    let capture = pair.capture()?;
    let load = load(&pair)?;
    let fault_ns = fault.inject(&mut pair, old)?;
    load.fault_at(fault_ns);
    if let Some(meanwhile) = meanwhile {
        meanwhile(&mut pair, old, fault_ns)?;
    }
    let (tcp, udp) = load.finish(fault_ns, pair.config.timeout)?;
    let frames = capture.finish()?;
    Ok(Seen {
        pair,
        old,
        fault_ns,
        tcp,
        udp,
        frames,
    })
}

impl Seen {
    /// Every connection went on, the other node is active, and no frame was malformed.
    fn assert_survived(&self) -> Result<()> {
        assert_survived(&self.tcp, &self.udp);
        let gap = self.udp.gap_ms.context("no probe was answered")?;
        let bound = (self.pair.config.timeout + SLACK).as_secs_f64() * 1e3;
        assert!(gap.max < bound, "{:?}", self.udp);
        assert_eq!(self.pair.active()?, 1 - self.old);
        for frame in &self.frames {
            assert_eq!(frame.checksum_fault(), None, "{frame:?}");
        }
        Ok(())
    }

    /// The last frame the old node forwarded precedes the first of the new one.
    fn assert_fenced(&self) {
        let [old, new] = [self.old, 1 - self.old].map(|node| forwarded(&self.frames, node));
        let (last, first) = (old.iter().max(), new.iter().min());
        assert!(
            last < first,
            "lb{} forwarded {:.3} ms after the fault, lb{} already {:.3} ms after it",
            self.old + 1,
            after(last, self.fault_ns),
            2 - self.old,
            after(first, self.fault_ns),
        );
        assert!(first > Some(&self.fault_ns), "the fault made no difference");
    }
}

fn assert_survived(tcp: &TcpReport, udp: &UdpReport) {
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    assert!(tcp.connections > CONNECTIONS, "{tcp:#?}");
    assert_eq!(
        (udp.lost_flows, udp.moved_flows, udp.wrong_answers),
        (0, 0, 0),
        "{udp:#?}"
    );
}

fn after(at: Option<&u64>, fault_ns: u64) -> f64 {
    at.map_or(f64::NAN, |at| (*at as f64 - fault_ns as f64) / 1e6)
}

/// When a node sent service traffic to clients or real servers.
fn forwarded(frames: &[Frame], node: usize) -> Vec<u64> {
    let suffix = format!("-lb{}", node + 1);
    frames
        .iter()
        .filter(|frame| frame.from_node && frame.port.ends_with(&suffix))
        .filter(|frame| {
            frame.flow().is_some_and(|flow| {
                let service =
                    [libc::IPPROTO_TCP, libc::IPPROTO_UDP].contains(&flow.protocol.into());
                service && (flow.source == SHARED_FRONT || flow.source == CLIENT)
            })
        })
        .map(|frame| frame.at_ns)
        .collect()
}

fn power_off() -> Result<()> {
    let seen = inject(Fault::PowerOff, config(), None)?;
    seen.assert_survived()?;
    seen.assert_fenced();
    Ok(())
}

fn agent_kill() -> Result<()> {
    let mut seen = inject(
        Fault::AgentKill,
        config(),
        Some(|pair, old, fault_ns| {
            // Nobody is left to take the addresses away but the kernel, which looks after them every second or so.
            let limit = pair.config.timeout + Duration::from_secs(5);
            let end = fault_ns + u64::try_from(limit.as_nanos())?;
            let node = pair.nodes.get(old).context("no such node")?;
            for address in [SHARED_FRONT, SHARED_BACK] {
                while node.has_address(address)? {
                    ensure!(
                        now_ns() < end,
                        "lb{} still has {address} {limit:?} after its agent was killed",
                        node.number
                    );
                    sleep(Duration::from_millis(50));
                }
            }
            Ok(())
        }),
    )?;
    seen.assert_survived()?;
    seen.assert_fenced();

    // What it left behind (pinned maps and links, socket, lock) stops nothing.
    let old = seen.old;
    let node = seen.pair.nodes.get_mut(old).context("no such node")?;
    node.start()?;
    seen.pair.wait_whole()?;
    assert_eq!(
        seen.pair.active()?,
        1 - old,
        "the new active one stays active"
    );
    Ok(())
}

fn freeze() -> Result<()> {
    let seen = inject(
        Fault::Freeze,
        config(),
        Some(|pair, old, _| {
            sleep(pair.config.timeout + Duration::from_secs(2));
            let node = pair.nodes.get(old).context("no such node")?;
            node.signal(Signal::SIGCONT)?;
            node.wait_role(Role::Standby, PATIENCE)?;
            Ok(())
        }),
    )?;
    seen.assert_survived()?;
    seen.assert_fenced();
    Ok(())
}

fn link_down() -> Result<()> {
    let seen = inject(Fault::LinkDown, config(), None)?;
    seen.assert_survived()?;
    seen.assert_fenced();
    Ok(())
}

fn failover() -> Result<()> {
    let seen = inject(Fault::Failover, config(), None)?;
    seen.assert_survived()?;
    let [old, new] = [seen.old, 1 - seen.old].map(|node| forwarded(&seen.frames, node));
    // The old node may go on with established connections for 50 ms; a second for a machine that stalls.
    let overlap = after(old.iter().max(), *new.iter().min().context("no takeover")?);
    assert!(overlap < 1050.0, "{overlap} ms");
    Ok(())
}

/// What the nodes say of a connection request: twice, since asking must not begin the connection.
fn traced(pair: &Pair, active: usize) -> Result<()> {
    let (from, to) = (format!("{CLIENT}:40000"), SERVICE.to_string());
    for (node, found) in pair.nodes.iter().enumerate().cycle().take(4) {
        let words = ["trace-packet", "--json", "--from", &from, "--to", &to];
        let told: serde_json::Value = serde_json::from_str(&found.command(&words)?)?;
        let packet = told.pointer("/packets/0").context("no packet")?;
        let outcome = &packet["outcome"];
        assert_eq!(packet["device"], "front", "{told:#}");
        if node == active {
            let reason = outcome["reason"].as_str().context("no reason")?;
            assert!(reason.starts_with("forward_"), "{told:#}");
            assert_eq!(outcome["entry"], "new_half_open", "{told:#}");
            assert!(outcome["real_server"].is_string(), "{told:#}");
        } else {
            assert_eq!(outcome["reason"], "gate_closed", "{told:#}");
        }
    }
    Ok(())
}

fn sigterm() -> Result<()> {
    let mut pair = whole(config())?;
    let old = pair.active()?;
    traced(&pair, old)?;
    let load = load(&pair)?;
    let fault_ns = now_ns();
    let node = pair.nodes.get_mut(old).context("no such node")?;
    node.signal(Signal::SIGTERM)?;
    load.fault_at(fault_ns);
    let agent = node.agent.as_mut().context("no agent")?;
    let status = agent.wait(Duration::from_secs(10))?;
    ensure!(status.success(), "{status}");
    ensure!(
        !node.has_address(SHARED_FRONT)?,
        "it left the address behind"
    );
    let (tcp, udp) = load.finish(fault_ns, pair.config.timeout)?;
    assert_survived(&tcp, &udp);
    assert_eq!(pair.active()?, 1 - old);
    Ok(())
}

fn one_way() -> Result<()> {
    let pair = whole(config())?;
    let old = pair.active()?;
    let capture = pair.capture()?;
    let load = load(&pair)?;
    // Only what the active node says to its partner is lost, so it goes on hearing the partner and
    // getting the clients' traffic: the case in which an unfenced node would never stop.
    let fault_ns = now_ns();
    drop_election_from(&pair, old)?;
    load.fault_at(fault_ns);
    let (tcp, udp) = load.finish(fault_ns, pair.config.timeout)?;
    let frames = capture.finish()?;
    let seen = Seen {
        pair,
        old,
        fault_ns,
        tcp,
        udp,
        frames,
    };
    seen.assert_survived()?;
    seen.assert_fenced();
    Ok(())
}

/// Drops CARP and HELLO packets of a node at its switch ports.
fn drop_election_from(pair: &Pair, node: usize) -> Result<()> {
    let node = pair.nodes.get(node).context("no such node")?;
    for port in node.ports() {
        let (name, carp, hello) = (
            port.name(),
            ha_common::proto::CARP,
            ha_common::carp::HELLO_PORT,
        );
        pair.switch.netns().nft(&format!(
            "table bridge rig {{
                chain forward {{
                    type filter hook forward priority 0
                    iifname {name} ip protocol {carp} drop
                    iifname {name} udp dport {hello} drop
                }}
            }}"
        ))?;
    }
    Ok(())
}

fn late_standby() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        scheduler: Scheduler::Rr,
        ..config()
    })?;
    pair.nodes[0].start()?;
    pair.nodes[0].wait_role(Role::Active, Duration::from_secs(20))?;
    // A health check of the real servers.
    sleep(Duration::from_secs(2));
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    pair.nodes[1].start()?;
    pair.wait_whole()?;
    load.open(NEW_RATE, Duration::from_secs(1));
    // Round robin: those younger than the replication's delay have no other chance.
    quiet(&load);
    let fault_ns = Fault::PowerOff.inject(&mut pair, 0)?;
    load.fault_at(fault_ns);
    let (tcp, udp) = load.finish(fault_ns, pair.config.timeout)?;
    assert_survived(&tcp, &udp);
    Ok(())
}

/// Opens nothing for long enough that all connections have reached the standby, also from a busy machine.
fn quiet(load: &Load) {
    load.open(0, Duration::from_secs(2));
}

/// With round robin the standby cannot guess the real server.
fn power_off_round_robin(replication: bool) -> Result<(TcpReport, UdpReport)> {
    let mut pair = whole(PairConfig {
        scheduler: Scheduler::Rr,
        replication,
        ..config()
    })?;
    let old = pair.active()?;
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    load.open(NEW_RATE, Duration::from_secs(1));
    quiet(&load);
    let fault_ns = Fault::PowerOff.inject(&mut pair, old)?;
    load.fault_at(fault_ns);
    load.finish(fault_ns, pair.config.timeout)
}

fn round_robin() -> Result<()> {
    let (tcp, udp) = power_off_round_robin(true)?;
    assert_survived(&tcp, &udp);
    Ok(())
}

fn control_round_robin() -> Result<()> {
    let (tcp, _) = power_off_round_robin(false)?;
    // Half of them are led elsewhere by the hash, but for those whose real server speaks first: its packet
    // rebuilds the entry. On a busy machine these are many.
    assert_breaks(&tcp, 0.05..0.75);
    Ok(())
}

/// A real server is added and one drained while connections to it are open.
fn power_off_changed(replication: bool) -> Result<(TcpReport, UdpReport)> {
    let mut pair = whole(PairConfig {
        replication,
        ..config()
    })?;
    let old = pair.active()?;
    let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
    let server = |number, weight| RealServer { number, weight };
    pair.change_servers(vec![server(1, 0), server(2, 1), server(3, 1)])?;
    pair.wait_whole()?;
    load.open(NEW_RATE, Duration::from_secs(1));
    quiet(&load);
    let fault_ns = Fault::PowerOff.inject(&mut pair, old)?;
    load.fault_at(fault_ns);
    load.finish(fault_ns, pair.config.timeout)
}

fn changed_servers() -> Result<()> {
    let (tcp, udp) = power_off_changed(true)?;
    assert_survived(&tcp, &udp);
    Ok(())
}

fn control_changed() -> Result<()> {
    let (tcp, _) = power_off_changed(false)?;
    // About half of the standing connections were to the drained server, and those opened after
    // the change stay where they are.
    assert_breaks(&tcp, 0.05..0.75);
    Ok(())
}

/// A control experiment: without replication this share of the connections breaks.
fn assert_breaks(tcp: &TcpReport, share: Range<f64>) {
    let broken = (tcp.reset + tcp.lost) as f64 / tcp.connections as f64;
    assert!(share.contains(&broken), "{broken} of {tcp:#?}");
    assert_eq!(tcp.corrupted, 0, "{tcp:#?}");
}
