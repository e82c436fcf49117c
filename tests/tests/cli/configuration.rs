//! Files of configuration, good and bad, and those converted into one.

use std::fs;

use super::{CONFIG, Node, path, run};

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

/// A file that is being edited must not hide the agent that runs.
#[test]
fn a_broken_file_still_tells_the_socket() {
    let node = Node::new();
    node.write(&node.good().replace("timeout: 9s", "timeout: {"));
    let (code, _, complaint) = node.run(&["status"]);
    assert_eq!(code, 3, "{complaint}");
    assert!(complaint.contains("run/ctl.sock"), "{complaint}");
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
