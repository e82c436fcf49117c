//! The path of a packet of an established connection of which everything is known: one lookup, and out.
//!
//! Whatever is not as usual is left to [`crate::conntrack`], which knows all cases, in a program of its
//! own. Nothing here may differ from what would happen there.

use core::hint::black_box;
use core::mem::offset_of;

use ha_common::conn::{Conn, ConnKey, flags};
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, Real, RealState};

use crate::family::Family;
use crate::packet::{Mac, Packet};
use crate::parse::ethernet;
use crate::parse::transport::{Flow, flag};
use crate::rewrite::{Direction, Translation, translate};
use crate::send::{account, known_macs, leave_by, leave_to, untouched};
use crate::stateless;
use crate::tables::{Flows, Shared, gate_open};
use crate::work::Work;

/// How far `last_seen_ns` may lag behind: a dirty cache line a second, not a packet.
pub const STAMP_NS: u64 = 1_000_000_000;

/// Forwards the packet; `None`, with the packet as it was, if it needs more attention.
#[inline(always)]
pub fn forward<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
) -> Option<Reason> {
    // What ends a connection changes more than the packet.
    if flow.flags & (flag::FIN | flag::RST) != 0 || flow.ttl <= 1 {
        return None;
    }
    // Only the key has to be in memory: where all of the flow is, all of it stays there.
    let key = Key::new(&flow.key);
    let Some(entry) = tables.conn(&key.0) else {
        let reason = stateless::forward(packet, tables, flow);
        if reason.is_none()
            && let Some(work) = tables.work()
        {
            work.update(|work: &mut Work<A>| work.unknown = true);
        }
        return reason;
    };
    // What begins one anew does, too.
    if flow.flags & flag::SYN != 0 {
        return None;
    }
    let now = tables.coarse_ns();
    if !gate_open(tables, now) {
        return None;
    }
    let real = tables.real(entry.get().real)?;
    if !is_usable(entry, real) {
        return None;
    }
    // Each direction as a whole: a choice at every step costs more than the steps.
    if entry.get().is_reverse() {
        if entry.get().flags & flags::HOP_KNOWN == 0 || flow.len > u32::from(real.get().mtu) {
            return None;
        }
        stamp(entry, now);
        if !translated(packet, tables, flow, entry, Direction::Reverse) {
            return Some(Reason::Truncated);
        }
        let reason = leave_by(
            packet,
            Direction::Reverse,
            entry.get().hop_ifindex,
            known_macs(entry),
        );
        // Else the compiler makes one way out of both, with a choice at every step.
        black_box(&());
        return Some(reason);
    }
    if real.get().hop_known == 0 || !is_way_back_known(packet, entry) {
        return None;
    }
    if entry.get().flags & flags::ONE_WAY != 0 {
        return leave_untouched(packet, tables, flow, entry, real, now);
    }
    if flow.len > u32::from(real.get().mtu) {
        return None;
    }
    stamp(entry, now);
    if !translated(packet, tables, flow, entry, Direction::Forward) {
        return Some(Reason::Truncated);
    }
    Some(leave_to(packet, real))
}

/// Counts a packet and translates it. `false` if the frame is too short.
#[inline(always)]
fn translated<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    entry: Shared<Conn<A>>,
    direction: Direction,
) -> bool {
    account(tables, entry.get().real, direction, flow.len);
    let translation = Translation::from(&entry.get());
    let (l3, l4, proto) = (flow.l3, flow.l4, flow.key.proto);
    translate(packet, l3, l4, proto, direction, &translation, 1)
}

/// Sends a packet on that its real server gets as the client sent it.
#[inline(always)]
fn leave_untouched<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    flow: &Flow<A>,
    entry: Shared<Conn<A>>,
    real: Shared<Real>,
    now: u64,
) -> Option<Reason> {
    let tunnelled = real.get().forwarding == Forwarding::Tunnel as u8;
    let overhead = if tunnelled { A::HEADER as u32 } else { 0 };
    if flow.len + overhead > u32::from(real.get().mtu) {
        return None;
    }
    stamp(entry, now);
    account(tables, entry.get().real, Direction::Forward, flow.len);
    if let Some(reason) = untouched::<A, _>(packet, real, flow.l3, true) {
        return Some(reason);
    }
    Some(leave_to(packet, real))
}

/// Notes that the connection is alive.
#[inline(always)]
fn stamp<A: Copy>(entry: Shared<Conn<A>>, now: u64) {
    let seen = entry.get().last_seen_ns;
    if now > seen && now - seen >= STAMP_NS {
        entry.update(|entry| entry.last_seen_ns = now);
    }
}

/// Whether the entry's real server is still the one it was made for, and takes packets.
#[inline(always)]
fn is_usable<A: Copy>(entry: Shared<Conn<A>>, real: Shared<Real>) -> bool {
    let state = RealState::from_u8(real.get().state);
    real.get().generation == entry.get().real_generation
        && matches!(state, RealState::Up | RealState::Draining)
}

/// Whether the frame came from where the entry has the client, or says nothing about that.
#[inline(always)]
fn is_way_back_known<A: Copy, P: Packet>(packet: &mut P, entry: Shared<Conn<A>>) -> bool {
    let ifindex = packet.ingress();
    let Some(frame) = packet.window::<{ ethernet::LEN }>(0) else {
        return true;
    };
    // Piece by piece, as the addresses lie: to put them together takes longer.
    let (mac, src) = (offset_of!(Conn<A>, hop_mac), offset_of!(Conn<A>, hop_src));
    (entry.get().hop_ifindex == ifindex
        && entry.load_at::<u32>(mac) == frame.load::<{ ethernet::SRC }, _>()
        && entry.load_at::<u16>(mac + 4) == frame.load::<{ ethernet::SRC + 4 }, _>()
        && entry.load_at::<u32>(src) == frame.load::<{ ethernet::DST }, _>()
        && entry.load_at::<u16>(src + 4) == frame.load::<{ ethernet::DST + 4 }, _>()
        && entry.get().flags & flags::HOP_KNOWN != 0)
        || frame.load::<{ ethernet::SRC }, Mac>().is_group()
        || frame.load::<{ ethernet::DST }, Mac>().is_group()
}

/// A key on the stack.
#[repr(C, align(8))]
struct Key<A>(ConnKey<A>);

impl<A: Copy> Key<A> {
    /// Both ports and the protocol are stored at once: a load of two things that were just stored waits until
    /// they are in the cache, and to hash the key is such a load.
    #[inline(always)]
    fn new(key: &ConnKey<A>) -> Self {
        let mut copy = Self(*key);
        let [s0, s1] = key.sport.to_ne_bytes();
        let [d0, d1] = key.dport.to_ne_bytes();
        let [p0, p1, p2, p3] = key.proto.to_ne_bytes();
        let last = u64::from_ne_bytes([s0, s1, d0, d1, p0, p1, p2, p3]);
        const { assert!(offset_of!(ConnKey<A>, sport).is_multiple_of(8)) };
        const { assert!(size_of::<ConnKey<A>>() - offset_of!(ConnKey<A>, sport) == 8) };
        let at = (&raw mut copy)
            .cast::<u64>()
            .wrapping_byte_add(offset_of!(ConnKey<A>, sport));
        // SAFETY: the last eight bytes of the key, aligned, which are these three fields.
        unsafe { at.write_volatile(last) };
        copy
    }
}
