//! The command line as a person meets it: help, exit codes, every kind of error message.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the test's"
)]

mod agents;
mod configuration;
mod files;
mod keys;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use ha_tests::rig::locate;
use tempfile::TempDir;

/// Error in the configuration: `EX_CONFIG` of sysexits.h.
const CONFIG: i32 = 78;

fn agent() -> Command {
    let mut command = Command::new(locate::program("ha-agent").unwrap());
    command
        .env_remove("HA_LOG")
        .env_remove("RUST_LOG")
        .env("NO_COLOR", "1");
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    texts(&agent().args(args).output().unwrap())
}

fn texts(output: &Output) -> (i32, String, String) {
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout.clone()).unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}

/// A directory with a key and a configuration file that is good unless changed.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Self { dir };
        let key = node.path("pair.key");
        let (code, said, _) = run(&["keygen", key.to_str().unwrap()]);
        assert_eq!((code, said.contains("0600")), (0, true), "{said}");
        node.write(&node.good());
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("ha-agent.yaml")
    }

    fn write(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    fn good(&self) -> String {
        format!(
            "\
version: 1
node:
  name: lb1
  mode: first
  key_file: {0}/pair.key
  state_dir: {0}/state
  run_dir: {0}/run
  bpf_dir: {0}/bpf
  interfaces:
    - {{ name: front, device: eth0, address: 10.0.0.11/24, partner: 10.0.0.12, ha_checks: true }}
    - {{ name: back, device: eth1, address: 10.1.0.11/24, partner: 10.1.0.12, ha_checks: true }}
ha:
  timeout: 9s
shared_addresses:
  - {{ interface: front, address: 10.0.0.100/24 }}
  - {{ interface: back, address: 10.1.0.1/24 }}
virtual_services:
  - name: web
    address: 10.0.0.100
    port: 80
    scheduler: mh
    health: {{ type: tcp }}
    real_servers:
      - {{ address: 10.1.0.21, port: 8080 }}
",
            self.dir.path().display()
        )
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = agent();
        command.args(args).arg("-f").arg(self.config());
        texts(&command.output().unwrap())
    }

    /// Everything below the directory, with sizes.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    }
}

#[test]
fn help_names_verbs_and_exit_codes() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for word in [
        "run",
        "check-config",
        "status",
        "connections",
        "counters",
        "services",
        "trace-packet",
        "failover",
        "maintenance",
        "reload",
        "capture",
        "keygen",
        "backup",
        "restore",
        "reset",
        "node",
        "completion",
        "convert",
        "--config",
        "--socket",
        "--json",
        "78 error in the configuration",
    ] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    let (code, version, _) = run(&["--version"]);
    assert_eq!(code, 0);
    assert!(version.starts_with("ha-agent 0."), "{version}");
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &[][..],
        &["dance"],
        &["status", "--colour"],
        &["maintenance"],
        &["maintenance", "maybe"],
        &["connections", "--state", "asleep"],
        &["connections", "--client", "nobody"],
        &["connections", "--limit", "-1"],
        &["capture"],
        &["capture", "-w", "x", "--every", "0"],
        &["capture", "-w", "x", "--seconds", "4000"],
        &["capture", "-w", "x", "--count", "0"],
        &["keygen"],
        &["restore"],
        &["restore", "x", "--part", "half"],
        &["node"],
        &["node", "reboot"],
        &["completion"],
        &["completion", "tcsh"],
        &["trace-packet"],
        &["trace-packet", "--from", "10.0.0.50:1"],
        &[
            "trace-packet",
            "--from",
            "10.0.0.50",
            "--to",
            "10.0.0.100:80",
        ],
        &["trace-packet", "--from", "10.0.0.50:1", "--to", "[::1]:80"],
        &["trace-packet", "--pcap", "/x", "--to", "10.0.0.100:80"],
        &["trace-packet", "--pcap", "/x", "--packet", "0"],
        &["trace-packet", "--pcap", "/x", "--ttl", "1"],
        &[
            "trace-packet",
            "--from",
            "10.0.0.50:1",
            "--to",
            "10.0.0.100:80",
            "--packet",
            "2",
        ],
        &[
            "trace-packet",
            "--from",
            "10.0.0.50:1",
            "--to",
            "10.0.0.100:80",
            "--flags",
            "odd",
        ],
        &[
            "trace-packet",
            "--from",
            "10.0.0.50:1",
            "--to",
            "10.0.0.100:80",
            "--protocol",
            "udp",
            "--flags",
            "ack",
        ],
        &["check-config", "--socket", "/x"],
        &["run", "--socket", "/x"],
        &["run", "--json"],
        &["keygen", "/nonexistent/key", "--json"],
        &["backup", "--json"],
        &["reset", "--yes", "--json"],
        &["pair", "join", "127.0.0.1:1", "--json"],
        &["run", "--log-format", "pink"],
    ] {
        let (code, _, complaint) = run(args);
        assert_eq!(code, 2, "{args:?}: {complaint}");
        assert!(
            complaint.contains("--help") || complaint.contains("Commands:"),
            "{args:?}: {complaint}"
        );
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
