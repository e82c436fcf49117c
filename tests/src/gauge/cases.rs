//! What is measured, and what is promised of it.

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use ha_common::conn::{Conn4, ConnKey4};
use ha_common::control::Gate;
use ha_common::gauge::{FLOOR, LOOKUP, vary};
use ha_common::reason::{Reason, Tally};
use ha_common::service::Forwarding;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Options;
use super::instrument::{Instrument, Traffic};
use super::scene::{self, Scene};
use crate::bench::{AGENT, Promise, Report, Row, say};
use crate::packet::Frame;

/// Clients of a large and of a very large population.
const MANY: u32 = 65_536;
const VERY_MANY: u32 = 500_000;
/// Connections completed in one run: their half-open entries fit, and so do those of all runs.
const HANDSHAKES: u32 = 50_000;
/// Packets of a run that must end before the lease does.
const HURRIED: u32 = 100_000;
/// How often such a run is tried.
const ATTEMPTS: usize = 50;

/// The bench as it goes.
struct Desk<'a> {
    options: &'a Options,
    report: &'a mut Report,
    instrument: Instrument,
    floor: ProgramFd,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Agent,
    Lookup,
}

impl Desk<'_> {
    fn wants(&self, case: &str) -> bool {
        let only = &self.options.only;
        only.is_empty() || only.iter().any(|text| case.contains(text.as_str()))
    }

    /// Runs a program on traffic, beside the floor; what a packet costs net.
    fn net(&mut self, program: &ProgramFd, traffic: &Traffic, packets: u32) -> Result<(f64, u32)> {
        let floor = self.instrument.run(&self.floor, traffic, packets)?;
        let run = self.instrument.run(program, traffic, packets)?;
        Ok(((run.ns - floor.ns).max(0.0), run.action))
    }

    fn note(&mut self, case: &'static str, who: Who, promise: Promise, ns: f64) {
        let row = Row {
            case,
            who: match who {
                Who::Agent => AGENT,
                Who::Lookup => "one hash lookup, no more",
            },
            what: "net",
            unit: "ns",
            promise,
        };
        self.report.add(&row, ns, 0.0);
    }

    /// A packet of the same kind over and over, all of which must come to this end.
    fn steady(
        &mut self,
        scene: &Scene,
        case: &'static str,
        promise: Promise,
        traffic: &Traffic,
        wanted: Reason,
    ) -> Result<()> {
        if !self.wants(case) {
            return Ok(());
        }
        let program = scene.program()?;
        let packets = self.options.packets();
        for _ in 0..self.options.runs() {
            let before = scene.count(wanted)?;
            let (ns, _) = self.net(&program, traffic, packets)?;
            let ended = scene.count(wanted)? - before;
            ensure!(
                ended == u64::from(packets),
                "{case}: {ended} of {packets} packets came to {wanted:?}"
            );
            self.note(case, Who::Agent, promise, ns);
        }
        Ok(())
    }

    /// The lookup program on the same traffic.
    fn lookup(&mut self, case: &'static str, traffic: &Traffic) -> Result<()> {
        if !self.wants(case) {
            return Ok(());
        }
        let program = self.instrument.own(LOOKUP)?;
        for _ in 0..self.options.runs() {
            let (ns, action) = self.net(&program, traffic, self.options.packets())?;
            ensure!(action == 2, "{case}: a packet was not found");
            self.note(case, Who::Lookup, Promise::Nothing, ns);
        }
        Ok(())
    }
}

/// Measures everything.
pub(super) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    stay_on_one_cpu()?;
    let instrument = Instrument::load()?;
    let floor = instrument.own(FLOOR)?;
    let mut desk = Desk {
        options,
        report,
        instrument,
        floor,
    };
    say("one flow");
    let mut scene = Scene::new()?;
    passing(&mut desk, &scene)?;
    scene.connect(&mut desk.instrument, 1)?;
    hot(&mut desk, &mut scene)?;
    beginnings(&mut desk, &mut scene)?;
    drop(scene);
    say("other ways");
    ways(&mut desk)?;
    say("new connections");
    promotions(&mut desk)?;
    say("64k flows");
    population(&mut desk, MANY, MANY_CASES)?;
    say("500k flows");
    population(&mut desk, VERY_MANY, VERY_MANY_CASES)
}

/// Keeps this thread, and those it starts, on the last CPU.
pub(super) fn stay_on_one_cpu() -> Result<()> {
    let mut cpu = CpuSet::new();
    cpu.set(std::thread::available_parallelism()?.get() - 1)?;
    sched_setaffinity(Pid::from_raw(0), &cpu).context("cannot stay on one CPU")
}

/// What is not forwarded.
fn passing(desk: &mut Desk<'_>, scene: &Scene) -> Result<()> {
    use Promise::MedianAtMost;
    let foreign = scene::foreign();
    desk.steady(
        scene,
        "not ours",
        MedianAtMost(20.0),
        &Traffic::one(foreign.clone()),
        Reason::NotOurs,
    )?;
    desk.steady(
        scene,
        "not ours, 500k random",
        Promise::Nothing,
        &Traffic::random(foreign, vary::SOURCE4, VERY_MANY),
        Reason::NotOurs,
    )?;
    desk.steady(
        scene,
        "CARP exit",
        MedianAtMost(8.0),
        &Traffic::one(scene::foreign_advert()),
        Reason::CarpForeign,
    )?;
    desk.steady(
        scene,
        "CARP forged",
        Promise::Nothing,
        &Traffic::one(scene::forged_advert()),
        Reason::CarpBadTag,
    )
}

/// One established flow.
fn hot(desk: &mut Desk<'_>, scene: &mut Scene) -> Result<()> {
    let promise = Promise::MedianAtMost(45.0);
    let forward = Traffic::one(scene::forward());
    let reverse = Traffic::one(scene::reverse());
    desk.instrument.know([established(0)])?;
    desk.lookup("one lookup, hot", &forward)?;
    desk.steady(
        scene,
        "established, hot",
        promise,
        &forward,
        Reason::ForwardTransmit,
    )?;
    desk.steady(
        scene,
        "established, hot, return",
        promise,
        &reverse,
        Reason::ReverseTransmit,
    )?;
    desk.steady(
        scene,
        "established, hot, UDP",
        promise,
        &Traffic::one(scene::datagram()),
        Reason::ForwardTransmit,
    )?;
    for (case, traffic) in [
        ("established, hot, lease ending", &forward),
        ("established, hot, return, lease ending", &reverse),
    ] {
        if !desk.wants(case) {
            continue;
        }
        let program = scene.program()?;
        let packets = HURRIED.min(desk.options.packets());
        for _ in 0..desk.options.runs() {
            let floor = desk.instrument.run(&desk.floor, traffic, packets)?;
            // A machine that stalls lets the lease end first.
            let run = (0..ATTEMPTS).find_map(|_| {
                let run = scene
                    .lease_is_ending()
                    .and_then(|()| desk.instrument.run(&program, traffic, packets));
                run.map(|run| (run.action == 3).then_some(run)).transpose()
            });
            let run = run.with_context(|| format!("{case}: the lease always ended first"))??;
            desk.note(case, Who::Agent, Promise::Nothing, run.ns - floor.ns);
        }
        scene.lease(Gate::ALWAYS)?;
    }
    if let (Some(lookup), Some(ours)) = (
        desk.report.median("one lookup, hot"),
        desk.report.median("established, hot"),
    ) && lookup > 0.0
    {
        let row = Row {
            case: "established, hot",
            who: AGENT,
            what: "beside one lookup",
            unit: "times",
            promise: Promise::MedianAtMost(2.5),
        };
        desk.report.add(&row, ours / lookup, 0.0);
    }
    Ok(())
}

/// One established flow, over IPv6 and with the other forwarding methods. The figure of a tunnel includes
/// what it takes to undo the encapsulation.
fn ways(desk: &mut Desk<'_>) -> Result<()> {
    for way in WAYS {
        if !desk.wants(way.forward) && !way.reverse.is_some_and(|case| desk.wants(case)) {
            continue;
        }
        let scene = if way.ipv6 {
            Scene::with_ipv6()?
        } else {
            Scene::with_method(way.method)?
        };
        let program = scene.program()?;
        let [request, ..] = scene::conversation(scene::first_client());
        let mut meet = |frame: &Frame| {
            let frame = if way.ipv6 { frame.v6() } else { frame.clone() };
            let traffic = Traffic::one(frame.build());
            desk.instrument.run(&program, &traffic, 1).map(|_| traffic)
        };
        meet(&request)?;
        let known_as = match way.method {
            Forwarding::FullNat => scene.stand_in()?,
            Forwarding::Nat | Forwarding::Dsr | Forwarding::Tunnel => scene::first_client(),
        };
        let [_, answer, completion, forward, reverse] = scene::conversation(known_as);
        if way.reverse.is_some() {
            meet(&answer)?;
        }
        meet(&completion)?;
        let forward = meet(&forward)?;
        let promise = way.limit.map_or(Promise::Nothing, Promise::MedianAtMost);
        let sent = Reason::ForwardTransmit;
        if let Some(case) = way.reverse {
            let reverse = meet(&reverse)?;
            desk.steady(&scene, way.forward, promise, &forward, sent)?;
            desk.steady(&scene, case, promise, &reverse, Reason::ReverseTransmit)?;
        } else {
            desk.steady(&scene, way.forward, promise, &forward, sent)?;
        }
        ensure!(
            scene.plane.tally(Tally::Established)? == 1,
            "{}: the connection was not established",
            way.forward
        );
    }
    Ok(())
}

/// A way to forward.
struct Way {
    forward: &'static str,
    /// Where answers come back this way.
    reverse: Option<&'static str>,
    ipv6: bool,
    method: Forwarding,
    limit: Option<f64>,
}

const WAYS: [Way; 4] = [
    Way {
        forward: "IPv6 established, hot",
        reverse: Some("IPv6 established, hot, return"),
        ipv6: true,
        method: Forwarding::Nat,
        limit: Some(55.0),
    },
    Way {
        forward: "established, hot, dsr",
        reverse: None,
        ipv6: false,
        method: Forwarding::Dsr,
        limit: Some(40.0),
    },
    Way {
        forward: "established, hot, tunnel",
        reverse: None,
        ipv6: false,
        method: Forwarding::Tunnel,
        limit: Some(50.0),
    },
    Way {
        forward: "established, hot, full_nat",
        reverse: Some("established, hot, full_nat, return"),
        ipv6: false,
        method: Forwarding::FullNat,
        limit: None,
    },
];

/// Flows that begin.
fn beginnings(desk: &mut Desk<'_>, scene: &mut Scene) -> Result<()> {
    use Promise::MedianAtMost;
    let all = u32::try_from(desk.options.runs() + 1)?.saturating_mul(desk.options.packets());
    desk.steady(
        scene,
        "SYN, new flow",
        MedianAtMost(650.0),
        &scene::newcomers(all),
        Reason::ForwardTransmit,
    )?;
    desk.steady(
        scene,
        "SYN, repeated",
        Promise::Nothing,
        &Traffic::one(scene::request()),
        Reason::ForwardTransmit,
    )?;
    scene.configure(true, false)?;
    desk.steady(
        scene,
        "flood path",
        MedianAtMost(110.0),
        &scene::flood(all),
        Reason::ForwardTransmit,
    )?;
    desk.steady(
        scene,
        "flood path, ACK",
        MedianAtMost(110.0),
        &scene::strangers(all),
        Reason::ForwardTransmit,
    )?;
    scene.configure(false, false)
}

/// Handshakes that complete, in a table that was empty before each run; with the partner told of it.
fn promotions(desk: &mut Desk<'_>) -> Result<()> {
    let case = "promotion, both entries";
    if !desk.wants(case) {
        return Ok(());
    }
    let clients = HANDSHAKES.min(desk.options.packets());
    for events in [false, true] {
        for _ in 0..desk.options.runs() {
            let mut scene = Scene::new()?;
            scene.configure(false, events)?;
            let program = scene.program()?;
            for traffic in [scene::requests(clients), scene::answers(clients)] {
                desk.instrument.run(&program, &traffic, clients)?;
            }
            let (ns, _) = desk.net(&program, &scene::completions(clients), clients)?;
            let made = scene.plane.tally(Tally::Established)?;
            ensure!(
                made == u64::from(clients),
                "{case}: only {made} connections"
            );
            let promise = Promise::MedianAtMost(900.0);
            if events {
                desk.note("promotion, replicated", Who::Agent, promise, ns);
            } else {
                desk.note(case, Who::Agent, promise, ns);
            }
        }
    }
    Ok(())
}

/// A case of many flows: its name with one lookup, forward and return, and the promise.
type Population = (&'static str, &'static str, &'static str, f64);

const MANY_CASES: Population = (
    "one lookup, 64k random",
    "established, 64k random",
    "established, 64k random, return",
    150.0,
);
const VERY_MANY_CASES: Population = (
    "one lookup, 500k random",
    "established, 500k random",
    "established, 500k random, return",
    320.0,
);

fn population(
    desk: &mut Desk<'_>,
    flows: u32,
    (lookup, forward, reverse, limit): Population,
) -> Result<()> {
    if ![lookup, forward, reverse]
        .into_iter()
        .any(|case| desk.wants(case))
    {
        return Ok(());
    }
    let flows = flows.min(desk.options.packets());
    let mut scene = Scene::new()?;
    scene.connect(&mut desk.instrument, flows)?;
    let to_shared = Traffic::random(scene::forward(), vary::SOURCE4, flows);
    let to_clients = Traffic::random(scene::reverse(), vary::DESTINATION4, flows);
    desk.instrument.know((0..flows).map(established))?;
    desk.lookup(lookup, &to_shared)?;
    let promise = Promise::MedianAtMost(limit);
    desk.steady(
        &scene,
        forward,
        promise,
        &to_shared,
        Reason::ForwardTransmit,
    )?;
    desk.steady(
        &scene,
        reverse,
        promise,
        &to_clients,
        Reason::ReverseTransmit,
    )
}

/// An entry for the lookup program.
fn established(client: u32) -> (ConnKey4, Conn4) {
    let key = scene::forward_key(client);
    let conn = Conn4 {
        state: 1,
        ..Conn4::default()
    };
    (key, conn)
}
