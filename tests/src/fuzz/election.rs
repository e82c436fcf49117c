//! One election machine, and a partner that says whatever it is told to, with tags that are right. After every call it
//! is checked what must hold whatever happens.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ha_agent::config::model::{CarpAuth, Mode, Preferred};
use ha_agent::proto::carp::trailer::{Signer, WireRole, name_hash};
use ha_agent::proto::carp::wire::Header;
use ha_agent::proto::carp::{
    Action, Command, Election, ElectionConfig, ElectionKeys, Input, LinkConfig, Role,
};
use ha_agent::proto::rng::Rng;
use ha_agent::proto::time::Instant;
use ha_common::carp::BOW_OUT;

use super::Seed;
use super::carp::body;
use super::wishes::Wishes;

const TIMEOUT: Duration = Duration::from_millis(300);
const LINKS: [&str; 2] = ["front", "cable"];
const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));
const PARTNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 12));
const KEY: (u8, [u8; 16]) = (1, [7; 16]);
/// Things that happen in one input.
const STEPS: usize = 400;
/// What the state may take, in JSON.
const SNAPSHOT_MAX: usize = 32 << 10;

const ROLES: [WireRole; 6] = [
    WireRole::Standby,
    WireRole::Active,
    WireRole::Init,
    WireRole::Maintenance,
    WireRole::Pacified,
    WireRole::Standby,
];
const COMMANDS: [Command; 7] = [
    Command::Failover,
    Command::Maintenance(true),
    Command::Maintenance(false),
    Command::MaintenanceAnyway,
    Command::Resume,
    Command::Reexec,
    Command::Stop,
];

/// What may happen; the numbers are those of the inputs' bytes.
mod step {
    pub(super) const SAY: u8 = 0;
    pub(super) const RUN: u8 = 1;
    pub(super) const FREEZE: u8 = 2;
    pub(super) const RESTART: u8 = 3;
    pub(super) const NOISE: u8 = 4;
    pub(super) const MIRROR: u8 = 5;
    pub(super) const CARRIER: u8 = 6;
    pub(super) const GATEWAY: u8 = 7;
    pub(super) const MULTICAST: u8 = 8;
    pub(super) const READY: u8 = 9;
    pub(super) const DISPUTED: u8 = 10;
    pub(super) const GENERATION: u8 = 11;
    pub(super) const RESERVED: u8 = 12;
    pub(super) const OVERTAKEN: u8 = 13;
    pub(super) const COMMAND: u8 = 14;
    pub(super) const PARK: u8 = 15;
    pub(super) const ALL: u8 = 16;
}

fn config() -> ElectionConfig {
    let link = |name: &str, own: Vec<IpAddr>, partners, shared, has_gateway| LinkConfig {
        name: name.to_owned(),
        addresses: own,
        partners,
        shared,
        has_gateway,
    };
    let own = IpAddr::from([10, 0, 0, 11]);
    ElectionConfig {
        mode: Mode::First,
        vhid: 110,
        interval: TIMEOUT / 3,
        timeout: TIMEOUT,
        initial_wait: Duration::ZERO,
        hold_down: Duration::from_secs(1),
        preferred: Preferred::None,
        auth: CarpAuth::Enforce,
        generation: 1,
        start_pacified: false,
        start_maintenance: false,
        links: vec![
            link(LINKS[0], vec![own], vec![PARTNER], vec![SHARED], true),
            link(LINKS[1], Vec::new(), Vec::new(), Vec::new(), false),
        ],
    }
}

fn keys() -> ElectionKeys {
    ElectionKeys {
        carp_passphrase: b"secret".to_vec(),
        trailer: vec![KEY],
    }
}

/// A packet: link, source, payload, and whether it is an advertisement.
type Packet = (usize, IpAddr, Vec<u8>, bool);

struct Node {
    now: Instant,
    machine: Election,
    role: Role,
    gate: Option<Instant>,
    reserved: u64,
    signer: Signer,
    epoch: u64,
    sequence: u64,
    /// Epoch and sequence of its newest packet, which the partner echoes.
    heard: (u64, u64),
    /// Its newest packet.
    sent: Option<Packet>,
}

/// Plays an input.
pub fn play(input: &[u8]) {
    let mut wishes = Wishes::new(input);
    let now = Instant::from_nanos(1_000_000_000);
    let mut node = Node {
        now,
        machine: Election::new(config(), keys(), Rng::new(1), 0, now),
        role: Role::Init,
        gate: None,
        reserved: 0,
        signer: Signer::new(110, vec![KEY]),
        epoch: 77,
        sequence: 0,
        heard: (0, 0),
        sent: None,
    };
    node.call(None);
    for _ in 0..STEPS {
        if wishes.is_over() {
            break;
        }
        node.step(&mut wishes);
    }
    let state = serde_json::to_vec(&node.machine.snapshot()).expect("a snapshot is JSON");
    assert!(state.len() < SNAPSHOT_MAX, "{} bytes", state.len());
}

impl Node {
    fn step(&mut self, wishes: &mut Wishes<'_>) {
        let link = |wishes: &mut Wishes<'_>| usize::from(wishes.below(3));
        match wishes.byte() % step::ALL {
            step::SAY => self.say(wishes),
            step::RUN => self.run(Duration::from_millis(u64::from(wishes.word()) % 700)),
            step::FREEZE => {
                self.now = self.now + Duration::from_millis(u64::from(wishes.word()) % 2000);
                self.call(None);
            }
            step::RESTART => self.epoch += 1,
            step::NOISE => {
                let (link, source) = (link(wishes), wishes.one(&[PARTNER, SHARED]));
                let (payload, advert) = (wishes.block().to_vec(), wishes.flag());
                self.packet(&(link, source, payload, advert));
            }
            // What it sent comes back, spoiled in one place or not, from itself or as if from the partner.
            step::MIRROR => {
                if let Some((link, mut source, mut payload, advert)) = self.sent.clone() {
                    let (at, bits) = (usize::from(wishes.byte()), wishes.byte());
                    if let Some(byte) = payload.get_mut(at) {
                        *byte ^= bits;
                    }
                    if wishes.flag() {
                        source = PARTNER;
                    }
                    self.packet(&(link, source, payload, advert));
                }
            }
            step::CARRIER => {
                let (link, up) = (link(wishes), wishes.flag());
                self.call(Some(Input::Carrier { link, up }));
            }
            step::GATEWAY => {
                let (link, reachable) = (link(wishes), wishes.flag());
                self.call(Some(Input::Gateway { link, reachable }));
            }
            step::MULTICAST => {
                let (link, heard) = (link(wishes), wishes.flag());
                self.call(Some(Input::Multicast { link, heard }));
            }
            step::READY => self.call(Some(Input::Ready(wishes.flag()))),
            step::DISPUTED => self.call(Some(Input::Disputed(wishes.flag()))),
            step::GENERATION => self.call(Some(Input::Generation(wishes.byte().into()))),
            step::RESERVED => self.call(Some(Input::TermReserved(self.reserved))),
            step::OVERTAKEN => self.call(Some(Input::Overtaken(wishes.word().into()))),
            step::COMMAND => self.call(Some(Input::Command(wishes.one(&COMMANDS)))),
            step::PARK => self.park(),
            other => panic!("no step {other}"),
        }
    }

    /// A HELLO of the partner, a standby that is well and hears everything but for what is wished.
    fn say(&mut self, wishes: &mut Wishes<'_>) {
        self.sequence += 1;
        let mut body = body(wishes.one(&ROLES));
        (body.epoch, body.sequence) = (self.epoch, self.sequence);
        (body.echo_epoch, body.echo_sequence) = self.heard;
        let odd = wishes.byte();
        let is_odd = |bit: u8| odd & 1 << bit != 0;
        if is_odd(0) {
            body.flags = wishes.byte().into();
        }
        if is_odd(1) {
            body.health = wishes.byte().into();
            body.recent = wishes.byte().into();
        }
        if is_odd(2) {
            body.heard = wishes.byte().into();
        }
        if is_odd(3) {
            body.term = wishes.word().into();
        }
        if is_odd(4) {
            body.timeout_us = wishes.long().max(1);
            body.interval_us = wishes.long();
        }
        if is_odd(5) {
            body.mode = 1 + wishes.below(2);
            body.preferred = wishes.below(3);
            body.generation = wishes.byte().into();
        }
        if is_odd(6) {
            body.ready = false;
        }
        if is_odd(7) {
            body.echo_epoch = 0;
        }
        let (link, source) = if wishes.flag() {
            (1, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        } else {
            (0, PARTNER)
        };
        let payload = self.signer.hello(source, &name_hash(LINKS[link]), &body);
        self.packet(&(link, source, payload, false));
    }

    fn packet(&mut self, (link, source, payload, advert): &Packet) {
        let (link, source, at) = (*link, *source, self.now);
        self.call(Some(if *advert {
            Input::Advert {
                link,
                source,
                payload,
                at,
            }
        } else {
            Input::Hello {
                link,
                source,
                payload,
                at,
            }
        }));
    }

    /// Another program goes on with what this one parks, as JSON. One that was told to end is not replaced.
    fn park(&mut self) {
        if self.machine.snapshot().role == Role::Off {
            return;
        }
        let parked = serde_json::to_vec(&self.machine.park()).expect("what is parked is JSON");
        let parked = serde_json::from_slice(&parked).expect("what was parked can be read");
        let (rng, term) = (Rng::new(2), self.reserved);
        let resumed = Election::resume(config(), keys(), rng, term, parked, self.now);
        self.machine = resumed.expect("what was parked goes on");
        self.call(None);
    }

    /// Lets time pass, with timers on time.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.call(None);
        }
        self.now = end;
    }

    /// Hands an input in, or calls a timer.
    fn call(&mut self, input: Option<Input<'_>>) {
        let mut out = Vec::new();
        match input {
            Some(input) => self.machine.handle_input(self.now, input, &mut out),
            None => self.machine.handle_timeout(self.now, &mut out),
        }
        let mut before = None;
        let mut sent = false;
        for action in out {
            self.act(&action, before.as_ref(), sent);
            sent |= matches!(action, Action::SendAdvert { .. } | Action::SendHello { .. });
            before = Some(action);
        }
        let due = self.machine.poll_timeout();
        assert!(due.is_none_or(|due| due > self.now), "a timer in the past");
        let snapshot = self.machine.snapshot();
        assert_eq!(snapshot.role, self.role);
        assert!(snapshot.transitions.len() <= 32 && snapshot.alarms.len() <= 16);
    }

    fn act(&mut self, action: &Action, before: Option<&Action>, sent: bool) {
        match action {
            Action::Gate(until) => {
                assert!(!sent, "the gate moves before anything is sent");
                let may = matches!(self.role, Role::Active | Role::Off);
                assert!(until.is_none() || may, "opened as {:?}", self.role);
                self.gate = *until;
            }
            Action::HandOver { until } => {
                assert_eq!(before, Some(&Action::Gate(None)));
                let longest = Duration::from_millis(50).min(TIMEOUT / 2);
                assert!(*until > self.now && *until <= self.now + longest);
            }
            Action::ClaimAddresses => assert!(matches!(before, Some(Action::Gate(Some(_))))),
            Action::ReleaseAddresses => {
                let closed = matches!(before, Some(Action::Gate(None)));
                assert!(closed || matches!(before, Some(Action::HandOver { .. })));
            }
            Action::RoleChanged { to, .. } => {
                let may = matches!(to, Role::Active | Role::Off);
                assert!(self.gate.is_none() || may, "the gate is closed first");
                self.role = *to;
            }
            Action::SendAdvert {
                link,
                source,
                payload,
            } => {
                let body = self.signer.open_advert(*source, payload);
                let body = body.expect("its own advertisement");
                let header = Header::decode(payload).expect("its own header");
                let leaves = (header.advbase, header.advskew) == BOW_OUT;
                assert!(leaves || body.role == WireRole::Active, "{body:?}");
                self.sent = Some((*link, *source, payload.clone(), true));
            }
            Action::SendHello {
                link,
                source,
                payload,
            } => {
                let name = name_hash(LINKS[*link]);
                let body = self.signer.open_hello(*source, &name, payload);
                let body = body.expect("its own HELLO");
                let numbers = (body.epoch, body.sequence);
                assert!(numbers.0 != self.heard.0 || numbers >= self.heard);
                self.heard = numbers;
                self.sent = Some((*link, *source, payload.clone(), false));
            }
            Action::ReserveTerm { up_to } => self.reserved = *up_to,
            Action::Announce
            | Action::Alarm { .. }
            | Action::Refused(_)
            | Action::Reexec(_)
            | Action::Stopped => {}
        }
    }
}

/// Lives of a pair in short.
pub fn seeds() -> Vec<Seed> {
    let say = |role: u8| vec![step::SAY, role, 0, 0];
    let run = |millis: u16| [&[step::RUN][..], &millis.to_be_bytes()].concat();
    let ready = vec![step::READY, 1];
    let command = |number: u8| vec![step::COMMAND, number];
    let standby = [ready.clone(), say(1), run(100), say(1), run(100)].concat();
    let active = [
        ready.clone(),
        run(400),
        say(0),
        run(50),
        vec![step::RESERVED],
    ]
    .concat();
    let beside = |life: &[u8], more: &[Vec<u8>]| [life, &more.concat()].concat();
    [
        ("alone", [ready, run(400), run(699)].concat()),
        ("standby", standby.clone()),
        ("standby-takes-over", beside(&standby, &[run(400)])),
        (
            "standby-is-asked",
            beside(&standby, &[vec![step::SAY, 1, 1, 1, 0], run(50)]),
        ),
        ("active", beside(&active, &[say(0), run(100), say(0)])),
        (
            "active-hands-over",
            beside(&active, &[say(0), command(0), run(60), say(1)]),
        ),
        (
            "active-is-replaced",
            beside(
                &active,
                &[say(0), command(5), say(0), vec![step::PARK], run(100)],
            ),
        ),
        (
            "active-loses-links",
            beside(&active, &[vec![step::CARRIER, 0, 0], run(100), say(0)]),
        ),
        (
            "active-is-frozen",
            beside(&active, &[vec![step::FREEZE, 3, 0], say(1)]),
        ),
        (
            "maintenance",
            beside(&active, &[say(0), command(1), run(100), command(4)]),
        ),
        ("mirror", beside(&active, &[vec![step::MIRROR, 0, 0, 1]])),
        ("stop", beside(&active, &[say(0), command(6), run(600)])),
    ]
    .map(|(name, input)| (name.to_owned(), input))
    .to_vec()
}
