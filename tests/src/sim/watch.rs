//! What must never happen, and what must happen in time.

use std::collections::VecDeque;

use super::params::Params;

/// Something that must be so at a certain time, unless something else goes wrong before.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// Who must have an open gate.
    pub who: Who,
    /// When, in true time.
    pub by: u64,
    /// Why.
    pub why: &'static str,
}

/// Whose gate must be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// That node's and no other.
    Node(usize),
    /// That node's, all the time until something else goes wrong; counted as met then.
    Always(usize),
    /// One node's, whichever, and it has announced its addresses since then.
    AnnouncedSince(u64),
}

/// A time during which both agents ran and neither heard the other.
#[derive(Clone, Copy, Debug)]
struct Deafness {
    from: u64,
    to: u64,
}

/// A time during which both gates are open, excused at its beginning.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    since: u64,
    /// Since when each node has heard the other in it.
    heard: [Option<u64>; 2],
}

/// The watch's memory.
#[derive(Debug)]
pub struct Watch {
    timeout: u64,
    shortest: u64,
    longest_delay: u64,
    /// Both gates are open.
    overlap: Option<Overlap>,
    /// Changes of role since the last fault.
    pub changes: u64,
    /// Last time either heard the other.
    contact: u64,
    deaf: VecDeque<Deafness>,
    /// What is expected.
    pub expectations: Vec<Expectation>,
    /// Since when nothing has been wrong.
    pub calm_since: Option<u64>,
    /// Overlaps excused by total mutual deafness.
    pub excused: u64,
}

impl Watch {
    /// For a world.
    pub fn new(params: &Params) -> Self {
        Self {
            timeout: params.timeout_ns(),
            shortest: params.shortest_ns(),
            longest_delay: params.longest_delay(),
            overlap: None,
            changes: 0,
            contact: 0,
            deaf: VecDeque::new(),
            expectations: Vec::new(),
            calm_since: None,
            excused: 0,
        }
    }

    /// A node handled a genuine packet sent at `sent`. `attending` is since when both agents have run.
    pub fn heard(&mut self, node: usize, now: u64, sent: u64, attending: u64) {
        if now - sent > self.longest_delay {
            // It tells of the past, as if it had been lost.
            return;
        }
        self.note_deafness(now, attending);
        self.contact = now;
        if let Some(overlap) = &mut self.overlap
            && sent > overlap.since
            && let Some(heard) = overlap.heard.get_mut(node)
        {
            heard.get_or_insert(now);
        }
    }

    /// An agent stops attending.
    pub fn interrupted(&mut self, now: u64, attending: u64) {
        self.note_deafness(now, attending);
    }

    fn note_deafness(&mut self, now: u64, attending: u64) {
        let from = self.contact.max(attending);
        if now >= from + self.shortest / 8 {
            self.deaf.push_back(Deafness { from, to: now });
            if self.deaf.len() > 64 {
                self.deaf.pop_front();
            }
        }
    }

    /// Two gates are open. Whether total mutual deafness explains it: within the last two timeouts both
    /// agents ran for a quarter of the timeout and neither heard the other.
    pub fn excuses_overlap(&mut self, now: u64, attending: Option<u64>) -> bool {
        if let Some(attending) = attending {
            self.note_deafness(now, attending);
        }
        let recent = now.saturating_sub(2 * self.timeout);
        let explained = self
            .deaf
            .iter()
            .any(|deaf| deaf.to >= recent && deaf.to - deaf.from.max(recent) >= self.shortest / 4);
        self.excused += u64::from(explained);
        explained
    }

    /// Whether two gates are open although a node that runs has heard the other one for longer than
    /// `bound`. `open` is whether both are, `attends` which nodes run.
    pub fn overlaps_knowingly(
        &mut self,
        now: u64,
        open: bool,
        attends: [bool; 2],
        bound: u64,
    ) -> bool {
        if !open {
            self.overlap = None;
            return false;
        }
        let overlap = self.overlap.get_or_insert(Overlap {
            since: now,
            heard: [None; 2],
        });
        for (heard, attends) in overlap.heard.iter_mut().zip(attends) {
            *heard = heard.filter(|_| attends);
        }
        let mut heard = overlap.heard.iter().flatten();
        heard.any(|since| now > since + bound)
    }

    /// Something went wrong or right: what was expected may not come true any more.
    pub fn disturbed(&mut self) {
        self.expectations.clear();
        self.calm_since = None;
        self.changes = 0;
    }
}
