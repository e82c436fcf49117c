//! What both nodes have alike, and how it is put into a node's own file.

use super::*;
use crate::config::shared::{compose, document_hash};

/// The partner's file: its own section, other comments, another order of keys.
fn partner(text: &str) -> String {
    text.replace("lb1", "lb2")
        .replace("mode: first", "mode: second")
        .replace("10.0.0.11", "10.0.0.99")
        .replace("10.0.0.12", "10.0.0.11")
        .replace("10.0.0.99", "10.0.0.12")
        .replace("10.1.0.11", "10.1.0.99")
        .replace("10.1.0.12", "10.1.0.11")
        .replace("10.1.0.99", "10.1.0.12")
}

fn shared(text: &str) -> SharedPart {
    parse(text).unwrap().shared.clone()
}

fn composed(own: &str, document: &str) -> Loaded {
    let composed = compose(Path::new("f.yaml"), own, document);
    composed.unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[test]
fn the_section_node_is_no_part_of_it() {
    let here = shared(GOOD);
    let there = shared(&partner(GOOD));
    assert_eq!(here, there);
    for secret in ["lb1", "node", "key_file", "10.0.0.11"] {
        assert!(!here.document.contains(secret), "{}", here.document);
    }
    assert_eq!(document_hash(&here.document), here.hash);
}

#[test]
fn the_hash_is_of_what_is_said() {
    let same = [
        with("port: 80\n", "port: 80 # the usual one\n"),
        with("port: 80\n", "\n    # a line\n    port: 80\n"),
        with(
            "    address: 10.0.0.100\n    port: 80\n",
            "    port: 80\n    address: '10.0.0.100'\n",
        ),
        with("virtual_services:", "ha:\nrecords: ~\nvirtual_services:"),
        with("health: { type: tcp }", "health:\n      type: tcp"),
    ];
    for text in same {
        assert_eq!(shared(&text).hash, shared(GOOD).hash, "{text}");
    }
    let other = [
        with("port: 80\n", "port: 81\n"),
        with("      - { address: 10.1.0.21, port: 8080 }\n", ""),
        with("name: web", "name: we"),
    ];
    for text in other {
        assert_ne!(shared(&text).hash, shared(GOOD).hash, "{text}");
    }
}

#[test]
fn comments_and_what_did_not_change_stay() {
    let own = partner(GOOD)
        .replace("version: 1\n", "# Mine.\nversion: 1\n")
        .replace("  name: lb2", "  # mine, too\n  name: lb2")
        .replace(
            "shared_addresses:\n",
            "\n# Addresses here.\nshared_addresses:\n  # of the front\n",
        )
        .replace("virtual_services:\n", "\n# Services.\nvirtual_services:\n")
        + "\n# The end.\n";
    let edited = with("port: 80\n", "port: 81 # was 80\n");
    let document = shared(&edited).document;
    let result = composed(&own, &document);
    let wanted = own.replace("port: 80\n", "port: 81 # was 80\n");
    assert_eq!(result.text(), wanted);
    assert_eq!(result.config.node.name, "lb2");
    assert_eq!(result.shared.hash, document_hash(&document));
    // Again it changes nothing.
    assert_eq!(composed(&wanted, &document).text(), wanted);
}

#[test]
fn sections_come_and_go() {
    let more = with(
        "virtual_services:",
        "ha: { timeout: 5s }\nvirtual_services:",
    );
    let own = partner(GOOD);
    let result = composed(&own, &shared(&more).document);
    assert_eq!(result.config.ha.timeout, Duration::from_secs(5));
    let back = composed(result.text(), &shared(GOOD).document);
    assert_eq!(back.text(), own);
    let no_end = own.trim_end();
    let result = composed(no_end, &shared(&more).document);
    assert_eq!(result.config.ha.timeout, Duration::from_secs(5));
}

#[test]
fn what_would_be_wrong_here_is_refused_with_its_place() {
    let own = partner(GOOD)
        .replace("name: back,", "name: rear,")
        .replace("interface: back,", "interface: rear,");
    let problems = compose(Path::new("f.yaml"), &own, &shared(GOOD).document).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].what.contains("no interface named `back`"));
    assert!(problems[0].line > 8);
}

#[test]
fn aliases_do_not_reach_into_the_section_node() {
    let text = with("  name: lb1", "  name: &n lb1").replace("name: web", "name: *n");
    let problems = parse(&text).unwrap_err();
    assert!(problems[0].what.contains("without it"), "{problems:#?}");
    let text = with(
        "virtual_services:",
        "ha: { multicast_interface: &i back }\nvirtual_services:",
    )
    .replace("name: web", "name: *i");
    let document = shared(&text).document;
    let result = composed(&partner(GOOD), &document);
    assert_eq!(result.config.virtual_services[0].name, "back");
}

#[test]
fn sections_that_cannot_be_told_apart_are_refused() {
    let flow = "{ version: 1, node: { name: a, mode: first, interfaces: [ { name: x, device: y, \
                address: 10.0.0.1/24, partner: 10.0.0.2, ha_checks: true } ] }, \
                ha: { virtual_id: 99 } }";
    let problems = parse(flow).unwrap_err();
    assert!(problems[0].what.contains("left margin"), "{problems:#?}");
    // Alone there is nobody to replicate to.
    assert!(parse(&flow.replace("mode: first", "mode: off")).is_ok());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Whatever a partner sends, the result is a good file that says what it was to say, or an error.
    #[test]
    fn hostile_documents_never_panic(
        cuts in proptest::collection::vec(
            (proptest::prelude::any::<proptest::sample::Index>(), 0usize..20, "[a-z0-9:\\-\\[\\]{},*&# \n\t]{0,6}"),
            0..5,
        )
    ) {
        let mut text: Vec<char> = shared(GOOD).document.chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let document: String = text.into_iter().collect();
        let own = partner(GOOD);
        if let Ok(loaded) = compose(Path::new("f.yaml"), &own, &document) {
            proptest::prop_assert_eq!(loaded.shared.hash, document_hash(&document));
            proptest::prop_assert_eq!(loaded.config.node, parse(&own).unwrap().config.node);
        }
    }
}
