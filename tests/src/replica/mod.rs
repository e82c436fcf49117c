//! `cargo xtask bench replication`: how soon, and at what price, the standby has the connections of the
//! active node; beside conntrackd, in the same network and in turn.
//!
//! *Delay* is the time from the moment at which a client's `connect` returned, when the last segment of its
//! handshake has passed the active node, until its entry is in the pinned map of the standby, looked up every
//! 10 µs; a hundred connections a second are looked at, beside the load. *Bytes* and *frames* are what both
//! nodes send for replication, requests and heartbeats included, counted by nftables in each node and Ethernet
//! headers added, over the whole life of the connections: until the tables are empty again. *CPU* is what the
//! programs of both nodes have run, system calls included.

mod beside;
mod bulk;
pub mod kills;
mod lives;
mod meter;
mod probe;
mod rival;
mod short;
mod takeover;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use ha_common::rig::FLOODERS;
use nix::unistd::Pid;

use crate::bench::{AGENT, CoreStalls, Promise, Report, Row, say};
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::packet::{Frame, flag};
use crate::rig::arp;
use crate::rig::config::{CLIENT, PairConfig, SHARED_FRONT};
use crate::rig::conns::Conns;
use crate::rig::generator::Generator;
use crate::rig::pair::{Node, Pair};
use crate::rig::process;
use meter::Reading;
use rival::Rival;

/// As the reports name it.
const CONNTRACKD: &str = "conntrackd FTFW + nftables";
/// Connections that both ends have closed are forgotten soon: the whole life of a connection is measured.
const TIMEOUTS: &str = "timeouts: { established: 15m, closing: 2s, closed: 2s, udp: 2m }";
/// How long the tables may take to be empty again.
const EMPTY: Duration = Duration::from_secs(30);

/// Measures how soon and at what price the standby has what the active node has. Ends with 0 only if every
/// promise was kept.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo xtask bench replication",
    bin_name = "cargo xtask bench replication",
    version
)]
pub struct Options {
    /// Runs of each case.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub runs: usize,
    /// One short run of each case, in less than four minutes.
    #[arg(long, conflicts_with = "runs")]
    pub quick: bool,
    /// Only cases whose name contains this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub only: Vec<String>,
    /// Leave conntrackd out.
    #[arg(long)]
    pub alone: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Where the JSON goes in any case.
    #[arg(
        long,
        default_value = "target/bench/replication.json",
        value_name = "FILE"
    )]
    pub output: PathBuf,
}

impl Options {
    const fn runs(&self) -> usize {
        if self.quick { 1 } else { self.runs }
    }

    const fn load_for(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 15 })
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| case.contains(text.as_str()))
    }
}

/// Measures a case.
type Case = fn(&mut Bench<'_>) -> Result<()>;

/// A run of the benchmark.
struct Bench<'a> {
    options: &'a Options,
    stalls: CoreStalls,
    report: Report,
}

/// Measures what the options ask for, shows and writes it; whether every promise was kept.
pub fn run(options: &Options) -> Result<bool> {
    ensure!(
        options.alone || process::installed("conntrackd"),
        "conntrackd is not installed: run `cargo xtask setup` or give --alone"
    );
    let from = now_ns();
    let mut bench = Bench {
        options,
        stalls: CoreStalls::start()?,
        report: Report::default(),
    };
    let cases: [(&'static str, Case); 10] = [
        (FIVE.case, |bench| bench.short(&FIVE)),
        (EIGHT.case, |bench| bench.short(&EIGHT)),
        (INJECTED, injected),
        (lives::CASE, lives::measure),
        (kills::CHANGING.case, |bench| {
            kills::measure(bench, &kills::CHANGING)
        }),
        (kills::ALONE.case, |bench| {
            kills::measure(bench, &kills::ALONE)
        }),
        (beside::CASE, beside::measure),
        (takeover::CASE, takeover::measure),
        (bulk::CASE, bulk::measure),
        (bulk::OPERATIONS, bulk::operations),
    ];
    for (case, measure) in cases {
        if !options.wants(case) {
            continue;
        }
        say(case);
        if let Err(error) = measure(&mut bench) {
            say(&format!("{case}: {error:#}"));
            bench.report.fail(case, format!("{error:#}"));
        }
    }
    let seconds = (now_ns() - from) as f64 / 1e9;
    bench
        .report
        .publish("replication", seconds, options.json, &options.output)?;
    Ok(bench.report.all_kept())
}

const INJECTED: &str = "20000 events/s injected";

/// A case of short connections.
struct Short {
    case: &'static str,
    rate: u64,
}

const FIVE: Short = Short {
    case: "5000 connections/s",
    rate: 5000,
};
const EIGHT: Short = Short {
    case: "8000 connections/s",
    rate: 8000,
};

/// A pair under this project's agents.
struct Ours {
    pair: Pair,
    active: usize,
}

impl Ours {
    fn start() -> Result<Self> {
        Self::with(TIMEOUTS)
    }

    fn with(timeouts: &'static str) -> Result<Self> {
        let mut pair = Pair::build(PairConfig {
            // A generator can take a core for half a second: the role must not move for that.
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(5),
            keys: vec![timeouts],
            ..PairConfig::default()
        })?;
        pair.start()?;
        let active = pair.active()?;
        Ok(Self { pair, active })
    }

    fn nodes(&self) -> [&Node; 2] {
        let [one, other] = &self.pair.nodes;
        if self.active == 0 {
            [one, other]
        } else {
            [other, one]
        }
    }

    /// An error if what was measured went through the other node in the end.
    fn same_roles(&self) -> Result<()> {
        ensure!(
            self.pair.active()? == self.active,
            "the role has moved meanwhile"
        );
        Ok(())
    }

    fn programs(&self) -> Result<[(&Node, Pid); 2]> {
        let [active, standby] = self.nodes();
        let pid = |node: &Node| node.agent.as_ref().context("no agent")?.pid();
        Ok([(active, pid(active)?), (standby, pid(standby)?)])
    }

    /// Waits until the standby has forgotten all but a few connections, as the active node has.
    fn wait_empty(&self) -> Result<()> {
        self.wait_empty_for(EMPTY)
    }

    fn wait_empty_for(&self, patience: Duration) -> Result<()> {
        let table = Conns::open(self.nodes()[1])?;
        let end = now_ns() + u64::try_from(patience.as_nanos())?;
        while table.all()?.len() > 10 {
            ensure!(
                now_ns() < end,
                "the standby's table is not empty after {patience:?}"
            );
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// What a run of short connections has shown.
struct Seen {
    outcome: short::Outcome,
    cost: Reading,
    stalled_ms: f64,
}

impl Bench<'_> {
    fn note(&mut self, row: Row, value: f64, stall_ms: f64) {
        self.report.add(&row, value, stall_ms);
    }

    /// Short connections, on both pairs in turn.
    fn short(&mut self, case: &Short) -> Result<()> {
        let ours = Ours::start()?;
        let rival = if self.options.alone {
            None
        } else {
            Some(Rival::start()?)
        };
        let pairs = [Some(&ours.pair), rival.as_ref().map(|rival| &rival.pair)];
        for pair in pairs.into_iter().flatten() {
            short::prepare(&pair.client)?;
            for node in &pair.nodes {
                meter::count_frames(node)?;
            }
        }
        for run in 0..self.options.runs() {
            let (seen, times) = self.run_ours(&ours, case)?;
            let mid = percentile(&times, 50) / 1e3;
            say(&format!(
                "  {}/{} {AGENT}: delay p50 {mid:.0} µs",
                run + 1,
                self.options.runs()
            ));
            self.note_delay(case.case, &times, seen.stalled_ms);
            self.note_cost(case, AGENT, &seen);
            if let Some(rival) = &rival {
                let own = seen;
                let seen = self.run_rival(rival, case)?;
                self.note_share(case, &own, &seen);
                say(&format!(
                    "  {}/{} {CONNTRACKD}",
                    run + 1,
                    self.options.runs()
                ));
                self.note_cost(case, CONNTRACKD, &seen);
            }
        }
        Ok(())
    }

    fn run_ours(&self, ours: &Ours, case: &Short) -> Result<(Seen, Vec<u64>)> {
        ours.wait_empty()?;
        let idle = idle_cost(ours.programs()?, self.options)?;
        let before = meter::read(ours.programs()?)?;
        let from = now_ns();
        let (outcome, times) = with_probe(ours, || {
            ours.pair
                .client
                .run(|| short::run(SERVICE, case.rate, self.options.load_for()))
        })?;
        ours.wait_empty()?;
        let seen = self.seen(
            outcome,
            meter::read(ours.programs()?)?.since(before),
            &idle,
            from,
        );
        Ok((seen, times))
    }

    fn run_rival(&self, rival: &Rival, case: &Short) -> Result<Seen> {
        let idle = idle_cost(rival.programs()?, self.options)?;
        let heard = rival.heard_of()?;
        let before = meter::read(rival.programs()?)?;
        let from = now_ns();
        let load_for = self.options.load_for();
        let outcome = rival
            .pair
            .client
            .run(|| short::run(SERVICE, case.rate, load_for))?;
        // Its connections are forgotten as soon as ours.
        thread::sleep(Duration::from_secs(4));
        let cost = meter::read(rival.programs()?)?.since(before);
        let heard = rival.heard_of()? - heard;
        ensure!(
            heard as f64 > outcome.done as f64 * 0.9,
            "conntrackd's standby has heard of {heard} of {} connections",
            outcome.done
        );
        Ok(self.seen(outcome, cost, &idle, from))
    }

    fn seen(&self, outcome: short::Outcome, cost: Reading, idle: &Idle, from: u64) -> Seen {
        let to = now_ns();
        Seen {
            outcome,
            cost: idle.off(cost, to - from),
            stalled_ms: self.stalls.longest_ms(&(from..to)),
        }
    }

    fn note_delay(&mut self, case: &'static str, times: &[u64], stalled_ms: f64) {
        for (what, percent, most) in [("delay p50", 50, 300.0), ("delay p99", 99, 1000.0)] {
            let row = Row {
                case,
                who: AGENT,
                what,
                unit: "µs",
                promise: Promise::MedianAtMost(most),
            };
            self.note(row, percentile(times, percent) / 1e3, stalled_ms);
        }
    }

    fn note_cost(&mut self, case: &Short, who: &'static str, seen: &Seen) {
        let done = seen.outcome.done as f64;
        let handshakes = &seen.outcome.handshakes;
        let [active, standby] = seen.cost.cpu_ns.map(|ns| ns as f64 / 1e9 / done * 1e4);
        for (what, unit, value) in [
            ("connections", "a second", done / seen.outcome.seconds),
            ("connections failed", "count", seen.outcome.failed as f64),
            ("bytes of a connection", "B", seen.cost.bytes as f64 / done),
            (
                "frames of a connection",
                "frames",
                seen.cost.frames as f64 / done,
            ),
            ("CPU of 10,000, active", "s", active),
            ("CPU of 10,000, standby", "s", standby),
            ("handshake p50", "µs", percentile(handshakes, 50) / 1e3),
            ("handshake p99", "µs", percentile(handshakes, 99) / 1e3),
        ] {
            let row = Row {
                case: case.case,
                who,
                what,
                unit,
                promise: Promise::Nothing,
            };
            self.note(row, value, seen.stalled_ms);
        }
    }

    /// What a connection costs here as a part of what it costs there.
    fn note_share(&mut self, case: &Short, own: &Seen, other: &Seen) {
        let each = |seen: &Seen, total: u64| total as f64 / seen.outcome.done as f64;
        let share =
            |of: fn(&Reading) -> u64| each(own, of(&own.cost)) / each(other, of(&other.cost));
        let stalled = own.stalled_ms.max(other.stalled_ms);
        for (what, value) in [
            ("bytes, as a part of conntrackd's", share(|cost| cost.bytes)),
            ("CPU, active, as a part", share(|cost| cost.cpu_ns[0])),
            ("CPU, standby, as a part", share(|cost| cost.cpu_ns[1])),
        ] {
            let row = Row {
                case: case.case,
                who: AGENT,
                what,
                unit: "times",
                // At the rate at which conntrackd was measured to be at its end.
                promise: if case.rate == EIGHT.rate {
                    Promise::MedianAtMost(0.25)
                } else {
                    Promise::Nothing
                },
            };
            self.note(row, value, stalled);
        }
    }
}

/// Connections that the data plane makes of a flood of segments in mid-flow, and probes beside it.
fn injected(bench: &mut Bench<'_>) -> Result<()> {
    const RATE: u64 = 20_000;
    let ours = Ours::start()?;
    let [active, standby] = ours.nodes();
    let client = &ours.pair.client;
    let mac = arp::holder(client, "front", CLIENT, SHARED_FRONT)?;
    let own = client.run(|| arp::mac_of("front"))?;
    let from = std::net::SocketAddrV4::new(FLOODERS.into(), 40_000);
    let frame = Frame::tcp(from, SERVICE, flag::ACK).macs(own, mac).build();
    for node in [active, standby] {
        meter::count_frames(node)?;
        // The real servers would reset what they do not know.
        node.back.swallow_flood();
    }
    let port = active.front.name().to_owned();
    let switch = ours.pair.switch.netns().clone();
    let table = Conns::open(standby)?;
    for _ in 0..bench.options.runs() {
        let idle = idle_cost(ours.programs()?, bench.options)?;
        let known = table.all()?.len();
        let before = meter::read(ours.programs()?)?;
        let from = now_ns();
        let mut flood = Generator::of_many_clients(RATE)?;
        let time = bench.options.load_for();
        let (sent, times) = with_probe(&ours, || {
            flood.run(&switch, &port, &frame, time)?;
            flood.sent()
        })?;
        thread::sleep(Duration::from_millis(500));
        ours.same_roles()?;
        let cost = meter::read(ours.programs()?)?.since(before);
        let (to, made) = (now_ns(), (table.all()?.len() - known) / 2);
        let stalled = bench.stalls.longest_ms(&(from..to));
        let cost = idle.off(cost, to - from);
        bench.note_delay(INJECTED, &times, stalled);
        let [active_cpu, standby_cpu] = cost.cpu_ns.map(|ns| ns as f64 / 1e9 / made as f64 * 1e4);
        for (what, unit, value) in [
            ("events", "a second", made as f64 / time.as_secs_f64()),
            (
                "frames lost before the node",
                "count",
                sent.saturating_sub(made as u64) as f64,
            ),
            ("bytes of an event", "B", cost.bytes as f64 / made as f64),
            ("CPU of 10,000, active", "s", active_cpu),
            ("CPU of 10,000, standby", "s", standby_cpu),
        ] {
            let row = Row {
                case: INJECTED,
                who: AGENT,
                what,
                unit,
                promise: Promise::Nothing,
            };
            bench.note(row, value, stalled);
        }
    }
    Ok(())
}

/// Does something while probes go on; with what it returned, how long the probes took.
fn with_probe<T>(ours: &Ours, work: impl FnOnce() -> Result<T>) -> Result<(T, Vec<u64>)> {
    let table = Conns::open(ours.nodes()[1])?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let probes = scope.spawn(|| {
            let client = &ours.pair.client;
            client.run(|| probe::run(SERVICE, &table, &stop))
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let times = probes
            .join()
            .map_err(|_panic| anyhow!("the probe panicked"))??;
        Ok((done?, times))
    })
}

/// What a pair costs when nothing happens.
struct Idle {
    cost: Reading,
    time_ns: u64,
}

/// Watches a pair at rest.
fn idle_cost(programs: [(&Node, Pid); 2], options: &Options) -> Result<Idle> {
    let (from, before) = (now_ns(), meter::read(programs)?);
    thread::sleep(Duration::from_secs(if options.quick { 1 } else { 3 }));
    let cost = meter::read(programs)?.since(before);
    Ok(Idle {
        cost,
        time_ns: now_ns() - from,
    })
}

impl Idle {
    /// What is left of a cost without the processor time that the programs take anyway. Frames count
    /// altogether.
    fn off(&self, cost: Reading, time_ns: u64) -> Reading {
        let share = |ns: u64| {
            let share = u128::from(ns) * u128::from(time_ns) / u128::from(self.time_ns.max(1));
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        let [active, standby] = self.cost.cpu_ns.map(share);
        let [active_cost, standby_cost] = cost.cpu_ns;
        Reading {
            cpu_ns: [
                active_cost.saturating_sub(active),
                standby_cost.saturating_sub(standby),
            ],
            ..cost
        }
    }
}

/// The value that so many per cent of the samples do not exceed, given in ascending order.
fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(f64::NAN, |value| *value as f64)
}
