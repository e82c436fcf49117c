//! Two nodes with disks, an operator, an election and a network, all driven by one seed.
//!
//! Every step between two effects on a disk or the network is a place to crash. After each one it is checked
//! that a node never goes back, never holds anything but a whole document, and loses nobody's work
//! without keeping a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::proto::confsync::*;
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// How long a shell waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon a standby takes over.
const TAKEOVER: Duration = Duration::from_millis(300);

pub(super) fn hash(document: &str) -> ContentHash {
    let mut bytes = [0u8; 32];
    for (index, byte) in document.bytes().enumerate() {
        bytes[index % 32] = bytes[index % 32].wrapping_mul(31) ^ byte;
    }
    ContentHash::new(bytes)
}

pub(super) struct Disk {
    pub(super) file: String,
    pub(super) record: Option<Record>,
    pub(super) lost: BTreeSet<String>,
}

pub(super) struct Host {
    pub(super) disk: Disk,
    pub(super) machine: Option<ConfSync>,
    active: bool,
    /// Counts starts: what was meant for an earlier one is not delivered.
    life: u64,
    asking: Option<u64>,
}

enum Event {
    Request {
        to: usize,
        life: u64,
        id: u64,
        request: Request,
    },
    Answer {
        to: usize,
        life: u64,
        id: u64,
        response: Response,
    },
    Patience {
        of: usize,
        life: u64,
        id: u64,
    },
    Applied {
        at: usize,
        life: u64,
        reason: Option<String>,
    },
    Elect,
}

/// What goes wrong while faults are on, in percent.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) crash: u64,
    pub(super) refusal: u64,
    pub(super) slow_ms: u64,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) hosts: [Host; 2],
    pub(super) faults: Faults,
    /// The configuration channel.
    pub(super) channel: bool,
    /// The links of the election.
    pub(super) links: bool,
    /// Crash at this step of this host.
    pub(super) crash_at: Option<(usize, u64)>,
    pub(super) steps: [u64; 2],
    rng: Rng,
    events: BTreeMap<(Instant, u64), Event>,
    numbered: u64,
    documents: BTreeSet<String>,
    /// Contents that somebody wrote, and that nobody has written over since.
    pub(super) acknowledged: Vec<String>,
    highest: [u64; 2],
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let first = "first document".to_owned();
        let host = || Host {
            disk: Disk {
                file: first.clone(),
                record: None,
                lost: BTreeSet::new(),
            },
            machine: None,
            active: false,
            life: 0,
            asking: None,
        };
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            hosts: [host(), host()],
            faults: Faults::default(),
            channel: true,
            links: true,
            crash_at: None,
            steps: [0; 2],
            rng: Rng::new(seed),
            events: BTreeMap::new(),
            numbered: 0,
            documents: BTreeSet::from([first.clone()]),
            acknowledged: vec![first.clone()],
            highest: [0; 2],
        };
        world.start(0);
        world.start(1);
        world
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    fn chance(&mut self, percent: u64) -> bool {
        percent > 0 && self.rng.below(100) < percent
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.numbered += 1;
        self.events.insert((self.now + delay, self.numbered), event);
    }

    fn delay(&mut self) -> Duration {
        let slow = self.faults.slow_ms;
        Duration::from_micros(200 + self.rng.below(1 + slow * 1000))
    }

    pub(super) fn start(&mut self, at: usize) {
        if self.hosts[at].machine.is_some() {
            return;
        }
        let host = &mut self.hosts[at];
        host.life += 1;
        let hash = hash(&host.disk.file);
        let record = host.disk.record.clone();
        let start = Start {
            name: format!("lb{}", at + 1),
            first: at == 0,
            record: record.unwrap_or_else(|| Record::fresh(hash)),
            hash,
            document: host.disk.file.clone(),
        };
        host.machine = Some(ConfSync::new(start, self.now));
        self.later(TAKEOVER, Event::Elect);
    }

    pub(super) fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        (host.machine, host.active, host.asking) = (None, false, None);
        self.later(TAKEOVER, Event::Elect);
    }

    /// A place to crash; whether it was taken.
    fn step(&mut self, at: usize) -> bool {
        self.steps[at] += 1;
        let planned = self.crash_at == Some((at, self.steps[at]));
        if planned || self.chance(self.faults.crash) {
            self.crash(at);
            return true;
        }
        false
    }

    pub(super) fn is_active(&self, at: usize) -> bool {
        self.hosts[at].active
    }

    /// Links that hear each other have one active node; else each is its own.
    fn elect(&mut self) {
        let up = self.hosts.each_ref().map(|host| host.machine.is_some());
        let active = self.hosts.each_ref().map(|host| host.active);
        let wanted = match (up, self.links) {
            ([true, true], true) if active[1] && !active[0] => [false, true],
            ([true, true], true) => [true, false],
            (up, _) => up,
        };
        for at in [0, 1] {
            if self.hosts[at].active != wanted[at] {
                self.hosts[at].active = wanted[at];
                self.input(at, Input::Role { active: wanted[at] });
            }
        }
    }

    pub(super) fn fail_over(&mut self) {
        if self.links && self.hosts.iter().all(|host| host.machine.is_some()) {
            for at in [0, 1] {
                let active = !self.hosts[at].active;
                self.hosts[at].active = active;
                self.input(at, Input::Role { active });
            }
        }
    }

    pub(super) fn set_links(&mut self, on: bool) {
        self.links = on;
        self.later(TAKEOVER, Event::Elect);
    }

    fn input(&mut self, at: usize, input: Input) {
        let mut actions = Vec::new();
        if let Some(machine) = &mut self.hosts[at].machine {
            machine.handle_input(self.now, input, &mut actions);
        }
        self.perform(at, actions);
    }

    fn perform(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            if self.step(at) {
                return;
            }
            match action {
                Action::Record(record) => self.write_record(at, record),
                Action::Apply {
                    record,
                    document,
                    keep,
                } => {
                    if self.apply(at, record, document, keep) {
                        return;
                    }
                }
                Action::Exchange(request) => self.exchange(at, &request),
                Action::Respond { id, response } => {
                    let (to, delay) = (1 - at, self.delay());
                    let life = self.hosts[to].life;
                    if self.channel && !self.chance(self.faults.loss) {
                        self.later(
                            delay,
                            Event::Answer {
                                to,
                                life,
                                id,
                                response,
                            },
                        );
                    }
                }
            }
        }
    }

    fn write_record(&mut self, at: usize, record: Record) {
        let generation = record.version.generation;
        assert!(
            generation >= self.highest[at],
            "lb{} went from {} back to {generation}",
            at + 1,
            self.highest[at]
        );
        self.highest[at] = generation;
        self.hosts[at].disk.record = Some(record);
    }

    /// Whether the host crashed meanwhile.
    fn apply(&mut self, at: usize, record: Record, document: String, keep: bool) -> bool {
        assert_eq!(record.version.hash, hash(&document), "mixed");
        let (delay, life) = (self.delay(), self.hosts[at].life);
        if self.chance(self.faults.refusal) {
            let reason = Some("cannot".to_owned());
            self.later(delay, Event::Applied { at, life, reason });
            return false;
        }
        let old = self.hosts[at].disk.file.clone();
        if keep {
            self.hosts[at].disk.lost.insert(old.clone());
            if self.step(at) {
                return true;
            }
        } else {
            assert!(record.ancestors.contains(&hash(&old)), "lost work");
        }
        self.hosts[at].disk.file = document;
        if self.step(at) {
            return true;
        }
        self.write_record(at, record);
        self.later(
            delay,
            Event::Applied {
                at,
                life,
                reason: None,
            },
        );
        false
    }

    fn exchange(&mut self, at: usize, request: &Request) {
        self.numbered += 1;
        let (id, life) = (self.numbered, self.hosts[at].life);
        self.hosts[at].asking = Some(id);
        self.later(PATIENCE, Event::Patience { of: at, life, id });
        let to = 1 - at;
        if !self.channel || self.hosts[to].machine.is_none() || self.chance(self.faults.loss) {
            return;
        }
        let copies = 1 + u64::from(self.chance(self.faults.duplication));
        for _ in 0..copies {
            let (delay, life, request) = (self.delay(), self.hosts[to].life, request.clone());
            self.later(
                delay,
                Event::Request {
                    to,
                    life,
                    id,
                    request,
                },
            );
        }
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Request {
                to,
                life,
                id,
                request,
            } if self.hosts[to].life == life => {
                self.input(to, Input::Request { id, request });
            }
            Event::Answer {
                to,
                life,
                id,
                response,
            } if self.hosts[to].life == life => {
                if self.hosts[to]
                    .asking
                    .take_if(|asking| *asking == id)
                    .is_some()
                {
                    self.input(to, Input::Answer(response));
                }
            }
            Event::Patience { of, life, id } if self.hosts[of].life == life => {
                if self.hosts[of]
                    .asking
                    .take_if(|asking| *asking == id)
                    .is_some()
                {
                    self.input(of, Input::Failed);
                }
            }
            Event::Applied { at, life, reason } if self.hosts[at].life == life => {
                self.input(
                    at,
                    reason.map_or(Input::Applied, |reason| Input::NotApplied { reason }),
                );
            }
            Event::Elect => self.elect(),
            Event::Request { .. }
            | Event::Answer { .. }
            | Event::Patience { .. }
            | Event::Applied { .. } => {}
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let timer = |at: usize| self.hosts[at].machine.as_ref()?.poll_timeout();
            let timers = [timer(0), timer(1)];
            let next = event.into_iter().chain(timers.into_iter().flatten()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.events.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let event = entry.remove();
                self.deliver(event);
                self.check();
            }
            for at in [0, 1] {
                let mut actions = Vec::new();
                if let Some(machine) = &mut self.hosts[at].machine {
                    machine.handle_timeout(self.now, &mut actions);
                }
                self.perform(at, actions);
                self.check();
            }
        }
    }

    /// An operator writes a new file and has it taken over; whether that was allowed.
    pub(super) fn edit(&mut self, at: usize) -> bool {
        self.numbered += 1;
        let document = format!("document {} of lb{}", self.numbered, at + 1);
        let before = self.hosts[at].disk.file.clone();
        let Some(machine) = &self.hosts[at].machine else {
            // Nobody is there to say no: the next start finds it.
            self.documents.insert(document.clone());
            self.supersede(&before, &document);
            self.hosts[at].disk.file = document;
            return true;
        };
        match machine.edit(hash(&document)) {
            Err(NotEditable::NotActive) => {
                assert!(!self.hosts[at].active);
                false
            }
            Err(NotEditable::Applying) => false,
            Ok(record) => {
                assert!(self.hosts[at].active, "edited where it is not active");
                self.documents.insert(document.clone());
                self.hosts[at].disk.file.clone_from(&document);
                self.supersede(&before, &document);
                if self.step(at) {
                    return true;
                }
                self.write_record(at, record.clone());
                if let Some(machine) = &mut self.hosts[at].machine {
                    machine.edited(self.now, record, document);
                }
                true
            }
        }
    }

    /// Whoever writes over a content has seen it: only what comes after is work that must not be lost.
    fn supersede(&mut self, before: &str, after: &str) {
        self.acknowledged.retain(|known| known != before);
        self.acknowledged.push(after.to_owned());
    }

    /// Whether a content is still somewhere, or an ancestor of what is.
    fn kept(&self, document: &str) -> bool {
        let hash = hash(document);
        self.hosts.iter().any(|host| {
            let record = host.disk.record.as_ref();
            host.disk.file == document
                || host.disk.lost.contains(document)
                || record.is_some_and(|record| record.ancestors.contains(&hash))
        })
    }

    fn check(&self) {
        for host in &self.hosts {
            assert!(
                self.documents.contains(&host.disk.file),
                "not a whole document"
            );
        }
        for document in &self.acknowledged {
            assert!(self.kept(document), "{document} is lost without a trace");
        }
    }

    /// Both have the same version, and know it.
    pub(super) fn agreed(&self) -> bool {
        let [first, second] = &self.hosts;
        let version = |host: &Host| {
            let machine = host.machine.as_ref()?;
            let said = machine.version().hash == hash(&host.disk.file);
            let kept = host.disk.record.as_ref().map(|record| record.version);
            let sound = said && kept == Some(machine.version()) && machine.snapshot().in_sync;
            sound.then(|| machine.version())
        };
        version(first).is_some() && version(first) == version(second)
    }

    /// Everything is mended, and what was refused is offered again after a while.
    pub(super) fn heal_slowly(&mut self) {
        self.faults = Faults::default();
        self.run(RETRY_REFUSED);
        self.heal();
    }

    /// Everything is mended; both must agree within five seconds.
    pub(super) fn heal(&mut self) {
        (self.faults, self.crash_at) = (Faults::default(), None);
        self.channel = true;
        self.set_links(true);
        self.start(0);
        self.start(1);
        self.run(Duration::from_secs(5));
        let versions = self.hosts.each_ref().map(|host| {
            let snapshot = host.machine.as_ref().map(ConfSync::snapshot);
            (host.disk.file.clone(), host.disk.record.clone(), snapshot)
        });
        assert!(
            self.agreed(),
            "not the same after all is well: {versions:#?}"
        );
    }
}
