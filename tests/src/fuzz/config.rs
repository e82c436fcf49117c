//! The configuration file, as a person or the partner wrote it; and what is done with one that can be used: its shared
//! part travels, it is compared, edited, and kept as a backup.

use std::path::Path;

use ha_agent::config::backup::{self, Backup, Part};
use ha_agent::config::edit;
use ha_agent::config::model::Config;
use ha_agent::config::{Diagnostic, Loaded, Severity, diff, shared};

use super::{Seed, is_plain, texts};

/// Longest input: YAML of this length says all there is to say.
const LENGTH: usize = 64 << 10;
/// Lines of a problem shown with its place.
const SHOWN: usize = 4;

/// Reads an input as a file.
pub fn play(input: &[u8]) {
    if input.len() > LENGTH {
        return;
    }
    // Any file may be offered as a backup.
    let _no_backup = Backup::read(Path::new("backup"), input.to_vec()).err();
    match parse(input) {
        Ok(loaded) => good(&loaded),
        Err(problems) => {
            let faulty = |problem: &Diagnostic| problem.severity == Severity::Error;
            assert!(problems.iter().any(faulty), "refused for no reason");
            shown(&problems);
        }
    }
}

fn parse(text: &[u8]) -> Result<Loaded, Vec<Diagnostic>> {
    Config::parse(Path::new("file"), text.to_vec())
}

fn shown(problems: &[Diagnostic]) {
    for problem in problems {
        let (short, long) = (problem.to_string(), format!("{problem:#}"));
        assert!(is_plain(&short, 1), "{short:?}");
        assert!(is_plain(&long, SHOWN), "{long:?}");
    }
}

fn good(loaded: &Loaded) {
    assert!(
        loaded
            .warnings
            .iter()
            .all(|it| it.severity == Severity::Warning)
    );
    shown(&loaded.warnings);
    let changes = diff(&loaded.config, loaded).expect("a file is what it is");
    assert_eq!(changes, [], "a file differs from itself");
    edit::read(loaded.text()).expect("a good file can be edited");
    // Backups of whole files, and of files put together anew.
    let kept = backup::make(loaded, jiff::Timestamp::UNIX_EPOCH);
    let backup = Backup::read(Path::new("backup"), kept.into_bytes()).expect("its own backup");
    for parts in [&Part::ALL[..], &[Part::Services], &[Part::Node, Part::Pair]] {
        if let Ok(restored) = backup.restore(Some(loaded), parts) {
            let restored = parse(restored.as_bytes());
            let restored = restored.expect("a file restored over itself is good");
            let check = backup.check(&restored.config, Some(&loaded.config), parts);
            assert!(check.is_ok(), "{check:?}");
        }
    }
    if !loaded.shared.document.is_empty() {
        let document = &loaded.shared.document;
        assert_eq!(shared::document_hash(document), loaded.shared.hash);
        let whole = shared::compose(Path::new("file"), loaded.text(), document);
        let whole = whole.expect("its own shared part");
        assert_eq!(whole.shared.hash, loaded.shared.hash);
        assert_eq!(whole.config.node, loaded.config.node);
    }
}

/// A usual file.
pub(super) const GOOD: &str = "\
version: 1
node:
  name: lb1
  mode: first
  interfaces:
    - { name: front, device: eth0, address: 10.0.0.11/24, partner: 10.0.0.12, ha_checks: true, gateway: 10.0.0.254 }
    - { name: back,  device: eth1, address: [10.1.0.11/24, \"2001:db8::11/64\"], partner: 10.1.0.12, ha_checks: true }
    - { name: cable, device: eth2, ha_checks: true }
ha: { advertisement_interval: 100ms, timeout: 300ms, preferred: first }
shared_addresses:
  - { interface: front, address: 10.0.0.100/24 }
  - { interface: back,  address: 10.1.0.1/24 }
virtual_services:
  - name: web # of all
    address: 10.0.0.100
    port: 80
    health: { type: http, path: /alive, interval: 2s, timeout: 1s, rise: 2, fall: 3 }
    persistence: { timeout: 300s }
    real_servers:
      - { address: 10.1.0.21, port: 8080, weight: 2 }
      - { address: 10.1.0.22, port: 8080 }
";

/// Files that are good, and such that are not.
pub fn seeds() -> Vec<Seed> {
    let aliases = GOOD
        .replace("health: { type", "health: &check { type")
        .replace("    persistence", "    x: *check\n    persistence");
    let off = "version: 1\nnode: { name: lb1, mode: off, interfaces: [] }\n";
    texts([
        ("good", GOOD),
        ("example", include_str!("../../../deploy/ha-agent.yaml")),
        ("off", off),
        ("aliases", &aliases),
        ("tabs", "version: 1\n\tnode: {}\n"),
        ("twice", "version: 1\nversion: 1\n\"node\": ~\n"),
        ("documents", "---\nversion: 1\n---\nversion: 2\n...\n"),
        (
            "block",
            "node:\n  name: |\n    lb1\n  mode: >-\n    first\n",
        ),
        ("deep", &format!("{}{}", "[".repeat(60), "]".repeat(60))),
    ])
}
