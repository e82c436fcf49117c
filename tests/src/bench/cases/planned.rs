//! A planned hand-over under connections that talk all the time.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Bench, Subject, Subjects, ours};
use crate::bench::figure::{Promise, Row};
use crate::bench::strike::REST_GAP;
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::rig::netns::Netns;
use crate::traffic::client::Client;
use crate::traffic::report::{self, LOST_AFTER_NS};

/// Connections that stand during all runs.
const CONNECTIONS: usize = 500;
const WATCH: Duration = Duration::from_millis(600);
const CASE: &str = "planned";

const fn row(who: &'static str, what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: CASE,
        who,
        what,
        unit,
        promise,
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    for (who, interval, timeout) in [
        ("ha-agent 10/30 ms", 10, 30),
        ("ha-agent 1/3 s", 1000, 3000),
    ] {
        with_connections(bench, ours(who, interval, timeout)?.as_mut())?;
    }
    let mut rivals: Subjects = bench.keepalived("keepalived 10 ms", "0.01")?;
    for run in 0..bench.options.runs() {
        for rival in &mut rivals {
            let active = rival.settle()?;
            let rest_ms = Bench::rest(rival.as_ref(), WATCH);
            let struck = bench.strike(rival.as_mut(), WATCH, |rival| {
                let at = now_ns();
                rival.hand_over(active)?;
                Ok(at)
            })?;
            rival.start(active)?;
            let who = "keepalived 10 ms";
            bench.progress(run, who, &format!("{:.2} ms", struck.gap_ms));
            let gap = row(who, "gap", "ms", Promise::Nothing);
            bench.report.add(&gap, struck.gap_ms, struck.stall_ms);
            let rest = row(who, REST_GAP, "ms", Promise::Nothing);
            bench.report.add(&rest, rest_ms, 0.0);
        }
    }
    Ok(())
}

fn with_connections(bench: &mut Bench<'_>, subject: &mut dyn Subject) -> Result<()> {
    let who = subject.name();
    subject.settle()?;
    let client = Client::start(&subject.pair().client, SERVICE)?;
    client.control().open(CONNECTIONS, 1_000);
    let end = now_ns() + 20_000_000_000;
    while client.control().established() < CONNECTIONS {
        ensure!(now_ns() < end, "the connections could not be opened");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut last = 0;
    for run in 0..bench.options.runs() {
        let active = subject.settle()?;
        let rest_ms = Bench::rest(subject, WATCH);
        let before = timeouts(&subject.pair().client)?;
        let struck = bench.strike(subject, WATCH, |subject| {
            last = now_ns();
            subject.hand_over(active)?;
            Ok(last)
        })?;
        let late = timeouts(&subject.pair().client)? - before;
        bench.progress(
            run,
            who,
            &format!("{:.2} ms, {late} retransmission timeouts", struck.gap_ms),
        );
        let gap = row(who, "gap", "ms", Promise::MedianAtMost(3.0));
        bench.report.add(&gap, struck.gap_ms, struck.stall_ms);
        let rest = row(who, REST_GAP, "ms", Promise::Nothing);
        bench.report.add(&rest, rest_ms, 0.0);
        let late_row = row(
            who,
            "retransmission timeouts",
            "count",
            Promise::Always(0.0),
        );
        bench.report.add(&late_row, late as f64, struck.stall_ms);
    }
    // What a connection gets after the last hand-over shows that it survived all of them.
    client.control().fault_at(now_ns());
    let judged = now_ns();
    std::thread::sleep(Duration::from_nanos(LOST_AFTER_NS) + Duration::from_millis(500));
    let tcp = report::tcp(&client.finish()?, judged);
    ensure!(
        tcp.connections + tcp.broken_before >= CONNECTIONS,
        "{tcp:?}"
    );
    let gone = tcp.connections - tcp.survived + tcp.broken_before;
    let lost = row(
        who,
        "connections lost in all runs",
        "count",
        Promise::Always(0.0),
    );
    bench.report.add(&lost, gone as f64, 0.0);
    Ok(())
}

/// Retransmission timeouts of a host so far: `TCPTimeouts` of its `netstat`.
fn timeouts(netns: &Netns) -> Result<u64> {
    let text = netns.run(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).context("no TcpExt in netstat")?;
    let pair = names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "TCPTimeouts");
    Ok(pair.context("no TCPTimeouts in netstat")?.1.parse()?)
}
