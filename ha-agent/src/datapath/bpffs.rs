//! The BPF file system under `bpf_dir`.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where distributions mount it; a directory of sysfs, in which nothing else can be made.
const USUAL: &str = "/sys/fs/bpf";

/// `bpf_dir` cannot hold pins.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// No BPF file system, and none may be mounted.
    #[error(
        "bpf_dir {} is not on a BPF file system and mounting one at {} failed ({source}): run \
         `mount -t bpf bpf {}` first or choose a directory under {USUAL}",
        dir.display(), at.display(), at.display()
    )]
    Mount {
        /// The directory wanted.
        dir: PathBuf,
        /// Where a mount was attempted.
        at: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// The directory cannot be made or looked at.
    #[error("bpf_dir {}: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It exists and is no directory.
    #[error("bpf_dir {} is not a directory", dir.display())]
    NotADirectory {
        /// What is there.
        dir: PathBuf,
    },
}

/// Makes sure that `dir` exists and lies on a BPF file system, mounting one if it has to.
pub(super) fn prepare(dir: &Path) -> Result<(), BpffsError> {
    let there = dir
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or_else(|| Path::new("/"));
    if !is_bpffs(there).map_err(failed(dir))? {
        let at = if dir.starts_with(USUAL) {
            Path::new(USUAL)
        } else {
            make(dir)?;
            dir
        };
        mount(
            Some("bpf"),
            at,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|source| BpffsError::Mount {
            dir: dir.to_owned(),
            at: at.to_owned(),
            source,
        })?;
    }
    make(dir)
}

fn make(dir: &Path) -> Result<(), BpffsError> {
    if dir.exists() && !dir.is_dir() {
        return Err(BpffsError::NotADirectory {
            dir: dir.to_owned(),
        });
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed(dir))
}

/// Whether this is on a BPF file system.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

fn failed(dir: &Path) -> impl Fn(io::Error) -> BpffsError {
    move |source| BpffsError::Directory {
        dir: dir.to_owned(),
        source,
    }
}
