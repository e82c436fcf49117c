//! The XDP data plane of the load-balancer pair.
//!
//! This library is the packet logic, generic over a [`packet::Packet`] and [`tables::Tables`]. On the
//! host it runs on the stand-ins of [`fake`], in the kernel on the frame and the BPF maps
//! (`kernel`, `maps`); the programs in `src/bin` only connect the two. It has no other access to
//! anything: whatever a packet meets is one call of [`process`] and ends as one [`Reason`].
//!
//! ```text
//! Ethernet, VLAN ─ ARP ────────── shared address and gate closed? drop : virtual MAC? answer : pass
//!                ├ IPv6 ─ CARP ── as in IPv4
//!                │      └ other ─ to, or about, a shared address? gate : pass
//!                └ IPv4 ─ CARP ── ours? form, source, freshness, tag ─ ring to the election
//!                       ├ TCP, UDP ─ connection? gate ─ translate ─ out
//!                       │          ├ to a shared address ─ gate ─ service ─ half-open | new
//!                       │          └ from a real server ─ gate ─ half-open | rebuild
//!                       └ other ── shared address? gate : pass
//! ```
//!
//! Deliberately absent: the election (user space decides who is active, the gate says it here; only
//! that a higher term closes the gate is known here as well), timers, and every kind of waiting.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod carp;
pub mod conntrack;
pub mod evidence;
#[cfg(not(target_arch = "bpf"))]
pub mod fake;
pub mod family;
pub mod janitor;
#[cfg(target_arch = "bpf")]
pub mod kernel;
#[cfg(target_arch = "bpf")]
pub mod maps;
pub mod neighbour;
pub mod packet;
pub mod parse;
pub mod rewrite;
pub mod schedule;
pub mod tables;
pub mod verdict;
pub mod virtual_mac;

use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::addr_kind;

use crate::carp::Datagram;
use crate::family::Family as _;
use crate::packet::Packet;
use crate::parse::ethernet::{self, ethertype};
use crate::parse::{ipv4, ipv6};
use crate::tables::{Flows, Tables, gate_open};

/// Judges one frame, changes it accordingly, and says why.
#[inline(always)]
pub fn process<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T) -> Reason {
    let reason = judge(packet, tables);
    virtual_mac::accept(packet, tables, reason)
}

#[inline(always)]
fn judge<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T) -> Reason {
    let link = match ethernet::parse(packet) {
        Ok(link) => link,
        Err(reason) => return reason,
    };
    match link.ethertype {
        ethertype::IPV4 => ipv4(packet, tables, link.l3),
        ethertype::IPV6 => ipv6(packet, tables, link.l3),
        ethertype::ARP => neighbour::arp(packet, tables, link.l3),
        _ => Reason::NotIp,
    }
}

/// Judges an IPv4 packet.
#[inline(always)]
fn ipv4<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T, l3: usize) -> Reason {
    match u32::parse(packet, l3) {
        Some(flow) => conntrack::handle(packet, tables, &flow),
        None => special(packet, tables, l3),
    }
}

/// An IPv4 packet that is not translated: CARP, other protocols, a fragment, one with IP options, or a
/// malformed one.
#[inline(never)]
fn special<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    let Some(ip) = ipv4::parse(packet, l3) else {
        return Reason::NotIp;
    };
    if ip.sound && ip.protocol == proto::CARP {
        if ip.fragment {
            return Reason::CarpForeign;
        }
        return carp::handle(packet, tables, &Datagram::v4(l3, &ip));
    }
    if tables.addr_kind(ip.dst) != addr_kind::SHARED {
        return Reason::NotOurs;
    }
    let if_open = if !ip.sound {
        return Reason::BadIpHeader;
    } else if ip.fragment {
        Reason::Fragment
    } else if ip.header_len != ipv4::LEN {
        Reason::IpOptions
    } else if ip.protocol == proto::TCP || ip.protocol == proto::UDP {
        return Reason::Truncated;
    } else {
        Reason::SharedAddressLocal
    };
    if gate_open(tables, tables.coarse_ns()) {
        if_open
    } else {
        Reason::GateClosed
    }
}

/// Judges an IPv6 packet: no service forwards it yet, so it is CARP, or the kernel's.
#[inline(never)]
fn ipv6<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    let Some(ip) = ipv6::parse(packet, l3) else {
        return Reason::NotIp;
    };
    if ip.sound && ip.next == proto::CARP {
        return carp::handle(packet, tables, &Datagram::v6(l3, &ip));
    }
    if ip.sound
        && ip.next == proto::ICMPV6
        && let Some(reason) = neighbour::discovery(packet, tables, l3)
    {
        return reason;
    }
    if tables.addr6_kind(&ip.dst) != addr_kind::SHARED {
        return Reason::NotOurs;
    }
    if gate_open(tables, tables.coarse_ns()) {
        Reason::SharedAddressLocal
    } else {
        Reason::GateClosed
    }
}
