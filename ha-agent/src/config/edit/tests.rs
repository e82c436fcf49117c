use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::tests::GOOD;

const FILE: &str = "\
# The pair.
version: 1
node:
  name: lb1          # this one
  web: { listen: \"[::]:8443\" }
ha:
  timeout: 9s        # as agreed
  pacify: { restarts: 3, window: 5m }
virtual_services:
  # the shop
  - name: web
    address: 10.0.0.100
    port: 80
    real_servers:
      - { address: 10.1.0.21, port: 8080 }   # old
      - { address: 10.1.0.22, port: 8080 }
  - name: dns
    port: 53

# the end
";

fn changed(edits: &[Edit]) -> String {
    apply(FILE, edits).unwrap_or_else(|error| panic!("{error}"))
}

/// Lines that are in one text only.
fn differences(new: &str) -> (Vec<String>, Vec<String>) {
    let only = |one: &str, other: &str| {
        let lines = one
            .lines()
            .filter(|line| !other.lines().any(|there| there == *line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    (only(FILE, new), only(new, FILE))
}

#[test]
fn a_value_changes_and_nothing_else_does() {
    for (path, value, old, new) in [
        (
            &["ha", "timeout"][..],
            json!("3s"),
            vec!["  timeout: 9s        # as agreed"],
            vec!["  timeout: 3s        # as agreed"],
        ),
        (
            &["ha", "pacify", "restarts"],
            json!(5),
            vec!["  pacify: { restarts: 3, window: 5m }"],
            vec!["  pacify: { restarts: 5, window: 5m }"],
        ),
        (
            &["ha", "preferred"],
            json!("first"),
            vec![],
            vec!["  preferred: first"],
        ),
        (
            &["node", "web", "interfaces"],
            json!(["back"]),
            vec!["  web: { listen: \"[::]:8443\" }"],
            vec!["  web: { listen: \"[::]:8443\", interfaces: [back] }"],
        ),
        (
            &["limits", "new_flows"],
            json!(7),
            vec![],
            vec!["limits: { new_flows: 7 }"],
        ),
        (
            &["virtual_services", "web", "real_servers", "0", "weight"],
            json!(0),
            vec!["      - { address: 10.1.0.21, port: 8080 }   # old"],
            vec!["      - { address: 10.1.0.21, port: 8080, weight: 0 }   # old"],
        ),
        (
            &["virtual_services", "dns", "enabled"],
            json!(false),
            vec![],
            vec!["    enabled: false"],
        ),
        (
            &["virtual_services", "dns", "port"],
            json!(null),
            vec!["    port: 53"],
            vec![],
        ),
        (
            &["virtual_services", "web", "real_servers", "1"],
            json!(null),
            vec!["      - { address: 10.1.0.22, port: 8080 }"],
            vec![],
        ),
        (
            &["ha", "timeout"],
            json!(null),
            vec!["  timeout: 9s        # as agreed"],
            vec![],
        ),
    ] {
        let edit = Edit::new(path, value);
        assert_eq!(
            differences(&changed(&[edit])),
            (
                old.into_iter().map(str::to_owned).collect(),
                new.into_iter().map(str::to_owned).collect(),
            ),
            "{path:?}"
        );
    }
}

#[test]
fn services_come_and_go() {
    let service = json!({
        "name": "mail", "address": "10.0.0.100", "port": 25,
        "real_servers": [{ "address": "10.1.0.21", "port": 2525 }],
    });
    let text = changed(&[Edit::new(&["virtual_services", "-"], service)]);
    let (gone, new) = differences(&text);
    assert!(gone.is_empty(), "{gone:?}");
    assert_eq!(
        new.first().map(String::as_str),
        Some("  - name: mail"),
        "{text}"
    );
    assert!(
        text.contains("    real_servers:\n      - { address: 10.1.0.21, port: 2525 }\n"),
        "{text}"
    );
    assert!(text.ends_with("\n# the end\n"), "{text}");
    let text = apply(
        &text,
        &[Edit::new(&["virtual_services", "web"], json!(null))],
    )
    .unwrap();
    assert!(
        text.contains("mail") && !text.contains("name: web"),
        "{text}"
    );
    let none = ["mail", "dns"].map(|name| Edit::new(&["virtual_services", name], json!(null)));
    let text = apply(&text, &none).unwrap();
    assert!(text.contains("virtual_services: []\n"), "{text}");
    let again = apply(
        &text,
        &[Edit::new(&["virtual_services", "-", "name"], "new")],
    )
    .unwrap();
    assert!(
        again.contains("virtual_services: [{ name: new }]") || again.contains("- { name: new }"),
        "{again}"
    );
}

#[test]
fn what_has_another_meaning_without_quotes_gets_some() {
    for hostile in [
        "null",
        "true",
        "110",
        "a: b",
        "a #b",
        "- x",
        "\"",
        "'",
        "{",
        "a\nversion: 2",
        "\u{2028}",
        "",
        "*x",
        "&x",
        "!x",
        "%",
        "\0",
        "no",
        "1.5",
    ] {
        let text = changed(&[Edit::new(&["node", "name"], hostile)]);
        assert_eq!(
            read(&text).unwrap().get(&["node", "name"]).text(),
            hostile,
            "{text}"
        );
        assert_eq!(text.lines().count(), FILE.lines().count());
    }
    // What a key says is a value, too.
    let text = changed(&[Edit::new(&["ha", "x: 1\ny"], 1)]);
    assert_eq!(
        read(&text).unwrap().get(&["ha", "x: 1\ny"]).text(),
        "1",
        "{text}"
    );
}

#[test]
fn what_aliases_stand_for_is_not_changed_elsewhere() {
    let file = "a:\n  x: &x 1\n  y: 2\nb:\n  z: *x\n";
    let text = apply(file, &[Edit::new(&["b", "z"], 3)]).unwrap();
    assert_eq!(text, "a:\n  x: &x 1\n  y: 2\nb: { z: 3 }\n");
}

#[test]
fn refusals() {
    let refused = |text: &str, path: &[&str]| apply(text, &[Edit::new(path, 1)]).unwrap_err();
    assert_eq!(refused("a: [", &["a"]), EditError::Unreadable);
    assert_eq!(refused("", &["a"]), EditError::Unreadable);
    let twice = "a:\n  - { b: 1, c: 1, b: 2 }\n";
    assert_eq!(refused(twice, &["a", "0", "c"]), EditError::Unreadable);
    assert!(matches!(
        refused(FILE, &["node", "name", "x"]),
        EditError::NoPlace(_)
    ));
    assert!(matches!(
        refused(FILE, &["virtual_services", "none", "x"]),
        EditError::NoPlace(_)
    ));
    assert!(matches!(refused(FILE, &[]), EditError::NoPlace(_)));
    let many = vec![Edit::new(&["ha", "timeout"], 1); EDITS_MAX + 1];
    assert_eq!(apply(FILE, &many), Err(EditError::TooMany));
}

proptest! {
    /// Whatever is put wherever into a file that can be used: it says then what it should, or is refused.
    #[test]
    fn a_file_says_what_was_wanted(
        path in proptest::collection::vec(
            proptest::sample::select(vec![
                "node", "name", "interfaces", "0", "1", "-", "ha", "timeout", "virtual_services", "web",
                "real_servers", "address", "shared_addresses", "x y", "",
            ]),
            1..5,
        ),
        value in prop_oneof![
            Just(json!(null)), Just(json!(0)), Just(json!("text")), Just(json!([])), Just(json!({})),
            Just(json!(["a", "b: c"])), Just(json!({ "name": "web", "list": [{ "a": 1 }, { "b": [] }] })),
        ],
    ) {
        let edit = Edit::new(&path, value.clone());
        let mut wanted = read(GOOD).unwrap();
        if wanted.set(&edit.path, (&value).into()) {
            if let Ok(text) = apply(GOOD, &[edit]) {
                prop_assert_eq!(read(&text).unwrap(), wanted);
            }
        } else {
            prop_assert!(apply(GOOD, &[edit]).is_err());
        }
    }
}
