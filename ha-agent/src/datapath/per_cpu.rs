//! Elements of per-CPU arrays, one value for each CPU.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Pod;
use aya_obj::generated as abi;

use super::sys;

/// What the kernel rounds the value of each CPU up to.
const ALIGNMENT: usize = 8;

/// A per-CPU array.
#[derive(Debug)]
pub(super) struct PerCpu<V> {
    fd: OwnedFd,
    cpus: usize,
    value: PhantomData<fn() -> V>,
}

impl<V: Pod> PerCpu<V> {
    /// Wraps the map after its sizes were compared with the types.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        if sys::map_info(fd.as_fd())?.value_size as usize != size_of::<V>() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // The kernel writes one value for every possible CPU, not for every one that is online.
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(Self {
            fd,
            cpus,
            value: PhantomData,
        })
    }

    /// An element as each CPU has it.
    pub(super) fn get(&self, index: u32) -> io::Result<Vec<V>> {
        let stride = size_of::<V>().next_multiple_of(ALIGNMENT);
        let mut bytes = vec![0u8; stride * self.cpus];
        let mut attr = abi::bpf_attr__bindgen_ty_2 {
            map_fd: sys::raw(self.fd.as_fd()),
            key: &raw const index as u64,
            __bindgen_anon_1: abi::bpf_attr__bindgen_ty_2__bindgen_ty_1 {
                value: bytes.as_mut_ptr() as u64,
            },
            flags: 0,
        };
        sys::bpf(abi::bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
        Ok(bytes.chunks(stride).filter_map(sys::read_pod).collect())
    }
}
