//! Walks the connection tables: finds what may expire, counts what is there.
//!
//! A pass reads the table piece by piece, at leisure. What looks idle is handed to the kernel's janitor
//! program, which looks again and deletes both directions ([`Datapath::expire`]); a pass never
//! deletes by what it read. Only an active node lets connections expire: on a standby no packets
//! move, so every entry would look idle; there the partner's deletions arrive by replication. For the
//! same reason no connection is older than the moment at which this node became active.
//!
//! What a pass finds of each real server corrects the number that the data plane keeps, for schedulers that
//! compare loads and for limits: entries that replication stores or removes are counted by nobody else.
//!
//! Whoever wants to compare the tables with something else is shown each piece that was read ([`Piece`]), so
//! that one walk serves both; where passes follow each other closely, not those of each pass. A node that is not active
//! makes no other passes than these, and begins one soon after it has become active.
//!
//! The walk takes a small share of one CPU ([`pace`]), as much more as it needs to be through in time; it
//! hurries when the table is nearly full, and begins anew and hurries when the data plane has lost an event.

mod pace;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use ha_common::conn::Embryo4;
use ha_common::maps;
use ha_common::reason::Tally;
use ha_common::service::{Load, Timeouts};

use self::pace::{Losses, PASS_MIN, Pace, Purpose, Shows};
use super::ServiceTable;
use crate::datapath::family::{FlowEntry, FlowKey};
use crate::datapath::load::Connections;
use crate::datapath::{Cursor, Datapath, DatapathError, Settings, idle_ns};
use crate::proto::time::Instant;
use crate::shell::clock;

/// Entries read at a time: half a millisecond of work. (A nearly empty table is one piece, in which all
/// buckets are looked at: 4 ms for two million, in many short system calls.)
const PIECE: usize = 1024;
/// How long a watcher that is busy is waited for until it misses a piece.
const WATCHER_MAX: Duration = Duration::from_secs(1);
/// Pause before it is asked again.
const WATCHER_PAUSE: Duration = Duration::from_millis(2);
/// Longest sleep between two looks at what the thread is told: its end, and the role.
const SLEEP_MAX: Duration = Duration::from_millis(200);
/// From this share of its entries on the table counts as nearly full, in percent.
const FULL_PERCENT: u64 = 90;
/// Below this share it does not any more.
const RELAXED_PERCENT: u64 = 85;

/// Some entries, as a walk has read them.
#[derive(Debug)]
pub struct Piece {
    /// Entries of both directions.
    pub entries: Vec<(FlowKey, FlowEntry)>,
    /// With the first piece of a pass, when it began to read.
    pub began: Option<Instant>,
    /// It is the last of the pass.
    pub last: bool,
}

/// Is shown what a walk reads; gives back what it cannot take now.
pub type Watcher = Box<dyn Fn(Piece) -> Result<(), Piece> + Send>;

/// What a pass over the whole table has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// IPv4 entries of both directions.
    pub entries: u64,
    /// IPv6 entries of both directions.
    pub entries_ipv6: u64,
    /// Connections, that is forward entries.
    pub connections: u64,
    /// Connections by real-server id.
    pub by_real: Vec<u64>,
    /// Half-open connections at the end of the pass.
    pub half_open: u64,
    /// Connections that expired during the pass.
    pub expired: u64,
    /// Those of them that were IPv6.
    pub expired_ipv6: u64,
}

/// A walk through the connection tables, one piece at a time.
#[derive(Debug, Default)]
pub struct Walk {
    cursor: Cursor,
    census: Census,
    /// Idle times by service id, as they were when the pass began.
    timeouts: Vec<Timeouts>,
    /// Loads by real-server id, as they were when the pass began.
    loads: Vec<Load>,
    idle: Vec<FlowKey>,
    piece: Vec<(FlowKey, FlowEntry)>,
}

impl Walk {
    /// Reads one piece; the census is returned at the end of the tables, after which the walk starts
    /// again. Connections expire if the node is active, and then not before they have been idle since
    /// `active_since`.
    pub fn step(
        &mut self,
        now: Instant,
        active_since: Option<Instant>,
        datapath: &dyn Datapath,
    ) -> Result<Option<Census>, DatapathError> {
        if self.is_at_start() {
            self.timeouts = datapath.timeouts()?;
            self.loads = datapath.loads()?;
            self.census = Census {
                by_real: vec![0; maps::REALS_ENTRIES as usize],
                ..Census::default()
            };
        }
        let scan = datapath.scan_conns(self.cursor, PIECE)?;
        self.idle.clear();
        for (key, conn) in &scan.entries {
            self.count(key, conn);
            if let Some(since) = active_since {
                let moved = conn.last_seen_ns.max(since.as_nanos());
                let timeouts = self.timeouts.get(usize::from(conn.service));
                if now.as_nanos().saturating_sub(moved) >= idle_ns(timeouts, key, conn) {
                    self.idle.push(*key);
                }
            }
        }
        let expired = datapath.expire(&self.idle)? as u64;
        self.census.expired += expired;
        if self.idle.first().is_some_and(|key| key.dst.is_ipv6()) {
            self.census.expired_ipv6 += expired;
        }
        self.cursor = scan.next.unwrap_or_default();
        self.piece = scan.entries;
        if scan.next.is_some() {
            return Ok(None);
        }
        self.correct_loads(datapath)?;
        Ok(Some(std::mem::take(&mut self.census)))
    }

    /// Whether the next step begins a pass.
    pub fn is_at_start(&self) -> bool {
        self.cursor == Cursor::default()
    }

    /// The entries that the last step has read.
    pub fn take_piece(&mut self) -> Vec<(FlowKey, FlowEntry)> {
        std::mem::take(&mut self.piece)
    }

    /// Begins anew with the next step.
    pub fn restart(&mut self) {
        self.cursor = Cursor::default();
    }

    fn count(&mut self, key: &FlowKey, conn: &FlowEntry) {
        if key.dst.is_ipv6() {
            self.census.entries_ipv6 += 1;
        } else {
            self.census.entries += 1;
        }
        if conn.is_reverse() {
            return;
        }
        self.census.connections += 1;
        if let Some(count) = self.census.by_real.get_mut(usize::from(conn.real)) {
            *count += 1;
        }
    }

    /// While connections come and go what was counted during the pass is between what the data plane
    /// had before and what it has now. Where it is not, the data plane is wrong.
    fn correct_loads(&self, datapath: &dyn Datapath) -> Result<(), DatapathError> {
        let now = datapath.loads()?;
        let held = self.loads.iter().zip(&now);
        for ((id, (before, now)), found) in (0..).zip(held).zip(&self.census.by_real) {
            let (before, now) = (before.connections, now.connections);
            if *found < before.min(now) || *found > before.max(now) {
                datapath.set_load(id, *found)?;
            }
        }
        Ok(())
    }
}

/// Whether the table of a family is nearly full, judged between two passes by what the data plane has
/// counted since: as if all of it were of this family, so that a table is never taken for emptier than it is.
#[derive(Debug)]
struct Fullness {
    max: u64,
    /// Entries found by the last pass, and connections made until then.
    base: u64,
    made: u64,
    full: bool,
}

impl Fullness {
    const fn new(max: u64) -> Self {
        Self {
            max,
            base: 0,
            made: 0,
            full: false,
        }
    }

    /// Connections made so far. Those replicated to a standby are not among them, but a standby
    /// makes none itself.
    fn made(counters: &[u64]) -> u64 {
        [Tally::Established, Tally::Reconstructed]
            .iter()
            .filter_map(|tally| counters.get(tally.index() as usize))
            .fold(0, |sum, count| sum.wrapping_add(*count))
    }

    fn rebase(&mut self, entries: u64, made: u64) {
        self.base = entries;
        self.made = made;
    }

    /// Judges anew; returns whether the table is nearly full if that has changed.
    fn judge(&mut self, made: u64) -> Option<bool> {
        let entries = self.base + 2 * made.wrapping_sub(self.made);
        let limit = if self.full {
            RELAXED_PERCENT
        } else {
            FULL_PERCENT
        };
        let full = entries * 100 >= self.max * limit;
        (full != self.full).then(|| {
            self.full = full;
            full
        })
    }
}

/// The thread that walks the table.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Nanoseconds of the monotonic clock; 0 = standby.
    active_since: AtomicU64,
    census: ArcSwap<Census>,
}

impl Shared {
    /// Since when this node has been active; `None` on a standby.
    fn active_since(&self) -> Option<Instant> {
        match self.active_since.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }
}

impl Keeper {
    /// Starts walking over tables of this size.
    pub fn spawn(
        settings: Arc<Settings>,
        services: Arc<Mutex<ServiceTable>>,
        connections: Connections,
        watcher: Option<Watcher>,
    ) -> std::io::Result<Self> {
        let fullness = connections
            .entries()
            .map(|(_, entries)| Fullness::new(u64::from(entries)));
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            active_since: AtomicU64::new(0),
            census: ArcSwap::from_pointee(Census::default()),
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            settings,
            services,
            walk: Walk::default(),
            fullness,
            made: 0,
            pace: Pace::default(),
            losses: Losses::default(),
            shows: Shows::default(),
            watcher,
        };
        let thread = thread::Builder::new()
            .name("connections".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self { shared, thread })
    }

    /// Tells since when this node has been active; `None` on a standby. Called by the election, so it wakes nobody: the
    /// thread looks by itself, at least each [`SLEEP_MAX`].
    pub fn set_active(&self, since: Option<Instant>) {
        let nanos = since.map_or(0, |since| since.as_nanos().max(1));
        self.shared.active_since.store(nanos, Ordering::Relaxed);
    }

    /// What the last complete pass found.
    pub fn census(&self) -> Arc<Census> {
        self.shared.census.load_full()
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the thread that walks the connection table had panicked");
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    services: Arc<Mutex<ServiceTable>>,
    walk: Walk,
    /// Of the IPv4 table and of the IPv6 table.
    fullness: [Fullness; 2],
    /// Connections made when this pass began: those of the pass itself count twice rather than not.
    made: u64,
    pace: Pace,
    losses: Losses,
    shows: Shows,
    watcher: Option<Watcher>,
}

impl Worker {
    fn run(mut self) {
        let mut failing = false;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let started = clock::now();
            let active_since = self.shared.active_since();
            let pause = match self.work(started, active_since) {
                Ok(complete) => {
                    failing = false;
                    self.pause(started, complete, active_since.is_some())
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "walking the connection table failed; going on");
                    }
                    failing = true;
                    PASS_MIN
                }
            };
            self.sleep(pause, active_since);
        }
    }

    /// One piece; returns whether it was the last of a pass.
    fn work(&mut self, now: Instant, active_since: Option<Instant>) -> Result<bool, DatapathError> {
        let counters = self.settings.datapath().counters()?;
        let made = Fullness::made(&counters);
        if self.losses.note(&counters) {
            tracing::warn!("the data plane has lost events of connections: comparing all of them");
            self.walk.restart();
        }
        let began = self.walk.is_at_start().then_some(now);
        if began.is_some() {
            let purpose = Purpose::of(active_since.is_some(), self.losses.hurry);
            self.shows.begin(now, purpose);
            self.pace.begin(now);
        }
        let census = self
            .walk
            .step(now, active_since, self.settings.datapath())?;
        let complete = census.is_some();
        self.show(began, complete);
        if let Some(mut census) = census {
            let young = now - Duration::from_nanos(Embryo4::LIFETIME_NS);
            census.half_open = self.settings.datapath().half_open(young)?;
            let [v4, v6] = &mut self.fullness;
            let expired = census.expired - census.expired_ipv6;
            v4.rebase(census.entries.saturating_sub(2 * expired), self.made);
            let left = census.entries_ipv6.saturating_sub(2 * census.expired_ipv6);
            v6.rebase(left, self.made);
            self.made = made;
            self.note(now, census);
        }
        let [v4, v6] = &mut self.fullness;
        if let Some(full) = v4.judge(made) {
            warn(full, "IPv4");
            self.settings
                .update(|config| config.table_full = u32::from(full))?;
        }
        if let Some(full) = v6.judge(made) {
            warn(full, "IPv6");
            self.settings
                .update(|config| config.table_full6 = u32::from(full))?;
        }
        Ok(complete)
    }

    fn note(&self, now: Instant, census: Census) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.scanned(now, &census.by_real);
        if let Err(error) = services.apply(self.settings.datapath()) {
            tracing::warn!(%error, "services not brought up to date; trying again");
        }
        drop(services);
        self.shared.census.store(Arc::new(census));
    }

    /// Shows what was read to whoever watches.
    fn show(&mut self, began: Option<Instant>, last: bool) {
        let Some(watcher) = self.watcher.as_ref().filter(|_| self.shows.on()) else {
            return;
        };
        let mut piece = Piece {
            entries: self.walk.take_piece(),
            began,
            last,
        };
        let until = clock::now() + WATCHER_MAX;
        while let Err(back) = watcher(piece) {
            if clock::now() >= until || self.shared.stop.load(Ordering::Relaxed) {
                tracing::debug!(entries = back.entries.len(), "a piece was not looked at");
                return;
            }
            piece = back;
            thread::sleep(WATCHER_PAUSE);
        }
    }

    fn pause(&mut self, started: Instant, complete: bool, active: bool) -> Duration {
        let now = clock::now();
        let hurry = self.losses.hurry || self.fullness.iter().any(|fullness| fullness.full);
        let purpose = Purpose::of(active, hurry);
        let pause = self.pace.pause(started, now, complete, purpose);
        if complete {
            self.losses.pass_ended();
        }
        pause
    }

    /// Sleeps until there is something to do, or the role is another one than before.
    fn sleep(&self, pause: Duration, active_since: Option<Instant>) {
        let until = clock::now() + pause;
        loop {
            let left = until.since(clock::now());
            let stop = self.shared.stop.load(Ordering::Relaxed);
            if left.is_zero() || stop || self.shared.active_since() != active_since {
                return;
            }
            thread::park_timeout(left.min(SLEEP_MAX));
        }
    }
}

fn warn(full: bool, family: &str) {
    tracing::warn!(
        full,
        family,
        "connection table nearly full: new flows are forwarded without entries"
    );
}

#[cfg(test)]
mod tests;
