//! The Debian package: what lintian says of it, and its life in a clean root.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_tests::clock::now_ns;
use ha_tests::rig::netns::Netns;
use ha_tests::rig::process::Process;
use ha_tests::rig::{Run, locate};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::Value;

fn main() -> ExitCode {
    common::run(
        &[
            "mmdebstrap",
            "lintian",
            "dpkg-buildpackage",
            "dh",
            "lowdown",
        ],
        &["ha-agent", "xtask"],
        &[
            ("long_lintian_has_nothing_to_say", lint),
            ("long_from_installation_to_purge", life),
        ],
    )
}

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| shown.clone())?;
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    ensure!(
        output.status.success(),
        "{shown}: {}\n{said}",
        output.status
    );
    Ok(said)
}

/// Makes the package of the agent that was built for the tests.
fn package(out: &Path, version: &str) -> Result<PathBuf> {
    output(
        Command::new(locate::program("xtask")?)
            .arg("dist")
            .arg("--program")
            .arg(locate::program("ha-agent")?)
            .args(["--version", version, "--out"])
            .arg(out)
            // Small is what a release should be; this one should be made soon.
            .env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
            .env("DPKG_DEB_COMPRESSOR_LEVEL", "1"),
    )?;
    let made = fs::read_dir(out)?.flatten().map(|entry| entry.path());
    let mut made = made.filter(|path| path.extension().is_some_and(|kind| kind == "deb"));
    made.find(|path| path.to_string_lossy().contains(&format!("_{version}_")))
        .context("no package was made")
}

fn lint() -> Result<()> {
    let out = tempfile::tempdir()?;
    let package = package(out.path(), env!("CARGO_PKG_VERSION"))?;
    let said = output(
        Command::new("lintian")
            .args([
                "--allow-root",
                "--fail-on=error,warning",
                "--tag-display-limit=0",
            ])
            .arg(&package),
    )?;
    ensure!(said.trim().is_empty(), "{said}");
    let content = output(Command::new("dpkg-deb").arg("--contents").arg(&package))?;
    for file in [
        "/usr/sbin/ha-agent",
        "/lib/systemd/system/ha-agent.service",
        "/usr/share/man/man8/ha-agent.8.gz",
        "/usr/share/man/man8/ha-agent-status.8.gz",
        "/usr/share/man/man5/ha-agent.yaml.5.gz",
        "/usr/share/bash-completion/completions/ha-agent",
        "/usr/share/zsh/vendor-completions/_ha-agent",
        "/usr/share/fish/vendor_completions.d/ha-agent.fish",
        "/usr/share/doc/ha-agent/examples/ha-agent.yaml",
        "/usr/share/doc/ha-agent/examples/90-ha-agent.conf",
        "/usr/share/doc/ha-agent/examples/grafana/ha-agent.json",
        "/usr/share/doc/ha-agent/examples/prometheus/ha-agent.rules.yml",
        "/usr/share/doc/ha-agent/copyright",
        "/usr/share/doc/ha-agent/changelog.gz",
        "/usr/share/doc/ha-agent/operations.md",
    ] {
        ensure!(content.contains(file), "{file} is not in:\n{content}");
    }
    Ok(())
}

/// A clean Debian in a directory, and a host without it.
struct Host {
    root: PathBuf,
    netns: Netns,
    // Last: it removes the rest, mounts included.
    _run: Run,
}

impl Host {
    fn new() -> Result<Self> {
        let run = Run::start()?;
        let netns = run.namespace("lb1")?;
        // The devices and addresses of the example.
        for (device, address) in [("eth0", "10.0.0.11/24"), ("eth1", "10.1.0.11/24")] {
            netns.ip(&format!(
                "link add {device} type veth peer name peer-{device}\n\
                 link set {device} up\nlink set peer-{device} up\naddr add {address} dev {device}"
            ))?;
        }
        let root = run.host_dir("lb1")?.join("root");
        fs::create_dir(&root)?;
        let tar = debian()?;
        output(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&root))?;
        let bind = MsFlags::MS_BIND;
        let none: Option<&str> = None;
        mount(
            Some("proc"),
            &root.join("proc"),
            Some("proc"),
            MsFlags::empty(),
            none,
        )?;
        mount(Some("/sys"), &root.join("sys"), none, bind, none)?;
        mount(
            Some("bpf"),
            &root.join("sys/fs/bpf"),
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )?;
        Ok(Self {
            root,
            netns,
            _run: run,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command
            .arg(&self.root)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command(words);
        self.netns.run(|| output(&mut command))
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    fn exists(&self, absolute: &str) -> bool {
        fs::symlink_metadata(self.path(absolute)).is_ok()
    }

    fn install(&self, package: &Path) -> Result<String> {
        let inside = self.path("/tmp/ha-agent.deb");
        fs::copy(package, &inside)?;
        let said = self.run(&["dpkg", "--install", "/tmp/ha-agent.deb"]);
        fs::remove_file(inside)?;
        said
    }

    fn status(&self) -> Result<Value> {
        let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
        loop {
            match self.run(&["ha-agent", "status", "--json"]) {
                Ok(status) => return Ok(serde_json::from_str(&status)?),
                Err(error) if now_ns() > end => return Err(error),
                Err(_not_yet) => sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Everything there is, except what dpkg remembers and what is no file.
    fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let mut files = BTreeSet::new();
        let mut left = vec![self.root.clone()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                let name = Path::new("/").join(path.strip_prefix(&self.root)?);
                let other = [
                    "/proc",
                    "/sys",
                    "/dev",
                    "/var/lib/dpkg",
                    "/var/log",
                    "/var/cache",
                ];
                if other.iter().any(|other| name.starts_with(other)) {
                    continue;
                }
                if fs::symlink_metadata(&path)?.is_dir() {
                    left.push(path);
                }
                files.insert(name);
            }
        }
        Ok(files)
    }
}

/// A minimal root of this machine's Debian, made once.
fn debian() -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release has no VERSION_CODENAME")?;
    let profile = locate::program("ha-agent")?;
    let target = profile
        .parent()
        .and_then(Path::parent)
        .context("no target directory")?;
    let directory = target.join("debian");
    let root = directory.join(format!("{suite}.tar"));
    if !root.is_file() {
        fs::create_dir_all(&directory)?;
        let fresh = directory.join(format!("{suite}.new.tar"));
        let mut make = Command::new("mmdebstrap");
        make.args(["--variant=minbase", "--quiet", suite])
            .arg(&fresh);
        output(make.stdin(std::process::Stdio::null()))?;
        fs::rename(fresh, &root)?;
    }
    Ok(root)
}

fn life() -> Result<()> {
    let out = tempfile::tempdir()?;
    let version = env!("CARGO_PKG_VERSION");
    let first = package(out.path(), version)?;
    let second = package(out.path(), &format!("{version}+1"))?;
    let host = Host::new()?;
    let before = host.files()?;

    host.install(&first)?;
    let wanted = "/etc/systemd/system/multi-user.target.wants/ha-agent.service";
    ensure!(host.exists(wanted), "the service is not enabled");
    let said = host.run(&["ha-agent", "--version"])?;
    ensure!(said.trim() == format!("ha-agent {version}"), "{said}");
    // Without a file the unit's condition keeps the agent from being started, and the program says what is missing.
    ensure!(host.run(&["ha-agent", "check-config"]).is_err());

    let config = "/etc/ha-agent/ha-agent.yaml";
    fs::copy(
        host.path("/usr/share/doc/ha-agent/examples/ha-agent.yaml"),
        host.path(config),
    )?;
    host.run(&["ha-agent", "keygen", "/etc/ha-agent/pair.key"])?;
    let said = host.run(&["ha-agent", "check-config"])?;
    ensure!(said.contains(": ok"), "{said}");
    // Alone, so that nobody has to agree to its replacement.
    let text = fs::read_to_string(host.path(config))?;
    fs::write(host.path(config), text.replace("mode: first", "mode: off"))?;

    let mut run = host.command(&["/usr/sbin/ha-agent", "run"]);
    let log = out.path().join("agent.log");
    let mut agent = Process::start("the agent", &host.netns, &mut run, &log)?;
    let running = |status: &Value| status.get("process").and_then(Value::as_i64);
    let status = host.status().with_context(|| agent.log())?;
    ensure!(
        status.get("role").and_then(Value::as_str) == Some("off"),
        "{status}"
    );
    ensure!(
        running(&status) == Some(agent.pid()?.as_raw().into()),
        "{status}"
    );

    // The postinst has it replaced in place.
    let said = host.install(&second)?;
    ensure!(said.contains("replaced by"), "{said}");
    let status = host.status().with_context(|| agent.log())?;
    ensure!(
        status.get("replaced").is_some_and(Value::is_object),
        "{status}"
    );
    ensure!(
        running(&status) == Some(agent.pid()?.as_raw().into()),
        "{status}"
    );
    let program = fs::read_link(format!("/proc/{}/exe", agent.pid()?))?;
    ensure!(
        !program.to_string_lossy().ends_with("(deleted)"),
        "{}",
        program.display()
    );
    // A program that could not go on changes nothing: the package is upgraded all the same.
    fs::write(
        host.path(config),
        text.replace("mode: first", "mode: second"),
    )?;
    let said = host.install(&second)?;
    ensure!(said.contains("goes on with the old program"), "{said}");
    ensure!(host.status()?.get("role").and_then(Value::as_str) == Some("off"));

    // systemd would do this before the files go.
    agent.signal(Signal::SIGTERM)?;
    let ended = agent.wait(PATIENCE)?;
    ensure!(ended.success(), "{ended}: {}", fs::read_to_string(log)?);
    host.run(&["dpkg", "--remove", "ha-agent"])?;
    ensure!(!host.exists("/usr/sbin/ha-agent"));
    for kept in [config, "/etc/ha-agent/pair.key", "/var/lib/ha-agent"] {
        ensure!(host.exists(kept), "{kept} is the owner's, and gone");
    }
    ensure!(!host.exists("/sys/fs/bpf/ha-agent"), "pins are left");

    host.run(&["dpkg", "--purge", "ha-agent"])?;
    let after = host.files()?;
    let left: Vec<_> = after.symmetric_difference(&before).collect();
    if !left.is_empty() {
        bail!("not as it was: {left:?}");
    }
    Ok(())
}
