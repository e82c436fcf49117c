//! Whether a node that keeps crashing should take part.
//!
//! A node that starts again and again moves the active role each time, or copies a broken table to a
//! good one. More than so many *unclean* starts within a window pacify it, until a person resumes it.
//!
//! Unclean is a start after a run that did not end in order, and the first start after a boot, whatever
//! came before: the agent cannot tell who wanted the machine to reboot. A start after a stop in order is
//! planned, and so is the replacement of the agent in place, which is no start at all.
//!
//! # Clocks
//!
//! Within one boot only the time since the boot counts. Between boots only the wall clock is left, and it
//! may have been set meanwhile, so it may only excuse: an earlier start that seems to lie in the future,
//! or that this boot is already too old for, does not count. And a run that lasts the whole window
//! proves the node sound, by the time since the boot alone, and forgets all earlier starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::model::Pacify;

/// Unclean starts remembered at most.
const REMEMBERED: usize = 64;

/// A moment as every clock shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot of the machine.
    pub boot: String,
    /// Seconds since that boot, sleep included.
    pub uptime: u64,
    /// Seconds of the wall clock since 1970.
    pub wall: u64,
}

impl Moment {
    /// Whether this was within `window` before `now`, as far as can be known.
    fn within(&self, now: &Self, window: Duration) -> bool {
        let window = window.as_secs();
        let age = if self.boot == now.boot {
            now.uptime.checked_sub(self.uptime)
        } else if now.uptime > window {
            None
        } else {
            now.wall.checked_sub(self.wall)
        };
        age.is_some_and(|age| age <= window)
    }
}

/// What kind of start it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// There was none before.
    First,
    /// The run before ended in order.
    Planned,
    /// It did not.
    Crashed,
    /// The machine has booted since.
    Booted,
}

/// What is kept across starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The last start.
    last: Option<Moment>,
    /// Its run ended in order.
    ended: bool,
    /// Unclean starts that may still count.
    unclean: Vec<Moment>,
    /// The node is pacified.
    pacified: bool,
    /// A person put the node aside.
    maintenance: bool,
}

impl History {
    /// The agent starts.
    pub fn start(&mut self, now: Moment, limit: Pacify) -> Start {
        let kind = match &self.last {
            None => Start::First,
            Some(last) if last.boot != now.boot => Start::Booted,
            Some(_) if self.ended => Start::Planned,
            Some(_) => Start::Crashed,
        };
        self.unclean
            .retain(|start| start.within(&now, limit.window));
        if matches!(kind, Start::Crashed | Start::Booted) {
            if self.unclean.len() == REMEMBERED {
                self.unclean.remove(0);
            }
            self.unclean.push(now.clone());
        }
        let allowed = usize::try_from(limit.restarts).unwrap_or(usize::MAX);
        self.pacified |= allowed > 0 && self.unclean.len() > allowed.min(REMEMBERED - 1);
        self.last = Some(now);
        self.ended = false;
        kind
    }

    /// The agent has run for the whole window; whether that changed anything.
    pub fn prove_sound(&mut self) -> bool {
        if self.pacified || self.unclean.is_empty() {
            return false;
        }
        self.unclean.clear();
        true
    }

    /// The agent ends in order.
    pub const fn stop(&mut self) {
        self.ended = true;
    }

    /// A person puts the node aside, or takes it back.
    pub const fn set_maintenance(&mut self, on: bool) {
        self.maintenance = on;
    }

    /// A person takes the node back, whatever put it aside.
    pub fn resume(&mut self) {
        self.maintenance = false;
        self.pacified = false;
        self.unclean.clear();
    }

    /// Whether the node is pacified.
    pub const fn is_pacified(&self) -> bool {
        self.pacified
    }

    /// Whether the node was put aside.
    pub const fn in_maintenance(&self) -> bool {
        self.maintenance
    }

    /// Unclean starts that count.
    pub fn unclean(&self) -> &[Moment] {
        &self.unclean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Pacify = Pacify {
        restarts: 3,
        window: Duration::from_mins(5),
    };

    fn at(boot: u32, uptime: u64, wall: u64) -> Moment {
        Moment {
            boot: boot.to_string(),
            uptime,
            wall: 1_000_000 + wall,
        }
    }

    /// Starts at these moments (a stop in order before those marked), and whether that pacifies.
    fn pacified(starts: &[(bool, Moment)]) -> bool {
        let mut history = History::default();
        for (ended, moment) in starts {
            if *ended {
                history.stop();
            }
            history.start(moment.clone(), LIMIT);
        }
        history.is_pacified()
    }

    fn crashes(moments: impl IntoIterator<Item = Moment>) -> bool {
        pacified(
            &moments
                .into_iter()
                .map(|at| (false, at))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn what_pacifies() {
        let every = |step: u64, count: u64| (0..count).map(move |i| at(1, i * step, i * step));
        assert!(!crashes(every(10, 4)), "three crashes are allowed");
        assert!(crashes(every(10, 5)), "the fourth is too many");
        assert!(!crashes(every(101, 20)), "not if they are rare");
        let planned: Vec<_> = every(10, 20).map(|at| (true, at)).collect();
        assert!(!pacified(&planned), "planned restarts never count");
        let boots = |planned| (0..5).map(move |i| (planned, at(i, 20, u64::from(i) * 60)));
        assert!(pacified(&boots(false).collect::<Vec<_>>()));
        assert!(
            pacified(&boots(true).collect::<Vec<_>>()),
            "any boot counts"
        );
        let slow = (0..9).map(|i| at(i, 20, u64::from(i) * 400));
        assert!(!crashes(slow));
    }

    #[test]
    fn the_wall_clock_only_excuses() {
        // Set back and forth within one boot: no difference.
        let jumps = [0, 900_000, 5, 400_000, 7];
        let jumping = |step: u64| (0..).zip(jumps).map(move |(i, wall)| at(1, i * step, wall));
        assert!(crashes(jumping(10)));
        assert!(!crashes(jumping(400)));
        // Boots on a clock that goes backwards: what seems to come later cannot be judged.
        assert!(!crashes((0..9).map(|i| at(i, 20, 10_000 - u64::from(i)))));
        // Boots on a clock that stands still, but the machine was up for longer than the window.
        assert!(!crashes((0..9).map(|i| at(i, 301, 0))));
        assert!(crashes((0..5).map(|i| at(i, 20, 0))));
    }

    #[test]
    fn pacified_is_for_good_until_resumed() {
        let mut history = History::default();
        for i in 0..5 {
            history.start(at(1, i, i), LIMIT);
        }
        for (boot, wall) in [(2, 0), (3, 900_000), (4, 1)] {
            history.stop();
            assert_eq!(history.start(at(boot, 9_000, wall), LIMIT), Start::Booted);
            assert!(history.is_pacified());
            assert!(!history.prove_sound());
        }
        let text = serde_json::to_string(&history).unwrap();
        history = serde_json::from_str(&text).unwrap();
        assert!(history.is_pacified());
        history.set_maintenance(true);
        history.resume();
        assert!(!history.is_pacified() && !history.in_maintenance());
        assert_eq!(history.start(at(4, 9_001, 2), LIMIT), Start::Crashed);
        assert!(!history.is_pacified());
    }

    #[test]
    fn a_long_run_forgets() {
        let mut history = History::default();
        for i in 0..4 {
            history.start(at(1, i, i), LIMIT);
        }
        assert_eq!(history.unclean().len(), 3);
        assert!(history.prove_sound());
        assert!(!history.prove_sound());
        history.start(at(1, 5, 5), LIMIT);
        assert!(!history.is_pacified());
        let never = Pacify {
            restarts: 0,
            ..LIMIT
        };
        for i in 0..100 {
            history.start(at(1, i, i), never);
        }
        assert!(!history.is_pacified());
    }
}
