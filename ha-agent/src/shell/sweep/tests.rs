//! Both roles over a map in memory.

use super::*;
use crate::datapath::Cursor;
use crate::datapath::fake::Fake;
use crate::keys::{PairKey, PairKeys};
use crate::proto::rng::Rng;
use crate::proto::sync::{Input, Sweeps, SyncConfig};
use crate::services::tests::service;
use std::net::IpAddr;
use std::thread;

/// Connections that both the map and the table have.
const CONNECTIONS: u16 = 20;

fn record(client: u16) -> Record {
    let shared = IpAddr::from([10, 0, 0, 100]);
    Record {
        key: FlowKey {
            src: [192, 0, 2, 1].into(),
            dst: shared,
            sport: (20_000 + client).to_be(),
            dport: 80u16.to_be(),
            proto: 6,
        },
        real_addr: [10, 1, 0, 21].into(),
        from_addr: [0, 0, 0, 0].into(),
        real_port: 8080u16.to_be(),
        from_port: 0,
        state: 1,
        flags: flags::BY_HASH,
        version: 3,
    }
}

struct World {
    map: Arc<Fake>,
    services: Arc<Mutex<ServiceTable>>,
    sync: Sync,
    sweeper: Sweeper,
    pieces: SyncSender<Piece>,
    out: Vec<Action>,
}

impl World {
    /// A node whose map and table hold the same.
    fn new(active: bool) -> Self {
        let map = Arc::new(Fake::new(1000));
        let mut services = ServiceTable::new(1);
        services
            .configure(&[service(80, &[(21, 1), (22, 1)])])
            .unwrap();
        services.apply(&*map).unwrap();
        let records: Vec<_> = (0..CONNECTIONS).map(record).collect();
        for record in &records {
            let Halves { forward, reverse } = services.entries(record, 5).unwrap();
            map.put_conns(&[reverse.unwrap(), forward]).unwrap();
        }
        let services = Arc::new(Mutex::new(services));
        let mut config = SyncConfig::new(1, 110);
        config.max_entries = 1000;
        let keys = PairKeys::new(vec![PairKey::new(1, [7; 32])]);
        let mut sync = Sync::new(config, keys, [1; 16], Rng::new(1), clock::now());
        let mut out = Vec::new();
        sync.handle_input(clock::now(), Input::Load(records), &mut out);
        if active {
            let role = Input::Role {
                active,
                term: 1,
                salt: [2; 16],
            };
            sync.handle_input(clock::now(), role, &mut out);
        }
        let (sweeper, pieces) = Sweeper::new(Arc::<Fake>::clone(&map), Arc::clone(&services));
        Self {
            map,
            services,
            sync,
            sweeper,
            pieces,
            out,
        }
    }

    /// Walks through the map once, and looks at every suspect as often as it takes.
    fn sweep(&mut self) -> Sweeps {
        let mut began = Some(clock::now());
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            let scan = self.map.scan_conns(from, 8).unwrap();
            cursor = scan.next;
            let piece = Piece {
                entries: scan.entries,
                began: began.take(),
                last: cursor.is_none(),
            };
            self.pieces.try_send(piece).unwrap();
            self.work();
        }
        while let Some(due) = self.sweeper.due(&self.sync) {
            thread::sleep(due.since(clock::now()));
            self.work();
        }
        self.sync.snapshot().sweep
    }

    fn work(&mut self) {
        self.sweeper.work(&mut self.sync, true, &mut self.out);
    }

    /// The map, without what differs from node to node.
    fn entries(&self) -> Vec<(FlowKey, FlowEntry)> {
        let state = self.map.state();
        let plain = state.conns.iter().map(|(key, entry)| {
            let entry = FlowEntry {
                last_seen_ns: 0,
                created_ns: 0,
                ..*entry
            };
            (*key, entry)
        });
        plain.collect()
    }

    /// The entries of every connection that a test has, by its client.
    fn all_halves(&self) -> impl Fn(u16) -> Halves + use<> {
        let mut services = self.services.lock().unwrap();
        let of = |client| services.entries(&record(client), 5).unwrap();
        let all: Vec<_> = (0..102).map(of).collect();
        move |client| all[usize::from(client)]
    }

    fn change(&self, key: &FlowKey, change: impl FnOnce(&mut FlowEntry)) {
        change(self.map.state().conns.get_mut(key).unwrap());
    }
}

#[test]
fn nothing_is_repaired_where_nothing_is_wrong() {
    for active in [false, true] {
        let mut world = World::new(active);
        let before = world.entries();
        let done = world.sweep();
        assert_eq!(
            done,
            Sweeps {
                passes: 1,
                ..Sweeps::default()
            }
        );
        assert_eq!(world.entries(), before);
    }
}

#[test]
fn a_standby_gets_back_what_its_map_lost() {
    let mut world = World::new(false);
    let before = world.entries();
    let of = world.all_halves();
    let reverse = |client: u16| of(client).reverse.unwrap();
    // A forward entry, a reverse one, both; one altered in each way; strays of each kind.
    let gone = [of(0).forward.0, reverse(1).0, of(2).forward.0, reverse(2).0];
    world.map.remove_conns(&gone).unwrap();
    world.change(&of(3).forward.0, |entry| entry.to_port = 9);
    world.change(&of(4).forward.0, |entry| entry.l4_delta ^= 0x55);
    world.change(&reverse(5).0, |entry| entry.l3_delta ^= 0x55);
    world.change(&of(6).forward.0, |entry| entry.real += 1);
    world.change(&of(7).forward.0, |entry| entry.state = 4);
    let stray = of(100);
    let lone = of(101);
    let (reverse_of_3, _) = reverse(3);
    let pairs = [stray.reverse.unwrap(), stray.forward, lone.reverse.unwrap()];
    world.map.put_conns(&pairs).unwrap();
    // What is not compared: the way to the client, times.
    world.change(&of(8).forward.0, |entry| {
        (entry.hop_ifindex, entry.last_seen_ns) = (7, 99);
        entry.flags |= flags::HOP_KNOWN;
    });

    let done = world.sweep();
    world.change(&of(8).forward.0, |entry| {
        entry.hop_ifindex = 0;
        entry.flags &= !flags::HOP_KNOWN;
    });
    assert_eq!(world.entries(), before);
    assert!(before.iter().any(|(key, _)| *key == reverse_of_3));
    assert_eq!((done.told, done.told_gone, done.mended), (0, 0, 0));
    assert_eq!(done.restored, 2, "those without a forward entry");
    assert_eq!(done.replaced, 6);
    assert!(done.removed >= 2, "{done:?}");
    let again = world.sweep();
    assert_eq!(again.repaired(), done.repaired());
}

#[test]
fn an_active_node_tells_what_its_map_holds() {
    let mut world = World::new(true);
    let of = world.all_halves();
    let reverse = |client: u16| of(client).reverse.unwrap();
    let gone = [of(0).forward.0, reverse(1).0, of(2).forward.0, reverse(2).0];
    world.map.remove_conns(&gone).unwrap();
    world.change(&of(3).forward.0, |entry| {
        (entry.state, entry.version) = (2, 4);
    });
    world.change(&of(4).forward.0, |entry| entry.l4_delta ^= 0x55);
    world.change(&reverse(5).0, |entry| entry.l3_delta ^= 0x55);
    let (unknown, lone) = (of(100), of(101));
    let pairs = [
        unknown.reverse.unwrap(),
        unknown.forward,
        lone.reverse.unwrap(),
    ];
    world.map.put_conns(&pairs).unwrap();

    let done = world.sweep();
    assert_eq!((done.told, done.told_gone, done.mended), (2, 2, 3));
    // The half that connection 0 had left, and the one that was nobody's.
    assert_eq!((done.removed, done.restored, done.replaced), (2, 0, 0));
    let state = world.map.state().conns.clone();
    for client in (1..CONNECTIONS).chain([100]).filter(|client| *client != 2) {
        let halves = of(client);
        let (key, _) = halves.forward;
        let known = world.sync.record(&key).unwrap();
        let wanted = Record {
            state: if client == 3 { 2 } else { 1 },
            version: if client == 3 { 4 } else { 3 },
            ..record(client)
        };
        assert!(known.agrees(&wanted), "{known:?}");
        let (reverse_key, _) = halves.reverse.unwrap();
        let target = own_target(&state[&key]);
        for place in [key, reverse_key] {
            assert!(super::halves(&known, target, 0).has(&place, &state[&place]));
        }
    }
    assert_eq!(state.len(), 2 * usize::from(CONNECTIONS - 1));
    for client in [0, 2, 101] {
        assert_eq!(world.sync.record(&record(client).key), None);
    }
    let again = world.sweep();
    assert_eq!(again.repaired(), done.repaired());
}

/// Connections of a service that only the partner has are left alone.
#[test]
fn what_has_no_place_here_is_neither_stored_nor_removed() {
    let mut world = World::new(false);
    let gone = world.all_halves()(0);
    let keys = [gone.forward.0, gone.reverse.unwrap().0];
    world.map.remove_conns(&keys).unwrap();
    let before = world.entries();
    *world.services.lock().unwrap() = ServiceTable::new(1);
    let done = world.sweep();
    assert_eq!((done.repaired(), done.passes), (0, 1));
    assert_eq!(world.entries(), before);
}
