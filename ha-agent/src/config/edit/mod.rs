//! Changes of a configuration file by value: what a form or a script wants to stand at a place. The rest of the
//! text stays as it is, with its comments, order and spelling.
//!
//! What a changed text says is compared with what it should say; where a file is written so that the one does not
//! follow from the other (aliases, say), more and more around the place is written anew, up to its whole section.

mod place;
#[cfg(test)]
mod tests;
mod written;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tree::Tree;
pub use written::Written;

/// Most edits at once.
pub const EDITS_MAX: usize = 256;

/// One change: what shall stand at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The way to the place: keys; of a list an item's `name` or its number, and `-` for a new item behind all.
    pub path: Vec<String>,
    /// What shall stand there; null = nothing.
    pub value: Value,
}

impl Edit {
    /// One change.
    pub fn new(path: &[&str], value: impl Into<Value>) -> Self {
        Self {
            path: path.iter().map(ToString::to_string).collect(),
            value: value.into(),
        }
    }
}

/// Why a file cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is not sound YAML, or gives a key twice.
    #[error("the file in place has errors")]
    Unreadable,
    /// There is no such place.
    #[error("there is nothing called `{0}` in the file")]
    NoPlace(String),
    /// It is written in a way that cannot be changed piece by piece.
    #[error("the file is not written section by section, so `{0}` cannot be changed in it")]
    Layout(String),
    /// More than [`EDITS_MAX`].
    #[error("more than {EDITS_MAX} changes at once")]
    TooMany,
}

/// What a file says.
pub fn read(text: &str) -> Result<Written, EditError> {
    let (tree, problems) = Tree::parse(text);
    match tree.root {
        Some(root) if problems.is_empty() => Written::of(&tree, root).ok_or(EditError::Unreadable),
        _ => Err(EditError::Unreadable),
    }
}

/// The file with these changes, one after the other. Whether it can be used is for [`super::Config::parse`] to say.
pub fn apply(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    if edits.len() > EDITS_MAX {
        return Err(EditError::TooMany);
    }
    let mut text = text.to_owned();
    let mut says = read(&text)?;
    for edit in edits {
        let mut wanted = says.clone();
        let named = || edit.path.join(".");
        if edit.path.is_empty() || !wanted.set(&edit.path, (&edit.value).into()) {
            return Err(EditError::NoPlace(named()));
        }
        if wanted == says {
            continue;
        }
        text = one(&text, &says, &wanted, edit).ok_or_else(|| EditError::Layout(named()))?;
        says = wanted;
    }
    Ok(text)
}

/// The file with one change: as little of the text as leads to what is wanted.
fn one(text: &str, says: &Written, wanted: &Written, edit: &Edit) -> Option<String> {
    (1..=edit.path.len()).rev().find_map(|length| {
        let path = edit.path.get(..length)?;
        let way: Vec<&str> = path.iter().map(String::as_str).collect();
        let gone = length == edit.path.len() && edit.value.is_null();
        let changed = match way.split_last() {
            Some((&"-", above)) => {
                let item = wanted.get(above).items().last()?;
                place::append(text, &indexed(says, above)?, item)
            }
            // Below an item that is new nothing is in the text yet.
            _ if way.contains(&"-") => None,
            // Behind an item that goes the numbers are others.
            _ if gone => place::put(text, &indexed(says, &way)?, &Written::Nothing),
            _ => place::put(text, &indexed(says, &way)?, wanted.get(&way)),
        };
        changed.filter(|changed| read(changed).is_ok_and(|says| says == *wanted))
    })
}

/// The way with the numbers of items instead of their names; the last step may be new.
fn indexed<'w>(says: &Written, way: &[&'w str]) -> Option<Vec<place::Way<'w>>> {
    let mut steps = Vec::with_capacity(way.len());
    for (at, step) in way.iter().enumerate() {
        let here = says.get(way.get(..at)?);
        steps.push(match here {
            Written::List(_) => place::Way::Index(here.index(step)?),
            Written::Map(_) | Written::Nothing | Written::Text { .. } => place::Way::Key(step),
        });
    }
    Some(steps)
}
