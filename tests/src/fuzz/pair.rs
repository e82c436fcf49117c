//! The simulated pair, with every fault and every pause chosen by the input instead of by chance. The simulator itself
//! checks after each step what must never happen, and what must happen in time.

use std::time::Duration;

use ha_agent::proto::carp::Command;

use super::Seed;
use super::wishes::Wishes;
use crate::sim::faults::Fault;
use crate::sim::{Params, Sabotage, World};

/// Faults of one input.
const FAULTS: usize = 48;
/// Pairs that differ in timing, links and weather.
const PAIRS: u16 = 1 << 10;
/// A pause is so many times a sixteenth of the timeout.
const PAUSE_MAX: u8 = 96;
/// Kinds of fault.
const KINDS: u8 = 26;

/// Plays an input.
pub fn play(input: &[u8]) {
    let mut wishes = Wishes::new(input);
    let params = Params::random((wishes.word() % PAIRS).into(), Sabotage::None);
    let (links, timeout) = (params.links.len(), params.timeout);
    let mut world = World::new(params);
    world.run(timeout * 3);
    for _ in 0..FAULTS {
        if wishes.is_over() {
            break;
        }
        let fault = fault(&mut wishes, links as u8, timeout);
        world.inject(fault);
        world.run(timeout / 16 * u32::from(wishes.below(PAUSE_MAX)));
    }
    for fault in healing(links) {
        world.inject(fault);
    }
    // The simulator demands calm, equal tables and a ready standby long before.
    world.run(timeout * 40 + Duration::from_secs(5));
}

fn fault(wishes: &mut Wishes<'_>, links: u8, timeout: Duration) -> Fault {
    let kind = wishes.below(KINDS);
    let node = usize::from(wishes.below(2));
    let mut link = || usize::from(wishes.below(links));
    match kind {
        0 => Fault::PowerOff(node),
        1 => Fault::KillAgent(node),
        2 | 3 => Fault::Start(node),
        4 => Fault::Freeze(node),
        5 => Fault::Thaw(node),
        6 => Fault::Pause(node),
        7 => Fault::Resume(node),
        8 => Fault::Cut {
            from: node,
            link: link(),
        },
        9 => Fault::Mend {
            from: node,
            link: link(),
        },
        10 | 11 => Fault::Carrier {
            node,
            link: link(),
            up: kind == 11,
        },
        12 | 13 => Fault::Gateway {
            node,
            link: link(),
            reachable: kind == 13,
        },
        14 | 15 => Fault::Multicast {
            link: link(),
            passes: kind == 15,
        },
        16 => Fault::Command(node, Command::Failover),
        17 => Fault::Command(node, Command::MaintenanceAnyway),
        18 => Fault::Command(node, Command::Resume),
        19 => Fault::Command(node, Command::Reexec),
        20 => Fault::DiskFails(node),
        21 => Fault::DiskWorks(node),
        22 => Fault::Slow(
            node,
            timeout.as_nanos() as u64 / 256 * u64::from(wishes.below(128)),
        ),
        23 => Fault::Brisk(node),
        24 => Fault::Rekey(node),
        _ => Fault::Replay(1 + wishes.below(40)),
    }
}

/// The end of everything that can be wrong.
fn healing(links: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    for link in 0..links {
        faults.push(Fault::Multicast { link, passes: true });
        for node in 0..2 {
            faults.push(Fault::Mend { from: node, link });
            faults.push(Fault::Carrier {
                node,
                link,
                up: true,
            });
            faults.push(Fault::Gateway {
                node,
                link,
                reachable: true,
            });
        }
    }
    for node in 0..2 {
        faults.push(Fault::Resume(node));
        faults.push(Fault::Thaw(node));
        faults.push(Fault::Brisk(node));
        faults.push(Fault::DiskWorks(node));
        faults.push(Fault::Restart(node));
        faults.push(Fault::Start(node));
        faults.push(Fault::Command(node, Command::Resume));
    }
    faults
}

/// One fault and its end, for each kind, in pairs that differ.
pub fn seeds() -> Vec<Seed> {
    let begin_and_end = [
        ("power", [0, 2]),
        ("kill", [1, 2]),
        ("freeze", [4, 5]),
        ("pause", [6, 7]),
        ("cut", [8, 9]),
        ("carrier", [10, 11]),
        ("gateway", [12, 13]),
        ("multicast", [14, 15]),
        ("failover", [16, 16]),
        ("maintenance", [17, 18]),
        ("reexec", [19, 19]),
        ("disk", [20, 21]),
        ("slow", [22, 23]),
        ("rekey", [24, 24]),
        ("replay", [25, 25]),
    ];
    let seeds = begin_and_end.into_iter().zip(0u8..);
    seeds
        .map(|((name, [begin, end]), number)| {
            // Where a kind has a link or a measure, a byte more.
            let argument: &[u8] = match begin {
                8..=15 | 22 | 25 => &[0],
                _ => &[],
            };
            let mut input = vec![0, number];
            for (kind, pause) in [(begin, 40), (end, 64)] {
                input.extend([kind, 0]);
                input.extend(argument.iter().filter(|_| kind != 23));
                input.push(pause);
            }
            (name.to_owned(), input)
        })
        .collect()
}
