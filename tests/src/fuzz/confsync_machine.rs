//! One node's side of having the same configuration on both, and a partner that claims anything. After every call it is
//! checked that the node's version never goes backwards, and that every question is answered once.

use std::collections::BTreeSet;
use std::time::Duration;

use ha_agent::proto::confsync::{
    Action, ConfSync, ContentHash, Input, Record, Request, Response, Start, Version,
};
use ha_agent::proto::time::Instant;

use super::Seed;
use super::confsync::claim;
use super::wishes::Wishes;

/// Things that happen in one input.
const STEPS: usize = 400;

/// What may happen; the numbers are those of the inputs' bytes.
mod step {
    pub(super) const ROLE: u8 = 0;
    pub(super) const REQUEST: u8 = 1;
    pub(super) const ANSWER: u8 = 2;
    pub(super) const FAILED: u8 = 3;
    pub(super) const APPLIED: u8 = 4;
    pub(super) const REFUSED: u8 = 5;
    pub(super) const PUSH: u8 = 6;
    pub(super) const EDIT: u8 = 7;
    pub(super) const RUN: u8 = 8;
    pub(super) const ALL: u8 = 9;
}

struct Node {
    now: Instant,
    machine: ConfSync,
    version: Version,
    /// What was kept last.
    kept: Option<Record>,
    /// A question of its own that is under way, and a version that is being applied.
    asking: bool,
    applying: Option<Version>,
    /// Questions of the partner, and those without an answer.
    asked: u64,
    open: BTreeSet<u64>,
}

/// Plays an input.
pub fn play(input: &[u8]) {
    let mut wishes = Wishes::new(input);
    let now = Instant::from_nanos(1_000_000_000);
    let hash = ContentHash::new([1; 32]);
    let start = Start {
        name: "lb1".to_owned(),
        first: true,
        record: Record::fresh(hash),
        hash,
        document: String::new(),
    };
    let machine = ConfSync::new(start, now);
    let mut node = Node {
        now,
        version: machine.version(),
        machine,
        kept: None,
        asking: false,
        applying: None,
        asked: 0,
        open: BTreeSet::new(),
    };
    for _ in 0..STEPS {
        if wishes.is_over() {
            break;
        }
        node.step(&mut wishes);
    }
    // Once nothing is being applied nobody waits.
    node.finish(Input::Applied);
    assert!(node.open.is_empty(), "{:?} wait", node.open);
}

impl Node {
    fn step(&mut self, wishes: &mut Wishes<'_>) {
        match wishes.byte() % step::ALL {
            step::ROLE => self.input(Input::Role {
                active: wishes.flag(),
            }),
            step::REQUEST => {
                self.asked += 1;
                self.open.insert(self.asked);
                let kind = wishes.below(3);
                let claim = wished_claim(wishes);
                let request = match kind {
                    0 => Request::Compare(claim),
                    1 => Request::Fetch(claim),
                    _ => Request::Offer(claim, "offered".to_owned()),
                };
                let id = self.asked;
                self.input(Input::Request { id, request });
            }
            step::ANSWER => {
                let kind = wishes.below(3);
                let claim = wished_claim(wishes);
                let response = match kind {
                    0 => Response::Claim(claim),
                    1 => Response::Document(claim, "fetched".to_owned()),
                    _ => Response::Refused(claim, "no".to_owned()),
                };
                self.asking = false;
                self.input(Input::Answer(response));
            }
            step::FAILED => {
                self.asking = false;
                self.input(Input::Failed);
            }
            step::APPLIED => self.finish(Input::Applied),
            step::REFUSED => self.finish(Input::NotApplied {
                reason: "no".to_owned(),
            }),
            step::PUSH => self.input(Input::Push),
            step::EDIT => {
                let hash = ContentHash::new([wishes.byte(); 32]);
                if let Ok(record) = self.machine.edit(hash) {
                    assert!(self.applying.is_none(), "edited while another one comes");
                    assert!(record.version.generation > self.version.generation);
                    self.machine.edited(self.now, record, "edited".to_owned());
                    self.check(Vec::new());
                }
            }
            step::RUN => {
                self.now = self.now + Duration::from_millis(u64::from(wishes.word()) % 20_000);
                let mut out = Vec::new();
                self.machine.handle_timeout(self.now, &mut out);
                self.check(out);
            }
            other => panic!("no step {other}"),
        }
    }

    /// What was being applied is, or is not; a shell says so only then.
    fn finish(&mut self, how: Input) {
        if self.applying.take().is_some() {
            self.input(how);
        }
    }

    fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.machine.handle_input(self.now, input, &mut out);
        self.check(out);
    }

    fn check(&mut self, out: Vec<Action>) {
        for action in out {
            match action {
                Action::Record(record) => self.kept = Some(record),
                Action::Apply { record, .. } => {
                    assert!(self.applying.is_none(), "two at a time");
                    assert!(
                        record.version.generation > self.version.generation,
                        "backwards"
                    );
                    self.applying = Some(record.version);
                }
                Action::Exchange(_) => {
                    assert!(!self.asking && self.applying.is_none(), "one at a time");
                    self.asking = true;
                }
                Action::Respond { id, .. } => {
                    assert!(self.open.remove(&id), "{id} is answered already");
                }
            }
        }
        let version = self.machine.version();
        assert!(version.generation >= self.version.generation, "backwards");
        // A content changes together with its number.
        let same = version.generation == self.version.generation;
        assert!(
            !same || version.hash == self.version.hash,
            "changed in silence"
        );
        self.version = version;
        let waits = self.asking || self.applying.is_some();
        assert_eq!(
            self.machine.poll_timeout().is_none(),
            waits,
            "who waits for whom"
        );
        assert!(waits || self.open.is_empty() || self.applying.is_some());
    }
}

/// What the partner claims: numbers and contents that are near each other, so that they meet.
fn wished_claim(wishes: &mut Wishes<'_>) -> ha_agent::proto::confsync::Claim {
    let mut claim = claim((wishes.byte() % 16).into(), wishes.byte() % 8);
    let how = wishes.byte();
    claim.active = how & 1 != 0;
    claim.edited = how & 2 != 0;
    claim.first = how & 4 != 0;
    if how & 8 != 0 {
        // The highest that a claim may have.
        claim.record.version.generation = (1 << 53) - u64::from(how >> 4);
    }
    claim
}

/// Lives of a node in short.
pub fn seeds() -> Vec<Seed> {
    let run = [step::RUN, 0x10, 0];
    let active = [step::ROLE, 1];
    let ask = |kind: u8, generation: u8, content: u8, how: u8| {
        [step::REQUEST, kind, generation, content, how]
    };
    let answer = |kind: u8, generation: u8, content: u8, how: u8| {
        [step::ANSWER, kind, generation, content, how]
    };
    [
        ("same", [&run[..], &answer(0, 0, 1, 0), &run].concat()),
        (
            "edits",
            [&active[..], &[step::EDIT, 2], &run, &answer(0, 1, 2, 0)].concat(),
        ),
        (
            "takes",
            [
                &run[..],
                &answer(0, 3, 3, 1),
                &answer(1, 3, 3, 1),
                &[step::APPLIED],
            ]
            .concat(),
        ),
        (
            "is-offered",
            [
                &ask(2, 4, 4, 1)[..],
                &ask(2, 4, 4, 1),
                &[step::APPLIED],
                &run,
            ]
            .concat(),
        ),
        (
            "cannot",
            [&ask(2, 4, 4, 1)[..], &[step::REFUSED], &run].concat(),
        ),
        (
            "conflict",
            [&active[..], &ask(0, 1, 5, 2), &run, &answer(0, 1, 5, 0)].concat(),
        ),
        (
            "unreached",
            [&run[..], &[step::FAILED], &run, &[step::FAILED, step::PUSH]].concat(),
        ),
        (
            "highest",
            [&active[..], &ask(0, 1, 5, 8), &[step::EDIT, 6], &run].concat(),
        ),
    ]
    .map(|(name, input)| (name.to_owned(), input))
    .to_vec()
}
