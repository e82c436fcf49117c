//! What happened in runs, to see that they are not idle.

use std::collections::BTreeMap;

/// What happened in one run or many.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Steps done.
    pub steps: u64,
    /// Simulated nanoseconds.
    pub nanos: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Times an active role was taken.
    pub promotions: u64,
    /// Gates handed over to the partner.
    pub hand_overs: u64,
    /// Advertisements in a higher term that the kernel had to close for.
    pub overtaken: u64,
    /// Two gates open in total mutual deafness.
    pub excused_overlaps: u64,
    /// Expectations met, by what was expected.
    pub met: BTreeMap<&'static str, u64>,
    /// Times a pair in peace was found with equal tables and a ready standby.
    pub equal_tables: u64,
    /// Connections opened.
    pub connections: u64,
    /// Most changes of role between two faults, where no packet is lost.
    pub most_changes: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.nanos += other.nanos;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.promotions += other.promotions;
        self.hand_overs += other.hand_overs;
        self.overtaken += other.overtaken;
        self.excused_overlaps += other.excused_overlaps;
        for (what, count) in other.met {
            *self.met.entry(what).or_default() += count;
        }
        self.equal_tables += other.equal_tables;
        self.connections += other.connections;
        self.most_changes = self.most_changes.max(other.most_changes);
    }
}
