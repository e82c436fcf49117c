//! Files that a verb reads besides.

use std::fs;

use super::{Node, path, run};

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
