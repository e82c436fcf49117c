//! Walks over tables in memory.

use super::pace::PASS_MAX;
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
    let keeper = Keeper::spawn(Arc::new(settings), services, connections, None).unwrap();
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

#[test]
fn the_first_pass_of_an_active_node_does_not_wait() {
    let fake = Arc::new(plane(100));
    let settings = Settings::new(Arc::<Fake>::clone(&fake), Config::default()).unwrap();
    let services = Arc::new(Mutex::new(ServiceTable::new(7)));
    let connections = Connections { v4: 50, v6: 1000 };
    let (sender, passes) = std::sync::mpsc::channel();
    let watcher: Watcher = Box::new(move |piece| {
        let _over = sender.send(piece.last);
        Ok(())
    });
    let keeper = Keeper::spawn(Arc::new(settings), services, connections, Some(watcher)).unwrap();
    passes.recv_timeout(Duration::from_mins(1)).unwrap();
    let made = connection(1, ConnState::Established, clock::now().as_nanos());
    fake.put_conns(&made).unwrap();
    keeper.set_active(Some(clock::now()));
    // The standby's next pass would be shown.
    while keeper.census().connections == 0 {
        assert!(passes.try_recv().is_err(), "it waited");
        thread::sleep(Duration::from_millis(1));
    }
    keeper.stop();
}

#[test]
fn a_loss_begins_a_pass_and_one_more_if_it_goes_on() {
    let counters = |lost: u64| {
        let mut counters = vec![0; Tally::EventLost.index() as usize + 1];
        *counters.last_mut().unwrap() = lost;
        counters
    };
    let mut losses = Losses::default();
    // What was lost before this agent began is none of its business: it has read the whole map.
    assert!(!losses.note(&counters(5)) && !losses.hurry);
    assert!(losses.note(&counters(6)) && losses.hurry);
    assert!(!losses.note(&counters(6)));
    losses.pass_ended();
    assert!(!losses.hurry);

    assert!(losses.note(&counters(7)));
    // Not anew at every step: a pass has to come to its end.
    assert!(!losses.note(&counters(8)));
    losses.pass_ended();
    assert!(losses.hurry);
    assert!(!losses.note(&counters(8)));
    losses.pass_ended();
    assert!(!losses.hurry);
}

#[test]
fn close_passes_are_not_all_shown() {
    let mut shows = Shows::default();
    let shown = |shows: &mut Shows, second: u64, purpose| {
        shows.begin(Instant::from_nanos(second * SECOND), purpose);
        shows.on()
    };
    let seconds: Vec<_> = (100..112)
        .filter(|second| shown(&mut shows, *second, Purpose::Expire))
        .collect();
    assert_eq!(seconds, [100, 105, 110]);
    // What was lost is looked for at once, and the next look is reckoned from this one.
    assert!(shown(&mut shows, 112, Purpose::Hurry));
    assert!(!shown(&mut shows, 116, Purpose::Expire));
    assert!(shown(&mut shows, 117, Purpose::Expire));
    // On a standby they follow each other less closely, and there is no other reason for them.
    assert!(shown(&mut shows, 118, Purpose::Show));
}

#[test]
fn a_pass_over_a_large_table_takes_what_it_needs() {
    let mut pace = Pace::default();
    let mut now = Instant::from_nanos(1);
    let mut run = |pieces: u32, work: Duration, purpose| {
        let from = now;
        pace.begin(now);
        for piece in 1..=pieces {
            let started = now;
            now = now + work;
            now = now + pace.pause(started, now, piece == pieces, purpose);
        }
        now.since(from)
    };
    let millis = Duration::from_millis;
    // A small one: once a second, and little of that.
    run(10, millis(1), Purpose::Expire);
    assert_eq!(run(10, millis(1), Purpose::Expire), PASS_MIN);
    // A standby's less often.
    run(10, millis(1), Purpose::Show);
    assert_eq!(run(10, millis(1), Purpose::Show), Duration::from_secs(5));
    // A large one: a share of a core, or as much as it takes.
    run(1000, millis(1), Purpose::Expire);
    let took = run(1000, millis(1), Purpose::Expire);
    assert!(took > PASS_MAX * 9 / 10 && took <= PASS_MAX, "{took:?}");
    let hurried = run(1000, millis(1), Purpose::Hurry);
    assert!(hurried < millis(4100), "{hurried:?}");
}

#[test]
fn a_rest_that_a_takeover_ends_delays_no_later_pass() {
    let mut pace = Pace::default();
    let mut pass = |second: u64, purpose| {
        let began = Instant::from_nanos(second * SECOND);
        pace.begin(began);
        pace.pause(began, began, true, purpose)
    };
    assert_eq!(pass(100, Purpose::Show), Duration::from_secs(5));
    assert_eq!(pass(101, Purpose::Expire), PASS_MIN);
}

#[test]
fn what_a_step_has_read_can_be_looked_at() {
    let fake = plane(1 << 20);
    let entries: Vec<_> = (0..2000)
        .flat_map(|n| connection(n, ConnState::Established, SECOND))
        .collect();
    fake.put_conns(&entries).unwrap();
    let mut walk = Walk::default();
    let mut shown = Vec::new();
    loop {
        let done = walk.step(Instant::from_nanos(SECOND), None, &fake).unwrap();
        shown.extend(walk.take_piece());
        if done.is_some() {
            break;
        }
        assert!(!walk.is_at_start());
    }
    assert!(walk.is_at_start());
    shown.sort_unstable_by_key(|(key, _)| *key);
    let mut wanted = entries;
    wanted.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(shown, wanted);
}
