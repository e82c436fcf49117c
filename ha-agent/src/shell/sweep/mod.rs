//! The sweep's way to the live map: shows the replication machine what a walk has read, looks suspects up,
//! and repairs the map as the machine says.
//!
//! The machine knows connections; that each is two entries, and what else is in them, is known here. On the
//! active node an entry counts as right if it is what follows from its connection's forward entry; elsewhere
//! if it is what replication would store.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ha_common::conn::flags;

use super::clock;
use super::wake::Wake;
use crate::datapath::family::{FlowEntry, FlowKey};
use crate::datapath::{Datapath, DatapathError};
use crate::proto::sync::{Action, Found, Half, Record, Remedy, Suspect, Sync};
use crate::proto::time::Instant;
use crate::services::expiry::{Piece, Watcher};
use crate::services::ids::Id;
use crate::services::{Halves, ServiceTable, Target, halves, reverse_key};

/// Pieces that may wait.
const PIECES: usize = 2;
/// Entries compared, and suspects looked up, before events and packets get their turn: a tenth of a
/// millisecond.
const PORTION: usize = 256;
const LOOKS: usize = 64;
/// Pause before more suspects are looked up: with very many, 30,000 a second, some ten per cent of a core.
const REST: Duration = Duration::from_millis(2);

/// Compares the live map with the machine's table.
pub(super) struct Sweeper {
    pieces: Receiver<Piece>,
    /// The piece at hand, and how much of it was compared.
    piece: Option<(Piece, usize)>,
    datapath: Arc<dyn Datapath>,
    services: Arc<Mutex<ServiceTable>>,
    /// No suspects are looked up before.
    rested: Instant,
    /// Operations on the map that failed; the next pass finds what was to be repaired again.
    pub(super) errors: u64,
}

impl Sweeper {
    /// A sweeper, and the way to it for the walk through the map.
    pub(super) fn new(
        datapath: Arc<dyn Datapath>,
        services: Arc<Mutex<ServiceTable>>,
    ) -> (Self, SyncSender<Piece>) {
        let (sender, pieces) = sync_channel(PIECES);
        let sweeper = Self {
            pieces,
            piece: None,
            rested: Instant::default(),
            datapath,
            services,
            errors: 0,
        };
        (sweeper, sender)
    }

    /// When there is something to do next.
    pub(super) fn due(&self, sync: &Sync) -> Option<Instant> {
        if self.piece.is_some() {
            return Some(Instant::default());
        }
        sync.sweep_due().map(|due| due.max(self.rested))
    }

    /// Compares some of what was read, and looks some suspects up if the ring of events is `drained`.
    pub(super) fn work(&mut self, sync: &mut Sync, drained: bool, out: &mut Vec<Action>) {
        self.compare(sync);
        if !drained || clock::now() < self.rested {
            return;
        }
        for _ in 0..LOOKS {
            let Some(suspect) = sync.sweep_next(clock::now()) else {
                return;
            };
            if let Err(error) = self.look(sync, suspect, out) {
                self.errors += 1;
                tracing::debug!(%error, "a suspect of the sweep was not looked at or repaired");
            }
        }
        self.rested = clock::now() + REST;
    }

    fn compare(&mut self, sync: &mut Sync) {
        if self.piece.is_none() {
            self.piece = self.pieces.try_recv().ok().map(|piece| (piece, 0));
        }
        let Some((piece, done)) = &mut self.piece else {
            return;
        };
        if *done == 0
            && let Some(began) = piece.began
        {
            sync.sweep_begin(began);
        }
        let active = sync.is_active();
        let services = self.services.lock();
        let services = services.unwrap_or_else(PoisonError::into_inner);
        for (place, entry) in piece.entries.iter().skip(*done).take(PORTION) {
            let (key, half) = if entry.is_reverse() {
                (entry.partner_key(place), Half::Reverse)
            } else {
                (*place, Half::Forward)
            };
            sync.sweep_see(&key, place, half, |record| {
                let target = if active {
                    Some(own_target(entry))
                } else {
                    services.target(record)
                };
                target.is_none_or(|target| halves(record, target, 0).has(place, entry))
            });
        }
        drop(services);
        *done += PORTION;
        if *done >= piece.entries.len() {
            if piece.last {
                sync.sweep_end();
            }
            self.piece = None;
        }
    }

    fn look(
        &mut self,
        sync: &mut Sync,
        suspect: Suspect,
        out: &mut Vec<Action>,
    ) -> Result<(), DatapathError> {
        let at = clock::now();
        let place = suspect.place;
        let key = match suspect.half {
            Half::Forward => place,
            Half::Reverse => match self.datapath.get_conn(&place)? {
                Some(entry) => entry.partner_key(&place),
                // Gone since: what it was half of is looked at by itself.
                None => place,
            },
        };
        let known = sync.record(&key);
        let view = self.view(sync.is_active(), &key, known.as_ref())?;
        let stray = suspect.half == Half::Reverse && view.reverse_key != Some(place);
        let found = if stray {
            match self.datapath.get_conn(&place)? {
                Some(_) => Found::Stray,
                None => Found::Nothing,
            }
        } else {
            view.found
        };
        let now = clock::now();
        let Some(remedy) = sync.sweep_look(now, suspect, &key, found, at, out) else {
            return Ok(());
        };
        let done = match &remedy {
            Remedy::Mend => self.mend(&view)?,
            Remedy::Store { record, .. } => self.store(record)?,
            Remedy::Remove if stray => self.datapath.remove_conns(&[place])? > 0,
            Remedy::Remove => self.datapath.remove_conns(&view.left)? > 0,
        };
        if done {
            sync.sweep_repaired(&remedy);
        }
        Ok(())
    }

    /// What the map holds of a connection.
    fn view(
        &self,
        active: bool,
        key: &FlowKey,
        known: Option<&Record>,
    ) -> Result<View, DatapathError> {
        let forward = self.datapath.get_conn(key)?;
        let forward = forward.filter(|entry| !entry.is_reverse());
        let record = forward.map(|entry| Record::from_entry(key, &entry));
        // Whose halves are right.
        let (truth, target) = if active {
            (record, forward.map(|entry| own_target(&entry)))
        } else {
            let services = self.services.lock();
            let services = services.unwrap_or_else(PoisonError::into_inner);
            (
                known.copied(),
                known.and_then(|record| services.target(record)),
            )
        };
        let now = clock::now().as_nanos();
        let of_truth = truth.as_ref().and_then(reverse_key);
        let wanted = truth.zip(target);
        let mut view = View {
            found: Found::Nothing,
            forward,
            reverse_key: of_truth,
            reverse: None,
            wanted: wanted.map(|(record, target)| halves(&record, target, now)),
            left: Vec::new(),
        };
        if forward.is_some() {
            view.left.push(*key);
        }
        // The other half of what is there, of what should be there, and of what the table has.
        let of_map = forward.filter(|entry| entry.flags & flags::ONE_WAY == 0);
        let of_map = of_map.map(|entry| entry.partner_key(key));
        let of_table = known.and_then(reverse_key);
        let mut others: Vec<_> = [of_map, of_truth, of_table].into_iter().flatten().collect();
        others.sort_unstable();
        others.dedup();
        for other in others {
            let Some(entry) = self.datapath.get_conn(&other)? else {
                continue;
            };
            if entry.partner_key(&other) == *key {
                view.left.push(other);
            }
            if of_truth == Some(other) {
                view.reverse = Some(entry);
            }
        }
        if let Some(record) = record {
            view.found = Found::Entry {
                record,
                whole: view.is_whole(key),
            };
        }
        Ok(view)
    }

    /// Makes anew what follows from the forward entry, which stays as it is but for its checksums.
    fn mend(&self, view: &View) -> Result<bool, DatapathError> {
        let (Some(own), Some(wanted)) = (&view.forward, &view.wanted) else {
            return Ok(false);
        };
        let on_this_node = |entry: FlowEntry| {
            let mask = flags::REPLICATED | flags::HOP_KNOWN;
            FlowEntry {
                flags: entry.flags & !mask | own.flags & mask,
                hop_ifindex: own.hop_ifindex,
                hop_mac: own.hop_mac,
                hop_src: own.hop_src,
                last_seen_ns: own.last_seen_ns,
                created_ns: own.created_ns,
                ..entry
            }
        };
        let Halves { forward, reverse } = wanted;
        let mut entries = Vec::with_capacity(2);
        entries.extend(reverse.map(|(key, entry)| (key, on_this_node(entry))));
        if !wanted.has(&forward.0, own) {
            entries.push((forward.0, on_this_node(forward.1)));
        }
        self.datapath.put_conns(&entries)?;
        Ok(true)
    }

    /// Stores a connection; whether this node has a place for it.
    fn store(&self, record: &Record) -> Result<bool, DatapathError> {
        let now = clock::now().as_nanos();
        let services = self.services.lock();
        let services = services.unwrap_or_else(PoisonError::into_inner);
        let Some(target) = services.target(record) else {
            return Ok(false);
        };
        drop(services);
        let Halves { forward, reverse } = halves(record, target, now);
        let entries: Vec<_> = reverse.into_iter().chain([forward]).collect();
        self.datapath.put_conns(&entries)?;
        Ok(true)
    }
}

/// The way to a sweeper.
pub(super) fn watcher(pieces: SyncSender<Piece>, wake: Wake) -> Watcher {
    Box::new(move |piece| {
        match pieces.try_send(piece) {
            Err(TrySendError::Full(piece)) => return Err(piece),
            // The thread has ended: nobody compares any more.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
        wake.signal();
        Ok(())
    })
}

const fn own_target(entry: &FlowEntry) -> Target {
    Target {
        service: entry.service,
        real: Id {
            id: entry.real,
            generation: entry.real_generation,
        },
    }
}

/// What the map holds of a connection, and what it should hold.
struct View {
    found: Found,
    forward: Option<FlowEntry>,
    /// Where its other half should be.
    reverse_key: Option<FlowKey>,
    /// The entry where the other half should be.
    reverse: Option<FlowEntry>,
    /// What the entries should be; `None` if nobody can tell.
    wanted: Option<Halves>,
    /// Keys of the entries that are the connection's.
    left: Vec<FlowKey>,
}

impl View {
    fn is_whole(&self, key: &FlowKey) -> bool {
        let Some(wanted) = &self.wanted else {
            return true;
        };
        let forward = self.forward.is_some_and(|entry| wanted.has(key, &entry));
        let reverse = wanted.reverse.as_ref().is_none_or(|(reverse_key, _)| {
            self.reverse
                .is_some_and(|entry| wanted.has(reverse_key, &entry))
        });
        forward && reverse
    }
}

#[cfg(test)]
mod tests;
