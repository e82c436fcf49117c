//! The packet and the tables as the kernel has them.

use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, BPF_RB_NO_WAKEUP, bpf_fib_lookup as FibLookup, xdp_md,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4};
use ha_common::control::{Config, Gate};
use ha_common::event::{CARP_SEEN_BYTES, CarpSeen, ConnEvent4, Evidence, EvidenceKind};
use ha_common::pair::{Digest, Heard, Pair, Peer};
use ha_common::service::{Addr6, Real, ReturnPath4, Service, ServiceKey4};

use crate::maps;
use crate::packet::{Hop, Mac, Packet, Window};
use crate::tables::{Flows, InsertError, Shared, Tables};

/// `AF_INET`, Linux `include/linux/socket.h`.
const AF_INET: u8 = 2;
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
        // SAFETY: the comparison above, which the verifier checks, keeps all of it in the frame;
        // nothing else refers to it while the window lives.
        Some(Window::new(unsafe { &mut *(start as *mut [u8; N]) }))
    }

    #[inline(always)]
    fn copy_out(&self, offset: usize, len: usize, to: &mut [u8; CARP_SEEN_BYTES]) -> bool {
        if len == 0 || len > CARP_SEEN_BYTES {
            return false;
        }
        let to = ptr::from_mut(to).cast();
        // SAFETY: `len` bytes fit into `to`; the helper checks the frame's side.
        unsafe { bpf_xdp_load_bytes(self.ctx, offset as u32, to, len as u32) == 0 }
    }

    #[inline(never)]
    fn route(&mut self, source: u32, destination: u32) -> Hop {
        // SAFETY: integers and byte arrays only: all zero is a value.
        let mut lookup: FibLookup = unsafe { MaybeUninit::zeroed().assume_init() };
        lookup.family = AF_INET;
        lookup.ifindex = self.ingress();
        lookup.__bindgen_anon_3.ipv4_src = source;
        lookup.__bindgen_anon_4.ipv4_dst = destination;
        // SAFETY: the context is the program's, the size that of the parameters.
        let result = unsafe {
            bpf_fib_lookup(
                self.ctx.cast(),
                &raw mut lookup,
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

#[inline(always)]
fn shared<T: Copy>(pointer: Option<*mut T>) -> Option<Shared<T>> {
    // SAFETY: map values stay readable and writable while the program runs; all value types are
    // integers and byte arrays.
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
    fn bucket(self, kind: EvidenceKind) -> Option<Shared<u64>> {
        shared(maps::BUCKETS.get_ptr_mut(kind as u32))
    }

    #[inline(always)]
    fn real(self, id: u16) -> Option<Shared<Real>> {
        shared(maps::REALS.get_ptr_mut(u32::from(id)))
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
        let Some(mut entry) = maps::CARP.reserve_untyped::<CarpSeen>(0) else {
            return false;
        };
        let seen = entry.as_mut_ptr();
        // SAFETY: the record was reserved for one value of this type.
        unsafe { seen.write_bytes(0, 1) };
        // SAFETY: initialised by the line above: integers and byte arrays only.
        let keep = fill(unsafe { &mut *seen });
        if keep {
            entry.submit(0);
        } else {
            entry.discard(0);
        }
        keep
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
    fn count(self, index: u32) {
        if let Some(counter) = maps::REASONS.get_ptr_mut(index) {
            // SAFETY: this CPU's element of a per-CPU array map.
            unsafe { *counter += 1 };
        }
    }
}

impl Flows<u32> for Maps {
    #[inline(always)]
    fn service(self, key: &ServiceKey4) -> Option<Shared<Service>> {
        shared(maps::SERVICES4.get_ptr_mut(key))
    }

    #[inline(always)]
    fn return_path(self, key: &ServiceKey4) -> Option<Shared<ReturnPath4>> {
        shared(maps::RETURN4.get_ptr_mut(key))
    }

    #[inline(always)]
    fn conn(self, key: &ConnKey4) -> Option<Shared<Conn4>> {
        shared(maps::CONNS4.get_ptr_mut(key))
    }

    #[inline(always)]
    fn add_conn(self, key: &ConnKey4, value: &Conn4) -> Result<(), InsertError> {
        match maps::CONNS4.insert(key, value, u64::from(BPF_NOEXIST)) {
            Ok(()) => Ok(()),
            Err(error) if error == -EEXIST => Err(InsertError::Exists),
            Err(_) => Err(InsertError::Full),
        }
    }

    #[inline(always)]
    fn remove_conn(self, key: &ConnKey4) -> bool {
        maps::CONNS4.remove(key).is_ok()
    }

    #[inline(always)]
    fn embryo(self, key: &EmbryoKey4) -> Option<Shared<Embryo4>> {
        shared(maps::EMBRYO4.get_ptr_mut(key))
    }

    #[inline(always)]
    fn put_embryo(self, key: &EmbryoKey4, value: &Embryo4) -> bool {
        maps::EMBRYO4.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn remove_embryo(self, key: &EmbryoKey4) {
        // It may have been evicted meanwhile.
        maps::EMBRYO4.remove(key).ok();
    }

    #[inline(always)]
    fn event(self, event: &ConnEvent4) -> bool {
        let Some(mut entry) = maps::EVENTS.reserve_untyped::<ConnEvent4>(0) else {
            return false;
        };
        entry.write(*event);
        entry.submit(0);
        true
    }
}
