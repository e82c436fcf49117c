//! How fast a walk goes, and when it must not wait.

use std::time::Duration;

use ha_common::reason::Tally;

use crate::proto::time::Instant;

/// Part of the time that a walk works rather than sleeps: 1 / this.
const SHARE: u32 = 40;
/// The same while the table is nearly full.
const SHARE_FULL: u32 = 4;
/// From the start of one pass to the start of the next, at least.
pub(super) const PASS_MIN: Duration = Duration::from_secs(1);
/// A pass takes about this long at most, however large the table is: what replication repairs on its own is
/// repaired within 31 s.
pub(super) const PASS_MAX: Duration = Duration::from_secs(25);

/// From the start of a pass that is shown to the start of the next one, at least: expiry needs a pass each second, what
/// is only repaired does not.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// What the passes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be shown to whoever watches, and nothing else: this node expires nothing.
    Show,
    /// To let connections expire.
    Expire,
    /// To be through soon.
    Hurry,
}

impl Purpose {
    /// Those of a node that is `active` or not, and in a `hurry` or not.
    pub(super) const fn of(active: bool, hurry: bool) -> Self {
        if hurry {
            Self::Hurry
        } else if active {
            Self::Expire
        } else {
            Self::Show
        }
    }

    /// Shortest time from the start of one pass to the start of the next.
    const fn least(self) -> Duration {
        match self {
            Self::Show => SHOW_EVERY,
            Self::Expire | Self::Hurry => PASS_MIN,
        }
    }
}

/// How fast a walk goes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pass_started: Instant,
    /// Work of this pass so far, and of the last one.
    worked: Duration,
    last_pass: Duration,
}

impl Pace {
    /// A pass begins.
    pub(super) const fn begin(&mut self, now: Instant) {
        self.pass_started = now;
    }

    /// How long to rest after a step.
    pub(super) fn pause(
        &mut self,
        started: Instant,
        now: Instant,
        complete: bool,
        purpose: Purpose,
    ) -> Duration {
        let work = now.since(started);
        self.worked += work;
        let needed = PASS_MAX.as_nanos() / self.worked.max(self.last_pass).as_nanos().max(1);
        let share = if purpose == Purpose::Hurry {
            SHARE_FULL
        } else {
            u32::try_from(needed)
                .unwrap_or(SHARE)
                .clamp(SHARE_FULL, SHARE)
        };
        let mut pause = work * (share - 1);
        if complete {
            self.last_pass = std::mem::take(&mut self.worked);
            pause = pause.max((self.pass_started + purpose.least()).since(now));
        }
        pause
    }
}

/// Whether the data plane has lost events: then the whole table is compared as soon as possible, once more
/// for those that it loses meanwhile.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Events lost before; `None` until they were first read.
    known: Option<u64>,
    /// A pass is under way that began after a loss.
    pub(super) hurry: bool,
    /// There was another one since.
    again: bool,
}

impl Losses {
    /// Takes note of the counters; whether a pass has to begin now.
    pub(super) fn note(&mut self, counters: &[u64]) -> bool {
        let lost = counters.get(Tally::EventLost.index() as usize).copied();
        let lost = lost.unwrap_or_default();
        let news = self.known.replace(lost).is_some_and(|known| known != lost);
        if self.hurry {
            self.again |= news;
            return false;
        }
        self.hurry = news;
        news
    }

    /// A pass has ended; the next one begins at once.
    pub(super) const fn pass_ended(&mut self) {
        self.hurry = self.again;
        self.again = false;
    }
}

/// Which passes are shown to whoever watches: whole ones, and of those for expiry not all.
#[derive(Debug, Default)]
pub(super) struct Shows {
    /// When the last one began that is shown.
    last: Option<Instant>,
    on: bool,
}

impl Shows {
    /// A pass begins.
    pub(super) fn begin(&mut self, now: Instant, purpose: Purpose) {
        let due = self.last.is_none_or(|last| now.since(last) >= SHOW_EVERY);
        self.on = due || purpose != Purpose::Expire;
        if self.on {
            self.last = Some(now);
        }
    }

    /// Whether this pass is shown.
    pub(super) const fn on(&self) -> bool {
        self.on
    }
}
