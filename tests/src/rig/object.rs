//! The rig's own BPF programs.

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader};
use ha_common::maps;

use super::locate;

/// Maps of the data plane, which the object has as well: to make the large ones keeps a core from everybody,
/// nodes that are measured included, where the kernel is not preempted, and longer than a partner waits.
const UNUSED: [&str; 6] = [
    maps::CONNS4,
    maps::CONNS6,
    maps::EMBRYO4,
    maps::EMBRYO6,
    maps::PERSIST4,
    maps::PERSIST6,
];
const FEW: u32 = 1024;

/// Loads the object; which of its programs is wanted, its user says.
pub(crate) fn load() -> Result<Ebpf> {
    let object = locate::bpf_object("ha_rig")?;
    let mut loader = EbpfLoader::new();
    for name in UNUSED {
        loader.map_max_entries(name, FEW);
    }
    loader
        .load_file(&object)
        .with_context(|| format!("cannot load {}", object.display()))
}
