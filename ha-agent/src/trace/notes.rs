//! What was asked and found, in order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::model::{Step, Topic};

/// Fields of something, by name.
pub(super) type Details = BTreeMap<String, String>;

/// What was found: in one line, and field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) details: Details,
}

impl Answer {
    /// An answer with fields.
    pub(super) fn new<const N: usize>(
        text: impl Into<String>,
        details: [(&str, String); N],
    ) -> Self {
        let details = details.into_iter();
        Self {
            text: text.into(),
            details: details
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::new(text, [])
    }
}

/// The steps of a packet so far.
#[derive(Debug)]
pub(super) struct Notes {
    program: Cell<&'static str>,
    programs: RefCell<Vec<String>>,
    steps: RefCell<Vec<Step>>,
}

impl Notes {
    /// The packet enters its first program.
    pub(super) fn new(entry: &'static str) -> Self {
        Self {
            program: Cell::new(entry),
            programs: RefCell::new(vec![entry.to_owned()]),
            steps: RefCell::default(),
        }
    }

    /// It goes on in another program.
    pub(super) fn enter(&self, program: &'static str) {
        self.program.set(program);
        self.programs.borrow_mut().push(program.to_owned());
    }

    /// Adds a step. The packet logic may look at the same thing for each field it needs: what a program
    /// has found before is not told again.
    pub(super) fn note(&self, topic: Topic, about: impl Into<String>, answer: impl Into<Answer>) {
        let answer: Answer = answer.into();
        let step = Step {
            program: self.program.get().to_owned(),
            topic,
            about: about.into(),
            answer: answer.text,
            details: answer.details,
        };
        let mut steps = self.steps.borrow_mut();
        if !steps.contains(&step) {
            steps.push(step);
        }
    }

    /// Programs and steps.
    pub(super) fn into_parts(self) -> (Vec<String>, Vec<Step>) {
        (self.programs.into_inner(), self.steps.into_inner())
    }
}
