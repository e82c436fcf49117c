//! What `cargo xtask demo` takes.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::Fault;
use crate::rig::config::Scheduler;

/// Runs a pair of load balancers in network namespaces, opens connections through it, breaks it,
/// and shows what the clients noticed. Ends with 0 only if every connection survived.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask demo", bin_name = "cargo xtask demo", version)]
#[command(args_conflicts_with_subcommands = true)]
#[expect(clippy::struct_excessive_bools, reason = "command-line switches")]
pub struct Options {
    /// TCP connections that stand before new ones are opened.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub connections: usize,
    /// What happens to the active node.
    #[arg(long, value_enum, default_value_t = Fault::PowerOff)]
    pub fault: Fault,
    /// Time between advertisements.
    #[arg(long, default_value = "100ms", value_parser = duration, value_name = "TIME")]
    pub interval: Duration,
    /// How long the partner must be silent before the standby takes over.
    #[arg(long, default_value = "300ms", value_parser = duration, value_name = "TIME")]
    pub timeout: Duration,
    /// How real servers are chosen.
    #[arg(long, value_enum, default_value_t = Scheduler::Mh)]
    pub scheduler: Scheduler,
    /// Control experiment: the standby learns nothing about connections.
    #[arg(long)]
    pub no_replication: bool,
    /// Before the fault, add a real server and drain another, so that hashing alone no longer
    /// finds the way.
    #[arg(long)]
    pub change_servers: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Leave the pair running and say how to look at it.
    #[arg(long)]
    pub keep: bool,
    /// Instead of the demonstration.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Other things the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Remove the pairs that `--keep` left running.
    Stop,
    /// Be a real server of the demonstration.
    #[command(hide = true)]
    Serve {
        /// Its number.
        #[arg(long)]
        server: u32,
        /// Where it listens, TCP and UDP; may be given several times.
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
    },
}

/// A time as in the configuration file: a number with `ms` or `s`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or_default(), 1000),
    };
    let number: u64 = number
        .parse()
        .map_err(|_invalid| "expected a number with a unit, such as 100ms or 3s".to_owned())?;
    Ok(Duration::from_millis(number.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert!(duration("3").is_err());
        assert!(duration("ms").is_err());
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }
}
