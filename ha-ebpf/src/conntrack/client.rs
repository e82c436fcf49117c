//! Packets to a shared address that belong to no established connection.

use ha_common::conn::{ConnState, Embryo, EmbryoKey, flags};
use ha_common::reason::{Reason, Tally};
use ha_common::service::{Address, RealState, Service, ServiceKey, service_flags};

use super::entry::{Created, First, create};
use super::full_nat::stand_in;
use super::to_real;
use crate::family::Family;
use crate::pace;
use crate::packet::{Hop, Packet};
use crate::parse::ethernet;
use crate::parse::transport::{Flow, flag};
use crate::rewrite::{Direction, Translation};
use crate::schedule::{Choice, Target, choose, remember};
use crate::tables::{Flows, Shared, Tables, gate_open, tally};
use crate::virtual_mac::from_here;
use crate::work::Work;

/// How far beyond the server's first byte a client may acknowledge and still complete the handshake:
/// what a server may send before it, with TCP Fast Open.
const HANDSHAKE_WINDOW: u32 = 1 << 16;

/// The service that listens at an address and port: one of that port, else one of every port.
#[inline(always)]
pub(super) fn service_at<A: Family, T: Flows<A>>(
    tables: T,
    addr: A,
    port: u16,
    proto: u32,
) -> Option<Shared<Service>> {
    let proto = proto as u16;
    tables
        .service(&ServiceKey { addr, port, proto })
        .or_else(|| {
            tables.service(&ServiceKey {
                addr,
                port: 0,
                proto,
            })
        })
}

/// The service that a packet is for.
#[inline(never)]
pub(super) fn service_of<A: Family, T: Flows<A>>(
    tables: T,
    flow: &Flow<A>,
) -> Option<Shared<Service>> {
    service_at(tables, flow.key.dst, flow.key.dport, flow.key.proto)
}

/// What a packet to a shared address needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How its real server is found.
    choice: Choice,
    /// What is remembered of its flow.
    keep: Keep,
    /// Whether there is a half-open connection of its client's port.
    half_open: bool,
    /// How its entries begin, if there are to be any.
    pub(super) first: First,
}

impl Plan {
    /// Nothing is to be remembered of the flow.
    const fn forget(&mut self) {
        self.choice = self.choice.stateless();
        self.keep = Keep::Nothing;
    }

    /// That of a connection of which the real server speaks first.
    pub(super) const fn rebuilt() -> Self {
        Self {
            choice: Choice::Made,
            keep: Keep::Entries,
            half_open: false,
            first: First {
                flags: flags::RECONSTRUCTED,
                state: ConnState::Established,
            },
        }
    }
}

/// What is remembered of a flow that begins.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Keep {
    /// Nothing: the next packet finds its way like this one.
    #[default]
    Nothing,
    /// A half-open connection.
    HalfOpen,
    /// The entries of a connection.
    Entries,
}

/// Judges a packet to a service.
#[inline(never)]
pub(super) fn handle<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    service: Shared<Service>,
) -> Result<(), Reason> {
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return Err(Reason::GateClosed);
    }
    work.vip = work.flow.key.dst;
    work.key = work.flow.key;
    if work.flow.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    if let Some(reason) = plan(packet, tables, work, service, now) {
        return Err(reason);
    }
    if let Some(reason) = carry_out(packet, tables, work, service, now) {
        return Err(reason);
    }
    aim(work);
    work.direction = Direction::Forward;
    work.real = work.target.real;
    work.hop = way_to(packet, tables, work);
    Ok(())
}

/// Finds out what the packet needs, and its real server if that is known. Returns why it goes nowhere.
#[inline(never)]
fn plan<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    service: Shared<Service>,
    now: u64,
) -> Option<Reason> {
    work.embryo_key = embryo_key(&work.flow);
    work.plan = Plan {
        choice: Choice::Scheduled,
        keep: Keep::Entries,
        half_open: false,
        first: First::default(),
    };
    if work.flow.is_tcp() {
        let embryo = tables.embryo(&work.embryo_key);
        work.plan.half_open = embryo.is_some();
        let embryo = embryo.filter(|embryo| is_of(*embryo, &work.flow, now));
        if work.flow.is_syn() {
            if let Some(embryo) = embryo
                && usable(tables, embryo.get().real, embryo.get().real_generation)
            {
                repeated(packet, work, embryo, now);
                return None;
            }
            work.plan.keep = Keep::HalfOpen;
        } else {
            if let Some(embryo) = embryo
                && let Some(real) = tables.real(embryo.get().real)
                && real.get().generation == embryo.get().real_generation
            {
                return half_open(tables, work, embryo, RealState::from_u8(real.get().state));
            }
            if service.get().flags & service_flags::NO_RESTEER != 0 {
                return Some(Reason::UnknownConnection);
            }
            work.plan.choice = Choice::ByHash;
            work.plan.first.flags = flags::RECONSTRUCTED;
            if !work.flow.rebuilds() {
                work.plan.forget();
                return None;
            }
        }
    }
    if pace::exceeds::<A, _>(tables, now) {
        work.plan.forget();
    }
    None
}

/// A request that is repeated.
#[inline(always)]
fn repeated<A: Family, P: Packet>(
    packet: &mut P,
    work: &mut Work<A>,
    embryo: Shared<Embryo<A>>,
    now: u64,
) {
    let hop = ethernet::way_back(packet);
    embryo.update(|embryo| {
        embryo.last_seen_ns = now;
        if hop.is_known() {
            embryo.hop_ifindex = hop.ifindex;
            hop.mac.write(&mut embryo.hop_mac);
            hop.src.write(&mut embryo.hop_src);
        }
    });
    take_target(work, embryo);
    work.plan.choice = Choice::Made;
    work.plan.keep = Keep::Nothing;
}

/// A packet of a half-open connection.
///
/// It completes the handshake if it acknowledges what the server sent, which a sender that does not
/// receive cannot know; where the server's answer does not come this way, the client's next packet has to
/// do. Else it is forwarded and changes nothing: the real server judges it.
#[inline(always)]
fn half_open<A: Family, T: Flows<A>>(
    tables: T,
    work: &mut Work<A>,
    embryo: Shared<Embryo<A>>,
    real: RealState,
) -> Option<Reason> {
    if matches!(real, RealState::Down | RealState::Unused) {
        return Some(Reason::RealServerDown);
    }
    take_target(work, embryo);
    work.plan.choice = Choice::Made;
    work.plan.keep = Keep::Nothing;
    if completes(&work.flow, embryo) {
        if tables.table_full() {
            tally(tables, Tally::Stateless);
        } else {
            work.plan.keep = Keep::Entries;
            if work.flow.flags & flag::FIN != 0 {
                work.plan.first.state = ConnState::ClientClosing;
            }
        }
    }
    None
}

/// Chooses a real server where that is needed, and remembers what is to be remembered. Returns why the
/// packet goes nowhere.
#[inline(never)]
fn carry_out<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    service: Shared<Service>,
    now: u64,
) -> Option<Reason> {
    // The second time for a flow for which there was no room.
    for _ in 0..2 {
        if work.plan.choice != Choice::Made {
            let (choice, target) = (work.plan.choice, &mut work.target);
            if let Some(reason) = choose(tables, service, &work.key, choice, target) {
                return Some(reason);
            }
            if work.target.flags & flags::BOTH_ENDS != 0
                && let Some(reason) = name_stand_in(tables, work)
            {
                return Some(reason);
            }
        }
        match work.plan.keep {
            Keep::Nothing => return None,
            Keep::HalfOpen => return begin(packet, tables, work, now),
            Keep::Entries => {}
        }
        match create(tables, work, &ethernet::way_back(packet)) {
            Created::New => {
                entered(tables, work, service);
                return None;
            }
            Created::Existing => {
                winner(tables, work);
                return None;
            }
            Created::Clash => return Some(Reason::PortClash),
            Created::Full => tally(tables, Tally::Stateless),
        }
        if work.plan.choice == Choice::Made {
            return None;
        }
        work.plan.forget();
    }
    None
}

/// Full NAT: finds what stands in for the client. Returns why nothing can.
#[inline(always)]
fn name_stand_in<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>) -> Option<Reason> {
    // Which port stood in for this client, only the other node knew.
    if work.plan.first.flags & flags::RECONSTRUCTED != 0 {
        return Some(Reason::UnknownConnection);
    }
    // Without an entry nobody would know whom the answer is for.
    if work.plan.keep == Keep::Nothing {
        return Some(Reason::TableFull);
    }
    (!stand_in(tables, &work.key, &mut work.target)).then_some(Reason::PortClash)
}

/// Remembers a request. Returns why it goes nowhere.
#[inline(always)]
fn begin<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
    now: u64,
) -> Option<Reason> {
    if work.plan.half_open {
        tally(tables, Tally::EmbryoReplaced);
    }
    fill_embryo(packet, work, now);
    let both_ends = work.target.flags & flags::BOTH_ENDS != 0;
    let mut kept = tables.put_embryo(&work.embryo_key, &work.embryo);
    if both_ends && kept {
        // The answer is found by what stands in for the client.
        work.embryo_key = stand_in_key(&work.target);
        work.embryo.from_addr = work.key.src;
        work.embryo.from_port = work.key.sport;
        kept = tables.put_embryo(&work.embryo_key, &work.embryo);
    }
    if !kept {
        tally(tables, Tally::Stateless);
    }
    (!kept && both_ends).then_some(Reason::TableFull)
}

/// Takes note of a connection that has entered the table.
#[inline(always)]
fn entered<A: Family, T: Flows<A>>(tables: T, work: &Work<A>, service: Shared<Service>) {
    let rebuilt = work.plan.first.flags & flags::RECONSTRUCTED != 0;
    tally(
        tables,
        if rebuilt {
            Tally::Reconstructed
        } else {
            Tally::Established
        },
    );
    remember(tables, service, &work.key, &work.target);
    if work.plan.choice == Choice::Made {
        tables.remove_embryo(&work.embryo_key);
        if work.target.flags & flags::BOTH_ENDS != 0 {
            tables.remove_embryo(&stand_in_key(&work.target));
        }
    }
}

/// Fills in the half-open connection of a request.
#[inline(always)]
fn fill_embryo<A: Family, P: Packet>(packet: &mut P, work: &mut Work<A>, now: u64) {
    let hop = ethernet::way_back(packet);
    let (embryo, target) = (&mut work.embryo, &work.target);
    embryo.vip = work.key.dst;
    embryo.real_addr = target.addr;
    embryo.from_addr = target.from_addr;
    embryo.vport = work.key.dport;
    embryo.real_port = target.port;
    embryo.from_port = target.from_port;
    embryo.real = target.real;
    embryo.real_generation = target.generation;
    embryo.service = target.service;
    embryo.flags = target.flags;
    embryo.answered = 0;
    embryo.server_isn = 0;
    embryo.hop_ifindex = hop.ifindex;
    hop.mac.write(&mut embryo.hop_mac);
    hop.src.write(&mut embryo.hop_src);
    embryo.last_seen_ns = now;
}

/// Whether a packet completes the handshake of a half-open connection.
#[inline(always)]
fn completes<A: Copy>(flow: &Flow<A>, embryo: Shared<Embryo<A>>) -> bool {
    let acknowledged = flow
        .acknowledgement
        .wrapping_sub(embryo.get().server_isn.wrapping_add(1));
    let proven = embryo.get().flags & flags::ONE_WAY != 0
        || (embryo.get().answered != 0 && acknowledged < HANDSHAKE_WINDOW);
    flow.flags & (flag::SYN | flag::RST | flag::ACK) == flag::ACK && proven
}

/// Finds out what the packet's way to its target writes into it. Returns whether at both ends.
#[inline(never)]
fn aim<A: Family>(work: &mut Work<A>) -> bool {
    let target = &work.target;
    let both_ends = target.flags & flags::BOTH_ENDS != 0;
    let from = both_ends.then_some((target.from_addr, target.from_port));
    let to = (target.addr, target.port);
    work.translation = Translation::new(&work.flow.key, Direction::Forward, to, from);
    both_ends
}

/// The way to the target: as the agent found it, else by the kernel's route.
#[inline(always)]
fn way_to<A: Family, P: Packet, T: Tables>(packet: &mut P, tables: T, work: &Work<A>) -> Hop {
    let Some(real) = tables.real(work.target.real) else {
        return Hop::UNKNOWN;
    };
    from_here(tables, to_real(packet, work, real), true)
}

/// Turns to the real server of the entry that another CPU made for this flow.
#[inline(always)]
fn winner<A: Family, T: Flows<A>>(tables: T, work: &mut Work<A>) {
    if let Some(entry) = tables.conn(&work.key) {
        let (entry, target) = (entry.get(), &mut work.target);
        target.addr = entry.to_addr;
        target.port = entry.to_port;
        target.from_addr = entry.from_addr;
        target.from_port = entry.from_port;
        target.real = entry.real;
        target.generation = entry.real_generation;
    }
}

/// Key of the half-open connection of a packet from a client.
#[inline(always)]
const fn embryo_key<A: Copy>(flow: &Flow<A>) -> EmbryoKey<A> {
    EmbryoKey {
        client: flow.key.src,
        port: flow.key.sport,
        pad: 0,
    }
}

/// The key by which a real server's answer finds it with full NAT.
#[inline(always)]
const fn stand_in_key<A: Copy>(target: &Target<A>) -> EmbryoKey<A> {
    EmbryoKey {
        client: target.from_addr,
        port: target.from_port,
        pad: 0,
    }
}

/// Whether a half-open connection is that of this packet from a client, and still believed.
#[inline(always)]
fn is_of<A: Address>(embryo: Shared<Embryo<A>>, flow: &Flow<A>, now: u64) -> bool {
    embryo.get().vip == flow.key.dst
        && embryo.get().vport == flow.key.dport
        && is_fresh(embryo, now)
}

/// Whether a half-open connection is still believed.
#[inline(always)]
pub fn is_fresh<A: Copy>(embryo: Shared<Embryo<A>>, now: u64) -> bool {
    now.saturating_sub(embryo.get().last_seen_ns) < Embryo::<A>::LIFETIME_NS
}

/// Whether a real server still takes packets of a handshake that began with it.
#[inline(always)]
fn usable<T: Tables>(tables: T, id: u16, generation: u16) -> bool {
    tables.real(id).is_some_and(|real| {
        let real = real.get();
        real.generation == generation
            && matches!(
                RealState::from_u8(real.state),
                RealState::Up | RealState::Draining
            )
    })
}

/// Takes the real server of a half-open connection.
#[inline(always)]
fn take_target<A: Copy>(work: &mut Work<A>, embryo: Shared<Embryo<A>>) {
    let (embryo, target) = (embryo.get(), &mut work.target);
    target.addr = embryo.real_addr;
    target.from_addr = embryo.from_addr;
    target.port = embryo.real_port;
    target.from_port = embryo.from_port;
    target.real = embryo.real;
    target.generation = embryo.real_generation;
    target.service = embryo.service;
    target.flags = embryo.flags;
}
