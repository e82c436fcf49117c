//! What the packet logic looks up, remembers and reports.

use core::mem::offset_of;
use core::ptr::NonNull;

use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, Persist, PersistKey};
use ha_common::control::{Config, Gate, Pace};
use ha_common::event::{CarpSeen, ConnEvent, EarlyFragment, Evidence, Sample};
use ha_common::filter;
use ha_common::pair::{Digest, Heard, LINKS, Pair, Peer};
use ha_common::reason::Tally;
use ha_common::service::{
    Addr6, Address, Load, Real, ReturnPath, Service, ServiceKey, Timeouts, Traffic,
};

use crate::packet::Field;
use crate::work::Work;

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
    /// The same for an IPv6 address.
    fn addr6_kind(self, addr: &Addr6) -> u32;
    /// Where the data plane itself answers for this address, 0 if nowhere.
    fn addr_home(self, addr: u32) -> u32;
    /// The same for an IPv6 address.
    fn addr6_home(self, addr: &Addr6) -> u32;
    /// `ha_pair`.
    fn pair(self) -> Option<Shared<Pair>>;
    /// An element of `ha_peers`.
    fn peer(self, index: u32) -> Option<Shared<Peer>>;
    /// An element of `ha_digests`.
    fn digest(self, index: u32) -> Option<Shared<Digest>>;
    /// What was last heard on a link.
    fn heard(self, link: u32) -> Option<Shared<Heard>>;
    /// An element of `ha_buckets`: a token bucket.
    fn bucket(self, index: u32) -> Option<Shared<u64>>;
    /// A word of `ha_filter`.
    fn filter(self, word: u32) -> u64;
    /// How many flows begin on this CPU.
    fn pace(self) -> Option<Shared<Pace>>;
    /// A real server by id.
    fn real(self, id: u16) -> Option<Shared<Real>>;
    /// Connections of a real server.
    fn load(self, id: u16) -> Option<Shared<Load>>;
    /// What went to and from a real server on this CPU.
    fn traffic(self, id: u16) -> Option<Shared<Traffic>>;
    /// Idle times of a service by id.
    fn timeouts(self, service: u16) -> Option<Shared<Timeouts>>;
    /// An element of a Maglev table or member list.
    fn slot(self, index: u32) -> Option<u32>;
    /// Whose turn it is in round robin, of `members` > 0.
    fn turn(self, service: u16, members: u32) -> u32;
    /// Whether this is the one packet in `every` > 0 that is shown.
    fn chosen(self, every: u32) -> bool;
    /// Hands an advertisement to the agent. `fill` completes a record that is all zero and says
    /// whether it is to be kept. `false` if the ring is full or `fill` declined.
    fn carp_seen(self, fill: impl FnOnce(&mut CarpSeen) -> bool) -> bool;
    /// Hands a record of evidence to the agent, which is not woken; `false` if the ring is full.
    fn evidence(self, evidence: &Evidence) -> bool;
    /// Shows a packet to whoever captures, as [`Self::carp_seen`] does.
    fn sample(self, fill: impl FnOnce(&mut Sample) -> bool) -> bool;
    /// Hands a fragment to the agent, as [`Self::carp_seen`] does.
    fn early(self, fill: impl FnOnce(&mut EarlyFragment) -> bool) -> bool;
    /// Adds one to a counter.
    fn count(self, index: u32);
}

/// What the data plane remembers of one address family.
pub trait Flows<A>: Tables {
    /// The virtual service that listens there.
    fn service(self, key: &ServiceKey<A>) -> Option<Shared<Service>>;
    /// The service to which packets from that real server and port belong.
    fn return_path(self, key: &ServiceKey<A>) -> Option<Shared<ReturnPath<A>>>;
    /// An established connection.
    fn conn(self, key: &ConnKey<A>) -> Option<Shared<Conn<A>>>;
    /// Adds an established connection's direction; never replaces one.
    fn add_conn(self, key: &ConnKey<A>, value: &Conn<A>) -> Result<(), InsertError>;
    /// Deletes a direction; `false` if it was not there.
    fn remove_conn(self, key: &ConnKey<A>) -> bool;
    /// A half-open connection.
    fn embryo(self, key: &EmbryoKey<A>) -> Option<Shared<Embryo<A>>>;
    /// Adds or replaces a half-open connection; `false` if there was no room.
    fn put_embryo(self, key: &EmbryoKey<A>, value: &Embryo<A>) -> bool;
    /// Forgets a half-open connection.
    fn remove_embryo(self, key: &EmbryoKey<A>);
    /// Where the fragments of a packet go.
    fn fragments(self, key: &FragmentKey<A>) -> Option<Shared<Conn<A>>>;
    /// Remembers where they go.
    fn put_fragments(self, key: &FragmentKey<A>, value: &Conn<A>) -> bool;
    /// Where a client's connections go.
    fn persist(self, key: &PersistKey<A>) -> Option<Shared<Persist>>;
    /// Remembers where they go.
    fn put_persist(self, key: &PersistKey<A>, value: &Persist) -> bool;
    /// Hands a connection event to the agent. `fill` completes a record that is all zero. `false` if the
    /// ring is full.
    fn event(self, fill: impl FnOnce(&mut ConnEvent<A>)) -> bool;
    /// Whether the agent asks to make no more entries.
    fn table_full(self) -> bool;
    /// This CPU's workplace.
    fn work(self) -> Option<Shared<Work<A>>>;
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
    /// `pointer` must be valid for reads and writes as long as the packet is being handled, and whatever is
    /// there a valid `T`.
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

    /// Reads it in place: for fields that are not to be copied first.
    #[inline(always)]
    pub fn read<R>(self, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: valid by the contract of `new`.
        read(unsafe { self.0.as_ref() })
    }

    /// The field at `OFFSET`, alone: for values too large to be copied.
    #[inline(always)]
    pub fn load<const OFFSET: usize, F: Field>(self) -> F {
        const { assert!(OFFSET + F::LEN <= size_of::<T>()) };
        // SAFETY: the assertion above keeps the field within the value, valid by the contract of `new`.
        unsafe { F::load(self.0.as_ptr().cast::<u8>().wrapping_add(OFFSET)) }
    }

    /// The field at `offset`, alone: for values that are generic, where `OFFSET` cannot be said.
    #[inline(always)]
    pub fn load_at<F: Field>(self, offset: usize) -> F {
        debug_assert!(offset + F::LEN <= size_of::<T>());
        // SAFETY: callers name a field, which is within the value, valid by the contract of `new`.
        unsafe { F::load(self.0.as_ptr().cast::<u8>().wrapping_add(offset)) }
    }

    /// Copies the words at `OFFSET` without a second copy on the stack.
    #[inline(always)]
    pub fn copy<const OFFSET: usize, const N: usize>(self, to: &mut [u32; N]) {
        const { assert!(OFFSET + 4 * N <= size_of::<T>()) };
        let from = self.0.as_ptr().cast::<u8>().wrapping_add(OFFSET);
        for (index, word) in to.iter_mut().enumerate() {
            // SAFETY: the assertion above keeps the word within the value, valid by the contract of
            // `new`.
            *word = unsafe { u32::load(from.wrapping_add(4 * index)) };
        }
    }

    /// Works on it in place: writes single fields of what others write, too.
    #[inline(always)]
    pub fn update<R>(self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut pointer = self.0;
        // SAFETY: valid by the contract of `new`; no other reference to it exists on this CPU.
        change(unsafe { pointer.as_mut() })
    }
}

impl Shared<Pair> {
    /// Number of the link that is this interface.
    #[inline(always)]
    pub fn link(self, ifindex: u32) -> Option<u32> {
        let ifindexes = self
            .0
            .as_ptr()
            .wrapping_byte_add(offset_of!(Pair, ifindexes));
        (0..LINKS as u32).find(|link| {
            let known = ifindexes.cast::<u32>().wrapping_add(*link as usize);
            // SAFETY: one of the elements of a value that is valid by the contract of `new`.
            ifindex == unsafe { known.read() }
        })
    }
}

impl Shared<Gate> {
    /// A word as it is now: the election thread stores them at any time, and each packet is to see
    /// the newest. A volatile copy of the whole would go through the stack.
    #[inline(always)]
    fn word<const OFFSET: usize>(self) -> u64 {
        const { assert!(OFFSET + size_of::<u64>() <= size_of::<Gate>()) };
        let word = self.0.as_ptr().cast::<u64>().wrapping_byte_add(OFFSET);
        // SAFETY: one of the words that the value, valid by the contract of `new`, consists of.
        unsafe { word.read_volatile() }
    }
}

/// The partner's epoch; 0 = not known.
#[inline(always)]
pub fn partner_epoch<T: Tables>(tables: T) -> u64 {
    tables
        .gate()
        .map_or(0, Shared::word::<{ offset_of!(Gate, partner_epoch) }>)
}

/// The partner is active in this term: if it is higher than this node's, the gate closes, and only
/// a higher term of its own opens it again. The agent writes other words, so it cannot undo this by a
/// store that it had begun before.
#[inline(always)]
pub fn overtake<T: Tables>(tables: T, term: u64) {
    let Some(gate) = tables.gate() else { return };
    // Two CPUs may do this at once. Whichever store is last, it is above this node's term.
    if term > gate.word::<{ offset_of!(Gate, term) }>()
        && term > gate.word::<{ offset_of!(Gate, overtaken) }>()
    {
        gate.update(|gate| gate.overtaken = term);
        tally(tables, Tally::Overtaken);
    }
}

/// Whether this node may act for the shared addresses now.
#[inline(always)]
pub fn gate_open<T: Tables>(tables: T, coarse_ns: u64) -> bool {
    let Some(gate) = tables.gate() else {
        return false;
    };
    let words = Gate {
        until_ns: gate.word::<{ offset_of!(Gate, until_ns) }>(),
        term: gate.word::<{ offset_of!(Gate, term) }>(),
        overtaken: gate.word::<{ offset_of!(Gate, overtaken) }>(),
        ..Gate::default()
    };
    words.is_open(coarse_ns, || tables.precise_ns())
}

/// Whether this node, whose gate is not open, may still forward established connections.
#[inline(never)]
pub fn handing_over<T: Tables>(tables: T) -> bool {
    let Some(gate) = tables.gate() else {
        return false;
    };
    let words = Gate {
        established_until_ns: gate.word::<{ offset_of!(Gate, established_until_ns) }>(),
        ..Gate::default()
    };
    words.is_handing_over(|| tables.precise_ns())
}

/// Adds one to a tally.
#[inline(always)]
pub fn tally<T: Tables>(tables: T, tally: Tally) {
    tables.count(tally.index());
}

/// Whether an address may concern the data plane. `false` is certain.
#[inline(always)]
pub fn concerns<A: Address, T: Tables>(tables: T, address: A) -> bool {
    let (word, mask) = filter::place(address.filter_bit());
    tables.filter(word) & mask != 0
}
