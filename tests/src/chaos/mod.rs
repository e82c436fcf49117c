//! `cargo xtask chaos`: the real pair under traffic, broken again and again by a seeded schedule, and watched from
//! outside: by what is on the wire and by what its clients get, never by the agents' word.
//!
//! An episode is a fault, sometimes with a second one in it, and the time until the pair is whole again. In it these
//! must hold:
//!
//! * Never two nodes that claim the addresses or let connections in, except in total mutual deafness.
//! * No wrong byte reaches a client, and no frame with a wrong checksum is forwarded.
//! * Connections that were there before survive, except where both nodes were down or deaf.
//! * Afterwards exactly one node answers for both addresses, new connections come about, and the standby's table is
//!   the active node's.

mod evidence;
mod figures;
mod options;
mod report;
mod scene;
mod schedule;
mod strike;

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use options::{Command, Options};
pub use report::{Count, Outcome, Report};
pub use schedule::{Episode, Fault, Kind, Link, Row, Schedule, Second, Who};

use crate::bench;
use crate::clock::{now_ns, patient, sleep_until};
use crate::pcap;
use crate::rig::capture::Frame;
use crate::traffic::crowd::{Fates, Manner};
use evidence::{Overlap, Sign};
use scene::{Scene, Settled};

/// New connections a second around a fault.
const RATE: u64 = 200;
/// How long the last of them may take once the pair is whole: a retransmission or two.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// A connection that was not heard for so long after the pair was whole is lost; longer by as much as the faults
/// lasted, since its retransmissions come ever more rarely.
const HEARD_WITHIN_NS: u64 = 5_000_000_000;
/// A frame may be stamped so much later than it was decided upon, on a machine that is busy but does not stall.
const LATE: Duration = Duration::from_millis(10);
/// In a hand-over the old node goes on with established connections for so long.
const HAND_OVER: Duration = Duration::from_millis(50);
/// How long two nodes that hear each other again may take to become one.
const AGREE_NS: u64 = 1_000_000_000;

/// Breaks a pair as the options say, shows and writes the result; whether everything held.
pub fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| now_ns() % 1_000_000);
    let schedule = Schedule::new(seed, &options.only);
    if options.dry_run {
        let count = options.faults.unwrap_or_else(|| schedule.round());
        for episode in schedule.take(count) {
            writeln!(std::io::stdout(), "{:4}  {episode}", episode.number)?;
        }
        return Ok(true);
    }
    let report = torment(options, seed)?;
    let path = options.output.join(format!("chaos-{seed}.json"));
    report.write(&path)?;
    let figures = figures::figures(&report);
    figures.write(bench::typed("chaos"), report.seconds, &options.figures)?;
    let mut out = std::io::stdout();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        write!(out, "{}", report.table(colours))?;
    }
    for path in [&path, &options.figures] {
        say(&format!("written to {}", path.display()));
    }
    Ok(report.passed())
}

/// Breaks a pair by the schedule of a seed.
pub fn torment(options: &Options, seed: u64) -> Result<Report> {
    let began = now_ns();
    let dir = options.output.join(format!("seed-{seed}"));
    say(&format!(
        "seed {seed}: building the network and starting the pair"
    ));
    let mut run = Run {
        scene: Scene::start(options, &dir)?,
        connections: options.connections,
        window_ns: options.timeout * 1_000_000 / 2,
        young: Duration::from_millis(options.young),
        dir,
        began,
        report: Report {
            schema_version: 1,
            seed,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            connections: options.connections,
            seconds: 0.0,
            frames: 0,
            two_active: 0,
            two_active_deaf: 0,
            corrupted: 0,
            idle: Count::default(),
            episodes: Vec::new(),
            broken_off: None,
        },
    };
    let end = began + u64::try_from(options.time().as_nanos())?;
    let most = options.faults.unwrap_or(usize::MAX);
    for episode in Schedule::new(seed, &options.only).take(most) {
        if now_ns() > end {
            break;
        }
        if let Err(error) = run.play(episode) {
            run.report.broken_off = Some(format!("{error:#}"));
            break;
        }
    }
    run.finish()
}

struct Run {
    scene: Scene,
    connections: usize,
    /// Two nodes that claim within this time of each other are two at once: a role that moves back takes longer.
    window_ns: u64,
    /// Of younger connections nothing is promised.
    young: Duration,
    dir: PathBuf,
    began: u64,
    report: Report,
}

impl Run {
    /// An error ends the run: the pair did not settle, or could not even be broken.
    fn play(&mut self, episode: Episode) -> Result<()> {
        let excused = episode
            .faults()
            .any(|fault| fault.kind.may_lose().is_some());
        if excused {
            // Whoever rested until now is judged before anybody may be lost.
            self.wake()?;
        }
        self.prepare(&episode);
        let scene = &mut self.scene;
        scene.pulse.forget();
        let before = scene.holder;
        sleep(episode.lead);

        let fault_ns = now_ns();
        let mut outcome = Outcome {
            what: episode.to_string(),
            at_seconds: (fault_ns - self.began) as f64 / 1e9,
            active_before: format!("lb{}", before + 1),
            active_after: None,
            gap_ms: 0.0,
            served_ms: 0.0,
            ready_ms: 0.0,
            awaited: None,
            overlap_ms: 0.0,
            two_ms: 0.0,
            stall_ms: 0.0,
            older: Count::default(),
            younger: Count::default(),
            meanwhile: 0,
            violations: Vec::new(),
            evidence: None,
            episode,
        };
        let settled = strike(scene, &outcome.episode, before).and_then(|()| scene.settle());
        let healed_ns = now_ns();
        let frames = scene.next_capture()?;
        self.report.frames += frames.len() as u64;
        let over = match settled {
            Ok(settled) => {
                self.judge(&mut outcome, &frames, fault_ns, &settled)?;
                None
            }
            Err(error) => {
                self.look_at(&mut outcome, &frames, fault_ns..healed_ns);
                outcome.violations.push(format!("{error:#}"));
                Some(error)
            }
        };
        if !outcome.violations.is_empty() {
            outcome.evidence = Some(self.keep(&outcome, &frames)?);
        }
        say(&outcome.line());
        self.report.episodes.push(outcome);
        if excused && over.is_none() {
            self.wake_after_loss()?;
        }
        over.map_or(Ok(()), Err)
    }

    /// New connections, up to and beyond the fault.
    fn prepare(&self, episode: &Episode) {
        let crowd = &self.scene.crowd;
        let time = episode.lead + episode.first.lasts;
        let young = usize::try_from(RATE * time.as_millis() as u64 / 1000).unwrap_or(usize::MAX);
        crowd.close(young.min(self.connections / 2));
        let missing = self.connections.saturating_sub(crowd.len());
        crowd.open(missing, &Manner::LIVELY, RATE);
    }

    fn judge(
        &mut self,
        outcome: &mut Outcome,
        frames: &[Frame],
        fault_ns: u64,
        settled: &Settled,
    ) -> Result<()> {
        let served_ns = settled.served_ns.max(fault_ns);
        let ms = |at: u64| at.saturating_sub(fault_ns) as f64 / 1e6;
        outcome.active_after = Some(format!("lb{}", settled.holder + 1));
        outcome.served_ms = ms(served_ns);
        outcome.ready_ms = ms(settled.ready_ns);
        outcome.awaited.clone_from(&settled.awaited);
        let changed = self.look_at(outcome, frames, fault_ns..settled.ready_ns);

        let scene = &mut self.scene;
        let before = std::mem::replace(&mut scene.holder, settled.holder);
        let moved = changed || before != settled.holder;
        // Where no role moved, no connection had to be known to another node.
        let (from, to) = if moved {
            (fault_ns, settled.ready_ns)
        } else {
            (settled.ready_ns, settled.ready_ns)
        };
        let stall_ns = scene
            .stalls
            .longest_ns(&(fault_ns - HEARD_WITHIN_NS..served_ns));
        let age = self.young + Duration::from_nanos(stall_ns);
        let patience = HEARD_WITHIN_NS + (settled.ready_ns - fault_ns);
        let verdict = scene
            .crowd
            .judge_by(from, to, age, settled.ready_ns + patience)?;
        outcome.older.add(verdict.older);
        outcome.younger.add(verdict.younger);
        outcome.meanwhile = verdict.meanwhile;
        let wrong = verdict.older.corrupted
            + verdict.younger.corrupted
            + verdict.meanwhile_corrupted
            + scene.pulse.wrong() as u64;
        if wrong > self.report.corrupted {
            outcome
                .violations
                .push(format!("wrong bytes reached clients {wrong} times"));
            self.report.corrupted = wrong;
        }
        let excused = outcome
            .episode
            .faults()
            .any(|f| f.kind.may_lose().is_some());
        let lost = outcome.older.lost();
        if lost > 0 && !excused {
            let Count {
                judged,
                reset,
                silent,
                ..
            } = outcome.older;
            outcome.violations.push(format!(
                "{lost} of {judged} connections lost ({reset} reset, {silent} silent)"
            ));
        }
        if let Err(error) = scene.crowd.wait_complete_for(patient(OPEN_WITHIN)) {
            outcome.violations.push(format!("{error:#}"));
        }
        Ok(())
    }

    /// Looks at what was on the wire; whether the role moved.
    fn look_at(&mut self, outcome: &mut Outcome, frames: &[Frame], time: Range<u64>) -> bool {
        let claims = evidence::claims(frames);
        let two = outcome
            .episode
            .faults()
            .any(|fault| fault.kind.may_have_two());
        // What lasts until the nodes agree is their deafness.
        let deaf = time.start
            ..time.start
                + u64::try_from(outcome.episode.first.lasts.as_nanos()).unwrap_or(u64::MAX)
                + AGREE_NS;
        let (excused, other): (Vec<Overlap>, Vec<Overlap>) =
            evidence::overlaps(&claims, self.window_ns)
                .into_iter()
                .partition(|overlap| two && deaf.contains(&overlap.from_ns));
        if let (Some(first), Some(last)) = (excused.first(), excused.last()) {
            self.report.two_active_deaf += 1;
            outcome.two_ms = (last.to_ns - first.from_ns) as f64 / 1e6;
        }
        let longest = other
            .iter()
            .map(Overlap::length_ns)
            .max()
            .unwrap_or_default();
        outcome.overlap_ms = longest as f64 / 1e6;
        outcome.stall_ms = self.scene.stalls.longest_ms(&time);
        let seen = self.scene.pulse.seen(time.clone());
        outcome.gap_ms = seen.gap_ns as f64 / 1e6;

        let both = self.beyond(&other, LATE);
        self.report.two_active += both.len();
        outcome.violations.extend(told("claims", &both, time.start));
        if !two {
            let forwarded = evidence::overlaps(&evidence::forwarded(frames), self.window_ns);
            let both = self.beyond(&forwarded, HAND_OVER + LATE);
            outcome
                .violations
                .extend(told("forwards", &both, time.start));
        }
        let faults = frames.iter().filter_map(Frame::checksum_fault);
        outcome.violations.extend(faults.take(1));
        let of = |claim: &&Sign| claim.at_ns >= time.start;
        let nodes = claims.iter().filter(of).map(|claim| claim.node);
        let (first, last) = (nodes.clone().min(), nodes.max());
        first != last
    }

    /// Overlaps that are longer than this, and than the machine stalled.
    fn beyond(&self, overlaps: &[Overlap], bound: Duration) -> Vec<Overlap> {
        let nanos = |bound: Duration| patient(bound).as_nanos() as u64;
        let (bound_ns, late_ns) = (nanos(bound), nanos(LATE));
        let too_long = |overlap: &&Overlap| {
            let around = overlap.from_ns - self.window_ns..overlap.to_ns + late_ns;
            let stalled = self.scene.stalls.longest_ns(&around);
            overlap.length_ns() > bound_ns + stalled
        };
        overlaps.iter().filter(too_long).copied().collect()
    }

    /// Lets the idle connections speak, which nobody may have lost.
    fn wake(&mut self) -> Result<()> {
        let fates = self.scene.crowd.wake()?;
        self.report.idle.add(fates);
        Ok(())
    }

    /// The same after an episode that may have cost some of them; others take their places.
    fn wake_after_loss(&mut self) -> Result<()> {
        let fates = self.scene.crowd.wake()?;
        let lost = usize::try_from(fates.lost())?;
        self.scene.crowd.open(lost, &[Manner::Idle], RATE);
        if let Some(outcome) = self.report.episodes.last_mut() {
            let woken = Fates {
                connections: 0,
                ..fates
            };
            outcome.older.add(woken);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Report> {
        if self.report.broken_off.is_none() {
            self.wake()?;
        }
        self.report.seconds = (now_ns() - self.began) as f64 / 1e9;
        Ok(self.report)
    }

    /// Everything that helps to find out, before the next episode writes over it.
    fn keep(&self, outcome: &Outcome, frames: &[Frame]) -> Result<PathBuf> {
        let dir = self.dir.join(format!("episode-{}", outcome.episode.number));
        fs::create_dir_all(&dir)?;
        fs::write(
            dir.join("violation.json"),
            serde_json::to_string_pretty(outcome)?,
        )?;
        for node in &self.scene.pair.nodes {
            for port in node.ports() {
                let of = frames.iter().filter(|frame| *frame.port == *port.name());
                let frames = of.map(|frame| (Duration::from_nanos(frame.at_ns), &*frame.bytes));
                pcap::write(&dir.join(format!("{}.pcap", port.name())), frames)?;
            }
            let host = dir.join(format!("lb{}", node.number));
            fs::create_dir_all(&host)?;
            for name in ["agent.log", "ha-agent.yaml", "state/events.jsonl"] {
                copy(&node.dir().join(name), &host)?;
            }
            if let Ok(status) = node.status() {
                fs::write(
                    host.join("status.json"),
                    serde_json::to_string_pretty(&status)?,
                )?;
            }
        }
        Ok(dir)
    }
}

/// Does what the schedule says, in its time, and undoes it.
fn strike(scene: &mut Scene, episode: &Episode, active: usize) -> Result<()> {
    let node = |fault: &Fault| match fault.who {
        Who::Active => active,
        Who::Standby => 1 - active,
    };
    let from = now_ns();
    let at = |time: Duration| from + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let first = episode.first;
    let mut steps = vec![(Duration::ZERO, first, true), (first.lasts, first, false)];
    if let Some(second) = episode.second {
        let (after, fault) = (second.after, second.fault);
        steps.extend([(after, fault, true), (after + fault.lasts, fault, false)]);
    }
    steps.sort_by_key(|(when, ..)| *when);
    for (when, fault, begins) in steps {
        sleep_until(at(when));
        if begins {
            scene
                .inject(&fault, node(&fault))
                .with_context(|| format!("{fault}: could not be done"))?;
        } else {
            scene
                .heal(&fault, node(&fault))
                .with_context(|| format!("{fault}: could not be undone"))?;
        }
    }
    // It may be refused where something else is wrong as well, a full disk for one.
    match scene.reloaded() {
        Err(error) if episode.second.is_none() => Err(error),
        _ => Ok(()),
    }
}

/// The first of them, in words.
fn told(what: &str, overlaps: &[Overlap], from_ns: u64) -> Option<String> {
    let overlap = overlaps.first()?;
    let at = (overlap.from_ns as f64 - from_ns as f64) / 1e6;
    Some(format!(
        "lb{} {what} for another {:.1} ms after lb{} began to, {at:.1} ms after the fault; {} times",
        overlap.node + 1,
        overlap.length_ns() as f64 / 1e6,
        2 - overlap.node,
        overlaps.len()
    ))
}

/// What is not there cannot be kept.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let (true, Some(name)) = (from.is_file(), from.file_name()) {
        fs::copy(from, to.join(name)).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

/// Tells the person at the terminal how things go.
fn say(message: &str) {
    // Nobody is left to tell if standard error is gone.
    let _gone = writeln!(std::io::stderr(), "{message}");
}
