//! Logs of an election, as `ha-agent replay` reads them. They come from other machines, so nothing in one is sure.

use std::fs;
use std::path::Path;

use ha_agent::journal::{Line, annotate, decode, replay};

use super::Seed;

/// Longest input.
const LENGTH: usize = 64 << 10;

/// Reads an input as a log, and runs it.
pub fn play(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let Some(journal) = decode(text).ok().filter(|_| input.len() <= LENGTH) else {
        return;
    };
    let shown: Vec<String> = journal.iter().map(Line::to_string).collect();
    // Each with its end: an empty one is a line, too.
    let text: String = shown
        .iter()
        .flat_map(|line| [line.as_str(), "\n"])
        .collect();
    let again = decode(&text).expect("its own text");
    let again: Vec<String> = again.iter().map(Line::to_string).collect();
    assert_eq!(again, shown);
    // What the machine does now is what it does when it is asked again.
    let annotated = annotate(&journal);
    let differs = replay(&annotated).err();
    assert!(differs.is_none(), "{}", differs.expect("a difference"));
}

/// Cases of the election that have most kinds of lines.
pub fn seeds() -> Vec<Seed> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/conformance");
    [
        "001-lone-start",
        "024-failover",
        "034-replacement-granted",
        "050-mode-conflict",
        "064-isolated",
        "091-ucarp-bow-out",
    ]
    .into_iter()
    .map(|name| {
        let log = fs::read(cases.join(name).with_extension("log"));
        (name.to_owned(), log.expect("a case of the election"))
    })
    .collect()
}
