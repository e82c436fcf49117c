//! The demonstration: a pair under load, a fault, and what its clients noticed.

mod fault;
mod options;
mod outcome;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

pub use fault::Fault;
pub use options::{Command, Options};
pub use outcome::Outcome;

use crate::clock::now_ns;
use crate::rig::config::{PairConfig, RealServer, SERVICE_PORT, SHARED_FRONT};
use crate::rig::pair::Pair;
use crate::rig::stalls::StallDetector;
use crate::traffic::client::{Client, Control};
use crate::traffic::report::{self, LOST_AFTER_NS};
use crate::traffic::udp::Prober;

/// At what rate the standing connections are opened.
const STANDING_RATE: u64 = 2_000;
/// New connections a second before the fault; a tenth above what is promised, so that the rate
/// reached can be asserted.
pub const NEW_RATE: u64 = 1_100;
/// For how long at least.
const NEW_FOR: Duration = Duration::from_secs(2);
/// Rate of the burst in which the fault falls: several connections in each millisecond.
const BURST_RATE: u64 = 4_000;
const BURST: Duration = Duration::from_millis(60);
/// The fault comes when a connection is younger than this.
const FRESH_NS: u64 = 500_000;
/// After a frozen agent's lease must have ended.
const THAW_AFTER: Duration = Duration::from_secs(2);
/// Beyond the time after which a silent connection is lost.
const MARGIN: Duration = Duration::from_millis(500);

/// The service the clients talk to.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(SHARED_FRONT, SERVICE_PORT);

/// Runs the demonstration and shows the result; whether everything survived.
pub fn run(options: &Options) -> Result<bool> {
    let config = PairConfig {
        interval: options.interval,
        timeout: options.timeout,
        scheduler: options.scheduler,
        replication: !options.no_replication,
        ..PairConfig::default()
    };
    say("building the network: client, switch, lb1, lb2, rs1, rs2, rs3");
    let mut pair = Pair::build(config)?;
    say("starting both agents");
    pair.start()?;
    let outcome = measure(&mut pair, options)?;
    let mut out = std::io::stdout();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table::render(&outcome, out.is_terminal()))?;
    }
    if options.keep {
        let how = how_to_look(&pair);
        pair.keep()?;
        say(&how);
    }
    Ok(outcome.passed)
}

/// Puts the pair under load, injects the fault and judges what the clients saw.
pub fn measure(pair: &mut Pair, options: &Options) -> Result<Outcome> {
    let before = pair.active()?;
    say(&format!("lb{} is active, the standby is ready", before + 1));
    let stalls = StallDetector::start()?;
    let prober = Prober::start(&pair.client, SERVICE)?;
    let client = Client::start(&pair.client, SERVICE)?;
    let control = Arc::clone(client.control());

    say(&format!("opening {} connections", options.connections));
    control.open(options.connections, STANDING_RATE);
    wait_established(&client, options.connections)?;
    if options.change_servers {
        change_servers(pair)?;
    }

    say(&format!("opening {NEW_RATE} new connections a second"));
    let (from, count) = (now_ns(), control.established());
    control.open(usize::MAX, NEW_RATE);
    thread::sleep(NEW_FOR + random_below(options.interval));
    let seconds = (now_ns() - from) as f64 / 1e9;
    let rate = (control.established() - count) as f64 / seconds;
    control.open(usize::MAX, BURST_RATE);
    thread::sleep(BURST + random_below(BURST));
    wait_fresh(&control);

    say(&format!("fault: {}", options.fault.as_str()));
    let fault_ns = options.fault.inject(pair, before)?;
    control.fault_at(fault_ns);

    let mut faults_after = Vec::new();
    if options.fault == Fault::Freeze {
        thread::sleep(options.timeout + THAW_AFTER);
        say("thawing the frozen agent");
        faults_after.extend(fault::thaw(pair, before)?);
    }
    let end = fault_ns + LOST_AFTER_NS;
    thread::sleep(Duration::from_nanos(end.saturating_sub(now_ns())) + MARGIN);
    let roles = pair.roles();

    let records = client.finish()?;
    let probes = prober.finish()?;
    let within = u64::try_from(options.timeout.as_nanos())? + 1_000_000_000;
    Ok(Outcome::new(
        options,
        &outcome::Seen {
            before,
            roles,
            rate,
            stalls: stalls.finish(),
            tcp: report::tcp(&records, fault_ns),
            udp: report::udp(&probes, fault_ns, within),
            faults_after,
            fault_ns,
        },
    ))
}

/// Waits until all standing connections are established.
fn wait_established(client: &Client, wanted: usize) -> Result<()> {
    let control = client.control();
    let end = now_ns() + 30_000_000_000;
    while control.established() < wanted {
        if control.failed() > 0 || client.ended() || now_ns() > end {
            bail!(
                "only {} of {wanted} connections could be opened ({} broke)",
                control.established(),
                control.failed()
            );
        }
        thread::sleep(Duration::from_millis(10));
    }
    // Each has spoken at least once by then.
    thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Adds rs3 and drains rs1 while connections to it are open.
fn change_servers(pair: &mut Pair) -> Result<()> {
    say("changing the real servers: rs3 is added, rs1 is drained");
    let server = |number, weight| RealServer { number, weight };
    pair.change_servers(vec![server(1, 0), server(2, 1), server(3, 1)])?;
    // One health check of the new server and its way into the tables.
    thread::sleep(Duration::from_secs(2));
    pair.wait_whole().context("after changing the real servers")
}

/// Waits for a moment in which the newest connection is fresh: the generator goes on regardless,
/// so this only avoids a stall of the machine as the moment of the fault.
fn wait_fresh(control: &Control) {
    let end = now_ns() + 1_000_000_000;
    while now_ns() < end && now_ns().saturating_sub(control.newest_ns()) > FRESH_NS {
        thread::sleep(Duration::from_micros(50));
    }
}

/// A random time, so that faults fall on every phase of the advertisement interval.
fn random_below(limit: Duration) -> Duration {
    let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(now_ns() % limit)
}

/// Tells the person at the terminal how things go.
fn say(message: &str) {
    // Nobody is left to tell if standard error is gone.
    let _gone = writeln!(std::io::stderr(), "{message}");
}

fn how_to_look(pair: &Pair) -> String {
    let mut lines = vec!["\nThe pair is still running. Look at it with".to_owned()];
    for node in &pair.nodes {
        lines.push(format!(
            "  ha-agent status -f {0}\n  bpftool map dump pinned {1}/ha_conns4\n  nsenter --net={2} ip address",
            node.config_file().display(),
            node.bpf_dir().display(),
            node.netns.path().display(),
        ));
    }
    lines.push(format!(
        "  nsenter --net={} bash    # the client",
        pair.client.path().display()
    ));
    lines.push("and stop it with\n  cargo xtask demo stop".to_owned());
    lines.join("\n")
}
