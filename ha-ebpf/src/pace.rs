//! How many flows may begin on a CPU: beyond, or while the table is nearly full, they are forwarded by hash
//! and leave nothing in the table.

use ha_common::control::Pace;
use ha_common::reason::Tally;

use crate::tables::{Flows, Shared, tally};

/// Time in which [`ha_common::control::Config::new_flows_max`] flows may begin.
const SECOND_NS: u64 = 1_000_000_000;

/// Whether a flow that begins now leaves nothing; nothing is counted.
#[inline(always)]
pub fn is_exceeded<A, T: Flows<A>>(tables: T, now: u64) -> bool {
    tables.table_full()
        || counted(tables).is_some_and(|(pace, max)| {
            let counted = pace.get();
            now.saturating_sub(counted.since_ns) < SECOND_NS && counted.flows >= max
        })
}

/// Counts a flow that begins now. Whether it leaves nothing.
#[inline(always)]
pub fn exceeds<A, T: Flows<A>>(tables: T, now: u64) -> bool {
    if tables.table_full() {
        tally(tables, Tally::Stateless);
        return true;
    }
    let Some((pace, max)) = counted(tables) else {
        return false;
    };
    let mut counted = pace.get();
    if now.saturating_sub(counted.since_ns) >= SECOND_NS {
        (counted.since_ns, counted.flows) = (now, 0);
    }
    counted.flows += 1;
    pace.update(|pace| *pace = counted);
    let limited = counted.flows > max;
    if limited {
        tally(tables, Tally::FlowsLimited);
    }
    limited
}

/// What is counted, and how many there may be, if there is a bound.
#[inline(always)]
fn counted<A, T: Flows<A>>(tables: T) -> Option<(Shared<Pace>, u64)> {
    let max = tables.config()?.get().new_flows_max;
    if max == 0 {
        return None;
    }
    Some((tables.pace()?, u64::from(max)))
}
