//! A deterministic simulation of a pair: two real election machines and two real replication machines,
//! a network that loses, delays, repeats and cuts, and nodes that die, freeze and drift.
//!
//! Everything follows from one seed: the same seed gives the same run, event by event. [`World`] is the
//! universe with its true time; a [`Host`](host::Host) is one node, of which the kernel part (gate,
//! addresses, connection table) outlives the agent; [`faults`] decides what goes wrong when;
//! [`watch`] holds what must never be violated. A violation panics with the seed, the step, and the last
//! events.
//!
//! Deliberately absent: forwarding. A gate that is open counts as a node that forwards.

pub mod clock;
pub mod faults;
pub mod host;
pub mod journal;
pub mod network;
pub mod params;
mod strike;
pub mod traffic;
pub mod watch;
pub mod world;

pub use params::{Params, Sabotage};
pub use world::World;

/// Runs a seed for that many steps under random faults.
pub fn sweep(seed: u64, steps: u64, sabotage: Sabotage) -> Summary {
    let mut world = World::new(Params::random(seed, sabotage));
    world.torment(steps);
    world.summary()
}

/// What happened in a run, to see that the runs are not idle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// Simulated nanoseconds.
    pub nanos: u64,
    /// Faults injected.
    pub faults: u64,
    /// Times an active role was taken.
    pub promotions: u64,
    /// Two gates open in total mutual deafness.
    pub excused_overlaps: u64,
    /// Expectations met: dead active replaced, dying standby unnoticed, split settled, calm kept.
    pub expectations: u64,
    /// Times the two tables were found equal.
    pub equal_tables: u64,
    /// Connections opened.
    pub connections: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.nanos += other.nanos;
        self.faults += other.faults;
        self.promotions += other.promotions;
        self.excused_overlaps += other.excused_overlaps;
        self.expectations += other.expectations;
        self.equal_tables += other.equal_tables;
        self.connections += other.connections;
    }
}
