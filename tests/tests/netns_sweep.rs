//! The kernel's tables of both nodes are changed behind the agents' backs, as anybody with `bpftool` can do it,
//! and become equal again, key by key.

#![expect(
    clippy::indexing_slicing,
    reason = "two nodes, two tables; another index fails the test"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::proto::sync::Sweeps;
use ha_common::conn::{Conn4, ConnKey4};
use ha_common::rig::FLOODERS;
use ha_tests::clock::{now_ns, until};
use ha_tests::demo::SERVICE;
use ha_tests::packet::{Frame, flag};
use ha_tests::rig::arp;
use ha_tests::rig::config::{CLIENT, PairConfig, SHARED_FRONT};
use ha_tests::rig::conns::{Conns, differing};
use ha_tests::rig::generator::Generator;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::conversation::Conversation;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("what_a_standby_loses_is_stored_again", standby),
            ("what_an_active_node_loses_its_partner_loses", active),
            ("a_full_ring_loses_nothing_for_good", overflow),
        ],
    )
}

/// What is promised.
const REPAIRED: Duration = Duration::from_secs(31);
const CONNECTIONS: usize = 40;

struct World {
    pair: Pair,
    active: usize,
    /// Of the active node and of the standby.
    tables: [Conns; 2],
    talks: Vec<Conversation>,
}

impl World {
    fn new(config: PairConfig) -> Result<Self> {
        let mut pair = Pair::build(config)?;
        pair.start()?;
        let open = |_| Conversation::open(&pair.client, SERVICE.into());
        let talks = (0..CONNECTIONS).map(open).collect::<Result<Vec<_>>>()?;
        let active = pair.active()?;
        let [one, other] = [active, 1 - active].map(|node| Conns::open(&pair.nodes[node]));
        let world = Self {
            pair,
            active,
            tables: [one?, other?],
            talks,
        };
        world.until_equal(2 * CONNECTIONS)?;
        Ok(world)
    }

    const fn standby(&self) -> &Node {
        &self.pair.nodes[1 - self.active]
    }

    fn node(&self) -> &Node {
        &self.pair.nodes[self.active]
    }

    fn sweeps(node: &Node) -> Result<Sweeps> {
        Ok(node.status()?.replication.sweep)
    }

    /// Waits until both tables are equal, with at least as many entries.
    fn until_equal(&self, least: usize) -> Result<()> {
        let [one, other] = &self.tables;
        let end = now_ns() + u64::try_from(REPAIRED.as_nanos())?;
        loop {
            let differing = differing(one, other)?;
            let entries = one.all()?.len();
            if differing.is_empty() && entries >= least {
                return Ok(());
            }
            ensure!(
                now_ns() < end,
                "{} of {entries} entries differ after {REPAIRED:?}: {:?}; {:?}; {:?}",
                differing.len(),
                differing.first(),
                self.node().status()?.replication,
                self.standby().status()?.replication,
            );
            sleep(Duration::from_millis(200));
        }
    }

    /// Both entries of a connection.
    fn halves(&self, table: usize, talk: usize) -> Result<[(ConnKey4, Conn4); 2]> {
        let table = self.tables.get(table).context("no such table")?;
        let stream = self.talks.get(talk).context("no such connection")?.stream();
        Ok([table.forward(stream)?, table.reverse(stream)?])
    }

    /// Stores the entries of a connection that does not exist, made after one that does, and returns them.
    fn invent(&self, table: usize, port: u16) -> Result<[(ConnKey4, Conn4); 2]> {
        let [(mut key, forward), (_, reverse)] = self.halves(table, CONNECTIONS - 1)?;
        key.sport = port.to_be();
        let reverse_key = forward.partner_key(&key);
        let halves = [(reverse_key, reverse), (key, forward)];
        for (key, entry) in &halves {
            self.tables[table].put(key, entry)?;
        }
        Ok(halves)
    }

    fn change(
        &self,
        table: usize,
        (key, mut entry): (ConnKey4, Conn4),
        change: impl FnOnce(&mut Conn4),
    ) -> Result<()> {
        change(&mut entry);
        self.tables[table].put(&key, &entry)
    }

    /// Every connection goes on with correct bytes.
    fn talk(&mut self) -> Result<()> {
        for talk in &mut self.talks {
            talk.talk(1000)?;
        }
        Ok(())
    }
}

fn standby() -> Result<()> {
    const ACTIVE: usize = 0;
    const STANDBY: usize = 1;
    let mut world = World::new(PairConfig::default())?;
    let table = &world.tables[STANDBY];
    let before = World::sweeps(world.standby())?;
    let halves = |talk| world.halves(STANDBY, talk);
    // A connection without its forward entry, one without its reverse entry, one without both.
    table.delete(&halves(0)?[0].0)?;
    table.delete(&halves(1)?[1].0)?;
    let [forward, reverse] = halves(2)?;
    table.delete(&forward.0)?;
    table.delete(&reverse.0)?;
    world.change(STANDBY, halves(3)?[0], |entry| entry.to_port = 9)?;
    world.change(STANDBY, halves(4)?[0], |entry| entry.l4_delta ^= 0x0101)?;
    world.change(STANDBY, halves(5)?[1], |entry| entry.l3_delta ^= 0x0101)?;
    world.change(STANDBY, halves(6)?[0], |entry| entry.state = 4)?;
    world.change(STANDBY, halves(7)?[0], |entry| entry.real += 1)?;
    world.change(STANDBY, halves(8)?[1], |entry| *entry = Conn4::default())?;
    world.invent(STANDBY, 20_000)?;
    // A half that nobody knows.
    let [_, (key, _)] = world.invent(STANDBY, 20_001)?;
    table.delete(&key)?;

    world.until_equal(2 * CONNECTIONS)?;
    let real = |table: usize| anyhow::Ok(world.halves(table, 7)?.map(|(_, entry)| entry.real));
    assert_eq!(real(STANDBY)?, real(ACTIVE)?, "both number alike here");
    // What was counted is published a moment later.
    let mut after = before;
    until("the repairs are counted", || {
        after = World::sweeps(world.standby())?;
        Ok(after.restored - before.restored == 2
            && after.replaced - before.replaced >= 6
            && after.removed - before.removed >= 2)
    })
    .with_context(|| format!("{after:?}"))?;
    assert_eq!((after.told, after.told_gone, after.mended), (0, 0, 0));
    assert_eq!(World::sweeps(world.node())?.repaired(), 0);

    // It is more than equal to look at: connections go on through it.
    world.node().failover()?;
    world.talk()
}

fn active() -> Result<()> {
    const ACTIVE: usize = 0;
    let mut world = World::new(PairConfig::default())?;
    let table = &world.tables[ACTIVE];
    let before = World::sweeps(world.node())?;
    let halves = |talk| world.halves(ACTIVE, talk);
    let [forward, reverse] = halves(0)?;
    table.delete(&forward.0)?;
    table.delete(&reverse.0)?;
    // Its other half goes with it.
    let [alone, left] = halves(1)?;
    table.delete(&alone.0)?;
    table.delete(&halves(2)?[1].0)?;
    world.change(ACTIVE, halves(3)?[0], |entry| entry.l4_delta ^= 0x0101)?;
    world.change(ACTIVE, halves(4)?[1], |entry| entry.l4_delta ^= 0x0101)?;
    world.change(ACTIVE, halves(5)?[0], |entry| {
        entry.state = 2;
        entry.version += 1;
    })?;
    let invented = world.invent(ACTIVE, 20_000)?;

    let end = now_ns() + u64::try_from(REPAIRED.as_nanos())?;
    let counted = |after: &Sweeps| {
        (
            after.told - before.told,
            after.told_gone - before.told_gone,
            after.mended - before.mended,
            after.removed - before.removed,
        )
    };
    while counted(&World::sweeps(world.node())?) != (2, 2, 3, 1) {
        let found = World::sweeps(world.node())?;
        ensure!(now_ns() < end, "after {REPAIRED:?}: {found:?}");
        sleep(Duration::from_millis(200));
    }
    world.until_equal(2 * (CONNECTIONS - 1))?;
    let [table, copy] = &world.tables;
    for (key, _) in [forward, reverse, alone, left] {
        assert_eq!((table.get(&key)?, copy.get(&key)?), (None, None));
    }
    for (key, _) in invented {
        assert!(copy.get(&key)?.is_some(), "the partner was not told");
    }
    assert_eq!(World::sweeps(world.standby())?.repaired(), 0);
    // Also those two that were deleted: their packets find the same real server.
    world.talk()?;
    world.until_equal(2 * CONNECTIONS)
}

/// Nobody reads the ring while a hundred thousand connections begin, so it overflows.
fn overflow() -> Result<()> {
    const RATE: u64 = 60_000;
    let mut world = World::new(PairConfig {
        interval: Duration::from_secs(1),
        // The agent is silent for a while, and stays active.
        timeout: Duration::from_mins(1),
        ..PairConfig::default()
    })?;
    let mac = arp::holder(&world.pair.client, "front", CLIENT, SHARED_FRONT)?;
    let own = world.pair.client.run(|| arp::mac_of("front"))?;
    // As if a connection had begun before this node was asked: it is rebuilt.
    let from = SocketAddrV4::new(Ipv4Addr::from_bits(FLOODERS), 40_000);
    let frame = Frame::tcp(from, SERVICE, flag::ACK).macs(own, mac).build();
    // The real servers would reset what they do not know.
    world.node().back.swallow_flood();
    let port = world.node().front.name().to_owned();
    let switch = world.pair.switch.netns().clone();
    let lost = |node: &Node| -> Result<u64> {
        let counters = node.counters()?.counters;
        let lost = counters
            .iter()
            .find(|counter| counter.name == "events_lost");
        Ok(lost.context("no such counter")?.value)
    };
    assert_eq!(lost(world.node())?, 0);

    world.node().signal(Signal::SIGSTOP)?;
    let mut flood = Generator::of_many_clients(RATE)?;
    let sent = flood.run(&switch, &port, &frame, Duration::from_secs(2));
    world.node().signal(Signal::SIGCONT)?;
    sent?;
    let began = now_ns();
    ensure!(lost(world.node())? > 1000, "the ring did not overflow");
    world.until_equal(160_000)?;
    let seconds = (now_ns() - began) as f64 / 1e9;
    let found = World::sweeps(world.node())?;
    assert!(found.told > 1000, "{found:?} after {seconds:.1} s");
    assert_eq!(world.pair.active()?, world.active);
    world.talk()
}
