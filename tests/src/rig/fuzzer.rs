//! Requests made of an API's own description: `schemathesis`, inside a namespace.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::locate;
use super::netns::Netns;
use super::process::inside;

/// An API.
#[derive(Debug)]
pub struct Target<'t> {
    /// Address and port.
    pub at: &'t str,
    /// Path of its description.
    pub description: &'t str,
    /// The certificate it must show.
    pub certificate: &'t Path,
    /// Of somebody who may do everything there.
    pub token: &'t str,
}

/// Sends requests from a host, several of each manner to each operation whose path fits the expression (or does
/// not); fails with what was wrong with the answers. `dir` is where its own files may be.
pub fn run(
    from: &Netns,
    target: &Target<'_>,
    (which, paths): (Which, &str),
    requests: u32,
    dir: &Path,
) -> Result<String> {
    let mut command = Command::new(locate::fuzzer()?);
    command
        .arg("run")
        .arg(format!("https://{}{}", target.at, target.description))
        .arg("--tls-verify")
        .arg(target.certificate)
        .args([
            "--header",
            &format!("Authorization: Bearer {}", target.token),
        ])
        .args([which.option(), paths])
        .args(["--checks", "all", "--max-examples", &requests.to_string()])
        // So that a failure comes again.
        .arg("--generation-deterministic")
        .args([
            "--continue-on-failure",
            "--no-color",
            "--request-timeout",
            "30",
        ])
        .current_dir(dir)
        .env("HOME", dir);
    let output = inside(&mut command, from).output()?;
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

/// Which operations are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those whose path fits.
    Fitting,
    /// The others.
    Others,
}

impl Which {
    const fn option(self) -> &'static str {
        match self {
            Self::Fitting => "--include-path-regex",
            Self::Others => "--exclude-path-regex",
        }
    }
}
