//! Making a thread punctual.

use std::io;

/// Priority of the election thread: above everything ordinary, below the kernel's own threads.
const FIFO_PRIORITY: i32 = 40;

/// Asks for real-time scheduling, precise timers and memory that stays resident for the calling
/// thread. Returns what the system refused; the thread works without, only less punctually.
pub fn make_punctual() -> Vec<(&'static str, io::Error)> {
    let mut refused = Vec::new();
    let mut check = |what, result: libc::c_int| {
        if result < 0 {
            refused.push((what, io::Error::last_os_error()));
        }
    };
    let parameters = libc::sched_param {
        sched_priority: FIFO_PRIORITY,
    };
    // SAFETY: the parameters are live; 0 is the calling thread.
    check("real-time scheduling", unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    });
    // SAFETY: no pointers. ONFAULT: only what is touched is pinned, not the whole address space.
    check("locked memory", unsafe {
        libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT)
    });
    // SAFETY: no pointers. One nanosecond is the least slack there is.
    check("timer slack", unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1)
    });
    refused
}
