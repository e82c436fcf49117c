//! One machine and a partner that says whatever it is told to, true or not. Every call is checked
//! against what must hold whatever happens.

use super::super::trailer::{Body, Signer, WireRole, name_hash};
use super::super::*;
use super::pair::{TIMEOUT, address, config, keys, ms};
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

pub(super) struct Scripted {
    pub(super) now: Instant,
    pub(super) machine: Election,
    pub(super) role: Role,
    pub(super) gate: Option<Instant>,
    /// What the last call brought about.
    pub(super) out: Vec<Action>,
    signer: Signer,
    pub(super) epoch: u64,
    sequence: u64,
    /// Epoch and sequence of the machine's newest packet.
    heard: (u64, u64),
}

impl Scripted {
    /// The first node of the pair, started and ready.
    pub(super) fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let mut scripted = Self {
            now,
            machine: Election::new(config(0), keys(), Rng::new(1), 0, now),
            role: Role::Init,
            gate: None,
            out: Vec::new(),
            signer: Signer::new(110, keys().trailer),
            epoch: 77,
            sequence: 0,
            heard: (0, 0),
        };
        scripted.call(Some(Input::Ready(true)));
        scripted
    }

    /// A HELLO of the partner, a standby that is well and hears everything, unless changed.
    pub(super) fn say(&mut self, change: impl FnOnce(&mut Body)) {
        self.sequence += 1;
        let mut body = Body {
            flags: 0,
            epoch: self.epoch,
            sequence: self.sequence,
            term: 0,
            interval_us: 100_000,
            timeout_us: 300_000,
            mode: 2,
            role: WireRole::Standby,
            ready: true,
            preferred: 0,
            health: 0b1111,
            recent: 0,
            heard: 0b11,
            generation: 1,
            echo_epoch: self.heard.0,
            echo_sequence: self.heard.1,
        };
        change(&mut body);
        let source = address(1, 0);
        let payload = self.signer.hello(source, &name_hash("front"), &body);
        self.call(Some(Input::Hello {
            link: 0,
            source,
            payload: &payload,
            at: self.now,
        }));
    }

    /// Lets time pass, with timers on time.
    pub(super) fn run(&mut self, time: std::time::Duration) {
        let end = self.now + time;
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.call(None);
        }
        self.now = end;
    }

    /// Hands an input in, or calls a timer.
    pub(super) fn call(&mut self, input: Option<Input<'_>>) {
        let mut out = Vec::new();
        match input {
            Some(input) => self.machine.handle_input(self.now, input, &mut out),
            None => self.machine.handle_timeout(self.now, &mut out),
        }
        self.out = out;
        self.check();
    }

    pub(super) fn is_open(&self) -> bool {
        self.gate.is_some_and(|until| until > self.now)
    }

    pub(super) fn reason(&self) -> Option<RoleReason> {
        let transitions = self.machine.snapshot().transitions;
        transitions.last().map(|transition| transition.reason)
    }

    fn check(&mut self) {
        let mut sent = false;
        let mut before: Option<Action> = None;
        for action in std::mem::take(&mut self.out) {
            match &action {
                Action::Gate(until) => {
                    assert!(!sent, "the gate moves before anything is sent");
                    assert!(
                        until.is_none() || matches!(self.role, Role::Active | Role::Off),
                        "opened as {:?}",
                        self.role
                    );
                    self.gate = *until;
                }
                Action::HandOver { until } => {
                    assert_eq!(before, Some(Action::Gate(None)));
                    assert!(*until > self.now && *until <= self.now + ms(50).min(TIMEOUT / 2));
                }
                Action::ClaimAddresses => {
                    assert!(matches!(before, Some(Action::Gate(Some(_)))));
                }
                Action::ReleaseAddresses => {
                    let closed = matches!(before, Some(Action::Gate(None)));
                    assert!(closed || matches!(before, Some(Action::HandOver { .. })));
                }
                Action::RoleChanged { to, .. } => {
                    assert!(
                        self.gate.is_none() || matches!(to, Role::Active | Role::Off),
                        "the gate is closed first"
                    );
                    self.role = *to;
                }
                Action::SendAdvert { .. } => sent = true,
                Action::SendHello {
                    link,
                    source,
                    payload,
                } => {
                    sent = true;
                    let name = name_hash(["front", "cable"][*link]);
                    let body = self.signer.open_hello(*source, &name, payload).unwrap();
                    self.heard = (body.epoch, body.sequence);
                }
                Action::Announce
                | Action::ReserveTerm { .. }
                | Action::Alarm { .. }
                | Action::Refused(_)
                | Action::Reexec(_)
                | Action::Stopped => {}
            }
            self.out.push(action.clone());
            before = Some(action);
        }
        let due = self.machine.poll_timeout();
        assert!(due.is_none_or(|due| due > self.now), "a timer in the past");
        let snapshot = self.machine.snapshot();
        assert_eq!(snapshot.role, self.role);
        assert!(snapshot.transitions.len() <= 32 && snapshot.alarms.len() <= 16);
    }
}
