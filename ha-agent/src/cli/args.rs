//! Words of the command line. Names are stable: scripts rely on them. Verbs that take more than a few are with what
//! carries them out.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use super::connections::Connections;
use super::events::Events;
use super::pair::Pair;
use super::records::Records;
use super::trace::TracePacket;
use crate::config::backup::Part;
use crate::config::read_duration;
use crate::telemetry::LogFormat;
use crate::web::page::users::Access;

/// Where the configuration is unless `-f` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/ha-agent/ha-agent.yaml";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no agent is running, 4 no permission,
78 error in the configuration.";

/// Failover agent of a load-balancer pair.
#[derive(Debug, Parser)]
#[command(name = "ha-agent", version, about, after_help = EXIT_CODES)]
pub struct Args {
    /// Configuration file
    #[arg(
        short = 'f',
        long = "config",
        value_name = "FILE",
        default_value = DEFAULT_CONFIG,
        global = true,
        display_order = 100
    )]
    pub config: PathBuf,
    /// Control socket of the agent to command [default: as the configuration file says]
    #[arg(long, value_name = "PATH", global = true, display_order = 101)]
    pub socket: Option<PathBuf>,
    /// Print JSON
    #[arg(short, long, global = true, display_order = 102)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the agent in the foreground
    Run {
        /// How to write log lines to standard error
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        log_format: LogFormat,
    },
    /// Report everything that is wrong with the configuration; changes nothing
    CheckConfig,
    /// Show the state of node and pair
    Status,
    /// Show the connection table
    Connections(Connections),
    /// Show node and pair live in the terminal; q ends, ? shows the keys
    Top(Top),
    /// Show what the data plane counted
    Counters {
        /// Counters that are zero, too
        #[arg(long)]
        all: bool,
    },
    /// Show virtual services and their real servers
    Services,
    /// Show what has happened: who, when and why; also when no agent is running
    Events(Events),
    /// Hand the active role to the partner
    Failover,
    /// Put this node aside, or take it back
    Maintenance {
        /// Which of the two
        switch: Switch,
        /// Even if nobody takes over
        #[arg(long)]
        force: bool,
    },
    /// Switch this node's web page on or off, or say who may log in there
    Web {
        /// What to do
        #[command(subcommand)]
        action: Web,
    },
    /// Take this node back, after maintenance or after it was pacified
    Resume,
    /// Take over what may change under traffic from the configuration file, and show what that was
    Reload,
    /// Make sure, now, that the partner has this node's configuration
    Push,
    /// Show the configuration in force, how a file differs from it, or what a file may hold
    Config {
        /// What to do
        #[command(subcommand)]
        action: Config,
    },
    /// Replace the running agent by the program that is installed now, under traffic
    Reexec,
    /// Tell whether this program could replace the running agent; changes nothing
    UpgradeCheck {
        /// Load this program's data plane as well, for the replacement that follows
        #[arg(long, hide = true)]
        prepare: bool,
    },
    /// Make a key for the pair; an existing file is never overwritten
    Keygen {
        /// File to write, mode 0600; the same on both nodes
        file: PathBuf,
    },
    /// Write down what happens to the election of the running agent, without its secrets
    Record {
        /// File to make
        file: PathBuf,
        /// For how long; the command itself returns at once
        #[arg(long, value_name = "NUMBER", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
        seconds: u32,
    },
    /// Capture packets as the data plane leaves them, each with its reason, for tcpdump and Wireshark
    Capture(Capture),
    /// Tell what the data plane would do with a packet, and why; nothing is sent or changed
    TracePacket(TracePacket),
    /// Look for what is wrong with this node, its network and its pair, and say what to do; exits as a
    /// monitoring plugin: 0 well, 1 somebody should look, 2 something fails, 3 unknown
    Doctor,
    /// Ask a host for ICMP echoes, from this node's own address on an interface
    Ping(Ping),
    /// Read or write records that the pair keeps for an application-level proxy
    Records {
        /// What to do
        #[command(subcommand)]
        action: Records,
    },
    /// Give a new node the pair's key and configuration, or be that node
    Pair {
        /// Which
        #[command(subcommand)]
        action: Pair,
    },
    /// Write a backup of the configuration, without keys
    Backup {
        /// File to make, never overwritten [default: standard output]
        file: Option<PathBuf>,
    },
    /// Put the configuration of a backup in place, or parts of it; a running agent takes it over, or nothing changes
    Restore(Restore),
    /// Return to factory settings: hand over, end the agent, remove configuration, keys and state
    Reset(Reset),
    /// Restart this machine or switch it off, after handing over
    Node {
        /// What to do
        #[command(subcommand)]
        action: NodeAction,
    },
    /// Make a configuration of another program's, and list what could not be carried over
    Convert {
        /// Of which
        #[command(subcommand)]
        from: Foreign,
    },
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all commands
    #[command(hide = true)]
    Manual {
        /// Directory to write them to
        directory: PathBuf,
    },
    /// Run a log of the election through this version's rules and show the first difference
    Replay {
        /// What `record`, a simulator or a conformance case wrote
        log: PathBuf,
    },
}

/// How to show the node live.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// How often to look, from 200ms to 60s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = every)]
    pub every: Duration,
}

fn every(text: &str) -> Result<Duration, &'static str> {
    let range = Duration::from_millis(200)..=Duration::from_mins(1);
    read_duration(text)
        .filter(|every| range.contains(every))
        .ok_or("a whole number and a unit, from 200ms to 60s")
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Show the configuration that the running agent has in force; it holds no secrets
    Show,
    /// Show what taking over a file would change
    Diff {
        /// The file [default: the configuration file]
        file: Option<PathBuf>,
    },
    /// Print a JSON schema of the file, for editors
    Schema,
}

/// Whose configuration to convert.
#[derive(Debug, Subcommand)]
pub enum Foreign {
    /// Its virtual router instances and virtual servers; prints a file to complete and check
    Keepalived {
        /// keepalived.conf of one of the nodes
        file: PathBuf,
    },
}

/// What to restore.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// What `backup` made
    pub file: PathBuf,
    /// Only this part; may be repeated [default: all]
    #[arg(long = "part", value_enum, value_name = "PART")]
    pub parts: Vec<Part>,
    /// Tell what would change, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Whether to reset.
#[derive(Debug, clap::Args)]
pub struct Reset {
    /// Do it; without this, tell what would go
    #[arg(long)]
    pub yes: bool,
    /// Even if nobody takes over
    #[arg(long)]
    pub force: bool,
}

/// How a node goes down.
#[derive(Debug, Subcommand)]
pub enum NodeAction {
    /// Hand over, then restart the machine
    Reboot(Consent),
    /// Hand over, then switch the machine off
    Shutdown(Consent),
}

/// Whether it may.
#[derive(Debug, clap::Args)]
pub struct Consent {
    /// Yes, this machine
    #[arg(long, required = true)]
    pub yes: bool,
    /// Even if nobody takes over, or no agent runs
    #[arg(long)]
    pub force: bool,
}

/// Whom to ask for echoes.
#[derive(Debug, clap::Args)]
pub struct Ping {
    /// Its address
    pub host: IpAddr,
    /// From this node's own address on this interface of the configuration [default: as the kernel routes]
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// How many, one a second
    #[arg(short, long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub count: u32,
    /// Length of the ICMP message; 20 bytes less than a packet of IPv4
    #[arg(short, long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=65507))]
    pub length: u16,
}

/// What to do with the web page.
#[derive(Debug, Subcommand)]
pub enum Web {
    /// Open it, also after every restart
    On,
    /// Close it, also after every restart
    Off,
    /// Let somebody log in, and print the password made for it
    AddUser {
        /// Name: lower-case letters, digits, `-`, `_` and `.`
        name: String,
        /// What the user may do
        #[arg(long, value_enum, default_value_t = Access::Viewer)]
        access: Access,
    },
    /// Let somebody log in no more; who is logged in is logged out
    RemoveUser {
        /// Name
        name: String,
    },
    /// Let a script use the API, and print its token, which cannot be seen again
    AddToken {
        /// Name: lower-case letters, digits, `-`, `_` and `.`
        name: String,
        /// What the script may do
        #[arg(long, value_enum, default_value_t = Access::Viewer)]
        access: Access,
    },
    /// Let a script use the API no more
    RemoveToken {
        /// Name
        name: String,
    },
}

/// What to capture, and where to.
#[derive(Debug, clap::Args)]
pub struct Capture {
    /// File to make, in pcapng format; - for standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    pub file: PathBuf,
    /// One packet in so many
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub every: u32,
    /// For how long at most
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// How many packets at most
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub count: u64,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// The partner takes over, and this node stays out, also after a restart.
    On,
    /// This node takes part again.
    Off,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
