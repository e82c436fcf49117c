//! What goes wrong, and when.

use ha_agent::proto::carp::Command;
use ha_agent::proto::rng::Rng;

use super::params::pick;

/// One thing that goes wrong, or right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power fails: agent and kernel are gone, the table too.
    PowerOff(usize),
    /// The agent dies; the kernel goes on with the gate it has.
    KillAgent(usize),
    /// Power returns if it was off, and the agent starts.
    Start(usize),
    /// The agent stops running; the kernel receives for it.
    Freeze(usize),
    /// The agent runs again and finds everything at once.
    Thaw(usize),
    /// The whole machine stops; what arrives is lost.
    Pause(usize),
    /// It runs again.
    Resume(usize),
    /// Packets from a node vanish on a link.
    Cut {
        /// Sender.
        from: usize,
        /// Link.
        link: usize,
    },
    /// They arrive again.
    Mend {
        /// Sender.
        from: usize,
        /// Link.
        link: usize,
    },
    /// A node's carrier on a link.
    Carrier {
        /// Node.
        node: usize,
        /// Link.
        link: usize,
        /// Whether it is there.
        up: bool,
    },
    /// A node's gateway on a link.
    Gateway {
        /// Node.
        node: usize,
        /// Link.
        link: usize,
        /// Whether it answers.
        reachable: bool,
    },
    /// The operator.
    Command(usize, Command),
    /// A node's timers fire up to this many nanoseconds late.
    Slow(usize, u64),
    /// They are as punctual as ever.
    Brisk(usize),
    /// Power returns and the agent starts, pacified.
    StartPacified(usize),
    /// The program that replaces a node's agent begins.
    Replace(usize),
    /// A node is told of a shorter interval and timeout, or of the usual ones.
    Retime {
        /// Node.
        node: usize,
        /// Shorter.
        fast: bool,
    },
    /// A node takes the next step in the replacement of the keys, unless its partner has yet to follow.
    Rekey(usize),
    /// The program that should replace a node's agent ended at once; another one starts.
    Restart(usize),
    /// A switch drops what is sent to the group on a link, both ways, or passes it again.
    Multicast {
        /// Link.
        link: usize,
        /// Whether it passes.
        passes: bool,
    },
    /// A node's disk takes no writes.
    DiskFails(usize),
    /// It does again.
    DiskWorks(usize),
    /// An attacker sends this many recorded packets, anywhere.
    Replay(u8),
}

impl Fault {
    /// Its kind, for the summary.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PowerOff(_) => "power off",
            Self::KillAgent(_) => "agent killed",
            Self::Start(_) => "start",
            Self::Freeze(_) => "agent frozen",
            Self::Thaw(_) => "agent thawed",
            Self::Pause(_) => "machine paused",
            Self::Resume(_) => "machine resumed",
            Self::Cut { .. } => "direction cut",
            Self::Mend { .. } => "direction mended",
            Self::Carrier { up: false, .. } => "carrier lost",
            Self::Carrier { up: true, .. } => "carrier back",
            Self::Gateway {
                reachable: false, ..
            } => "gateway lost",
            Self::Gateway {
                reachable: true, ..
            } => "gateway back",
            Self::Command(_, Command::Failover) => "failover",
            Self::Command(_, Command::Stop) => "stop",
            Self::Command(_, Command::Maintenance(true)) => "maintenance on",
            Self::Command(_, Command::Maintenance(false)) => "maintenance off",
            Self::Command(_, Command::MaintenanceAnyway) => "maintenance forced",
            Self::Command(_, Command::Resume) => "resume",
            Self::Command(_, Command::Reexec) => "reexec",
            Self::Slow(..) => "timers late",
            Self::Brisk(_) => "timers punctual",
            Self::StartPacified(_) => "start pacified",
            Self::Replace(_) => "replaced",
            Self::Retime { fast: true, .. } => "shorter timeout",
            Self::Retime { fast: false, .. } => "longer timeout",
            Self::Rekey(_) => "next key",
            Self::Multicast { passes: false, .. } => "multicast blocked",
            Self::Multicast { passes: true, .. } => "multicast passes",
            Self::Restart(_) => "replacement died",
            Self::DiskFails(_) => "disk fails",
            Self::DiskWorks(_) => "disk works",
            Self::Replay(_) => "replay",
        }
    }
}

/// Faults that belong together: what begins, and what ends it.
pub type Plan = Vec<(u64, Fault)>;

/// How a run is tormented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// One thing upon another.
    Rough,
    /// One thing after the other, each of which may take effect.
    Gentle,
    /// The same with nothing but what must leave the roles as they are, or lasts only for a replacement.
    Quiet,
}

impl Temper {
    /// That of a seed's run.
    pub const fn of(seed: u64) -> Self {
        match seed % 4 {
            0 => Self::Quiet,
            2 => Self::Gentle,
            _ => Self::Rough,
        }
    }
}

/// Kinds of mishap, by what [`mishap`] makes of them.
const KINDS: u64 = 37;
/// Those of a quiet run: a direction of one link, replacements, timing, keys, multicast.
const QUIET: [u64; 12] = [8, 8, 24, 25, 26, 30, 31, 32, 33, 34, 35, 36];

/// Draws a mishap: faults with delays from now, the last of which ends it. In any but a rough run more of them
/// outlast the timeout.
pub fn mishap(rng: &mut Rng, links: usize, timeout: u64, temper: Temper) -> Plan {
    let patient = temper != Temper::Rough;
    let node = rng.below(2) as usize;
    let link = rng.below(links as u64) as usize;
    let lasting = 1 + match rng.below(4) {
        _ if patient && rng.below(2) == 0 => timeout + rng.below(timeout * 6),
        0 => rng.below(timeout / 4),
        1 => rng.below(timeout),
        2 => timeout / 2 + rng.below(timeout),
        _ => rng.below(timeout * 6),
    };
    let both = |begin: Fault, end: Fault| vec![(0, begin), (lasting, end)];
    let kind = match temper {
        Temper::Quiet => pick(rng, &QUIET),
        Temper::Rough | Temper::Gentle => rng.below(KINDS),
    };
    match kind {
        0 | 1 => both(Fault::PowerOff(node), Fault::Start(node)),
        2 | 3 => both(Fault::KillAgent(node), Fault::Start(node)),
        4 | 5 => both(Fault::Freeze(node), Fault::Thaw(node)),
        6 => both(Fault::Pause(node), Fault::Resume(node)),
        7 => partition(&directions(links, |from, _| from == node), lasting),
        8 => partition(&[(node, link)], lasting),
        9 => partition(&directions(links, |_, _| true), lasting),
        10 | 11 => {
            // Any subset, and it heals piece by piece.
            let cut = directions(links, |_, _| rng.below(2) == 0);
            let mut plan = Plan::new();
            for (from, link) in cut {
                plan.push((rng.below(timeout / 4), Fault::Cut { from, link }));
                let mended = lasting + timeout / 4 + rng.below(timeout);
                plan.push((mended, Fault::Mend { from, link }));
            }
            plan
        }
        12 => dead_port(rng, (node, link), timeout, lasting),
        13 => pulled_cable(rng, (node, link), timeout, lasting),
        14 => {
            // A bad plug.
            let mut plan = Plan::new();
            let mut at = 0;
            for _ in 0..2 + rng.below(6) {
                for up in [false, true] {
                    plan.push((at, Fault::Carrier { node, link, up }));
                    at += 1 + rng.below(timeout);
                }
            }
            plan
        }
        15 => {
            let gateway = |reachable| Fault::Gateway {
                node,
                link,
                reachable,
            };
            both(gateway(false), gateway(true))
        }
        16 => lost_gateway(rng, (node, link), timeout, lasting),
        17 | 18 => vec![(0, Fault::Command(node, Command::Failover))],
        19 => {
            let entry = if rng.below(2) == 0 {
                Command::Maintenance(true)
            } else {
                Command::MaintenanceAnyway
            };
            both(
                Fault::Command(node, entry),
                Fault::Command(node, Command::Maintenance(false)),
            )
        }
        20 => both(Fault::Command(node, Command::Stop), Fault::Start(node)),
        21 => both(Fault::DiskFails(node), Fault::DiskWorks(node)),
        22 => {
            // Both freeze, as two guests of one host do.
            let shorter = rng.below(lasting);
            vec![
                (0, Fault::Freeze(0)),
                (0, Fault::Freeze(1)),
                (shorter, Fault::Thaw(node)),
                (lasting, Fault::Thaw(1 - node)),
            ]
        }
        23 => both(
            Fault::Slow(node, rng.below(timeout / 2)),
            Fault::Brisk(node),
        ),
        24..=27 => vec![(0, Fault::Command(node, Command::Reexec))],
        30 | 31 => {
            let retime = |node, fast| Fault::Retime { node, fast };
            let later = rng.below(timeout * 4);
            vec![
                (0, retime(node, true)),
                (later, retime(1 - node, true)),
                (later + lasting, retime(1 - node, false)),
                (
                    later + lasting + rng.below(timeout * 4),
                    retime(node, false),
                ),
            ]
        }
        34 => both(
            Fault::Multicast {
                link,
                passes: false,
            },
            Fault::Multicast { link, passes: true },
        ),
        35 | 36 => {
            let all = |passes| (0..links).map(move |link| Fault::Multicast { link, passes });
            let begin = all(false).map(|fault| (0, fault));
            begin
                .chain(all(true).map(|fault| (lasting, fault)))
                .collect()
        }
        32 => {
            let step = 1 + rng.below(timeout * 3);
            (0..6)
                .map(|n: u64| (n * step, Fault::Rekey((n % 2) as usize)))
                .collect()
        }
        33 => vec![
            (0, Fault::Rekey(node)),
            (rng.below(timeout / 4), Fault::Rekey(1 - node)),
        ],
        28 => vec![
            (0, Fault::PowerOff(node)),
            (lasting / 2, Fault::StartPacified(node)),
            (
                lasting + rng.below(timeout * 3),
                Fault::Command(node, Command::Resume),
            ),
        ],
        _ => vec![(0, Fault::Replay(1 + rng.below(40) as u8))],
    }
}

/// Directions of links, by sender and link.
fn directions(links: usize, mut chosen: impl FnMut(usize, usize) -> bool) -> Vec<(usize, usize)> {
    (0..links)
        .flat_map(|link| [(0, link), (1, link)])
        .filter(|(from, link)| chosen(*from, *link))
        .collect()
}

/// These directions are cut and mended together.
fn partition(cut: &[(usize, usize)], lasting: u64) -> Plan {
    let begin = cut.iter().map(|(from, link)| {
        (
            0,
            Fault::Cut {
                from: *from,
                link: *link,
            },
        )
    });
    let end = cut.iter().map(|(from, link)| {
        (
            lasting,
            Fault::Mend {
                from: *from,
                link: *link,
            },
        )
    });
    begin.chain(end).collect()
}

/// A switch port dies with the carrier up: that node loses the gateway a moment later.
fn dead_port(rng: &mut Rng, (node, link): (usize, usize), timeout: u64, lasting: u64) -> Plan {
    let gateway = |reachable| Fault::Gateway {
        node,
        link,
        reachable,
    };
    let late = rng.below(timeout * 2);
    let mut plan = partition(&[(0, link), (1, link)], late + lasting);
    plan.push((late, gateway(false)));
    plan.push((late + lasting + rng.below(timeout), gateway(true)));
    plan
}

/// A cable is pulled, and the node notices.
fn pulled_cable(rng: &mut Rng, (node, link): (usize, usize), timeout: u64, lasting: u64) -> Plan {
    let carrier = |up| Fault::Carrier { node, link, up };
    let mut plan = partition(&[(0, link), (1, link)], lasting + timeout / 10);
    plan.push((rng.below(timeout / 10), carrier(false)));
    plan.push((lasting + timeout / 5, carrier(true)));
    plan
}

/// The gateway itself fails: both lose it.
fn lost_gateway(rng: &mut Rng, (node, link): (usize, usize), timeout: u64, lasting: u64) -> Plan {
    let gateway = |node, reachable| Fault::Gateway {
        node,
        link,
        reachable,
    };
    vec![
        (0, gateway(node, false)),
        (rng.below(timeout), gateway(1 - node, false)),
        (timeout + lasting, gateway(node, true)),
        (
            timeout + lasting + rng.below(timeout),
            gateway(1 - node, true),
        ),
    ]
}
