//! Two CPUs that see packets of one flow at the same moment must agree on one connection.

use ha_common::conn::{Conn4, ConnKey4};
use ha_common::event::EventKind;
use ha_common::reason::Tally;
use ha_ebpf::conntrack::entry::{Created, create};
use ha_ebpf::fake::FakeTables;
use ha_ebpf::packet::Hop;
use ha_ebpf::rewrite::{Direction, Translation};
use ha_ebpf::schedule::{Target, reverse_key};
use ha_ebpf::work::Work;
use proptest::prelude::*;

const KEY: ConnKey4 = ConnKey4 {
    src: 1,
    dst: 2,
    sport: 3,
    dport: 4,
    proto: 17,
};
fn target(addr: u32) -> Target<u32> {
    Target {
        addr,
        port: 80,
        real: addr as u16,
        generation: 1,
        service: 1,
        ..Target::default()
    }
}

fn make(tables: &FakeTables, target: Target<u32>) -> Created {
    let mut work = Work {
        key: KEY,
        target,
        ..Work::default()
    };
    create(tables, &mut work, &Hop::UNKNOWN)
}

fn entries(tables: &FakeTables) -> Vec<(ConnKey4, Conn4)> {
    let mut all = tables.v4.conns.all();
    all.sort_by_key(|(_, conn)| conn.is_reverse());
    all
}

/// Another CPU makes its pair between the two insertions of this one.
fn race(ours: u32, theirs: u32, before_first: bool) -> (Created, FakeTables) {
    let tables = FakeTables::default();
    let other = Box::new(move |tables: &FakeTables| {
        assert_eq!(make(tables, target(theirs)), Created::New);
    });
    // The last one runs first.
    tables.interruptions.borrow_mut().push(other);
    if !before_first {
        tables.interruptions.borrow_mut().push(Box::new(|_| {}));
    }
    let created = make(&tables, target(ours));
    (created, tables)
}

#[test]
fn one_pair_is_left_and_whole() {
    for before_first in [true, false] {
        for (ours, theirs) in [(10, 11), (10, 10)] {
            let (created, tables) = race(ours, theirs, before_first);
            assert_eq!(created, Created::Existing);
            let all = entries(&tables);
            assert_eq!(all.len(), 2, "{before_first} {ours} {theirs}: {all:?}");
            assert_eq!(all[0].0, KEY);
            assert_eq!(all[0].1.to_addr, theirs);
            assert_eq!(all[1].0, reverse_key(&KEY, (theirs, 80)));
            assert_eq!(all[1].1.partner_key(&all[1].0), KEY);
        }
    }
}

#[test]
fn a_connection_is_announced_by_its_maker_only() {
    let tables = FakeTables::default();
    let mut config = tables.config.get(&()).unwrap();
    config.emit_events = 1;
    tables.config.put((), config);
    for wanted in [Created::New, Created::Existing] {
        assert_eq!(make(&tables, target(10)), wanted);
    }
    let events = tables.v4.events.borrow();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, EventKind::Add as u8);
    assert_eq!(tables.tally(Tally::EventLost), 0);
}

proptest! {
    #[test]
    fn there_and_back_is_where_it_was(vip: u32, real: u32, vport: u16, port: u16, sum in 1..=0xfffeu16) {
        use ha_common::checksum::apply;
        let key = |src: (u32, u16), dst: (u32, u16)| ConnKey4 {
            src: src.0,
            dst: dst.0,
            sport: src.1,
            dport: dst.1,
            proto: 6,
        };
        let (client, shared, server) = ((1, 2), (vip, vport), (real, port));
        let there = Translation::new(&key(client, shared), Direction::Forward, server, None);
        let back = Translation::new(&key(server, client), Direction::Reverse, shared, None);
        let after = apply(apply(sum, there.l4_delta.into()), back.l4_delta.into());
        prop_assert_eq!(after, sum);
        let after = apply(apply(sum, there.l3_delta.into()), back.l3_delta.into());
        prop_assert_eq!(after, sum);
    }
}
