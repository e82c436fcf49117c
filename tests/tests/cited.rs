//! Every test that a table of the documentation names exists.

#![expect(
    clippy::unwrap_used,
    reason = "helper of tests; a failure is the test's"
)]

use std::fs;
use std::path::Path;

/// How many tests the last columns of a document's tables name; each must exist.
fn cited(document: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(document)).unwrap();
    let mut shown = false;
    let mut named = 0;
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ") else {
            shown &= line.starts_with('|');
            continue;
        };
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        if last == "shown by" {
            shown = true;
            continue;
        }
        if !shown || last.starts_with("none: ") {
            continue;
        }
        let tests: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{document}: no test named: {row}");
        for test in tests {
            named += 1;
            let (file, name) = test.split_once(' ').unwrap_or((test, ""));
            let found = if file == "conformance" {
                let log = format!("tests/fixtures/conformance/{name}.log");
                root.join(log).exists()
            } else {
                fs::read_to_string(root.join(file)).is_ok_and(|source| source.contains(name))
            };
            assert!(found, "{test}: named in {document}, and not there");
        }
    }
    named
}

#[test]
fn faults_of_rivals() {
    assert!(cited("docs/rivals.md") >= 70);
}

#[test]
fn procedures() {
    assert!(cited("docs/operations.md") >= 10);
}

#[test]
fn attacks() {
    assert!(cited("docs/security.md") >= 30);
}
