//! Waking a thread that sleeps in `ppoll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::proto::time::Instant;

/// The longest sleep: a bound on how long a lost wake-up could go unnoticed.
const LONGEST: Duration = Duration::from_millis(500);

/// An event descriptor that any thread can signal.
#[derive(Clone, Debug)]
pub struct Wake(Arc<EventFd>);

impl Wake {
    /// A new one, not signalled.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Signals; never blocks.
    pub fn signal(&self) {
        // Fails only when the counter is full, and then the sleeper is awake already.
        let _already_awake = self.0.write(1);
    }

    /// Takes the signal back.
    pub fn clear(&self) {
        // Fails only when there is none.
        let _not_signalled = self.0.read();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor to sleep on until it is readable.
pub fn until_readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

/// Sleeps until one of the descriptors is what it is waited for, or the deadline has come.
pub fn sleep(fds: &mut [PollFd<'_>], now: Instant, deadline: Option<Instant>) -> io::Result<()> {
    let wait = deadline
        .map_or(LONGEST, |deadline| deadline.since(now))
        .min(LONGEST);
    match ppoll(fds, Some(TimeSpec::from_duration(wait)), None) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
