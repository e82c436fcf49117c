//! The sweep: this node's live map compared with its table.
//!
//! Digests prove that the tables of both nodes are equal. Whether each is what the node's own map holds is
//! another matter: an event of the data plane may have found its ring full, somebody may have changed the
//! map. So whoever walks through the map shows every entry to [`Sync::sweep_see`], one after the other, and
//! the walk through the table afterwards finds what was not shown. On the active node the map is right and
//! the table follows, and with it the partner; on any other node the table is right and the map follows.
//!
//! The map does not stand still meanwhile. The data plane changes an entry first and announces it then, the
//! announcement waits in a ring, and what a walk has read is old when it gets here. So most of what looks
//! different is not: it is a *suspect*, no more. Each suspect is looked up directly, twice, [`SETTLE`] apart,
//! each time when the ring had just been found empty ([`Sync::sweep_next`]). It is believed only if both times
//! the map and the table each held the same as the other time. Between the two every announcement has arrived
//! that there was to be for what the first look had seen, so what still differs has none.
//!
//! A difference that is believed wrongly all the same does no harm on an active node: the table takes what
//! the map held at the time of the look, and any announcement of a later change decides against it by its
//! time. On a standby nobody but replication writes into the map, and [`SETTLE`] is longer than it may take
//! until a node learns that it is active.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::Sync;
use super::record::{Change, Record};
use super::{Action, Input};
use crate::datapath::family::FlowKey;
use crate::proto::time::Instant;

/// Time between the two looks at a suspect.
pub(super) const SETTLE: Duration = Duration::from_millis(1500);
/// Suspects at a time. Those beyond are found by the next pass.
const SUSPECTS: usize = 1 << 17;
/// Slots of the table visited at once in search of what was not shown.
const PORTION: u32 = 8192;

/// Which of a connection's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// Client to real server: the one that owns the connection.
    Forward,
    /// Real server to client.
    Reverse,
}

/// An entry that looked wrong.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Its key in the map.
    pub place: FlowKey,
    /// What it is.
    pub half: Half,
    /// What the first look has found: in the map, and in the table.
    before: Option<Box<(Found, Option<Record>)>>,
}

/// What a look at a connection has found in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No forward entry.
    Nothing,
    /// This one.
    Entry {
        /// What it says.
        record: Record,
        /// Whether everything that follows from it is there and right: its checksums, its other half.
        whole: bool,
    },
    /// A reverse entry that is no connection's half.
    Stray,
}

/// What is to be done to the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Make anew what follows from the forward entry.
    Mend,
    /// Store this connection, both halves.
    Store {
        /// The connection.
        record: Record,
        /// There is an entry, but a wrong one.
        replaces: bool,
    },
    /// Remove what is left of the connection.
    Remove,
}

/// What sweeps have found and repaired, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweeps {
    /// Passes through all of the map and the table.
    pub passes: u64,
    /// Active: connections of the map that the table lacked or had otherwise; the partner was told.
    pub told: u64,
    /// Active: connections of the table that the map had no more; the partner was told.
    pub told_gone: u64,
    /// Active: connections whose other half or checksums were made anew.
    pub mended: u64,
    /// Standby: connections that the map had lost, stored again.
    pub restored: u64,
    /// Standby: connections that the map had otherwise, stored again.
    pub replaced: u64,
    /// Entries that belong to no connection, removed from the map.
    pub removed: u64,
    /// Suspects that were right when they were looked up: changes on their way.
    pub in_flight: u64,
    /// Suspects left to the next pass because there were too many.
    pub put_off: u64,
}

impl Sweeps {
    /// Everything that was repaired.
    pub const fn repaired(&self) -> u64 {
        self.told + self.told_gone + self.mended + self.restored + self.replaced + self.removed
    }
}

/// The sweep under way.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    pub(super) counts: Sweeps,
    /// Of the role that the rest belongs to.
    active: bool,
    /// Slots whose halves were shown in this pass, a bit each.
    shown: [Vec<u64>; 2],
    /// When this pass began to read the map; `None` before the first pass of a role.
    began: Option<Instant>,
    /// Next slot to visit in search of what was not shown.
    rest: Option<u32>,
    /// To be looked at for the first time.
    fresh: VecDeque<Suspect>,
    /// To be looked at again, and when.
    seen_once: VecDeque<(Instant, Suspect)>,
    /// Places of both, so that none is there twice.
    places: HashSet<FlowKey>,
}

impl Sweep {
    fn suspect(&mut self, place: FlowKey, half: Half) {
        if self.places.len() >= SUSPECTS {
            self.counts.put_off += 1;
        } else if self.places.insert(place) {
            self.fresh.push_back(Suspect {
                place,
                half,
                before: None,
            });
        }
    }

    fn bit(&mut self, half: Half, slot: u32) -> Option<(&mut u64, u64)> {
        let [forward, reverse] = &mut self.shown;
        let bits = match half {
            Half::Forward => forward,
            Half::Reverse => reverse,
        };
        let word = bits.get_mut(slot as usize / 64)?;
        Some((word, 1 << (slot % 64)))
    }

    fn show(&mut self, half: Half, slot: u32) {
        if let Some((word, mask)) = self.bit(half, slot) {
            *word |= mask;
        }
    }

    /// Whether it was shown; what has a slot that did not exist when the pass began counts as shown.
    fn was_shown(&mut self, half: Half, slot: u32) -> bool {
        self.bit(half, slot)
            .is_none_or(|(word, mask)| *word & mask != 0)
    }
}

impl Sync {
    /// A walk through the map begins; it has read nothing before `began`.
    pub fn sweep_begin(&mut self, began: Instant) {
        let words = self.context.shadow.slots().div_ceil(64) as usize;
        let sweep = self.own_sweep();
        for bits in &mut sweep.shown {
            bits.clear();
            bits.resize(words, 0);
        }
        sweep.began = Some(began);
        sweep.rest = None;
    }

    /// The walk has found an entry at `place`: a half of the connection with this forward key. `right`
    /// tells whether it is what it should be if that connection is this one.
    pub fn sweep_see(
        &mut self,
        key: &FlowKey,
        place: &FlowKey,
        half: Half,
        right: impl FnOnce(&Record) -> bool,
    ) {
        let known = self.context.shadow.live(key);
        let slot = known
            .filter(|(_, entry)| right(&entry.record))
            .map(|(slot, _)| slot);
        let sweep = self.own_sweep();
        match slot {
            Some(slot) => sweep.show(half, slot),
            None => sweep.suspect(*place, half),
        }
    }

    /// The walk is at the end of the map.
    pub fn sweep_end(&mut self) {
        let sweep = self.own_sweep();
        if sweep.began.is_some() {
            sweep.rest = Some(0);
        }
    }

    /// When [`Self::sweep_next`] has something to do next. It may lie in the past.
    pub fn sweep_due(&self) -> Option<Instant> {
        let sweep = &self.sweep;
        if sweep.rest.is_some() || !sweep.fresh.is_empty() {
            return Some(Instant::default());
        }
        sweep.seen_once.front().map(|(due, _)| *due)
    }

    /// The next suspect to be looked up in the map and told by [`Self::sweep_look`]; `None` if there is none
    /// now. To be called only when the ring of the data plane was found empty since the last inputs.
    pub fn sweep_next(&mut self, now: Instant) -> Option<Suspect> {
        let again = self
            .own_sweep()
            .seen_once
            .pop_front_if(|(due, _)| *due <= now);
        if let Some((_, suspect)) = again {
            return Some(suspect);
        }
        if self.sweep.fresh.is_empty() {
            self.find_unshown();
        }
        self.sweep.fresh.pop_front()
    }

    /// Visits some slots of the table in search of what was not shown.
    fn find_unshown(&mut self) {
        let (Some(from), Some(began)) = (self.sweep.rest, self.sweep.began) else {
            return;
        };
        let shadow = &self.context.shadow;
        let sweep = &mut self.sweep;
        let stop = from.saturating_add(PORTION).min(shadow.slots());
        for slot in from..stop {
            let halves = [Half::Forward, Half::Reverse];
            if halves.into_iter().all(|half| sweep.was_shown(half, slot)) {
                continue;
            }
            // What came or changed since may have been missed by the walk.
            let Some(entry) = shadow
                .get(slot)
                .filter(|entry| entry.at < began && !entry.is_gone())
            else {
                continue;
            };
            if !sweep.was_shown(Half::Forward, slot) || !entry.record.is_one_way() {
                sweep.suspect(entry.record.key, Half::Forward);
            }
        }
        sweep.rest = (stop < shadow.slots()).then_some(stop);
        if sweep.rest.is_none() {
            sweep.counts.passes += 1;
        }
    }

    /// What replication holds of a connection.
    pub fn record(&self, key: &FlowKey) -> Option<Record> {
        let (_, entry) = self.context.shadow.live(key)?;
        Some(entry.record)
    }
    /// A suspect's connection was looked up at `at`. The second time, what is wrong is told to the partner,
    /// or is to be repaired in the map; [`Self::sweep_repaired`] then follows.
    pub fn sweep_look(
        &mut self,
        now: Instant,
        mut suspect: Suspect,
        key: &FlowKey,
        found: Found,
        at: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Remedy> {
        let known = self.record(key).filter(|_| found != Found::Stray);
        let right = match (&found, &known) {
            (Found::Entry { record, whole }, Some(known)) => *whole && record.agrees(known),
            (Found::Nothing, None) => true,
            (Found::Nothing | Found::Entry { .. } | Found::Stray, _) => false,
        };
        let sweep = self.own_sweep();
        if right {
            sweep.places.remove(&suspect.place);
            sweep.counts.in_flight += 1;
            return None;
        }
        let difference = Box::new((found, known));
        if suspect.before.as_ref() != Some(&difference) {
            suspect.before = Some(difference);
            sweep.seen_once.push_back((now + SETTLE, suspect));
            return None;
        }
        sweep.places.remove(&suspect.place);
        if self.is_active() {
            self.tell(now, *key, found, known, at, out)
        } else {
            let replaces = found != Found::Nothing;
            Some(known.map_or(Remedy::Remove, |record| Remedy::Store { record, replaces }))
        }
    }

    /// Active: the map is right.
    fn tell(
        &mut self,
        now: Instant,
        key: FlowKey,
        found: Found,
        known: Option<Record>,
        at: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Remedy> {
        match found {
            Found::Nothing => {
                let change = Change::Delete(key);
                self.handle_input(now, Input::Local { change, at }, out);
                self.sweep.counts.told_gone += 1;
                Some(Remedy::Remove)
            }
            Found::Entry { record, whole } => {
                if known.is_none_or(|known| !known.agrees(&record)) {
                    let change = Change::Put(record);
                    self.handle_input(now, Input::Local { change, at }, out);
                    self.sweep.counts.told += 1;
                }
                (!whole).then_some(Remedy::Mend)
            }
            Found::Stray => Some(Remedy::Remove),
        }
    }

    /// The map was repaired.
    pub const fn sweep_repaired(&mut self, remedy: &Remedy) {
        let counts = &mut self.sweep.counts;
        match remedy {
            Remedy::Mend => counts.mended += 1,
            Remedy::Store { replaces: true, .. } => counts.replaced += 1,
            Remedy::Store {
                replaces: false, ..
            } => counts.restored += 1,
            Remedy::Remove => counts.removed += 1,
        }
    }

    /// The sweep of the role as it is: what was found in another one is void.
    fn own_sweep(&mut self) -> &mut Sweep {
        let active = self.is_active();
        if self.sweep.active != active {
            self.sweep = Sweep {
                counts: self.sweep.counts,
                active,
                ..Sweep::default()
            };
        }
        &mut self.sweep
    }
}
