//! Ways of forwarding, schedulers, and what else the data plane is told of a service.

use ha_common::service::{Address as _, Load, Traffic, real_flags};

use super::*;
use crate::config::model::Persistence;
use crate::datapath::family::wide;

pub(super) fn applied(services: &[VirtualService]) -> (ServiceTable, Fake) {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table.configure(services).unwrap();
    apply(&mut table, &fake);
    (table, fake)
}

fn by(forwarding: Forwarding) -> VirtualService {
    VirtualService {
        forwarding,
        ..service(80, &[(21, 1)])
    }
}

fn key_of(service: &VirtualService) -> RealKey {
    RealKey::new(service, &service.real_servers[0])
}

fn value(table: &ServiceTable, fake: &Fake, key: &RealKey) -> ha_common::service::Real {
    let id = table.lookup(key).unwrap().real.id;
    fake.state().reals[usize::from(id)]
}

#[test]
fn only_translated_answers_have_a_way_back() {
    for (forwarding, paths) in [
        (Forwarding::Nat, 1),
        (Forwarding::FullNat, 0),
        (Forwarding::Dsr, 0),
        (Forwarding::Tunnel, 0),
    ] {
        let service = by(forwarding);
        let (table, fake) = applied(std::slice::from_ref(&service));
        assert_eq!(fake.state().return_paths.len(), paths, "{forwarding:?}");
        let real = value(&table, &fake, &key_of(&service));
        assert_eq!(real.forwarding, forwarding as u8);
    }
}

#[test]
fn everything_of_a_real_server_reaches_the_data_plane() {
    let fd = |host: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host]);
    let mut service = by(Forwarding::Tunnel);
    service.address = fd(0x100);
    service.on_down = OnDown::Reset;
    let real = &mut service.real_servers[0];
    (real.address, real.source) = (fd(0x21), Some(fd(1)));
    real.connections_max = 1000;
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table.configure(std::slice::from_ref(&service)).unwrap();
    table.set_mtu(1500);
    apply(&mut table, &fake);
    let real = value(&table, &fake, &key_of(&service));
    assert_eq!(real.addr, wide(fd(0x21)));
    assert_eq!(real.source, wide(fd(1)));
    assert_eq!((real.mtu, real.connections_max), (1500, 1000));
    assert_eq!(real.flags, real_flags::RESET_WHEN_DOWN);
    assert!(fake.state().filter.has(fd(0x21)));
    // A new agent knows where tunnels come from, also those that only drain.
    let mut table = ServiceTable::adopt(1, &fake).unwrap();
    table.configure(&[]).unwrap();
    apply(&mut table, &fake);
    let drains = value(&table, &fake, &key_of(&service));
    assert_eq!(drains.state, RealState::Draining as u8);
    assert_eq!(drains.source, wide(fd(1)));
}

#[test]
fn connections_never_go_another_way_than_they_were_made_for() {
    let (mut table, fake) = applied(&[by(Forwarding::Nat)]);
    let before = table.lookup(&key_of(&by(Forwarding::Nat))).unwrap();
    table.configure(&[by(Forwarding::FullNat)]).unwrap();
    apply(&mut table, &fake);
    let after = table.lookup(&key_of(&by(Forwarding::FullNat))).unwrap();
    assert_ne!(before.real.id, after.real.id);
    assert_eq!(before.service, after.service);
    let state = fake.state();
    let old = state.reals[usize::from(before.real.id)];
    assert_eq!(
        (old.forwarding, old.state),
        (Forwarding::Nat as u8, RealState::Draining as u8)
    );
    drop(state);

    let mut found = |flags: u8| {
        let record = Record {
            flags,
            ..record(80, 21)
        };
        table
            .entries(&record, 0)
            .map(|halves| halves.forward.1.real)
    };
    assert_eq!(found(0), Some(before.real.id));
    assert_eq!(found(flags::BOTH_ENDS), Some(after.real.id));
    assert_eq!(found(flags::ONE_WAY), None, "nothing here forwards so");
    assert_eq!(table.refused(), 1);
}

#[test]
fn the_last_resort_takes_no_share() {
    let mut service = service(80, &[(21, 1), (22, 1)]);
    service.last_resort = Some(real_server(server(99), 1));
    let last = RealKey::new(&service, &service.last_resort.unwrap());
    let (mut table, fake) = applied(std::slice::from_ref(&service));
    let id = table.lookup(&last).unwrap().real.id;
    {
        let state = fake.state();
        assert_eq!(hosts(state.table(&key(80)).unwrap(), &state), [21, 22]);
        assert_eq!(hosts(state.members(&key(80)).unwrap(), &state), [21, 22]);
        assert_eq!(state.services[&key(80)].last_resort, id);
        assert_eq!(state.reals[usize::from(id)].state, RealState::Up as u8);
    }
    assert!(table.set_health(&last, false));
    apply(&mut table, &fake);
    assert_eq!(fake.state().services[&key(80)].last_resort, 0);
    table.set_health(&last, true);
    // It may become a real server like the others, and the other way round.
    service
        .real_servers
        .push(service.last_resort.take().unwrap());
    table.configure(std::slice::from_ref(&service)).unwrap();
    apply(&mut table, &fake);
    let state = fake.state();
    assert_eq!(state.services[&key(80)].last_resort, 0);
    assert_eq!(hosts(state.table(&key(80)).unwrap(), &state), [21, 22, 99]);
}

#[test]
fn members_are_as_the_scheduler_wants_them() {
    let members = |scheduler: Scheduler| {
        let service = VirtualService {
            scheduler,
            ..service(80, &[(21, 5), (22, 1), (23, 1)])
        };
        let (_, fake) = applied(&[service]);
        let state = fake.state();
        assert_eq!(state.services[&key(80)].scheduler, scheduler as u8);
        assert!(
            !state.table(&key(80)).unwrap().is_empty(),
            "packets without an entry"
        );
        let members = state.members(&key(80)).unwrap().iter();
        members
            .map(|&id| hosts(&[id], &state)[0])
            .collect::<Vec<_>>()
    };
    for scheduler in [
        Scheduler::Mh,
        Scheduler::Rr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Sh,
    ] {
        assert_eq!(members(scheduler), [21, 22, 23], "{scheduler:?}");
    }
    assert_eq!(members(Scheduler::Wrr), [21, 21, 22, 21, 23, 21, 21]);
}

#[test]
fn settings_of_a_service_reach_the_data_plane() {
    let mut service = service(80, &[(21, 7)]);
    service.resteer = false;
    service.persistence = Some(Persistence {
        timeout: Duration::from_mins(5),
        prefix: 24,
    });
    service.timeouts.udp = Duration::from_secs(9);
    let (mut table, fake) = applied(std::slice::from_ref(&service));
    {
        let state = fake.state();
        let value = state.services[&key(80)];
        assert_eq!((value.persist_seconds, value.persist_prefix), (300, 24));
        assert_eq!(value.flags, ha_common::service::service_flags::NO_RESTEER);
        let timeouts = state.timeouts[usize::from(value.id)];
        assert_eq!(timeouts.udp_ns, 9_000_000_000);
        assert_eq!(timeouts.established_ns, 900_000_000_000);
        let real = table.lookup(&real(80, 21)).unwrap().real;
        assert_eq!(state.loads[usize::from(real.id)].weight, 7);
    }
    // Idle times last as long as there may be connections.
    table.configure(&[]).unwrap();
    apply(&mut table, &fake);
    assert_eq!(fake.state().timeouts[0].udp_ns, 9_000_000_000);
    table.scanned(Instant::from_nanos(0), &[]);
    table.scanned(Instant::from_nanos(0) + LINGER, &[]);
    apply(&mut table, &fake);
    assert_eq!(fake.state().timeouts[0].udp_ns, 0);
}

#[test]
fn bits_of_the_filter_go_with_what_needed_them() {
    let (mut table, fake) = applied(&[service(80, &[(21, 1), (22, 1)])]);
    let has = |host| fake.state().filter.has(server(host));
    assert!(has(21) && has(22) && !has(23));
    table
        .configure(&[service(80, &[(22, 1), (23, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    assert!(
        has(21) && has(22) && has(23),
        "the one that left still drains"
    );
    table.scanned(Instant::from_nanos(0), &[]);
    table.scanned(Instant::from_nanos(0) + LINGER, &[]);
    apply(&mut table, &fake);
    assert!(!has(21) && has(22) && has(23));
}

#[test]
fn a_number_given_again_counts_from_zero() {
    let (mut table, fake) = applied(&[service(80, &[(21, 1)])]);
    let id = usize::from(table.lookup(&real(80, 21)).unwrap().real.id);
    let busy = Traffic {
        packets_in: 5,
        ..Traffic::default()
    };
    {
        let mut state = fake.state();
        state.traffic[id] = busy;
        state.loads[id] = Load {
            connections: 3,
            ..state.loads[id]
        };
    }
    let shown = table.status(&fake.state().traffic);
    assert_eq!(shown[0].real_servers[0].traffic, busy);
    // Changes of a real server that stays do not touch its counters.
    table.configure(&[service(80, &[(21, 4)])]).unwrap();
    apply(&mut table, &fake);
    assert_eq!(fake.state().traffic[id], busy);

    table.configure(&[]).unwrap();
    apply(&mut table, &fake);
    table.scanned(Instant::from_nanos(0), &[]);
    table.scanned(Instant::from_nanos(0) + LINGER, &[]);
    apply(&mut table, &fake);
    // Numbers are given again as late as possible: use up all the others first.
    let crowd: Vec<RealServer> = (0u16..4095)
        .map(|n| RealServer {
            port: Some(n + 1),
            ..real_server(server(30), 1)
        })
        .collect();
    let mut service = service(80, &[]);
    service.real_servers = crowd;
    table.configure(&[service]).unwrap();
    table.apply(&fake).unwrap();
    let state = fake.state();
    assert_eq!(state.reals[id].addr::<u32>(), u32::narrow(wide(server(30))));
    assert_eq!(state.traffic[id], Traffic::default());
    assert_eq!(state.loads[id].connections, 0);
}
