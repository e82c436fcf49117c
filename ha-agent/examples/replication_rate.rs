//! Processor time per replicated record, sender and receiver apart, without network or kernel:
//! `cargo run --release -p ha-agent --example replication_rate [CONNECTIONS]`.
#![expect(clippy::print_stdout, reason = "its report")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ha_agent::datapath::family::{FlowKey, none_like};
use ha_agent::keys::{PairKey, PairKeys};
use ha_agent::proto::rng::Rng;
use ha_agent::proto::sync::{Action, Change, Input, Record, Sync, SyncConfig};
use ha_agent::proto::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// Changes between two flushes: what a ring holds when the agent looks.
const BATCH: usize = 64;

fn main() -> anyhow::Result<()> {
    let connections = match std::env::args().nth(1) {
        Some(number) => number.parse()?,
        None => 1_000_000,
    };
    let mut pair = Pair::new(connections)?;
    pair.wait_ready()?;
    let shared = IpAddr::from([10, 0, 0, 100]);
    let record = |client: u32, version| Record {
        key: FlowKey {
            src: Ipv4Addr::from_bits(client.wrapping_mul(0x9e37_79b1)).into(),
            dst: shared,
            sport: client as u16,
            dport: 80,
            proto: 6,
        },
        real_addr: Ipv4Addr::from_bits(0x0a01_0000 + client % 16).into(),
        from_addr: none_like(shared),
        real_port: 8080,
        from_port: 0,
        state: 1 + u8::from(version > 1),
        flags: 0,
        version,
    };
    let clients = || 0..connections as u32;
    pair.stream(
        "add",
        clients().map(|client| Change::Put(record(client, 1))),
    )?;
    pair.stream(
        "state",
        clients().map(|client| Change::Put(record(client, 2))),
    )?;
    pair.transfer(connections)?;
    pair.stream(
        "delete",
        clients().map(|client| Change::Delete(record(client, 2).key)),
    )
}

struct Pair {
    active: Sync,
    standby: Sync,
    now: Instant,
    ready: bool,
    /// Seconds of processor time spent in each machine.
    spent: [f64; 2],
    bytes: usize,
    packets: usize,
}

fn config(node: u8, connections: usize) -> SyncConfig {
    let mut config = SyncConfig::new(node, 1);
    config.max_entries = connections;
    config.transfer_rate = 1_000_000;
    config
}

fn machine(node: u8, salt: [u8; 16], connections: usize, now: Instant) -> Sync {
    let keys = PairKeys::new(vec![PairKey::new(1, [1; 32])]);
    Sync::new(
        config(node, connections),
        keys,
        salt,
        Rng::new(u64::from(node)),
        now,
    )
}

fn processor_time() -> anyhow::Result<f64> {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?);
    Ok(time.as_secs_f64())
}

impl Pair {
    fn new(connections: usize) -> anyhow::Result<Self> {
        let now = Instant::from_nanos(1_000_000_000);
        let mut pair = Self {
            active: machine(1, [1; 16], connections, now),
            standby: machine(2, [2; 16], connections, now),
            now,
            ready: false,
            spent: [0.0; 2],
            bytes: 0,
            packets: 0,
        };
        let role = Input::Role {
            active: true,
            term: 1,
            salt: [3; 16],
        };
        let mut actions = Vec::new();
        pair.active.handle_input(now, role, &mut actions);
        pair.exchange(actions)?;
        Ok(pair)
    }

    /// Carries packets to and fro until both are silent.
    fn exchange(&mut self, mut to_standby: Vec<Action>) -> anyhow::Result<()> {
        let mut to_active = Vec::new();
        loop {
            let start = processor_time()?;
            for action in to_standby.drain(..) {
                if let Action::Send { bytes, .. } = action {
                    self.bytes += bytes.len();
                    self.packets += 1;
                    let input = Input::Packet { bytes: &bytes };
                    self.standby.handle_input(self.now, input, &mut to_active);
                }
            }
            let middle = processor_time()?;
            for action in to_active.drain(..) {
                match action {
                    Action::Send { bytes, .. } => {
                        let input = Input::Packet { bytes: &bytes };
                        self.active.handle_input(self.now, input, &mut to_standby);
                    }
                    Action::Ready(ready) => self.ready = ready,
                    Action::Apply { .. } | Action::Record(_) => {}
                }
            }
            self.spent[1] += middle - start;
            self.spent[0] += processor_time()? - middle;
            if to_standby.is_empty() {
                return Ok(());
            }
        }
    }

    fn pass_time(&mut self, time: Duration) -> anyhow::Result<()> {
        self.now = self.now + time;
        let mut to_standby = Vec::new();
        let mut to_active = Vec::new();
        let start = processor_time()?;
        self.active.handle_timeout(self.now, &mut to_standby);
        let middle = processor_time()?;
        self.standby.handle_timeout(self.now, &mut to_active);
        self.spent[0] += middle - start;
        self.spent[1] += processor_time()? - middle;
        for action in to_active {
            match action {
                Action::Send { bytes, .. } => {
                    let input = Input::Packet { bytes: &bytes };
                    self.active.handle_input(self.now, input, &mut to_standby);
                }
                Action::Ready(ready) => self.ready = ready,
                Action::Apply { .. } | Action::Record(_) => {}
            }
        }
        self.exchange(to_standby)
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        for _ in 0..1_000_000 {
            if self.ready {
                return Ok(());
            }
            self.pass_time(Duration::from_micros(250))?;
        }
        anyhow::bail!("the standby does not become ready")
    }

    fn reset(&mut self) {
        self.spent = [0.0; 2];
        (self.bytes, self.packets) = (0, 0);
    }

    fn stream(&mut self, name: &str, changes: impl Iterator<Item = Change>) -> anyhow::Result<()> {
        self.reset();
        let mut records = 0;
        let mut changes = changes.peekable();
        while changes.peek().is_some() {
            self.now = self.now + Duration::from_micros(50);
            let mut actions = Vec::new();
            let at = self.now;
            let start = processor_time()?;
            for change in changes.by_ref().take(BATCH) {
                records += 1;
                self.active
                    .handle_input(at, Input::Local { change, at }, &mut actions);
            }
            self.active.handle_input(at, Input::Flush, &mut actions);
            self.spent[0] += processor_time()? - start;
            self.exchange(actions)?;
        }
        self.pass_time(Duration::from_millis(1))?;
        self.report(name, records);
        anyhow::ensure!(self.active.snapshot().entries == self.standby.snapshot().entries);
        Ok(())
    }

    /// A full transfer to an empty standby.
    fn transfer(&mut self, connections: usize) -> anyhow::Result<()> {
        self.standby = machine(2, [4; 16], connections, self.now);
        self.ready = false;
        self.reset();
        let before = self.now;
        self.wait_ready()?;
        self.report("transfer", connections);
        println!(
            "{:>9}  {:.2} s until ready on a network without delay",
            "",
            self.now.since(before).as_secs_f64()
        );
        Ok(())
    }

    fn report(&self, name: &str, records: usize) {
        let [sender, receiver] = self.spent.map(|spent| spent * 1e9 / records as f64);
        println!(
            "{name:>9}  {records} records: sender {sender:.0} ns, receiver {receiver:.0} ns each ({:.2} and {:.2} million a second); \
             {:.1} bytes a record in {} packets",
            1e3 / sender,
            1e3 / receiver,
            self.bytes as f64 / records as f64,
            self.packets,
        );
    }
}
