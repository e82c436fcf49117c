//! Many connections of every manner, and an active node that is killed again and again.
//!
//! Each time some connections are new, the agent of the active node is killed at a random moment, and each
//! connection must be heard again through the other node. Then the killed one is started, and once the pair is
//! whole the next one is killed.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_agent::proto::rng::Rng;
use ha_agent::status::model::Role;

use super::{Bench, percentile};
use crate::bench::{AGENT, Promise, Row, say};
use crate::clock::{PATIENCE, now_ns};
use crate::demo::SERVICE;
use crate::rig::config::{PairConfig, RealServer, Scheduler};
use crate::rig::pair::Pair;
use crate::traffic::crowd::{Crowd, Fates, Manner, Verdict};

/// Real servers come and go before each kill, and only the table knows who has whom.
pub(super) const CHANGING: Kills = Kills {
    case: "kills: rr, real servers come and go",
    scheduler: Scheduler::Rr,
    changing: true,
    replication: true,
    survive: 99.99,
};
/// Nothing is replicated, and nothing changes: the hash knows.
pub(super) const ALONE: Kills = Kills {
    case: "kills: mh, nothing replicated",
    scheduler: Scheduler::Mh,
    changing: false,
    replication: false,
    survive: 100.0,
};

/// Of younger connections nothing is promised where the machine does nothing else.
pub const OLD: Duration = Duration::from_millis(5);
/// Idle connections must outlive all kills.
const TIMEOUTS: &str = "timeouts: { established: 2h, closing: 1h, closed: 2s, udp: 2m }";
/// New connections a second around a kill.
pub(super) const RATE: u64 = 300;
/// How long they begin before the earliest moment of a kill, and by how much later it may come.
pub(super) const BEFORE: Duration = Duration::from_millis(500);
pub(super) const SPREAD_MS: u64 = 1000;
/// How long the other node may take.
const TAKEOVER: Duration = PATIENCE;

/// A case.
pub(super) struct Kills {
    pub(super) case: &'static str,
    scheduler: Scheduler,
    changing: bool,
    replication: bool,
    /// Per cent of the older connections.
    survive: f64,
}

/// What many kills have shown.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Connections by age at the kills, the idle ones only at the end.
    pub verdict: Verdict,
    /// From each kill until the other node said that it is active, in nanoseconds.
    pub takeovers: Vec<u64>,
}

/// A pair with a crowd of clients.
pub struct Scene {
    pair: Pair,
    crowd: Crowd,
    rng: Rng,
    connections: usize,
    changing: bool,
    old: Duration,
    kills: usize,
}

impl Scene {
    /// Starts a pair, and as many connections, a quarter of each manner. Those count as old that are so old at a kill.
    pub fn start(
        connections: usize,
        scheduler: Scheduler,
        changing: bool,
        old: Duration,
    ) -> Result<Self> {
        Self::with(connections, scheduler, changing, true, old)
    }

    fn with(
        connections: usize,
        scheduler: Scheduler,
        changing: bool,
        replication: bool,
        old: Duration,
    ) -> Result<Self> {
        let mut pair = Pair::build(PairConfig {
            keys: vec![TIMEOUTS],
            scheduler,
            replication,
            servers: servers(0),
            ..PairConfig::default()
        })?;
        pair.start()?;
        let crowd = Crowd::start(&pair.client, SERVICE)?;
        crowd.open(connections, &Manner::ALL, 2000);
        crowd.wait_complete()?;
        Ok(Self {
            pair,
            crowd,
            rng: Rng::new(now_ns()),
            connections,
            changing,
            old,
            kills: 0,
        })
    }

    /// Kills the active node once, and judges.
    pub fn kill(&mut self, outcome: &mut Outcome) -> Result<()> {
        self.kills += 1;
        if self.changing {
            self.pair.change_servers(servers(self.kills))?;
        }
        // As many as begin now.
        let young = begun_around_a_kill();
        self.crowd.close(young);
        let missing = self.connections.saturating_sub(self.crowd.len());
        self.crowd.open(missing, &Manner::LIVELY, RATE);
        thread::sleep(BEFORE + Duration::from_millis(self.rng.below(SPREAD_MS)));

        let (active, standby) = self.pair.active_and_standby()?;
        // What begins while the agent is dying is nobody's promise.
        let killed = now_ns();
        active.kill()?;
        let settled = standby.wait_role(Role::Active, TAKEOVER)?;
        outcome.takeovers.push(settled - killed);
        let verdict = self.crowd.judge(killed, settled, self.old)?;
        outcome.verdict.older.add(verdict.older);
        outcome.verdict.younger.add(verdict.younger);
        outcome.verdict.meanwhile += verdict.meanwhile;

        for node in &mut self.pair.nodes {
            if node.agent.is_none() {
                node.start()?;
            }
        }
        self.pair.wait_whole()?;
        self.crowd.wait_complete()
    }

    /// Lets the idle connections speak.
    pub fn wake(&self, outcome: &mut Outcome) -> Result<Fates> {
        let idle = self.crowd.wake()?;
        outcome.verdict.older.add(idle);
        Ok(idle)
    }
}

/// How many connections begin between the last kill's aftermath and the latest moment of the next.
pub(super) fn begun_around_a_kill() -> usize {
    (RATE * (BEFORE.as_millis() as u64 + SPREAD_MS) / 1000) as usize
}

/// The real servers of all services by the number of kills: each time one is added and another one drains,
/// or leaves altogether.
fn servers(kills: usize) -> Vec<RealServer> {
    let of = |servers: &[(u8, u32)]| {
        let servers = servers.iter();
        servers
            .map(|&(number, weight)| RealServer { number, weight })
            .collect()
    };
    match kills % 4 {
        0 => of(&[(1, 1), (2, 1)]),
        1 => of(&[(1, 1), (2, 0), (3, 1)]),
        2 => of(&[(1, 1), (2, 1), (3, 0)]),
        _ => of(&[(2, 1), (3, 1)]),
    }
}

pub(super) fn measure(bench: &mut Bench<'_>, kills: &Kills) -> Result<()> {
    let (connections, times) = if bench.options.quick {
        (1000, 3)
    } else {
        (10_000, 50)
    };
    let from = now_ns();
    let mut scene = Scene::with(
        connections,
        kills.scheduler,
        kills.changing,
        kills.replication,
        OLD,
    )?;
    let mut outcome = Outcome::default();
    for kill in 1..=times {
        let before = outcome.verdict;
        scene.kill(&mut outcome)?;
        let (older, younger) = (outcome.verdict.older, outcome.verdict.younger);
        say(&format!(
            "  {kill}/{times}: {} of {} lost, and {} of {} younger than 5 ms",
            older.lost() - before.older.lost(),
            older.connections - before.older.connections,
            younger.lost() - before.younger.lost(),
            younger.connections - before.younger.connections,
        ));
    }
    let idle = scene.wake(&mut outcome)?;
    ensure!(idle.connections > 0, "no idle connection was judged");
    let stalled = bench.stalls.longest_ms(&(from..now_ns()));
    note(bench, kills, &outcome, idle, stalled);
    Ok(())
}

fn note(bench: &mut Bench<'_>, kills: &Kills, outcome: &Outcome, idle: Fates, stalled: f64) {
    let Verdict {
        older,
        younger,
        meanwhile,
        meanwhile_corrupted: _,
    } = outcome.verdict;
    let mut takeovers = outcome.takeovers.clone();
    takeovers.sort_unstable();
    let survived = |fates: Fates| {
        100.0 * (fates.connections - fates.lost()) as f64 / fates.connections.max(1) as f64
    };
    let mut add = |what, unit, promise, value| {
        let row = Row {
            case: kills.case,
            who: AGENT,
            what,
            unit,
            promise,
        };
        bench.note(row, value, stalled);
    };
    let none = Promise::Nothing;
    add("kills", "count", none, takeovers.len() as f64);
    add(
        "connections judged, older than 5 ms",
        "count",
        none,
        older.connections as f64,
    );
    add(
        "of these survived",
        "%",
        Promise::AtLeast(kills.survive),
        survived(older),
    );
    add("reset", "count", none, older.reset as f64);
    add("wrong byte", "count", none, older.corrupted as f64);
    add("silent for 5 s", "count", none, older.silent as f64);
    add(
        "idle through all kills, judged once",
        "count",
        none,
        idle.connections as f64,
    );
    add("of these lost", "count", none, idle.lost() as f64);
    add(
        "younger than 5 ms",
        "count",
        none,
        younger.connections as f64,
    );
    add("of these lost, too", "count", none, younger.lost() as f64);
    add(
        "begun after a kill and before the takeover, not judged",
        "count",
        none,
        meanwhile as f64,
    );
    add(
        "until the other node is active, p50",
        "ms",
        none,
        percentile(&takeovers, 50) / 1e6,
    );
    add(
        "until the other node is active, max",
        "ms",
        none,
        percentile(&takeovers, 100) / 1e6,
    );
}
