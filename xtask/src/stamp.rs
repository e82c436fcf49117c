// Stamp of the BPF objects: a fingerprint of every source file they are made from.
//
// Included by both `xtask` (which writes the stamp beside the objects) and the agent's build script
// (which refuses objects whose stamp is not that of the sources), so it is plain `std`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Directories and files, relative to the workspace, whose content decides the objects.
const INPUTS: &[&str] = &[
    "ha-common/src",
    "ha-common/Cargo.toml",
    "ha-ebpf/src",
    "ha-ebpf/Cargo.toml",
    "Cargo.toml",
];

/// Name of the stamp file in the object directory.
pub(crate) const STAMP_FILE: &str = "stamp";

/// Every input file, sorted, relative to the workspace.
pub(crate) fn inputs(workspace: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in INPUTS {
        collect(workspace, Path::new(input), &mut files)?;
    }
    files.sort();
    Ok(files)
}

/// The fingerprint: FNV-1a (64 bit) over the inputs' names and contents. It guards against
/// forgetting, not against malice.
pub(crate) fn stamp(workspace: &Path) -> io::Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for file in inputs(workspace)? {
        feed(file.to_string_lossy().as_bytes());
        feed(&[0]);
        feed(&fs::read(workspace.join(&file))?);
        feed(&[0]);
    }
    Ok(format!("{hash:016x}"))
}

fn collect(workspace: &Path, path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let full = workspace.join(path);
    if full.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&full)? {
        collect(workspace, &path.join(entry?.file_name()), files)?;
    }
    Ok(())
}
