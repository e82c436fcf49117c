//! ARP for shared addresses (RFC 826): answered by the kernel, and only while the gate is open.

use ha_common::reason::Reason;
use ha_common::service::addr_kind;

use crate::packet::Packet;
use crate::tables::{Tables, gate_open};

/// Length for Ethernet and IPv4.
const LEN: usize = 28;
/// Protocol type.
const PROTOCOL: usize = 2;
/// Target protocol address.
const TARGET: usize = 24;

/// Judges an ARP packet.
#[inline(never)]
pub fn handle<P: Packet, T: Tables>(packet: &mut P, tables: T, l3: usize) -> Reason {
    let Some(arp) = packet.window::<LEN>(l3) else {
        return Reason::NotIp;
    };
    let protocol: u16 = arp.load::<PROTOCOL, _>();
    let target: u32 = arp.load::<TARGET, _>();
    if protocol != crate::parse::ethernet::ethertype::IPV4
        || tables.addr_kind(target) != addr_kind::SHARED
    {
        return Reason::NotIp;
    }
    if gate_open(tables, tables.coarse_ns()) {
        Reason::SharedAddressLocal
    } else {
        Reason::ArpGateClosed
    }
}
