//! What a reader is told to type is what the program takes.

use std::fs;
use std::path::Path;

use clap::Parser as _;
use ha_agent::cli::args::Args;

/// The words of a command line up to its comment or pipe, single quotes taken off.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap_or_default();
    let line = line.split(" | ").next().unwrap_or_default();
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Commands of the agent in the fenced blocks of a document that show what to type, with their lines.
fn commands(document: &str) -> Vec<(usize, Vec<String>)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (index, line) in document.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fenced = !fenced && (language.is_empty() || language.starts_with("sh"));
            continue;
        }
        let line = line.trim_start().trim_start_matches("$ ");
        if fenced && line.starts_with("ha-agent ") {
            found.push((index + 1, words(line)));
        }
    }
    found
}

#[test]
fn commands_in_documents_are_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents: Vec<_> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    documents.extend(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    let mut checked = 0;
    let mut faults = Vec::new();
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        for (line, words) in commands(&text) {
            checked += 1;
            if let Err(error) = Args::try_parse_from(&words) {
                // Help and version end as an error, too, and are none.
                if error.use_stderr() {
                    faults.push(format!("{}:{line}: {error}", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked >= 40, "only {checked} commands found");
}

#[test]
fn words_end_at_comments_and_pipes() {
    let line = "ha-agent trace-packet --to '[2001:db8::1]:53' --json | jq .x   # why";
    assert_eq!(
        words(line),
        [
            "ha-agent",
            "trace-packet",
            "--to",
            "[2001:db8::1]:53",
            "--json"
        ]
    );
    assert!(commands("text\n```json\nha-agent x\n```\n").is_empty());
    assert_eq!(commands("```sh\n$ ha-agent status\n```\n").len(), 1);
}
