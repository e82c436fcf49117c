//! Values as they are written: read from a file's tree or from JSON, and written as YAML.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::super::tree::{Kind, NodeId, Tree};
use super::super::values::{Scalar, is_null};

/// A value, with as much of its spelling as matters.
#[derive(Clone, Debug)]
pub enum Written {
    /// Nothing: a key that is not there, or one without a value.
    Nothing,
    /// Text; plain if it is, or must be, written without quotes.
    Text {
        /// What it says.
        text: String,
        /// Whether it has no quotes.
        plain: bool,
    },
    /// A list.
    List(Vec<Self>),
    /// A map, in the order of the file.
    Map(Vec<(String, Self)>),
}

/// Equal is what says the same: quotes, order of keys, and keys without a value do not matter.
impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Text { text: a, .. }, Self::Text { text: b, .. }) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => {
                let full = |map: &[(String, Self)]| map.iter().filter(|(_, v)| v.is_some()).count();
                full(a) == full(b)
                    && a.iter()
                        .filter(|(_, value)| value.is_some())
                        .all(|(key, value)| {
                            b.iter()
                                .any(|(other, there)| other == key && there == value)
                        })
            }
            (Self::Nothing | Self::Text { .. } | Self::List(_) | Self::Map(_), _) => false,
        }
    }
}

impl Written {
    /// What stands at a node of a tree; nothing if a key below is given twice, since it means neither.
    pub(super) fn of(tree: &Tree<'_>, id: NodeId) -> Option<Self> {
        let written = match tree.node(id).map(|node| &node.kind) {
            Some(Kind::Scalar { text, plain }) => {
                let scalar = Scalar {
                    text,
                    plain: *plain,
                };
                if is_null(scalar) {
                    Self::Nothing
                } else {
                    Self::Text {
                        text: text.to_string(),
                        plain: *plain,
                    }
                }
            }
            Some(Kind::List(items)) => {
                let items = items.iter().map(|item| Self::of(tree, *item));
                Self::List(items.collect::<Option<_>>()?)
            }
            Some(Kind::Map(entries)) => {
                let mut map = Vec::with_capacity(entries.len());
                let mut keys = HashSet::with_capacity(entries.len());
                for (key, value) in entries {
                    let Some(Kind::Scalar { text, .. }) = tree.node(*key).map(|key| &key.kind)
                    else {
                        continue;
                    };
                    if !keys.insert(text) {
                        return None;
                    }
                    map.push((text.to_string(), Self::of(tree, *value)?));
                }
                Self::Map(map)
            }
            Some(Kind::Lost) | None => Self::Nothing,
        };
        Some(written)
    }

    /// Whether there is anything.
    pub const fn is_some(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// The value at the end of a way. A step is a key; of a list, an item's `name` or its number.
    pub fn get(&self, way: &[&str]) -> &Self {
        let Some((step, rest)) = way.split_first() else {
            return self;
        };
        let found = match self {
            Self::Map(entries) => entries.iter().find(|(key, _)| key == step).map(|(_, v)| v),
            Self::List(items) => self.index(step).and_then(|index| items.get(index)),
            Self::Nothing | Self::Text { .. } => None,
        };
        found.map_or(&Self::Nothing, |value| value.get(rest))
    }

    /// The number of the item that a step means.
    pub(super) fn index(&self, step: &str) -> Option<usize> {
        let Self::List(items) = self else {
            return None;
        };
        let named =
            |item: &Self| matches!(item.get(&["name"]), Self::Text { text, .. } if text == step);
        let number = || step.parse().ok().filter(|index| *index < items.len());
        items.iter().position(named).or_else(number)
    }

    /// The text of a value, or of a list of texts, separated by commas; empty if there is none.
    pub fn text(&self) -> String {
        match self {
            Self::Text { text, .. } => text.clone(),
            Self::List(items) => {
                let texts: Vec<String> = items.iter().map(Self::text).collect();
                texts.join(", ")
            }
            Self::Nothing | Self::Map(_) => String::new(),
        }
    }

    /// The items of a list; a single value is a list of one.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Nothing => &[],
            Self::Text { .. } | Self::Map(_) => std::slice::from_ref(self),
        }
    }

    /// Puts a value at the end of a way, and what is missing on it; false if there is no such place. A map that
    /// loses its last key goes, too.
    pub(super) fn set(&mut self, way: &[String], value: Self) -> bool {
        let Some((step, rest)) = way.split_first() else {
            *self = value;
            return true;
        };
        if !self.is_some() {
            *self = if step == "-" {
                Self::List(Vec::new())
            } else {
                Self::Map(Vec::new())
            };
        }
        let index = self.index(step);
        match self {
            Self::Map(entries) => {
                if rest.is_empty() && !value.is_some() {
                    entries.retain(|(key, _)| key != step);
                    return true;
                }
                if let Some(at) = entries.iter().position(|(key, _)| key == step) {
                    let Some((_, inner)) = entries.get_mut(at) else {
                        return false;
                    };
                    let fits = inner.set(rest, value);
                    if matches!(inner, Self::Map(entries) if entries.is_empty()) && !rest.is_empty()
                    {
                        entries.remove(at);
                    }
                    return fits;
                }
                if !value.is_some() {
                    return true;
                }
                let mut inner = Self::Nothing;
                let fits = inner.set(rest, value);
                entries.push((step.clone(), inner));
                fits
            }
            Self::List(items) if step == "-" => {
                let mut inner = Self::Nothing;
                let fits = inner.set(rest, value);
                items.push(inner);
                fits
            }
            Self::List(items) => match index {
                Some(index) if rest.is_empty() && !value.is_some() => {
                    items.remove(index);
                    true
                }
                Some(index) => items
                    .get_mut(index)
                    .is_some_and(|item| item.set(rest, value)),
                None => false,
            },
            Self::Nothing | Self::Text { .. } => false,
        }
    }

    /// Whether it is written in one line by custom: text, or a collection of texts.
    fn is_simple(&self) -> bool {
        let flat = |value: &Self| matches!(value, Self::Text { .. } | Self::Nothing);
        match self {
            Self::Nothing | Self::Text { .. } => true,
            Self::List(items) => items.iter().all(flat),
            Self::Map(entries) => entries.iter().all(|(_, value)| flat(value)),
        }
    }

    /// In one line.
    pub(super) fn inline(&self) -> String {
        match self {
            Self::Nothing => "null".to_owned(),
            Self::Text { text, plain } => scalar(text, *plain),
            Self::List(items) if items.is_empty() => "[]".to_owned(),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::inline).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let some = entries.iter().filter(|(_, value)| value.is_some());
                let entries: Vec<String> = some
                    .map(|(key, value)| format!("{}: {}", scalar(key, true), value.inline()))
                    .collect();
                if entries.is_empty() {
                    return "{}".to_owned();
                }
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }

    /// What follows `key:` at this depth, line end included.
    pub(super) fn below(&self, depth: usize) -> String {
        if self.is_simple() {
            return format!(" {}\n", self.inline());
        }
        format!("\n{}", self.lines(depth + 2))
    }

    /// What follows `- ` at this depth, line end included.
    pub(super) fn item(&self, depth: usize) -> String {
        if self.is_simple() {
            return format!("{}\n", self.inline());
        }
        self.lines(depth + 2).trim_start().to_owned()
    }

    fn lines(&self, depth: usize) -> String {
        let margin = " ".repeat(depth);
        let mut out = String::new();
        match self {
            Self::Map(entries) => {
                for (key, value) in entries.iter().filter(|(_, value)| value.is_some()) {
                    // Writing to a string cannot fail.
                    let _infallible =
                        write!(out, "{margin}{}:{}", scalar(key, true), value.below(depth));
                }
            }
            Self::List(items) => {
                for item in items {
                    let _infallible = write!(out, "{margin}- {}", item.item(depth));
                }
            }
            Self::Nothing | Self::Text { .. } => {
                let _infallible = writeln!(out, "{margin}{}", self.inline());
            }
        }
        out
    }
}

impl From<&Value> for Written {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(_) | Value::Number(_) => Self::Text {
                text: value.to_string(),
                plain: true,
            },
            Value::String(text) => Self::Text {
                text: text.clone(),
                plain: false,
            },
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(entries) => {
                let entries = entries.iter();
                let mut entries: Vec<(String, Self)> =
                    entries.map(|(key, v)| (key.clone(), v.into())).collect();
                entries.sort_by_key(|(key, value)| (rank(key), !value.is_simple()));
                Self::Map(entries)
            }
        }
    }
}

/// What one looks for first in an item of a list stands first.
const fn rank(key: &str) -> u8 {
    match key.as_bytes() {
        b"name" | b"interface" => 0,
        b"address" | b"device" => 1,
        b"port" => 2,
        _ => 3,
    }
}

/// A scalar: without quotes if it means the same then, or if it has to.
fn scalar(text: &str, plain: bool) -> String {
    let clean = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-'));
    let letter = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    // Numbers, and what YAML has other meanings for.
    let word = text.contains(|c: char| c.is_ascii_alphabetic())
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    let dotted = text.matches('.').count() > 1 || text.contains('/');
    if clean && letter && (plain || word || dotted) {
        return text.to_owned();
    }
    // JSON's quotes are YAML's, too, and nothing in them can end the line.
    Value::from(text).to_string()
}
