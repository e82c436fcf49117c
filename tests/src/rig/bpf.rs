//! The data plane's object, loaded but attached nowhere, and run on single frames.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4};
use ha_common::control::{Config, Gate};
use ha_common::event::{CarpSeen, ConnEvent4, Evidence};
use ha_common::pair::{Digest, Heard, LINKS, Pair, Peer};
use ha_common::reason::{COUNTERS, REASONS, Reason, Tally};
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};
use ha_common::{LAYOUT_VERSION, maps};

/// Interface that frames of a test run seem to come in on: the loopback's, which is 1 everywhere.
pub const INGRESS: u32 = 1;

/// Sizes of the maps, where tests need other than the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of the connection table, two a connection.
    pub conns: u32,
    /// Half-open connections.
    pub embryos: u32,
    /// Bytes of the event ring, a power of two of at least a page.
    pub events: u32,
    /// Bytes of the ring of advertisements.
    pub carp: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            conns: 4096,
            embryos: 1024,
            events: 1 << 16,
            carp: 1 << 16,
        }
    }
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The XDP action.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// How long it took.
    pub duration: Duration,
}

/// The data plane in the kernel.
pub struct DataPlane {
    ebpf: Ebpf,
    /// `ha_conns4`.
    pub conns: HashMap<MapData, ConnKey4, Conn4>,
    /// `ha_embryo4`.
    pub embryos: HashMap<MapData, EmbryoKey4, Embryo4>,
    /// `ha_services4`.
    pub services: HashMap<MapData, ServiceKey4, Service>,
    /// `ha_return4`.
    pub return_paths: HashMap<MapData, ServiceKey4, ReturnPath4>,
    /// `ha_addrs4`.
    pub addrs: HashMap<MapData, u32, LocalAddr>,
    /// `ha_addrs6`.
    pub addrs6: HashMap<MapData, Addr6, LocalAddr>,
    /// `ha_pair`.
    pub pair: Array<MapData, Pair>,
    /// `ha_peers`.
    pub peers: Array<MapData, Peer>,
    /// `ha_digests`.
    pub digests: Array<MapData, Digest>,
    /// `ha_reals`.
    pub reals: Array<MapData, Real>,
    /// `ha_slots`.
    pub slots: Array<MapData, u32>,
    /// `ha_gate`.
    pub gate: Array<MapData, Gate>,
    /// `ha_config`.
    pub config: Array<MapData, Config>,
    /// `ha_version`.
    pub version: Array<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    adverts: RingBuf<MapData>,
    evidence: RingBuf<MapData>,
    /// `ha_heard`.
    pub heard: Array<MapData, Heard>,
    buckets: Array<MapData, u64>,
}

impl DataPlane {
    /// Loads the object.
    pub fn load(object: &Path, sizes: Sizes) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::CONNS4, sizes.conns)
            .map_max_entries(maps::EMBRYO4, sizes.embryos)
            .map_max_entries(maps::EVENTS, sizes.events)
            .map_max_entries(maps::CARP, sizes.carp)
            .load_file(object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        for name in ["ha_xdp", "ha_janitor"] {
            program_mut(&mut ebpf, name)?
                .load()
                .with_context(|| format!("the kernel refuses {name}"))?;
        }
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name} in the object"))
        };
        let mut plane = Self {
            conns: take(maps::CONNS4)?.try_into()?,
            embryos: take(maps::EMBRYO4)?.try_into()?,
            services: take(maps::SERVICES4)?.try_into()?,
            return_paths: take(maps::RETURN4)?.try_into()?,
            addrs: take(maps::ADDRS4)?.try_into()?,
            addrs6: take(maps::ADDRS6)?.try_into()?,
            pair: take(maps::PAIR)?.try_into()?,
            peers: take(maps::PEERS)?.try_into()?,
            digests: take(maps::DIGESTS)?.try_into()?,
            evidence: take(maps::EVIDENCE)?.try_into()?,
            heard: take(maps::HEARD)?.try_into()?,
            buckets: take(maps::BUCKETS)?.try_into()?,
            reals: take(maps::REALS)?.try_into()?,
            slots: take(maps::SLOTS)?.try_into()?,
            gate: take(maps::GATE)?.try_into()?,
            config: take(maps::CONFIG)?.try_into()?,
            version: take(maps::VERSION)?.try_into()?,
            counters: take(maps::REASONS)?.try_into()?,
            events: take(maps::EVENTS)?.try_into()?,
            adverts: take(maps::CARP)?.try_into()?,
            ebpf,
        };
        plane.version.set(0, LAYOUT_VERSION, 0)?;
        Ok(plane)
    }

    /// Runs the main program on a frame that lies behind `headroom` bytes of rubbish, a multiple of
    /// four.
    pub fn run(&self, frame: &[u8], headroom: usize) -> Result<Outcome> {
        self.test_run("ha_xdp", frame, headroom, 1)
    }

    /// Lets the janitor look at connections; returns how many it deleted.
    pub fn janitor(&self, keys: &[ConnKey4]) -> Result<u32> {
        let mut list = vec![0; 16];
        for key in keys {
            list.extend(key.src.to_ne_bytes());
            list.extend(key.dst.to_ne_bytes());
            list.extend(key.sport.to_ne_bytes());
            list.extend(key.dport.to_ne_bytes());
            list.extend(key.proto.to_ne_bytes());
        }
        Ok(self.test_run("ha_janitor", &list, 0, 1)?.action)
    }

    fn test_run(&self, name: &str, frame: &[u8], headroom: usize, repeat: u32) -> Result<Outcome> {
        let program = self.program(name)?;
        let mut input = vec![0xff; headroom];
        input.extend(frame);
        // `struct xdp_md`: where the packet starts within the input, where it ends, and no interface.
        let mut context = Vec::new();
        for word in [headroom, input.len(), 0, 0, 0, 0] {
            context.extend((word as u32).to_ne_bytes());
        }
        let mut output = vec![0; input.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&input);
        options.data_out = Some(&mut output);
        options.ctx_in = (headroom > 0).then_some(&context);
        options.repeat = repeat;
        let result = program
            .test_run(options)
            .with_context(|| format!("cannot run {name}"))?;
        output.truncate(result.data_size_out as usize);
        ensure!(
            output.len() == input.len(),
            "{name} changed the frame's length"
        );
        Ok(Outcome {
            action: result.return_value,
            frame: output.split_off(headroom),
            duration: result.duration,
        })
    }

    /// Empties what the programs and their user have filled in, so that the maps are as after loading.
    pub fn clear(&mut self) -> Result<()> {
        clear_hash(&mut self.conns)?;
        clear_hash(&mut self.embryos)?;
        clear_hash(&mut self.services)?;
        clear_hash(&mut self.return_paths)?;
        clear_hash(&mut self.addrs)?;
        clear_hash(&mut self.addrs6)?;
        self.pair.set(0, Pair::default(), 0)?;
        for link in 0..LINKS as u32 {
            self.heard.set(link, Heard::default(), 0)?;
        }
        for kind in 0..maps::BUCKETS_ENTRIES {
            self.buckets.set(kind, 0, 0)?;
        }
        for id in 0..64 {
            self.reals.set(id, Real::default(), 0)?;
            self.slots.set(id, 0, 0)?;
        }
        self.gate.set(0, Gate::default(), 0)?;
        self.config.set(0, Config::default(), 0)?;
        self.version.set(0, LAYOUT_VERSION, 0)?;
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| {
            anyhow::Error::new(error).context(format!("cannot read {file}"))
        })?;
        for index in 0..COUNTERS as u32 {
            self.counters
                .set(index, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        self.events()?;
        self.adverts()?;
        self.evidence()?;
        Ok(())
    }

    /// The counters, summed over the CPUs, reasons first.
    pub fn counters(&self) -> Result<Vec<u64>> {
        (0..COUNTERS as u32)
            .map(|index| {
                let cpus: PerCpuValues<u64> = self.counters.get(&index, 0)?;
                Ok(cpus.iter().sum())
            })
            .collect()
    }

    /// A tally's value.
    pub fn tally(&self, tally: Tally) -> Result<u64> {
        Ok(self
            .counters()?
            .get(tally.index() as usize)
            .copied()
            .unwrap_or_default())
    }

    /// The connection events since the last call.
    pub fn events(&mut self) -> Result<Vec<ConnEvent4>> {
        drain(&mut self.events)
    }

    /// The advertisements since the last call.
    pub fn adverts(&mut self) -> Result<Vec<CarpSeen>> {
        drain(&mut self.adverts)
    }

    /// The evidence since the last call.
    pub fn evidence(&mut self) -> Result<Vec<Evidence>> {
        drain(&mut self.evidence)
    }

    /// What the kernel says about a program.
    pub fn info(&self, name: &str) -> Result<ProgramInfo> {
        Ok(self.program(name)?.info()?)
    }

    /// One of the programs.
    pub fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }
}

/// The one reason that was counted between two readings of the counters.
pub fn reason_between(before: &[u64], after: &[u64]) -> Result<Reason> {
    let mut moved = None;
    for ((reason, before), after) in Reason::ALL.iter().zip(before).zip(after) {
        match after.checked_sub(*before) {
            Some(0) => {}
            Some(1) if moved.is_none() => moved = Some(*reason),
            _ => bail!("{reason:?} went from {before} to {after}, after {moved:?}"),
        }
    }
    ensure!(before.len() > REASONS, "counters are missing");
    moved.context("no reason was counted")
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

fn clear_hash<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<()> {
    let keys = map.keys().collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}

fn drain<T: Pod>(ring: &mut RingBuf<MapData>) -> Result<Vec<T>> {
    let mut records = Vec::new();
    while let Some(item) = ring.next() {
        ensure!(
            item.len() == size_of::<T>(),
            "a record of {} bytes",
            item.len()
        );
        // SAFETY: plain data of this length, checked above; any bit pattern is a value.
        records.push(unsafe { item.as_ptr().cast::<T>().read_unaligned() });
    }
    Ok(records)
}
