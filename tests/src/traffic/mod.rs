//! Checked traffic: what a client would notice of a failover.
//!
//! Every byte of a connection is known in advance from the connection's number, the direction, the
//! server that answered first, and the position. So a byte that is lost, doubled, altered, of another
//! connection or of another server is noticed by whichever end it reaches.

pub mod client;
pub mod conversation;
pub mod crowd;
pub mod load;
pub mod path;
pub mod pattern;
pub mod pulse;
pub mod report;
pub mod server;
pub mod udp;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process open as many sockets as the system allows it.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Lets the calling thread run before all ordinary ones.
pub(crate) fn run_first(priority: i32) -> Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters are live; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Lets the calling thread run before others. For the few packets a second that measure the
/// network: they must not wait behind the load they measure beside.
pub(crate) fn prefer_this_thread() {
    const NICE: libc::c_int = -15;
    // SAFETY: a system call without pointers; 0 means the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    debug_assert_eq!(result, 0, "root may set its own priority");
}
