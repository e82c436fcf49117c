//! The XDP data plane of the load-balancer pair.
//!
//! This library is the packet logic, generic over a [`packet::Packet`] and [`tables::Tables`]. On the
//! host it runs on the stand-ins of [`fake`], in the kernel on the frame and the BPF maps
//! (`kernel`, `maps`); the programs in `src/bin` only connect the two. It has no other access to
//! anything: whatever a packet meets is one call of [`entry`], maybe one of [`stage`], and ends as one
//! [`Reason`].
//!
//! ```text
//! entry   Ethernet, VLAN ─ ARP, neighbour discovery ─▶ neighbour
//!                        ├ CARP ── of another group? pass ─▶ carp
//!                        ├ neither to a shared address nor from a real server? pass
//!                        ├ TCP, UDP ── established, all known? translate ─ out
//!                        │           ├ unknown, too many begin? by hash ─ out
//!                        │           └ else ─▶ flow
//!                        └ fragments, options, ICMP, others ─▶ odd
//!
//! carp       form, source, freshness, tag ─ ring to the election
//! neighbour  shared address and gate closed? drop : virtual MAC? answer : pass
//! flow       connection? gate ─ translate ─ out
//!            ├ to a shared address ─ gate ─ service ─ half-open | new
//!            └ from a real server ─ gate ─ half-open | rebuild
//! odd        later fragment? after the first | held : ICMP error? like its connection : shared address? gate
//! ```
//!
//! Two more programs are attached nowhere; the agent runs them: the janitor, and `follow` on the fragments that
//! were held.
//!
//! `─▶` is a tail call: each stage is a program of its own ([`ha_common::stage`]), which reads the packet
//! anew. Deliberately absent: the election (user space decides who is active, the gate says it here; only
//! that a higher term closes the gate is known here as well), timers, and every kind of waiting.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod answer;
pub mod carp;
pub mod conntrack;
pub mod early;
pub mod evidence;
#[cfg(not(target_arch = "bpf"))]
pub mod fake;
pub mod family;
pub mod fast;
pub mod fragment;
pub mod icmp;
pub mod janitor;
#[cfg(target_arch = "bpf")]
pub mod kernel;
#[cfg(target_arch = "bpf")]
pub mod maps;
pub mod neighbour;
pub mod odd;
pub mod outcome;
pub mod pace;
pub mod packet;
pub mod parse;
#[cfg(not(target_arch = "bpf"))]
pub mod programs;
pub mod rewrite;
pub mod sample;
pub mod schedule;
pub mod send;
pub mod stateless;
pub mod tables;
pub mod tunnel;
pub mod verdict;
pub mod virtual_mac;
pub mod work;

use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::Addr6;
use ha_common::stage::Stage;

use crate::family::{Family, is_transport};
use crate::outcome::Outcome;
use crate::packet::Packet;
use crate::parse::ethernet::{self, ethertype};
use crate::parse::transport::{self, Network};
use crate::parse::{ipv4, ipv6};
use crate::tables::{Flows, Tables, concerns};

/// Judges one frame: forwards what is established, lets pass what is not ours, and names the stage in
/// which everything else goes on.
#[inline(always)]
pub fn entry<P: Packet, T: Flows<u32> + Flows<Addr6>>(packet: &mut P, tables: T) -> Outcome {
    match judge(packet, tables) {
        Outcome::Done(reason) => Outcome::Done(virtual_mac::accept(packet, tables, reason)),
        next @ Outcome::Next(_) => next,
    }
}

#[inline(always)]
fn judge<P: Packet, T: Flows<u32> + Flows<Addr6>>(packet: &mut P, tables: T) -> Outcome {
    let Some(outer) = ethernet::outer_type(packet) else {
        return Outcome::Done(Reason::NotIp);
    };
    if !ethernet::is_tag(outer) {
        return network(packet, tables, outer, ethernet::LEN);
    }
    // Code of its own: where a header starts is a number that is known, or one more thing to keep in mind.
    match ethernet::parse(packet) {
        Ok(link) => network(packet, tables, link.ethertype, link.l3),
        Err(reason) => Outcome::Done(reason),
    }
}

#[inline(always)]
fn network<P: Packet, T: Flows<u32> + Flows<Addr6>>(
    packet: &mut P,
    tables: T,
    ethertype: u16,
    l3: usize,
) -> Outcome {
    match ethertype {
        ethertype::IPV4 => ipv4(packet, tables, l3),
        ethertype::IPV6 => ipv6(packet, tables, l3),
        ethertype::ARP => Outcome::Next(Stage::Neighbour),
        _ => Outcome::Done(Reason::NotIp),
    }
}

#[inline(always)]
fn ipv4<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T, l3: usize) -> Outcome {
    let Some(ip) = ipv4::parse(packet, l3) else {
        return Outcome::Done(Reason::NotIp);
    };
    if ip.protocol == proto::CARP {
        // Without options; with them, the stage finds the id.
        return if ip.is_plain() && carp::is_foreign(packet, tables, l3 + ipv4::LEN) {
            Outcome::Done(Reason::CarpForeign)
        } else {
            Outcome::Next(Stage::Carp)
        };
    }
    if !concerns(tables, ip.dst) && !concerns(tables, ip.src) {
        return if ip.protocol == proto::ICMP {
            Outcome::Next(Stage::Odd4)
        } else {
            Outcome::Done(Reason::NotOurs)
        };
    }
    if !is_transport(ip.protocol) {
        return Outcome::Next(Stage::Odd4);
    }
    if ip.is_plain() {
        return forward(packet, tables, &family::plain4(&ip, l3), Stage::Flow4);
    }
    Outcome::Next(if ip.is_later_fragment() {
        Stage::Odd4
    } else {
        Stage::Flow4
    })
}

#[inline(always)]
fn ipv6<P: Packet, T: Flows<Addr6>>(packet: &mut P, tables: T, l3: usize) -> Outcome {
    let Some(ip) = ipv6::parse(packet, l3) else {
        return Outcome::Done(Reason::NotIp);
    };
    if ip.next == proto::CARP {
        return if ip.sound && carp::is_foreign(packet, tables, l3 + ipv6::LEN) {
            Outcome::Done(Reason::CarpForeign)
        } else {
            Outcome::Next(Stage::Carp)
        };
    }
    if ip.next == proto::ICMPV6 {
        return Outcome::Next(if neighbour::is_discovery(packet, l3) {
            Stage::Neighbour
        } else {
            Stage::Odd6
        });
    }
    if !concerns(tables, ip.dst) && !concerns(tables, ip.src) {
        return Outcome::Done(Reason::NotOurs);
    }
    if !is_transport(ip.next) {
        return Outcome::Next(Stage::Odd6);
    }
    if !ip.sound {
        return Outcome::Next(Stage::Flow6);
    }
    forward(packet, tables, &family::plain6(&ip, l3), Stage::Flow6)
}

/// A packet of TCP or UDP that is whole and without options.
#[inline(always)]
fn forward<A: Family, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    network: &Network<A>,
    stage: Stage,
) -> Outcome {
    match transport::parse(packet, network).and_then(|flow| fast::forward(packet, tables, &flow)) {
        Some(reason) => Outcome::Done(reason),
        None => Outcome::Next(stage),
    }
}

/// The stages, each for a program of its own.
pub mod stage {
    use super::{Addr6, Family, Flows, Outcome, Packet, Reason, Tables};
    use crate::parse::ethernet::{self, ethertype};
    use crate::parse::transport;
    use crate::work::Work;
    use crate::{carp, conntrack, neighbour, odd, virtual_mac};

    /// Bound of where the IP header starts, for the verifier.
    const L3_MASK: usize = 31;

    /// Where the IP header starts. By adding a zero that the verifier cannot know to be one, it is one place
    /// within bounds, and not all ways have to be gone once for every number of tags.
    #[inline(always)]
    fn l3<P: Packet, T: Tables>(packet: &mut P, tables: T) -> Result<usize, Reason> {
        let zero = tables.config().map_or(0, |config| config.get().pad);
        ethernet::parse(packet).map(|link| (link.l3 + zero as usize) & L3_MASK)
    }

    /// Protocol 112.
    #[inline(always)]
    pub fn carp<P: Packet, T: Tables>(packet: &mut P, tables: T) -> Reason {
        let l3 = match l3(packet, tables) {
            Ok(l3) => l3,
            Err(reason) => return reason,
        };
        match ethernet::parse(packet) {
            Ok(link) if link.ethertype == ethertype::IPV6 => carp::ipv6(packet, tables, l3),
            Ok(_) => carp::ipv4(packet, tables, l3),
            Err(reason) => reason,
        }
    }

    /// ARP and neighbour discovery.
    #[inline(always)]
    pub fn neighbour<P: Packet, T: Tables>(packet: &mut P, tables: T) -> Reason {
        let reason = match ethernet::parse(packet) {
            Ok(link) if link.ethertype == ethertype::ARP => neighbour::arp(packet, tables, link.l3),
            Ok(link) => match neighbour::discovery(packet, tables, link.l3) {
                Some(reason) => reason,
                None => odd::local6(packet, tables, link.l3),
            },
            Err(reason) => reason,
        };
        virtual_mac::accept(packet, tables, reason)
    }

    /// TCP and UDP of either family.
    #[inline(always)]
    pub fn flow<A: Family, P: Packet, T: Flows<A>>(packet: &mut P, tables: T) -> Reason {
        let l3 = match l3(packet, tables) {
            Ok(l3) => l3,
            Err(reason) => return reason,
        };
        let Some(work) = tables.work() else {
            return Reason::StageMissing;
        };
        let reason = work.update(|work| {
            if read(packet, l3, work) {
                conntrack::handle(packet, tables, work)
            } else {
                odd::unreadable::<A, _, _>(packet, tables, l3)
            }
        });
        virtual_mac::accept(packet, tables, reason)
    }

    /// Reads a packet of TCP or UDP. `false` if it cannot be read.
    #[inline(never)]
    fn read<A: Family, P: Packet>(packet: &mut P, l3: usize, work: &mut Work<A>) -> bool {
        let flow = A::network(packet, l3).and_then(|network| transport::parse(packet, &network));
        match flow {
            Some(flow) => {
                work.flow = flow;
                true
            }
            None => false,
        }
    }

    /// A later fragment that was held: after the first one by now, or the kernel's.
    #[inline(always)]
    pub fn follow<P: Packet, T: Flows<u32> + Flows<Addr6>>(packet: &mut P, tables: T) -> Reason {
        let reason = match l3(packet, tables) {
            Ok(l3) => match ethernet::parse(packet) {
                Ok(link) if link.ethertype == ethertype::IPV6 => odd::held6(packet, tables, l3),
                Ok(_) => odd::held4(packet, tables, l3),
                Err(reason) => reason,
            },
            Err(reason) => reason,
        };
        virtual_mac::accept(packet, tables, reason)
    }

    /// What else there is in IPv4.
    #[inline(always)]
    pub fn odd4<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T) -> Reason {
        let reason = match l3(packet, tables) {
            Ok(l3) => odd::ipv4(packet, tables, l3),
            Err(reason) => reason,
        };
        virtual_mac::accept(packet, tables, reason)
    }

    /// What else there is in IPv6. TCP and UDP behind extension headers goes on in the stage of flows.
    #[inline(always)]
    pub fn odd6<P: Packet, T: Flows<Addr6>>(packet: &mut P, tables: T) -> Outcome {
        let outcome = match l3(packet, tables) {
            Ok(l3) => odd::ipv6(packet, tables, l3),
            Err(reason) => Outcome::Done(reason),
        };
        match outcome {
            Outcome::Done(reason) => Outcome::Done(virtual_mac::accept(packet, tables, reason)),
            next @ Outcome::Next(_) => next,
        }
    }
}
