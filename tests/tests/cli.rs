//! The command line as a person meets it: help, exit codes, every kind of error message.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the test's"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
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

#[test]
fn a_good_file_is_good() {
    let node = Node::new();
    let before = node.files();
    let (code, said, complaint) = node.run(&["check-config"]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert!(said.ends_with("ha-agent.yaml: ok\n"), "{said}");
    assert_eq!(node.files(), before, "checking writes nothing");
    let (code, said, _) = node.run(&["check-config", "--json"]);
    assert_eq!(code, 0);
    let verdict: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(verdict["valid"], true);
}

/// Twelve slips of twelve kinds in one file, each told with its place and its remedy.
#[test]
fn twelve_mistakes_are_told_at_once() {
    let node = Node::new();
    let text = node
        .good()
        .replace("version: 1", "version: 2")
        .replace("  name: lb1", "  name: lb 1")
        .replace("  mode: first", "  mode: third")
        .replace("partner: 10.1.0.12", "parnter: 10.1.0.12")
        .replace(
            "timeout: 9s",
            "timeout: 9\n  virtual_id: 300\n  virtual_id: 30\n  transport: broadcast",
        )
        .replace("address: 10.1.0.1/24", "address: 10.2.0.1/24")
        .replace("    address: 10.0.0.100\n", "    address: 10.0.0.11\n")
        .replace("port: 80\n", "port: [80]\n")
        .replace(
            "8080 }",
            "8080 }\n      - { address: 10.1.0.21, port: 8080 }",
        );
    node.write(&text);
    let before = node.files();
    let (code, said, complaint) = node.run(&["check-config"]);
    assert_eq!((code, said.as_str()), (CONFIG, ""));
    let file = node.config();
    let file = file.to_str().unwrap();
    let expected = [
        ("1:10", "version 2 of the format", "`version: 1`"),
        ("3:9", "`lb 1` is not a name", "letters, digits"),
        (
            "4:9",
            "`mode: third` is not known",
            "`off` or `first` or `second`",
        ),
        ("11:58", "unknown key `parnter`", "did you mean `partner`?"),
        ("13:12", "`9` is not a duration", "`9s`"),
        ("14:15", "300 is out of range", "from 1 to 255"),
        ("15:3", "`virtual_id` is given twice", "keep one"),
        (
            "16:14",
            "`transport: broadcast` is not known",
            "`multicast`",
        ),
        ("19:33", "not in the subnet of `back`", "in that subnet"),
        (
            "22:14",
            "this node's own address on front",
            "a shared address",
        ),
        (
            "23:11",
            "must be a single value, not a list",
            "`port: value`",
        ),
        ("28:20", "is listed twice", "`weight`"),
    ];
    for (place, what, remedy) in expected {
        let start = format!("{file}:{place}: error: ");
        let found = complaint
            .split_inclusive('\n')
            .collect::<Vec<_>>()
            .windows(4)
            .any(|lines| {
                lines[0].starts_with(&start)
                    && lines[0].contains(what)
                    && lines[2].contains('^')
                    && lines[3].contains(remedy)
            });
        assert!(found, "{place} {what} / {remedy} is not in:\n{complaint}");
    }
    let errors = complaint.matches(": error: ").count();
    assert_eq!(errors, expected.len(), "{complaint}");
    assert!(
        complaint.contains("cannot be used: 12 errors"),
        "{complaint}"
    );
    let (code, said, same) = node.run(&["run"]);
    assert_eq!((code, said.as_str()), (CONFIG, ""));
    assert_eq!(same.matches(": error: ").count(), errors, "{same}");
    assert_eq!(node.files(), before, "nothing is written");

    let (code, said, _) = node.run(&["check-config", "--json"]);
    assert_eq!(code, CONFIG);
    let verdict: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(verdict["valid"], false);
    assert_eq!(verdict["problems"].as_array().unwrap().len(), 12);
    assert_eq!(verdict["problems"][0]["line"], 1);
    assert_eq!(verdict["problems"][0]["column"], 10);
}

#[test]
fn a_syntax_error_is_located() {
    let node = Node::new();
    node.write(
        &node
            .good()
            .replace("health: { type: tcp }", "health: { type: tcp"),
    );
    let (code, _, complaint) = node.run(&["check-config"]);
    assert_eq!(code, CONFIG);
    assert!(complaint.contains("not valid YAML"), "{complaint}");
    assert!(complaint.contains("opened on line 22"), "{complaint}");
}

#[test]
fn files_that_cannot_be_read() {
    let node = Node::new();
    let (code, _, complaint) = run(&["check-config", "-f", "/nonexistent/file"]);
    assert_eq!(code, CONFIG);
    assert!(
        complaint.contains("/nonexistent/file: error: No such file"),
        "{complaint}"
    );
    let directory = node.path("");
    let (code, _, _) = run(&["check-config", "-f", directory.to_str().unwrap()]);
    assert_eq!(code, CONFIG);
    let (code, _, complaint) = run(&["status", "-f", "/nonexistent/file"]);
    assert_eq!(code, CONFIG, "{complaint}");
}

#[test]
fn key_files_are_checked() {
    let node = Node::new();
    let key = node.path("pair.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, complaint) = node.run(&["check-config"]);
    assert_eq!(code, CONFIG);
    assert!(complaint.contains(":5:13: error:"), "{complaint}");
    assert!(complaint.contains("chmod 600"), "{complaint}");
    fs::write(&key, "1 beef\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let (code, _, complaint) = node.run(&["check-config"]);
    assert_eq!(code, CONFIG);
    assert!(complaint.contains("64 hexadecimal digits"), "{complaint}");
    // It would not overwrite the file.
    assert!(!complaint.contains("ha-agent keygen /"), "{complaint}");
    fs::remove_file(&key).unwrap();
    let (code, _, complaint) = node.run(&["check-config"]);
    assert_eq!(code, CONFIG);
    assert!(complaint.contains("ha-agent keygen"), "{complaint}");
}

#[test]
fn keygen_never_overwrites() {
    let node = Node::new();
    let key = node.path("pair.key");
    let before = fs::read(&key).unwrap();
    let (code, _, complaint) = run(&["keygen", key.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(complaint.contains("never overwritten"), "{complaint}");
    assert_eq!(fs::read(&key).unwrap(), before);
    let (code, _, _) = run(&["keygen", node.path("no/such/dir").to_str().unwrap()]);
    assert_eq!(code, 1);
    let text = String::from_utf8(before).unwrap();
    let secret = text.lines().last().unwrap().split(' ').nth(1).unwrap();
    let (_, said, complaint) = node.run(&["check-config"]);
    assert!(!said.contains(secret) && !complaint.contains(secret));
}

#[test]
fn warnings_do_not_fail() {
    let node = Node::new();
    node.write(
        &node
            .good()
            .replace("timeout: 9s", "timeout: 9s\n  virtual_id: 7"),
    );
    let (code, said, complaint) = node.run(&["check-config"]);
    assert_eq!(code, 0);
    assert!(said.ends_with(": ok: 1 warning\n"), "{said}");
    assert!(
        complaint.contains("14:15: warning: virtual id 7"),
        "{complaint}"
    );
}

#[test]
fn an_interface_that_is_not_there_stops_the_start() {
    let node = Node::new();
    node.write(&node.good().replace("device: eth0", "device: ha-no-such-0"));
    let (code, _, complaint) = node.run(&["run", "--log-format", "text"]);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(code, 1, "{complaint}");
        assert!(complaint.contains("ha-no-such-0"), "{complaint}");
    } else {
        assert_ne!(code, 0, "{complaint}");
    }
    assert!(!node.path("run/ctl.sock").exists());
}

#[test]
fn nobody_is_running() {
    let node = Node::new();
    for verb in [
        &["status"][..],
        &["connections"],
        &["counters"],
        &["services"],
        &["failover"],
        &["maintenance", "on"],
        &["reload"],
        &["capture", "-w", "/nonexistent/file"],
        &[
            "trace-packet",
            "--from",
            "10.0.0.50:1",
            "--to",
            "10.0.0.100:80",
        ],
    ] {
        let (code, said, complaint) = node.run(verb);
        assert_eq!((code, said.as_str()), (3, ""), "{verb:?}");
        assert!(complaint.contains("ha-agent run -f"), "{complaint}");
        let socket = node.path("run/ctl.sock");
        assert!(complaint.contains(socket.to_str().unwrap()), "{complaint}");
    }
}

/// What is wrong with a capture is told whether an agent runs or not.
#[test]
fn a_keepalived_file_becomes_one_to_complete() {
    let node = Node::new();
    let old = node.path("keepalived.conf");
    fs::write(
        &old,
        "vrrp_instance a {\n interface eth0\n virtual_router_id 7\n notify x\n virtual_ipaddress { 10.0.0.100/24 }\n}\n",
    )
    .unwrap();
    let (code, made, remarks) = run(&["convert", "keepalived", path(&old)]);
    assert_eq!(code, 0, "{remarks}");
    assert_eq!(
        remarks,
        format!("{}:4: notify x: not carried over\n", old.display())
    );
    node.write(&made);
    let (code, _, complaint) = node.run(&["check-config"]);
    assert_eq!(code, CONFIG);
    assert!(complaint.contains("FILL-IN!"), "{complaint}");
    assert!(complaint.contains(":5:9: error:"), "the name: {complaint}");
    fs::write(&old, "vrrp_instance a {\n").unwrap();
    let (code, made, complaint) = run(&["convert", "keepalived", path(&old)]);
    assert_eq!((code, made.as_str()), (1, ""));
    assert!(
        complaint.contains("line 1: this block is not closed"),
        "{complaint}"
    );
}

#[test]
fn captures_that_cannot_be_traced() {
    let node = Node::new();
    let file = node.path("odd.pcap");
    let traced =
        |packet: &str| node.run(&["trace-packet", "--pcap", path(&file), "--packet", packet]);
    let (code, _, complaint) = traced("1");
    assert_eq!(code, 1);
    assert!(
        complaint.contains("odd.pcap") && complaint.contains("a capture"),
        "{complaint}"
    );
    fs::write(&file, "no packets").unwrap();
    let (code, _, complaint) = traced("1");
    assert_eq!(code, 1);
    assert!(
        complaint.contains("neither a pcap nor a pcapng"),
        "{complaint}"
    );
    let mut capture = vec![0xd4, 0xc3, 0xb2, 0xa1];
    capture.extend([0; 16]);
    capture.extend([1, 0, 0, 0]);
    fs::write(&file, &capture).unwrap();
    let (code, _, complaint) = traced("all");
    assert_eq!(code, 1);
    assert!(complaint.contains("0 packets"), "{complaint}");
    capture.extend([0, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 14, 0, 0, 0]);
    capture.extend([0; 14]);
    fs::write(&file, &capture).unwrap();
    assert_eq!(traced("2").0, 1);
    assert_eq!(traced("1").0, 3, "nobody is running");
}

/// A file that is being edited must not hide the agent that runs.
#[test]
fn a_broken_file_still_tells_the_socket() {
    let node = Node::new();
    node.write(&node.good().replace("timeout: 9s", "timeout: {"));
    let (code, _, complaint) = node.run(&["status"]);
    assert_eq!(code, 3, "{complaint}");
    assert!(complaint.contains("run/ctl.sock"), "{complaint}");
}

/// A code serves once: what can be known to be wrong before is said before.
#[test]
fn a_device_that_is_not_there_costs_no_code() {
    let node = Node::new();
    let file = node.path("new.yaml");
    let (code, _, complaint) = run(&[
        "pair",
        "join",
        "127.0.0.1:1",
        "--device",
        "back=ha-nope",
        "-f",
        file.to_str().unwrap(),
    ]);
    assert_eq!(code, 1);
    assert!(
        complaint.contains("no device `ha-nope` for interface `back`"),
        "{complaint}"
    );
}

#[test]
fn a_backup_that_is_not_there_is_no_fault_of_the_configuration() {
    let node = Node::new();
    let file = node.path("none.tar");
    let (code, _, complaint) = run(&[
        "restore",
        file.to_str().unwrap(),
        "-f",
        node.config().to_str().unwrap(),
    ]);
    assert_eq!(code, 1);
    assert!(complaint.contains("there is no such file"), "{complaint}");
    assert!(complaint.contains("`ha-agent backup` made"), "{complaint}");
}

#[test]
fn a_stale_socket_is_nobody() {
    let node = Node::new();
    let socket = node.path("stale.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let (code, _, _) = run(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(code, 3);
}

#[test]
fn an_agent_that_hangs_up_is_a_failure() {
    let node = Node::new();
    let socket = node.path("mute.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mute = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let (code, _, complaint) = run(&["status", "--socket", socket.to_str().unwrap()]);
    mute.join().unwrap();
    assert_eq!(code, 1);
    assert!(complaint.contains("did not answer"), "{complaint}");
}

/// As a user without rights, where this test runs as root.
#[test]
fn no_permission_is_4() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become somebody else");
        return;
    }
    let node = Node::new();
    fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(node.config(), fs::Permissions::from_mode(0o600)).unwrap();
    let socket = node.path("root.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).unwrap();
    // The program may lie where nobody may go. Copied by another process: a file that this one has open
    // for writing could be inherited by what other tests start at the moment, and then be busy.
    let program = node.path("ha-agent");
    let copied = std::process::Command::new("cp")
        .arg(locate::program("ha-agent").unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    for args in [
        &["check-config"][..],
        &["status"],
        &["status", "--socket", path(&socket)],
        &["keygen", path(&node.path("new.key"))],
    ] {
        let output = as_nobody(&program, args, &node.config());
        let (code, _, complaint) = texts(&output);
        assert_eq!(code, 4, "{args:?}: {complaint}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn as_nobody(program: &Path, args: &[&str], config: &Path) -> Output {
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65_534;
    std::process::Command::new(program)
        .args(args)
        .arg("-f")
        .arg(config)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap()
}

#[test]
fn the_doctor_needs_no_agent() {
    let node = Node::new();
    let file = node.path("ha-agent.yaml");
    let file = file.to_str().unwrap();
    let (code, said, complained) = run(&["-f", file, "doctor"]);
    assert_eq!(code, 2, "{said}{complained}");
    assert!(said.starts_with("CRITICAL: "), "{said}");
    let line = |check: &str| {
        let mut lines = said.lines();
        lines.find(|line| line.split_whitespace().nth(1) == Some(check))
    };
    assert!(line("configuration").unwrap().starts_with("pass"), "{said}");
    assert!(line("agent").unwrap().starts_with("fail"), "{said}");
    assert!(said.contains("= start it with"), "{said}");

    node.write("version: 2\n");
    let (code, said, _) = run(&["-f", file, "doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &found["verdict"]), (2, &"fail".into()), "{said}");
    let first = &found["findings"][0];
    assert_eq!(first["check"], "configuration");
    assert_eq!(first["verdict"], "fail");
}
