//! The command line: what a person types, what comes back, and the exit code.

pub mod args;
mod backup;
mod capture;
mod config;
pub mod connections;
mod doctor;
pub mod events;
mod local;
mod node;
pub mod pair;
mod paper;
mod pcapng;
pub mod records;
mod remote;
mod replace;
mod run;
mod top;
pub mod trace;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use serde::Serialize;

use crate::config::Diagnostic;
use args::{Args, Verb};

/// How a command ended. Numbers are stable; `help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// No agent is running: as `status` of an LSB init script.
    NotRunning = 3,
    /// This user may not.
    Permission = 4,
    /// The configuration is wrong: `EX_CONFIG` of sysexits.h.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if let Some((verb, flags)) = without_meaning(&args.verb) {
        for (flag, given) in [(SOCKET, args.socket.is_some()), (JSON, args.json)] {
            if given && flags.contains(&flag) {
                let what = format!("`{flag}` has no meaning for `{verb}`");
                wrong_usage(ErrorKind::ArgumentConflict, &what);
            }
        }
    }
    let exit = match &args.verb {
        Verb::Run { log_format } => {
            crate::telemetry::start(*log_format);
            run::run(&args.config)
        }
        Verb::CheckConfig => local::check_config(&args.config, args.json),
        Verb::Keygen { file } => local::keygen(file),
        Verb::Replay { log } => local::replay(log),
        Verb::Backup { file } => backup::backup(&args, file.as_deref()),
        Verb::Restore(wanted) => backup::restore(&args, wanted),
        Verb::Reset(wanted) => node::reset(&args, wanted),
        Verb::Node { action } => node::node(&args, action),
        Verb::Pair { action } => pair::pair(&args, action),
        Verb::Convert { from } => local::convert(from),
        Verb::Completion { shell } => paper::completion(*shell),
        Verb::Manual { directory } => paper::manual(directory),
        Verb::Doctor => return doctor::doctor(&args),
        Verb::Events(wanted) => events::events(&args, wanted),
        Verb::Top(wanted) => top::top(&args, wanted),
        Verb::Ping(wanted) => doctor::ping(&args, wanted),
        Verb::Config {
            action: args::Config::Schema,
        } => config::schema(),
        Verb::UpgradeCheck { prepare } => replace::upgrade_check(&args.config, *prepare, args.json),
        Verb::Status
        | Verb::Connections(_)
        | Verb::Counters { .. }
        | Verb::Services
        | Verb::Failover
        | Verb::Maintenance { .. }
        | Verb::Web { .. }
        | Verb::Reload
        | Verb::Push
        | Verb::Config { .. }
        | Verb::Resume
        | Verb::Record { .. }
        | Verb::Records { .. }
        | Verb::Capture(_)
        | Verb::TracePacket(_)
        | Verb::Reexec => remote::command(&args),
    };
    exit.into()
}

/// Ends with exit code 2, as what the command line's grammar refuses does.
fn wrong_usage(kind: ErrorKind, what: &str) -> ! {
    Args::command().error(kind, what).exit()
}

const SOCKET: &str = "--socket";
const JSON: &str = "--json";

/// A verb, and the flags before any verb that it has no use for: it commands no agent, or has no result but what it
/// makes.
const fn without_meaning(verb: &Verb) -> Option<(&'static str, &'static [&'static str])> {
    match verb {
        Verb::Run { .. } => Some(("run", &[SOCKET, JSON])),
        Verb::CheckConfig => Some(("check-config", &[SOCKET])),
        Verb::Keygen { .. } => Some(("keygen", &[SOCKET, JSON])),
        Verb::Replay { .. } => Some(("replay", &[SOCKET, JSON])),
        Verb::Convert { .. } => Some(("convert", &[SOCKET, JSON])),
        Verb::Completion { .. } => Some(("completion", &[SOCKET, JSON])),
        Verb::Manual { .. } => Some(("manual", &[SOCKET, JSON])),
        Verb::Ping(_) => Some(("ping", &[SOCKET])),
        Verb::Pair {
            action: pair::Pair::Join(_),
        } => Some(("pair join", &[SOCKET, JSON])),
        Verb::UpgradeCheck { .. } => Some(("upgrade-check", &[SOCKET])),
        Verb::Config {
            action: args::Config::Schema,
        } => Some(("config schema", &[SOCKET])),
        Verb::Backup { .. } => Some(("backup", &[JSON])),
        Verb::Reset(_) => Some(("reset", &[JSON])),
        Verb::Node { .. } => Some(("node", &[JSON])),
        Verb::Top(_) => Some(("top", &[JSON])),
        Verb::Status
        | Verb::Connections(_)
        | Verb::Counters { .. }
        | Verb::Services
        | Verb::Failover
        | Verb::Maintenance { .. }
        | Verb::Web { .. }
        | Verb::Reload
        | Verb::Push
        | Verb::Config { .. }
        | Verb::Resume
        | Verb::Record { .. }
        | Verb::Records { .. }
        | Verb::Capture(_)
        | Verb::TracePacket(_)
        | Verb::Restore(_)
        | Verb::Pair { .. }
        | Verb::Doctor
        | Verb::Events(_)
        | Verb::Reexec => None,
    }
}

/// Prints a result. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Ok,
    }
}

fn print_json(value: &impl Serialize) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => {
            complain(&error.to_string(), "report this as a bug");
            Exit::Failed
        }
    }
}

/// Tells something on standard error, beside the result.
#[expect(clippy::print_stderr, reason = "the command line's way to remark")]
fn tell(what: &str) {
    eprintln!("{what}");
}

/// Tells on standard error what went wrong and what to do about it.
#[expect(clippy::print_stderr, reason = "the command line's way to complain")]
fn complain(what: &str, remedy: &str) {
    eprintln!("ha-agent: {what}\n  = {remedy}");
}

/// Shows problems of a configuration file on standard error.
#[expect(clippy::print_stderr, reason = "the command line's way to complain")]
fn complain_about(problems: &[Diagnostic]) {
    for problem in problems {
        eprintln!("{problem:#}");
    }
}
