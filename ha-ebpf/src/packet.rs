//! The frame, as the packet logic sees it, and the ways out of this node.
//!
//! [`Packet::window`] is the only bounds check there is: it proves once that `N` bytes exist, and a
//! [`Window`] then reads and writes fields at offsets that are checked when the program is compiled.
//! The verifier sees one comparison and constant offsets behind it, the host tests see safe code.

use ha_common::service::Addr6;

/// An Ethernet address in one register: comparing and copying six separate bytes is what the BPF
/// backend does worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(u64);

impl Mac {
    /// The address with these bytes, which start at an even offset in all structures.
    #[inline(always)]
    pub fn read(from: &[u8; 6]) -> Self {
        let [a, b, c] = [0, 2, 4].map(|offset| {
            // SAFETY: two of six readable bytes.
            u64::from(unsafe { u16::load(from.as_ptr().wrapping_add(offset)) })
        });
        Self(a | b << 16 | c << 32)
    }

    /// The same with fewer instructions, for a map value: on the stack the verifier wants words aligned.
    #[inline(always)]
    pub fn read_wide(from: &[u8; 6]) -> Self {
        // SAFETY: six readable bytes.
        unsafe { Self::load(from.as_ptr()) }
    }

    /// Writes its bytes to an even offset.
    #[inline(always)]
    pub fn write(self, to: &mut [u8; 6]) {
        for (offset, shift) in [(0, 0), (2, 16), (4, 32)] {
            // SAFETY: two of six writable bytes.
            unsafe { ((self.0 >> shift) as u16).store(to.as_mut_ptr().wrapping_add(offset)) };
        }
    }

    /// Its bytes.
    #[inline(always)]
    pub fn bytes(self) -> [u8; 6] {
        let mut bytes = [0; 6];
        self.write(&mut bytes);
        bytes
    }

    /// The address of the virtual router with this id (RFC 9568 section 7.3), which CARP shares.
    #[inline(always)]
    pub const fn of_vhid(vhid: u8) -> Self {
        Self(u64::from_le_bytes([0, 0, 0x5e, 0, 1, vhid, 0, 0]))
    }

    /// `33:33:00:00:00:01`, of `ff02::1` (RFC 2464 section 7).
    pub const ALL_NODES: Self = Self(u64::from_le_bytes([0x33, 0x33, 0, 0, 0, 1, 0, 0]));

    /// Whether it names a group of stations (the lowest bit of the first byte).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 & u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]) != 0
    }
}

/// Both Ethernet addresses of a frame, as they stand at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    first: u64,
    last: u32,
}

/// The next station of a packet on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Interface it leaves through; 0 = not known.
    pub ifindex: u32,
    /// Where it goes.
    pub mac: Mac,
    /// This node's address on that interface.
    pub src: Mac,
}

impl Hop {
    /// No hop.
    pub const UNKNOWN: Self = Self {
        ifindex: 0,
        mac: Mac(0),
        src: Mac(0),
    };

    /// Whether there is one.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.ifindex != 0
    }
}

/// A received frame.
pub trait Packet {
    /// Bytes in the frame.
    fn frame_len(&self) -> usize;

    /// Interface it came in on.
    fn ingress(&self) -> u32;

    /// The `N` bytes from `offset` on, if the frame has them.
    fn window<const N: usize>(&mut self, offset: usize) -> Option<Window<'_, N>>;

    /// Copies `len` bytes from `offset` on; `false` if they are not there or do not fit.
    fn copy_out<const N: usize>(&self, offset: usize, len: usize, to: &mut [u8; N]) -> bool;

    /// Makes room in front of the frame; what is in it is garbage. `false` if there is none.
    fn grow_head(&mut self, by: usize) -> bool;

    /// Cuts the frame to this length. `false` if it is not longer.
    fn truncate(&mut self, len: usize) -> bool;

    /// The hop from `source` to `destination`, if the kernel knows route and neighbour.
    fn route4(&mut self, source: u32, destination: u32) -> Hop;

    /// The same for IPv6.
    fn route6(&mut self, source: &Addr6, destination: &Addr6) -> Hop;

    /// The longest IP packet that leaves through an interface, if one of `len` bytes is too long for it.
    fn exceeds_mtu(&mut self, ifindex: u32, len: u32) -> Option<u32>;

    /// Says through which interface a frame with the verdict *redirect* leaves.
    fn redirect(&mut self, ifindex: u32);
}

/// `N` bytes of the frame that are known to exist.
pub struct Window<'a, const N: usize>(&'a mut [u8; N]);

impl<'a, const N: usize> Window<'a, N> {
    /// A window on these bytes.
    #[inline(always)]
    pub const fn new(bytes: &'a mut [u8; N]) -> Self {
        Self(bytes)
    }

    /// All of it.
    #[inline(always)]
    pub const fn bytes(&self) -> &[u8; N] {
        self.0
    }

    /// The field at `OFFSET`, in the byte order of the packet.
    #[inline(always)]
    pub fn load<const OFFSET: usize, T: Field>(&self) -> T {
        const { assert!(OFFSET + T::LEN <= N) };
        // SAFETY: the assertion above keeps the field within the `N` bytes borrowed.
        unsafe { T::load(self.0.as_ptr().wrapping_add(OFFSET)) }
    }

    /// Replaces the field at `OFFSET`; `value` is in the byte order of the packet.
    #[inline(always)]
    pub fn store<const OFFSET: usize, T: Field>(&mut self, value: T) {
        const { assert!(OFFSET + T::LEN <= N) };
        // SAFETY: the assertion above keeps the field within the `N` bytes borrowed.
        unsafe { value.store(self.0.as_mut_ptr().wrapping_add(OFFSET)) };
    }
}

/// What can stand in a packet: any bit pattern is a value.
pub trait Field: Copy {
    /// Bytes it takes in the packet.
    const LEN: usize;

    /// Reads the field.
    ///
    /// # Safety
    /// `from` must be readable for the size of the field. It need not be aligned.
    unsafe fn load(from: *const u8) -> Self;

    /// Writes the field.
    ///
    /// # Safety
    /// `to` must be writable for the size of the field. It need not be aligned.
    unsafe fn store(self, to: *mut u8);
}

macro_rules! field {
    ($($type:ty),+) => {$(
        impl Field for $type {
            const LEN: usize = size_of::<Self>();

            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                // BPF loads of any alignment are one instruction, but the compiler splits a load
                // it is not told to be aligned into bytes.
                #[cfg(target_arch = "bpf")]
                // SAFETY: readable by contract; the instruction set does not require alignment.
                unsafe { *from.cast::<Self>() }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: readable by contract.
                unsafe { from.cast::<Self>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                #[cfg(target_arch = "bpf")]
                // SAFETY: writable by contract; the instruction set does not require alignment.
                unsafe { *to.cast::<Self>() = self }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: writable by contract.
                unsafe { to.cast::<Self>().write_unaligned(self) }
            }
        }
    )+};
}

field!(u8, u16, u32, u64);

impl<F: Field, const N: usize> Field for [F; N] {
    const LEN: usize = F::LEN * N;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        core::array::from_fn(|index| {
            // SAFETY: one of `N` readable elements.
            unsafe { F::load(from.wrapping_add(index * F::LEN)) }
        })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        for (index, element) in self.into_iter().enumerate() {
            // SAFETY: one of `N` writable elements.
            unsafe { element.store(to.wrapping_add(index * F::LEN)) };
        }
    }
}

impl Field for Addr6 {
    const LEN: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Self {
            // SAFETY: sixteen bytes that are readable by contract.
            words: unsafe { Field::load(from) },
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: sixteen bytes that are writable by contract.
        unsafe { self.words.store(to) };
    }
}

impl Field for Mac {
    const LEN: usize = 6;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the first four of six bytes that are readable by contract.
        let first = unsafe { u32::load(from) };
        // SAFETY: the last two of them.
        let last = unsafe { u16::load(from.wrapping_add(4)) };
        Self(u64::from(first) | u64::from(last) << 32)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the first four of six bytes that are writable by contract.
        unsafe { (self.0 as u32).store(to) };
        // SAFETY: the last two of them.
        unsafe { ((self.0 >> 32) as u16).store(to.wrapping_add(4)) };
    }
}

impl Field for Macs {
    const LEN: usize = 12;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Self {
            // SAFETY: the first eight of twelve bytes that are readable by contract.
            first: unsafe { Field::load(from) },
            // SAFETY: the last four of them.
            last: unsafe { Field::load(from.wrapping_add(8)) },
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the first eight of twelve bytes that are writable by contract.
        unsafe { self.first.store(to) };
        // SAFETY: the last four of them.
        unsafe { self.last.store(to.wrapping_add(8)) };
    }
}
