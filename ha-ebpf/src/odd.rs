//! Everything in IP that is neither CARP nor a readable packet of TCP or UDP: later fragments, ICMP, other
//! protocols, malformed packets.

use ha_common::conn::FragmentKey;
use ha_common::proto;
use ha_common::reason::Reason;
use ha_common::service::{Addr6, addr_kind};
use ha_common::stage::Stage;

use crate::early;
use crate::family::{Family, is_transport};
use crate::fragment::{self, Later};
use crate::icmp::{self, Icmp};
use crate::outcome::Outcome;
use crate::packet::Packet;
use crate::parse::{ipv4, ipv6};
use crate::tables::{Flows, Tables, gate_open};
use crate::work::Work;

/// Judges an IPv4 packet.
#[inline(always)]
pub fn ipv4<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T, l3: usize) -> Reason {
    let Some(ip) = ipv4::parse(packet, l3) else {
        return Reason::NotIp;
    };
    if !ip.is_sound() {
        return if tables.addr_kind(ip.dst) == addr_kind::SHARED {
            Reason::BadIpHeader
        } else {
            Reason::NotOurs
        };
    }
    let known = if ip.is_later_fragment() {
        let later = later4(&ip, l3);
        fragment::follow(packet, tables, &later).or_else(|| early::hold(packet, tables, &later))
    } else if ip.protocol == proto::ICMP {
        about_a_connection::<u32, _, _>(packet, tables, l3)
    } else {
        None
    };
    known.unwrap_or_else(|| {
        let if_open = if ip.is_fragment() {
            Reason::Fragment
        } else {
            Reason::SharedAddressLocal
        };
        local(tables, tables.addr_kind(ip.dst), if_open)
    })
}

/// Judges an IPv6 packet.
#[inline(always)]
pub fn ipv6<P: Packet, T: Flows<Addr6>>(packet: &mut P, tables: T, l3: usize) -> Outcome {
    let Some(ip) = ipv6::parse(packet, l3) else {
        return Outcome::Done(Reason::NotIp);
    };
    let shared = tables.addr6_kind(&ip.dst);
    let Some(payload) = ipv6::payload(packet, l3, &ip).filter(|_| ip.sound) else {
        return Outcome::Done(if shared == addr_kind::SHARED {
            Reason::BadIpHeader
        } else {
            Reason::NotOurs
        });
    };
    let known = if payload.later_fragment {
        let later = later6(&ip, &payload, l3);
        fragment::follow(packet, tables, &later).or_else(|| early::hold(packet, tables, &later))
    } else if is_transport(payload.protocol) {
        return Outcome::Next(Stage::Flow6);
    } else if ip.next == proto::ICMPV6 {
        about_a_connection::<Addr6, _, _>(packet, tables, l3)
    } else {
        None
    };
    Outcome::Done(known.unwrap_or_else(|| {
        let if_open = if payload.fragment {
            Reason::Fragment
        } else {
            Reason::SharedAddressLocal
        };
        local(tables, shared, if_open)
    }))
}

/// Judges an IPv4 fragment that was held.
#[inline(never)]
pub fn held4<P: Packet, T: Flows<u32>>(packet: &mut P, tables: T, l3: usize) -> Reason {
    match ipv4::parse(packet, l3) {
        Some(ip) if ip.is_sound() => fragment::follow(packet, tables, &later4(&ip, l3))
            .unwrap_or_else(|| local(tables, tables.addr_kind(ip.dst), Reason::Fragment)),
        _ => Reason::NotIp,
    }
}

/// Judges an IPv6 fragment that was held.
#[inline(never)]
pub fn held6<P: Packet, T: Flows<Addr6>>(packet: &mut P, tables: T, l3: usize) -> Reason {
    let Some(ip) = ipv6::parse(packet, l3) else {
        return Reason::NotIp;
    };
    match ipv6::payload(packet, l3, &ip) {
        Some(payload) => fragment::follow(packet, tables, &later6(&ip, &payload, l3))
            .unwrap_or_else(|| local(tables, tables.addr6_kind(&ip.dst), Reason::Fragment)),
        None => Reason::NotIp,
    }
}

#[inline(always)]
fn later4(ip: &ipv4::Header, l3: usize) -> Later<u32> {
    Later {
        key: FragmentKey {
            src: ip.src,
            dst: ip.dst,
            id: u32::from(ip.id),
            proto: u32::from(ip.protocol),
        },
        l3,
        len: ip.total_len as u32,
        ttl: ip.ttl,
    }
}

#[inline(always)]
fn later6(ip: &ipv6::Header, payload: &ipv6::Payload, l3: usize) -> Later<Addr6> {
    Later {
        key: FragmentKey {
            src: ip.src,
            dst: ip.dst,
            id: payload.id,
            proto: u32::from(payload.protocol),
        },
        l3,
        len: ip.total_len as u32,
        ttl: ip.hop_limit,
    }
}

/// Sends an ICMP error the way of the connection that it is about. `None` if it is no such error.
#[inline(always)]
fn about_a_connection<A: Icmp, P: Packet, T: Flows<A>>(
    packet: &mut P,
    tables: T,
    l3: usize,
) -> Option<Reason> {
    tables.work()?.update(|work| {
        if read(packet, l3, work) {
            icmp::forward(packet, tables, work)
        } else {
            None
        }
    })
}

/// Reads an ICMP error. `false` if it is none, or cannot be read.
#[inline(never)]
fn read<A: Icmp, P: Packet>(packet: &mut P, l3: usize, work: &mut Work<A>) -> bool {
    match A::error(packet, l3) {
        Some(error) => {
            work.error = error;
            true
        }
        None => false,
    }
}

/// An IPv6 packet that needs no more than the gate.
#[inline(always)]
pub fn local6<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    match ipv6::parse(packet, l3) {
        Some(ip) => local(
            tables,
            tables.addr6_kind(&ip.dst),
            Reason::SharedAddressLocal,
        ),
        None => Reason::NotIp,
    }
}

/// A packet of TCP or UDP whose headers cannot be read.
#[inline(always)]
pub fn unreadable<A: Family, P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    let Some(destination) = A::destination(packet, l3) else {
        return Reason::NotIp;
    };
    if destination.kind(tables) != addr_kind::SHARED {
        return Reason::NotOurs;
    }
    match A::network(packet, l3) {
        Some(_) => Reason::Truncated,
        None => Reason::BadIpHeader,
    }
}

/// What is for the node itself, if it is to one of its addresses: a shared one only while the gate is open.
#[inline(always)]
fn local<T: Tables>(tables: T, kind: u32, if_open: Reason) -> Reason {
    if kind != addr_kind::SHARED {
        Reason::NotOurs
    } else if gate_open(tables, tables.coarse_ns()) {
        if_open
    } else {
        Reason::GateClosed
    }
}
