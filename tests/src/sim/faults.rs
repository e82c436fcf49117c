//! What goes wrong, and when.

use ha_agent::proto::carp::Command;
use ha_agent::proto::rng::Rng;

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
            Self::DiskFails(_) => "disk fails",
            Self::DiskWorks(_) => "disk works",
            Self::Replay(_) => "replay",
        }
    }
}

/// Faults that belong together: what begins, and what ends it.
pub type Plan = Vec<(u64, Fault)>;

/// Draws a mishap: faults with delays from now, the last of which ends it.
pub fn mishap(rng: &mut Rng, links: usize, timeout: u64) -> Plan {
    let node = rng.below(2) as usize;
    let link = rng.below(links as u64) as usize;
    let lasting = match rng.below(4) {
        0 => rng.below(timeout / 4),
        1 => rng.below(timeout),
        2 => timeout / 2 + rng.below(timeout),
        _ => rng.below(timeout * 6),
    } + 1;
    let both = |begin: Fault, end: Fault| vec![(0, begin), (lasting, end)];
    match rng.below(20) {
        0 | 1 => both(Fault::PowerOff(node), Fault::Start(node)),
        2 | 3 => both(Fault::KillAgent(node), Fault::Start(node)),
        4 | 5 => both(Fault::Freeze(node), Fault::Thaw(node)),
        6 => both(Fault::Pause(node), Fault::Resume(node)),
        7 => {
            // One direction of every link.
            let all = |fault: fn(usize, usize) -> Fault, at: u64| {
                (0..links).map(move |link| (at, fault(node, link)))
            };
            all(|from, link| Fault::Cut { from, link }, 0)
                .chain(all(|from, link| Fault::Mend { from, link }, lasting))
                .collect()
        }
        8 => both(
            Fault::Cut { from: node, link },
            Fault::Mend { from: node, link },
        ),
        9 => {
            // The pair is split.
            let mut plan = Plan::new();
            for link in 0..links {
                for from in 0..2 {
                    plan.push((0, Fault::Cut { from, link }));
                    plan.push((lasting, Fault::Mend { from, link }));
                }
            }
            plan
        }
        10 => {
            // A switch port dies with the carrier up: that node loses the gateway a moment later.
            let late = rng.below(timeout * 2);
            vec![
                (0, Fault::Cut { from: 0, link }),
                (0, Fault::Cut { from: 1, link }),
                (
                    late,
                    Fault::Gateway {
                        node,
                        link,
                        reachable: false,
                    },
                ),
                (late + lasting, Fault::Mend { from: 0, link }),
                (late + lasting, Fault::Mend { from: 1, link }),
                (
                    late + lasting + rng.below(timeout),
                    Fault::Gateway {
                        node,
                        link,
                        reachable: true,
                    },
                ),
            ]
        }
        11 => {
            // A cable is pulled.
            let up = |up| Fault::Carrier { node, link, up };
            vec![
                (0, Fault::Cut { from: 0, link }),
                (0, Fault::Cut { from: 1, link }),
                (rng.below(timeout / 10), up(false)),
                (lasting + timeout / 10, Fault::Mend { from: 0, link }),
                (lasting + timeout / 10, Fault::Mend { from: 1, link }),
                (lasting + timeout / 5, up(true)),
            ]
        }
        12 | 13 => vec![(0, Fault::Command(node, Command::Failover))],
        14 => both(
            Fault::Command(node, Command::Maintenance(true)),
            Fault::Command(node, Command::Maintenance(false)),
        ),
        15 => both(Fault::Command(node, Command::Stop), Fault::Start(node)),
        16 => both(Fault::DiskFails(node), Fault::DiskWorks(node)),
        17 => {
            // The gateway itself fails: both lose it.
            let gateway = |node, reachable| Fault::Gateway {
                node,
                link,
                reachable,
            };
            vec![
                (0, gateway(0, false)),
                (rng.below(timeout), gateway(1, false)),
                (timeout + lasting, gateway(0, true)),
                (timeout + lasting + rng.below(timeout), gateway(1, true)),
            ]
        }
        18 => {
            // Both freeze, as two guests of one host do.
            let shorter = rng.below(lasting);
            vec![
                (0, Fault::Freeze(0)),
                (0, Fault::Freeze(1)),
                (shorter, Fault::Thaw(node)),
                (lasting, Fault::Thaw(1 - node)),
            ]
        }
        _ => vec![(0, Fault::Replay(1 + rng.below(40) as u8))],
    }
}
