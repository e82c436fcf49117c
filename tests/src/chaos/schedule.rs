//! What happens to the pair, and when: a function of the seed.
//!
//! Every kind of fault comes up once before any comes up again. Now and then a second one falls into
//! the first, one of which disables no node: so there is always a node that could serve, except
//! where the kind says that there is none.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use ha_agent::proto::rng::Rng;
use serde::{Serialize, Serializer};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `kill -9` of the agent; later it is started again.
    Kill,
    /// The agent is stopped, and continued.
    Freeze,
    /// The agent is told to end, and started again.
    Restart,
    /// The agent is replaced in place by the program that is installed, as an upgrade does it.
    Upgrade,
    /// The node loses its power: links, agent, and all the kernel had. Later it boots.
    PowerOff,
    /// One link of a node goes silent, both ways, with the carrier up.
    Silence,
    /// One link of a node loses its carrier.
    Carrier,
    /// One direction of one link of a node goes silent.
    OneWay,
    /// The switch passes no multicast of the pair.
    Multicast,
    /// Replication and configuration do not pass between the nodes, everything else does.
    SyncLink,
    /// The nodes do not hear each other on one link, everybody else hears both.
    Apart,
    /// The nodes do not hear each other at all; everybody else hears both.
    Deaf,
    /// Both nodes lose their power.
    BothOff,
    /// The wall clock of an agent jumps, and jumps back.
    ClockJump,
    /// The agent's memory is scarce.
    Memory,
    /// The disk of the agent's state is full.
    DiskFull,
    /// The file system of the pinned maps is unmounted, and mounted again, empty.
    Unmounted,
    /// The XDP program is taken off an interface.
    Detached,
    /// Somebody edits the table of connections: entries of a standby, reverse halves of an active node.
    Edited,
    /// An operator changes the real servers and reloads.
    Configuration,
    /// An operator asks for a hand-over.
    Failover,
}

impl Kind {
    /// For people.
    const fn title(self) -> &'static str {
        match self {
            Self::Kill => "agent killed",
            Self::Freeze => "agent frozen",
            Self::Restart => "agent restarted",
            Self::Upgrade => "agent replaced in place",
            Self::PowerOff => "power off",
            Self::Silence => "link silent",
            Self::Carrier => "carrier lost",
            Self::OneWay => "one direction silent",
            Self::Multicast => "no multicast",
            Self::SyncLink => "no replication channel",
            Self::Apart => "one link between the nodes silent",
            Self::Deaf => "total mutual deafness",
            Self::BothOff => "both powers off",
            Self::ClockJump => "wall clock jumps",
            Self::Memory => "memory scarce",
            Self::DiskFull => "disk full",
            Self::Unmounted => "bpffs unmounted",
            Self::Detached => "XDP detached",
            Self::Edited => "table edited",
            Self::Configuration => "configuration edited",
            Self::Failover => "planned failover",
        }
    }

    /// Whether the node cannot do its part meanwhile.
    const fn disables(self) -> bool {
        match self {
            Self::Kill
            | Self::Freeze
            | Self::Restart
            | Self::Upgrade
            | Self::PowerOff
            | Self::Silence
            | Self::Carrier
            | Self::OneWay
            | Self::Deaf
            | Self::BothOff
            | Self::Unmounted
            | Self::Detached
            | Self::Failover => true,
            Self::Multicast
            | Self::SyncLink
            | Self::Apart
            | Self::ClockJump
            | Self::Memory
            | Self::DiskFull
            | Self::Edited
            | Self::Configuration => false,
        }
    }

    /// Whether it is about one of the nodes.
    const fn has_victim(self) -> bool {
        match self {
            Self::Kill
            | Self::Freeze
            | Self::Restart
            | Self::Upgrade
            | Self::PowerOff
            | Self::Silence
            | Self::Carrier
            | Self::OneWay
            | Self::ClockJump
            | Self::Memory
            | Self::DiskFull
            | Self::Unmounted
            | Self::Detached
            | Self::Edited => true,
            Self::Multicast
            | Self::SyncLink
            | Self::Apart
            | Self::Deaf
            | Self::BothOff
            | Self::Configuration
            | Self::Failover => false,
        }
    }

    /// Whether it may fall into another fault, or another one into it. What asks the pair for something
    /// (a hand-over, a replacement) wants it whole.
    const fn overlaps(self) -> bool {
        match self {
            Self::Upgrade | Self::Deaf | Self::BothOff | Self::Edited | Self::Failover => false,
            Self::Kill
            | Self::Freeze
            | Self::Restart
            | Self::PowerOff
            | Self::Silence
            | Self::Carrier
            | Self::OneWay
            | Self::Multicast
            | Self::SyncLink
            | Self::Apart
            | Self::ClockJump
            | Self::Memory
            | Self::DiskFull
            | Self::Unmounted
            | Self::Detached
            | Self::Configuration => true,
        }
    }

    /// Whether it is about one of the links.
    const fn has_link(self) -> bool {
        matches!(
            self,
            Self::Silence | Self::Carrier | Self::OneWay | Self::Apart | Self::Detached
        )
    }

    /// Whether both nodes may have the addresses meanwhile.
    pub const fn may_have_two(self) -> bool {
        matches!(self, Self::Deaf)
    }

    /// Why connections may be lost in it; none if none may.
    pub fn may_lose(self) -> Option<&'static str> {
        if self == Self::BothOff {
            return Some("both nodes are down, and with them both tables");
        }
        if self == Self::Deaf {
            return Some("each node serves whom it reaches, and neither tells the other");
        }
        None
    }
}

/// Which node, by what it was when the episode began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// The active one.
    Active,
    /// The other one.
    Standby,
}

/// One of the links between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// The clients' network.
    Front,
    /// The real servers' network.
    Back,
    /// The heartbeat cable.
    Cable,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Front, Self::Back, Self::Cable];

    /// Name of the bridge and of the nodes' interfaces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
            Self::Cable => "cable",
        }
    }
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What it is.
    pub kind: Kind,
    /// Whom it meets, where it meets one node.
    pub who: Who,
    /// Which link it meets, where it meets one.
    pub link: Link,
    /// Which direction, where it meets one: what the node sends, else what it hears.
    pub from_node: bool,
    /// How far a clock jumps, in seconds.
    pub seconds: i64,
    /// From its beginning to its end.
    #[serde(serialize_with = "milliseconds")]
    pub lasts: Duration,
}

/// Row of the table a fault belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    kind: Kind,
    active: bool,
}

impl Row {
    /// What is broken.
    pub(super) const fn title(self) -> &'static str {
        self.kind.title()
    }

    /// Whose.
    pub(super) const fn victim(self) -> &'static str {
        match (self.kind.has_victim(), self.active) {
            (false, _) => "pair",
            (true, true) => "active node",
            (true, false) => "standby node",
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())?;
        if !self.kind.has_victim() {
            return Ok(());
        }
        write!(f, ", {}", self.victim())
    }
}

impl Fault {
    /// Its row.
    pub fn row(&self) -> Row {
        Row {
            kind: self.kind,
            active: self.who == Who::Active,
        }
    }

    fn draw(rng: &mut Rng, kind: Kind, who: Who) -> Self {
        // Nothing is forwarded on the cable.
        let links: &[Link] = if kind == Kind::Detached {
            &[Link::Front, Link::Back]
        } else {
            &Link::ALL
        };
        let jumps = [-315_360_000, -3600, -30, 30, 3600, 315_360_000];
        // Shorter and longer than the timeout; only deafness that is longer has an effect.
        let least = if kind == Kind::Deaf { 1000 } else { 100 };
        let milliseconds = least + rng.below(2900);
        Self {
            kind,
            who,
            link: pick(rng, links).unwrap_or(Link::Back),
            from_node: rng.below(2) == 0,
            seconds: pick(rng, &jumps).unwrap_or(30),
            lasts: Duration::from_millis(milliseconds),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.row())?;
        if self.kind.has_link() {
            write!(f, ", {}", self.link.name())?;
        }
        if self.kind == Kind::OneWay {
            f.write_str(if self.from_node { ", sent" } else { ", heard" })?;
        }
        if self.kind == Kind::ClockJump {
            write!(f, " by {} s", self.seconds)?;
        }
        write!(f, " ({} ms)", self.lasts.as_millis())
    }
}

/// Faults that belong together, and the calm before them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Episode {
    /// From 1.
    pub number: usize,
    /// For how long new connections begin before anything happens.
    #[serde(serialize_with = "milliseconds")]
    pub lead: Duration,
    /// What happens.
    pub first: Fault,
    /// What happens besides, and how long after the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<Second>,
}

/// A fault within another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Second {
    /// How long after the beginning of the first.
    #[serde(serialize_with = "milliseconds")]
    pub after: Duration,
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
}

impl Episode {
    /// Its faults.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        let second = self.second.as_ref().map(|second| &second.fault);
        [&self.first].into_iter().chain(second)
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        match &self.second {
            Some(second) => write!(
                f,
                " + after {} ms {}",
                second.after.as_millis(),
                second.fault
            ),
            None => Ok(()),
        }
    }
}

/// The endless schedule of a seed.
#[derive(Clone, Debug)]
pub struct Schedule {
    rng: Rng,
    /// Kinds the schedule is made of.
    kinds: Vec<Kind>,
    /// What is left of this round.
    bag: Vec<(Kind, Who)>,
    number: usize,
}

impl Schedule {
    /// That of a seed, of these kinds; of all if there are none.
    pub fn new(seed: u64, only: &[Kind]) -> Self {
        let kinds = if only.is_empty() {
            Kind::value_variants()
        } else {
            only
        };
        Self {
            rng: Rng::new(seed),
            kinds: kinds.to_vec(),
            bag: Vec::new(),
            number: 0,
        }
    }

    /// How many episodes make a round, in which each kind comes up for each node.
    pub fn round(&self) -> usize {
        let victims = |kind: &Kind| if kind.has_victim() { 2 } else { 1 };
        self.kinds.iter().map(victims).sum()
    }

    fn refill(&mut self) {
        for kind in &self.kinds {
            self.bag.push((*kind, Who::Active));
            if kind.has_victim() {
                self.bag.push((*kind, Who::Standby));
            }
        }
    }

    /// What may go with a fault: nothing that disables a node where it does so itself.
    fn companion(&mut self, first: Kind) -> Option<Kind> {
        let fits = |kind: &&Kind| {
            kind.overlaps() && **kind != first && !(first.disables() && kind.disables())
        };
        let fitting: Vec<_> = self.kinds.iter().filter(fits).copied().collect();
        if first.overlaps() && self.rng.below(3) == 0 {
            pick(&mut self.rng, &fitting)
        } else {
            None
        }
    }
}

impl Iterator for Schedule {
    type Item = Episode;

    fn next(&mut self) -> Option<Episode> {
        if self.bag.is_empty() {
            self.refill();
        }
        let drawn = usize::try_from(self.rng.below(self.bag.len() as u64)).ok()?;
        let (kind, who) = self.bag.swap_remove(drawn);
        let rng = &mut self.rng;
        let lead = Duration::from_millis(500 + rng.below(1000));
        let first = Fault::draw(rng, kind, who);
        let second = self.companion(kind).map(|kind| {
            let rng = &mut self.rng;
            let who = if rng.below(2) == 1 {
                Who::Standby
            } else {
                Who::Active
            };
            Second {
                after: Duration::from_millis(rng.below(first.lasts.as_millis() as u64)),
                fault: Fault::draw(rng, kind, who),
            }
        });
        self.number += 1;
        Some(Episode {
            number: self.number,
            lead,
            first,
            second,
        })
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> Option<T> {
    let at = usize::try_from(rng.below(from.len() as u64)).ok()?;
    from.get(at).copied()
}

fn milliseconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(seed: u64, episodes: usize) -> Vec<Episode> {
        Schedule::new(seed, &[]).take(episodes).collect()
    }

    #[test]
    fn a_seed_has_one_schedule() {
        assert_eq!(of(7, 300), of(7, 300));
        assert_ne!(of(7, 300), of(8, 300));
        assert_eq!(of(7, 300)[..20], of(7, 20));
    }

    /// A change of the schedule is a change of what a seed reproduces.
    #[test]
    fn what_the_first_seed_begins_with() {
        let shown: Vec<_> = of(1, 4).iter().map(ToString::to_string).collect();
        assert_eq!(shown, FIRST, "{shown:#?}");
    }

    const FIRST: [&str; 4] = [
        "XDP detached, standby node, back (690 ms) + after 10 ms wall clock jumps, active node by 3600 s (1337 ms)",
        "wall clock jumps, standby node by -315360000 s (2055 ms)",
        "bpffs unmounted, active node (2576 ms)",
        "agent replaced in place, standby node (236 ms)",
    ];

    #[test]
    fn a_round_has_everything_once() {
        let round = Schedule::new(1, &[]).round();
        for seed in 0..20 {
            let rows: BTreeSet<_> = of(seed, round).iter().map(|e| e.first.row()).collect();
            assert_eq!(rows.len(), round, "seed {seed}");
            let kinds: BTreeSet<_> = rows.iter().map(|row| row.kind).collect();
            assert_eq!(kinds.len(), Kind::value_variants().len());
        }
    }

    #[test]
    fn two_faults_leave_a_node_that_could_serve() {
        let mut overlapping = 0;
        for episode in of(3, 2000) {
            let Some(second) = &episode.second else {
                continue;
            };
            overlapping += 1;
            let kinds = [episode.first.kind, second.fault.kind];
            assert!(!kinds.iter().all(|kind| kind.disables()), "{episode}");
            assert!(kinds.iter().all(|kind| kind.overlaps()), "{episode}");
            assert!(second.after <= episode.first.lasts, "{episode}");
        }
        assert!((300..900).contains(&overlapping), "{overlapping}");
    }

    #[test]
    fn only_some_kinds() {
        let only = [Kind::Kill, Kind::Failover];
        let schedule = Schedule::new(1, &only);
        assert_eq!(schedule.round(), 3);
        let kinds: BTreeSet<_> = schedule.take(30).map(|e| e.first.kind).collect();
        assert_eq!(kinds, only.into());
    }
}
