//! Whole lives of connections, injected: a segment that makes an entry, a tenth of a second later a reset that
//! closes it, and its end when its time is over. What each costs on the wire, and how many a second one stream
//! carries.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_common::reason::Tally;
use ha_common::rig::FLOODERS;

use super::{Bench, Ours, idle_cost, meter};
use crate::bench::{AGENT, Promise, Row, say};
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::packet::{Frame, flag};
use crate::rig::arp;
use crate::rig::config::{CLIENT, SHARED_FRONT};
use crate::rig::generator::Generator;
use crate::rig::pair::Node;

pub(super) const CASE: &str = "whole lives injected";

/// Those that began last are not reset any more.
const TIMEOUTS: &str = "timeouts: { established: 10s, closing: 2s, closed: 2s, udp: 2m }";
/// Lives begun a second, from the promised rate upwards.
const RATES: [u64; 5] = [40_000, 50_000, 60_000, 80_000, 100_000];
/// How long lives begin: a table holds no more than the end of so many.
const LONGEST: Duration = Duration::from_secs(5);
/// How long the table may take to be empty again: lives end at leisure.
const EMPTY: Duration = Duration::from_mins(3);
/// Part of the lives wanted that must be carried, or the rate was too high.
const CARRIED: f64 = 0.97;

/// What a run has shown.
struct Seen {
    /// Lives for which frames were sent.
    injected: u64,
    seconds: f64,
    books: Books,
    bytes: u64,
    cpu_ns: [u64; 2],
    lag_us: f64,
    stalled_ms: f64,
}

/// What an active node has counted.
#[derive(Clone, Copy)]
struct Books {
    /// Lives that its data plane has begun.
    begun: u64,
    /// Records that it has sent.
    records: u64,
    /// Changes that it could not tell when they happened, or not at all.
    put_off: u64,
}

impl Books {
    fn of(node: &Node) -> Result<Self> {
        let counters = node.counters()?.counters;
        let of = |tally: Tally| {
            let found = counters.iter().find(|found| found.name == tally.as_str());
            found.map(|found| found.value).context("no such counter")
        };
        let told = node.status()?.replication;
        let classes = [told.unique, told.recomputable];
        let put_off = classes.map(|class| class.deferred + class.overflowed + class.dropped);
        Ok(Self {
            begun: of(Tally::Reconstructed)?,
            records: told.sent,
            put_off: put_off.iter().sum::<u64>() + of(Tally::EventLost)?,
        })
    }

    const fn since(self, earlier: Self) -> Self {
        Self {
            begun: self.begun - earlier.begun,
            records: self.records - earlier.records,
            put_off: self.put_off - earlier.put_off,
        }
    }
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let ours = Ours::with(TIMEOUTS)?;
    for node in ours.nodes() {
        meter::count_frames(node)?;
        // The real servers would reset what they do not know.
        node.back.swallow_flood();
    }
    let mut highest = 0.0f64;
    for (index, rate) in RATES.into_iter().enumerate() {
        let seen = run(bench, &ours, rate)?;
        let Books {
            begun,
            records,
            put_off,
        } = seen.books;
        let per_second = begun as f64 / seen.seconds;
        say(&format!(
            "  {rate}/s wanted, {:.0}/s injected: {per_second:.0}/s begun, {:.2} records and {:.1} B each, \
             {put_off} put off",
            seen.injected as f64 / seen.seconds,
            records as f64 / begun as f64,
            seen.bytes as f64 / begun as f64,
        ));
        if index == 0 {
            note(bench, &seen);
        }
        if put_off > 0 || per_second < rate as f64 * CARRIED {
            break;
        }
        highest = highest.max(per_second);
        if bench.options.quick {
            break;
        }
    }
    let promise = Promise::AtLeast(RATES[0] as f64 * CARRIED);
    let row = row("highest rate without a change put off", "a second", promise);
    bench.note(row, highest, 0.0);
    Ok(())
}

fn note(bench: &mut Bench<'_>, seen: &Seen) {
    let begun = seen.books.begun as f64;
    let [active, standby] = seen.cpu_ns.map(|ns| ns as f64 / 1e9 / begun * 1e4);
    for (what, unit, promise, value) in [
        (
            "lives begun",
            "a second",
            Promise::Nothing,
            begun / seen.seconds,
        ),
        (
            "bytes of a life",
            "B",
            Promise::MedianAtMost(45.0),
            seen.bytes as f64 / begun,
        ),
        (
            "records of a life",
            "records",
            Promise::Nothing,
            seen.books.records as f64 / begun,
        ),
        (
            "changes put off",
            "count",
            Promise::Nothing,
            seen.books.put_off as f64,
        ),
        ("lag p99", "µs", Promise::Nothing, seen.lag_us),
        ("CPU of 10,000, active", "s", Promise::Nothing, active),
        ("CPU of 10,000, standby", "s", Promise::Nothing, standby),
    ] {
        bench.note(row(what, unit, promise), value, seen.stalled_ms);
    }
}

const fn row(what: &'static str, unit: &'static str, promise: Promise) -> Row {
    Row {
        case: CASE,
        who: AGENT,
        what,
        unit,
        promise,
    }
}

fn run(bench: &Bench<'_>, ours: &Ours, rate: u64) -> Result<Seen> {
    let [active, _] = ours.nodes();
    let client = &ours.pair.client;
    let mac = arp::holder(client, "front", CLIENT, SHARED_FRONT)?;
    let own = client.run(|| arp::mac_of("front"))?;
    let source = std::net::SocketAddrV4::new(FLOODERS.into(), 40_000);
    let frame = Frame::tcp(source, SERVICE, flag::ACK)
        .macs(own, mac)
        .build();
    ours.wait_empty_for(EMPTY)?;
    let idle = idle_cost(ours.programs()?, bench.options)?;
    let (before, books) = (meter::read(ours.programs()?)?, Books::of(active)?);

    let from = now_ns();
    let mut flood = Generator::of_whole_lives(rate)?;
    let time = bench.options.load_for().min(LONGEST);
    let switch = ours.pair.switch.netns();
    flood.run(switch, active.front.name(), &frame, time)?;
    let seconds = (now_ns() - from) as f64 / 1e9;
    let lag_us = active.status()?.replication.lag_us_p99.unwrap_or_default();
    thread::sleep(Duration::from_millis(500));
    ours.same_roles()?;
    ours.wait_empty_for(EMPTY)?;
    let cost = meter::read(ours.programs()?)?.since(before);
    let cost = idle.off(cost, now_ns() - from);
    let books = Books::of(active)?.since(books);
    ensure!(books.begun > 0, "no life has begun");
    Ok(Seen {
        injected: flood.sent()? / 2,
        seconds,
        books,
        bytes: cost.bytes,
        cpu_ns: cost.cpu_ns,
        lag_us: lag_us as f64,
        stalled_ms: bench.stalls.longest_ms(&(from..now_ns())),
    })
}
