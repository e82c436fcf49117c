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

use ha_common::conn::{Conn4, ConnKey4};

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
pub(super) const fn is_milestone(key: &ConnKey4) -> bool {
    key.proto == PROTOCOL
}

/// Puts the milestones into a table of this many entries, of which they take a small part. They may
/// be there already.
pub(super) fn place(table: &Map<ConnKey4, Conn4>, entries: u32) -> io::Result<()> {
    let keys = keys(entries);
    let values = [Conn4::default(); STRIDE];
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

fn keys(entries: u32) -> Vec<ConnKey4> {
    let count = if entries < SMALLEST {
        0
    } else {
        entries / EVERY
    };
    let key = |src| ConnKey4 {
        src,
        proto: PROTOCOL,
        ..ConnKey4::default()
    };
    (0..count).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_table_gives_them_a_small_part_and_a_small_one_none() {
        assert_eq!(keys(2 << 20).len(), 8192);
        assert_eq!(keys(1000), []);
        assert!(keys(1 << 20).iter().all(is_milestone));
        assert!(!is_milestone(&ConnKey4 {
            proto: 255,
            ..ConnKey4::default()
        }));
    }
}
