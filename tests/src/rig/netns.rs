//! Network namespaces: one is one host of the rig.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps the named ones.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A named network namespace. Dropping the value does not remove it; its [`super::Run`] does.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace with a running loopback interface and no IPv6, whose own chatter
    /// (router solicitations, duplicate-address probes) would only blur captures.
    pub(crate) fn create(name: &str) -> Result<Self> {
        command(Command::new("ip").args(["netns", "add", name]), None)?;
        let path = Path::new(NETNS_DIR).join(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let netns = Self {
            name: name.to_owned(),
            file: Arc::new(file),
        };
        // Absent if the kernel has no IPv6, which is as good.
        let _without_ipv6 = netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        let _without_ipv6 = netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Lets interfaces have IPv6 addresses, without the chatter: no duplicate-address probes, no router
    /// solicitations.
    pub fn enable_ipv6(&self) -> Result<()> {
        for which in ["all", "default"] {
            for (setting, value) in [
                ("accept_dad", "0"),
                ("router_solicitations", "0"),
                ("disable_ipv6", "0"),
            ] {
                self.sysctl(&format!("net/ipv6/conf/{which}/{setting}"), value)?;
            }
        }
        Ok(())
    }

    /// Takes its name away: it ends with the last process and descriptor in it.
    pub(crate) fn remove(&self) -> Result<()> {
        command(Command::new("ip").args(["netns", "del", &self.name]), None)?;
        Ok(())
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter network namespace {}", self.name))
    }

    /// Runs `work` on a thread inside the namespace. Sockets it makes stay inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .map_err(|_panic| anyhow!("the thread in namespace {} panicked", self.name))?
        })
    }

    /// Runs lines of `ip` commands inside.
    pub fn ip(&self, lines: &str) -> Result<()> {
        command(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            Some(lines),
        )?;
        Ok(())
    }

    /// Runs a command inside and returns what it printed. The file systems stay those of the
    /// caller (`ip netns exec` would mount another `/sys` and so hide pinned BPF objects).
    pub fn output(&self, program: &mut Command) -> Result<String> {
        super::process::inside(program, self);
        command(program, None)
    }

    /// Adds an nftables ruleset inside.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        let mut nft = Command::new("nft");
        command(
            super::process::inside(nft.args(["-f", "-"]), self),
            Some(ruleset),
        )?;
        Ok(())
    }

    /// Sets a sysctl of the namespace, named like the path below `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        self.run(|| fs::write(&path, value).with_context(|| format!("cannot set {name}")))
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// Runs a command to its end and returns its standard output; a failure carries what it wrote to
/// standard error.
pub(crate) fn command(command: &mut Command, input: Option<&str>) -> Result<String> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{shown} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
