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

/// Sleeps until one of the descriptors is readable or the deadline has come; which of them are, in their order.
pub fn sleep(
    fds: &[BorrowedFd<'_>],
    now: Instant,
    deadline: Option<Instant>,
) -> io::Result<Vec<bool>> {
    let wait = deadline
        .map_or(LONGEST, |deadline| deadline.since(now))
        .min(LONGEST);
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    match ppoll(&mut polled, Some(TimeSpec::from_duration(wait)), None) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let readable = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    Ok(polled.iter().map(readable).collect())
}
