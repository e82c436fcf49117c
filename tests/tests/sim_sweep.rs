//! Many seeds of random trouble. `HA_SIM_SEED` is the first seed (and by itself the only one),
//! `HA_SIM_SEEDS` how many, `HA_SIM_STEPS` how long each is, `HA_SIM_THREADS` on how many threads.

use ha_agent::shell::clock;
use ha_tests::sim::{Sabotage, sweep, sweep_all};

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_seed_violates_anything() {
    let steps = number("HA_SIM_STEPS").unwrap_or(3000);
    let seed = number("HA_SIM_SEED");
    let first = seed.unwrap_or(0);
    let count = number("HA_SIM_SEEDS").unwrap_or_else(|| if seed.is_some() { 1 } else { 256 });
    let threads = number("HA_SIM_THREADS").unwrap_or(1) as usize;
    let begin = clock::now();
    let swept = sweep_all(first..first + count, steps, threads);
    let total = &swept.total;
    eprintln!(
        "{total:#?}\n{:?} on {threads} threads",
        clock::now().since(begin)
    );
    for violation in &swept.logs {
        eprintln!("{violation}\n");
    }
    for (seed, what) in &swept.violated {
        eprintln!("seed {seed}: {what}");
    }
    assert!(swept.violated.is_empty());
    if count >= 64 {
        // A run that tests nothing would pass as well.
        assert!(total.promotions > count, "{total:?}");
        assert!(total.equal_tables > 0, "{total:?}");
    }
}

/// If the watch cannot see a broken shell, its silence means nothing.
#[test]
fn a_broken_shell_is_noticed() {
    for sabotage in [
        Sabotage::LongLease(500),
        Sabotage::NeverClose,
        Sabotage::EarlyReception(500),
        Sabotage::Drift(200_000),
    ] {
        let noticed = (0..64).any(|seed| sweep(seed, 2000, sabotage).is_err());
        assert!(noticed, "{sabotage:?}");
    }
}
