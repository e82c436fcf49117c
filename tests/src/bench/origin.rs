//! Where figures come from: the machine, the programs, the command.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Debian packages whose programs are measured beside the agent, or carry what is measured.
const PACKAGES: &[&str] = &["bpftool", "conntrackd", "keepalived", "nftables", "ucarp"];

/// What somebody needs to know to judge a figure and to measure it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The command as it is typed in the sources' root.
    pub command: String,
    /// When it ended.
    pub date: Timestamp,
    /// Commit of the sources, with `-dirty` if they were changed; none outside a checkout.
    pub commit: Option<String>,
    /// Model name of the first processor.
    pub processor: String,
    /// Processors of the machine, whichever of them the measuring thread may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Release of the running kernel.
    pub kernel: String,
    /// Version of each Debian package that took part, if it is installed.
    pub packages: BTreeMap<String, String>,
}

impl Origin {
    /// Of this machine now.
    pub(crate) fn here(command: String) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("no {path}"));
        let processors = read("/proc/cpuinfo")?;
        let processor = field(&processors, "model name").unwrap_or_default();
        let is_one = |line: &&str| {
            line.split(':')
                .next()
                .is_some_and(|key| key.trim() == "processor")
        };
        let memory = field(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(Self {
            command,
            date: Timestamp::now().round(jiff::Unit::Second)?,
            commit: said("git", &["describe", "--always", "--dirty"]),
            processor,
            cores: processors.lines().filter(is_one).count(),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            packages: PACKAGES
                .iter()
                .filter_map(|package| {
                    let version = said("dpkg-query", &["-W", "-f", "${Version}", package])?;
                    Some(((*package).to_owned(), version))
                })
                .collect(),
        })
    }
}

/// What was typed to start this program with its options, if one says `verb` to `cargo xtask` for it.
pub(crate) fn typed(verb: &str) -> String {
    let mut command = format!("cargo xtask {verb}");
    for arg in env::args().skip(1) {
        command.push(' ');
        command.push_str(&arg);
    }
    command
}

/// Value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// What a program prints, if it is there and has something to say.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let origin = Origin::here(typed("bench failover")).unwrap();
        assert!(origin.command.starts_with("cargo xtask bench failover"));
        assert!(origin.cores > 0 && origin.memory_mib > 0 && !origin.kernel.is_empty());
        let json = serde_json::to_string(&origin).unwrap();
        assert_eq!(serde_json::from_str::<Origin>(&json).unwrap(), origin);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: Some CPU\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU"));
        assert_eq!(field(text, "name"), None);
    }
}
