//! The gate: one store closes this node's data plane.
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

/// [`Gate`], as it is stored: word by word.
#[repr(C)]
#[derive(Debug, Default)]
struct Words {
    until_ns: AtomicU64,
    established_until_ns: AtomicU64,
    term: AtomicU64,
    overtaken: AtomicU64,
    partner_epoch: AtomicU64,
}

const _: () = assert!(size_of::<Words>() == size_of::<Gate>());

/// The gate of this node's data plane. Used by the election thread only.
#[derive(Debug)]
pub struct GateWord {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Mapped(NonNull<Words>),
    InMemory(Box<Words>),
}

// SAFETY: the mapping is owned, lives as long as the value and is only accessed atomically.
unsafe impl Send for GateWord {}
// SAFETY: as above.
unsafe impl Sync for GateWord {}

impl GateWord {
    /// Maps the one element of `ha_gate`, which must be a memory-mapped array.
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
            place: Place::Mapped(page.cast()),
        })
    }

    /// A gate without a data plane behind it.
    pub fn in_memory() -> Self {
        Self {
            place: Place::InMemory(Box::default()),
        }
    }

    /// The words as they are.
    pub fn read(&self) -> Gate {
        let words = self.words();
        Gate {
            until_ns: words.until_ns.load(Ordering::SeqCst),
            established_until_ns: words.established_until_ns.load(Ordering::SeqCst),
            term: words.term.load(Ordering::SeqCst),
            overtaken: words.overtaken.load(Ordering::SeqCst),
            partner_epoch: words.partner_epoch.load(Ordering::SeqCst),
        }
    }

    /// Says in which term the gate is opened: before it is opened. Whatever partner was heard in a
    /// lower term, or in this one, does not keep the gate closed any more.
    pub fn set_term(&self, term: u64) {
        self.words().term.store(term, Ordering::SeqCst);
    }

    /// Highest term in which XDP has heard the partner as active while this node's was lower.
    pub fn overtaken(&self) -> u64 {
        self.words().overtaken.load(Ordering::SeqCst)
    }

    /// Opens the gate until `until`, or shortens the time that it stays open. It stays closed if
    /// the partner was heard as active in a higher term than this node's.
    pub fn open_until(&self, until: Instant) {
        let words = self.words();
        words.until_ns.store(until.as_nanos(), Ordering::SeqCst);
    }

    /// Opens the gate for good: high availability is off.
    pub fn open_always(&self) {
        self.words().until_ns.store(Gate::ALWAYS, Ordering::SeqCst);
    }

    /// Closes the gate for everything. The next packet sees it.
    pub fn close(&self) {
        let words = self.words();
        words.until_ns.store(Gate::CLOSED, Ordering::SeqCst);
        words.established_until_ns.store(0, Ordering::SeqCst);
    }

    /// Lets established connections through the closed gate until then, at most
    /// [`Gate::HAND_OVER_NS`] from now; the data plane ignores a moment that is further away.
    pub fn hand_over_until(&self, until: Instant) {
        let words = self.words();
        words
            .established_until_ns
            .store(until.as_nanos(), Ordering::SeqCst);
    }

    /// Says in which epoch the partner lives; 0 = not known.
    pub fn set_partner(&self, epoch: u64) {
        self.words().partner_epoch.store(epoch, Ordering::SeqCst);
    }

    /// Closes the gate and forgets terms and partner: what an earlier agent knew.
    pub fn reset(&self) {
        self.close();
        let words = self.words();
        words.term.store(0, Ordering::SeqCst);
        words.overtaken.store(0, Ordering::SeqCst);
        words.partner_epoch.store(0, Ordering::SeqCst);
    }

    fn words(&self) -> &Words {
        match &self.place {
            // SAFETY: the page is mapped until `drop`, aligned, and begins with the one element of
            // the array.
            Place::Mapped(page) => unsafe { page.as_ref() },
            Place::InMemory(words) => words,
        }
    }
}

impl Drop for GateWord {
    fn drop(&mut self) {
        if let Place::Mapped(page) = &self.place {
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
        assert_eq!(gate.read(), Gate::default());
        gate.set_term(5);
        gate.set_partner(6);
        gate.open_until(Instant::from_nanos(77));
        let open = Gate {
            until_ns: 77,
            term: 5,
            partner_epoch: 6,
            ..Gate::default()
        };
        assert_eq!(gate.read(), open);
        gate.open_always();
        assert_eq!(gate.read().until_ns, Gate::ALWAYS);
        gate.close();
        gate.hand_over_until(Instant::from_nanos(99));
        let handing_over = Gate {
            until_ns: Gate::CLOSED,
            established_until_ns: 99,
            ..open
        };
        assert_eq!(gate.read(), handing_over);
        gate.close();
        assert_eq!(gate.read().established_until_ns, 0);
        assert_eq!(gate.read().term, 5);
        gate.reset();
        assert_eq!(gate.read(), Gate::default());
    }
}
