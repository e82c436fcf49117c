//! Whether the virtual MAC can be reached: some platforms let no frame pass whose source is not the MAC
//! they gave to a machine, or deliver none to another one.
//!
//! The standby finds out without any help: it asks for a shared address, but sends the question
//! to the virtual MAC. The active node's data plane answers from it, so an answer shows that both
//! directions work. If the partner is heard meanwhile and there is no answer, something blocks.

use std::time::Duration;

use crate::proto::time::Instant;
use crate::shell::frame::{Mac, mac_text};

/// Time between questions, at least; the partner must be heard in it.
const PERIOD: Duration = Duration::from_millis(500);
/// Questions without answer that mean something: a takeover or a stall may cost one.
const PATIENCE: u32 = 3;

/// What is known of the virtual MAC on one link.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    mac: Mac,
    period: Duration,
    next: Instant,
    /// A question is open since then.
    asked: Option<Instant>,
    unanswered: u32,
    /// Where the active node's advertisements came from since the first such question.
    advertised_by: Option<Mac>,
    told: bool,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Send a question.
    pub(super) ask: bool,
    /// What has turned out.
    pub(super) news: Option<Passage>,
}

/// Whether frames pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// They do not, as this shows.
    Blocked(String),
    /// They do, or it does not matter now.
    Passing,
}

impl Reach {
    pub(super) fn new(mac: Mac, interval: Duration) -> Self {
        Self {
            mac,
            period: PERIOD.max(2 * interval),
            next: Instant::default(),
            asked: None,
            unanswered: 0,
            advertised_by: None,
            told: false,
        }
    }

    /// An advertisement of the active partner came from this station.
    pub(super) const fn advertised(&mut self, by: Mac) {
        self.advertised_by = Some(by);
    }

    /// A frame from the shared address came from this station.
    pub(super) fn answered(&mut self, by: Mac) {
        if by == self.mac {
            self.asked = None;
            self.unanswered = 0;
        }
    }

    /// When [`Self::due`] wants to be called.
    pub(super) const fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// `watching`: this node is the standby of an active one. `heard`: when that was heard last here.
    pub(super) fn due(&mut self, now: Instant, watching: bool, heard: Option<Instant>) -> Due {
        if now < self.next {
            return Due::default();
        }
        self.next = now + self.period;
        let blocked = if watching {
            // Silence of the whole link is somebody else's matter.
            let asked = self.asked.replace(now);
            if asked.is_some_and(|asked| heard.is_some_and(|heard| heard > asked)) {
                if self.unanswered == 0 {
                    self.advertised_by = None;
                }
                self.unanswered += 1;
            }
            self.unanswered >= PATIENCE
        } else {
            self.asked = None;
            self.unanswered = 0;
            self.advertised_by = None;
            false
        };
        let news = (blocked != self.told).then(|| {
            if blocked {
                Passage::Blocked(self.evidence())
            } else {
                Passage::Passing
            }
        });
        self.told = blocked;
        Due {
            ask: watching,
            news,
        }
    }

    fn evidence(&self) -> String {
        let mac = mac_text(self.mac);
        match self.advertised_by {
            None => format!("the partner is heard, but nothing it sends from {mac} arrives"),
            Some(by) if by == self.mac => {
                format!(
                    "what the partner sends from {mac} arrives, but what is sent to {mac} does not reach it"
                )
            }
            Some(by) => {
                let by = mac_text(by);
                format!("what the partner sends from {mac} arrives from {by}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0, 0, 0x5e, 0, 1, 7];

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// Runs for ten seconds; what was told, and when.
    fn run(mut step: impl FnMut(&mut Reach, u64) -> (bool, Option<Instant>)) -> Vec<(u64, bool)> {
        let mut reach = Reach::new(MAC, Duration::from_millis(500));
        let mut told = Vec::new();
        for ms in (1_000..11_000).step_by(100) {
            let (watching, heard) = step(&mut reach, ms);
            if let Some(news) = reach.due(at(ms), watching, heard).news {
                told.push((ms, news != Passage::Passing));
            }
        }
        told
    }

    #[test]
    fn no_answer_while_the_partner_is_heard_means_blocked() {
        assert_eq!(run(|_, ms| (true, Some(at(ms)))), [(4_000, true)]);
    }

    #[test]
    fn answers_end_it() {
        let told = run(|reach, ms| {
            if ms > 6_000 {
                reach.answered(MAC);
            }
            (true, Some(at(ms)))
        });
        assert_eq!(told, [(4_000, true), (7_000, false)]);
    }

    #[test]
    fn an_answer_from_another_station_is_none() {
        let told = run(|reach, ms| {
            reach.answered([2; 6]);
            (true, Some(at(ms)))
        });
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn a_silent_link_or_another_role_means_nothing() {
        assert_eq!(run(|_, _| (true, Some(at(500)))), []);
        assert_eq!(run(|_, _| (true, None)), []);
        assert_eq!(run(|_, ms| (false, Some(at(ms)))), []);
        let told = run(|_, ms| (ms < 5_000, Some(at(ms))));
        assert_eq!(told, [(4_000, true), (5_000, false)]);
    }

    #[test]
    fn the_evidence_tells_the_directions_apart() {
        let said = |by: Option<Mac>| {
            let mut reach = Reach::new(MAC, Duration::from_secs(1));
            reach.advertised_by = by;
            reach.evidence()
        };
        assert!(said(None).contains("nothing it sends from 00:00:5e:00:01:07"));
        assert!(said(Some(MAC)).contains("sent to 00:00:5e:00:01:07 does not reach"));
        assert!(said(Some([2; 6])).contains("arrives from 02:02:02:02:02:02"));
    }
}
