//! Two replication machines, with what happens to connections, to roles and to every packet chosen by the input. When
//! that is over, the network works, and both nodes must come to hold the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ha_agent::datapath::family::{FlowKey, none_like};
use ha_agent::proto::records::{Put, Quota};
use ha_agent::proto::rng::Rng;
use ha_agent::proto::sync::{Action, Change, Input, Record, Salt, Sync, SyncConfig};
use ha_agent::proto::time::Instant;
use ha_common::conn::flags;

use super::Seed;
use super::partner::{CLUSTER, keys, kind, number};
use super::wishes::Wishes;

const MILLIS: Duration = Duration::from_millis(1);
/// Things that happen in one input.
const STEPS: usize = 300;
/// How long the machines may take to put everything right: they wait up to half a minute between two attempts.
const HEALING: Duration = Duration::from_mins(2);
/// Connections that a table takes.
const ENTRIES: usize = 256;
pub(super) const NAMESPACE: &str = "sessions";
const QUOTA: Quota = Quota {
    records: 20,
    bytes: 1000,
};

/// What may happen; the numbers are those of the inputs' bytes.
mod step {
    pub(super) const PUT: u8 = 0;
    pub(super) const DELETE: u8 = 1;
    pub(super) const RUN: u8 = 2;
    pub(super) const FATES: u8 = 3;
    pub(super) const SWAP: u8 = 4;
    pub(super) const RESTART: u8 = 5;
    pub(super) const RECORD: u8 = 6;
    pub(super) const ERASE: u8 = 7;
    pub(super) const FLUSH: u8 = 8;
    pub(super) const MANY: u8 = 9;
    pub(super) const ALL: u8 = 10;
}

/// A node.
struct Node {
    sync: Sync,
    /// The data plane's map.
    map: BTreeMap<FlowKey, Record>,
    ready: bool,
}

/// A packet on its way: arrival, number, receiver, bytes.
type Travelling = (Instant, u64, usize, Vec<u8>);

/// Two nodes and a network.
pub(super) struct Two {
    now: Instant,
    nodes: [Node; 2],
    active: usize,
    term: u64,
    salts: u64,
    /// What becomes of the next packets; those without a fate arrive soon.
    fates: VecDeque<u8>,
    network: BinaryHeap<Reverse<Travelling>>,
    packets: u64,
    /// The tag of every packet by session, purpose and number.
    nonces: HashMap<(u64, bool, u64), u64>,
}

/// Plays an input.
pub fn play(input: &[u8]) {
    let mut wishes = Wishes::new(input);
    let mut two = Two::new();
    for _ in 0..STEPS {
        if wishes.is_over() {
            break;
        }
        two.step(&mut wishes);
    }
    two.heal();
}

fn config(node: u8) -> SyncConfig {
    SyncConfig {
        max_entries: ENTRIES,
        retain_packets: 64,
        ..SyncConfig::new(node, CLUSTER)
    }
}

/// A machine that is standby.
pub(super) fn machine(node: u8, salt: Salt, now: Instant) -> Sync {
    let mut sync = Sync::new(config(node), keys(), salt, Rng::new(node.into()), now);
    sync.set_quotas([(NAMESPACE.to_owned(), QUOTA)]);
    sync
}

/// A connection of a client: of any family and kind.
pub(super) fn record(client: u8, version: u8) -> Record {
    let wide = |last: u8| -> IpAddr {
        if client & 1 == 0 {
            Ipv4Addr::new(10, 0, 0, last).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()
        }
    };
    let shared = wide(100);
    let both = client & 2 != 0;
    let one_way = if client & 4 != 0 { flags::ONE_WAY } else { 0 };
    Record {
        key: FlowKey {
            src: wide(200),
            dst: shared,
            sport: u16::from(client).to_be(),
            dport: 80_u16.to_be(),
            proto: 6,
        },
        real_addr: wide(21 + client % 3),
        from_addr: if both { shared } else { none_like(shared) },
        real_port: 8080_u16.to_be(),
        from_port: if both { u16::from(client) } else { 0 },
        state: 1 + version % 5,
        flags: one_way
            | if both {
                flags::BOTH_ENDS
            } else {
                flags::BY_HASH
            },
        version: version.into(),
    }
}

impl Two {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let mut two = Self::of(now, [1, 2].map(|node| machine(node, [node; 16], now)), 0, 1);
        two.role(0, true);
        two
    }

    /// Machines as they are; one of them is to be active.
    fn of(now: Instant, machines: [Sync; 2], active: usize, term: u64) -> Self {
        let node = |sync| Node {
            sync,
            map: BTreeMap::new(),
            ready: false,
        };
        Self {
            now,
            nodes: machines.map(node),
            active,
            term,
            salts: 0,
            fates: VecDeque::new(),
            network: BinaryHeap::new(),
            packets: 0,
            nonces: HashMap::new(),
        }
    }

    /// A standby with this table beside a new node, which is active in a term of its own.
    pub(super) fn beside_a_new_one(
        now: Instant,
        standby: Sync,
        map: BTreeMap<FlowKey, Record>,
        term: u64,
    ) -> Self {
        let other = machine(2, [0xaa; 16], now);
        let mut two = Self::of(now, [standby, other], 1, term);
        two.nodes[0].map = map;
        two.salts = 1 << 32;
        two.role(1, true);
        two.role(0, false);
        two
    }

    fn step(&mut self, wishes: &mut Wishes<'_>) {
        match wishes.byte() % step::ALL {
            step::PUT => self.put(record(wishes.byte(), wishes.byte())),
            step::MANY => {
                let (first, count) = (wishes.byte(), wishes.byte());
                for client in 0..count {
                    self.put(record(first.wrapping_add(client), 1));
                }
            }
            step::DELETE => {
                let key = record(wishes.byte(), 0).key;
                if self.nodes[self.active].map.remove(&key).is_some() {
                    self.local(Change::Delete(key));
                }
            }
            step::RUN => self.run(Duration::from_micros(100) * u32::from(wishes.word() % 20_000)),
            step::FATES => self.fates = wishes.block().iter().copied().collect(),
            step::SWAP => {
                let old = self.active;
                self.term += 1;
                if wishes.flag() {
                    self.role(old, false);
                }
                self.active = 1 - old;
                self.role(self.active, true);
                // The old one is not told before the end, or finds itself removed from office.
            }
            step::RESTART => {
                let node = usize::from(wishes.below(2));
                self.restart(node);
            }
            step::RECORD => self.write(wishes),
            step::ERASE => {
                let (key, now) = ([wishes.byte()], self.now);
                let mut out = Vec::new();
                let sync = &mut self.nodes[self.active].sync;
                sync.delete_record(now, NAMESPACE, &key, &mut out)
                    .expect("an active node deletes");
                self.perform(self.active, out);
            }
            step::FLUSH => self.input(self.active, Input::Flush),
            other => panic!("no step {other}"),
        }
    }

    fn put(&mut self, record: Record) {
        let map = &mut self.nodes[self.active].map;
        if map.len() < ENTRIES || map.contains_key(&record.key) {
            map.insert(record.key, record);
            self.local(Change::Put(record));
        }
    }

    fn local(&mut self, change: Change) {
        let at = self.now;
        self.input(self.active, Input::Local { change, at });
    }

    fn write(&mut self, wishes: &mut Wishes<'_>) {
        let (key, ttl) = (vec![wishes.byte()], wishes.word());
        let put = Put {
            namespace: NAMESPACE.to_owned(),
            key,
            value: wishes.block().to_vec(),
            ttl: (ttl & 1 != 0).then(|| MILLIS * u32::from(ttl)),
            age: Duration::ZERO,
        };
        let mut out = Vec::new();
        let sync = &mut self.nodes[self.active].sync;
        // What does not fit is refused.
        let written = sync.put_record(self.now, put, &mut out).is_ok();
        assert!(written || out.is_empty());
        self.perform(self.active, out);
    }

    fn salt(&mut self) -> Salt {
        self.salts += 1;
        let mut salt = [0x55; 16];
        salt[..8].copy_from_slice(&self.salts.to_be_bytes());
        salt
    }

    fn role(&mut self, node: usize, active: bool) {
        let (term, salt) = (self.term, self.salt());
        self.input(node, Input::Role { active, term, salt });
    }

    /// A node's agent ends, and the next one finds what is in the map.
    fn restart(&mut self, node: usize) {
        let salt = self.salt();
        let host = &mut self.nodes[node];
        host.sync = machine(node as u8 + 1, salt, self.now);
        host.ready = false;
        let found = host.map.values().copied().collect();
        self.input(node, Input::Load(found));
        if node == self.active {
            self.term += 1;
            self.role(node, true);
        }
    }

    fn input(&mut self, node: usize, input: Input<'_>) {
        let mut out = Vec::new();
        let sync = &mut self.nodes[node].sync;
        sync.handle_input(self.now, input, &mut out);
        self.perform(node, out);
    }

    fn perform(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to: _, bytes } => self.send(node, &bytes),
                Action::Ready(ready) => self.nodes[node].ready = ready,
                Action::Apply { change, .. } => apply(&mut self.nodes[node].map, change),
                Action::Record(_) => {}
            }
        }
    }

    fn send(&mut self, from: usize, bytes: &[u8]) {
        check_packet(&mut self.nonces, bytes);
        let fate = self.fates.pop_front().unwrap_or_default();
        let mut arrive = |bytes: &[u8], after: Duration| {
            self.packets += 1;
            let flight = (self.now + after, self.packets, 1 - from, bytes.to_vec());
            self.network.push(Reverse(flight));
        };
        let soon = Duration::from_micros(50 + 100 * u64::from(fate % 8));
        match fate {
            0..192 => arrive(bytes, soon),
            192..216 => {}
            216..232 => {
                arrive(bytes, soon);
                arrive(bytes, soon * 3);
            }
            232..248 => {
                let mut spoiled = bytes.to_vec();
                let at = usize::from(fate) * 7 % spoiled.len();
                spoiled[at] ^= 1 << (fate % 8);
                arrive(&spoiled, soon);
            }
            248.. => arrive(bytes, MILLIS * 20 * u32::from(fate % 8 + 1)),
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timers = self
                .nodes
                .iter()
                .filter_map(|node| node.sync.poll_timeout());
            let arrival = self.network.peek().map(|Reverse((at, ..))| *at);
            let Some(next) = timers.chain(arrival).min().filter(|next| *next < end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some(Reverse((at, ..))) = self.network.peek()
                && *at <= self.now
                && let Some(Reverse((_, _, to, bytes))) = self.network.pop()
            {
                self.input(to, Input::Packet { bytes: &bytes });
            }
            for node in 0..2 {
                self.tick(node);
            }
        }
    }

    fn tick(&mut self, node: usize) {
        let sync = &mut self.nodes[node].sync;
        if sync.poll_timeout().is_none_or(|due| due > self.now) {
            return;
        }
        let mut out = Vec::new();
        sync.handle_timeout(self.now, &mut out);
        let again = sync.poll_timeout();
        assert!(again.is_none_or(|due| due > self.now), "a busy loop");
        self.perform(node, out);
    }

    /// On a network that works both come to hold the same.
    pub(super) fn heal(&mut self) {
        self.fates.clear();
        self.role(1 - self.active, false);
        let end = self.now + HEALING;
        while !self.is_whole() {
            assert!(self.now < end, "not whole: {}", self.state());
            self.run(MILLIS * 50);
        }
    }

    fn is_whole(&self) -> bool {
        let standby = &self.nodes[1 - self.active];
        let lists = self.nodes.each_ref().map(|node| {
            let list = node
                .sync
                .records()
                .list(self.now, NAMESPACE, None, usize::MAX);
            let list = list.unwrap_or_default().into_iter();
            list.map(|view| (view.key, view.value, view.stamp))
                .collect::<Vec<_>>()
        });
        let sizes = self
            .nodes
            .each_ref()
            .map(|node| node.sync.snapshot().entries);
        standby.ready
            && self.nodes[0].map == self.nodes[1].map
            && sizes[0] == sizes[1]
            && lists[0] == lists[1]
    }

    fn state(&self) -> String {
        let node = |node: &Node| {
            let records = node.sync.records().snapshot();
            (node.map.len(), node.ready, node.sync.snapshot(), records)
        };
        format!("{:#?}", self.nodes.each_ref().map(node))
    }
}

/// A change of a data plane's map.
pub(super) fn apply(map: &mut BTreeMap<FlowKey, Record>, change: Change) {
    match change {
        Change::Put(record) => {
            map.insert(record.key, record);
        }
        Change::Delete(key) => {
            map.remove(&key);
        }
    }
}

/// A packet is no longer than it may be, and no two packets have one nonce.
pub(super) fn check_packet(nonces: &mut HashMap<(u64, bool, u64), u64>, bytes: &[u8]) {
    assert!(bytes.len() <= config(1).lengths.most, "too long a packet");
    let nonce = (
        number(&bytes[12..]),
        bytes[3] == kind::DATA,
        number(&bytes[20..]),
    );
    // The tag stands for the packet.
    let tag = number(&bytes[bytes.len() - 8..]);
    let before = nonces.insert(nonce, tag);
    assert!(before.is_none_or(|before| before == tag), "a nonce twice");
}

/// Traffic, and everything that may befall it.
pub fn seeds() -> Vec<Seed> {
    let run = |tenths: u16| [&[step::RUN][..], &tenths.to_be_bytes()].concat();
    let fates = |fates: &[u8]| [&[step::FATES, fates.len() as u8][..], fates].concat();
    let traffic = [
        run(100),
        vec![step::MANY, 0, 40, step::FLUSH],
        run(50),
        vec![
            step::PUT,
            3,
            2,
            step::DELETE,
            4,
            step::RECORD,
            1,
            0,
            0,
            2,
            7,
            7,
        ],
        vec![step::RECORD, 2, 1, 1, 1, 9, step::ERASE, 1],
        run(1000),
    ]
    .concat();
    let after = |more: &[Vec<u8>]| [traffic.clone(), more.concat(), traffic.clone()].concat();
    [
        ("traffic", traffic.clone()),
        ("swap", after(&[vec![step::SWAP, 1]])),
        ("takeover", after(&[vec![step::SWAP, 0], run(2000)])),
        ("standby-restarts", after(&[vec![step::RESTART, 1]])),
        ("active-restarts", after(&[vec![step::RESTART, 0]])),
        ("loss", after(&[fates(&[200; 40])])),
        (
            "some-loss",
            after(&[fates(&[0, 200, 1, 2, 200, 3, 4, 200])]),
        ),
        ("twice", after(&[fates(&[220; 30])])),
        ("spoiled", after(&[fates(&[235, 0, 240, 0, 245, 0, 236])])),
        ("late", after(&[fates(&[250, 0, 251, 0, 0, 0, 255])])),
        (
            "full",
            after(&[vec![step::MANY, 0, 255, step::MANY, 100, 255]]),
        ),
    ]
    .map(|(name, input)| (name.to_owned(), input))
    .to_vec()
}
