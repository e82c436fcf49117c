//! Connections of every manner, and active nodes that are killed.

mod common;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::clock::{PATIENCE, now_ns};
use ha_tests::demo::SERVICE;
use ha_tests::replica::kills::{OLD, Outcome, Scene};
use ha_tests::rig::config::{PairConfig, RealServer, Scheduler};
use ha_tests::rig::pair::Pair;
use ha_tests::traffic::crowd::{Crowd, Fates, Manner};

fn main() -> ExitCode {
    common::run(
        &["ip"],
        &["ha-agent", "ha-demo"],
        &[
            ("connections_of_every_manner_outlive_three_kills", kills),
            (
                "without_replication_the_table_before_a_change_leads_connections_back",
                former_table,
            ),
        ],
    )
}

fn none_lost(fates: Fates, at_least: u64) -> Result<()> {
    ensure!(fates.connections >= at_least, "few were judged: {fates:?}");
    ensure!(fates.lost() == 0, "{fates:?}");
    Ok(())
}

fn kills() -> Result<()> {
    // The thread that replicates waits its turn on a busy machine; the benchmark judges those of 5 ms.
    let old = Duration::from_millis(250);
    let mut scene = Scene::start(300, Scheduler::Rr, true, old)?;
    let mut outcome = Outcome::default();
    for _ in 0..3 {
        scene.kill(&mut outcome)?;
    }
    none_lost(scene.wake(&mut outcome)?, 75)?;
    none_lost(outcome.verdict.older, 3 * 75)
}

/// Half of the hash space or so belongs to another real server afterwards.
fn former_table() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        scheduler: Scheduler::Mh,
        replication: false,
        ..PairConfig::default()
    })?;
    pair.start()?;
    let crowd = Crowd::start(&pair.client, SERVICE)?;
    crowd.open(200, &Manner::LIVELY, 1000);
    crowd.wait_complete()?;
    // One drains, one comes.
    let server = |number, weight| RealServer { number, weight };
    pair.change_servers(vec![server(1, 1), server(2, 0), server(3, 1)])?;
    sleep(Duration::from_millis(500));
    let (active, standby) = pair.active_and_standby()?;
    let killed = now_ns();
    active.kill()?;
    let settled = standby.wait_role(Role::Active, PATIENCE)?;
    none_lost(crowd.judge(killed, settled, OLD)?.older, 200)?;
    crowd.finish()
}
