//! Key files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{CONFIG, Node, run};

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
