//! Verbs where no agent runs, or one that does not answer, and machines that lack something.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;

use ha_tests::rig::locate;

use super::{Node, path, run, texts};

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
