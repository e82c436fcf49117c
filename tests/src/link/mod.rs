//! `cargo xtask bench link`: a whole device at the end of a wire, from another machine.
//!
//! This machine sends datagrams to a service of the device through one port, with the kernel's packet generator
//! on live frames, and plays its real server at another one. Each frame has the time at which it left in it; both
//! ports are of this machine, so one clock sees both ends. *Throughput* is the highest rate at which all frames of
//! a trial come back (RFC 2544 section 26.1), found by halving; *latency* is measured at half and at nine tenths
//! of it (section 26.2 measures at the throughput itself, where it tells of queues only).

mod lab;
mod line;
mod search;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use ha_common::line::MIX;

use self::lab::Lab;
use self::line::{Ends, Load, Target};
use crate::bench::{Promise, Report, Row, say};
use crate::clock::now_ns;

/// Bytes of a frame on the wire that are not in its memory: check sequence; preamble and gap.
const FCS: u16 = 4;
const GAP: u32 = 20;
/// How exactly the throughput is found, as a part of the highest rate.
const PART: f64 = 0.01;
/// Flows of which none comes twice in a trial.
const ALWAYS_NEW: u32 = 1 << 31;

/// Measures throughput and latency of a device that balances datagrams: as root, on a machine with two ports at
/// the device. CONTRIBUTING.md says how to wire and configure them.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo xtask bench link",
    bin_name = "cargo xtask bench link",
    version
)]
pub struct Options {
    /// Port that frames leave through.
    #[arg(long, value_name = "IF", required_unless_present = "lab")]
    pub generator: Option<String>,
    /// Port of the real server, where they end.
    #[arg(long, value_name = "IF", required_unless_present = "lab")]
    pub sink: Option<String>,
    /// Station of the device on the generator's network, or of the router to it.
    #[arg(long, value_name = "MAC", value_parser = mac, required_unless_present = "lab")]
    pub dut: Option<[u8; 6]>,
    /// The service: UDP, IPv4.
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "lab")]
    pub service: Option<SocketAddrV4>,
    /// No hardware: the data plane of this machine between two veth pairs.
    #[arg(long, conflicts_with_all = ["generator", "sink", "dut", "service"])]
    pub lab: bool,
    /// Frames on the wire; may be given several times.
    #[arg(long, value_enum, value_name = "SIZE", default_values_t = [Size::Small, Size::Mix, Size::Large])]
    pub frame: Vec<Size>,
    /// Flows that frames belong to in turn, 0: each frame a new one; may be given several times.
    #[arg(long, value_name = "N", default_values_t = [1, 64, 4096, 65_536, 1_000_000, 0])]
    pub flows: Vec<u32>,
    /// Cores that send.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cores: usize,
    /// Seconds of a trial; RFC 2544 wants 60.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub seconds: f64,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Where the JSON goes in any case.
    #[arg(long, default_value = "target/bench/link.json", value_name = "FILE")]
    pub output: PathBuf,
}

/// Frames on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// The smallest.
    #[value(name = "64")]
    Small,
    /// Seven of 64 bytes, four of 594, one of 1518.
    #[value(name = "imix")]
    Mix,
    /// The largest.
    #[value(name = "1518")]
    Large,
}

impl Size {
    const fn name(self) -> &'static str {
        match self {
            Self::Small => "64 B",
            Self::Mix => "IMIX",
            Self::Large => "1518 B",
        }
    }

    /// Lengths in turn, without the check sequence.
    const fn lens(self) -> [u16; MIX] {
        let (small, middling, large) = (64 - FCS, 594 - FCS, 1518 - FCS);
        match self {
            Self::Small => [small; MIX],
            Self::Mix => [
                small, middling, small, small, middling, small, large, small, middling, small,
                middling, small,
            ],
            Self::Large => [large; MIX],
        }
    }

    /// Frames a second that a line of so many bits a second takes.
    fn line_rate(self, bits: f64) -> f64 {
        let on_wire = |len: u16| f64::from(u32::from(len + FCS) + GAP) * 8.0;
        let mean = self.lens().into_iter().map(on_wire).sum::<f64>() / MIX as f64;
        bits / mean
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    bytes
        .try_into()
        .map_err(|_bytes| "six bytes like 02:00:00:00:00:01".to_owned())
}

/// Measures what the options ask for, shows and writes it.
pub fn run(options: &Options) -> Result<()> {
    let from = now_ns();
    let mut report = Report::default();
    if options.lab {
        let lab = Lab::build()?;
        let (generator, target) = (lab.generator.clone(), lab.target);
        generator.run(|| measure(options, lab::PORT, lab::SINK, target, &mut report))?;
    } else {
        let port = options.generator.as_deref().context("no --generator")?;
        let sink = options.sink.as_deref().context("no --sink")?;
        let target = Target {
            mac: options.dut.context("no --dut")?,
            service: options.service.context("no --service")?,
        };
        measure(options, port, sink, target, &mut report)?;
    }
    let seconds = (now_ns() - from) as f64 / 1e9;
    report.publish("link", seconds, options.json, &options.output)
}

fn measure(
    options: &Options,
    port: &str,
    sink: &str,
    target: Target,
    report: &mut Report,
) -> Result<()> {
    if !(0.01..=3600.0).contains(&options.seconds) || options.cores == 0 {
        bail!("--seconds takes 0.01 to 3600, --cores at least 1");
    }
    let ends = Ends::new(port, sink, target, options.cores)?;
    let bits = speed(port);
    for size in &options.frame {
        for flows in &options.flows {
            let case = Case {
                ends: &ends,
                name: name(*size, *flows),
                line: bits.map(|bits| size.line_rate(bits)),
                load: Load {
                    lens: size.lens(),
                    flows: if *flows == 0 { ALWAYS_NEW } else { *flows },
                },
                time: Duration::from_secs_f64(options.seconds),
            };
            if let Err(error) = case.measure(report) {
                say(&format!("{}: {error:#}", case.name));
                report.fail(case.name, format!("{error:#}"));
            }
        }
    }
    Ok(())
}

/// A case's name, of which a run has a handful.
fn name(size: Size, flows: u32) -> &'static str {
    let flows = match flows {
        0 => "each frame a new flow".to_owned(),
        1 => "1 flow".to_owned(),
        flows => format!("{flows} flows"),
    };
    format!("{}, {flows}", size.name()).leak()
}

/// Bits a second that a port is up with, if its driver says so.
fn speed(port: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{port}/speed")).ok()?;
    let megabits: f64 = text.trim().parse().ok()?;
    (megabits > 0.0).then_some(megabits * 1e6)
}

/// Frames of one size and one number of flows.
struct Case<'a> {
    ends: &'a Ends,
    name: &'static str,
    line: Option<f64>,
    load: Load,
    time: Duration,
}

impl Case<'_> {
    fn measure(&self, report: &mut Report) -> Result<()> {
        // What the generator can do; nobody is asked to bear more than the line takes.
        let fastest = self.ends.trial(&self.load, None, self.time)?;
        say(&format!(
            "{}: as fast as it goes, {:.0} frames/s, {:.3} % lost",
            self.name,
            fastest.rate,
            100.0 * (1.0 - fastest.received as f64 / fastest.sent.max(1) as f64)
        ));
        if fastest.received == 0 {
            bail!(
                "no frame came back: is the service there, is the real server this machine's {}?",
                "--sink"
            );
        }
        let highest = self
            .line
            .map_or(fastest.rate, |line| line.min(fastest.rate));
        let found = search::throughput(highest, PART, |rate| {
            let seen = self.ends.trial(&self.load, Some(rate), self.time)?;
            say(&format!(
                "{}: at {rate:.0} frames/s {} of {} came back",
                self.name, seen.received, seen.sent
            ));
            anyhow::Ok(seen)
        })?;
        let mut note = |what, unit, value| {
            let row = Row {
                case: self.name,
                who: "device under test",
                what,
                unit,
                promise: Promise::Nothing,
            };
            report.add(&row, value, 0.0);
        };
        note("the generator's highest rate", "frames/s", fastest.rate);
        let throughput = found.unwrap_or_default();
        note("throughput without loss", "frames/s", throughput);
        if let Some(line) = self.line {
            note("of what the line takes", "%", 100.0 * throughput / line);
        }
        if throughput > 0.0 {
            for (part, whats) in [
                (
                    0.5,
                    [
                        "latency p50 at 50 %",
                        "latency p99 at 50 %",
                        "latency p99.9 at 50 %",
                    ],
                ),
                (
                    0.9,
                    [
                        "latency p50 at 90 %",
                        "latency p99 at 90 %",
                        "latency p99.9 at 90 %",
                    ],
                ),
            ] {
                let rate = Some(throughput * part);
                let seen = self.ends.trial(&self.load, rate, self.time)?;
                for (what, permille) in whats.into_iter().zip([500, 990, 999]) {
                    note(what, "µs", seen.age_us(permille));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
        let whole = "link --generator a --sink b --dut 02:00:00:00:00:01 --service 192.0.2.1:53";
        let options = Options::parse_from(whole.split(' '));
        assert_eq!(options.dut, Some([2, 0, 0, 0, 0, 1]));
        for bad in [
            "link --generator a",
            "link --lab --sink b",
            "link --lab --frame 65",
        ] {
            assert!(Options::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
        assert!(mac("02:00:00:00:01").is_err() && mac("02:00:00:00:00:g1").is_err());
    }

    /// RFC 2544's own table of rates, for 10 Gbit/s.
    #[test]
    fn line_rates() {
        let whole = |size: Size| format!("{:.0}", size.line_rate(10e9));
        assert_eq!(whole(Size::Small), "14880952");
        assert_eq!(whole(Size::Large), "812744");
        let mix = Size::Mix.line_rate(10e9);
        assert!(3.1e6 < mix && mix < 3.3e6, "{mix}");
    }
}
