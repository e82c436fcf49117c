//! Two machines and a network that delivers at once, unless told otherwise. The simulator in the
//! `tests` package is the one that is cruel.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::super::*;
use crate::config::model::{CarpAuth, Mode, Preferred};
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

pub(super) const INTERVAL: Duration = Duration::from_millis(100);
pub(super) const TIMEOUT: Duration = Duration::from_millis(300);
pub(super) const HOLD_DOWN: Duration = Duration::from_secs(1);
pub(super) const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));

pub(super) fn address(node: usize, link: usize) -> IpAddr {
    IpAddr::from([10, link as u8, 0, 11 + node as u8])
}

/// Two links: `front` with a shared address and a gateway, `cable` without addresses.
pub(super) fn config(node: usize) -> ElectionConfig {
    ElectionConfig {
        mode: [Mode::First, Mode::Second][node],
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
                addresses: vec![address(node, 0)],
                partners: vec![address(1 - node, 0)],
                shared: vec![SHARED],
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
    }
}

pub(super) fn keys() -> ElectionKeys {
    ElectionKeys {
        carp_passphrase: b"secret".to_vec(),
        trailer: vec![(1, [7; 16])],
    }
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A packet as it left a node.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: usize,
    pub(super) link: usize,
    pub(super) source: IpAddr,
    pub(super) advert: bool,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) nodes: [Option<Election>; 2],
    pub(super) gates: [Option<Instant>; 2],
    /// All actions but packets, by node.
    pub(super) log: Vec<(usize, Action)>,
    /// All packets ever sent.
    pub(super) sent: Vec<Packet>,
    /// Whether packets from a node arrive on a link.
    pub(super) cut: [[bool; 2]; 2],
    pub(super) frozen: [bool; 2],
    /// Advertisements over IPv6, or over IPv4, do not arrive.
    pub(super) deaf_family: Option<bool>,
    waiting: VecDeque<Packet>,
    seed: u64,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(config)
    }

    pub(super) fn with(config: impl Fn(usize) -> ElectionConfig) -> Self {
        let mut pair = Self {
            now: Instant::from_nanos(1_000_000_000),
            nodes: [None, None],
            gates: [None, None],
            log: Vec::new(),
            sent: Vec::new(),
            cut: [[false; 2]; 2],
            frozen: [false; 2],
            deaf_family: None,
            waiting: VecDeque::new(),
            seed: 0,
        };
        for node in 0..2 {
            pair.start(node, config(node), 0);
        }
        pair
    }

    pub(super) fn start(&mut self, node: usize, config: ElectionConfig, first_term: u64) {
        self.seed += 1;
        self.nodes[node] = Some(Election::new(
            config,
            keys(),
            Rng::new(self.seed),
            first_term,
            self.now,
        ));
    }

    pub(super) fn power_off(&mut self, node: usize) {
        self.nodes[node] = None;
        self.gates[node] = None;
    }

    pub(super) fn input(&mut self, node: usize, input: Input<'_>) {
        let mut out = Vec::new();
        if let Some(machine) = &mut self.nodes[node] {
            machine.handle_input(self.now, input, &mut out);
        }
        self.perform(node, out);
        self.deliver();
    }

    pub(super) fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
    }

    fn perform(&mut self, node: usize, out: Vec<Action>) {
        for action in out {
            match action {
                Action::SendAdvert {
                    link,
                    source,
                    payload,
                } => self.send(Packet {
                    from: node,
                    link,
                    source,
                    advert: true,
                    payload,
                }),
                Action::SendHello {
                    link,
                    source,
                    payload,
                } => self.send(Packet {
                    from: node,
                    link,
                    source,
                    advert: false,
                    payload,
                }),
                Action::ReserveTerm { up_to } => {
                    let mut out = Vec::new();
                    if let Some(machine) = &mut self.nodes[node] {
                        machine.handle_input(self.now, Input::TermReserved(up_to), &mut out);
                    }
                    self.log.push((node, Action::ReserveTerm { up_to }));
                    self.perform(node, out);
                }
                Action::Gate(until) => {
                    self.gates[node] = until;
                    assert!(
                        !(self.open(0) && self.open(1)),
                        "two gates open at {}: {:?}",
                        self.now,
                        self.log
                    );
                    self.log.push((node, action));
                }
                Action::HandOver { until } => {
                    assert_eq!(self.log.last(), Some(&(node, Action::Gate(None))));
                    assert!(until > self.now && until <= self.now + ms(50).min(TIMEOUT / 2));
                    self.log.push((node, action));
                }
                Action::Reexec(answer) => {
                    // From here on the machine is handed nothing.
                    self.frozen[node] |= answer.is_ok();
                    self.log.push((node, action));
                }
                Action::ClaimAddresses
                | Action::ReleaseAddresses
                | Action::Announce
                | Action::RoleChanged { .. }
                | Action::Alarm { .. }
                | Action::Refused(_)
                | Action::Stopped => self.log.push((node, action)),
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        self.sent.push(packet.clone());
        let deaf = packet.advert && self.deaf_family == Some(packet.source.is_ipv6());
        if !deaf && !self.cut[packet.from][packet.link] {
            self.waiting.push_back(packet);
        }
    }

    /// Delivers what is on the wire to those who are awake.
    fn deliver(&mut self) {
        for _ in 0..1000 {
            let Some(index) = self
                .waiting
                .iter()
                .position(|packet| !self.frozen[1 - packet.from])
            else {
                return;
            };
            let packet = self.waiting.remove(index).unwrap();
            self.hand(1 - packet.from, &packet);
        }
        panic!("packets beget packets");
    }

    /// Loses what is on its way to a node.
    pub(super) fn drop_waiting(&mut self, to: usize) {
        self.waiting.retain(|packet| packet.from == to);
    }

    /// Hands a packet to a node.
    pub(super) fn hand(&mut self, to: usize, packet: &Packet) {
        let mut out = Vec::new();
        let (link, source, at) = (packet.link, packet.source, self.now);
        let payload = packet.payload.as_slice();
        let input = if packet.advert {
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
        };
        if let Some(machine) = &mut self.nodes[to] {
            machine.handle_input(self.now, input, &mut out);
        }
        self.perform(to, out);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = (0..2)
                .filter(|node| !self.frozen[*node])
                .filter_map(|node| self.nodes[node].as_ref()?.poll_timeout())
                .min()
                .filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            for node in 0..2 {
                if self.frozen[node] {
                    continue;
                }
                let mut out = Vec::new();
                if let Some(machine) = &mut self.nodes[node]
                    && machine.poll_timeout().is_some_and(|due| due <= self.now)
                {
                    machine.handle_timeout(self.now, &mut out);
                    assert!(
                        machine.poll_timeout().is_none_or(|due| due > self.now),
                        "busy loop"
                    );
                }
                self.perform(node, out);
            }
            self.deliver();
        }
        self.now = end;
    }

    /// Runs until a condition holds; how long it took.
    pub(super) fn until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !holds(self) {
            assert!(
                self.now < start + limit,
                "not within {limit:?}: {:?} {:?} {:#?}",
                self.role(0),
                self.role(1),
                self.log
            );
            self.run(ms(1));
        }
        self.now.since(start)
    }

    pub(super) fn thaw(&mut self, node: usize) {
        self.frozen[node] = false;
        self.deliver();
    }

    pub(super) fn role(&self, node: usize) -> Option<Role> {
        Some(self.nodes[node].as_ref()?.snapshot().role)
    }

    pub(super) fn term(&self, node: usize) -> u64 {
        self.nodes[node].as_ref().unwrap().snapshot().term
    }

    pub(super) fn open(&self, node: usize) -> bool {
        self.gates[node].is_some_and(|until| until > self.now)
    }

    /// `node` is active with an open gate and the other one is standby.
    pub(super) fn settled(&self, node: usize) -> bool {
        self.role(node) == Some(Role::Active)
            && self.open(node)
            && self.role(1 - node) == Some(Role::Standby)
            && !self.open(1 - node)
    }

    pub(super) fn reasons(&self, node: usize) -> Vec<RoleReason> {
        self.log
            .iter()
            .filter_map(|(from, action)| {
                let Action::RoleChanged { reason, .. } = action else {
                    return None;
                };
                (*from == node).then_some(*reason)
            })
            .collect()
    }
}
