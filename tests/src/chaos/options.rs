//! What `cargo xtask chaos` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::schedule::Kind;

/// Runs a pair in network namespaces under traffic, breaks it again and again, and checks from outside
/// what must always hold. Ends with 0 only if it did.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask chaos", bin_name = "cargo xtask chaos", version)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// For how long faults are begun.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub minutes: u64,
    /// Which schedule; a random one if none is given.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// End after so many faults, if that is earlier.
    #[arg(long, value_name = "N")]
    pub faults: Option<usize>,
    /// Only faults of this kind; may be given several times.
    #[arg(long, value_enum, value_name = "KIND")]
    pub only: Vec<Kind>,
    /// Connections that are open at a time.
    #[arg(long, default_value_t = 400, value_name = "N")]
    pub connections: usize,
    /// Time between advertisements, in milliseconds.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    pub interval: u64,
    /// How long the partner must be silent, in milliseconds: longer than stalls of the machine.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub timeout: u64,
    /// Of connections that are younger than this at a fault, in milliseconds, nothing is promised: longer where the machine
    /// is busy with other things.
    #[arg(long, default_value_t = 5, value_name = "MS")]
    pub young: u64,
    /// Show the schedule and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Where the JSON goes in any case, and what violations left behind.
    #[arg(long, default_value = "target/chaos", value_name = "DIRECTORY")]
    pub output: PathBuf,
    /// Where figures for `cargo xtask bench report` go.
    #[arg(long, default_value = "target/bench/chaos.json", value_name = "FILE")]
    pub figures: PathBuf,
    /// Instead of breaking a pair.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Other things the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Keep the page cache busy with a file.
    #[command(hide = true)]
    Ballast {
        /// Which.
        file: PathBuf,
    },
}

impl Default for Options {
    fn default() -> Self {
        Self::parse_from(["chaos"])
    }
}

impl Options {
    /// For how long faults are begun.
    pub const fn time(&self) -> Duration {
        Duration::from_mins(self.minutes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }
}
