//! The data plane in the kernel, as the agent handles it: loading, attaching, taking over what a
//! killed agent left, refusing what is not its own, and the speed of the maps.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: a wrong index fails it, and figures are for whoever runs it"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{Xdp, XdpMode as AyaMode};
use ha_agent::datapath::attach::{AttachError, Device, XdpMode};
use ha_agent::datapath::family::{FlowEntry, FlowKey, ListenKey, ReturnRoute, entry_to};
use ha_agent::datapath::load::{Connections, LoadError, Loaded, Options, load_object};
use ha_agent::datapath::sys::{self, Map, Update};
use ha_agent::datapath::{Cursor, Datapath as _, DatapathError, Filter, Scan, remove_connections};
use ha_agent::proto::time::Instant;
use ha_agent::shell::clock;
use ha_agent::shell::netlink::Netlink;
use ha_common::conn::{Conn4, ConnKey4, ConnState, Persist, PersistKey4, PersistKey6, flags};
use ha_common::control::{Config, Gate};
use ha_common::reason::Tally;
use ha_common::service::{
    Address as _, Load, LocalAddr, Real, Service, Timeouts, Traffic, addr_kind,
};
use ha_common::stage::STAGES;
use ha_common::{LAYOUT_VERSION, maps};
use ha_tests::rig::netns::Netns;
use ha_tests::rig::process::Process;
use ha_tests::rig::{Run, locate};
use nix::sys::signal::Signal;

/// First argument of this program when it plays an agent that is to be killed.
const HOLD: &str = "hold-the-data-plane";
const CONNECTIONS: u32 = 100_000;
/// The same for IPv6.
const CONNECTIONS6: u32 = 10_000;
const TABLES: Connections = Connections {
    v4: CONNECTIONS,
    v6: CONNECTIONS6,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, verb, dir] = arguments.as_slice()
        && verb == HOLD
    {
        return match hold(Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    common::run(
        &["ip"],
        &[],
        &[
            (
                "every_map_operation_works_and_batches_are_faster",
                operations,
            ),
            ("both_families_are_kept_apart", families),
            ("stages_outlive_the_agent_that_filled_them", stages),
            ("a_large_empty_table_is_read_in_short_calls", short_calls),
            ("the_janitor_deletes_what_is_idle_and_only_that", janitor),
            ("a_killed_agent_is_succeeded", succession),
            ("programs_are_loaded_once", loaded_once),
            ("a_clean_stop_leaves_nothing", clean_stop),
            ("a_foreign_program_is_named_and_spared", foreign),
            ("pins_of_another_layout_are_refused", layouts),
            ("without_native_mode_generic_is_used", generic),
            ("a_replaced_interface_is_attached_anew", replaced),
            ("a_bpf_file_system_is_mounted_where_none_is", mounting),
            ("missing_privileges_are_named", privileges),
        ],
    )
}

/// One host with two interfaces.
struct Host {
    netns: Netns,
    dir: PathBuf,
    run: Run,
}

impl Host {
    fn new() -> Result<Self> {
        let run = Run::start()?;
        let netns = run.namespace("node")?;
        netns.ip("link add eth0 type veth peer name far0\n\
             link add eth1.7 type veth peer name far1\n\
             link set eth0 up\n\
             link set far0 up\n\
             link set eth1.7 up\n\
             link set far1 up\n")?;
        let dir = run.mount_bpf("node")?.join("ha-agent");
        Ok(Self { netns, dir, run })
    }

    fn load(&self) -> Result<Loaded> {
        Ok(self.try_load(&self.options(&["eth0", "eth1.7"])?)??)
    }

    fn try_load(&self, options: &Options) -> Result<Result<Loaded, LoadError>> {
        let object = object()?;
        self.netns.run(|| Ok(load_object(&object, options)))
    }

    fn options(&self, devices: &[&str]) -> Result<Options> {
        Ok(Options {
            bpf_dir: self.dir.clone(),
            connections: TABLES,
            devices: self.devices(devices)?,
            continued: false,
        })
    }

    fn devices(&self, names: &[&str]) -> Result<Vec<Device>> {
        self.netns.run(|| devices(names))
    }

    /// Whether an XDP program is on the interface.
    fn has_xdp(&self, device: &str) -> Result<bool> {
        let devices = self.devices(&[device])?;
        Ok(devices.iter().any(|device| device.attached.is_some()))
    }
}

fn object() -> Result<Vec<u8>> {
    Ok(fs::read(locate::bpf_object("ha_xdp")?)?)
}

fn devices(names: &[&str]) -> Result<Vec<Device>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (netlink, _changes) = Netlink::connect()?;
        let mut devices = Vec::new();
        for name in names {
            let link = netlink
                .link(name)
                .await?
                .with_context(|| format!("no device {name}"))?;
            devices.push(Device {
                name: link.device,
                ifindex: link.ifindex,
                attached: link.xdp,
            });
        }
        Ok(devices)
    })
}

/// An agent that loads, opens its gate, and waits to be killed.
fn hold(dir: &Path) -> Result<()> {
    let options = Options {
        bpf_dir: dir.to_owned(),
        connections: TABLES,
        devices: devices(&["eth0", "eth1.7"])?,
        continued: false,
    };
    let loaded = load_object(&object()?, &options)?;
    loaded
        .datapath
        .put_conns(&connection(1, ConnState::Established, 1))?;
    loaded.datapath.put_real(
        5,
        &Real {
            generation: 9,
            state: 1,
            ..Real::default()
        },
    )?;
    loaded.gate.open_always();
    println!("ready");
    loop {
        std::thread::park();
    }
}

fn key(n: u32) -> FlowKey {
    FlowKey {
        src: Ipv4Addr::from_bits(n).into(),
        dst: [10, 0, 0, 100].into(),
        sport: (1024 + (n % 50_000) as u16).to_be(),
        dport: 80u16.to_be(),
        proto: 6,
    }
}

fn key6(n: u32) -> FlowKey {
    FlowKey {
        src: Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)).into(),
        dst: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100).into(),
        ..key(n)
    }
}

/// Both entries of a connection.
type Pair = [(FlowKey, FlowEntry); 2];

fn connection(n: u32, state: ConnState, last_seen_ns: u64) -> Pair {
    pair(key(n), [10, 1, 0, 21].into(), state, last_seen_ns)
}

fn connection6(n: u32, state: ConnState, last_seen_ns: u64) -> Pair {
    let real = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x21);
    pair(key6(n), real.into(), state, last_seen_ns)
}

fn pair(key: FlowKey, real: IpAddr, state: ConnState, last_seen_ns: u64) -> Pair {
    let forward = FlowEntry {
        to_port: 8080u16.to_be(),
        real: 5,
        state: state as u8,
        last_seen_ns,
        ..entry_to(real)
    };
    let reverse = FlowEntry {
        to_addr: key.dst,
        to_port: key.dport,
        flags: flags::REVERSE,
        ..forward
    };
    [(key, forward), (forward.partner_key(&key), reverse)]
}

fn operations() -> Result<()> {
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

fn loads_and_traffic(host: &Host, loaded: &Loaded) -> Result<()> {
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

fn clients(host: &Host, loaded: &Loaded) -> Result<()> {
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
fn connections(host: &Host, loaded: &Loaded) -> Result<()> {
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

fn raw(key: &FlowKey) -> ConnKey4 {
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
fn families() -> Result<()> {
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
fn short_calls() -> Result<()> {
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

fn janitor() -> Result<()> {
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

fn succession() -> Result<()> {
    let host = Host::new()?;
    let log = host.run.host_dir("node")?.join("log");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(HOLD).arg(&host.dir);
    let mut agent = Process::start("agent", &host.netns, &mut command, &log)?;
    let end = clock::now() + Duration::from_secs(30);
    while !agent.log().contains("ready") {
        ensure!(
            agent.ended()?.is_none() && clock::now() < end,
            "{}",
            agent.log()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.signal(Signal::SIGKILL)?;
    agent.wait(Duration::from_secs(5))?;
    assert!(
        host.has_xdp("eth0")? && host.has_xdp("eth1.7")?,
        "the program outlives its agent"
    );

    let loaded = host.load()?;
    for attachment in &loaded.attachments {
        assert!(attachment.taken_over, "{attachment:?}");
        assert_eq!(attachment.mode, XdpMode::Native);
    }
    assert_eq!(
        loaded.gate.read(),
        Gate::default(),
        "a new agent starts with the gate closed"
    );
    assert!(
        loaded.datapath.get_conn(&key(1))?.is_some(),
        "connections live on"
    );
    assert_eq!(loaded.datapath.reals()?[5].generation, 9);

    // Without one of its interfaces the next agent lets go of it.
    drop(loaded);
    let loaded = host.try_load(&host.options(&["eth0"])?)??;
    assert!(loaded.attachments[0].taken_over);
    assert!(host.has_xdp("eth0")? && !host.has_xdp("eth1.7")?);
    Ok(())
}

/// The pins of arrays of stages.
fn arrays(host: &Host) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(&host.dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with("_stages") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Programs in an array of stages.
fn filled(array: &Path) -> Result<usize> {
    let map = Map::<u32, u32>::new(sys::object_get(array)?)?;
    let mut found = 0;
    for stage in 0..STAGES as u32 {
        found += usize::from(map.lookup(&stage)?.is_some());
    }
    Ok(found)
}

fn stages() -> Result<()> {
    let host = Host::new()?;
    drop(host.load()?);
    let [first] = &*arrays(&host)? else {
        bail!("{:?}", arrays(&host)?);
    };
    assert_eq!(filled(first)?, STAGES);
    let mut other = object()?;
    other.push(0);
    let options = host.options(&["eth0"])?;
    let loaded = host.netns.run(|| Ok(load_object(&other, &options)))??;
    let [second] = &*arrays(&host)? else {
        bail!("{:?}", arrays(&host)?);
    };
    assert_ne!(first, second, "each set of programs has its own");
    assert_eq!(filled(second)?, STAGES);
    loaded.pins.remove()?;
    assert!(!host.dir.exists());
    Ok(())
}

/// Programs that are in the kernel are used again, but only those of the same object over the same maps.
fn loaded_once() -> Result<()> {
    let host = Host::new()?;
    let options = host.options(&["eth0"])?;
    let running = |object: &[u8]| {
        let loaded = host.netns.run(|| Ok(load_object(object, &options)))??;
        assert!(loaded.gate.read() == Gate::default());
        let found = host.devices(&["eth0"])?;
        let pinned = fs::read_dir(&host.dir)?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name.starts_with("prog_") || name.starts_with("next_"))
            .map(|name| name.chars().take(37).collect());
        let pinned: BTreeSet<String> = pinned.collect();
        assert_eq!(pinned.len(), 1, "those of one object: {pinned:?}");
        found[0].attached.map(|found| found.program).context("none")
    };
    let mut object = object()?;
    let first = running(&object)?;
    assert_eq!(running(&object)?, first);
    // Another object, though it does the same.
    object.push(0);
    let second = running(&object)?;
    assert_ne!(second, first);
    assert_eq!(running(&object)?, second);
    // The same object, but the agent has lost one of its maps and makes it anew.
    fs::remove_file(host.dir.join(maps::HEARD))?;
    let third = running(&object)?;
    assert_ne!(third, second);
    assert_eq!(running(&object)?, third);
    // Not all of the programs.
    let janitor = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with("janitor");
    let entry = fs::read_dir(&host.dir)?.flatten().find(janitor);
    fs::remove_file(entry.context("the janitor is not pinned")?.path())?;
    assert_ne!(running(&object)?, third);
    Ok(())
}

fn clean_stop() -> Result<()> {
    let host = Host::new()?;
    let loaded = host.load()?;
    assert!(host.has_xdp("eth0")? && host.has_xdp("eth1.7")?);
    assert!(
        loaded
            .attachments
            .iter()
            .all(|found| !found.taken_over && found.mode == XdpMode::Native)
    );
    for name in [
        maps::CONNS4,
        maps::GATE,
        maps::VERSION,
        "link_eth0",
        "link_eth1:7",
    ] {
        assert!(host.dir.join(name).exists(), "{name}");
    }
    let version = Map::<u32, u32>::new(sys::object_get(&host.dir.join(maps::VERSION))?)?;
    assert_eq!(version.lookup(&0)?, Some(LAYOUT_VERSION));
    loaded.pins.remove()?;
    loaded.pins.remove()?;
    assert!(!host.dir.exists());
    assert!(!host.has_xdp("eth0")? && !host.has_xdp("eth1.7")?);
    Ok(())
}

fn foreign() -> Result<()> {
    let host = Host::new()?;
    let mut rig = aya::Ebpf::load_file(locate::bpf_object("ha_rig")?)?;
    let pass: &mut Xdp = rig
        .program_mut("ha_pass")
        .context("no ha_pass")?
        .try_into()?;
    pass.load()?;
    let id = pass.info()?.id();
    let link = host
        .netns
        .run(|| Ok(pass.attach("eth0", AyaMode::Driver)?))?;
    match host.try_load(&host.options(&["eth0"])?)? {
        Err(LoadError::Attach(error @ AttachError::Foreign { program, .. })) => {
            assert_eq!(program, id);
            let text = error.to_string();
            assert!(
                text.contains("eth0") && text.contains("ip link set dev eth0 xdp off"),
                "{text}"
            );
        }
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("attached over a foreign program"),
    }
    // The kernel knows even if nobody told us.
    let mut unaware = host.options(&["eth0"])?;
    unaware.devices[0].attached = None;
    match host.try_load(&unaware)? {
        Err(LoadError::Attach(AttachError::Busy { device })) => assert_eq!(device, "eth0"),
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("attached over a foreign program"),
    }
    assert!(host.has_xdp("eth0")?, "the other program is still there");
    pass.detach(link)?;
    host.load()?;
    Ok(())
}

fn layouts() -> Result<()> {
    let host = Host::new()?;
    drop(host.load()?);
    let mut larger = host.options(&["eth0", "eth1.7"])?;
    larger.connections.v4 *= 2;
    match host.try_load(&larger)? {
        Err(error @ LoadError::Layout { .. }) => {
            let text = error.to_string();
            let named = [
                maps::CONNS4,
                &host.dir.display().to_string(),
                "200000",
                "400000",
                "rm -r",
            ];
            assert!(named.iter().all(|name| text.contains(name)), "{text}");
        }
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("took over a table of another size"),
    }
    let version = Map::<u32, u32>::new(sys::object_get(&host.dir.join(maps::VERSION))?)?;
    version.update(&0, &(LAYOUT_VERSION + 1), Update::Any)?;
    match host.try_load(&host.options(&["eth0"])?)? {
        Err(LoadError::Layout { property, .. }) => assert_eq!(property, "layout version"),
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("took over maps of another layout"),
    }
    fs::remove_file(host.dir.join(maps::VERSION))?;
    let missing = host.try_load(&host.options(&["eth0"])?)?;
    assert!(matches!(missing, Err(LoadError::NoVersion { .. })));
    // Something else where a map belongs.
    fs::remove_file(host.dir.join(maps::CONNS4))?;
    let link = sys::object_get(&host.dir.join("link_eth0"))?;
    sys::object_pin(link.as_fd(), &host.dir.join(maps::CONNS4))?;
    let wrong = host.try_load(&host.options(&["eth0"])?)?;
    assert!(matches!(
        wrong,
        Err(LoadError::Pin { .. } | LoadError::Layout { .. })
    ));
    drop(link);
    assert!(host.has_xdp("eth0")?, "a refusal changes nothing");

    // The remedy that the messages name.
    fs::remove_dir_all(&host.dir)?;
    let end = clock::now() + Duration::from_secs(10);
    while host.has_xdp("eth0")? {
        // The kernel detaches by and by.
        ensure!(clock::now() < end, "still attached");
        std::thread::sleep(Duration::from_millis(10));
    }
    host.load()?;
    Ok(())
}

fn generic() -> Result<()> {
    let host = Host::new()?;
    host.netns
        .ip("link add br0 type bridge\nlink set br0 up\n")?;
    let loaded = host.try_load(&host.options(&["br0"])?)??;
    assert_eq!(loaded.attachments[0].mode, XdpMode::Generic);
    let again = host.try_load(&host.options(&["br0"])?)??;
    assert_eq!(
        (again.attachments[0].mode, again.attachments[0].taken_over),
        (XdpMode::Generic, true)
    );
    Ok(())
}

fn replaced() -> Result<()> {
    let host = Host::new()?;
    drop(host.load()?);
    host.netns
        .ip("link del eth0\nlink add eth0 type veth peer name far0\nlink set eth0 up\n")?;
    let loaded = host.load()?;
    let taken: Vec<bool> = loaded
        .attachments
        .iter()
        .map(|found| found.taken_over)
        .collect();
    assert_eq!(taken, [false, true]);
    assert!(host.has_xdp("eth0")?);
    Ok(())
}

fn mounting() -> Result<()> {
    let mut host = Host::new()?;
    host.dir = host.run.host_dir("node")?.join("no").join("bpffs");
    let loaded = host.load()?;
    assert!(host.dir.join(maps::GATE).exists());
    drop(loaded);
    let loaded = host.load()?;
    assert!(loaded.attachments[0].taken_over, "mounted only once");
    loaded.pins.remove()?;
    for entry in fs::read_dir(&host.dir)? {
        // A fresh BPF file system may have entries of the kernel's own.
        let name = entry?.file_name().to_string_lossy().into_owned();
        assert!(
            !name.starts_with("ha_") && !name.starts_with("link_"),
            "{name}"
        );
    }

    let file = host.run.host_dir("node")?.join("file");
    fs::write(&file, "")?;
    host.dir = file;
    let error = host
        .try_load(&host.options(&[])?)?
        .err()
        .context("loaded into a file")?;
    assert!(error.to_string().contains("not a directory"), "{error}");
    Ok(())
}

fn privileges() -> Result<()> {
    let host = Host::new()?;
    let options = host.options(&["eth0"])?;
    let object = object()?;
    let error = host.netns.run(|| {
        drop_capabilities()?;
        load_object(&object, &options)
            .err()
            .context("loaded without privileges")
    })?;
    let text = error.to_string();
    assert!(
        matches!(error, LoadError::Privileges { .. }) && text.contains("CAP_BPF"),
        "{text}"
    );
    Ok(())
}

/// Takes all capabilities from the calling thread.
fn drop_capabilities() -> Result<()> {
    // `struct __user_cap_header_struct` and `__user_cap_data_struct[2]` of linux/capability.h.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: both arrays are as long as the system call reads; `pid` 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    ensure!(result == 0, "cannot drop capabilities");
    Ok(())
}
