//! The cases, one file for each kind of fault.

mod agent;
mod busy;
mod connections;
mod flood;
mod foreign;
mod link;
mod planned;
mod power;
mod reexec;
mod replay;
mod standby;
mod syn_flood;

use std::time::Duration;

use anyhow::Result;

use super::options::Case;
use super::subject::{Ours, Rival, Subject, available};
use super::{Bench, say};
use crate::rig::config::PairConfig;

/// Measures a case.
pub(super) fn measure(case: Case, bench: &mut Bench<'_>) -> Result<()> {
    match case {
        Case::PowerOff => power::off(bench),
        Case::Hang => power::hang(bench),
        Case::Planned => planned::measure(bench),
        Case::BackLink => link::measure(bench),
        Case::AgentKill => agent::kill(bench),
        Case::AgentFreeze => agent::freeze(bench),
        Case::Reexec => reexec::measure(bench),
        Case::Standby => standby::measure(bench),
        Case::UcarpPeer => foreign::measure(bench),
        Case::Replay => replay::measure(bench),
        Case::Flood => flood::measure(bench),
        Case::SynFlood => syn_flood::measure(bench),
        Case::Busy => busy::measure(bench),
    }
}

/// How long a link that failed must have worked again. Short, since a fault follows the other: a pair
/// of which both nodes have a link that does not count yet stays as it is.
const HOLD_DOWN: Duration = Duration::from_millis(200);

/// A pair's configuration with this timing, in milliseconds.
fn timing(interval: u64, timeout: u64) -> PairConfig {
    PairConfig {
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        hold_down: Some(HOLD_DOWN),
        ..PairConfig::default()
    }
}

/// Pairs to be struck in turn.
type Subjects = Vec<Box<dyn Subject>>;

fn ours(name: &'static str, interval: u64, timeout: u64) -> Result<Box<dyn Subject>> {
    Ok(Box::new(Ours::start(name, timing(interval, timeout))?))
}

impl Bench<'_> {
    /// keepalived with this interval in seconds, if rivals are wanted.
    fn keepalived(&self, name: &'static str, interval: &'static str) -> Result<Subjects> {
        self.rival("keepalived", || Rival::keepalived(name, interval))
    }

    /// ucarp, if rivals are wanted.
    fn ucarp(&self, name: &'static str) -> Result<Subjects> {
        self.rival("ucarp", || Rival::ucarp(name))
    }

    fn rival(&self, program: &str, start: impl FnOnce() -> Result<Rival>) -> Result<Subjects> {
        if self.options.alone {
            return Ok(Vec::new());
        }
        anyhow::ensure!(
            available(program),
            "{program} is not installed: run `cargo xtask setup` or give --alone"
        );
        Ok(vec![Box::new(start()?)])
    }

    /// Tells how a run went.
    fn progress(&self, run: usize, who: &str, result: &str) {
        say(&format!(
            "  {}/{} {who}: {result}",
            run + 1,
            self.options.runs()
        ));
    }
}
