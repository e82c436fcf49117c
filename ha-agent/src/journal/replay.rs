//! Running a journal's inputs through a machine.

use std::fmt;

use super::account::Observer;
use super::line::{Happened, Line, Setup};
use crate::proto::carp::Election;
use crate::proto::time::Instant;

/// Lines shown before a difference.
const CONTEXT: usize = 8;

/// A machine and what it does with each input.
#[derive(Debug, Default)]
pub struct Player {
    machine: Option<Election>,
    observer: Observer,
    /// Whether accounts are given.
    accounts: bool,
}

impl Player {
    /// Without a machine so far.
    pub fn new(accounts: bool) -> Self {
        Self {
            accounts,
            ..Self::default()
        }
    }

    /// The machine.
    pub fn machine(&self) -> Option<&Election> {
        self.machine.as_ref()
    }

    /// Makes the machine.
    pub fn set_up(&mut self, at: Instant, setup: &Setup) {
        self.machine = setup.machine(at);
        self.observer = Observer::default();
    }

    /// Does one thing to the machine; outputs and accounts.
    pub fn play(&mut self, at: Instant, happened: &Happened) -> Vec<Line> {
        let Some(machine) = &mut self.machine else {
            return Vec::new();
        };
        let mut out = Vec::new();
        match (happened, happened.input()) {
            (_, Some(input)) => machine.handle_input(at, input, &mut out),
            (Happened::Keys(keys), None) => machine.set_keys(keys.into()),
            (_, None) => machine.handle_timeout(at, &mut out),
        }
        let mut lines: Vec<Line> = out
            .into_iter()
            .map(|action| Line::Output(at, action))
            .collect();
        if self.accounts {
            let accounts = self.observer.observe(&machine.snapshot());
            lines.extend(
                accounts
                    .into_iter()
                    .map(|account| Line::Account(at, account)),
            );
        }
        lines
    }
}

/// The same journal with the outputs that the machine gives now; accounts only if it has some.
pub fn bless(journal: &[Line]) -> Vec<Line> {
    run(
        journal,
        journal.iter().any(|line| matches!(line, Line::Account(..))),
    )
}

/// The same with accounts.
pub fn annotate(journal: &[Line]) -> Vec<Line> {
    run(journal, true)
}

fn run(journal: &[Line], accounts: bool) -> Vec<Line> {
    let mut player = Player::new(accounts);
    let mut blessed = Vec::with_capacity(journal.len());
    for line in journal {
        match line {
            Line::Comment(_) => blessed.push(line.clone()),
            Line::Setup(at, setup) => {
                blessed.push(line.clone());
                player.set_up(*at, setup);
            }
            Line::Input(at, happened) => {
                blessed.push(line.clone());
                blessed.extend(player.play(*at, happened));
            }
            Line::Output(..) | Line::Account(..) => {}
        }
    }
    blessed
}

/// Where a machine departs from a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The journal's line, from 1.
    pub line: usize,
    /// What comes before it in both.
    pub context: Vec<String>,
    /// What the journal says; `None` if it says nothing more.
    pub expected: Option<String>,
    /// What the machine did.
    pub found: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the first difference is at line {}:", self.line)?;
        for line in &self.context {
            writeln!(f, "    {line}")?;
        }
        let end = "(nothing)".to_owned();
        writeln!(f, "  - {}", self.expected.as_ref().unwrap_or(&end))?;
        write!(f, "  + {}", self.found.as_ref().unwrap_or(&end))
    }
}

/// Compares a journal's outputs with those that the machine gives now.
pub fn replay(journal: &[Line]) -> Result<(), Box<Difference>> {
    let expected: Vec<String> = journal.iter().map(Line::to_string).collect();
    let found: Vec<String> = bless(journal).iter().map(Line::to_string).collect();
    compare(&expected, &found)
}

fn compare(expected: &[String], found: &[String]) -> Result<(), Box<Difference>> {
    let same = expected
        .iter()
        .zip(found)
        .take_while(|(expected, found)| expected == found)
        .count();
    if same == expected.len() && same == found.len() {
        return Ok(());
    }
    let before = same.saturating_sub(CONTEXT)..same;
    Err(Box::new(Difference {
        line: same + 1,
        context: expected.get(before).unwrap_or_default().to_vec(),
        expected: expected.get(same).cloned(),
        found: found.get(same).cloned(),
    }))
}
