//! Where the built artefacts are.
//!
//! `cargo xtask test` says so by `HA_BPF_DIR` and `HA_BIN_DIR`; without them they are looked for
//! beside the running program, where cargo puts them.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// A BPF object made by `cargo xtask build-ebpf`.
pub fn bpf_object(name: &str) -> Result<PathBuf> {
    let dir = match env::var_os("HA_BPF_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => profile_dir()?.with_file_name("bpf"),
    };
    existing(dir.join(name), "run `cargo xtask build-ebpf`")
}

/// What `cargo xtask setup` has brought for the tests that is no Debian package.
pub fn tools() -> Result<PathBuf> {
    let beside = match env::var_os("HA_BPF_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => profile_dir()?,
    };
    Ok(beside.with_file_name("tools"))
}

/// The program that makes requests of an API's description, if the set-up has brought it.
pub fn fuzzer() -> Result<PathBuf> {
    existing(
        tools()?.join("schemathesis/bin/st"),
        "run `cargo xtask setup`",
    )
}

/// A program of the workspace made by `cargo xtask build`.
pub fn program(name: &str) -> Result<PathBuf> {
    let dir = match env::var_os("HA_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => profile_dir()?,
    };
    existing(dir.join(name), "run `cargo xtask build`")
}

/// `target/PROFILE`, where this program or, for a test, its parent's `deps` is.
fn profile_dir() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let dir = program.parent().context("a program without a directory")?;
    Ok(if dir.ends_with("deps") {
        dir.with_file_name("")
    } else {
        dir.to_owned()
    })
}

fn existing(path: PathBuf, remedy: &str) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("there is no {}; {remedy}", path.display());
    }
    Ok(path)
}
