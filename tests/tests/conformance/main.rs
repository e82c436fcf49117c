//! Conformance cases: what goes into an election machine, and what must come out.
//!
//! Each case is a log in `fixtures/conformance/`, complete in itself: any implementation of the rules can be
//! held against it. The scripts in `cases` say how the inputs came about and what each case must show
//! whatever else changes; `HA_BLESS=1 cargo test -p ha-tests --test conformance` runs them, shows how the logs
//! differ, and rewrites them. A log without a script (recorded from a live pair, say) keeps its inputs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::struct_excessive_bools,
    clippy::unchecked_time_subtraction,
    reason = "scripts look for one action among all, and their times are constants"
)]

mod cases;
mod script;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ha_agent::journal::{self, Line, bless, decode, replay};

/// A case's number, name, what it shows and where that is written, and how it goes.
pub(crate) type Case = (u32, &'static str, &'static str, fn(&mut script::Script));

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/conformance")
}

fn blessing() -> bool {
    std::env::var_os("HA_BLESS").is_some_and(|value| value == "1")
}

/// The logs on disk by name.
fn logs() -> BTreeMap<String, String> {
    let mut logs = BTreeMap::new();
    let Ok(entries) = fs::read_dir(directory()) else {
        return logs;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        logs.insert(name, fs::read_to_string(&path).unwrap());
    }
    logs
}

fn text(lines: &[Line]) -> String {
    let mut text: String = lines
        .iter()
        .map(Line::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    text.push('\n');
    text
}

/// What the scripts make of the cases.
fn scripted() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut broken = Vec::new();
    for (number, name, shows, play) in cases::all() {
        let played = std::panic::catch_unwind(|| {
            let mut script = script::Script::new();
            play(&mut script);
            script
        });
        let Ok(script) = played else {
            broken.push(name);
            continue;
        };
        let mut lines = vec![Line::Comment(format!("{number:03} {name}"))];
        lines.extend(
            shows
                .lines()
                .map(|line| Line::Comment(line.trim().to_owned())),
        );
        lines.push(Line::Comment(String::new()));
        lines.extend(script.lines());
        let before = all.insert(format!("{number:03}-{name}.log"), text(&lines));
        assert!(before.is_none(), "two cases {number}-{name}");
    }
    assert!(
        broken.is_empty(),
        "what these cases promise does not hold: {broken:?}"
    );
    all
}

fn show_difference(name: &str, old: &str, new: &str) {
    eprintln!("{name}:");
    let same = old.lines().zip(new.lines()).take_while(|(a, b)| a == b);
    let same = same.count();
    for (mark, text) in [('-', old), ('+', new)] {
        for line in text.lines().skip(same).take(6) {
            eprintln!("  {mark} {}", line.chars().take(200).collect::<String>());
        }
    }
}

/// The scripts keep their promises, and give the logs on disk.
#[test]
fn scripts_give_the_logs() {
    let mut wanted = scripted();
    let found = logs();
    for (name, log) in &found {
        // A log without a script.
        if !wanted.contains_key(name) {
            wanted.insert(name.clone(), text(&bless(&decode(log).unwrap())));
        }
    }
    let mut differing = Vec::new();
    for (name, log) in &wanted {
        let old = found.get(name).map_or("", String::as_str);
        if old != log {
            show_difference(name, old, log);
            differing.push(name.clone());
            if blessing() {
                fs::create_dir_all(directory()).unwrap();
                fs::write(directory().join(name), log).unwrap();
            }
        }
    }
    assert!(
        blessing() || differing.is_empty(),
        "{differing:?} differ; if that is meant: HA_BLESS=1 cargo test -p ha-tests --test conformance"
    );
}

/// The logs alone, as another implementation would use them.
#[test]
fn logs_replay() {
    if blessing() {
        return;
    }
    let logs = logs();
    assert!(logs.len() >= 30);
    for (name, log) in logs {
        let lines = decode(&log).unwrap_or_else(|error| panic!("{name}:{error}"));
        if let Err(difference) = replay(&lines) {
            panic!("{name}: {difference}");
        }
        assert_eq!(
            text(&lines),
            log,
            "{name} is written as the encoder writes it"
        );
    }
}

/// Each case says what it shows and where that rule is written.
#[test]
fn cases_name_their_source() {
    for (number, name, shows, _) in cases::all() {
        let sources = [
            "protocol.md",
            "ucarp",
            "OpenBSD",
            "FreeBSD",
            "configuration.md",
        ];
        assert!(
            sources.iter().any(|source| shows.contains(source)),
            "{number} {name}"
        );
    }
}

/// A log of another machine is noticed: this comparison can fail.
#[test]
fn a_changed_log_is_noticed() {
    let logs = logs();
    let Some(log) = logs.values().next() else {
        panic!("no logs");
    };
    let changed = log.replacen(r#""role":"init""#, r#""role":"standby""#, 1);
    assert_ne!(&changed, log);
    let difference = replay(&decode(&changed).unwrap()).unwrap_err();
    let journal::Difference { expected, .. } = *difference;
    assert!(expected.unwrap().contains("standby"));
}
