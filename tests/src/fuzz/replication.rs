//! A replication machine and what a partner may send: anybody's bytes, and under the right key anything at all. In the
//! end a partner that is sound appears, and the machine must come to hold what that one holds.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ha_agent::datapath::family::FlowKey;
use ha_agent::proto::sync::{Action, Change, Input, Record, Salt, Sync};
use ha_agent::proto::time::Instant;

use super::Seed;
use super::partner::{Session, kind, number};
use super::replication_pair::{Two, apply, check_packet, machine, record};
use super::wishes::Wishes;

/// Things that happen in one input.
const STEPS: usize = 200;
/// Packets that may be missing at the same time.
const OUTSTANDING: u64 = 1024;
/// Actions that one input may lead to: a table of answers.
const ACTIONS: usize = 20_000;
/// Terms that the partner names; the one in which all ends well is higher.
const LAST_TERM: u64 = 1 << 40;

/// What may happen; the numbers are those of the inputs' bytes.
mod step {
    pub(super) const DATA: u8 = 0;
    pub(super) const GAP: u8 = 1;
    pub(super) const CONTROL: u8 = 2;
    pub(super) const WELCOME: u8 = 3;
    pub(super) const HELLO: u8 = 4;
    pub(super) const RUN: u8 = 5;
    pub(super) const LOCAL: u8 = 6;
    pub(super) const ROLE: u8 = 7;
    pub(super) const REPLAY: u8 = 8;
    pub(super) const BYTES: u8 = 9;
    pub(super) const TERM: u8 = 10;
    pub(super) const SESSION: u8 = 11;
    pub(super) const ALL: u8 = 12;
}

struct Node {
    now: Instant,
    sync: Sync,
    map: BTreeMap<FlowKey, Record>,
    /// Its session.
    own: Session,
    /// The partner's.
    partner: Session,
    /// Challenge and session of its newest hello, and the token of its newest welcome.
    challenge: u64,
    token: u64,
    term: u64,
    salts: u8,
    sent: Vec<Vec<u8>>,
    nonces: HashMap<(u64, bool, u64), u64>,
}

/// Plays an input.
pub fn play(input: &[u8]) {
    let mut wishes = Wishes::new(input);
    let now = Instant::from_nanos(1_000_000_000);
    let mut node = Node {
        now,
        sync: machine(1, [1; 16], now),
        map: BTreeMap::new(),
        own: Session::new(1, [1; 16]),
        partner: Session::new(2, [2; 16]),
        challenge: 0,
        token: 0,
        term: 1,
        salts: 2,
        sent: Vec::new(),
        nonces: HashMap::new(),
    };
    node.tick();
    for _ in 0..STEPS {
        if wishes.is_over() {
            break;
        }
        node.step(&mut wishes);
        assert!(node.sync.snapshot().outstanding <= OUTSTANDING);
    }
    Two::beside_a_new_one(node.now, node.sync, node.map, LAST_TERM).heal();
}

impl Node {
    fn step(&mut self, wishes: &mut Wishes<'_>) {
        match wishes.byte() % step::ALL {
            step::DATA => {
                let packet = self.partner.data(wishes.block());
                self.receive(packet);
            }
            step::GAP => {
                self.partner.stream = self.partner.stream.wrapping_add(wishes.byte().into());
                let packet = self.partner.data(wishes.block());
                self.receive(packet);
            }
            step::CONTROL => {
                let kind = 1 + wishes.below(kind::ASK);
                let packet = self.partner.control(kind, wishes.block());
                self.receive(packet);
            }
            // What comes behind is a position and a name.
            step::WELCOME => {
                let words = [self.challenge, self.own.id(), 7];
                let mut body = words.map(u64::to_be_bytes).concat();
                body.extend(wishes.block());
                let packet = self.partner.control(kind::WELCOME, &body);
                self.receive(packet);
            }
            // What comes behind is what the partner has, and a name.
            step::HELLO => {
                let words = [5, self.own.id(), self.token];
                let mut body = words.map(u64::to_be_bytes).concat();
                body.extend(wishes.block());
                let packet = self.partner.control(kind::HELLO, &body);
                self.receive(packet);
            }
            step::RUN => self.run(Duration::from_micros(100) * u32::from(wishes.word() % 30_000)),
            step::LOCAL => {
                let record = record(wishes.byte(), wishes.byte());
                let change = if wishes.flag() {
                    Change::Put(record)
                } else {
                    Change::Delete(record.key)
                };
                apply(&mut self.map, change);
                let at = self.now;
                self.input(Input::Local { change, at });
            }
            step::ROLE => {
                let (active, newer) = (wishes.flag(), wishes.flag());
                self.role(active, newer);
            }
            step::REPLAY => {
                let at = usize::from(wishes.byte()) % self.sent.len().max(1);
                if let Some(packet) = self.sent.get(at).cloned() {
                    self.receive(packet);
                }
            }
            step::BYTES => self.receive(wishes.block().to_vec()),
            step::TERM => self.partner.term = wishes.long().into(),
            step::SESSION => {
                let term = self.partner.term;
                self.partner = Session::new(2, self.salt());
                self.partner.term = term;
            }
            other => panic!("no step {other}"),
        }
    }

    fn salt(&mut self) -> Salt {
        self.salts = self.salts.wrapping_add(1);
        let mut salt = [0x33; 16];
        salt[0] = self.salts;
        salt
    }

    fn role(&mut self, active: bool, newer: bool) {
        let salt = self.salt();
        self.term += u64::from(newer);
        let before = self.sync.is_active();
        let term = self.term;
        self.input(Input::Role { active, term, salt });
        // Its packets tell which session it has now; those of the old one are of no more interest.
        if self.sync.is_active() != before || newer && active {
            self.own = Session::new(1, salt);
            self.run(Duration::from_millis(1));
        }
    }

    fn receive(&mut self, packet: Vec<u8>) {
        self.input(Input::Packet { bytes: &packet });
        self.sent.push(packet);
    }

    fn input(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.sync.handle_input(self.now, input, &mut out);
        self.perform(out);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.sync.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.tick();
        }
        self.now = end;
    }

    fn tick(&mut self) {
        let mut out = Vec::new();
        self.sync.handle_timeout(self.now, &mut out);
        let again = self.sync.poll_timeout();
        assert!(again.is_none_or(|due| due > self.now), "a busy loop");
        self.perform(out);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        assert!(actions.len() <= ACTIONS, "{} actions", actions.len());
        for action in actions {
            match action {
                Action::Send { to: _, bytes } => {
                    check_packet(&mut self.nonces, &bytes);
                    match self.own.open(&bytes) {
                        Some((kind::HELLO, body)) => self.challenge = number(&body),
                        Some((kind::WELCOME, body)) => self.token = number(&body[16..]),
                        Some(_) | None => {}
                    }
                }
                Action::Apply { change, .. } => apply(&mut self.map, change),
                Action::Ready(_) | Action::Record(_) => {}
            }
        }
    }
}

/// A standby and an active node, with a partner that behaves at first.
pub fn seeds() -> Vec<Seed> {
    let block = |step: u8, bytes: &[u8]| [&[step, bytes.len() as u8][..], bytes].concat();
    let run = |tenths: u16| [&[step::RUN][..], &tenths.to_be_bytes()].concat();
    let control =
        |kind: u8, body: &[u8]| [&[step::CONTROL, kind - 1][..], &block(0, body)[1..]].concat();
    // Flags (current; knows everything), head, tail, begin, count, digest, total, hello, its age.
    let position = |head: u64| {
        let words = [head, 1, 1, 0, 0, 0, 0, 0];
        [&[0x0d][..], &words.map(u64::to_be_bytes).concat()].concat()
    };
    let welcome = block(step::WELCOME, &position(0));
    let begin = [&[0x10][..], &5u64.to_be_bytes()].concat();
    let end = [&[0x11][..], &[5u64, 0, 0].map(u64::to_be_bytes).concat()].concat();
    let put = [
        &[0x01, 10, 0, 0, 200, 10, 0, 0, 100, 0, 9, 0, 80, 6][..],
        &[10, 0, 0, 21, 0x1f, 0x90, 1, 2, 0, 1],
    ]
    .concat();
    let delete = [0x02, 10, 0, 0, 200, 10, 0, 0, 100, 0, 9, 0, 80, 6].to_vec();
    let short = [
        0x03, 0, 10, 0, 0, 201, 0, 9, 1, 2, 0, 1, 0x04, 0, 10, 0, 0, 200, 0, 9,
    ]
    .to_vec();
    let named = [
        &[0x85, 38][..],
        &0u32.to_be_bytes(),
        &1u64.to_be_bytes(),
        &1u64.to_be_bytes(),
        &0u32.to_be_bytes(),
        &[8, 1, 2],
        b"sessions",
        b"kvv",
    ]
    .concat();
    let sums = [&[0x87, 130, 64, 0][..], &[0; 128]].concat();
    let bucket = [0x88, 2, 0, 9, 0x89, 10, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let data = |bodies: &[&[u8]]| block(step::DATA, &bodies.concat());
    let standby = [
        welcome,
        data(&[&begin, &put, &named]),
        data(&[&end]),
        run(50),
    ]
    .concat();
    let after = |more: &[Vec<u8>]| [standby.clone(), more.concat()].concat();
    let hello = |next: u64, wants: u8| {
        let body = [&next.to_be_bytes()[..], &[wants | 0x0c], &[0; 16]].concat();
        block(step::HELLO, &body)
    };
    let active = [
        vec![step::ROLE, 1, 1],
        hello(0, 0),
        hello(1, 1),
        vec![
            step::LOCAL,
            4,
            1,
            1,
            step::LOCAL,
            8,
            1,
            1,
            step::LOCAL,
            3,
            1,
            1,
        ],
        run(200),
        hello(3, 0),
    ]
    .concat();
    let nack = [&[0; 8][..], &[1], &1u64.to_be_bytes(), &[0, 3]].concat();
    [
        ("standby", standby.clone()),
        ("deletes", after(&[data(&[&delete])])),
        ("short", after(&[data(&[&put, &short])])),
        (
            "gap",
            after(&[
                [&[step::GAP, 3][..], &data(&[&put])[1..]].concat(),
                run(30_000 - 1),
            ]),
        ),
        (
            "heartbeat",
            after(&[control(kind::HEARTBEAT, &position(2)), run(500)]),
        ),
        (
            "far-ahead",
            after(&[control(kind::HEARTBEAT, &position(1 << 48)), run(500)]),
        ),
        (
            "too-far",
            after(&[control(kind::HEARTBEAT, &position(u64::MAX)), run(500)]),
        ),
        ("sums", after(&[data(&[&sums, &bucket]), run(500)])),
        ("promoted", after(&[vec![step::ROLE, 1, 1], run(100)])),
        ("replayed", after(&[vec![step::REPLAY, 0, step::REPLAY, 1]])),
        ("active", active.clone()),
        (
            "nack",
            [active.clone(), control(kind::NACK, &nack), run(100)].concat(),
        ),
        (
            "ask",
            [active.clone(), control(kind::ASK, &[0; 24]), run(100)].concat(),
        ),
        (
            "demoted",
            [active, vec![step::ROLE, 0, 1], run(100)].concat(),
        ),
        ("bytes", block(step::BYTES, b"HS\x01\x01 and so on")),
        (
            "other-session",
            after(&[vec![step::SESSION, step::TERM, 0, 0, 0, 9], run(100)]),
        ),
    ]
    .map(|(name, input)| (name.to_owned(), input))
    .to_vec()
}
