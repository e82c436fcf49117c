//! The demonstration: a pair under load, a fault, and what its clients noticed.

mod fault;
mod options;
mod outcome;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use fault::Fault;
pub use options::{Command, Options};
pub use outcome::Outcome;

use crate::rig::config::{PairConfig, RealServer, SERVICE_PORT, SHARED_FRONT};
use crate::rig::pair::Pair;
use crate::rig::stalls::StallDetector;
use crate::traffic::load::{Load, random_below};

/// New connections a second before the fault; a tenth above what is promised, so that the rate
/// reached can be asserted.
pub const NEW_RATE: u64 = 1_100;
/// The rate below which the youngest classes say little.
const NEW_RATE_MIN: f64 = 1_000.0;
/// For how long at least.
const NEW_FOR: Duration = Duration::from_secs(2);
/// On a busy machine the rate may be reached later only.
const NEW_ATTEMPTS: usize = 4;
/// After a frozen agent's lease must have ended.
const THAW_AFTER: Duration = Duration::from_secs(2);
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
    say(&format!("opening {} connections", options.connections));
    let load = Load::start(&pair.client, SERVICE, options.connections)?;
    if options.change_servers {
        change_servers(pair)?;
    }
    say(&format!("opening {NEW_RATE} new connections a second"));
    let mut rate = load.open(NEW_RATE, NEW_FOR + random_below(options.interval));
    for _again in 0..NEW_ATTEMPTS {
        if rate >= NEW_RATE_MIN {
            break;
        }
        say(&format!("only {rate:.0} a second; the machine is busy"));
        rate = load.open(NEW_RATE, NEW_FOR);
    }
    load.burst();

    say(&format!("fault: {}", options.fault.as_str()));
    let fault_ns = options.fault.inject(pair, before)?;
    load.fault_at(fault_ns);

    let mut faults_after = Vec::new();
    if options.fault == Fault::Freeze {
        thread::sleep(options.timeout + THAW_AFTER);
        say("thawing the frozen agent");
        faults_after.extend(fault::thaw(pair, before)?);
    }
    let (tcp, udp) = load.finish(fault_ns, options.timeout)?;
    let roles = pair.roles();
    Ok(Outcome::new(
        options,
        &outcome::Seen {
            before,
            roles,
            rate,
            stalls: stalls.finish(),
            tcp,
            udp,
            faults_after,
            fault_ns,
        },
    ))
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
