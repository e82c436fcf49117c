//! The way out: what is done to a packet by its service's forwarding method, and where it goes.

use core::mem::offset_of;

use ha_common::conn::Conn;
use ha_common::reason::Reason;
use ha_common::service::{Forwarding, Real, Traffic};

use crate::family::Family;
use crate::packet::{Hop, Mac, Macs, Packet};
use crate::parse::ethernet;
use crate::rewrite::{Direction, translate};
use crate::tables::{Shared, Tables};
use crate::tunnel;
use crate::work::Work;

/// Changes a packet as its real server's forwarding method wants it and sends it on: translated as
/// [`Work::translation`] says, to [`Work::hop`]. If it is too long for that, [`Work::mtu`] says what is not.
#[inline(never)]
pub fn deliver<A: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: T,
    work: &mut Work<A>,
) -> Reason {
    let (direction, id) = (work.direction, work.real);
    let Some(real) = tables.real(id) else {
        return Reason::NoRealServer;
    };
    let forwarding = match direction {
        Direction::Forward => Forwarding::from_u8(real.get().forwarding),
        Direction::Reverse => Forwarding::Nat,
    };
    let overhead = match forwarding {
        Forwarding::Tunnel => A::HEADER as u32,
        Forwarding::Nat | Forwarding::FullNat | Forwarding::Dsr => 0,
    };
    let flow = &work.flow;
    let mut known = work.hop.is_known();
    if flow.len + overhead > u32::from(real.get().mtu)
        && let Some(mtu) = packet.exceeds_mtu(work.hop.ifindex, flow.len + overhead)
    {
        // A neighbour that has to be reached as it stands has no kernel in between.
        if flow.whole || forwarding == Forwarding::Dsr {
            work.mtu = mtu.saturating_sub(overhead).max(A::MTU_MIN);
            return Reason::TooBig;
        }
        // The kernel makes fragments of it.
        known = false;
    }
    account(tables, id, direction, flow.len);
    match forwarding {
        Forwarding::Nat | Forwarding::FullNat => {
            // The kernel takes one off the time to live of what it forwards.
            let hops = u8::from(known);
            let (l3, l4, proto) = (flow.l3(), flow.l4(), flow.key.proto);
            if !translate(packet, l3, l4, proto, direction, &work.translation, hops) {
                return Reason::Truncated;
            }
        }
        Forwarding::Dsr | Forwarding::Tunnel => {
            if let Some(reason) = untouched::<A, _>(packet, real, flow.l3(), known) {
                return reason;
            }
        }
    }
    if known {
        leave(packet, direction, &work.hop)
    } else {
        to_kernel(direction)
    }
}

/// Prepares a packet that reaches its real server as the client sent it: by its Ethernet address, or inside
/// another packet. Tells why it does not.
#[inline(always)]
pub fn untouched<A: Family, P: Packet>(
    packet: &mut P,
    real: Shared<Real>,
    l3: usize,
    hop_known: bool,
) -> Option<Reason> {
    if !A::age(packet, l3) {
        return Some(Reason::Truncated);
    }
    if Forwarding::from_u8(real.get().forwarding) != Forwarding::Tunnel {
        return (!hop_known).then_some(Reason::RealServerUnreachable);
    }
    let source = A::narrow(real.get().source);
    let remote = A::narrow(real.get().addr);
    // Who is to find the way has to be addressed still.
    let addresses = (!hop_known).then(|| (ethernet::destination(packet), ethernet::source(packet)));
    if tunnel::encapsulate(packet, l3, source, remote).is_none() {
        return Some(Reason::NoHeadroom);
    }
    if let Some((destination, source)) = addresses {
        let Some(mut frame) = packet.window::<{ ethernet::LEN }>(0) else {
            return Some(Reason::Truncated);
        };
        frame.store::<{ ethernet::DST }, _>(destination);
        frame.store::<{ ethernet::SRC }, _>(source);
    }
    None
}

/// The verdict on a packet whose way the kernel is to find.
#[inline(always)]
pub const fn to_kernel(direction: Direction) -> Reason {
    match direction {
        Direction::Forward => Reason::ForwardKernel,
        Direction::Reverse => Reason::ReverseKernel,
    }
}

/// Writes the Ethernet addresses and names the verdict; to the kernel if there is no hop.
#[inline(always)]
pub fn leave<P: Packet>(packet: &mut P, direction: Direction, hop: &Hop) -> Reason {
    if !hop.is_known() {
        return to_kernel(direction);
    }
    let Some(mut frame) = packet.window::<{ ethernet::LEN }>(0) else {
        return Reason::Truncated;
    };
    frame.store::<{ ethernet::DST }, _>(hop.mac);
    frame.store::<{ ethernet::SRC }, _>(hop.src);
    depart(packet, direction, hop.ifindex)
}

/// The same with a way that is known, and whose addresses follow each other.
#[inline(always)]
pub fn leave_by<P: Packet>(
    packet: &mut P,
    direction: Direction,
    ifindex: u32,
    macs: Macs,
) -> Reason {
    let Some(mut frame) = packet.window::<{ ethernet::LEN }>(0) else {
        return Reason::Truncated;
    };
    frame.store::<{ ethernet::DST }, _>(macs);
    depart(packet, direction, ifindex)
}

/// The same, to a real server the way to which is known.
#[inline(always)]
pub fn leave_to<P: Packet>(packet: &mut P, real: Shared<Real>) -> Reason {
    leave_by(
        packet,
        Direction::Forward,
        real.get().ifindex,
        real_macs(real),
    )
}

/// The verdict on a frame that leaves through an interface.
#[inline(always)]
fn depart<P: Packet>(packet: &mut P, direction: Direction, ifindex: u32) -> Reason {
    if ifindex == packet.ingress() {
        return match direction {
            Direction::Forward => Reason::ForwardTransmit,
            Direction::Reverse => Reason::ReverseTransmit,
        };
    }
    packet.redirect(ifindex);
    match direction {
        Direction::Forward => Reason::ForwardRedirect,
        Direction::Reverse => Reason::ReverseRedirect,
    }
}

/// Counts a packet for its real server.
#[inline(always)]
pub fn account<T: Tables>(tables: T, id: u16, direction: Direction, len: u32) {
    let Some(traffic) = tables.traffic(id) else {
        return;
    };
    traffic.update(|traffic: &mut Traffic| match direction {
        Direction::Forward => {
            traffic.packets_in += 1;
            traffic.bytes_in += u64::from(len);
        }
        Direction::Reverse => {
            traffic.packets_out += 1;
            traffic.bytes_out += u64::from(len);
        }
    });
}

/// The hop that an entry remembers.
#[inline(always)]
pub fn known_hop<A: Copy>(entry: Shared<Conn<A>>) -> Hop {
    entry.read(hop_of)
}

/// The hop that a copy of an entry remembers.
#[inline(always)]
pub fn hop_of<A: Copy>(conn: &Conn<A>) -> Hop {
    Hop {
        ifindex: conn.hop_ifindex,
        mac: Mac::read_wide(&conn.hop_mac),
        src: Mac::read_wide(&conn.hop_src),
    }
}

/// The addresses with which a packet goes where an entry remembers.
#[inline(always)]
pub fn known_macs<A: Copy>(entry: Shared<Conn<A>>) -> Macs {
    const { assert!(offset_of!(Conn<A>, hop_src) == offset_of!(Conn<A>, hop_mac) + 6) };
    entry.load_at(offset_of!(Conn<A>, hop_mac))
}

/// The addresses with which a packet goes to a real server.
#[inline(always)]
fn real_macs(real: Shared<Real>) -> Macs {
    const { assert!(offset_of!(Real, src_mac) == offset_of!(Real, mac) + 6) };
    real.load_at(offset_of!(Real, mac))
}

/// The way to a real server, as the agent found it.
#[inline(always)]
pub fn real_hop(real: Shared<Real>) -> Hop {
    real.read(|real| Hop {
        ifindex: real.ifindex,
        mac: Mac::read_wide(&real.mac),
        src: Mac::read_wide(&real.src_mac),
    })
}
