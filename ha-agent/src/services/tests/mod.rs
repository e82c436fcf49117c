//! The service table against the data plane in memory.

mod clients;
mod ports;
mod replicated;
mod ways;

use std::net::Ipv4Addr;

use ha_common::conn::{ConnState, flags};
use ha_common::service::{RealState, Scheduler, addr_kind};
use proptest::prelude::*;

use super::*;
use crate::config::model::{Check, Health, OnDown, Protocol, RealServer, Timeouts, VirtualService};
use crate::datapath::failing::Failing;
use crate::datapath::fake::{Fake, State};
use crate::datapath::family::FlowKey;
use crate::proto::rng::Rng;
use crate::proto::sync::Record;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));

pub(crate) fn service(port: u16, servers: &[(u8, u32)]) -> VirtualService {
    VirtualService {
        name: format!("service-{port}"),
        address: VIP,
        ports: Ports::One(port),
        protocol: Protocol::Tcp,
        forwarding: Forwarding::Nat,
        scheduler: Scheduler::Mh,
        persistence: None,
        health: Some(Health {
            check: Check::Tcp,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }),
        real_servers: servers
            .iter()
            .map(|&(host, weight)| real_server(server(host), weight))
            .collect(),
        last_resort: None,
        on_down: OnDown::Keep,
        timeouts: Timeouts::default(),
        resteer: true,
    }
}

const fn real_server(address: IpAddr, weight: u32) -> RealServer {
    RealServer {
        address,
        port: Some(8080),
        weight,
        connections_max: 0,
        source: None,
    }
}

const fn server(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, 0, host))
}

fn key(port: u16) -> ListenKey {
    service_key(&service(port, &[]))
}

fn real(port: u16, host: u8) -> RealKey {
    let service = service(port, &[(host, 1)]);
    RealKey::new(&service, &service.real_servers[0])
}

fn address_of(real: &ha_common::service::Real) -> IpAddr {
    narrow(real.addr, VIP)
}

fn hosts(ids: &[u32], state: &State) -> Vec<u8> {
    let mut hosts: Vec<u8> = ids
        .iter()
        .map(|&id| state.reals[id as usize].addr::<u32>().to_ne_bytes()[3])
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// What a packet may rely on at any moment.
fn check_consistent(state: &State) {
    for (address, local) in &state.addrs {
        let shared = local.kind == addr_kind::SHARED;
        assert!(
            !shared || state.filter.has(*address),
            "{address} is nobody's"
        );
    }
    for (key, service) in &state.services {
        let last = state.reals[usize::from(service.last_resort)];
        assert!(service.last_resort == 0 || last.service == service.id);
        let timeouts = state.timeouts[usize::from(service.id)];
        assert_ne!(timeouts.established_ns, 0, "no idle times for {key:?}");
        for ids in [state.table(key).unwrap(), state.members(key).unwrap()] {
            for &id in ids {
                let real = &state.reals[id as usize];
                assert_ne!(id, 0);
                assert_eq!(real.service, service.id, "slot of {key:?} names a stranger");
                assert_ne!(RealState::from_u8(real.state), RealState::Unused);
                let address = narrow(real.addr, key.addr);
                assert!(state.filter.has(address), "{address} is nobody's");
            }
        }
    }
}

/// Applies and checks after every step.
fn apply(table: &mut ServiceTable, fake: &Fake) {
    let desired = table.desired();
    for step in table.applied.plan(&desired).steps {
        table.applied.perform(step, fake).unwrap();
        check_consistent(&fake.state());
    }
    table.apply(fake).unwrap();
    assert!(!table.dirty);
}

fn record(port: u16, host: u8) -> Record {
    Record {
        key: FlowKey {
            src: Ipv4Addr::new(192, 0, 2, 9).into(),
            dst: VIP,
            sport: 40_000u16.to_be(),
            dport: port.to_be(),
            proto: 6,
        },
        real_addr: server(host),
        from_addr: Ipv4Addr::UNSPECIFIED.into(),
        real_port: 8080u16.to_be(),
        from_port: 0,
        state: ConnState::Established as u8,
        flags: flags::BY_HASH | flags::HOP_KNOWN,
        version: 3,
    }
}

#[test]
fn a_configuration_reaches_the_maps() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(42);
    table
        .configure(&[service(80, &[(21, 1), (22, 3)]), service(81, &[(23, 1)])])
        .unwrap();
    let local = |kind| LocalAddr { kind, ifindex: 0 };
    let own: IpAddr = Ipv4Addr::new(10, 0, 0, 11).into();
    table.set_addresses([
        (own, local(addr_kind::OWN)),
        (VIP, local(addr_kind::SHARED)),
    ]);
    apply(&mut table, &fake);

    let state = fake.state();
    let web = state.services[&key(80)];
    assert_eq!(
        (web.hash_seed, web.table_len, web.members_len),
        (42, 16_381, 2)
    );
    table.set_hash_seed(43);
    drop(state);
    apply(&mut table, &fake);
    let state = fake.state();
    assert_eq!(state.services[&key(80)].hash_seed, 43);
    let slots = state.table(&key(80)).unwrap();
    assert_eq!(hosts(slots, &state), [21, 22]);
    let heavy = u32::from(table.lookup(&real(80, 22)).unwrap().real.id);
    let share = slots.iter().filter(|&&id| id == heavy).count();
    assert!((12_280..=12_290).contains(&share), "{share}");
    assert_eq!(hosts(state.members(&key(81)).unwrap(), &state), [23]);
    assert_eq!(state.addrs[&VIP].kind, addr_kind::SHARED);
    assert!(state.filter.has(VIP) && state.filter.has(server(23)));
    assert!(!state.filter.has(own));
    let from = ListenKey {
        addr: server(23),
        port: 8080u16.to_be(),
        proto: 6,
    };
    let path = state.return_paths[&from];
    assert_eq!(
        (path.vip, path.vport, path.ambiguous),
        (VIP, 81u16.to_be(), 0)
    );
    assert_eq!(path.service, state.services[&key(81)].id);
}

#[test]
fn nothing_changed_means_nothing_done() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    apply(&mut table, &fake);
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    let desired = table.desired();
    assert_eq!(table.applied.plan(&desired), plan::Plan::default());
}

#[test]
fn both_nodes_choose_the_same_server() {
    let (here, there) = (Fake::new(100), Fake::new(100));
    let mut first = ServiceTable::new(9);
    let mut second = ServiceTable::new(9);
    let servers = [(21, 1), (22, 2), (23, 1)];
    let mut reversed = servers;
    reversed.reverse();
    second.configure(&[service(81, &[(30, 1)])]).unwrap();
    first.configure(&[service(80, &servers)]).unwrap();
    second
        .configure(&[service(81, &[(30, 1)]), service(80, &reversed)])
        .unwrap();
    apply(&mut first, &here);
    apply(&mut second, &there);
    let addresses = |fake: &Fake| -> Vec<IpAddr> {
        let state = fake.state();
        let slots = state.table(&key(80)).unwrap().to_vec();
        slots
            .iter()
            .map(|&id| address_of(&state.reals[id as usize]))
            .collect()
    };
    assert_eq!(addresses(&here), addresses(&there));
}

#[test]
fn a_drained_server_keeps_its_number_and_gets_nothing_new() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table
        .configure(&[service(80, &[(21, 1), (22, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    let before = table.lookup(&real(80, 21)).unwrap();
    table
        .configure(&[service(80, &[(21, 0), (22, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    assert_eq!(table.lookup(&real(80, 21)), Some(before));
    let state = fake.state();
    assert_eq!(hosts(state.table(&key(80)).unwrap(), &state), [22]);
    let drained = state.reals[usize::from(before.real.id)];
    assert_eq!(RealState::from_u8(drained.state), RealState::Draining);
}

#[test]
fn a_removed_server_drains_until_nothing_uses_it() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table
        .configure(&[service(80, &[(21, 1), (22, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    let gone = table.lookup(&real(80, 21)).unwrap().real;
    table.configure(&[service(80, &[(22, 1)])]).unwrap();
    apply(&mut table, &fake);
    assert_eq!(
        fake.state().reals[usize::from(gone.id)].state,
        RealState::Draining as u8
    );

    let mut counts = vec![0; maps::REALS_ENTRIES as usize];
    counts[usize::from(gone.id)] = 1;
    table.scanned(Instant::from_nanos(0), &counts);
    table.scanned(Instant::from_nanos(0) + LINGER * 2, &counts);
    assert!(table.lookup(&real(80, 21)).is_some(), "still used");
    apply(&mut table, &fake);
    counts[usize::from(gone.id)] = 0;
    table.scanned(Instant::from_nanos(0) + LINGER * 2, &counts);
    assert!(
        table.lookup(&real(80, 21)).is_some(),
        "a half-open connection may yet complete"
    );
    table.scanned(Instant::from_nanos(0) + LINGER * 3, &counts);
    assert_eq!(table.lookup(&real(80, 21)), None);
    apply(&mut table, &fake);
    let state = fake.state();
    let slot = state.reals[usize::from(gone.id)];
    assert_eq!(
        (slot.state, slot.generation),
        (RealState::Unused as u8, gone.generation)
    );
    assert!(
        !state
            .return_paths
            .keys()
            .any(|from| from.addr == server(21))
    );
}

#[test]
fn a_removed_service_goes_but_its_connections_stay() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table
        .configure(&[service(80, &[(21, 1)]), service(81, &[(22, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    let gone = table.lookup(&real(81, 22)).unwrap();
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    apply(&mut table, &fake);
    {
        let state = fake.state();
        assert!(!state.services.contains_key(&key(81)));
        assert_eq!(
            state.reals[usize::from(gone.real.id)].state,
            RealState::Draining as u8
        );
    }
    assert_eq!(
        table.entries(&record(81, 99), 0),
        None,
        "no new servers for a service that leaves"
    );
    table
        .configure(&[service(80, &[(21, 1)]), service(81, &[(22, 1)])])
        .unwrap();
    assert_eq!(
        table.lookup(&real(81, 22)),
        Some(gone),
        "back with the same numbers"
    );
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    table.scanned(Instant::from_nanos(0), &[]);
    table.scanned(Instant::from_nanos(0) + LINGER, &[]);
    assert_eq!(table.status(&[]).len(), 2, "the maps still refer to it");
    apply(&mut table, &fake);
    table.scanned(Instant::from_nanos(0) + LINGER, &[]);
    apply(&mut table, &fake);
    assert_eq!(table.status(&[]).len(), 1);
}

#[test]
fn health_takes_a_server_out_and_brings_it_back() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table
        .configure(&[service(80, &[(21, 1), (22, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    let before = fake.state().table(&key(80)).unwrap().to_vec();
    assert!(table.set_health(&real(80, 21), false));
    assert!(!table.set_health(&real(80, 21), false), "no news");
    assert!(!table.set_health(&real(80, 99), false), "no such server");
    apply(&mut table, &fake);
    {
        let state = fake.state();
        assert_eq!(hosts(state.table(&key(80)).unwrap(), &state), [22]);
        let id = table.lookup(&real(80, 21)).unwrap().real.id;
        assert_eq!(state.reals[usize::from(id)].state, RealState::Down as u8);
    }
    table.set_health(&real(80, 22), false);
    apply(&mut table, &fake);
    assert_eq!(fake.state().services[&key(80)].table_len, 0, "nobody left");
    table.set_health(&real(80, 21), true);
    table.set_health(&real(80, 22), true);
    apply(&mut table, &fake);
    assert_eq!(fake.state().table(&key(80)).unwrap(), before);
}

#[test]
fn a_server_of_two_services_cannot_be_told_apart_by_its_packets() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table
        .configure(&[service(80, &[(21, 1)]), service(81, &[(21, 1), (22, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    let ambiguous = |host| {
        let from = ListenKey {
            addr: server(host),
            port: 8080u16.to_be(),
            proto: 6,
        };
        fake.state().return_paths[&from].ambiguous
    };
    assert_eq!((ambiguous(21), ambiguous(22)), (1, 0));
}

#[test]
fn the_way_to_a_server_is_filled_in() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    let hop = Hop {
        ifindex: 4,
        mac: [2, 0, 0, 0, 0, 1],
        src_mac: [2, 0, 0, 0, 0, 2],
    };
    table.set_hop(server(21), Some(hop));
    apply(&mut table, &fake);
    let id = usize::from(table.lookup(&real(80, 21)).unwrap().real.id);
    let value = fake.state().reals[id];
    assert_eq!(
        (value.hop_known, value.ifindex, value.mac, value.src_mac),
        (1, 4, hop.mac, hop.src_mac)
    );
    table.set_hop(server(21), None);
    apply(&mut table, &fake);
    assert_eq!(fake.state().reals[id].hop_known, 0);
    assert_eq!(table.addresses().collect::<Vec<_>>(), [server(21)]);
}

#[test]
fn a_new_agent_goes_on_with_what_it_finds() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table
        .configure(&[service(80, &[(21, 1), (22, 1)]), service(81, &[(23, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    table
        .configure(&[service(80, &[(22, 1), (24, 1)]), service(81, &[(23, 1)])])
        .unwrap();
    apply(&mut table, &fake);
    let before: Vec<_> = [(80, 21), (80, 22), (80, 24), (81, 23)]
        .map(|(port, host)| table.lookup(&real(port, host)))
        .into();

    let mut table = ServiceTable::adopt(1, &fake).unwrap();
    table
        .configure(&[service(80, &[(22, 1), (25, 1)])])
        .unwrap();
    let after: Vec<_> = [(80, 21), (80, 22), (80, 24), (81, 23)]
        .map(|(port, host)| table.lookup(&real(port, host)))
        .into();
    assert_eq!(before, after);
    apply(&mut table, &fake);
    let state = fake.state();
    assert!(!state.services.contains_key(&key(81)));
    assert_eq!(hosts(state.table(&key(80)).unwrap(), &state), [22, 25]);
    let drains = before[0].unwrap().real.id;
    assert_eq!(
        state.reals[usize::from(drains)].state,
        RealState::Draining as u8
    );
}

/// The table that a service had before, as a packet finds it.
fn former(state: &State, port: u16) -> Option<Vec<u32>> {
    let table = state.services[&key(port)].former_offset as usize;
    let len = *state.slots.get(table.checked_sub(1)?)? as usize;
    Some(state.slots[table..table + len].to_vec())
}

#[test]
fn the_table_before_a_change_counts_for_a_while() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    let now = Instant::from_nanos(0);
    let current = |fake: &Fake| fake.state().table(&key(80)).unwrap().to_vec();
    let mut before = Vec::new();
    for servers in [2, 3, 5, 4] {
        let servers: Vec<(u8, u32)> = (21..).take(servers).map(|host| (host, 1)).collect();
        table
            .configure(&[service(80, &servers), service(81, &[(30, 1)])])
            .unwrap();
        apply(&mut table, &fake);
        let state = fake.state();
        assert_eq!(former(&state, 80).unwrap_or_default(), before);
        assert_eq!(former(&state, 81), None, "nothing has changed there");
        drop(state);
        before = current(&fake);
        // The way to a real server is no other table.
        let hop = Hop {
            ifindex: servers.len() as u32,
            mac: [2; 6],
            src_mac: [2; 6],
        };
        table.set_hop(server(21), Some(hop));
        apply(&mut table, &fake);
    }
    let held = former(&fake.state(), 80);
    table.scanned(now, &[]);
    table.scanned(now + LINGER - Duration::from_secs(1), &[]);
    apply(&mut table, &fake);
    assert_eq!(former(&fake.state(), 80), held);
    assert!(held.is_some());
    table.scanned(now + LINGER, &[]);
    apply(&mut table, &fake);
    assert_eq!(former(&fake.state(), 80), None);
    assert_eq!(current(&fake), before);
}

#[test]
fn a_table_for_another_seed_leads_nobody_back() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    for servers in [2, 3] {
        let servers: Vec<(u8, u32)> = (21..).take(servers).map(|host| (host, 1)).collect();
        table.configure(&[service(80, &servers)]).unwrap();
        apply(&mut table, &fake);
    }
    assert!(former(&fake.state(), 80).is_some());
    table.set_hash_seed(2);
    apply(&mut table, &fake);
    assert_eq!(former(&fake.state(), 80), None);
}

#[test]
fn tables_are_replaced_as_room_allows() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    // Together as large as tables may be: all at once they have no room beside their replacements.
    let services: Vec<VirtualService> = (0..32)
        .map(|n| {
            let servers: Vec<(u8, u32)> = (1..=100).map(|host| (host, 1)).collect();
            service(1000 + n, &servers)
        })
        .collect();
    table.configure(&services).unwrap();
    table.apply(&fake).unwrap();
    let mut changed = services;
    // The tables before are given up for it.
    for drained in 0..3 {
        for service in &mut changed {
            service.real_servers[drained].weight = 0;
        }
        table.configure(&changed).unwrap();
        table.apply(&fake).unwrap();
        let state = fake.state();
        check_consistent(&state);
        for service in state.services.keys() {
            let used = hosts(state.table(service).unwrap(), &state);
            assert!(!used.contains(&(drained as u8 + 1)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is reloaded and whenever the data plane fails, packets find something consistent, and
    /// once it works again the maps are what a fresh start would have made of the configuration.
    #[test]
    fn failures_delay_but_never_corrupt(
        configurations in prop::collection::vec(
            prop::collection::btree_map(80u16..84, prop::collection::btree_map(1u8..8, 0u32..4, 0..6), 0..4),
            1..6,
        ),
        seed: u64,
    ) {
        let failing = Failing::new(Fake::new(10), 250, Rng::new(seed));
        let mut table = ServiceTable::new(5);
        let mut services = Vec::new();
        for configuration in configurations {
            services = configuration
                .iter()
                .map(|(port, servers)| {
                    let servers: Vec<(u8, u32)> = servers.iter().map(|(h, w)| (*h, *w)).collect();
                    service(*port, &servers)
                })
                .collect();
            table.configure(&services).unwrap();
            for _ in 0..3 {
                let result = table.apply(&failing);
                check_consistent(&failing.inner().state());
                if result.is_ok() {
                    break;
                }
            }
        }
        while table.apply(&failing).is_err() {}
        let fresh = Fake::new(10);
        let mut other = ServiceTable::new(5);
        other.configure(&services).unwrap();
        other.apply(&fresh).unwrap();
        let (state, expected) = (failing.inner().state(), fresh.state());
        prop_assert_eq!(
            state.services.keys().collect::<Vec<_>>(),
            expected.services.keys().collect::<Vec<_>>()
        );
        for key in state.services.keys() {
            let addresses = |state: &State| -> Vec<IpAddr> {
                let slots = state.table(key).unwrap();
                slots.iter().map(|&id| address_of(&state.reals[id as usize])).collect()
            };
            prop_assert_eq!(addresses(&state), addresses(&expected));
        }
    }
}
