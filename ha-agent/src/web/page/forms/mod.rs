//! Forms over the configuration file: what is written at a place is in a field, and what somebody writes into the
//! field is to stand at that place. An empty field is a key that is not there; its default is shown in it.

pub(super) mod ha;
pub(super) mod interfaces;
pub(super) mod service;

use serde_json::{Number, Value};

use super::visitor::Posted;
use crate::config::edit::{Edit, Written};

/// What something is called in a form that has no name yet: nothing in the file can be called so.
const NEW: &str = "+";

/// What a field takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Text, a duration, an address: the file's rules say what.
    Text,
    /// A number.
    Number,
    /// One or more, separated by commas.
    List,
    /// One of some words, with what they mean.
    Choice(&'static [(&'static str, &'static str)]),
    /// Yes or no.
    Switch,
    /// An interface's name.
    Interface(Vec<String>),
}

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Its place in the file.
    pub(super) path: Vec<String>,
    /// Its name in the form.
    pub(super) name: String,
    /// What a person reads.
    pub(super) label: &'static str,
    /// More about it.
    pub(super) hint: &'static str,
    /// What it takes.
    pub(super) input: Input,
    /// What stands in the file.
    pub(super) value: String,
    /// What holds if nothing does.
    pub(super) default: String,
}

impl Field {
    /// A field for a place below another one.
    pub(super) fn new(base: &[&str], key: &str, label: &'static str, input: Input) -> Self {
        let keys = key.split('.').map(str::to_owned);
        Self {
            path: base.iter().map(ToString::to_string).chain(keys).collect(),
            name: key.to_owned(),
            label,
            hint: "",
            input,
            value: String::new(),
            default: String::new(),
        }
    }

    /// With a word about what it means.
    pub(super) const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    /// With what holds if nothing is written.
    pub(super) fn default(mut self, default: impl Into<String>) -> Self {
        self.default = default.into();
        self
    }

    /// With what a file says.
    pub(super) fn read(mut self, file: &Written) -> Self {
        let way: Vec<&str> = self.path.iter().map(String::as_str).collect();
        self.value = file.get(&way).text();
        self
    }

    /// Name of its element.
    pub(super) fn id(&self) -> String {
        let (kind, name) = match self.name.strip_prefix(NEW) {
            Some(key) => ("new", key.trim_start_matches('.')),
            None => ("f", &*self.name),
        };
        format!("{kind}-{}", name.replace('.', "-"))
    }

    /// What may be chosen: the word, what a person reads, whether it is chosen.
    pub(super) fn options(&self) -> Vec<(String, String, bool)> {
        let mut options: Vec<(String, String)> = match &self.input {
            Input::Choice(words) => words
                .iter()
                .map(|(word, text)| ((*word).to_owned(), (*text).to_owned()))
                .collect(),
            Input::Switch => [("true", "on"), ("false", "off")]
                .map(|(word, text)| (word.to_owned(), text.to_owned()))
                .into(),
            Input::Interface(names) => names
                .iter()
                .map(|name| (name.clone(), name.clone()))
                .collect(),
            Input::Text | Input::Number | Input::List => Vec::new(),
        };
        let known = options.iter().any(|(word, _)| *word == self.value);
        if !known && !self.value.is_empty() {
            options.push((self.value.clone(), self.value.clone()));
        }
        let text = |word: &str| {
            let found = options.iter().find(|(other, _)| other == word);
            found.map_or_else(|| word.to_owned(), |(_, text)| text.clone())
        };
        let default = match self.default.as_str() {
            "" => "none".to_owned(),
            word => format!("default ({})", text(word)),
        };
        std::iter::once((String::new(), default))
            .chain(options)
            .map(|(word, text)| {
                let chosen = word == self.value;
                (word, text, chosen)
            })
            .collect()
    }

    /// Whether it is one of some words.
    pub(super) const fn is_choice(&self) -> bool {
        matches!(
            self.input,
            Input::Choice(_) | Input::Switch | Input::Interface(_)
        )
    }

    /// What stands in the file for a text in the field.
    fn typed(&self, text: &str) -> Value {
        match &self.input {
            _ if text.is_empty() => Value::Null,
            Input::Number => text
                .parse::<u64>()
                .map_or_else(|_| text.into(), |number| Number::from(number).into()),
            Input::Switch => text
                .parse::<bool>()
                .map_or_else(|_| text.into(), Value::Bool),
            Input::List => {
                let items: Vec<&str> = text.split([',', ' ', '\n']).map(str::trim).collect();
                let items: Vec<&str> = items.into_iter().filter(|item| !item.is_empty()).collect();
                match items.as_slice() {
                    [one] => (*one).into(),
                    several => several.to_vec().into(),
                }
            }
            Input::Text | Input::Choice(_) | Input::Interface(_) => text.into(),
        }
    }

    /// The change that a posted form asks for, if it asks for one. The field then has what was posted.
    pub(super) fn take(&mut self, posted: &Posted) -> Option<Edit> {
        let text = posted.get(&self.name);
        if text == self.value {
            return None;
        }
        text.clone_into(&mut self.value);
        Some(Edit {
            path: self.path.clone(),
            value: self.typed(text),
        })
    }
}

/// The changes that a posted form asks for.
pub(super) fn take(fields: &mut [Field], posted: &Posted) -> Vec<Edit> {
    fields
        .iter_mut()
        .filter_map(|field| field.take(posted))
        .collect()
}
