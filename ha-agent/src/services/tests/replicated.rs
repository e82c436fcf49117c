//! Connections that the partner tells of.

use super::*;

#[test]
fn replicated_connections_get_both_entries() {
    let mut table = ServiceTable::new(1);
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    let record = record(80, 21);
    let halves = table.entries(&record, 77).unwrap();
    let ((key, forward), (reverse_key, reverse)) = (halves.forward, halves.reverse.unwrap());
    assert_eq!(key, record.key);
    assert_eq!(
        (forward.to_addr, forward.to_port),
        (record.real_addr, record.real_port)
    );
    assert_eq!((reverse.to_addr, reverse.to_port), (key.dst, key.dport));
    assert_eq!(reverse_key, forward.partner_key(&key));
    assert_eq!(key, reverse.partner_key(&reverse_key));
    assert_eq!(forward.flags, flags::REPLICATED | flags::BY_HASH);
    assert_eq!(
        reverse.flags,
        flags::REPLICATED | flags::BY_HASH | flags::REVERSE
    );
    assert_eq!((forward.version, forward.last_seen_ns), (3, 77));
    let target = table.lookup(&real(80, 21)).unwrap();
    assert_eq!(
        (forward.real, forward.real_generation),
        (target.real.id, target.real.generation)
    );
    assert_eq!(forward.service, target.service);
}

#[test]
fn a_server_that_only_the_partner_knows_drains() {
    let fake = Fake::new(100);
    let mut table = ServiceTable::new(1);
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    apply(&mut table, &fake);
    let forward = table.entries(&record(80, 77), 0).unwrap().forward;
    apply(&mut table, &fake);
    {
        let state = fake.state();
        let value = state.reals[usize::from(forward.1.real)];
        assert_eq!(
            (address_of(&value), value.state),
            (server(77), RealState::Draining as u8)
        );
        assert_eq!(hosts(state.table(&key(80)).unwrap(), &state), [21]);
    }
    assert_eq!(table.entries(&record(81, 77), 0), None);
    assert_eq!(table.refused(), 1);
    table
        .configure(&[service(80, &[(21, 1), (77, 1)])])
        .unwrap();
    assert_eq!(
        table.lookup(&real(80, 77)).unwrap().real.id,
        forward.1.real,
        "same number"
    );
}

#[test]
fn the_partner_cannot_use_up_the_numbers_silently() {
    let mut table = ServiceTable::new(1);
    table.configure(&[service(80, &[(21, 1)])]).unwrap();
    let mut refused = 0;
    for n in 0..5000u16 {
        let mut record = record(80, 1);
        record.real_port = n;
        refused += u64::from(table.entries(&record, 0).is_none());
    }
    assert_eq!(refused, 5000 - 4094);
    assert_eq!(table.refused(), refused);
    let error = table
        .configure(&[service(80, &[(21, 1), (22, 1)])])
        .unwrap_err();
    assert_eq!(error, ServiceError::TooManyRealServers);
    assert!(table.lookup(&real(80, 21)).is_some(), "nothing changed");
}
