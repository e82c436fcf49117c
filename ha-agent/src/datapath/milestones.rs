//! Milestones: entries that no packet can have, spread over the connection table so that reading it never
//! holds a CPU for long.
//!
//! The kernel reads a hash map bucket by bucket and stops only when it has as many elements as were
//! asked for. It does not let anybody else run meanwhile, unless it is built to preempt itself (Debian's
//! is not, `CONFIG_PREEMPT_DYNAMIC` with `voluntary`). In a nearly empty table of two million buckets
//! that was 3.4 ms each time, in which the election thread had to wait if it was woken on that CPU. With an
//! entry in every few hundred buckets a read of a few elements is over after some microseconds,
//! however empty the table is. The kernel's hash function spreads them.

use std::io;

use aya::Pod;
use ha_common::conn::{Conn, ConnKey};
use ha_common::service::Addr6;

use super::family::Kernel;
use super::sys::{BatchError, Map};

/// Buckets to each milestone, on average.
const EVERY: u32 = 256;
/// Smaller tables have none: all their buckets are looked at in less than half a millisecond.
const SMALLEST: u32 = 1 << 18;
/// What no packet has: protocols are numbers of eight bits.
const PROTOCOL: u32 = u32::MAX;
/// Elements that one system call reads or writes: some 20 µs of work.
pub(super) const STRIDE: usize = 64;

/// Whether this is not a connection but a milestone.
pub(super) const fn is_milestone<A>(key: &ConnKey<A>) -> bool {
    key.proto == PROTOCOL
}

/// Puts the milestones into a table of this many entries, of which they take a small part. They may
/// be there already.
pub(super) fn place<A: Kernel>(table: &Map<ConnKey<A>, Conn<A>>, entries: u32) -> io::Result<()>
where
    ConnKey<A>: Pod,
    Conn<A>: Pod,
{
    let keys = keys(entries);
    let values = [Conn::default(); STRIDE];
    for keys in keys.chunks(STRIDE) {
        match table.update_batch(keys, &values) {
            Ok(()) => {}
            // A table that an earlier agent filled to the last entry needs none.
            Err(BatchError { source, .. }) if source.raw_os_error() == Some(libc::E2BIG) => break,
            Err(BatchError { source, .. }) => return Err(source),
        }
    }
    Ok(())
}

fn keys<A: Kernel>(entries: u32) -> Vec<ConnKey<A>> {
    let count = if entries < SMALLEST {
        0
    } else {
        entries / EVERY
    };
    let key = |number: u32| ConnKey {
        // Some address of the family for each number.
        src: A::narrow(Addr6 {
            words: [number, 0, 0, 0],
        }),
        dst: A::default(),
        sport: 0,
        dport: 0,
        proto: PROTOCOL,
    };
    (0..count).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::conn::ConnKey4;
    use std::collections::BTreeSet;

    #[test]
    fn a_large_table_gives_them_a_small_part_and_a_small_one_none() {
        assert_eq!(keys::<u32>(2 << 20).len(), 8192);
        assert_eq!(keys::<Addr6>(1000), []);
        let keys = keys::<Addr6>(1 << 20);
        assert!(keys.iter().all(is_milestone));
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
        assert!(!is_milestone(&ConnKey4 {
            proto: 255,
            ..ConnKey4::default()
        }));
    }
}
