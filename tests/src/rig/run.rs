//! One run of the rig: everything it makes, and the removal of everything it made.
//!
//! A run owns a directory under [`RUNS`]. All that has to be removed can be found from the
//! directory alone: the namespaces are named after the run, the processes are those inside them,
//! the mounts are those below the directory. So one function, [`remove`], serves the ordinary end,
//! a panic, Ctrl-C, a kept run that is to be stopped, and what a killed run left behind. A run is
//! alive while somebody holds the lock on its `lock` file; a `keep` file marks one that was left
//! running on purpose.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use super::netns::{NETNS_DIR, Netns};

/// Directory of all runs.
const RUNS: &str = "/run/ha-rig";
/// Whoever starts a run or looks for dead ones locks this.
const STARTING: &str = "/run/ha-rig.lock";
const LOCK: &str = "lock";
const KEEP: &str = "keep";

/// Runs of this process that are not removed yet.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A run of the rig. Dropping it removes everything unless [`Run::keep`] was called.
#[derive(Debug)]
pub struct Run {
    id: String,
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Run {
    /// Removes what dead runs left and starts a new one.
    pub fn start() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces and BPF need root");
        }
        remove_on_signals()?;
        fs::create_dir_all(RUNS)?;
        // Held until the new run has its own lock, so that another that starts does not take it
        // for a dead one.
        let _starting = Flock::lock(File::create(STARTING)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)?;
        remove_dead()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let dir = Path::new(RUNS).join(&id);
        // The agents' key files and control sockets live below.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = lock(&dir)?.context("the lock of a new run is taken")?;
        live().insert(dir.clone());
        Ok(Self {
            id,
            dir,
            _lock: lock,
        })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a namespace for a host of this name.
    pub fn namespace(&self, host: &str) -> Result<Netns> {
        Netns::create(&format!("ha-{}-{host}", self.id))
    }

    /// Makes a directory for a host.
    pub fn host_dir(&self, host: &str) -> Result<PathBuf> {
        let dir = self.dir.join(host);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Mounts a BPF file system for a host.
    pub fn mount_bpf(&self, host: &str) -> Result<PathBuf> {
        let dir = self.host_dir(host)?.join("bpf");
        fs::create_dir_all(&dir)?;
        mount(
            Some("bpf"),
            &dir,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .with_context(|| format!("cannot mount a BPF file system on {}", dir.display()))?;
        Ok(dir)
    }

    /// Leaves everything running when the value is dropped, until [`remove_kept`].
    pub fn keep(&self) -> Result<()> {
        fs::write(self.dir.join(KEEP), "")?;
        live().remove(&self.dir);
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if live().remove(&self.dir) {
            report(remove(&self.dir));
        }
    }
}

/// Removes the runs that were left running on purpose; returns how many.
pub fn remove_kept() -> Result<usize> {
    let mut removed = 0;
    for dir in runs()? {
        if dir.join(KEEP).exists() && lock(&dir)?.is_some() {
            remove(&dir)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn live() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runs() -> Result<Vec<PathBuf>> {
    match fs::read_dir(RUNS) {
        Ok(entries) => Ok(entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("cannot list the runs of the rig"),
    }
}

/// Takes a run's lock; `None` if somebody holds it.
fn lock(dir: &Path) -> Result<Option<Flock<File>>> {
    let file = File::create(dir.join(LOCK))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).context("cannot lock a run's directory"),
    }
}

fn remove_dead() -> Result<()> {
    for dir in runs()? {
        if !dir.join(KEEP).exists() && lock(&dir)?.is_some() {
            remove(&dir)?;
        }
    }
    Ok(())
}

/// Removes a run: processes, mounts, namespaces, directory. What is gone already is no error.
fn remove(dir: &Path) -> Result<()> {
    let id = dir
        .file_name()
        .and_then(|name| name.to_str())
        .context("a run without a name")?;
    let prefix = format!("ha-{id}-");
    let mut namespaces = Vec::new();
    if let Ok(entries) = fs::read_dir(NETNS_DIR) {
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                namespaces.push(entry.path());
            }
        }
    }
    kill_inside(
        &namespaces
            .iter()
            .filter_map(|path| identity(path))
            .collect(),
    );
    unmount_below(dir)?;
    for path in namespaces {
        // Already unmounted or never mounted: the file goes all the same.
        let _already = umount2(&path, MntFlags::MNT_DETACH);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Kills every process that lives in one of the namespaces, and waits until none is left.
fn kill_inside(namespaces: &BTreeSet<(u64, u64)>) {
    for _attempt in 0..200 {
        let mut found = false;
        for pid in processes() {
            let inside = identity(Path::new(&format!("/proc/{pid}/ns/net")))
                .is_some_and(|id| namespaces.contains(&id));
            if inside && pid != Pid::this() {
                found = true;
                // It may be gone by now.
                let _gone = kill(pid, Signal::SIGKILL);
            }
        }
        if !found {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What tells one namespace from another: device and inode of its file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn processes() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    // What was mounted last may lie in what was mounted before.
    for mount in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)) {
        if Path::new(mount).starts_with(dir) {
            umount2(mount, MntFlags::MNT_DETACH)
                .with_context(|| format!("cannot unmount {mount}"))?;
        }
    }
    Ok(())
}

fn report(result: Result<()>) {
    if let Err(error) = result {
        // Nobody is left to tell if standard error is gone.
        let _gone = writeln!(std::io::stderr(), "cleaning up: {error:#}");
    }
}

/// Write end of the pipe through which the signal handler wakes the cleaning thread.
static WAKE: OnceLock<std::io::PipeWriter> = OnceLock::new();

/// Ctrl-C, a closed terminal and SIGTERM remove the runs of this process before it ends.
fn remove_on_signals() -> Result<()> {
    static ONCE: Mutex<bool> = Mutex::new(false);
    let mut installed = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let (mut reader, writer) = std::io::pipe()?;
    if WAKE.set(writer).is_err() {
        return Ok(());
    }
    thread::Builder::new()
        .name("rig-signals".to_owned())
        .spawn(move || {
            let mut number = [0u8];
            if reader.read_exact(&mut number).is_ok() {
                let runs = std::mem::take(&mut *live());
                for dir in runs {
                    report(remove(&dir));
                }
                #[expect(
                    clippy::exit,
                    reason = "the process was told to end; nothing is left to unwind"
                )]
                std::process::exit(128 + i32::from(number[0]));
            }
        })?;
    let action = SigAction::new(
        SigHandler::Handler(wake),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only writes one byte to a pipe, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    *installed = true;
    Ok(())
}

extern "C" fn wake(signal: libc::c_int) {
    if let Some(mut pipe) = WAKE.get() {
        let number = u8::try_from(signal).unwrap_or_default();
        // Full or closed: the thread is awake already.
        let _awake = pipe.write(&[number]);
    }
}
