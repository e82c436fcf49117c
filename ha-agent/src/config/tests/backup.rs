//! Backups: made, damaged, restored whole and in part.

use super::*;
use crate::config::backup::{Backup, BackupError, Part, make};
use jiff::Timestamp;

fn backup(text: &str) -> String {
    make(&parse(text).unwrap(), Timestamp::UNIX_EPOCH)
}

fn read(text: &str) -> Result<Backup, BackupError> {
    Backup::read(Path::new("b.yaml"), text.as_bytes().to_vec())
}

/// The file that restoring parts of one into the other makes.
fn restored(from: &str, into: &str, parts: &[Part]) -> Result<String, BackupError> {
    let backup = read(&backup(from))?;
    let current = parse(into).map_err(BackupError::Configuration)?;
    let text = backup.restore(Some(&current), parts)?;
    let fresh = parse(&text).map_err(BackupError::Configuration)?;
    backup.check(&fresh.config, Some(&current.config), parts)?;
    Ok(text)
}

#[test]
fn a_backup_is_the_file_with_a_header() {
    let text = backup(GOOD);
    let header: Vec<&str> = text.lines().take(4).collect();
    assert_eq!(header[0], "# ha-agent backup, format 1");
    assert!(header[1].starts_with("# made 1970-01-01T00:00:00Z by ha-agent "));
    assert_eq!(header[2], "# node lb1, first");
    assert!(header[3].starts_with("# sha256 "));
    assert!(text.ends_with(GOOD));
    assert_eq!(
        read(&text).unwrap().restore(None, &Part::ALL).unwrap(),
        GOOD
    );
    // One that is used as a configuration file is good, and a backup of it has one header.
    assert_eq!(parse(&text).unwrap().config, parse(GOOD).unwrap().config);
    assert_eq!(backup(&text), text);
}

#[test]
fn a_damaged_backup_is_refused() {
    let whole = backup(GOOD);
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut at {length}");
    }
    // Every bit of the checksum and of what follows the header counts.
    let from = whole.find("sha256 ").unwrap() + "sha256 ".len();
    let body = whole.len() - GOOD.len();
    for at in (from..from + 64).chain(body..whole.len()) {
        let mut spoiled = whole.clone().into_bytes();
        spoiled[at] ^= 1;
        let found = Backup::read(Path::new("b"), spoiled);
        assert!(matches!(found, Err(BackupError::Checksum)), "{at}");
    }
    assert!(matches!(read(GOOD), Err(BackupError::NotOne)));
    assert!(matches!(read(""), Err(BackupError::NotOne)));
    let newer = whole.replacen("format 1", "format 2", 1);
    assert!(matches!(read(&newer), Err(BackupError::Format(format)) if format == "2"));
}

#[test]
fn what_is_in_it_is_checked_with_the_lines_of_the_backup() {
    // A version that knows other rules made it.
    let text = backup(GOOD).replace("port: 80\n", "port: 80\n    colour: red\n");
    let body = text.splitn(5, '\n').last().unwrap();
    let text = text.replacen(
        text.lines().nth(3).unwrap(),
        &format!(
            "# sha256 {} of everything below this line",
            crate::proto::hex::encode(
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes()).as_ref()
            )
        ),
        1,
    );
    let Err(BackupError::Configuration(problems)) = read(&text) else {
        panic!("taken");
    };
    assert!(problems[0].what.contains("colour"));
    let line = text.lines().nth(problems[0].line as usize - 1).unwrap();
    assert!(line.contains("colour"), "{line}");
}

#[test]
fn parts_are_exchanged_with_their_comments() {
    let stored = with("virtual_services:\n", "# what we sell\nvirtual_services:\n")
        .replace("port: 80\n", "port: 81\n")
        .replace("10.0.0.100", "10.0.0.101");
    let current = with("mode: first\n", "mode: first # mine\n") + "limits: { new_flows: 7 }\n";
    // The services stand at an address that the file in place does not share.
    let lost = restored(&stored, &current, &[Part::Services]);
    assert!(
        matches!(lost, Err(BackupError::Configuration(_))),
        "{lost:?}"
    );

    let text = restored(&stored, &current, &[Part::Services, Part::Pair]).unwrap();
    assert!(
        text.contains("# mine") && text.contains("# what we sell"),
        "{text}"
    );
    assert!(text.contains("10.0.0.101") && text.contains("port: 81"));
    assert!(!text.contains("new_flows"), "{text}");

    let stored = stored.replace("10.0.0.101", "10.0.0.100");
    let text = restored(&stored, &current, &[Part::Services]).unwrap();
    assert!(
        text.contains("port: 81") && text.contains("new_flows"),
        "{text}"
    );
    let text = restored(&stored, &current, &[Part::Node]).unwrap();
    assert!(
        !text.contains("# mine") && text.contains("port: 80\n"),
        "{text}"
    );
    assert_eq!(restored(&stored, &current, &Part::ALL).unwrap(), stored);
}

#[test]
fn a_backup_is_of_its_kind_of_node() {
    let off = with("mode: first", "mode: off");
    for (from, into) in [(off.as_str(), GOOD), (GOOD, off.as_str())] {
        let refused = restored(from, into, &[Part::Services]);
        assert!(
            matches!(refused, Err(BackupError::OtherKind(..))),
            "{refused:?}"
        );
    }
    let second = with("mode: first", "mode: second");
    let refused = restored(&second, GOOD, &Part::ALL);
    assert!(matches!(
        refused,
        Err(BackupError::OtherNode("second", "first"))
    ));
    assert_eq!(
        restored(&second, GOOD, &[Part::Pair, Part::Services]).unwrap(),
        GOOD
    );
}

#[test]
fn a_file_without_sections_has_no_parts() {
    let flow = "{version: 1, node: {name: lb1, mode: off, interfaces: [{name: a, device: a, address: 10.0.0.1/24}]}}\n";
    let block = "version: 1\nnode: {name: lb1, mode: off, interfaces: [{name: a, device: a, address: 10.0.0.1/24}]}\n";
    assert!(restored(flow, block, &Part::ALL).is_ok());
    let refused = restored(flow, block, &[Part::Node]);
    assert!(matches!(
        refused,
        Err(BackupError::NoSections("the backup", 1))
    ));
    let refused = restored(block, flow, &[Part::Node]);
    assert!(matches!(
        refused,
        Err(BackupError::NoSections("the file in place", 1))
    ));
    assert_eq!(restored(block, block, &[Part::Node]).unwrap(), block);
}

#[test]
fn parts_that_lean_on_others_are_found_out() {
    // The anchor stands in a part that stays behind, where the same name means something else.
    let stored =
        with("    port: 80\n", "    port: &port 81\n").replace("port: 8080", "port: *port");
    assert!(restored(&stored, GOOD, &[Part::Services]).is_ok());
    let named = |name: &str| {
        let front = "{ interface: front,";
        GOOD.replace(front, &format!("{{ interface: &name {name},"))
            .replace("name: front,", &format!("name: {name},"))
    };
    let far = named("front").replace("  - name: web", "  - name: *name");
    let other = named("outside");
    let refused = restored(&far, &other, &[Part::Services]);
    assert!(matches!(refused, Err(BackupError::Meaning)), "{refused:?}");
    assert!(restored(&far, GOOD, &[Part::Services]).is_err());
}
