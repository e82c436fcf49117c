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
//! The walk takes a small share of one CPU whatever the size of the table; it hurries when the table
//! is nearly full.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use ha_common::conn::Embryo4;
use ha_common::maps;
use ha_common::reason::Tally;
use ha_common::service::{Load, Timeouts};

use super::ServiceTable;
use crate::datapath::family::{FlowEntry, FlowKey};
use crate::datapath::load::Connections;
use crate::datapath::{Cursor, Datapath, DatapathError, Settings, idle_ns};
use crate::proto::time::Instant;
use crate::shell::clock;

/// Entries read at a time: half a millisecond of work. (A nearly empty table is one piece, in which all
/// buckets are looked at: 4 ms for two million, in many short system calls.)
const PIECE: usize = 1024;
/// Part of the time that a walk works rather than sleeps: 1 / this.
const SHARE: u32 = 40;
/// The same while the table is nearly full.
const SHARE_FULL: u32 = 4;
/// Shortest time from the start of one pass to the start of the next.
const PASS_MIN: Duration = Duration::from_secs(1);
/// Longest sleep between two pieces, so that the end of the thread is not delayed.
const SLEEP_MAX: Duration = Duration::from_millis(200);
/// From this share of its entries on the table counts as nearly full, in percent.
const FULL_PERCENT: u64 = 90;
/// Below this share it does not any more.
const RELAXED_PERCENT: u64 = 85;

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
        if self.cursor == Cursor::default() {
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
        if scan.next.is_some() {
            return Ok(None);
        }
        self.correct_loads(datapath)?;
        Ok(Some(std::mem::take(&mut self.census)))
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

impl Keeper {
    /// Starts walking over tables of this size.
    pub fn spawn(
        settings: Arc<Settings>,
        services: Arc<Mutex<ServiceTable>>,
        connections: Connections,
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
            pass_started: Instant::default(),
        };
        let thread = thread::Builder::new()
            .name("connections".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self { shared, thread })
    }

    /// Tells since when this node has been active; `None` on a standby. Never blocks.
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
    pass_started: Instant,
}

impl Worker {
    fn run(mut self) {
        let mut failing = false;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let started = clock::now();
            let pause = match self.work(started) {
                Ok(complete) => {
                    failing = false;
                    self.pause(started, complete)
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "walking the connection table failed; going on");
                    }
                    failing = true;
                    PASS_MIN
                }
            };
            self.sleep(pause);
        }
    }

    /// One piece; returns whether it was the last of a pass.
    fn work(&mut self, now: Instant) -> Result<bool, DatapathError> {
        let active_since = match self.shared.active_since.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Instant::from_nanos(nanos)),
        };
        let made = Fullness::made(&self.settings.datapath().counters()?);
        let census = self
            .walk
            .step(now, active_since, self.settings.datapath())?;
        let complete = census.is_some();
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

    fn pause(&mut self, started: Instant, complete: bool) -> Duration {
        let now = clock::now();
        let share = if self.fullness.iter().any(|fullness| fullness.full) {
            SHARE_FULL
        } else {
            SHARE
        };
        let mut pause = now.since(started) * (share - 1);
        if complete {
            pause = pause.max((self.pass_started + PASS_MIN).since(now));
            self.pass_started = now + pause;
        }
        pause
    }

    fn sleep(&self, pause: Duration) {
        let until = clock::now() + pause;
        loop {
            let left = until.since(clock::now());
            if left.is_zero() || self.shared.stop.load(Ordering::Relaxed) {
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
mod tests {
    use super::*;
    use crate::datapath::fake::Fake;
    use crate::datapath::family::entry_to;
    use ha_common::conn::{ConnState, flags};
    use ha_common::control::Config;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    const SECOND: u64 = 1_000_000_000;
    /// A service whose connections expire sooner than those of others.
    const HASTY: u16 = 7;

    fn plane(entries: usize) -> Fake {
        let fake = Fake::new(entries);
        let timeouts = Timeouts {
            established_ns: 100 * SECOND,
            closing_ns: 20 * SECOND,
            closed_ns: 10 * SECOND,
            udp_ns: 30 * SECOND,
        };
        fake.put_timeouts(0, &timeouts).unwrap();
        let hasty = Timeouts {
            established_ns: 5 * SECOND,
            ..timeouts
        };
        fake.put_timeouts(HASTY, &hasty).unwrap();
        fake
    }

    fn connection(n: u32, state: ConnState, last_seen: u64) -> [(FlowKey, FlowEntry); 2] {
        of_family(false, n, state, last_seen)
    }

    fn of_family(v6: bool, n: u32, state: ConnState, last_seen: u64) -> [(FlowKey, FlowEntry); 2] {
        let address = |n: u32| -> IpAddr {
            if v6 {
                Ipv6Addr::from_bits(u128::from(n) + 1).into()
            } else {
                Ipv4Addr::from_bits(n + 1).into()
            }
        };
        let key = FlowKey {
            src: address(n + 10),
            dst: address(1),
            sport: 5,
            dport: 80,
            proto: 6,
        };
        let forward = FlowEntry {
            to_port: 8080,
            real: 3,
            state: state as u8,
            last_seen_ns: last_seen,
            ..entry_to(address(9))
        };
        let reverse = FlowEntry {
            to_addr: key.dst,
            to_port: 80,
            flags: flags::REVERSE,
            ..forward
        };
        [(key, forward), (forward.partner_key(&key), reverse)]
    }

    fn pass(walk: &mut Walk, now: u64, active: Option<u64>, datapath: &dyn Datapath) -> Census {
        loop {
            let active = active.map(Instant::from_nanos);
            if let Some(census) = walk
                .step(Instant::from_nanos(now), active, datapath)
                .unwrap()
            {
                return census;
            }
        }
    }

    #[test]
    fn counts_everything_and_expires_what_is_idle() {
        let fake = plane(1 << 20);
        for n in 0..5000 {
            fake.put_conns(&connection(n, ConnState::Established, 150 * SECOND))
                .unwrap();
        }
        for n in 5000..5100 {
            fake.put_conns(&connection(n, ConnState::Closed, 150 * SECOND))
                .unwrap();
        }
        fake.state().now_ns = 161 * SECOND;
        let mut walk = Walk::default();
        let census = pass(&mut walk, 161 * SECOND, Some(SECOND), &fake);
        // Reverse entries that expire before the walk reaches them are not counted.
        assert_eq!((census.connections, census.expired), (5100, 100));
        assert_eq!(census.by_real[3], 5100);
        let census = pass(&mut walk, 161 * SECOND, Some(SECOND), &fake);
        assert_eq!(
            (census.entries, census.connections, census.expired),
            (10_000, 5000, 0)
        );
    }

    #[test]
    fn a_standby_expires_nothing_and_a_new_active_node_waits() {
        let fake = plane(1000);
        fake.put_conns(&connection(1, ConnState::Established, SECOND))
            .unwrap();
        fake.state().now_ns = 1000 * SECOND;
        let mut walk = Walk::default();
        assert_eq!(pass(&mut walk, 1000 * SECOND, None, &fake).expired, 0);
        assert_eq!(
            pass(&mut walk, 1000 * SECOND, Some(950 * SECOND), &fake).expired,
            0
        );
        assert_eq!(
            pass(&mut walk, 1050 * SECOND, Some(950 * SECOND), &fake).expired,
            1
        );
    }

    #[test]
    fn a_packet_of_either_direction_keeps_a_connection() {
        let fake = plane(1000);
        let [forward, mut reverse] = connection(1, ConnState::Established, SECOND);
        reverse.1.last_seen_ns = 990 * SECOND;
        fake.put_conns(&[forward, reverse]).unwrap();
        fake.state().now_ns = 1000 * SECOND;
        let census = pass(&mut Walk::default(), 1000 * SECOND, Some(SECOND), &fake);
        assert_eq!(census.expired, 0);
    }

    #[test]
    fn each_service_has_its_idle_times_and_each_family_its_table() {
        let fake = plane(1000);
        for (v6, service) in [(false, 0), (false, HASTY), (true, 0), (true, HASTY)] {
            let n = u32::from(service);
            let mut entries = of_family(v6, n, ConnState::Established, 10 * SECOND);
            for (_, entry) in &mut entries {
                entry.service = service;
            }
            fake.put_conns(&entries).unwrap();
        }
        fake.state().now_ns = 20 * SECOND;
        let mut walk = Walk::default();
        let census = pass(&mut walk, 20 * SECOND, Some(SECOND), &fake);
        assert_eq!((census.expired, census.expired_ipv6), (2, 1));
        let census = pass(&mut walk, 20 * SECOND, Some(SECOND), &fake);
        assert_eq!((census.entries, census.entries_ipv6), (2, 2));
        assert_eq!((census.connections, census.expired), (2, 0));
    }

    #[test]
    fn loads_are_corrected_where_they_are_wrong() {
        let fake = plane(1000);
        for n in 0..10 {
            fake.put_conns(&connection(n, ConnState::Established, SECOND))
                .unwrap();
        }
        let load = |id: usize| fake.state().loads[id].connections;
        fake.set_load(4, 77).unwrap();
        // What replication has stored was not counted, and what it has removed still is.
        pass(&mut Walk::default(), SECOND, None, &fake);
        assert_eq!((load(3), load(4)), (10, 0));

        // Connections that come during the pass are not taken for a mistake.
        let mut walk = Walk {
            loads: vec![Load::default(); maps::REALS_ENTRIES as usize],
            ..Walk::default()
        };
        walk.census.by_real = vec![0; maps::REALS_ENTRIES as usize];
        walk.loads[3].connections = 8;
        walk.census.by_real[3] = 9;
        fake.set_load(3, 12).unwrap();
        walk.correct_loads(&fake).unwrap();
        assert_eq!(load(3), 12);
        walk.census.by_real[3] = 7;
        walk.correct_loads(&fake).unwrap();
        assert_eq!(load(3), 7);
    }

    #[test]
    fn fullness_has_hysteresis_and_sees_what_a_pass_has_not() {
        let mut fullness = Fullness::new(1000);
        fullness.rebase(600, 50);
        assert_eq!(fullness.judge(50), None);
        assert_eq!(fullness.judge(199), None);
        assert_eq!(fullness.judge(200), Some(true), "600 + 2 * 150 entries");
        assert_eq!(fullness.judge(201), None);
        fullness.rebase(860, 201);
        assert_eq!(fullness.judge(201), None);
        fullness.rebase(849, 201);
        assert_eq!(fullness.judge(201), Some(false));
    }

    #[test]
    fn the_thread_takes_its_census_and_ends() {
        let fake = Arc::new(plane(100));
        let settings = Settings::new(Arc::<Fake>::clone(&fake), Config::default()).unwrap();
        for n in 0..46 {
            fake.put_conns(&connection(
                n,
                ConnState::Established,
                clock::now().as_nanos(),
            ))
            .unwrap();
        }
        let services = Arc::new(Mutex::new(ServiceTable::new(7)));
        let connections = Connections { v4: 50, v6: 1000 };
        let keeper = Keeper::spawn(Arc::new(settings), services, connections).unwrap();
        keeper.set_active(Some(clock::now()));
        for _ in 0..1000 {
            if keeper.census().entries == 92 && fake.state().config.table_full == 1 {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(keeper.census().connections, 46);
        let config = fake.state().config;
        assert_eq!((config.table_full, config.table_full6), (1, 0));
        keeper.stop();
    }
}
