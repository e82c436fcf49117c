//! What `cargo xtask bench failover` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures what clients notice of faults, in network namespaces, beside keepalived and ucarp. Ends
/// with 0 only if every promise was kept.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo xtask bench failover",
    bin_name = "cargo xtask bench failover",
    version
)]
pub struct Options {
    /// Only this case; may be given several times.
    #[arg(long, value_enum, value_name = "CASE")]
    pub only: Vec<Case>,
    /// Runs of each case.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub runs: usize,
    /// Two runs, and short where time is all that counts.
    #[arg(long, conflicts_with = "runs")]
    pub quick: bool,
    /// Also `busy`: how many minutes the pair must hold still on a machine without a free core.
    #[arg(long, value_name = "MINUTES")]
    pub busy: Option<u64>,
    /// Also `syn-flood`: how many minutes it lasts.
    #[arg(long, value_name = "MINUTES")]
    pub minutes: Option<u64>,
    /// Leave keepalived and ucarp out.
    #[arg(long)]
    pub alone: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Where the JSON goes in any case.
    #[arg(
        long,
        default_value = "target/bench/failover.json",
        value_name = "FILE"
    )]
    pub output: PathBuf,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Power-off of the active node.
    PowerOff,
    /// A hung host: nothing runs, the carriers stay.
    Hang,
    /// Planned hand-over under connections.
    Planned,
    /// Only the back link of the active node fails.
    BackLink,
    /// The agent alone is killed.
    AgentKill,
    /// The agent alone is frozen.
    AgentFreeze,
    /// The active node's agent is replaced by a new program under connections.
    Reexec,
    /// Faults that clients must not notice: the standby's death, each link and direction.
    Standby,
    /// Taking over from a stock ucarp that is killed.
    UcarpPeer,
    /// The active node's advertisements, replayed and doctored.
    Replay,
    /// Half a million forged advertisements a second at the standby's port.
    Flood,
    /// 300,000 and more connection requests a second beside connections that must live on.
    SynFlood,
    /// No fault at all while other work takes every core.
    Busy,
}

impl Case {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Hang => "hang",
            Self::Planned => "planned",
            Self::BackLink => "back-link",
            Self::AgentKill => "agent-kill",
            Self::AgentFreeze => "agent-freeze",
            Self::Reexec => "reexec",
            Self::Standby => "standby",
            Self::UcarpPeer => "ucarp-peer",
            Self::Replay => "replay",
            Self::Flood => "flood",
            Self::SynFlood => "syn-flood",
            Self::Busy => "busy",
        }
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::PowerOff => "the active node loses its power",
            Self::Hang => "the active node hangs, its carriers stay",
            Self::Planned => "an operator asks for a hand-over under load",
            Self::BackLink => "the active node's back link loses its carrier",
            Self::AgentKill => "the active node's agent is killed, the host lives",
            Self::AgentFreeze => "the active node's agent is frozen, the host lives",
            Self::Reexec => "the active node's agent is replaced by a new program",
            Self::Standby => "the standby dies, each link fails, one direction or both",
            Self::UcarpPeer => "a ucarp partner is killed, the agent takes over",
            Self::Replay => "recorded and doctored advertisements at both nodes",
            Self::Flood => "forged advertisements at the standby's port",
            Self::SynFlood => "connection requests of nobody beside live connections",
            Self::Busy => "no fault while other work takes every core",
        }
    }
}

impl Case {
    /// About how many seconds it takes at all, and how many more each run takes.
    const fn seconds(self) -> (u64, u64) {
        match self {
            Self::PowerOff | Self::AgentFreeze => (5, 4),
            Self::Hang => (5, 3),
            Self::Planned => (30, 6),
            Self::BackLink => (5, 9),
            Self::AgentKill => (60, 4),
            Self::Reexec => (15, 7),
            Self::Standby => (5, 8),
            Self::UcarpPeer => (10, 9),
            Self::Replay => (20, 0),
            Self::Flood => (10, 0),
            Self::SynFlood => (15, 0),
            Self::Busy => (5, 0),
        }
    }
}

impl Options {
    /// About how long a case will take.
    pub fn estimate(&self, case: Case) -> Duration {
        let (once, each) = case.seconds();
        let more = match case {
            Case::Flood => self.flood_for(),
            Case::SynFlood => self.syn_flood_for(),
            Case::Busy => self.busy_for(),
            Case::PowerOff | Case::Hang => Duration::from_secs(each * self.runs_by_chance() as u64),
            Case::Planned
            | Case::BackLink
            | Case::AgentKill
            | Case::AgentFreeze
            | Case::Reexec
            | Case::Standby
            | Case::UcarpPeer
            | Case::Replay => Duration::from_secs(each * self.runs() as u64),
        };
        Duration::from_secs(once) + more
    }

    /// The cases to measure, in order. Those that take long are measured only on request.
    pub fn cases(&self) -> Vec<Case> {
        let wanted = |case: &Case| {
            if self.only.is_empty() {
                (*case != Case::Busy || self.busy.is_some())
                    && (*case != Case::SynFlood || self.minutes.is_some())
            } else {
                self.only.contains(case)
            }
        };
        Case::value_variants()
            .iter()
            .copied()
            .filter(wanted)
            .collect()
    }

    /// Runs of most cases.
    pub const fn runs(&self) -> usize {
        if self.quick { 2 } else { self.runs }
    }

    /// Runs of a case whose gap depends on when within an interval the fault comes: of two, chance would decide.
    pub const fn runs_by_chance(&self) -> usize {
        if self.quick { 6 } else { self.runs }
    }

    /// How long `flood` lasts.
    pub const fn flood_for(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { 30 })
    }

    /// How long `syn-flood` lasts.
    pub fn syn_flood_for(&self) -> Duration {
        match self.minutes {
            Some(minutes) => Duration::from_mins(minutes),
            None if self.quick => Duration::from_secs(10),
            None => Duration::from_mins(10),
        }
    }

    /// How long `busy` lasts.
    pub fn busy_for(&self) -> Duration {
        match self.busy {
            Some(minutes) => Duration::from_mins(minutes),
            None if self.quick => Duration::from_secs(20),
            None => Duration::from_mins(10),
        }
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

    #[test]
    fn names_are_those_of_the_command_line() {
        for case in Case::value_variants() {
            let value = case.to_possible_value().unwrap();
            assert_eq!(value.get_name(), case.name());
        }
    }
}
