//! One real machine, and a partner that does what it is told.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket};
use ha_agent::config::model::{CarpAuth, Mode, Preferred};
use ha_agent::journal::{Begin, Happened, Keys, Line, Player, Setup};
use ha_agent::proto::carp::trailer::{Body, Signer, WireRole, name_hash};
use ha_agent::proto::carp::wire::Group;
use ha_agent::proto::carp::{
    Action, Alarm, Command, ElectionConfig, ElectionKeys, LinkConfig, Refusal, Role, RoleReason,
    Snapshot,
};
use ha_agent::proto::time::Instant;
use ha_common::carp::trailer_flags;
use ha_tests::pcap;

pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
pub(crate) const TIMEOUT: Duration = Duration::from_millis(300);
pub(crate) const HOLD_DOWN: Duration = Duration::from_millis(600);
const START: Instant = Instant::from_nanos(1_000_000_000);
pub(crate) const FRONT: usize = 0;
pub(crate) const CABLE: usize = 1;
/// The partner on the front link.
pub(crate) const PARTNER: [u8; 4] = [10, 0, 0, 12];
pub(crate) const OWN: [u8; 4] = [10, 0, 0, 11];
const SEED: u64 = 1;

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn keys(passphrase: &str) -> ElectionKeys {
    ElectionKeys {
        carp_passphrase: passphrase.as_bytes().to_vec(),
        trailer: vec![(1, [7; 16]), (2, [8; 16])],
    }
}

/// A packet as it was put on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) link: usize,
    pub(crate) source: IpAddr,
    pub(crate) advert: bool,
    pub(crate) payload: Vec<u8>,
}

/// A case in the making.
pub(crate) struct Script {
    /// The machine's settings; to be changed before anything happens.
    pub(crate) config: ElectionConfig,
    /// Passphrase of the CARP digest.
    pub(crate) passphrase: &'static str,
    pub(crate) first_term: u64,
    /// What the partner says of itself; echo, sequence and term are filled in.
    pub(crate) partner: Body,
    /// The partner echoes the newest packet it got.
    pub(crate) echoes: bool,
    /// The partner learns terms.
    pub(crate) learns: bool,
    /// The partner answers each packet of the machine at once, as a standby does.
    pub(crate) follows: bool,
    /// Reservations of terms are written.
    pub(crate) disk_works: bool,
    pub(crate) now: Instant,
    /// All packets of the machine.
    pub(crate) sent: Vec<Packet>,
    /// All other actions.
    pub(crate) actions: Vec<Action>,
    /// All packets of the partner.
    pub(crate) heard: Vec<Packet>,
    player: Player,
    begun: bool,
    lines: Vec<Line>,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            config: ElectionConfig {
                mode: Mode::First,
                vhid: 110,
                interval: INTERVAL,
                timeout: TIMEOUT,
                initial_wait: Duration::ZERO,
                hold_down: HOLD_DOWN,
                preferred: Preferred::None,
                auth: CarpAuth::Enforce,
                generation: 1,
                start_pacified: false,
                start_maintenance: false,
                links: vec![
                    LinkConfig {
                        name: "front".to_owned(),
                        addresses: vec![OWN.into()],
                        partners: vec![PARTNER.into()],
                        shared: vec![[10, 0, 0, 100].into()],
                        has_gateway: true,
                    },
                    LinkConfig {
                        name: "cable".to_owned(),
                        addresses: Vec::new(),
                        partners: Vec::new(),
                        shared: Vec::new(),
                        has_gateway: false,
                    },
                ],
            },
            passphrase: "secret",
            first_term: 0,
            partner: Body {
                flags: 0,
                epoch: 0xb0b,
                sequence: 0,
                term: 0,
                interval_us: 100_000,
                timeout_us: 300_000,
                mode: 2,
                role: WireRole::Standby,
                ready: false,
                preferred: 0,
                health: 0b1111,
                recent: 0,
                heard: 0b11,
                generation: 1,
                echo_epoch: 0,
                echo_sequence: 0,
            },
            echoes: true,
            learns: true,
            follows: false,
            disk_works: true,
            now: START,
            sent: Vec::new(),
            actions: Vec::new(),
            heard: Vec::new(),
            player: Player::new(true),
            begun: false,
            lines: Vec::new(),
        }
    }

    pub(crate) fn lines(self) -> Vec<Line> {
        self.lines
    }

    /// A remark in the log.
    pub(crate) fn say(&mut self, what: &str) {
        self.lines.push(Line::Comment(what.to_owned()));
    }

    /// Does one thing to the machine, now.
    pub(crate) fn happen(&mut self, happened: Happened) {
        if !self.begun {
            self.begun = true;
            let setup = Setup::Begin(Box::new(Begin {
                config: self.config.clone(),
                keys: Keys::from(&keys(self.passphrase)),
                seed: SEED,
                first_term: self.first_term,
            }));
            self.player.set_up(self.now, &setup);
            self.lines.push(Line::Setup(self.now, setup));
        }
        let lines = self.player.play(self.now, &happened);
        self.lines.push(Line::Input(self.now, happened));
        self.lines.extend(lines.iter().cloned());
        let mut answers = Vec::new();
        for line in lines {
            let Line::Output(_, action) = line else {
                continue;
            };
            match action {
                Action::SendAdvert {
                    link,
                    source,
                    payload,
                } => self.notice(link, source, true, payload),
                Action::SendHello {
                    link,
                    source,
                    payload,
                } => {
                    self.notice(link, source, false, payload);
                    if self.follows {
                        answers.push(link);
                    }
                }
                Action::ReserveTerm { up_to } => {
                    self.actions.push(Action::ReserveTerm { up_to });
                    if self.disk_works {
                        self.happen(Happened::TermReserved(up_to));
                    }
                }
                other @ (Action::Gate(_)
                | Action::HandOver { .. }
                | Action::ClaimAddresses
                | Action::ReleaseAddresses
                | Action::Announce
                | Action::RoleChanged { .. }
                | Action::Alarm { .. }
                | Action::Refused(_)
                | Action::Reexec(_)
                | Action::Stopped) => self.actions.push(other),
            }
        }
        for link in answers {
            self.hello(link);
        }
    }

    fn notice(&mut self, link: usize, source: IpAddr, advert: bool, payload: Vec<u8>) {
        let trailer = if advert { &payload[36..] } else { &payload[..] };
        let body = Body::peek(trailer).unwrap();
        if self.learns {
            self.partner.term = self.partner.term.max(body.term);
        }
        if self.echoes {
            self.partner.echo_epoch = body.epoch;
            self.partner.echo_sequence = body.sequence;
        }
        self.sent.push(Packet {
            link,
            source,
            advert,
            payload,
        });
    }

    /// Lets time pass; the machine's timers fire on time.
    pub(crate) fn run(&mut self, time: Duration) {
        if !self.begun {
            self.happen(Happened::Timer);
        }
        let end = self.now + time;
        loop {
            let due = self.machine_due().filter(|due| *due <= end);
            let Some(due) = due else { break };
            self.now = self.now.max(due);
            self.happen(Happened::Timer);
        }
        self.now = end;
    }

    /// Lets time pass in which the machine's process does not run.
    pub(crate) fn freeze(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    fn machine_due(&self) -> Option<Instant> {
        self.player.machine()?.poll_timeout()
    }

    /// The next packet the partner would send.
    fn body(&mut self) -> Body {
        self.partner.sequence += 1;
        self.partner
    }

    pub(crate) fn source(link: usize) -> IpAddr {
        if link == FRONT {
            PARTNER.into()
        } else {
            [0, 0, 0, 0].into()
        }
    }

    /// A HELLO of the partner, not delivered yet.
    pub(crate) fn make_hello(&mut self, link: usize) -> Packet {
        let body = self.body();
        let source = Self::source(link);
        let name = name_hash(&self.config.links[link].name);
        Packet {
            link,
            source,
            advert: false,
            payload: signer().hello(source, &name, &body),
        }
    }

    /// An advertisement of the partner, not delivered yet.
    pub(crate) fn make_advert(&mut self, base: u8, skew: u8) -> Packet {
        let body = self.body();
        let source = Self::source(FRONT);
        let group = Group::new(b"secret", 110, &self.config.links[FRONT].shared);
        let header = group.header(base, skew, body.sequence).encode();
        Packet {
            link: FRONT,
            source,
            advert: true,
            payload: signer().advert(source, &header, &body),
        }
    }

    /// The machine receives a packet now.
    pub(crate) fn receive(&mut self, packet: &Packet) {
        self.receive_at(packet, self.now);
    }

    /// The machine is told of a packet that the kernel received earlier.
    pub(crate) fn receive_at(&mut self, packet: &Packet, at: Instant) {
        self.heard.push(packet.clone());
        let (link, source, payload) = (packet.link, packet.source, packet.payload.clone());
        self.happen(if packet.advert {
            Happened::Advert {
                link,
                source,
                at,
                payload,
            }
        } else {
            Happened::Hello {
                link,
                source,
                at,
                payload,
            }
        });
    }

    pub(crate) fn hello(&mut self, link: usize) {
        let packet = self.make_hello(link);
        self.receive(&packet);
    }

    pub(crate) fn advert(&mut self) {
        let packet = self.make_advert(0, 27);
        self.receive(&packet);
    }

    /// The partner is heard for so many intervals: an active one with advertisements, too.
    pub(crate) fn beat(&mut self, times: u32) {
        for _ in 0..times {
            if self.partner.role == WireRole::Active {
                self.advert();
            }
            self.hello(FRONT);
            self.hello(CABLE);
            self.run(INTERVAL);
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.happen(Happened::Command(command));
    }

    /// Both have met and this node is active under the echoes of a standby.
    pub(crate) fn become_active(&mut self) {
        self.follows = true;
        self.run(ms(250));
        assert_eq!(self.role(), Role::Active);
        assert!(self.is_open());
    }

    /// The partner is active in that term and this node watches.
    pub(crate) fn become_standby(&mut self, term: u64) {
        self.partner.role = WireRole::Active;
        self.partner.term = term;
        self.run(Duration::ZERO);
        self.beat(3);
        assert_eq!(self.role(), Role::Standby);
        assert!(!self.is_open());
    }

    pub(crate) fn flag(&mut self, flag: u16, set: bool) {
        if set {
            self.partner.flags |= flag;
        } else {
            self.partner.flags &= !flag;
        }
    }

    /// What the partner says when it gives the active role up.
    pub(crate) fn release(&mut self) {
        self.partner.role = WireRole::Standby;
        self.flag(trailer_flags::RELEASE, true);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.player.machine().unwrap().snapshot()
    }

    pub(crate) fn role(&self) -> Role {
        self.snapshot().role
    }

    pub(crate) fn term(&self) -> u64 {
        self.snapshot().term
    }

    /// The gate is open at this moment.
    pub(crate) fn is_open(&self) -> bool {
        self.gate().is_some_and(|until| until > self.now)
    }

    /// The gate word.
    pub(crate) fn gate(&self) -> Option<Instant> {
        self.actions
            .iter()
            .rev()
            .find_map(|action| match action {
                Action::Gate(until) => Some(*until),
                _ => None,
            })
            .flatten()
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.snapshot().counters[name]
    }

    /// What the machine said last.
    pub(crate) fn told(&self) -> Body {
        let hello = self.sent.iter().rev().find(|packet| !packet.advert);
        Body::peek(&hello.unwrap().payload).unwrap()
    }

    pub(crate) fn has_alarm(&self, alarm: Alarm) -> bool {
        self.snapshot()
            .alarms
            .iter()
            .any(|held| held.alarm == alarm)
    }

    pub(crate) fn last_reason(&self) -> Option<RoleReason> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::RoleChanged { reason, .. } => Some(*reason),
            _ => None,
        })
    }

    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::Refused(refusal) => Some(*refusal),
            _ => None,
        })
    }

    pub(crate) fn announcements(&self) -> usize {
        let announce = |action: &&Action| **action == Action::Announce;
        self.actions.iter().filter(announce).count()
    }

    /// Bodies of the machine's packets from the `from`th on.
    pub(crate) fn bodies(&self, from: usize) -> Vec<(bool, Body)> {
        self.sent[from..]
            .iter()
            .map(|packet| {
                let trailer = if packet.advert {
                    &packet.payload[36..]
                } else {
                    &packet.payload[..]
                };
                (packet.advert, Body::peek(trailer).unwrap())
            })
            .collect()
    }

    /// The settings for a pair with ucarp: its captures' vhid, passphrase, address and timing.
    pub(crate) fn with_ucarp(&mut self, auth: CarpAuth) {
        self.config.vhid = 1;
        self.config.auth = auth;
        self.config.interval = Duration::from_secs(1);
        self.config.timeout = Duration::from_secs(3);
        self.config.links.truncate(1);
        let link = &mut self.config.links[FRONT];
        link.has_gateway = false;
        link.shared = vec![[10, 99, 0, 100].into()];
        link.addresses = vec![[10, 99, 0, 9].into()];
        link.partners = Vec::new();
    }

    /// Plays the advertisements of a capture with their own distances; at most so many.
    pub(crate) fn capture(&mut self, name: &str, most: usize) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures/carp")
            .join(name);
        let frames = pcap::read(&path).unwrap();
        let mut first = None;
        let begin = self.now;
        for frame in &frames {
            let packet = SlicedPacket::from_ethernet(&frame.bytes).unwrap();
            let Some(NetSlice::Ipv4(ip)) = packet.net else {
                continue;
            };
            let since = frame.at - *first.get_or_insert(frame.at);
            let now = begin + since;
            self.run(now.since(self.now));
            self.receive(&Packet {
                link: FRONT,
                source: ip.header().source_addr().into(),
                advert: true,
                payload: ip.payload().payload.to_vec(),
            });
            if self.heard.len() == most {
                break;
            }
        }
    }

    /// An advertisement of a peer without trailer.
    pub(crate) fn foreign(&mut self, host: u8, base: u8, skew: u8) {
        let shared = &self.config.links[FRONT].shared;
        let group = Group::new(b"secret", self.config.vhid, shared);
        self.partner.sequence += 1;
        let header = group.header(base, skew, self.partner.sequence);
        let packet = Packet {
            link: FRONT,
            source: [10, 99, 0, host].into(),
            advert: true,
            payload: header.encode().to_vec(),
        };
        self.receive(&packet);
    }
}

pub(crate) fn signer() -> Signer {
    Signer::new(110, keys("").trailer)
}
