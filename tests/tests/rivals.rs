//! Every test that `docs/rivals.md` names exists.

use std::fs;
use std::path::Path;

#[test]
fn every_line_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/rivals.md")).unwrap();
    let mut named = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let shown = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        if shown == "shown by" || shown.starts_with("none: ") {
            continue;
        }
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test named: {row}");
        for test in tests {
            named += 1;
            let (file, name) = test.split_once(' ').unwrap_or((test, ""));
            let found = if file == "conformance" {
                let log = format!("tests/fixtures/conformance/{name}.log");
                root.join(log).exists()
            } else {
                fs::read_to_string(root.join(file)).is_ok_and(|source| source.contains(name))
            };
            assert!(found, "{test}: named in docs/rivals.md, and not there");
        }
    }
    assert!(named >= 30, "only {named} tests found in the tables");
}
