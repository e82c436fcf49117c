//! The bpf(2) system call, wrapped once: typed maps with batch operations, pins, XDP links and test
//! runs.
//!
//! aya 0.14 has no batch operations, and its links hide the errno that decides between native and
//! generic mode; the numbers and most structures are those of `aya_obj::generated`. Each operation
//! passes only its own member of `union bpf_attr`, or the front of it: the kernel takes the rest as
//! zero. A structure with padding at its end will not do, since the kernel refuses stray bytes there.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;
use aya_obj::generated as abi;
use aya_obj::generated::bpf_cmd;

/// Element flags of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Update {
    /// Create or replace.
    Any = 0,
    /// Create; an existing element is an error (`EEXIST`).
    NoExist = 1,
    /// Replace; a missing element is an error (`ENOENT`).
    Exist = 2,
}

/// A batch that stopped early.
#[derive(Debug)]
pub struct BatchError {
    /// Elements handled before the one that failed.
    pub done: usize,
    /// Why it failed.
    pub source: io::Error,
}

/// Elements of a map, and where a scan of it goes on.
#[derive(Debug)]
pub struct Batch<K, V> {
    /// The elements.
    pub entries: Vec<(K, V)>,
    /// Where to go on; `None` at the end of the map.
    pub next: Option<u32>,
}

/// A map in the kernel whose keys are `K` and whose values are `V`.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Wraps a map, whose key and value must have the sizes of `K` and `V`.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = map_info(fd.as_fd())?;
        if info.key_size as usize != size_of::<K>() || info.value_size as usize != size_of::<V>() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self {
            fd,
            types: PhantomData,
        })
    }

    /// The map's descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The element with this key.
    pub fn lookup(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = zeroed::<V>();
        let mut attr = self.element(key, &raw mut value as u64, 0);
        found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)).map(|found| found.then_some(value))
    }

    /// Stores an element.
    pub fn update(&self, key: &K, value: &V, update: Update) -> io::Result<()> {
        let mut attr = self.element(key, &raw const *value as u64, update as u64);
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    /// Removes an element and tells whether it was there.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        let mut attr = self.element(key, 0, 0);
        found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr))
    }

    /// The key after this one, or the first.
    pub fn next_key(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = zeroed::<K>();
        let mut attr = abi::bpf_attr__bindgen_ty_2 {
            map_fd: raw(self.fd.as_fd()),
            key: key.map_or(0, |key| &raw const *key as u64),
            __bindgen_anon_1: abi::bpf_attr__bindgen_ty_2__bindgen_ty_1 {
                next_key: &raw mut next as u64,
            },
            flags: 0,
        };
        found(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr)).map(|found| found.then_some(next))
    }

    /// Stores many elements. `values` beyond the number of keys are ignored, and vice versa.
    pub fn update_batch(&self, keys: &[K], values: &[V]) -> Result<(), BatchError> {
        let count = keys.len().min(values.len());
        let mut attr = self.batch(keys.as_ptr() as u64, values.as_ptr() as u64, count);
        run_batch(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr)
    }

    /// Removes many elements and tells how many were there.
    pub fn delete_batch(&self, keys: &[K]) -> Result<usize, BatchError> {
        let mut rest = keys;
        let mut missing = 0;
        loop {
            let mut attr = self.batch(rest.as_ptr() as u64, 0, rest.len());
            match run_batch(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr) {
                Ok(()) => return Ok(keys.len() - missing),
                // The kernel stops at a key that is not there; the ones behind it still count.
                Err(error) if error.source.raw_os_error() == Some(libc::ENOENT) => {
                    missing += 1;
                    rest = rest.get(error.done + 1..).unwrap_or_default();
                }
                Err(error) => {
                    return Err(BatchError {
                        done: keys.len() - rest.len() + error.done,
                        source: error.source,
                    });
                }
            }
        }
    }

    /// About `max` elements from `cursor` on (`None`: from the start).
    ///
    /// A hash map's cursor is a bucket and a bucket is never split, so more than `max` elements come
    /// back if one bucket holds more. It is an element's index in an array.
    pub fn lookup_batch(&self, cursor: Option<u32>, max: usize) -> io::Result<Batch<K, V>> {
        let mut room = max.max(1);
        loop {
            let mut keys = vec![zeroed::<K>(); room];
            let mut values = vec![zeroed::<V>(); room];
            let mut next = 0u32;
            let mut attr = self.batch(keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, room);
            attr.in_batch = cursor.as_ref().map_or(0, |at| &raw const *at as u64);
            attr.out_batch = &raw mut next as u64;
            let more = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
                Ok(_) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = attr.count as usize;
            return Ok(Batch {
                entries: keys.into_iter().zip(values).take(count).collect(),
                next: more.then_some(next),
            });
        }
    }

    /// All elements, fetched `max` at a time.
    pub fn all(&self, max: usize) -> io::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        let mut cursor = None;
        loop {
            let batch = self.lookup_batch(cursor, max)?;
            entries.extend(batch.entries);
            match batch.next {
                Some(next) => cursor = Some(next),
                None => return Ok(entries),
            }
        }
    }

    fn element(&self, key: &K, value: u64, flags: u64) -> abi::bpf_attr__bindgen_ty_2 {
        abi::bpf_attr__bindgen_ty_2 {
            map_fd: raw(self.fd.as_fd()),
            key: &raw const *key as u64,
            __bindgen_anon_1: abi::bpf_attr__bindgen_ty_2__bindgen_ty_1 { value },
            flags,
        }
    }

    fn batch(&self, keys: u64, values: u64, count: usize) -> abi::bpf_attr__bindgen_ty_3 {
        abi::bpf_attr__bindgen_ty_3 {
            in_batch: 0,
            out_batch: 0,
            keys,
            values,
            count: count as u32,
            map_fd: raw(self.fd.as_fd()),
            elem_flags: 0,
            flags: 0,
        }
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A per-CPU array whose elements are one or several 64-bit counters.
#[derive(Debug)]
pub struct PerCpuCounters {
    fd: OwnedFd,
    cpus: usize,
    words: usize,
}

impl PerCpuCounters {
    /// Wraps a per-CPU array with this many counters in each element.
    pub fn new(fd: OwnedFd, words: usize) -> io::Result<Self> {
        if map_info(fd.as_fd())?.value_size as usize != words * size_of::<u64>() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // The kernel writes one value for every possible CPU, not for every one that is online.
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(Self { fd, cpus, words })
    }

    /// The counters of the first `count` elements, each summed over all CPUs, in one system call.
    pub fn sums(&self, count: usize) -> io::Result<Vec<u64>> {
        let per_element = self.words * self.cpus;
        let mut keys = vec![0u32; count];
        let mut values = vec![0u64; count * per_element];
        let mut next = 0u32;
        let mut attr = abi::bpf_attr__bindgen_ty_3 {
            in_batch: 0,
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: count as u32,
            map_fd: raw(self.fd.as_fd()),
            elem_flags: 0,
            flags: 0,
        };
        match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => {}
            // All elements were fetched and there are no more.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let mut sums = Vec::with_capacity(count * self.words);
        for element in values.chunks(per_element.max(1)).take(attr.count as usize) {
            for word in 0..self.words {
                let cpus = element.iter().skip(word).step_by(self.words);
                sums.push(cpus.fold(0, |sum: u64, n| sum.wrapping_add(*n)));
            }
        }
        Ok(sums)
    }

    /// Sets the counters of an element to zero, on all CPUs.
    pub fn clear(&self, index: u32) -> io::Result<()> {
        let zeros = vec![0u64; self.words * self.cpus];
        let mut attr = abi::bpf_attr__bindgen_ty_2 {
            map_fd: raw(self.fd.as_fd()),
            key: &raw const index as u64,
            __bindgen_anon_1: abi::bpf_attr__bindgen_ty_2__bindgen_ty_1 {
                value: zeros.as_ptr() as u64,
            },
            flags: 0,
        };
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}

/// What the kernel knows about a map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<abi::bpf_map_info> {
    info(map)
}

/// The front of `bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectPath {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The object pinned at `path`.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectPath {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(owned)
}

/// Pins an object at `path`.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectPath {
        pathname: path.as_ptr() as u64,
        bpf_fd: raw(object),
        file_flags: 0,
    };
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Attaches an XDP program to an interface. `flags` are those of `linux/if_link.h` (`XDP_FLAGS_*`).
pub fn xdp_link_create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    // The front of `bpf_attr.link_create`: what follows is for other link types.
    #[repr(C)]
    struct LinkCreate {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = LinkCreate {
        prog_fd: raw(program),
        target_ifindex: ifindex,
        attach_type: abi::bpf_attach_type::BPF_XDP as u32,
        flags,
    };
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Puts another program behind a link, without a moment in which there is none.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // `bpf_attr.link_update`.
    #[repr(C)]
    struct LinkUpdate {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = LinkUpdate {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches what a link attaches, now. (Removing a link's last pin does so too, but some time later.)
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = abi::bpf_attr__bindgen_ty_16 { link_fd: raw(link) };
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// The interface an XDP link is attached to: 0 if that interface is gone, `None` if the link is not
/// an XDP link at all.
pub fn xdp_link_ifindex(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let info: abi::bpf_link_info = info(link)?;
    if info.type_ != abi::bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        return Ok(None);
    }
    // SAFETY: the kernel fills in the member that belongs to the type checked above; the structure was
    // zeroed before, so every byte is initialised.
    Ok(Some(unsafe { info.__bindgen_anon_1.xdp.ifindex }))
}

/// The front of `bpf_attr.test`, with a word behind it in place of padding.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    zero: u32,
}

impl TestRun {
    fn once(program: BorrowedFd<'_>, data: &[u8]) -> Self {
        Self {
            prog_fd: raw(program),
            data_size_in: data.len() as u32,
            data_in: data.as_ptr() as u64,
            repeat: 1,
            ..Self::default()
        }
    }
}

/// Runs a program once on `data` and returns its return value.
pub fn test_run(program: BorrowedFd<'_>, data: &[u8]) -> io::Result<u32> {
    let mut attr = TestRun::once(program, data);
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// Runs a program once on a frame as if that came in on the first queue of an interface, and does with the
/// frame what the program says (Linux 5.18).
pub fn receive(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32) -> io::Result<()> {
    // `struct xdp_md`: where the packet starts and ends, its metadata, where it came in, and where it leaves.
    let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let mut attr = TestRun {
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        flags: abi::BPF_F_TEST_XDP_LIVE_FRAMES,
        ..TestRun::once(program, frame)
    };
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).map(drop)
}

/// Bytes of plain-old-data values.
pub fn bytes_of<T: Pod>(values: &[T]) -> &[u8] {
    // SAFETY: `Pod` promises that every byte is initialised; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A value read from bytes as they were written by the kernel; `None` if there are too few.
pub fn read_pod<T: Pod>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: long enough by the line above, unaligned reads are allowed here, and every bit pattern
    // of a `Pod` is valid.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn info<T: Copy>(object: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: only used with the plain C structures `bpf_*_info`, for which zero is valid.
    let mut info: T = unsafe { std::mem::zeroed() };
    let mut attr = abi::bpf_attr__bindgen_ty_9 {
        bpf_fd: raw(object),
        info_len: size_of::<T>() as u32,
        info: &raw mut info as u64,
    };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

pub(super) fn bpf<T>(command: bpf_cmd, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is the command's member of `union bpf_attr`; the pointers in it outlive the call
    // and point to as much memory as the command reads or writes (callers).
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attr,
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn run_batch(command: bpf_cmd, attr: &mut abi::bpf_attr__bindgen_ty_3) -> Result<(), BatchError> {
    if attr.count == 0 {
        return Ok(());
    }
    let result = bpf(command, attr);
    // Here the kernel has replaced the count asked for by the count done.
    result.map(drop).map_err(|source| BatchError {
        done: attr.count as usize,
        source,
    })
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn zeroed<T: Pod>() -> T {
    // SAFETY: every bit pattern of a `Pod` is valid.
    unsafe { std::mem::zeroed() }
}

pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: a fresh descriptor returned by the kernel, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
