//! The packet and the tables as the kernel has them.

use core::hint::{assert_unchecked, black_box};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, BPF_RB_NO_WAKEUP, bpf_fib_lookup as FibLookup, xdp_md,
};
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_redirect,
    bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, Persist, PersistKey};
use ha_common::control::{Config, Gate, Pace};
use ha_common::event::{CarpSeen, ConnEvent, EarlyFragment, Evidence, Sample};
use ha_common::pair::{Digest, Heard, Pair, Peer};
use ha_common::service::{Addr6, Load, Real, ReturnPath, Service, ServiceKey, Timeouts, Traffic};

use crate::maps;
use crate::packet::{Hop, Mac, Packet, Window};
use crate::tables::{Flows, InsertError, Shared, Tables};
use crate::work::Work;

/// `AF_INET`, Linux `include/linux/socket.h`.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;
/// `BPF_MTU_CHK_RET_FRAG_NEEDED`, Linux `include/uapi/linux/bpf.h`.
const MTU_EXCEEDED: i64 = 1;
/// `EEXIST`, Linux `include/uapi/asm-generic/errno-base.h`.
const EEXIST: i32 = 17;

/// The frame an XDP program was called with.
///
/// The packet's pointers are read from the context at each use, volatile: the compiler must not
/// conclude from one bounds check that another holds, since the verifier cannot follow it there.
pub struct Frame {
    ctx: *mut xdp_md,
}

impl Frame {
    /// The frame of this context.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self {
            ctx: ctx.as_ptr().cast(),
        }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the kernel called the program with this context.
        (unsafe { (&raw const (*self.ctx).data).read_volatile() }) as usize
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the kernel called the program with this context.
        (unsafe { (&raw const (*self.ctx).data_end).read_volatile() }) as usize
    }
}

impl Frame {
    /// A question to the kernel's routes.
    #[inline(always)]
    fn lookup(&self, family: u8) -> FibLookup {
        // SAFETY: integers and byte arrays only: all zero is a value.
        let mut lookup: FibLookup = unsafe { MaybeUninit::zeroed().assume_init() };
        lookup.family = family;
        lookup.ifindex = self.ingress();
        lookup
    }

    #[inline(always)]
    fn ask(&self, lookup: &mut FibLookup) -> Hop {
        let parameters: *mut FibLookup = ptr::from_mut(lookup);
        // SAFETY: the context is the program's, the size that of the parameters.
        let result = unsafe {
            bpf_fib_lookup(
                self.ctx.cast(),
                parameters,
                size_of::<FibLookup>() as i32,
                0,
            )
        };
        if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
            return Hop::UNKNOWN;
        }
        Hop {
            ifindex: lookup.ifindex,
            mac: Mac::read(&lookup.dmac),
            src: Mac::read(&lookup.smac),
        }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.end() - self.start()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the kernel called the program with this context.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn window<const N: usize>(&mut self, offset: usize) -> Option<Window<'_, N>> {
        let start = self.start() + offset;
        if start + N > self.end() {
            return None;
        }
        // SAFETY: no frame starts at address 0. Else the compiler asks again whether there is a window.
        unsafe { assert_unchecked(start != 0) };
        // SAFETY: the comparison above, which the verifier checks, keeps all of it in the frame;
        // nothing else refers to it while the window lives.
        Some(Window::new(unsafe { &mut *(start as *mut [u8; N]) }))
    }

    #[inline(always)]
    fn copy_out<const N: usize>(&self, offset: usize, len: usize, to: &mut [u8; N]) -> bool {
        // Else the compiler asks whether the frame has an end, which tells the verifier nothing. Below, the
        // length is one more than a number with an upper bound: of "not 0 and at most N" Linux 6.1 forgets the first half.
        let last = black_box(len.wrapping_sub(1));
        if last >= N {
            return false;
        }
        let to = ptr::from_mut(to).cast();
        // SAFETY: `len` bytes fit into `to`; the helper checks the frame's side.
        unsafe { bpf_xdp_load_bytes(self.ctx, offset as u32, to, last as u32 + 1) == 0 }
    }

    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> bool {
        // SAFETY: the context is the program's. No window outlives the call, since it borrows the frame.
        unsafe { bpf_xdp_adjust_head(self.ctx, -(by as i32)) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> bool {
        // Else the compiler subtracts from a pointer, which the verifier does not allow.
        let surplus = black_box(self.frame_len()) as i32 - len as i32;
        // SAFETY: as above.
        surplus >= 0 && unsafe { bpf_xdp_adjust_tail(self.ctx, -surplus) == 0 }
    }

    #[inline(never)]
    fn route4(&mut self, source: u32, destination: u32) -> Hop {
        let mut lookup = self.lookup(AF_INET);
        lookup.__bindgen_anon_3.ipv4_src = source;
        lookup.__bindgen_anon_4.ipv4_dst = destination;
        self.ask(&mut lookup)
    }

    #[inline(never)]
    fn route6(&mut self, source: &Addr6, destination: &Addr6) -> Hop {
        let mut lookup = self.lookup(AF_INET6);
        lookup.__bindgen_anon_3.ipv6_src = source.words;
        lookup.__bindgen_anon_4.ipv6_dst = destination.words;
        self.ask(&mut lookup)
    }

    #[inline(never)]
    fn exceeds_mtu(&mut self, ifindex: u32, len: u32) -> Option<u32> {
        if ifindex == 0 {
            return None;
        }
        // In: what is asked about; out: what the interface takes.
        let mut mtu = len;
        // SAFETY: the context is the program's; the helper writes one word.
        let result = unsafe { bpf_check_mtu(self.ctx.cast(), ifindex, &raw mut mtu, 0, 0) };
        (result == MTU_EXCEEDED).then_some(mtu)
    }

    #[inline(always)]
    fn redirect(&mut self, ifindex: u32) {
        // SAFETY: no memory is involved. The verdict the helper returns is the one that follows from
        // the reason anyway.
        unsafe { bpf_redirect(ifindex, 0) };
    }
}

/// The BPF maps, clocks and rings.
#[derive(Clone, Copy)]
pub struct Maps;

/// Clears a record. What the compiler has for that goes by bytes.
///
/// # Safety
/// `record` must be writable, and consist of whole words.
#[inline(always)]
unsafe fn zero<T>(record: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) };
    for word in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: one of the record's words. Volatile, or the loop is recognised.
        unsafe { record.cast::<u64>().wrapping_add(word).write_volatile(0) };
    }
}

/// Hands a record of a ring to the agent, if `fill` completes it.
#[inline(always)]
fn hand_over<T: 'static, const BYTES: usize>(
    ring: &RingBuf<(), BYTES>,
    fill: impl FnOnce(&mut T) -> bool,
) -> bool {
    let Some(mut entry) = ring.reserve_untyped::<T>(0) else {
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the record was reserved for one value of this type, of integers and byte arrays.
    unsafe { zero(record) };
    // SAFETY: initialised by the line above.
    let keep = fill(unsafe { &mut *record });
    if keep {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
    keep
}

#[inline(always)]
fn shared<T: Copy>(pointer: Option<*mut T>) -> Option<Shared<T>> {
    // SAFETY: map values stay readable and writable while the program runs; all value types are
    // integers and byte arrays, but for those that only the data plane writes.
    pointer
        .and_then(NonNull::new)
        .map(|pointer| unsafe { Shared::new(pointer) })
}

impl Tables for Maps {
    #[inline(always)]
    fn coarse_ns(self) -> u64 {
        // SAFETY: no memory is involved.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn precise_ns(self) -> u64 {
        // SAFETY: no memory is involved.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn gate(self) -> Option<Shared<Gate>> {
        shared(maps::GATE.get_ptr_mut(0))
    }

    #[inline(always)]
    fn layout_version(self) -> u32 {
        // SAFETY: an element of an array map, read at once.
        maps::VERSION
            .get_ptr(0)
            .map_or(0, |version| unsafe { *version })
    }

    #[inline(always)]
    fn config(self) -> Option<Shared<Config>> {
        shared(maps::CONFIG.get_ptr_mut(0))
    }

    #[inline(always)]
    fn addr_kind(self, addr: u32) -> u32 {
        // SAFETY: a map value, read at once.
        maps::ADDRS4
            .get_ptr(addr)
            .map_or(0, |value| unsafe { (*value).kind })
    }

    #[inline(always)]
    fn addr6_kind(self, addr: &Addr6) -> u32 {
        // SAFETY: a map value, read at once.
        maps::ADDRS6
            .get_ptr(addr)
            .map_or(0, |value| unsafe { (*value).kind })
    }

    #[inline(always)]
    fn addr_home(self, addr: u32) -> u32 {
        // SAFETY: a map value, read at once.
        maps::ADDRS4
            .get_ptr(addr)
            .map_or(0, |value| unsafe { (*value).ifindex })
    }

    #[inline(always)]
    fn addr6_home(self, addr: &Addr6) -> u32 {
        // SAFETY: a map value, read at once.
        maps::ADDRS6
            .get_ptr(addr)
            .map_or(0, |value| unsafe { (*value).ifindex })
    }

    #[inline(always)]
    fn pair(self) -> Option<Shared<Pair>> {
        shared(maps::PAIR.get_ptr_mut(0))
    }

    #[inline(always)]
    fn peer(self, index: u32) -> Option<Shared<Peer>> {
        shared(maps::PEERS.get_ptr_mut(index))
    }

    #[inline(always)]
    fn digest(self, index: u32) -> Option<Shared<Digest>> {
        shared(maps::DIGESTS.get_ptr_mut(index))
    }

    #[inline(always)]
    fn heard(self, link: u32) -> Option<Shared<Heard>> {
        shared(maps::HEARD.get_ptr_mut(link))
    }

    #[inline(always)]
    fn bucket(self, index: u32) -> Option<Shared<u64>> {
        shared(maps::BUCKETS.get_ptr_mut(index))
    }

    #[inline(always)]
    fn filter(self, word: u32) -> u64 {
        // SAFETY: an element of an array map, read at once.
        maps::FILTER
            .get_ptr(word)
            .map_or(0, |word| unsafe { *word })
    }

    #[inline(always)]
    fn pace(self) -> Option<Shared<Pace>> {
        shared(maps::PACE.get_ptr_mut(0))
    }

    #[inline(always)]
    fn real(self, id: u16) -> Option<Shared<Real>> {
        shared(maps::REALS.get_ptr_mut(u32::from(id)))
    }

    #[inline(always)]
    fn load(self, id: u16) -> Option<Shared<Load>> {
        shared(maps::LOADS.get_ptr_mut(u32::from(id)))
    }

    #[inline(always)]
    fn traffic(self, id: u16) -> Option<Shared<Traffic>> {
        shared(maps::TRAFFIC.get_ptr_mut(u32::from(id)))
    }

    #[inline(always)]
    fn timeouts(self, service: u16) -> Option<Shared<Timeouts>> {
        shared(maps::TIMEOUTS.get_ptr_mut(u32::from(service)))
    }

    #[inline(always)]
    fn chosen(self, every: u32) -> bool {
        // SAFETY: no memory is involved.
        unsafe { bpf_get_prandom_u32() }.is_multiple_of(every)
    }

    #[inline(always)]
    fn slot(self, index: u32) -> Option<u32> {
        // SAFETY: an element of an array map, read at once.
        maps::SLOTS.get_ptr(index).map(|slot| unsafe { *slot })
    }

    #[inline(always)]
    fn turn(self, service: u16, members: u32) -> u32 {
        let Some(turn) = maps::TURNS.get_ptr_mut(u32::from(service)) else {
            return 0;
        };
        // SAFETY: this CPU's element of a per-CPU array map.
        let now = unsafe { *turn };
        // SAFETY: the same.
        unsafe { *turn = now.wrapping_add(1) };
        now.checked_rem(members).unwrap_or(0)
    }

    #[inline(always)]
    fn carp_seen(self, fill: impl FnOnce(&mut CarpSeen) -> bool) -> bool {
        hand_over(&maps::CARP, fill)
    }

    #[inline(always)]
    fn evidence(self, evidence: &Evidence) -> bool {
        let Some(mut entry) = maps::EVIDENCE.reserve_untyped::<Evidence>(0) else {
            return false;
        };
        entry.write(*evidence);
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        true
    }

    #[inline(always)]
    fn sample(self, fill: impl FnOnce(&mut Sample) -> bool) -> bool {
        hand_over(&maps::SAMPLES, fill)
    }

    #[inline(always)]
    fn early(self, fill: impl FnOnce(&mut EarlyFragment) -> bool) -> bool {
        hand_over(&maps::EARLY, fill)
    }

    #[inline(always)]
    fn count(self, index: u32) {
        if let Some(counter) = maps::REASONS.get_ptr_mut(index) {
            // SAFETY: this CPU's element of a per-CPU array map.
            unsafe { *counter += 1 };
        }
    }
}

macro_rules! flows {
    ($address:ty, $full:ident, $services:ident, $returns:ident, $conns:ident, $embryos:ident,
     $fragments:ident, $persist:ident, $work:ident) => {
        impl Flows<$address> for Maps {
            #[inline(always)]
            fn service(self, key: &ServiceKey<$address>) -> Option<Shared<Service>> {
                shared(maps::$services.get_ptr_mut(key))
            }

            #[inline(always)]
            fn return_path(
                self,
                key: &ServiceKey<$address>,
            ) -> Option<Shared<ReturnPath<$address>>> {
                shared(maps::$returns.get_ptr_mut(key))
            }

            #[inline(always)]
            fn conn(self, key: &ConnKey<$address>) -> Option<Shared<Conn<$address>>> {
                shared(maps::$conns.get_ptr_mut(key))
            }

            #[inline(always)]
            fn add_conn(
                self,
                key: &ConnKey<$address>,
                value: &Conn<$address>,
            ) -> Result<(), InsertError> {
                match maps::$conns.insert(key, value, u64::from(BPF_NOEXIST)) {
                    Ok(()) => Ok(()),
                    Err(error) if error == -EEXIST => Err(InsertError::Exists),
                    Err(_) => Err(InsertError::Full),
                }
            }

            #[inline(always)]
            fn remove_conn(self, key: &ConnKey<$address>) -> bool {
                maps::$conns.remove(key).is_ok()
            }

            #[inline(always)]
            fn embryo(self, key: &EmbryoKey<$address>) -> Option<Shared<Embryo<$address>>> {
                shared(maps::$embryos.get_ptr_mut(key))
            }

            #[inline(always)]
            fn put_embryo(self, key: &EmbryoKey<$address>, value: &Embryo<$address>) -> bool {
                maps::$embryos.insert(key, value, 0).is_ok()
            }

            #[inline(always)]
            fn remove_embryo(self, key: &EmbryoKey<$address>) {
                // It may have been evicted meanwhile.
                maps::$embryos.remove(key).ok();
            }

            #[inline(always)]
            fn fragments(self, key: &FragmentKey<$address>) -> Option<Shared<Conn<$address>>> {
                shared(maps::$fragments.get_ptr_mut(key))
            }

            #[inline(always)]
            fn put_fragments(self, key: &FragmentKey<$address>, value: &Conn<$address>) -> bool {
                maps::$fragments.insert(key, value, 0).is_ok()
            }

            #[inline(always)]
            fn persist(self, key: &PersistKey<$address>) -> Option<Shared<Persist>> {
                shared(maps::$persist.get_ptr_mut(key))
            }

            #[inline(always)]
            fn put_persist(self, key: &PersistKey<$address>, value: &Persist) -> bool {
                maps::$persist.insert(key, value, 0).is_ok()
            }

            #[inline(always)]
            fn event(self, fill: impl FnOnce(&mut ConnEvent<$address>)) -> bool {
                hand_over(&maps::EVENTS, |event| {
                    fill(event);
                    true
                })
            }

            #[inline(always)]
            fn table_full(self) -> bool {
                self.config().is_some_and(|config| config.get().$full != 0)
            }

            #[inline(always)]
            fn work(self) -> Option<Shared<Work<$address>>> {
                shared(maps::$work.get_ptr_mut(0))
            }
        }
    };
}

flows!(
    u32, table_full, SERVICES4, RETURN4, CONNS4, EMBRYO4, FRAGMENTS4, PERSIST4, WORK4
);
flows!(
    Addr6,
    table_full6,
    SERVICES6,
    RETURN6,
    CONNS6,
    EMBRYO6,
    FRAGMENTS6,
    PERSIST6,
    WORK6
);
