//! The maps as they are, and what a packet would change in them, kept apart.
//!
//! An element is read from the kernel when the packet logic first asks for it, and from then on lives in
//! an overlay, the same stand-ins that the tests of the packet logic use. Whatever is written is written
//! there. So the logic sees its own changes, as it would in the kernel, and the kernel sees none.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;

use ha_common::control::{Config, Gate, Pace};
use ha_common::event::{CarpSeen, EarlyFragment, Evidence, EvidenceKind, Sample};
use ha_common::maps::{self, ANSWERS_BUCKET, EARLY_BUCKET};
use ha_common::pair::{Digest, Heard, Pair, Peer, Rate, link_flags};
use ha_common::reason::{REASONS, Reason, Tally};
use ha_common::service::{
    Addr6, Forwarding, Load, LocalAddr, Real, RealState, Scheduler, Service, Timeouts, Traffic,
    addr_kind,
};
use ha_ebpf::fake::{FakeTables, Table};
use ha_ebpf::schedule::COMPARED;
use ha_ebpf::tables::{Shared, Tables};

use super::flows::Loaded;
use super::model::{Entry, Topic};
use super::notes::{Answer, Notes};
use super::{Surroundings, words};
use crate::datapath::DatapathError;
use crate::datapath::family::{self, Kernel as _};
use crate::datapath::inspect::{Found, Inspect};

/// The data plane as one packet sees it.
pub(super) struct View<'a> {
    pub(super) maps: &'a dyn Inspect,
    pub(super) surroundings: &'a Surroundings<'a>,
    pub(super) notes: &'a Notes,
    /// What was read so far, and what the packet changed in it.
    pub(super) overlay: FakeTables,
    pub(super) v4: Loaded<u32>,
    pub(super) v6: Loaded<Addr6>,
    /// Source and destination of the packet.
    ends: [IpAddr; 2],
    /// Elements that were read: by map, and key as text.
    asked: RefCell<HashSet<(&'static str, String)>>,
    failure: RefCell<Option<DatapathError>>,
    gate: Cell<Option<Gate>>,
    pub(super) choice: Choosing,
    pub(super) found: Findings,
}

/// Where the choice of a real server stands.
#[derive(Default)]
pub(super) struct Choosing {
    /// The service of which one is chosen.
    pub(super) service: Cell<Option<Service>>,
    /// Members that are still to be compared before the first candidate.
    comparing: Cell<u32>,
    /// Who is looked at.
    candidate: Cell<Option<u16>>,
}

/// What the answer names.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) service: RefCell<Option<String>>,
    pub(super) entry: Cell<Option<Entry>>,
    pub(super) real: Cell<Option<u16>>,
}

impl<'a> View<'a> {
    /// The maps for a packet with these ends.
    pub(super) fn new(
        maps: &'a dyn Inspect,
        surroundings: &'a Surroundings<'a>,
        notes: &'a Notes,
        ends: [IpAddr; 2],
    ) -> Self {
        let overlay = FakeTables::default();
        overlay.now_ns.set(surroundings.now_ns);
        Self {
            maps,
            surroundings,
            notes,
            overlay,
            v4: Loaded::default(),
            v6: Loaded::default(),
            ends,
            asked: RefCell::default(),
            failure: RefCell::default(),
            gate: Cell::default(),
            choice: Choosing::default(),
            found: Findings::default(),
        }
    }

    pub(super) const fn now_ns(&self) -> u64 {
        self.surroundings.now_ns
    }

    /// Any address of the packet's family.
    pub(super) const fn like(&self) -> IpAddr {
        let [_, destination] = self.ends;
        destination
    }

    /// Reads an element into the overlay, the first time it is asked for. Returns it that time.
    pub(super) fn fetch<K: Copy + Debug + Eq + Hash, V: Copy>(
        &self,
        map: &'static str,
        table: &Table<K, V>,
        key: K,
        read: impl FnOnce() -> Found<V>,
    ) -> Option<V> {
        let first = self.asked.borrow_mut().insert((map, format!("{key:?}")));
        if !first {
            return None;
        }
        match read() {
            Ok(found) => {
                if let Some(value) = found {
                    table.put(key, value);
                }
                found
            }
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                None
            }
        }
    }

    /// A real server as it is, without a word about it.
    pub(super) fn peek_real(&self, id: u16) -> Real {
        let table = &self.overlay.reals;
        self.fetch(maps::REALS, table, id, || self.maps.real(id));
        table.get(&id).unwrap_or_default()
    }

    fn peek_load(&self, id: u16) -> Load {
        let table = &self.overlay.loads;
        self.fetch(maps::LOADS, table, id, || self.maps.load(id));
        table.get(&id).unwrap_or_default()
    }

    /// A real server's name, as people know it.
    pub(super) fn real_name(&self, id: u16) -> String {
        words::real_name(&self.peek_real(id), self.like())
    }

    /// The candidate, if there is one, was not taken.
    fn refuse(&self) {
        let Some(id) = self.choice.candidate.take() else {
            return;
        };
        let real = self.peek_real(id);
        let load = self.peek_load(id);
        let max = u64::from(real.connections_max);
        let why = if RealState::from_u8(real.state) != RealState::Up {
            words::state(&real).to_owned()
        } else if max != 0 && load.connections >= max {
            format!("has {} of {max} connections", load.connections)
        } else if Forwarding::from_u8(real.forwarding) == Forwarding::FullNat {
            "no port was found to stand in for the client".to_owned()
        } else {
            "another connection from this client's address and port goes there".to_owned()
        };
        self.notes.note(Topic::Refused, self.real_name(id), why);
    }

    /// Whoever was looked at last was taken.
    pub(super) fn taken(&self) {
        if let Some(id) = self.choice.candidate.take() {
            self.found.real.set(Some(id));
        }
    }

    /// The packet is done: what was left open is told.
    pub(super) fn close(&self, reason: Reason) {
        if matches!(
            reason,
            Reason::NoRealServer | Reason::RealServersFull | Reason::PortClash
        ) {
            self.refuse();
        } else {
            self.taken();
        }
        if let (Some(before), Some(now)) = (self.gate.get(), self.overlay.gate.get(&()))
            && before != now
        {
            let text = format!(
                "closed: the partner is active in term {}, this node in {}",
                now.overtaken, now.term
            );
            self.notes.note(Topic::Change, "gate", text);
        }
    }

    /// What could not be read.
    pub(super) fn failure(&self) -> Option<DatapathError> {
        self.failure.take()
    }

    fn note_kind(&self, address: IpAddr, kind: u32) {
        let text = match kind {
            addr_kind::SHARED => "a shared address",
            addr_kind::OWN => "this node's own",
            _ => "none of this node's",
        };
        self.notes.note(Topic::Address, address.to_string(), text);
    }

    fn note_home(&self, address: IpAddr, ifindex: u32) {
        let text = if ifindex == 0 {
            "the kernel tells its Ethernet address".to_owned()
        } else {
            let device = self.surroundings.device(ifindex);
            format!("has the virtual MAC on {device}")
        };
        self.notes.note(Topic::Address, address.to_string(), text);
    }

    fn local4(&self, addr: u32) -> LocalAddr {
        let table = &self.overlay.addrs;
        self.fetch(maps::ADDRS4, table, addr, || self.maps.v4().addr(addr));
        table.get(&addr).unwrap_or_default()
    }

    fn local6(&self, addr: &Addr6) -> LocalAddr {
        let table = &self.overlay.addrs6;
        self.fetch(maps::ADDRS6, table, *addr, || self.maps.v6().addr(*addr));
        table.get(addr).unwrap_or_default()
    }
}

impl Tables for &View<'_> {
    fn coarse_ns(self) -> u64 {
        self.now_ns()
    }

    fn precise_ns(self) -> u64 {
        self.now_ns()
    }

    fn gate(self) -> Option<Shared<Gate>> {
        let table = &self.overlay.gate;
        if let Some(gate) = self.fetch(maps::GATE, table, (), || self.maps.gate()) {
            self.gate.set(Some(gate));
        }
        let gate = table.get(&()).unwrap_or_default();
        let words = words::gate(&gate, self.now_ns());
        self.notes.note(Topic::Gate, "", words);
        (&self.overlay).gate()
    }

    fn layout_version(self) -> u32 {
        (&self.overlay).layout_version()
    }

    fn config(self) -> Option<Shared<Config>> {
        let table = &self.overlay.config;
        self.fetch(maps::CONFIG, table, (), || self.maps.config());
        (&self.overlay).config()
    }

    fn addr_kind(self, addr: u32) -> u32 {
        let kind = self.local4(addr).kind;
        self.note_kind(addr.ip(), kind);
        kind
    }

    fn addr6_kind(self, addr: &Addr6) -> u32 {
        let kind = self.local6(addr).kind;
        self.note_kind(addr.ip(), kind);
        kind
    }

    fn addr_home(self, addr: u32) -> u32 {
        let home = self.local4(addr).ifindex;
        self.note_home(addr.ip(), home);
        home
    }

    fn addr6_home(self, addr: &Addr6) -> u32 {
        let home = self.local6(addr).ifindex;
        self.note_home(addr.ip(), home);
        home
    }

    fn pair(self) -> Option<Shared<Pair>> {
        let table = &self.overlay.pair;
        self.fetch(maps::PAIR, table, (), || self.maps.pair());
        (&self.overlay).pair()
    }

    fn peer(self, index: u32) -> Option<Shared<Peer>> {
        let table = &self.overlay.peers;
        self.fetch(maps::PEERS, table, index, || self.maps.peer(index));
        let peer = (&self.overlay).peer(index)?;
        let flags = peer.get().flags;
        let text = match (peer.get().expected, flags & link_flags::VIRTUAL_MAC) {
            (0, 0) => "no advertisements are expected; no virtual MAC",
            (0, _) => "no advertisements are expected; shared addresses have the virtual MAC",
            (_, 0) => "advertisements are expected; no virtual MAC",
            (_, _) => "advertisements are expected; shared addresses have the virtual MAC",
        };
        let about = format!("{}, IPv{}", index / 2, 4 + 2 * (index % 2));
        self.notes.note(Topic::Link, about, text);
        Some(peer)
    }

    fn digest(self, index: u32) -> Option<Shared<Digest>> {
        let table = &self.overlay.digests;
        self.fetch(maps::DIGESTS, table, index, || self.maps.digest(index));
        (&self.overlay).digest(index)
    }

    fn heard(self, link: u32) -> Option<Shared<Heard>> {
        let table = &self.overlay.heard;
        self.fetch(maps::HEARD, table, link, || self.maps.heard(link));
        let heard = (&self.overlay).heard(link)?;
        let text = Answer::new(
            format!("the partner's highest sequence is {}", heard.get().sequence),
            [("partners_mac", words::mac(heard.get().partner_mac))],
        );
        self.notes.note(Topic::Link, link.to_string(), text);
        Some(heard)
    }

    fn bucket(self, index: u32) -> Option<Shared<u64>> {
        let table = &self.overlay.buckets;
        self.fetch(maps::BUCKETS, table, index, || self.maps.bucket(index));
        let bucket = (&self.overlay).bucket(index)?;
        let (about, rate) = match index {
            ANSWERS_BUCKET => ("answers of the data plane", Rate::ANSWERS),
            EARLY_BUCKET => ("fragments that are held", Rate::EARLY),
            _ => ("evidence for alarms", Rate::EVIDENCE),
        };
        let text = match rate.take(bucket.get(), self.now_ns()) {
            Some(_) => "there is one",
            None => "there is none: too many lately",
        };
        self.notes.note(Topic::Token, about, text);
        Some(bucket)
    }

    fn filter(self, word: u32) -> u64 {
        let table = &self.overlay.filter;
        self.fetch(maps::FILTER, table, word, || self.maps.filter_word(word));
        let bits = table.get(&word).unwrap_or_default();
        for address in self.ends {
            let (place, mask) = ha_common::filter::place(family::filter_bit(address));
            if place == word {
                let text = if bits & mask == 0 {
                    "does not concern the data plane"
                } else {
                    "may concern the data plane"
                };
                self.notes.note(Topic::Filter, address.to_string(), text);
            }
        }
        bits
    }

    fn pace(self) -> Option<Shared<Pace>> {
        let table = &self.overlay.pace;
        self.fetch(maps::PACE, table, (), || self.maps.pace());
        let pace = (&self.overlay).pace()?;
        let max = self.overlay.config.get(&()).unwrap_or_default();
        if max.new_flows_max != 0 {
            let text = format!(
                "{} in this second before it, of {} that are remembered",
                pace.get().flows,
                max.new_flows_max
            );
            self.notes.note(Topic::Pace, "new flows on a CPU", text);
        }
        Some(pace)
    }

    fn real(self, id: u16) -> Option<Shared<Real>> {
        let real = self.peek_real(id);
        let service = self.choice.service.get();
        let last_resort = service.is_some_and(|service| service.last_resort == id && id != 0);
        let candidate = self.choice.candidate.get();
        if last_resort && candidate.is_some_and(|candidate| candidate != id) {
            self.refuse();
            self.choice.candidate.set(Some(id));
            self.notes
                .note(Topic::Slot, "last resort", self.real_name(id));
        }
        let words = words::real(&real, self.like());
        self.notes
            .note(Topic::RealServer, format!("id {id}"), words);
        (&self.overlay).real(id)
    }

    fn load(self, id: u16) -> Option<Shared<Load>> {
        let load = self.peek_load(id);
        let text = format!("{} connections", load.connections);
        let weight = ("weight", load.weight.to_string());
        self.notes
            .note(Topic::Load, self.real_name(id), Answer::new(text, [weight]));
        (&self.overlay).load(id)
    }

    fn traffic(self, id: u16) -> Option<Shared<Traffic>> {
        // Asked for when a packet is counted as one of this real server's: it has been decided.
        self.taken();
        self.found.real.set(Some(id));
        (&self.overlay).traffic(id)
    }

    fn timeouts(self, service: u16) -> Option<Shared<Timeouts>> {
        (&self.overlay).timeouts(service)
    }

    fn slot(self, index: u32) -> Option<u32> {
        let table = &self.overlay.slots;
        self.fetch(maps::SLOTS, table, index, || self.maps.slot(index));
        let found = (&self.overlay).slot(index)?;
        let id = found as u16;
        let name = self.real_name(id);
        if let Some(left) = self.choice.comparing.get().checked_sub(1) {
            self.choice.comparing.set(left);
            let text = format!("{name} is compared");
            self.notes.note(Topic::Slot, index.to_string(), text);
        } else {
            self.refuse();
            self.choice.candidate.set(Some(id));
            self.notes.note(Topic::Slot, index.to_string(), name);
        }
        Some(found)
    }

    fn turn(self, service: u16, members: u32) -> u32 {
        let table = &self.overlay.turns;
        self.fetch(maps::TURNS, table, service, || self.maps.turn(service));
        let turn = (&self.overlay).turn(service, members);
        let scheduler = self.choice.service.get();
        let scheduler = scheduler.and_then(|service| Scheduler::from_u8(service.scheduler));
        if matches!(scheduler, Some(Scheduler::Lc | Scheduler::Wlc)) {
            self.choice.comparing.set(members.min(COMPARED));
        }
        let text = format!("member {turn} of {members}; each CPU has a turn of its own");
        self.notes.note(Topic::Turn, "on the first CPU", text);
        turn
    }

    fn chosen(self, _: u32) -> bool {
        // What is only asked about is shown to nobody.
        false
    }

    fn carp_seen(self, fill: impl FnOnce(&mut CarpSeen) -> bool) -> bool {
        let text = "an advertisement for the election";
        self.notes.note(Topic::Tell, "agent", text);
        (&self.overlay).carp_seen(fill)
    }

    fn evidence(self, evidence: &Evidence) -> bool {
        let kind = EvidenceKind::from_u8(evidence.kind);
        let text = format!("evidence: {}", kind.map_or("of no kind", evidence_text));
        self.notes.note(Topic::Tell, "agent", text);
        (&self.overlay).evidence(evidence)
    }

    fn sample(self, fill: impl FnOnce(&mut Sample) -> bool) -> bool {
        (&self.overlay).sample(fill)
    }

    fn early(self, fill: impl FnOnce(&mut EarlyFragment) -> bool) -> bool {
        let text = "a fragment that is to follow the first of its packet when that comes";
        self.notes.note(Topic::Tell, "agent", text);
        (&self.overlay).early(fill)
    }

    fn count(self, index: u32) {
        let tally = index.checked_sub(REASONS as u32);
        let tally = tally.and_then(|tally| Tally::ALL.get(tally as usize));
        if let Some(tally) = tally {
            let text = format!("{}: {}", tally.as_str(), tally.meaning());
            self.notes.note(Topic::Tell, "counter", text);
        }
    }
}

const fn evidence_text(kind: EvidenceKind) -> &'static str {
    match kind {
        EvidenceKind::BadTag => "a wrong tag",
        EvidenceKind::UnknownKey => "a key this node does not have",
        EvidenceKind::BadDigest => "a wrong digest",
        EvidenceKind::WrongSource => "a source that is not the partner's",
        EvidenceKind::VrrpSameVhid => "VRRP with our virtual host id",
        EvidenceKind::CarpForeignVersion => "CARP or a trailer of another version",
        EvidenceKind::DuplicateAddress => "somebody else claims an address",
        EvidenceKind::NoTrailer => "no trailer",
    }
}
