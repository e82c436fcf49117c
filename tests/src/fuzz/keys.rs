//! The key file, which a person may have written.

use std::collections::BTreeSet;
use std::path::Path;

use ha_agent::keys::PairKeys;

use super::{Seed, is_plain, texts};

/// Keys of a file.
const KEYS_MAX: usize = 2;

/// Reads an input as a key file.
pub fn play(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    match PairKeys::parse(Path::new("pair.key"), text) {
        Ok(keys) => {
            let ids: BTreeSet<u8> = keys.iter().map(|key| key.id).collect();
            let count = keys.iter().count();
            assert!((1..=KEYS_MAX).contains(&count) && ids.len() == count);
            // Whatever else may stand there, a key is so many digits.
            let digits =
                |word: &str| word.len() == 64 && word.bytes().all(|c| c.is_ascii_hexdigit());
            let words = text.split(|c: char| c.is_whitespace() || c == '#');
            assert!(words.filter(|word| digits(word)).count() >= count);
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(is_plain(&shown, 1), "{shown:?}");
        }
    }
}

/// One key and two, and what is none.
pub fn seeds() -> Vec<Seed> {
    let (one, two) = ("07".repeat(32), "A8".repeat(32));
    texts([
        ("one", &*format!("# Key of the pair\n1 {one}\n")),
        ("two", &format!("2 {two}\n1 {one} # old\n")),
        ("same-id", &format!("1 {two}\n1 {one}\n")),
        ("short", "1 0707\n"),
        ("signs", &format!("1 {}\n", "+7".repeat(32))),
    ])
}
