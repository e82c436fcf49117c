//! How two texts differ, line by line, for people to look at before they agree.

use serde::{Deserialize, Serialize};

/// Unchanged lines shown around a change.
const CONTEXT: usize = 3;
/// Most pairs of lines compared; texts that differ in more are shown one after the other.
const PAIRS_MAX: usize = 4 << 20;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is in both texts.
    Same,
    /// It is in the old one only.
    Gone,
    /// It is in the new one only.
    New,
    /// Lines that both have are left out here.
    Skipped,
}

/// A line of a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What became of it.
    pub fate: Fate,
    /// What it says.
    pub text: String,
}

/// The difference of two texts; empty if there is none.
pub fn difference(old: &str, new: &str) -> Vec<Line> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (
        old.get(head..).unwrap_or_default(),
        new.get(head..).unwrap_or_default(),
    );
    let pairs = old_rest.iter().rev().zip(new_rest.iter().rev());
    let tail = pairs.take_while(|(a, b)| a == b).count();
    let middle = |rest: &[&'_ str]| rest.len().saturating_sub(tail);
    let (gone, fresh) = (
        old_rest.get(..middle(old_rest)).unwrap_or_default(),
        new_rest.get(..middle(new_rest)).unwrap_or_default(),
    );
    let line = |fate| move |text: &&str| (fate, (*text).to_owned());
    let mut all: Vec<(Fate, String)> = Vec::new();
    all.extend(old.iter().take(head).map(line(Fate::Same)));
    all.extend(longest(gone, fresh));
    all.extend(old.iter().skip(head + gone.len()).map(line(Fate::Same)));
    cut(&all)
}

/// What stays in the middle of two texts, by the longest sequence of lines that both have.
fn longest(old: &[&str], new: &[&str]) -> Vec<(Fate, String)> {
    let line = |fate, text: &str| (fate, text.to_owned());
    if old.len().saturating_mul(new.len()) > PAIRS_MAX {
        let gone = old.iter().map(|text| line(Fate::Gone, text));
        return gone
            .chain(new.iter().map(|text| line(Fate::New, text)))
            .collect();
    }
    // Lines that both have from here on.
    let width = new.len() + 1;
    let mut common = vec![0_u32; (old.len() + 1) * width];
    let read = |common: &[u32], row: usize, column: usize| {
        common.get(row * width + column).copied().unwrap_or(0)
    };
    for (row, a) in old.iter().enumerate().rev() {
        for (column, b) in new.iter().enumerate().rev() {
            let best = if a == b {
                read(&common, row + 1, column + 1) + 1
            } else {
                read(&common, row + 1, column).max(read(&common, row, column + 1))
            };
            if let Some(cell) = common.get_mut(row * width + column) {
                *cell = best;
            }
        }
    }
    let (mut row, mut column) = (0, 0);
    let mut out = Vec::new();
    loop {
        match (old.get(row), new.get(column)) {
            (Some(a), Some(b)) if a == b => {
                out.push(line(Fate::Same, a));
                (row, column) = (row + 1, column + 1);
            }
            (Some(a), Some(_))
                if read(&common, row + 1, column) >= read(&common, row, column + 1) =>
            {
                out.push(line(Fate::Gone, a));
                row += 1;
            }
            (_, Some(b)) => {
                out.push(line(Fate::New, b));
                column += 1;
            }
            (Some(a), None) => {
                out.push(line(Fate::Gone, a));
                row += 1;
            }
            (None, None) => return out,
        }
    }
}

/// Leaves out what is far from any change.
fn cut(all: &[(Fate, String)]) -> Vec<Line> {
    let changes: Vec<usize> = all
        .iter()
        .enumerate()
        .filter(|(_, (fate, _))| *fate != Fate::Same)
        .map(|(at, _)| at)
        .collect();
    let mut out: Vec<Line> = Vec::new();
    if changes.is_empty() {
        return out;
    }
    for (at, (fate, text)) in all.iter().enumerate() {
        // The nearest change before and behind.
        let next = changes.partition_point(|change| *change < at);
        let near = [next.checked_sub(1), Some(next)];
        let mut near = near
            .into_iter()
            .flatten()
            .filter_map(|index| changes.get(index));
        if near.any(|change| change.abs_diff(at) <= CONTEXT) {
            out.push(Line {
                fate: *fate,
                text: text.clone(),
            });
        } else if out.last().is_none_or(|line| line.fate != Fate::Skipped) {
            out.push(Line {
                fate: Fate::Skipped,
                text: String::new(),
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(old: &str, new: &str) -> String {
        let sign = |fate| match fate {
            Fate::Same => ' ',
            Fate::Gone => '-',
            Fate::New => '+',
            Fate::Skipped => '~',
        };
        let lines = difference(old, new).into_iter();
        lines
            .map(|line| format!("{}{}", sign(line.fate), line.text))
            .collect::<Vec<_>>()
            .join("|")
    }

    #[test]
    fn what_changed_is_shown_with_what_is_around_it() {
        assert_eq!(shown("a\nb\nc\n", "a\nb\nc\n"), "");
        assert_eq!(shown("", "a\n"), "+a");
        assert_eq!(shown("a\nb\nc\n", "a\nx\nc\n"), " a|-b|+x| c");
        assert_eq!(shown("a\nb\nc\nd\n", "b\nc\nx\nd\n"), "-a| b| c|+x| d");
        let numbers: Vec<String> = (0..20).map(|n: u8| n.to_string()).collect();
        let old = numbers.join("\n") + "\n";
        let new = old.replace("10\n", "");
        assert_eq!(shown(&old, &new), "~| 7| 8| 9|-10| 11| 12| 13|~");
    }

    proptest! {
        #[test]
        fn both_texts_are_in_the_difference(
            old in proptest::collection::vec("[abc]", 0..30),
            new in proptest::collection::vec("[abc]", 0..30),
        ) {
            let lines = longest(
                &old.iter().map(String::as_str).collect::<Vec<_>>(),
                &new.iter().map(String::as_str).collect::<Vec<_>>(),
            );
            let of = |not: Fate| -> Vec<String> {
                lines.iter().filter(|(fate, _)| *fate != not).map(|(_, text)| text.clone()).collect()
            };
            prop_assert_eq!(of(Fate::New), old);
            prop_assert_eq!(of(Fate::Gone), new);
        }
    }
}
