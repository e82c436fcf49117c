//! The two entries of a replicated connection.

use ha_common::checksum;
use ha_common::conn::{Conn4, ConnKey4, flags};

use super::Target;
use crate::proto::sync::Record;

/// Flags that hold on whichever node the connection is.
const LASTING: u8 = flags::RECONSTRUCTED | flags::BY_HASH;

/// Both entries of a connection.
///
/// The forward entry rewrites the packet's destination from the shared address to the real server,
/// the reverse entry rewrites the source from the real server to the shared address. Each holds what
/// its own change adds to the checksums (RFC 1624): the address to that of the IPv4 header, address
/// and port to that of TCP or UDP, whose pseudo-header contains the address. The way to the client is
/// this node's own business and is learned from the client's next packet.
pub(super) fn entries(
    record: &Record,
    target: Target,
    now_ns: u64,
) -> ((ConnKey4, Conn4), (ConnKey4, Conn4)) {
    let key = record.key;
    let translate = |from: (u32, u16), to: (u32, u16), direction: u8| {
        let addresses = checksum::delta32(from.0, to.0);
        Conn4 {
            to_addr: to.0,
            to_port: to.1,
            l4_delta: checksum::fold(addresses + checksum::delta16(from.1, to.1)),
            l3_delta: checksum::fold(addresses),
            real: target.real.id,
            real_generation: target.real.generation,
            flags: flags::REPLICATED | direction | record.flags & LASTING,
            state: record.state,
            service: target.service,
            version: record.version,
            last_seen_ns: now_ns,
            created_ns: now_ns,
            ..Conn4::default()
        }
    };
    let shared = (key.dst, key.dport);
    let real = (record.real_addr, record.real_port);
    let forward = translate(shared, real, 0);
    let reverse = translate(real, shared, flags::REVERSE);
    ((key, forward), (forward.partner_key(&key), reverse))
}
