//! The entries of a replicated connection.

use std::net::IpAddr;

use ha_common::checksum;
use ha_common::conn::flags;

use super::Target;
use crate::datapath::family::{FlowEntry, FlowKey, delta, entry_to};
use crate::proto::sync::Record;

/// The entries of a connection: none in reverse if answers do not come back this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves {
    /// Client to real server.
    pub forward: (FlowKey, FlowEntry),
    /// Real server to client.
    pub reverse: Option<(FlowKey, FlowEntry)>,
}

impl Halves {
    /// Whether the entry at this key is one of them, as far as it does not follow from the packets that this
    /// node has seen: those decide the way to the client and the times.
    pub fn has(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        if !entry.is_reverse() {
            let (wanted_key, wanted) = &self.forward;
            return key == wanted_key
                && (entry.state, entry.version) == (wanted.state, wanted.version)
                && alike(entry, wanted, Record::LASTING);
        }
        // State and version stand in the forward entry alone, and so does who chose the real server.
        self.reverse.as_ref().is_some_and(|(wanted_key, wanted)| {
            key == wanted_key && alike(entry, wanted, Record::LASTING & !flags::BY_HASH)
        })
    }
}

fn alike(one: &FlowEntry, other: &FlowEntry, of_flags: u8) -> bool {
    let ends = |entry: &FlowEntry| {
        let both_ends = entry.flags & flags::BOTH_ENDS != 0;
        let from = both_ends.then_some((entry.from_addr, entry.from_port));
        ((entry.to_addr, entry.to_port), from)
    };
    let ids = |entry: &FlowEntry| (entry.service, entry.real, entry.real_generation);
    ends(one) == ends(other)
        && ids(one) == ids(other)
        && one.flags & of_flags == other.flags & of_flags
        && same_sum(one.l3_delta, other.l3_delta)
        && same_sum(one.l4_delta, other.l4_delta)
}

/// Zero has two forms in one's complement.
const fn same_sum(one: u16, other: u16) -> bool {
    one == other || one == !other && (one == 0 || other == 0)
}

/// An end of a connection: address, and port in network order.
type End = (IpAddr, u16);

/// The entries of a connection.
///
/// The forward entry rewrites the packet's destination from the shared address to the real server,
/// the reverse entry rewrites the source from the real server to the shared address; with full NAT the
/// other end is rewritten, too. Each holds what its own changes add to the checksums (RFC 1624): the
/// addresses to that of the IPv4 header, addresses and ports to that of TCP or UDP, whose pseudo-header
/// contains the addresses. The way to the client is this node's own business and is learned from the
/// client's next packet.
pub fn entries(record: &Record, target: Target, now_ns: u64) -> Halves {
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
            flags: flags::REPLICATED | direction | record.flags & Record::LASTING,
            state: record.state,
            service: target.service,
            version: record.version,
            last_seen_ns: now_ns,
            created_ns: now_ns,
            ..entry_to(to[1].0)
        };
        let (mut addresses, mut ports) = sums(to);
        if has(flags::BOTH_ENDS) {
            (entry.from_addr, entry.from_port) = from[1];
            let more = sums(from);
            addresses += more.0;
            ports += more.1;
        }
        let addresses = checksum::fold(addresses);
        entry.l4_delta = checksum::fold(u32::from(addresses) + ports);
        if key.dst.is_ipv4() {
            entry.l3_delta = addresses;
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

/// Where the reverse entry of a connection is, if it has one.
pub fn reverse_key(record: &Record) -> Option<FlowKey> {
    let forward = FlowEntry {
        from_addr: record.from_addr,
        to_port: record.real_port,
        from_port: record.from_port,
        flags: record.flags & Record::LASTING,
        ..entry_to(record.real_addr)
    };
    let both_ways = record.flags & flags::ONE_WAY == 0;
    both_ways.then(|| forward.partner_key(&record.key))
}

/// What the change of an end adds to a one's-complement sum: of its address, and of its port.
fn sums([old, new]: [End; 2]) -> (u32, u32) {
    (delta(old.0, new.0), checksum::delta16(old.1, new.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::family::none_like;
    use crate::services::ids::Id;

    const TARGET: Target = Target {
        service: 3,
        real: Id {
            id: 4,
            generation: 5,
        },
    };

    fn record(v6: bool, kind: u8) -> Record {
        let address = |host: u8| -> IpAddr {
            if v6 {
                [
                    0x20, 1, 0xd, 0xb8, host, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, host,
                ]
                .into()
            } else {
                [10, host, 0xff, host].into()
            }
        };
        let stand_in = if kind & flags::BOTH_ENDS != 0 {
            (address(9), 20_001u16.to_be())
        } else {
            (none_like(address(1)), 0)
        };
        Record {
            key: FlowKey {
                src: address(1),
                dst: address(2),
                sport: 40_000u16.to_be(),
                dport: 80u16.to_be(),
                proto: 6,
            },
            real_addr: address(3),
            from_addr: stand_in.0,
            real_port: 8080u16.to_be(),
            from_port: stand_in.1,
            state: 2,
            flags: kind | flags::HOP_KNOWN,
            version: 7,
        }
    }

    /// What a rewritten packet has instead of this key.
    fn rewritten(key: &FlowKey, entry: &FlowEntry) -> FlowKey {
        let mut after = *key;
        let (to, from) = if entry.is_reverse() {
            (
                (&mut after.src, &mut after.sport),
                (&mut after.dst, &mut after.dport),
            )
        } else {
            (
                (&mut after.dst, &mut after.dport),
                (&mut after.src, &mut after.sport),
            )
        };
        (*to.0, *to.1) = (entry.to_addr, entry.to_port);
        if entry.flags & flags::BOTH_ENDS != 0 {
            (*from.0, *from.1) = (entry.from_addr, entry.from_port);
        }
        after
    }

    /// Checksums over the addresses, and over addresses and ports.
    fn checksums(key: &FlowKey) -> (u16, u16) {
        let mut bytes = Vec::new();
        for address in [key.src, key.dst] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        let addresses = checksum::internet(&bytes).to_be();
        bytes.extend(key.sport.to_ne_bytes());
        bytes.extend(key.dport.to_ne_bytes());
        (addresses, checksum::internet(&bytes).to_be())
    }

    #[test]
    fn both_halves_rewrite_what_the_other_expects() {
        for v6 in [false, true] {
            for kind in [0, flags::BOTH_ENDS] {
                let record = record(v6, kind);
                let Halves { forward, reverse } = entries(&record, TARGET, 99);
                let reverse = reverse.unwrap();
                assert_eq!(forward.1.partner_key(&forward.0), reverse.0);
                assert_eq!(reverse_key(&record), Some(reverse.0));
                assert_eq!(reverse.1.partner_key(&reverse.0), forward.0);
                for (key, entry) in [forward, reverse] {
                    let after = rewritten(&key, &entry);
                    let other = if entry.is_reverse() {
                        forward.0
                    } else {
                        reverse.0
                    };
                    // As the answer to it is found.
                    assert_eq!((after.src, after.sport), (other.dst, other.dport));
                    assert_eq!((after.dst, after.dport), (other.src, other.sport));
                    let (l3, l4) = checksums(&key);
                    let (l3_after, l4_after) = checksums(&after);
                    assert_eq!(checksum::apply(l4, entry.l4_delta.into()), l4_after);
                    let l3_now = checksum::apply(l3, entry.l3_delta.into());
                    assert_eq!(l3_now, if v6 { l3 } else { l3_after });
                    assert_eq!(entry.flags & !flags::REVERSE, flags::REPLICATED | kind);
                    assert_eq!(
                        (entry.real, entry.real_generation, entry.service),
                        (4, 5, 3)
                    );
                    assert_eq!((entry.version, entry.created_ns), (7, 99));
                }
            }
        }
    }

    #[test]
    fn a_connection_that_goes_one_way_has_one_half() {
        for v6 in [false, true] {
            let record = record(v6, flags::ONE_WAY);
            let Halves { forward, reverse } = entries(&record, TARGET, 99);
            assert_eq!(reverse, None);
            assert_eq!(reverse_key(&record), None);
            assert_eq!(forward.0, record.key);
            assert_eq!(forward.1.to_addr, record.real_addr);
            assert_eq!(forward.1.flags, flags::REPLICATED | flags::ONE_WAY);
        }
    }
}
