//! Many seeds of random trouble. `HA_SIM_SEED` is the first seed (and by itself the only one),
//! `HA_SIM_SEEDS` how many, `HA_SIM_STEPS` how long each is, `HA_SIM_THREADS` on how many threads.

use ha_agent::shell::clock;
use ha_tests::sim::{Sabotage, Summary, sweep, sweep_all};

/// Seeds of every test run.
const SEEDS: u64 = 512;
/// Everything that goes wrong.
const FAULTS: [&str; 32] = [
    "agent frozen",
    "agent killed",
    "agent thawed",
    "carrier back",
    "carrier lost",
    "direction cut",
    "direction mended",
    "disk fails",
    "disk works",
    "failover",
    "gateway back",
    "gateway lost",
    "machine paused",
    "machine resumed",
    "longer timeout",
    "maintenance forced",
    "maintenance off",
    "maintenance on",
    "multicast blocked",
    "multicast passes",
    "next key",
    "power off",
    "reexec",
    "replaced",
    "replacement died",
    "replay",
    "resume",
    "shorter timeout",
    "start pacified",
    "stop",
    "timers late",
    "timers punctual",
];
/// Everything that must then be so.
const EXPECTATIONS: [&str; 9] = [
    "a change of keys moves nothing",
    "a change of timing moves nothing",
    "a dead active node is replaced",
    "a dying standby is not noticed",
    "a healed split settles",
    "a replacement that died is replaced",
    "blocked multicast moves nothing",
    "an agent is replaced unnoticed",
    "one link's loss moves nothing",
];
/// Changes of role after a fault on a network that loses nothing.
const MOST_CHANGES: u64 = 8;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_seed_violates_anything() {
    let steps = number("HA_SIM_STEPS").unwrap_or(3000);
    let seed = number("HA_SIM_SEED");
    let first = seed.unwrap_or(0);
    let count = number("HA_SIM_SEEDS").unwrap_or_else(|| if seed.is_some() { 1 } else { SEEDS });
    let threads = number("HA_SIM_THREADS").unwrap_or(1) as usize;
    let begin = clock::now();
    let swept = sweep_all(first..first + count, steps, threads);
    let took = clock::now().since(begin);
    eprintln!("{:#?}\n{took:?} on {threads} threads", swept.total);
    for violation in &swept.logs {
        eprintln!("{violation}\n");
    }
    for (seed, what) in &swept.violated {
        eprintln!("seed {seed}: {what}");
    }
    assert!(
        swept.violated.is_empty(),
        "{} of {count} seeds",
        swept.violated.len()
    );
    if count >= SEEDS && steps >= 3000 {
        is_busy(&swept.total);
    }
}

/// A run that tests nothing would pass as well.
fn is_busy(total: &Summary) {
    for fault in FAULTS {
        assert!(total.faults.contains_key(fault), "never: {fault}");
    }
    for expectation in EXPECTATIONS {
        let met = total.met.contains_key(expectation);
        assert!(met, "never put to the test: {expectation}");
    }
    assert!(total.promotions > total.runs, "{total:?}");
    assert!(total.hand_overs > 0, "{total:?}");
    assert!(total.excused_overlaps > 0, "{total:?}");
    assert!(total.overtaken > 0, "{total:?}");
    assert!(total.equal_tables > total.runs, "{total:?}");
    assert!(total.most_changes <= MOST_CHANGES, "{total:?}");
}

/// If the watch cannot see a broken shell or clock, its silence means nothing.
#[test]
fn a_broken_shell_is_noticed() {
    for sabotage in [
        Sabotage::LongLease(100),
        Sabotage::NeverClose,
        Sabotage::EarlyReception(100),
        Sabotage::Drift(20_000),
    ] {
        let noticed = (0..256).any(|seed| sweep(seed, 2000, sabotage).is_err());
        assert!(noticed, "{sabotage:?}");
    }
}
