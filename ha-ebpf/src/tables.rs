//! What the packet logic looks up, remembers and reports.

use core::mem::offset_of;
use core::ptr::NonNull;

use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4};
use ha_common::control::{Config, Gate};
use ha_common::event::{CarpSeen, ConnEvent};
use ha_common::reason::Tally;
use ha_common::service::{Real4, ReturnPath4, Service, ServiceKey4};

/// The maps, clocks and rings of the data plane. The kernel's implementation is a handle of no size.
pub trait Tables: Copy {
    /// Coarse `CLOCK_MONOTONIC`: a tick behind at most, nearly free.
    fn coarse_ns(self) -> u64;
    /// Precise `CLOCK_MONOTONIC`.
    fn precise_ns(self) -> u64;
    /// `ha_gate`.
    fn gate(self) -> Option<Shared<Gate>>;
    /// The layout version that the agent stored in `ha_version`; 0 before it did.
    fn layout_version(self) -> u32;
    /// `ha_config`.
    fn config(self) -> Option<Shared<Config>>;
    /// Which of [`ha_common::service::addr_kind`] this address is, 0 if none of this node's.
    fn addr_kind(self, addr: u32) -> u32;
    /// The virtual service that listens there.
    fn service(self, key: &ServiceKey4) -> Option<Shared<Service>>;
    /// The service to which packets from that real server and port belong.
    fn return_path(self, key: &ServiceKey4) -> Option<Shared<ReturnPath4>>;
    /// A real server by id.
    fn real(self, id: u16) -> Option<Shared<Real4>>;
    /// An element of a Maglev table or member list.
    fn slot(self, index: u32) -> Option<u32>;
    /// Whose turn it is in round robin, of `members` > 0.
    fn turn(self, service: u16, members: u32) -> u32;
    /// An established connection.
    fn conn(self, key: &ConnKey4) -> Option<Shared<Conn4>>;
    /// Adds an established connection's direction; never replaces one.
    fn add_conn(self, key: &ConnKey4, value: &Conn4) -> Result<(), InsertError>;
    /// Deletes a direction; `false` if it was not there.
    fn remove_conn(self, key: &ConnKey4) -> bool;
    /// A half-open connection.
    fn embryo(self, key: &EmbryoKey4) -> Option<Shared<Embryo4>>;
    /// Adds or replaces a half-open connection; `false` if there was no room.
    fn put_embryo(self, key: &EmbryoKey4, value: &Embryo4) -> bool;
    /// Forgets a half-open connection.
    fn remove_embryo(self, key: &EmbryoKey4);
    /// Hands a connection event to the agent; `false` if the ring is full.
    fn event(self, event: &ConnEvent) -> bool;
    /// Hands an advertisement to the agent. `fill` completes a record that is all zero and says
    /// whether it is to be kept. `false` if the ring is full or `fill` declined.
    fn carp_seen(self, fill: impl FnOnce(&mut CarpSeen) -> bool) -> bool;
    /// Adds one to a counter.
    fn count(self, index: u32);
}

/// Why an entry was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The key is taken.
    Exists,
    /// The table is full, or its bucket was contended.
    Full,
}

/// A map value: memory that other CPUs and the agent read and write at the same time.
///
/// Fields are integers that are written one by one, so a reader sees an old or a new value of each.
/// An element that is deleted under a reader may be given to another key at once; the kernel does
/// not keep it for the duration of a program. Readers therefore read early and write little.
#[derive(Debug)]
pub struct Shared<T>(NonNull<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// Wraps a pointer to a map value.
    ///
    /// # Safety
    /// `pointer` must be valid for reads and writes as long as the packet is being handled, and every
    /// bit pattern must be a valid `T`.
    #[inline(always)]
    pub const unsafe fn new(pointer: NonNull<T>) -> Self {
        Self(pointer)
    }

    /// A copy of the value. Only the fields that are used are loaded.
    #[inline(always)]
    pub fn get(self) -> T {
        // SAFETY: valid by the contract of `new`.
        unsafe { self.0.read() }
    }

    /// Writes single fields in place.
    #[inline(always)]
    pub fn update(self, change: impl FnOnce(&mut T)) {
        let mut pointer = self.0;
        // SAFETY: valid by the contract of `new`; no other reference to it exists on this CPU.
        change(unsafe { pointer.as_mut() });
    }
}

impl Shared<Gate> {
    /// The words as they are now: the election thread stores them at any time, and each packet is to
    /// see the newest.
    #[inline(always)]
    fn now(self) -> Gate {
        let words = self.0.as_ptr().cast::<u64>();
        let word = |offset: usize| {
            // SAFETY: one of the words that the value, valid by the contract of `new`, consists of.
            unsafe { words.wrapping_byte_add(offset).read_volatile() }
        };
        Gate {
            until_ns: word(offset_of!(Gate, until_ns)),
            established_until_ns: word(offset_of!(Gate, established_until_ns)),
            term: word(offset_of!(Gate, term)),
            overtaken: word(offset_of!(Gate, overtaken)),
        }
    }
}

/// Whether this node may act for the shared addresses now.
#[inline(always)]
pub fn gate_open<T: Tables>(tables: T, coarse_ns: u64) -> bool {
    tables
        .gate()
        .is_some_and(|gate| gate.now().is_open(coarse_ns, || tables.precise_ns()))
}

/// Whether this node, whose gate is not open, may still forward established connections.
#[inline(never)]
pub fn handing_over<T: Tables>(tables: T) -> bool {
    tables
        .gate()
        .is_some_and(|gate| gate.now().is_handing_over(|| tables.precise_ns()))
}

/// Adds one to a tally.
#[inline(always)]
pub fn tally<T: Tables>(tables: T, tally: Tally) {
    tables.count(tally.index());
}
