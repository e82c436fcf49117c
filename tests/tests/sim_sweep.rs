//! Many seeds of random trouble. `HA_SIM_SEED` is the first seed (and by itself the only one),
//! `HA_SIM_SEEDS` how many, `HA_SIM_STEPS` how long each is.

use ha_tests::sim::{Sabotage, Summary, sweep};

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
    let mut total = Summary::default();
    for seed in first..first + count {
        total += sweep(seed, steps, Sabotage::None);
    }
    eprintln!("{total:#?}");
    if count >= 64 {
        // A run that tests nothing would pass as well.
        assert!(
            total.promotions > count && total.faults > 5 * count,
            "{total:?}"
        );
        assert!(
            total.expectations > 0 && total.equal_tables > 0,
            "{total:?}"
        );
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
        let noticed =
            (0..64).any(|seed| std::panic::catch_unwind(|| sweep(seed, 2000, sabotage)).is_err());
        assert!(noticed, "{sabotage:?}");
    }
}
