//! How long it takes from the client's handshake to a usable entry in the standby's kernel map.

use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::clock::{now_ns, sleep_until};
use crate::rig::conns::{Conns, key_of};

/// Between two probes.
const PERIOD: Duration = Duration::from_millis(10);
/// Between two looks at the map: a spinning thread would take the core that it waits for.
const LOOK_NS: u64 = 10_000;
/// Then it counts as having taken that long.
const GIVE_UP_NS: u64 = 1_000_000_000;

/// Probes until told to stop, on the calling thread, which is inside the client; times in nanoseconds in
/// ascending order.
pub(super) fn run(target: SocketAddrV4, standby: &Conns, stop: &AtomicBool) -> Result<Vec<u64>> {
    // The kernel adds 50 µs to each sleep by default.
    nix::sys::prctl::set_timerslack(1)?;
    let mut times = Vec::new();
    let mut due = now_ns();
    while !stop.load(Ordering::Relaxed) {
        sleep_until(due);
        due = now_ns().max(due + u64::try_from(PERIOD.as_nanos())?);
        let stream = TcpStream::connect(target)?;
        // The last segment of the handshake has passed the active node by now: veth hands it on at once.
        let from = now_ns();
        let key = key_of(&stream)?;
        let found = loop {
            if standby.get(&key)?.is_some_and(|entry| entry.to_addr != 0) {
                break now_ns();
            }
            let now = now_ns();
            if now - from > GIVE_UP_NS {
                break now;
            }
            sleep_until(now + LOOK_NS);
        };
        times.push(found.saturating_sub(from));
    }
    times.sort_unstable();
    Ok(times)
}
