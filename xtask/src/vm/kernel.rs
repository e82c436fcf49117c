//! Debian's kernels, unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::image::Image;
use crate::workspace::{output, run, say, target};

/// Depends on the newest kernel of a release that is made for virtual machines: small, and with all it takes.
const PACKAGE: &str = "linux-image-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Below these folders of a kernel are the modules that the tests may need.
const MODULES: [&str; 7] = [
    "kernel/net/",
    "kernel/lib/",
    "kernel/crypto/",
    "kernel/drivers/net/",
    "kernel/drivers/virtio/",
    "kernel/arch/x86/crypto/",
    "kernel/fs/fuse/",
];

/// A kernel.
pub(crate) struct Kernel {
    /// Debian's name for its release.
    pub(crate) release: &'static str,
    /// As `uname -r` shows it.
    pub(crate) version: String,
    /// What to boot.
    pub(crate) image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// That of a Debian release, fetched if it is not there yet.
    pub(crate) fn of(release: &'static str) -> Result<Self> {
        let dir = target().join("vm").join(release);
        let root = dir.join("root");
        if !root.is_dir() {
            fetch(release, &dir)?;
        }
        let modules = ["lib/modules", "usr/lib/modules"].map(|path| root.join(path));
        let modules = modules
            .iter()
            .find(|path| path.is_dir())
            .context("a kernel without modules")?;
        let version = only_entry(modules)?;
        Ok(Self {
            release,
            image: root.join(format!("boot/vmlinuz-{version}")),
            modules: modules.join(&version),
            version,
        })
    }

    /// Puts its modules where the guest's modprobe looks for them.
    pub(crate) fn add_modules(&self, image: &mut Image) -> Result<()> {
        let stage = target().join("vm").join(self.release).join("modules");
        let home = stage.join("lib/modules").join(&self.version);
        if !home.join("modules.dep").is_file() {
            self.stage(&home)?;
            run(Command::new("busybox")
                .args(["depmod", "-b"])
                .arg(&stage)
                .arg(&self.version))?;
        }
        let mut files = Vec::new();
        list(&home, &mut files)?;
        for file in files {
            let below = file.strip_prefix(&stage)?.display().to_string();
            image.file(&format!("/{below}"), 0o644, &file)?;
        }
        Ok(())
    }

    /// Copies what may be needed, uncompressed.
    fn stage(&self, home: &Path) -> Result<()> {
        let mut files = Vec::new();
        list(&self.modules, &mut files)?;
        for file in files {
            let below = file.strip_prefix(&self.modules)?.display().to_string();
            let wanted = MODULES.iter().any(|folder| below.starts_with(folder));
            let builtin = below == "modules.builtin" || below == "modules.order";
            if !wanted && !builtin {
                continue;
            }
            let plain = below.strip_suffix(".xz");
            let to = home.join(plain.unwrap_or(&below));
            fs::create_dir_all(to.parent().context("no folder")?)?;
            if plain.is_some() {
                let mut xz = Command::new("xz");
                let unpacked = xz.arg("-dc").arg(&file).output()?;
                fs::write(&to, unpacked.stdout)?;
            } else {
                fs::copy(&file, &to)?;
            }
        }
        Ok(())
    }
}

/// All files below a folder.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Links lead to sources and headers.
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn only_entry(folder: &Path) -> Result<String> {
    let mut entries = fs::read_dir(folder)?;
    let first = entries.next().context("an empty folder")??;
    Ok(first.file_name().to_string_lossy().into_owned())
}

/// Downloads the package from where this machine's own come from, and unpacks it. Package lists and everything else
/// stay apart from those of the machine.
fn fetch(release: &str, dir: &Path) -> Result<()> {
    for folder in ["lists/partial", "cache/archives/partial", "parts"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    fs::write(
        dir.join("parts/release.sources"),
        format!(
            "Types: deb\nURIs: {}\nSuites: {release}\nComponents: main\nSigned-By: {KEYRING}\n",
            mirror()?
        ),
    )?;
    let apt = |tool: &str| {
        let mut command = Command::new(tool);
        command.current_dir(dir);
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        for setting in [
            option("Dir::Etc::SourceList", Path::new("/dev/null")),
            option("Dir::Etc::SourceParts", &dir.join("parts")),
            option("Dir::State::Lists", &dir.join("lists")),
            option("Dir::State::status", Path::new("/dev/null")),
            option("Dir::Cache", &dir.join("cache")),
            "Acquire::Languages=none".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &setting]);
        }
        command
    };
    say(&format!("fetching the kernel of Debian {release}"));
    run(apt("apt-get").args(["-qq", "update"]))?;
    let depends = output(apt("apt-cache").args(["depends", PACKAGE]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{PACKAGE} of {release} depends on no kernel"))?;
    run(apt("apt-get").args(["-qq", "download", package]))?;
    let archive = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|is| is == "deb"))
        .context("no package was downloaded")?;
    // Renamed when it is whole.
    let fresh = dir.join("root.new");
    run(Command::new("dpkg-deb").arg("-x").args([&archive, &fresh]))?;
    fs::rename(fresh, dir.join("root"))?;
    Ok(fs::remove_file(archive)?)
}

/// Where Debian's main archive is, as this machine knows it.
fn mirror() -> Result<String> {
    let known = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let found = known
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian "));
    match found {
        Some(found) => Ok(found.to_owned()),
        None => bail!("this machine knows no mirror of Debian; see sources.list(5)"),
    }
}
