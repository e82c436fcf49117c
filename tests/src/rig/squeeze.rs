//! Scarce memory for one process: a control group whose limit is taken up by somebody else's page cache, so
//! whatever the process asks for must be reclaimed first. The cache gives way, so nothing has to be killed.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use super::locate;

const ROOT: &str = "/sys/fs/cgroup";
/// The group's memory.
const LIMIT: &str = "16777216";
/// Several times that.
const BALLAST: usize = 64 << 20;
const PIECE: usize = 256 << 10;
/// Leaves the processor to others.
const PAUSE: Duration = Duration::from_millis(1);

/// The kernel's two ways to bound memory.
struct Hierarchy {
    root: PathBuf,
    limit: &'static str,
}

impl Hierarchy {
    fn find() -> Result<Self> {
        let root = Path::new(ROOT);
        let unified = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if unified.split_whitespace().any(|name| name == "memory") {
            fs::write(root.join("cgroup.subtree_control"), "+memory")?;
            return Ok(Self {
                root: root.to_owned(),
                limit: "memory.high",
            });
        }
        if root.join("memory/memory.limit_in_bytes").exists() {
            return Ok(Self {
                root: root.join("memory"),
                limit: "memory.limit_in_bytes",
            });
        }
        bail!("this kernel has no control groups for memory")
    }
}

/// A process whose memory is scarce, until the value is dropped.
#[derive(Debug)]
pub struct Squeeze {
    group: PathBuf,
    outside: PathBuf,
    victim: Pid,
    ballast: Child,
}

impl Squeeze {
    /// Makes it scarce. The file of the page cache lies in `dir`, which must be on a disk.
    pub fn start(victim: Pid, dir: &Path) -> Result<Self> {
        let Hierarchy { root, limit } = Hierarchy::find()?;
        let group = root.join(format!("ha-rig-{victim}"));
        fs::create_dir_all(&group)?;
        fs::write(group.join(limit), LIMIT)
            .with_context(|| format!("cannot limit {}", group.display()))?;
        let ballast = Command::new(locate::program("ha-chaos")?)
            .arg("ballast")
            .arg(dir.join("ballast"))
            .stdin(Stdio::null())
            .spawn()?;
        // Removes the group if something fails from here on.
        let squeeze = Self {
            outside: root.join("cgroup.procs"),
            victim,
            ballast,
            group,
        };
        for pid in [squeeze.ballast.id(), u32::try_from(victim.as_raw())?] {
            fs::write(squeeze.group.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(squeeze)
    }
}

impl Drop for Squeeze {
    fn drop(&mut self) {
        // It may have ended by itself, and so may the victim.
        let _gone = self.ballast.kill();
        let _ended = self.ballast.wait();
        let _ended = fs::write(&self.outside, self.victim.to_string());
        for _ in 0..100 {
            match fs::remove_dir(&self.group) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

/// Reads a file from end to end for ever. Ends when its parent does.
pub fn ballast(path: &Path) -> Result<()> {
    let parent = std::os::unix::process::parent_id();
    let mut buffer = vec![0xa5; PIECE];
    let mut file = fs::File::create(path)?;
    for _ in 0..BALLAST / PIECE {
        file.write_all(&buffer)?;
    }
    file.sync_all()?;
    while std::os::unix::process::parent_id() == parent {
        let mut file = fs::File::open(path)?;
        while file.read(&mut buffer)? > 0 {
            sleep(PAUSE);
        }
    }
    Ok(())
}
