//! The entries of a replicated connection.

use std::net::IpAddr;

use ha_common::checksum;
use ha_common::conn::flags;

use super::Target;
use crate::datapath::family::{FlowEntry, FlowKey, delta, entry_to};
use crate::proto::sync::Record;

/// Flags that hold on whichever node the connection is.
const LASTING: u8 = flags::RECONSTRUCTED | flags::BY_HASH | flags::BOTH_ENDS | flags::ONE_WAY;

/// The entries of a connection: none in reverse if answers do not come back this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves {
    /// Client to real server.
    pub forward: (FlowKey, FlowEntry),
    /// Real server to client.
    pub reverse: Option<(FlowKey, FlowEntry)>,
}

/// An end of a connection: address, and port in network order.
type End = (IpAddr, u16);

/// The entries of a connection.
///
/// The forward entry rewrites the packet's destination from the shared address to the real server,
/// the reverse entry rewrites the source from the real server to the shared address; with full NAT the
/// other end is rewritten, too. Each holds what its own changes add to the checksums (RFC 1624): the
/// addresses to that of the IPv4 header, addresses and ports to that of TCP or UDP, whose pseudo-header
/// contains the addresses. Packets that go one way keep their addresses. The way to the client is
/// this node's own business and is learned from the client's next packet.
pub(super) fn entries(record: &Record, target: Target, now_ns: u64) -> Halves {
    let key = record.key;
    let has = |flag| record.flags & flag != 0;
    let (client, shared) = ((key.src, key.sport), (key.dst, key.dport));
    let real = (record.real_addr, record.real_port);
    let stand_in = (record.from_addr, record.from_port);
    // What becomes of the end that `to_addr` replaces, and of the one that `from_addr` does.
    let translate = |to: [End; 2], from: [End; 2], direction: u8| {
        let mut entry = FlowEntry {
            to_port: to[1].1,
            real: target.real.id,
            real_generation: target.real.generation,
            flags: flags::REPLICATED | direction | record.flags & LASTING,
            state: record.state,
            service: target.service,
            version: record.version,
            last_seen_ns: now_ns,
            created_ns: now_ns,
            ..entry_to(to[1].0)
        };
        let (mut addresses, mut ports) = if has(flags::ONE_WAY) {
            (0, 0)
        } else {
            sums(to)
        };
        if has(flags::BOTH_ENDS) {
            (entry.from_addr, entry.from_port) = from[1];
            let more = sums(from);
            addresses += more.0;
            ports += more.1;
        }
        entry.l4_delta = checksum::fold(addresses + ports);
        if key.dst.is_ipv4() {
            entry.l3_delta = checksum::fold(addresses);
        }
        entry
    };
    let forward = translate([shared, real], [client, stand_in], 0);
    let reverse = (!has(flags::ONE_WAY)).then(|| {
        let entry = translate([real, shared], [stand_in, client], flags::REVERSE);
        (forward.partner_key(&key), entry)
    });
    Halves {
        forward: (key, forward),
        reverse,
    }
}

/// What the change of an end adds to a one's-complement sum: of its address, and of its port.
fn sums([old, new]: [End; 2]) -> (u32, u32) {
    (delta(old.0, new.0), checksum::delta16(old.1, new.1))
}
