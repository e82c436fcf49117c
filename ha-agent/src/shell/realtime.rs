//! Making threads punctual.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::proto::time::Instant;

/// Priority of the election thread: above everything ordinary, below the kernel's own threads.
const FIFO_PRIORITY: i32 = 40;
/// Priority of the replication thread, below all else that is real-time.
const PREFERRED_PRIORITY: i32 = 1;
/// Longest that it runs in one go before everything ordinary: as long as a packet may wait.
const CREDIT_MAX: Duration = Duration::from_millis(2);

/// Asks for real-time scheduling, precise timers and memory that stays resident for the calling
/// thread. Returns what the system refused; the thread works without, only less punctually.
pub fn make_punctual() -> Vec<(&'static str, io::Error)> {
    let mut refused = Vec::new();
    let mut check = |what, result: libc::c_int| {
        if result < 0 {
            refused.push((what, io::Error::last_os_error()));
        }
    };
    check(
        "real-time scheduling",
        schedule(libc::SCHED_FIFO, FIFO_PRIORITY),
    );
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

/// Serves the calling thread before everything ordinary, the kernel's packet threads among it, as long as that costs
/// them little: what it runs comes out of a credit, which grows by half of the time that passes, up to
/// [`CREDIT_MAX`]. Without credit it has its share like all others.
///
/// A nice value would not do. The kernel divides a group's share (a session's, a unit's) among the cores by the weights
/// of what runs there (`calc_group_shares` in its `kernel/sched/fair.c`), so a heavy thread on one core takes the other
/// cores from the rest of its group for as long as seconds.
#[derive(Debug)]
pub struct Preference {
    preferred: bool,
    credit: Credit,
    /// When it was judged last, and how long the thread had run until then.
    judged: (Instant, Duration),
}

impl Preference {
    /// Prefers the calling thread. An error leaves it as it was.
    pub fn ask(now: Instant) -> io::Result<Self> {
        let mut preference = Self {
            preferred: false,
            credit: Credit(CREDIT_MAX),
            judged: (now, used()?),
        };
        preference.set(true)?;
        Ok(preference)
    }

    /// To be called by the same thread between pieces of work that are shorter than the credit.
    pub fn judge(mut self, now: Instant) -> io::Result<Self> {
        let used = used()?;
        let (before, used_before) = std::mem::replace(&mut self.judged, (now, used));
        self.credit
            .take(used.saturating_sub(used_before), now.since(before));
        let enough = if self.preferred {
            self.credit > Credit(Duration::ZERO)
        } else {
            self.credit >= Credit(CREDIT_MAX / 2)
        };
        self.set(enough)?;
        Ok(self)
    }

    fn set(&mut self, preferred: bool) -> io::Result<()> {
        if preferred == self.preferred {
            return Ok(());
        }
        let done = if preferred {
            schedule(libc::SCHED_RR, PREFERRED_PRIORITY)
        } else {
            schedule(libc::SCHED_OTHER, 0)
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        self.preferred = preferred;
        Ok(())
    }
}

/// How long a thread may still run before others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Credit(Duration);

impl Credit {
    /// It ran so long of this time.
    fn take(&mut self, used: Duration, of: Duration) {
        let grown = (self.0 + of / 2).min(CREDIT_MAX);
        self.0 = grown.saturating_sub(used);
    }
}

/// How long the calling thread has run.
fn used() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Threads that the calling one starts are ordinary.
fn schedule(policy: libc::c_int, priority: libc::c_int) -> libc::c_int {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters are live; 0 is the calling thread.
    unsafe {
        libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::clock;

    /// Without what `ask` needs there is nothing to see.
    fn policy() -> libc::c_int {
        // SAFETY: no pointers; 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn credit_is_half_of_the_time_and_not_saved_up() {
        let ms = Duration::from_millis;
        let mut credit = Credit(CREDIT_MAX);
        credit.take(ms(1), ms(1));
        assert_eq!(credit, Credit(CREDIT_MAX - ms(1)));
        credit.take(ms(0), ms(3600));
        assert_eq!(credit, Credit(CREDIT_MAX));
        credit.take(ms(10), ms(10));
        assert_eq!(credit, Credit(ms(0)));
        // A thread that runs for half of the time neither loses nor wins.
        credit.take(ms(0), ms(2));
        for _ in 0..100 {
            credit.take(ms(1), ms(2));
        }
        assert_eq!(credit, Credit(ms(1)));
    }

    #[test]
    fn a_busy_thread_is_ordinary_until_it_rests() {
        let mut preference = match Preference::ask(clock::now()) {
            Ok(preference) => preference,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                assert_eq!(policy(), libc::SCHED_OTHER);
                return;
            }
        };
        assert_eq!(policy(), libc::SCHED_RR);
        // However long that takes on a busy machine.
        let enough = used().unwrap() + CREDIT_MAX * 3;
        while used().unwrap() < enough {}
        // As if no time had passed but what it ran.
        preference.judged.0 = clock::now();
        preference = preference.judge(preference.judged.0).unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
        std::thread::sleep(CREDIT_MAX * 4);
        preference.judge(clock::now()).unwrap();
        assert_eq!(policy(), libc::SCHED_RR);
    }
}
