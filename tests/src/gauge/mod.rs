//! `cargo xtask bench datapath`: what a packet costs, program alone, by `BPF_PROG_TEST_RUN`.
//!
//! A repeated test run hands the program what the run before left of the packet. So a wrapper restores
//! the packet, makes it one of another flow where the case wants that, and jumps to the data plane. The
//! figure is the time of that less the time of the same wrapper with a program behind it that passes
//! everything, measured immediately before; the median of all runs counts. A program that does nothing but
//! one lookup in a hash table of the same shape is measured in the same way.
//!
//! `veth share` is measured otherwise: packets come in on one veth and leave through another, and all that is
//! done for them, by whomever, is done on one CPU.
//!
//! Connections are made by the data plane itself, from SYN, answer and ACK of every flow.

mod cases;
mod instrument;
pub(crate) mod million;
mod page;
mod reference;
pub(crate) mod scene;
pub(crate) mod veth;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use crate::bench::Report;
use crate::clock::now_ns;

/// Measures what a packet costs in the data plane, on one CPU, beside one hash lookup. Ends with 0 only
/// if every promise was kept.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo xtask bench datapath",
    bin_name = "cargo xtask bench datapath",
    version
)]
pub struct Options {
    /// Runs of each case.
    #[arg(long, default_value_t = 9, value_name = "N")]
    pub runs: usize,
    /// Packets of a run; cases that fill a table take fewer, and there are no more flows than packets.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub packets: u32,
    /// Three short runs, and no million connections: a minute.
    #[arg(long, conflicts_with_all = ["runs", "packets"])]
    pub quick: bool,
    /// Only cases whose name contains this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub only: Vec<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Where the JSON goes in any case.
    #[arg(
        long,
        default_value = "target/bench/datapath.json",
        value_name = "FILE"
    )]
    pub output: PathBuf,
}

impl Options {
    const fn runs(&self) -> usize {
        if self.quick { 3 } else { self.runs }
    }

    const fn packets(&self) -> u32 {
        if self.quick { 200_000 } else { self.packets }
    }
}

/// Measures what the options ask for, shows and writes it; whether every promise was kept.
pub fn run(options: &Options) -> Result<bool> {
    let from = now_ns();
    let mut report = measure(options)?;
    let only = &options.only;
    let wanted =
        |case: &str| only.is_empty() || only.iter().any(|text| case.contains(text.as_str()));
    if wanted(million::CASE) && !options.quick {
        million::measure(&mut report)?;
    }
    if wanted(veth::CASE) {
        veth::measure(&mut report)?;
    }
    reference::add(&mut report);
    let seconds = (now_ns() - from) as f64 / 1e9;
    report.publish("datapath", seconds, options.json, &options.output)?;
    Ok(report.all_kept())
}

/// Measures what packets cost.
pub fn measure(options: &Options) -> Result<Report> {
    let mut report = Report::default();
    cases::measure(options, &mut report)?;
    Ok(report)
}
