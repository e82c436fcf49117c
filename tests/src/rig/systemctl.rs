//! A `systemctl` that notes what it is asked for, and does nothing.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};

/// Where it is, and where it writes.
#[derive(Debug)]
pub struct Systemctl {
    bin: PathBuf,
    asked: PathBuf,
}

impl Systemctl {
    /// Makes one below a directory.
    pub fn make(dir: &Path) -> Result<Self> {
        let (bin, asked) = (dir.join("bin"), dir.join("asked"));
        fs::create_dir_all(&bin)?;
        let program = bin.join("systemctl");
        let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", asked.display());
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { bin, asked })
    }

    /// A PATH on which there is nothing else.
    pub fn path(&self) -> Result<&str> {
        self.bin.to_str().context("a path that is no text")
    }

    /// A PATH on which it comes before everything else that there is.
    pub fn before_others(&self) -> Result<OsString> {
        let others = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(self.bin.clone()).chain(env::split_paths(&others));
        Ok(env::join_paths(all)?)
    }

    /// What it was asked for since the last time somebody looked, one order a line.
    pub fn asked(&self) -> Result<String> {
        if !self.asked.exists() {
            return Ok(String::new());
        }
        let orders = fs::read_to_string(&self.asked)?;
        fs::remove_file(&self.asked)?;
        Ok(orders)
    }
}
