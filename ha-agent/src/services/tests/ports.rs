//! Services with several ports, or any.

use super::*;

/// A service at several ports of its address, whose real servers keep them.
fn many(first: u16, last: u16, hosts: &[u8]) -> VirtualService {
    let mut service = service(first, &[]);
    service.ports = Ports::Range { first, last };
    service.real_servers = hosts.iter().map(|host| at_any_port(*host)).collect();
    service
}

fn any(hosts: &[u8]) -> VirtualService {
    VirtualService {
        ports: Ports::Any,
        ..many(1, 2, hosts)
    }
}

fn at_any_port(host: u8) -> RealServer {
    RealServer {
        port: None,
        ..real_server(server(host), 1)
    }
}

fn of(service: &VirtualService, host: u8) -> RealKey {
    RealKey::new(service, &at_any_port(host))
}

fn return_of(fake: &Fake, host: u8, port: u16) -> Option<crate::datapath::family::ReturnRoute> {
    let from = ListenKey {
        addr: server(host),
        port: port.to_be(),
        proto: 6,
    };
    fake.state().return_paths.get(&from).copied()
}

/// A connection to this port of a real server that keeps ports.
fn kept(port: u16, host: u8) -> Record {
    Record {
        real_port: port.to_be(),
        ..record(port, host)
    }
}

#[test]
fn a_range_is_one_service_at_every_port() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    let service = many(8000, 8010, &[21, 22]);
    table.configure(std::slice::from_ref(&service)).unwrap();
    apply(&mut table, &fake);
    let state = fake.state();
    assert_eq!(state.services.len(), 11);
    let first = state.services[&key(8000)];
    assert!(state.services.values().all(|value| *value == first));
    let real = table.lookup(&of(&service, 21)).unwrap().real;
    assert_eq!(state.reals[usize::from(real.id)].port, 0);
    drop(state);
    let path = return_of(&fake, 21, 0).unwrap();
    assert_eq!((path.vport, path.real, path.ambiguous), (0, real.id, 0));
}

#[test]
fn ports_come_and_go_without_new_numbers() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table.configure(&[many(8000, 8010, &[21])]).unwrap();
    apply(&mut table, &fake);
    let before = table.lookup(&of(&many(8000, 8010, &[]), 21));
    let shorter = many(8000, 8005, &[21]);
    table.configure(std::slice::from_ref(&shorter)).unwrap();
    apply(&mut table, &fake);
    assert_eq!(fake.state().services.len(), 6);
    assert_eq!(table.lookup(&of(&shorter, 21)), before);
    let mut table = ServiceTable::adopt(1, &fake).unwrap();
    table.configure(std::slice::from_ref(&shorter)).unwrap();
    assert_eq!(
        table.lookup(&of(&shorter, 21)),
        before,
        "a new agent goes on with it"
    );
    let desired = table.desired();
    let services = table.applied.plan(&desired).steps;
    assert!(
        !services
            .iter()
            .any(|step| matches!(step, plan::Step::Begin(_))),
        "{services:?}"
    );
}

#[test]
fn replicated_connections_find_the_service_of_their_port() {
    let mut table = ServiceTable::new(1);
    let services = [many(8000, 8010, &[21]), service(80, &[(22, 1)]), any(&[23])];
    table.configure(&services).unwrap();
    let mut found = |record: &Record| table.entries(record, 0).map(|halves| halves.forward.1);
    let (range, one, rest) = (
        found(&kept(8005, 21)).unwrap(),
        found(&record(80, 22)).unwrap(),
        found(&kept(443, 23)).unwrap(),
    );
    let ids =
        [&services[0], &services[1], &services[2]].map(|s| table.services[&service_key(s)].id);
    assert_eq!([range.service, one.service, rest.service], ids);
    assert_eq!(
        range.real,
        table.lookup(&of(&services[0], 21)).unwrap().real.id
    );
    assert_eq!(
        rest.real,
        table.lookup(&of(&services[2], 23)).unwrap().real.id
    );
    assert_eq!(rest.to_port, 443u16.to_be());
    // A real server that only the partner knows is one, whatever the port.
    let mut found = |record: &Record| table.entries(record, 0).map(|halves| halves.forward.1.real);
    assert_eq!(found(&kept(8001, 77)), found(&kept(8002, 77)));
}

#[test]
fn a_port_of_its_own_is_not_told_from_a_range_by_its_answers() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    let mut own = service(8005, &[(21, 1), (22, 1)]);
    for real in &mut own.real_servers {
        real.port = Some(8005);
    }
    own.address = Ipv4Addr::new(10, 0, 0, 101).into();
    table.configure(&[many(8000, 8010, &[21]), own]).unwrap();
    apply(&mut table, &fake);
    let ambiguous = |host, port| return_of(&fake, host, port).unwrap().ambiguous;
    assert_eq!((ambiguous(21, 8005), ambiguous(22, 8005)), (1, 0));
    assert_eq!(ambiguous(21, 0), 0, "no other port is anybody else's");
}

#[test]
fn as_many_ports_as_there_may_be_can_be_replaced() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    let full = |from: u16| -> Vec<VirtualService> {
        let firsts = (0..4).map(|n| from + n * 4096);
        firsts
            .map(|first| many(first, first + 4095, &[21]))
            .collect()
    };
    table.configure(&full(1000)).unwrap();
    table.apply(&fake).unwrap();
    assert_eq!(fake.state().services.len(), maps::SERVICES_ENTRIES as usize);
    table.configure(&full(30_000)).unwrap();
    table.apply(&fake).unwrap();
    let state = fake.state();
    assert_eq!(state.services.len(), maps::SERVICES_ENTRIES as usize);
    assert!(state.services.contains_key(&key(30_000)));
}
