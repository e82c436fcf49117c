//! Finds a compiler that can build `core` for the BPF target, and a linker of the same LLVM.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::{find, output, run, say, target};

/// Version of `bpf-linker` the objects are made with.
const LINKER_VERSION: &str = "0.13.0";

/// A compiler with matching `core` sources.
#[derive(Debug)]
pub(crate) struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    /// Major version of the LLVM inside.
    pub(crate) llvm: u32,
}

impl Compiler {
    /// rustup's nightly with `rust-src` if there is one, else a distribution's compiler with its
    /// source package.
    pub(crate) fn find() -> Result<Self> {
        if let Some(found) = Self::rustup_nightly() {
            return Ok(found);
        }
        let (cargo, rustc) = (
            PathBuf::from("/usr/bin/cargo"),
            PathBuf::from("/usr/bin/rustc"),
        );
        if cargo.is_file() && rustc.is_file() && has_core_sources(&rustc) {
            return Self::at(cargo, rustc);
        }
        bail!(
            "no compiler that can build `core` for BPF: run `cargo xtask setup`, or \
             `rustup toolchain install nightly --component rust-src`"
        )
    }

    fn rustup_nightly() -> Option<Self> {
        let which = |tool: &str| {
            let found =
                output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool]));
            found.ok().map(|path| PathBuf::from(path.trim()))
        };
        let (cargo, rustc) = (which("cargo")?, which("rustc")?);
        has_core_sources(&rustc)
            .then(|| Self::at(cargo, rustc).ok())
            .flatten()
    }

    fn at(cargo: PathBuf, rustc: PathBuf) -> Result<Self> {
        let version = output(Command::new(&rustc).arg("-vV"))?;
        let llvm = version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(|number| number.split('.').next()?.parse().ok())
            .with_context(|| format!("{} does not tell its LLVM version", rustc.display()))?;
        Ok(Self { cargo, rustc, llvm })
    }

    /// Cargo of this compiler, with rustup's and an outer cargo's influence removed.
    pub(crate) fn cargo(&self, linker: &Path) -> Command {
        let mut command = Command::new(&self.cargo);
        for name in [
            "RUSTUP_TOOLCHAIN",
            "CARGO",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "CARGO_BUILD_TARGET",
        ] {
            command.env_remove(name);
        }
        let mut path = OsString::from(linker.parent().unwrap_or_else(|| Path::new(".")));
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        command
            .env("PATH", path)
            .env("RUSTC", &self.rustc)
            // `-Z build-std` on a compiler that is not a nightly.
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

fn has_core_sources(rustc: &Path) -> bool {
    output(Command::new(rustc).args(["--print", "sysroot"])).is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .is_file()
    })
}

/// `bpf-linker` for this LLVM, if it is there.
pub(crate) fn find_linker(llvm: u32) -> Option<PathBuf> {
    let own = tools(llvm).join("bin/bpf-linker");
    if own.is_file() { Some(own) } else { None }
}

/// Builds `bpf-linker` against the system's LLVM; one to two minutes, once.
pub(crate) fn install_linker(llvm: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if !prefix.join("include/llvm-c").is_dir() {
        bail!(
            "LLVM {llvm} development files are missing: run `cargo xtask setup` or install llvm-{llvm}-dev"
        );
    }
    if find("cargo").is_none() {
        bail!("no cargo on PATH to build bpf-linker with");
    }
    say(&format!(
        "building bpf-linker {LINKER_VERSION} for LLVM {llvm} (once, about two minutes)"
    ));
    run(crate::workspace::cargo()
        .env("LLVM_PREFIX", &prefix)
        // Its build directory is of no use afterwards.
        .env("CARGO_TARGET_DIR", target().join("tools/build"))
        .args([
            "install",
            "--quiet",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .arg("--root")
        .arg(tools(llvm)))?;
    // Only the binary is kept; a failure here costs disk space and nothing else.
    let _disk_space = std::fs::remove_dir_all(target().join("tools/build"));
    Ok(tools(llvm).join("bin/bpf-linker"))
}

fn tools(llvm: u32) -> PathBuf {
    target().join(format!("tools/llvm-{llvm}"))
}
