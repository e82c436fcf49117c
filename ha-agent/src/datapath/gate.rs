//! The gate word: one store closes this node's data plane.
//!
//! `ha_gate` is mapped into memory, so the election thread opens and closes the gate without a system
//! call and therefore without anything that could block it.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use ha_common::control::Gate;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::proto::time::Instant;

/// Bytes mapped; the kernel rounds up to a page.
const LENGTH: NonZeroUsize = NonZeroUsize::new(size_of::<Gate>()).unwrap();

/// The gate of this node's data plane.
#[derive(Debug)]
pub struct GateWord {
    word: Word,
}

#[derive(Debug)]
enum Word {
    Mapped(NonNull<AtomicU64>),
    InMemory(Box<AtomicU64>),
}

// SAFETY: the mapping is owned, lives as long as the value and is only accessed atomically.
unsafe impl Send for GateWord {}
// SAFETY: as above.
unsafe impl Sync for GateWord {}

impl GateWord {
    /// Maps the word of `ha_gate`, which must be a memory-mapped array.
    pub fn map(map: impl AsFd) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping at an address the kernel chooses; nothing else is touched.
        let page = unsafe {
            mmap(
                None,
                LENGTH,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                0,
            )
        }?;
        Ok(Self {
            word: Word::Mapped(page.cast()),
        })
    }

    /// A gate without a data plane behind it.
    pub fn in_memory() -> Self {
        Self {
            word: Word::InMemory(Box::new(AtomicU64::new(Gate::CLOSED))),
        }
    }

    /// Until when the gate is open: nanoseconds of the monotonic clock, [`Gate::CLOSED`] or
    /// [`Gate::ALWAYS`].
    pub fn until_ns(&self) -> u64 {
        self.word().load(Ordering::SeqCst)
    }

    /// Opens the gate until `until`, or shortens the time that it stays open.
    pub fn open_until(&self, until: Instant) {
        self.word().store(until.as_nanos(), Ordering::SeqCst);
    }

    /// Opens the gate for good: high availability is off.
    pub fn open_always(&self) {
        self.word().store(Gate::ALWAYS, Ordering::SeqCst);
    }

    /// Closes the gate. The next packet sees it.
    pub fn close(&self) {
        self.word().store(Gate::CLOSED, Ordering::SeqCst);
    }

    fn word(&self) -> &AtomicU64 {
        match &self.word {
            // SAFETY: the page is mapped until `drop`, aligned, and its first eight bytes are the one
            // element of the array.
            Word::Mapped(page) => unsafe { page.as_ref() },
            Word::InMemory(word) => word,
        }
    }
}

impl Drop for GateWord {
    fn drop(&mut self) {
        if let Word::Mapped(page) = &self.word {
            // SAFETY: mapped by `map` with this length and not used any more.
            let unmapped = unsafe { munmap(page.cast(), LENGTH.get()) };
            debug_assert!(unmapped.is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_and_closes() {
        let gate = GateWord::in_memory();
        assert_eq!(gate.until_ns(), Gate::CLOSED);
        gate.open_until(Instant::from_nanos(77));
        assert_eq!(gate.until_ns(), 77);
        gate.open_always();
        assert_eq!(gate.until_ns(), Gate::ALWAYS);
        gate.close();
        assert_eq!(gate.until_ns(), Gate::CLOSED);
    }
}
