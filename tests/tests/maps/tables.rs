//! Every operation on the maps, one by one and in batches, and the janitor's walk.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_agent::datapath::family::{FlowKey, ListenKey, ReturnRoute};
use ha_agent::datapath::load::{Connections, Loaded, Options};
use ha_agent::datapath::sys::{self, Map, Update};
use ha_agent::datapath::{Cursor, Datapath as _, DatapathError, Filter, Scan, remove_connections};
use ha_agent::proto::time::Instant;
use ha_agent::shell::clock;
use ha_common::conn::{Conn4, ConnKey4, ConnState, Persist, PersistKey4, PersistKey6, flags};
use ha_common::control::{Config, Gate};
use ha_common::maps;
use ha_common::reason::Tally;
use ha_common::service::{
    Address as _, Load, LocalAddr, Real, Service, Timeouts, Traffic, addr_kind,
};

use super::{CONNECTIONS, CONNECTIONS6, Host, connection, connection6, key, key6};

pub(crate) fn operations() -> Result<()> {
    let host = Host::new()?;
    let loaded = host.load()?;
    let datapath = &loaded.datapath;

    // Single elements.
    for address in [key(1).src, key6(1).src] {
        let listen = ListenKey {
            addr: address,
            port: 2,
            proto: 6,
        };
        let service = Service {
            id: 3,
            table_len: 251,
            ..Service::default()
        };
        datapath.put_service(&listen, &service)?;
        assert_eq!(datapath.services()?, [(listen, service)]);
        datapath.remove_service(&listen)?;
        datapath.remove_service(&listen)?;
        assert!(datapath.services()?.is_empty());

        let route = ReturnRoute {
            vip: address,
            vport: 5,
            real: 6,
            real_generation: 7,
            service: 8,
            ambiguous: 1,
        };
        datapath.put_return_path(&listen, &route)?;
        assert_eq!(datapath.return_paths()?, [(listen, route)]);
        datapath.remove_return_path(&listen)?;
        assert!(datapath.return_paths()?.is_empty());

        let shared = LocalAddr {
            kind: addr_kind::SHARED,
            ifindex: 4,
        };
        datapath.put_addr(address, shared)?;
        assert_eq!(datapath.addrs()?, [(address, shared)]);
        datapath.remove_addr(address)?;
        datapath.remove_addr(address)?;
        assert!(datapath.addrs()?.is_empty());

        let mut filter = Filter::default();
        filter.insert(address);
        datapath.set_filter(&filter)?;
        assert_eq!(datapath.filter()?, filter);
        assert!(datapath.filter()?.has(address));
    }
    datapath.set_filter(&Filter::default())?;
    assert_eq!(datapath.filter()?, Filter::default());
    datapath.put_timeouts(1023, &Timeouts::USUAL)?;
    assert_eq!(datapath.timeouts()?.last(), Some(&Timeouts::USUAL));
    datapath.put_timeouts(1023, &Timeouts::default())?;
    assert!(datapath.put_timeouts(1024, &Timeouts::USUAL).is_err());
    loads_and_traffic(&host, &loaded)?;
    clients(&host, &loaded)?;
    let real = Real {
        addr: 7.wide(),
        generation: 2,
        ..Real::default()
    };
    datapath.put_real(4095, &real)?;
    let reals = datapath.reals()?;
    assert_eq!(
        (reals.len(), reals.last()),
        (maps::REALS_ENTRIES as usize, Some(&real))
    );
    assert!(datapath.put_real(4096, &real).is_err());
    datapath.set_config(&Config {
        vhid: 7,
        ..Config::default()
    })?;

    // A large region of an array, and what lies around it.
    let slots: Vec<u32> = (1..=65_521).collect();
    let started = clock::now();
    datapath.put_slots(1000, &slots)?;
    println!(
        "largest Maglev table stored in {:?}",
        clock::now().since(started)
    );
    let map = Map::<u32, u32>::new(sys::object_get(&host.dir.join(maps::SLOTS))?)?;
    let expected = [(999, 0), (1000, 1), (66_520, 65_521), (66_521, 0)];
    for (index, id) in expected {
        assert_eq!(map.lookup(&index)?, Some(id), "{index}");
    }
    let last = maps::SLOTS_ENTRIES - 10;
    assert!(datapath.put_slots(last, &[1; 11]).is_err());

    // Gate and counters.
    let gate = Map::<u32, Gate>::new(sys::object_get(&host.dir.join(maps::GATE))?)?;
    loaded.gate.set_term(7);
    loaded.gate.open_until(Instant::from_nanos(1234));
    let stored = |until_ns, established_until_ns| Gate {
        until_ns,
        established_until_ns,
        term: 7,
        ..Gate::default()
    };
    assert_eq!(gate.lookup(&0)?, Some(stored(1234, 0)));
    loaded.gate.close();
    loaded.gate.hand_over_until(Instant::from_nanos(1235));
    assert_eq!(gate.lookup(&0)?, Some(stored(0, 1235)));
    // What XDP stores is what the agent reads.
    let overtaken = Gate {
        overtaken: 8,
        ..stored(0, 1235)
    };
    gate.update(&0, &overtaken, Update::Any)?;
    assert_eq!(loaded.gate.read(), overtaken);
    loaded.gate.close();
    assert!(datapath.counters()?.len() > Tally::Expired.index() as usize);

    connections(&host, &loaded)
}

pub(crate) fn loads_and_traffic(host: &Host, loaded: &Loaded) -> Result<()> {
    let datapath = &loaded.datapath;
    datapath.put_weight(7, 100)?;
    datapath.set_load(7, 12)?;
    datapath.put_weight(7, 90)?;
    let load = Load {
        connections: 12,
        weight: 90,
    };
    assert_eq!(datapath.loads()?[7], load);
    assert_eq!(datapath.loads()?.len(), maps::REALS_ENTRIES as usize);

    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let map = aya::maps::MapData::from_pin(host.dir.join(maps::TRAFFIC))?;
    let mut map = aya::maps::PerCpuArray::<_, Traffic>::try_from(aya::maps::Map::PerCpuArray(map))?;
    let traffic = |cpu: u64| Traffic {
        connections: 1,
        packets_in: cpu,
        bytes_in: 10 * cpu,
        packets_out: 100 * cpu,
        bytes_out: 1000 * cpu,
        dropped: 2,
    };
    let each: Vec<_> = (0..cpus as u64).map(traffic).collect();
    map.set(7, aya::maps::PerCpuValues::try_from(each)?, 0)?;
    let sum: u64 = (0..cpus as u64).sum();
    let expected = Traffic {
        connections: cpus as u64,
        packets_in: sum,
        bytes_in: 10 * sum,
        packets_out: 100 * sum,
        bytes_out: 1000 * sum,
        dropped: 2 * cpus as u64,
    };
    let found = datapath.traffic()?;
    assert_eq!((found[6], found[7]), (Traffic::default(), expected));
    datapath.clear_traffic(7)?;
    assert_eq!(datapath.traffic()?[7], Traffic::default());
    Ok(())
}

pub(crate) fn clients(host: &Host, loaded: &Loaded) -> Result<()> {
    let datapath = &loaded.datapath;
    let v4 = Map::<PersistKey4, Persist>::new(sys::object_get(&host.dir.join(maps::PERSIST4))?)?;
    let v6 = Map::<PersistKey6, Persist>::new(sys::object_get(&host.dir.join(maps::PERSIST6))?)?;
    for n in 0..100u16 {
        let held = Persist {
            real: 5 + n % 2,
            ..Persist::default()
        };
        let four = PersistKey4 {
            client: n.into(),
            service: 1,
            pad: 0,
        };
        v4.update(&four, &held, Update::Any)?;
        let six = PersistKey6 {
            client: u32::from(n).wide(),
            service: 1,
            pad: 0,
        };
        v6.update(&six, &held, Update::Any)?;
    }
    assert_eq!(datapath.clients()?.len(), 200);
    assert_eq!(datapath.forget_clients(5)?, 100);
    assert_eq!(datapath.forget_clients(5)?, 0);
    let left = datapath.clients()?;
    assert_eq!(left.len(), 100);
    assert!(left.iter().all(|(_, held)| held.real == 6));
    assert_eq!(datapath.forget_clients(6)?, 100);

    // What was read can be stored, and removed one by one.
    datapath.put_clients(&left)?;
    datapath.put_clients(&left)?;
    let mut again = datapath.clients()?;
    assert_eq!(again.len(), 100);
    assert!(again.iter().all(|entry| left.contains(entry)));
    let kept = again.split_off(60);
    let gone: Vec<_> = again.iter().map(|(key, _)| *key).collect();
    assert_eq!(datapath.remove_clients(&gone)?, 60);
    assert_eq!(datapath.remove_clients(&gone)?, 0);
    let found = datapath.clients()?;
    assert_eq!(found.len(), 40);
    assert!(found.iter().all(|entry| kept.contains(entry)));
    Ok(())
}

/// Batches against single operations, on as many connections as the table holds.
pub(crate) fn connections(host: &Host, loaded: &Loaded) -> Result<()> {
    let datapath = &loaded.datapath;
    let entries: Vec<_> = (0..CONNECTIONS)
        .flat_map(|n| connection(n, ConnState::Established, 1))
        .collect();
    let keys: Vec<FlowKey> = entries.iter().map(|(key, _)| *key).collect();
    let forward: Vec<FlowKey> = (0..CONNECTIONS).map(key).collect();
    let raw: Vec<ConnKey4> = keys.iter().map(raw).collect();
    let value = Conn4::default();
    let map = Map::<ConnKey4, Conn4>::new(sys::object_get(&host.dir.join(maps::CONNS4))?)?;

    let per_entry =
        |what: &str, count: usize, work: &mut dyn FnMut() -> Result<()>| -> Result<Duration> {
            let started = clock::now();
            work()?;
            let each = clock::now().since(started) / u32::try_from(count)?;
            println!("{what:<28} {:>6} ns an entry", each.as_nanos());
            Ok(each)
        };
    let count = entries.len();
    let single = per_entry("update, one by one", count, &mut || {
        for key in &raw {
            map.update(key, &value, Update::Any)?;
        }
        Ok(())
    })?;
    per_entry("look up, one by one", count, &mut || {
        for key in &raw {
            ensure!(map.lookup(key)?.is_some());
        }
        Ok(())
    })?;
    per_entry("walk by next key", count, &mut || {
        let mut at = map.next_key(None)?;
        let mut seen = 0;
        while let Some(key) = at {
            seen += 1;
            at = map.next_key(Some(&key))?;
        }
        ensure!(seen == count, "{seen} keys");
        Ok(())
    })?;
    per_entry("delete, one by one", count, &mut || {
        for key in &raw {
            ensure!(map.delete(key)?);
        }
        ensure!(!map.delete(&raw[0])?);
        Ok(())
    })?;

    let batch = per_entry("update, batches of 256", count, &mut || {
        for piece in entries.chunks(256) {
            datapath.put_conns(piece)?;
        }
        Ok(())
    })?;
    // Two a connection: the table is full to the last entry.
    match datapath.put_conns(&[
        entries[0],
        connection(CONNECTIONS + 1, ConnState::Established, 1)[0],
    ]) {
        Err(DatapathError::Full { map, done }) => assert_eq!((map, done), (maps::CONNS4, 1)),
        other => bail!("{other:?} from a full table"),
    }
    let mut found = Vec::new();
    per_entry("scan, pieces of 2048", count, &mut || {
        let mut cursor = Cursor::default();
        loop {
            let scan = datapath.scan_conns(cursor, 2048)?;
            found.extend(scan.entries);
            match scan.next {
                Some(next) => cursor = next,
                None => return Ok(()),
            }
        }
    })?;
    found.sort_unstable_by_key(|(key, _)| *key);
    let mut sorted = entries.clone();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(found, sorted, "a scan sees every entry once");
    assert_eq!(datapath.get_conn(&keys[0])?, Some(entries[0].1));
    let tiny = datapath.scan_conns(Cursor::default(), 1)?;
    assert!(
        !tiny.entries.is_empty(),
        "a bucket larger than the piece is returned whole"
    );

    per_entry("remove connections", 1000, &mut || {
        for piece in forward[..1000].chunks(100) {
            ensure!(remove_connections(datapath, piece)? == 2 * piece.len());
        }
        Ok(())
    })?;
    per_entry("delete, one batch", count, &mut || {
        // A hundredth of them is gone already, here and there.
        ensure!(datapath.remove_conns(&keys)? == count - 2000);
        ensure!(datapath.remove_conns(&keys[..10])? == 0);
        Ok(())
    })?;
    assert_eq!(datapath.scan_conns(Cursor::default(), 10)?.entries, []);
    println!(
        "batches store {:.2} times as fast",
        single.as_secs_f64() / batch.as_secs_f64()
    );

    let started = clock::now();
    datapath.settle()?;
    println!("settling took {:?}", clock::now().since(started));
    Ok(())
}

pub(crate) fn raw(key: &FlowKey) -> ConnKey4 {
    let word = |address| match address {
        IpAddr::V4(v4) => u32::from_ne_bytes(v4.octets()),
        IpAddr::V6(_) => 0,
    };
    ConnKey4 {
        src: word(key.src),
        dst: word(key.dst),
        sport: key.sport,
        dport: key.dport,
        proto: key.proto,
    }
}

/// Connections of both families side by side.
pub(crate) fn families() -> Result<()> {
    let host = Host::new()?;
    let loaded = host.load()?;
    let datapath = &loaded.datapath;
    let mut entries = Vec::new();
    for n in 0..500 {
        entries.extend(connection(n, ConnState::Established, 1));
        entries.extend(connection6(n, ConnState::Established, 1));
    }
    datapath.put_conns(&entries)?;
    let mut found = Vec::new();
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        let scan = datapath.scan_conns(at, 100)?;
        let v6 = scan.entries.iter().filter(|(key, _)| key.dst.is_ipv6());
        let v6 = v6.count();
        ensure!(v6 == 0 || v6 == scan.entries.len(), "a piece of both");
        found.extend(scan.entries);
        cursor = scan.next;
    }
    found.sort_unstable_by_key(|(key, _)| *key);
    let mut sorted = entries.clone();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(found, sorted);
    assert_eq!(datapath.get_conn(&entries[2].0)?, Some(entries[2].1));
    assert_eq!(remove_connections(datapath, &[key6(7), key(7)])?, 4);
    assert_eq!(datapath.get_conn(&key6(7))?, None);

    // A table that is full takes nothing from the other one.
    let more: Vec<_> = (1000..1000 + CONNECTIONS6)
        .flat_map(|n| connection6(n, ConnState::Established, 1))
        .chain(connection(1000, ConnState::Established, 1))
        .collect();
    match datapath.put_conns(&more) {
        Err(DatapathError::Full { map, .. }) => assert_eq!(map, maps::CONNS6),
        other => bail!("{other:?} from a full table"),
    }
    assert!(datapath.get_conn(&key(1000))?.is_some());

    // One way: there is no other half to remove.
    let [mut forward, _] = connection(2000, ConnState::Established, 1);
    forward.1.flags |= flags::ONE_WAY;
    let bystander = (forward.1.partner_key(&forward.0), forward.1);
    datapath.put_conns(&[forward, bystander])?;
    assert_eq!(remove_connections(datapath, &[forward.0])?, 1);
    Ok(())
}

/// No system call may walk through many buckets: the kernel lets nobody else run on that CPU meanwhile.
pub(crate) fn short_calls() -> Result<()> {
    const ELEMENTS: usize = 64;
    const BUCKETS: u32 = 65_536;
    let host = Host::new()?;
    let options = Options {
        connections: Connections {
            v4: maps::CONNS4_ENTRIES / 2,
            v6: 1,
        },
        ..host.options(&["eth0"])?
    };
    let loaded = host.try_load(&options)??;
    let own = connection(1, ConnState::Established, 1);
    loaded.datapath.put_conns(&own)?;
    let mut found = loaded.datapath.scan_conns(Cursor::default(), 1024)?;
    // What follows is the IPv6 table.
    let next = found.next.context("no IPv6 table")?;
    assert_eq!(loaded.datapath.scan_conns(next, 1024)?, Scan::default());
    found.entries.sort_unstable_by_key(|(key, _)| *key);
    let mut wanted = own.to_vec();
    wanted.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(found.entries, wanted);

    let map = Map::<ConnKey4, Conn4>::new(sys::object_get(&host.dir.join(maps::CONNS4))?)?;
    let (mut from, mut calls) = (0, 0);
    while let Some(next) = map.lookup_batch((from > 0).then_some(from), ELEMENTS)?.next {
        ensure!(
            next - from < BUCKETS,
            "from bucket {from} to {next} in one call"
        );
        (from, calls) = (next, calls + 1);
    }
    println!("{calls} calls through {} entries", maps::CONNS4_ENTRIES);
    ensure!(calls > 0, "the whole table in one call");
    Ok(())
}

pub(crate) fn janitor() -> Result<()> {
    let host = Host::new()?;
    let loaded = host.load()?;
    let datapath = &loaded.datapath;
    datapath.put_timeouts(0, &Timeouts::USUAL)?;
    let now = clock::now().as_nanos();
    let hour = 3_600_000_000_000;
    for n in 0..200 {
        let idle = now.saturating_sub(hour).max(1);
        datapath.put_conns(&connection(n, ConnState::Established, idle))?;
        datapath.put_conns(&connection6(n, ConnState::Established, idle))?;
    }
    for n in 200..250 {
        datapath.put_conns(&connection(n, ConnState::Established, now))?;
        datapath.put_conns(&connection6(n, ConnState::Established, now))?;
    }
    // Idle forwards, busy backwards.
    let [forward, mut reverse] = connection(250, ConnState::Established, 1);
    reverse.1.last_seen_ns = now;
    datapath.put_conns(&[forward, reverse])?;
    if now < hour {
        println!("this machine is up for less than an hour: the idle time is shortened");
        let shortened = Timeouts {
            established_ns: now / 2,
            ..Timeouts::USUAL
        };
        datapath.put_timeouts(0, &shortened)?;
    }

    // Both families, in any order.
    let keys: Vec<FlowKey> = (0..252).flat_map(|n| [key(n), key6(n)]).collect();
    let started = clock::now();
    assert_eq!(datapath.expire(&keys)?, 400);
    println!(
        "expiry: {:?} for {} candidates",
        clock::now().since(started),
        keys.len()
    );
    assert_eq!(datapath.expire(&keys)?, 0);
    assert_eq!(datapath.expire(&[])?, 0);
    let left = datapath.scan_conns(Cursor::default(), 4096)?;
    assert_eq!(left.entries.len(), 2 * 51);
    let left6 = datapath.scan_conns(left.next.context("no IPv6 table")?, 4096)?;
    assert_eq!(left6.entries.len(), 2 * 50);
    assert_eq!(datapath.counters()?[Tally::Expired.index() as usize], 400);
    Ok(())
}
