//! The loop of the election thread.

mod receive;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use aya::maps::{MapData, RingBuf};
use tokio::sync::{mpsc, oneshot, watch};

use super::carrier::Carriers;
use super::port::Port;
use super::reach::{Passage, Reach};
use super::recorder::Recorder;
use super::{
    Addresses, Command, Event, Lateness, Link, Parts, Paused, Published, QUEUE, Request, RoleTerm,
};
use crate::datapath::gate::GateWord;
use crate::journal::Happened;
use crate::proto::carp::trailer::WireRole;
use crate::proto::carp::{Action, Election, ElectionKeys, Input, Refusal, Role};
use crate::proto::time::Instant;
use crate::shell::announce::Announcements;
use crate::shell::gateway::GatewayProbe;
use crate::shell::wake::{self, Wake};
use crate::shell::{clock, frame, realtime};

/// How often the published snapshot is renewed when nothing happens.
const PUBLISH: Duration = Duration::from_millis(100);

pub(super) struct Worker {
    election: Election,
    ports: Vec<Port>,
    carriers: Carriers,
    gate: GateWord,
    ring: RingBuf<MapData>,
    announcements: Announcements,
    queue: Receiver<Command>,
    wake: Wake,
    events: mpsc::Sender<Event>,
    addresses: watch::Sender<Addresses>,
    roles: Box<dyn Fn(RoleTerm) -> bool + Send>,
    /// A role that the replication thread could not take yet.
    untold: Option<RoleTerm>,
    published: Arc<ArcSwap<Published>>,
    /// The highest term that the kernel has heard of, as the machine was told.
    overtaken: u64,
    next_publish: Instant,
    /// The partner's role when the snapshot was last renewed.
    partner_role: Option<WireRole>,
    lateness: Lateness,
    send_errors: u64,
    events_lost: u64,
    refused: Option<Refusal>,
    /// Whoever wants the program replaced.
    replacer: Option<oneshot::Sender<Result<Paused, Refusal>>>,
    /// What the machine says to that.
    replaceable: Option<Result<(), Refusal>>,
    /// The secrets in force: a recording must not hold them.
    keys: ElectionKeys,
    /// Writes down what happens.
    recorder: Option<Recorder>,
    stopped: bool,
}

impl Worker {
    pub(super) fn new(
        parts: Parts,
        queue: Receiver<Command>,
        wake: Wake,
        published: Arc<ArcSwap<Published>>,
    ) -> io::Result<Self> {
        let ports = parts
            .links
            .into_iter()
            .map(|link| Port::open(link, parts.timing))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            election: parts.election,
            ports,
            carriers: Carriers::open()?,
            gate: parts.gate,
            ring: parts.ring,
            announcements: Announcements::default(),
            queue,
            wake,
            events: parts.events,
            addresses: parts.addresses,
            roles: parts.roles,
            untold: None,
            published,
            overtaken: 0,
            next_publish: Instant::default(),
            partner_role: None,
            lateness: Lateness::default(),
            send_errors: 0,
            events_lost: 0,
            refused: None,
            replacer: None,
            replaceable: None,
            keys: parts.keys,
            recorder: None,
            stopped: false,
        })
    }

    pub(super) fn run(mut self) {
        for (what, error) in realtime::make_punctual() {
            self.event(Event::Unpunctual {
                what,
                error: error.to_string(),
            });
        }
        let mut actions = Vec::new();
        while !self.stopped {
            self.sleep();
            // What arrived comes before what is due: a node that was frozen hears first that others
            // went on without it.
            self.receive_carriers(&mut actions);
            self.receive_advertisements(&mut actions);
            self.receive_frames(&mut actions);
            self.receive_commands(&mut actions);
            self.look_at_gate(&mut actions);
            self.timers(&mut actions);
            self.untold = self.untold.take().filter(|role| !(self.roles)(*role));
            self.publish();
        }
        self.gate.close();
    }

    fn sleep(&self) {
        let now = clock::now();
        let deadline = [
            self.election.poll_timeout(),
            self.announcements.poll_timeout(),
            self.ports
                .iter()
                .filter_map(|port| port.probe.as_ref())
                .map(GatewayProbe::poll_timeout)
                .min(),
            self.ports.iter().filter_map(Port::poll_timeout).min(),
            self.ports
                .iter()
                .filter_map(|port| port.reach.as_ref())
                .map(Reach::poll_timeout)
                .min(),
            Some(self.next_publish),
        ]
        .into_iter()
        .flatten()
        .min();
        let mut fds: Vec<_> = [self.wake.as_fd(), self.ring.as_fd(), self.carriers.as_fd()]
            .map(wake::until_readable)
            .into();
        for port in &self.ports {
            if port.link.checked {
                fds.push(wake::until_readable(port.socket.as_fd()));
            }
            let replies = port.replies.iter().map(std::os::fd::AsFd::as_fd);
            fds.extend(replies.map(wake::until_readable));
        }
        if wake::sleep(&mut fds, now, deadline).is_err() {
            // A descriptor went bad; keep time all the same.
            thread::sleep(Duration::from_millis(1));
        }
        self.wake.clear();
    }

    /// Hands an input to the machine and does what it asks for.
    fn elect(&mut self, now: Instant, input: Input<'_>, actions: &mut Vec<Action>) {
        self.election.handle_input(now, input, actions);
        self.record(|recorder| recorder.happened(now, input.into(), actions));
        self.perform(actions);
    }

    /// Writes something down, if that is wanted; the recording ends when it is over or a line is lost.
    fn record(&mut self, entry: impl FnOnce(&Recorder) -> bool) {
        self.recorder = self.recorder.take().filter(entry);
    }

    /// Begins to write down what happens; `false` if that is done already.
    fn start_recording(&mut self, recorder: Recorder) -> bool {
        if self.recorder.is_some() {
            return false;
        }
        let goes_on = recorder.state(clock::now(), &self.election, &self.keys);
        self.recorder = goes_on.then_some(recorder);
        goes_on
    }

    fn link_works(&mut self, link: usize, up: bool, actions: &mut Vec<Action>) {
        let input = Input::Carrier { link, up };
        self.elect(clock::now(), input, actions);
    }

    fn receive_commands(&mut self, actions: &mut Vec<Action>) {
        for _ in 0..QUEUE {
            let Ok(command) = self.queue.try_recv() else {
                break;
            };
            let mut answer = None;
            let input = match command {
                Command::Carrier { link, up } => {
                    let port = self.ports.get_mut(link);
                    if let Some(up) = port.map(|port| port.set_fit(up)) {
                        self.link_works(link, up, actions);
                    }
                    continue;
                }
                Command::Ready(ready) => Input::Ready(ready),
                Command::TermReserved(term) => Input::TermReserved(term),
                Command::Disputed(disputed) => Input::Disputed(disputed),
                Command::Generation(generation) => Input::Generation(generation),
                Command::Settings(settings) => {
                    for port in &mut self.ports {
                        port.retime((settings.interval, settings.timeout));
                    }
                    Input::Settings(settings)
                }
                Command::Keys(keys) => {
                    self.record(|recorder| recorder.keys(clock::now(), &keys));
                    self.election.set_keys(keys.clone());
                    self.keys = keys;
                    continue;
                }
                Command::Record(recorder, to) => {
                    let _gone = to.send(self.start_recording(*recorder));
                    continue;
                }
                Command::Announce => {
                    self.announce_again();
                    continue;
                }
                Command::Rebound { index, port } => {
                    self.rebound(index, *port);
                    continue;
                }
                Command::Reexec(to) => {
                    self.replacer = Some(to);
                    Input::Command(Request::Reexec)
                }
                Command::Operator(request, to) => {
                    answer = Some(to);
                    Input::Command(request)
                }
            };
            self.refused = None;
            self.elect(clock::now(), input, actions);
            if let Some(to) = answer {
                // Whoever asked may have gone away.
                let _gone = to.send(self.refused.take().map_or(Ok(()), Err));
            }
        }
    }

    /// The kernel may have closed the gate on an advertisement that was lost on its way here.
    fn look_at_gate(&mut self, actions: &mut Vec<Action>) {
        let term = self.gate.overtaken();
        if term > self.overtaken {
            self.overtaken = term;
            let input = Input::Overtaken(term);
            self.elect(clock::now(), input, actions);
        }
    }

    /// An interface was made anew; whoever is on it now has not heard of this node.
    fn rebound(&mut self, index: usize, port: Port) {
        if let Some(known) = self.ports.get_mut(index) {
            let old = std::mem::replace(known, port);
            known.succeed(&old);
        }
        self.announce_again();
    }

    /// Begins a round of announcements, if this node holds the addresses.
    fn announce_again(&mut self) {
        if self.addresses.borrow().held && self.announcements.start(clock::now()) {
            self.announce();
        }
    }

    fn timers(&mut self, actions: &mut Vec<Action>) {
        let now = clock::now();
        if let Some(due) = self.election.poll_timeout().filter(|due| *due <= now) {
            self.note_lateness(now.since(due));
            self.election.handle_timeout(now, actions);
            self.record(|recorder| recorder.happened(now, Happened::Timer, actions));
            self.perform(actions);
        }
        self.probe_gateways(now, actions);
        self.watch_multicast(now, actions);
        self.watch_virtual_mac(now);
        if self.announcements.due(now) {
            self.announce();
        }
    }

    fn watch_multicast(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for link in 0..self.ports.len() {
            let change = self
                .ports
                .get_mut(link)
                .and_then(|p| p.multicast_change(now));
            if let Some(heard) = change {
                let input = Input::Multicast { link, heard };
                self.elect(now, input, actions);
            }
        }
    }

    fn watch_virtual_mac(&mut self, now: Instant) {
        let watching = self.election.role() == Role::Standby
            && self.election.partner_role() == Some(WireRole::Active);
        for index in 0..self.ports.len() {
            let heard = self.election.heard_on(index);
            let Some(port) = self.ports.get_mut(index) else {
                break;
            };
            let Some(reach) = &mut port.reach else {
                continue;
            };
            let due = reach.due(now, watching, heard);
            let question = due.ask.then(|| port.question_to_virtual_mac()).flatten();
            let link = port.link.name.clone();
            if let Some(question) = question {
                self.send_all(index, &[question]);
            }
            if let Some(news) = due.news {
                let blocked = match news {
                    Passage::Blocked(evidence) => Some(evidence),
                    Passage::Passing => None,
                };
                self.event(Event::VirtualMac { link, blocked });
            }
        }
    }

    fn probe_gateways(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.ports.len() {
            let Some(port) = self.ports.get_mut(index) else {
                break;
            };
            let Some(probe) = &mut port.probe else {
                continue;
            };
            let due = probe.due(now);
            let change = probe.change(now);
            if due {
                let questions = port.questions();
                self.send_all(index, &questions);
            }
            if let Some(reachable) = change {
                let input = Input::Gateway {
                    link: index,
                    reachable,
                };
                self.elect(now, input, actions);
            }
        }
    }

    fn perform(&mut self, actions: &mut Vec<Action>) {
        self.gate.set_partner(self.election.partner_epoch());
        for action in actions.drain(..) {
            match action {
                Action::Gate(None) => self.gate.close(),
                Action::Gate(Some(until)) => self.gate.open_until(until),
                Action::HandOver { until } => self.gate.hand_over_until(until),
                Action::SendAdvert {
                    link,
                    source,
                    payload,
                } => {
                    let open = self.is_open();
                    self.send(link, |link| {
                        let shared = link.virtual_mac.filter(|_| open);
                        frame::advertisement(shared.unwrap_or(link.mac), source, &payload)
                    });
                }
                Action::SendHello {
                    link,
                    source,
                    payload,
                } => self.send(link, |link| frame::hello(link.mac, source, &payload)),
                Action::ClaimAddresses => {
                    self.addresses.send_replace(Addresses { held: true });
                }
                Action::ReleaseAddresses => {
                    self.announcements.stop();
                    self.addresses.send_replace(Addresses { held: false });
                }
                Action::Announce => {
                    if self.announcements.start(clock::now()) {
                        self.announce();
                    }
                }
                Action::ReserveTerm { up_to } => self.event(Event::ReserveTerm { up_to }),
                Action::RoleChanged {
                    from,
                    to,
                    reason,
                    term,
                } => {
                    if to == Role::Active {
                        self.gate.set_term(term);
                    }
                    self.untold = Some(RoleTerm {
                        active: to == Role::Active,
                        pacified: to == Role::Pacified,
                        term,
                    });
                    self.event(Event::RoleChanged {
                        from,
                        to,
                        reason,
                        term,
                    });
                    self.next_publish = Instant::default();
                }
                Action::Alarm {
                    alarm,
                    raised,
                    evidence,
                } => self.event(Event::Alarm {
                    alarm,
                    raised,
                    evidence,
                }),
                Action::Refused(refusal) => self.refused = Some(refusal),
                Action::Reexec(answer) => self.replaceable = Some(answer),
                Action::Stopped => {
                    self.stopped = true;
                    self.event(Event::Stopped);
                }
            }
        }
        self.pause();
    }

    /// Hands the machine's state out and does nothing until it is handed back: another program may
    /// have continued with it.
    fn pause(&mut self) {
        let Some(answer) = self.replaceable.take() else {
            return;
        };
        let Some(to) = self.replacer.take() else {
            return;
        };
        let (hold, held) = sync_channel(0);
        let paused = answer.map(|()| Paused {
            parked: self.election.park(),
            _hold: hold,
        });
        if to.send(paused).is_ok() {
            // An error says that it was handed back.
            let _back = held.recv();
        }
    }

    fn send(&mut self, link: usize, build: impl FnOnce(&Link) -> Vec<u8>) {
        if let Some(port) = self.ports.get(link) {
            let wanted = self.election.wants_unicast(link);
            let sent = port.send(&build(&port.link), wanted);
            self.count_send(&sent);
        }
    }

    /// Whether this node may act, and so use the virtual MAC, now.
    fn is_open(&self) -> bool {
        let now = clock::now().as_nanos();
        self.gate.read().is_open(now, || now)
    }

    fn announce(&mut self) {
        let open = self.is_open();
        for index in 0..self.ports.len() {
            let port = self.ports.get(index).into_iter();
            let port = port.filter(|port| open || port.link.virtual_mac.is_none());
            let frames: Vec<Vec<u8>> = port.flat_map(Port::announcements).collect();
            self.send_all(index, &frames);
        }
    }

    fn send_all(&mut self, index: usize, frames: &[Vec<u8>]) {
        for frame in frames {
            if let Some(port) = self.ports.get(index) {
                let sent = port.socket.send(frame);
                self.count_send(&sent);
            }
        }
    }

    fn count_send(&mut self, sent: &io::Result<()>) {
        self.send_errors += u64::from(sent.is_err());
    }

    fn event(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.events_lost += 1;
        }
    }

    fn note_lateness(&mut self, late: Duration) {
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.lateness.timers += 1;
        self.lateness.late += u64::from(late > 1_000);
        self.lateness.max_us = self.lateness.max_us.max(late);
    }

    fn publish(&mut self) {
        let now = clock::now();
        let partner = self.election.partner_role();
        if now < self.next_publish && partner == self.partner_role {
            return;
        }
        self.partner_role = partner;
        self.next_publish = now + PUBLISH;
        self.published.store(Arc::new(Published {
            at: now,
            election: self.election.snapshot(),
            lateness: self.lateness,
            send_errors: self.send_errors,
            events_lost: self.events_lost,
        }));
    }
}
