//! The data plane's object, loaded but attached nowhere, and run on single frames.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray, RingBuf};
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use ha_agent::datapath::sys;
use ha_common::conn::{
    Conn4, Conn6, ConnKey4, ConnKey6, Embryo4, Embryo6, EmbryoKey4, EmbryoKey6, FragmentKey4,
    FragmentKey6, Persist, PersistKey4, PersistKey6,
};
use ha_common::control::{Config, Gate, Pace};
use ha_common::event::{CarpSeen, ConnEvent4, ConnEvent6, EarlyFragment, Evidence, Sample};
use ha_common::pair::{Digest, Heard, LINKS, Pair, Peer};
use ha_common::reason::{COUNTERS, REASONS, Reason, Tally};
use ha_common::service::{
    Addr6, Address, Load, LocalAddr, Real, ReturnPath4, ReturnPath6, Service, ServiceKey4,
    ServiceKey6, Timeouts, Traffic,
};
use ha_common::stage::{ENTRY, FOLLOW, JANITOR, Stage};
use ha_common::{LAYOUT_VERSION, filter, maps};

/// Interface that frames of a test run seem to come in on: the loopback's, which is 1 everywhere.
pub const INGRESS: u32 = 1;

/// Elements of each array of services, real servers and slots that tests use, and that are cleared between
/// two of them.
const CLEARED: u32 = 64;

/// Sizes of the maps, where tests need other than the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of each connection table, two a connection.
    pub conns: u32,
    /// Half-open connections of each family.
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

/// The data plane in the kernel. What there is for each family has its plain name for IPv4.
pub struct DataPlane {
    ebpf: Ebpf,
    /// `ha_conns4`.
    pub conns: HashMap<MapData, ConnKey4, Conn4>,
    /// `ha_conns6`.
    pub conns6: HashMap<MapData, ConnKey6, Conn6>,
    /// `ha_embryo4`.
    pub embryos: HashMap<MapData, EmbryoKey4, Embryo4>,
    /// `ha_embryo6`.
    pub embryos6: HashMap<MapData, EmbryoKey6, Embryo6>,
    /// `ha_frags4`.
    pub fragments: HashMap<MapData, FragmentKey4, Conn4>,
    /// `ha_frags6`.
    pub fragments6: HashMap<MapData, FragmentKey6, Conn6>,
    /// `ha_persist4`.
    pub clients: HashMap<MapData, PersistKey4, Persist>,
    /// `ha_persist6`.
    pub clients6: HashMap<MapData, PersistKey6, Persist>,
    /// `ha_services4`.
    pub services: HashMap<MapData, ServiceKey4, Service>,
    /// `ha_services6`.
    pub services6: HashMap<MapData, ServiceKey6, Service>,
    /// `ha_return4`.
    pub return_paths: HashMap<MapData, ServiceKey4, ReturnPath4>,
    /// `ha_return6`.
    pub return_paths6: HashMap<MapData, ServiceKey6, ReturnPath6>,
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
    /// `ha_timeouts`.
    pub timeouts: Array<MapData, Timeouts>,
    /// `ha_reals`.
    pub reals: Array<MapData, Real>,
    /// `ha_loads`.
    pub loads: Array<MapData, Load>,
    /// `ha_slots`.
    pub slots: Array<MapData, u32>,
    /// `ha_gate`.
    pub gate: Array<MapData, Gate>,
    /// `ha_config`.
    pub config: Array<MapData, Config>,
    /// `ha_version`.
    pub version: Array<MapData, u32>,
    /// `ha_heard`.
    pub heard: Array<MapData, Heard>,
    filter: Array<MapData, u64>,
    traffic: PerCpuArray<MapData, Traffic>,
    pace: PerCpuArray<MapData, Pace>,
    turns: PerCpuArray<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    buckets: Array<MapData, u64>,
    events: RingBuf<MapData>,
    /// Events that were read while those of the other family were wanted.
    unread: (Vec<ConnEvent4>, Vec<ConnEvent6>),
    adverts: RingBuf<MapData>,
    evidence: RingBuf<MapData>,
    samples: RingBuf<MapData>,
    early: RingBuf<MapData>,
}

impl DataPlane {
    /// Loads the object.
    pub fn load(object: &Path, sizes: Sizes) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::CONNS4, sizes.conns)
            .map_max_entries(maps::CONNS6, sizes.conns)
            .map_max_entries(maps::EMBRYO4, sizes.embryos)
            .map_max_entries(maps::EMBRYO6, sizes.embryos)
            .map_max_entries(maps::EVENTS, sizes.events)
            .map_max_entries(maps::CARP, sizes.carp)
            .load_file(object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        for name in [ENTRY, JANITOR, FOLLOW] {
            load_program(&mut ebpf, name)?;
        }
        for stage in Stage::ALL {
            load_program(&mut ebpf, stage.program())?;
        }
        fill_stages(&mut ebpf)?;
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name} in the object"))
        };
        let mut plane = Self {
            conns: take(maps::CONNS4)?.try_into()?,
            conns6: take(maps::CONNS6)?.try_into()?,
            embryos: take(maps::EMBRYO4)?.try_into()?,
            embryos6: take(maps::EMBRYO6)?.try_into()?,
            fragments: take(maps::FRAGMENTS4)?.try_into()?,
            fragments6: take(maps::FRAGMENTS6)?.try_into()?,
            clients: take(maps::PERSIST4)?.try_into()?,
            clients6: take(maps::PERSIST6)?.try_into()?,
            services: take(maps::SERVICES4)?.try_into()?,
            services6: take(maps::SERVICES6)?.try_into()?,
            return_paths: take(maps::RETURN4)?.try_into()?,
            return_paths6: take(maps::RETURN6)?.try_into()?,
            addrs: take(maps::ADDRS4)?.try_into()?,
            addrs6: take(maps::ADDRS6)?.try_into()?,
            pair: take(maps::PAIR)?.try_into()?,
            peers: take(maps::PEERS)?.try_into()?,
            digests: take(maps::DIGESTS)?.try_into()?,
            timeouts: take(maps::TIMEOUTS)?.try_into()?,
            reals: take(maps::REALS)?.try_into()?,
            loads: take(maps::LOADS)?.try_into()?,
            slots: take(maps::SLOTS)?.try_into()?,
            gate: take(maps::GATE)?.try_into()?,
            config: take(maps::CONFIG)?.try_into()?,
            version: take(maps::VERSION)?.try_into()?,
            heard: take(maps::HEARD)?.try_into()?,
            filter: take(maps::FILTER)?.try_into()?,
            traffic: take(maps::TRAFFIC)?.try_into()?,
            pace: take(maps::PACE)?.try_into()?,
            turns: take(maps::TURNS)?.try_into()?,
            counters: take(maps::REASONS)?.try_into()?,
            buckets: take(maps::BUCKETS)?.try_into()?,
            events: take(maps::EVENTS)?.try_into()?,
            unread: (Vec::new(), Vec::new()),
            adverts: take(maps::CARP)?.try_into()?,
            evidence: take(maps::EVIDENCE)?.try_into()?,
            samples: take(maps::SAMPLES)?.try_into()?,
            early: take(maps::EARLY)?.try_into()?,
            ebpf,
        };
        plane.version.set(0, LAYOUT_VERSION, 0)?;
        Ok(plane)
    }

    /// Runs the main program on a frame that lies behind `headroom` bytes of rubbish, a multiple of
    /// four.
    pub fn run(&self, frame: &[u8], headroom: usize) -> Result<Outcome> {
        self.test_run(ENTRY, frame, headroom, 1)
    }

    /// Runs a fragment that was held once more.
    pub fn follow(&self, frame: &[u8], headroom: usize) -> Result<Outcome> {
        self.test_run(FOLLOW, frame, headroom, 1)
    }

    /// Attaches the main program to an interface of the calling thread's namespace.
    pub fn attach(&mut self, ifindex: u32) -> Result<()> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut(ENTRY)
            .with_context(|| format!("no program {ENTRY}"))?
            .try_into()?;
        program.attach_to_if_index(ifindex, XdpMode::Driver)?;
        Ok(())
    }

    /// Lets the janitor look at connections; returns how many it deleted.
    pub fn janitor(&self, keys: &[ConnKey4]) -> Result<u32> {
        self.sweep(4, sys::bytes_of(keys))
    }

    /// The same for IPv6.
    pub fn janitor6(&self, keys: &[ConnKey6]) -> Result<u32> {
        self.sweep(6, sys::bytes_of(keys))
    }

    fn sweep(&self, family: u16, keys: &[u8]) -> Result<u32> {
        let mut input = vec![0; 14];
        input.extend(family.to_ne_bytes());
        input.extend(keys);
        Ok(self.test_run(JANITOR, &input, 0, 1)?.action)
    }

    /// Makes an address one that concerns the data plane.
    pub fn concern<A: Address>(&mut self, address: A) -> Result<()> {
        let (word, mask) = filter::place(address.filter_bit());
        let bits = self.filter.get(&word, 0)? | mask;
        Ok(self.filter.set(word, bits, 0)?)
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
        ensure!(output.len() >= headroom, "{name} lost its input");
        Ok(Outcome {
            action: result.return_value,
            frame: output.split_off(headroom),
            duration: result.duration,
        })
    }

    /// Leaves the entry without the programs in which it goes on, until [`Self::clear`].
    pub fn clear_stages(&mut self) -> Result<()> {
        let stages = self
            .ebpf
            .map_mut(maps::STAGES)
            .context("no array of stages")?;
        let mut stages = ProgramArray::try_from(stages)?;
        for stage in Stage::ALL {
            stages.clear_index(&(*stage as u32))?;
        }
        Ok(())
    }

    /// Empties what the programs and their user have filled in, so that the maps are as after loading.
    pub fn clear(&mut self) -> Result<()> {
        fill_stages(&mut self.ebpf)?;
        clear_hash(&mut self.conns)?;
        clear_hash(&mut self.conns6)?;
        clear_hash(&mut self.embryos)?;
        clear_hash(&mut self.embryos6)?;
        clear_hash(&mut self.fragments)?;
        clear_hash(&mut self.fragments6)?;
        clear_hash(&mut self.clients)?;
        clear_hash(&mut self.clients6)?;
        clear_hash(&mut self.services)?;
        clear_hash(&mut self.services6)?;
        clear_hash(&mut self.return_paths)?;
        clear_hash(&mut self.return_paths6)?;
        clear_hash(&mut self.addrs)?;
        clear_hash(&mut self.addrs6)?;
        self.pair.set(0, Pair::default(), 0)?;
        for link in 0..LINKS as u32 {
            self.heard.set(link, Heard::default(), 0)?;
        }
        for kind in 0..maps::BUCKETS_ENTRIES {
            self.buckets.set(kind, 0, 0)?;
        }
        for word in 0..filter::WORDS as u32 {
            self.filter.set(word, 0, 0)?;
        }
        for id in 0..CLEARED {
            self.timeouts.set(id, Timeouts::default(), 0)?;
            self.reals.set(id, Real::default(), 0)?;
            self.loads.set(id, Load::default(), 0)?;
            self.slots.set(id, 0, 0)?;
            clear_cpus(&mut self.traffic, id)?;
            clear_cpus(&mut self.turns, id)?;
        }
        clear_cpus(&mut self.pace, 0)?;
        self.gate.set(0, Gate::default(), 0)?;
        self.config.set(0, Config::default(), 0)?;
        self.version.set(0, LAYOUT_VERSION, 0)?;
        for index in 0..COUNTERS as u32 {
            clear_cpus(&mut self.counters, index)?;
        }
        self.events()?;
        self.events6()?;
        self.adverts()?;
        self.evidence()?;
        self.samples()?;
        self.early()?;
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

    /// What went to and from a real server, summed over the CPUs.
    pub fn traffic(&self, real: u16) -> Result<Traffic> {
        let cpus = self.traffic.get(&u32::from(real), 0)?;
        Ok(cpus.iter().fold(Traffic::default(), |sum, cpu| Traffic {
            connections: sum.connections + cpu.connections,
            packets_in: sum.packets_in + cpu.packets_in,
            bytes_in: sum.bytes_in + cpu.bytes_in,
            packets_out: sum.packets_out + cpu.packets_out,
            bytes_out: sum.bytes_out + cpu.bytes_out,
            dropped: sum.dropped + cpu.dropped,
        }))
    }

    /// The events of IPv4 connections since the last call.
    pub fn events(&mut self) -> Result<Vec<ConnEvent4>> {
        self.read_events()?;
        Ok(std::mem::take(&mut self.unread.0))
    }

    /// The events of IPv6 connections since the last call.
    pub fn events6(&mut self) -> Result<Vec<ConnEvent6>> {
        self.read_events()?;
        Ok(std::mem::take(&mut self.unread.1))
    }

    fn read_events(&mut self) -> Result<()> {
        while let Some(item) = self.events.next() {
            match item.len() {
                len if len == size_of::<ConnEvent4>() => {
                    self.unread.0.extend(sys::read_pod::<ConnEvent4>(&item));
                }
                len if len == size_of::<ConnEvent6>() => {
                    self.unread.1.extend(sys::read_pod::<ConnEvent6>(&item));
                }
                len => bail!("an event of {len} bytes"),
            }
        }
        Ok(())
    }

    /// The packets shown since the last call.
    pub fn samples(&mut self) -> Result<Vec<Sample>> {
        drain(&mut self.samples)
    }

    /// The fragments held since the last call.
    pub fn early(&mut self) -> Result<Vec<EarlyFragment>> {
        drain(&mut self.early)
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

fn fill_stages(ebpf: &mut Ebpf) -> Result<()> {
    for stage in Stage::ALL {
        let program: &Xdp = ebpf
            .program(stage.program())
            .with_context(|| format!("no program {}", stage.program()))?
            .try_into()?;
        let program = program.fd()?.try_clone()?;
        let stages = ebpf.map_mut(maps::STAGES).context("no array of stages")?;
        ProgramArray::try_from(stages)?.set(*stage as u32, &program, 0)?;
    }
    Ok(())
}

fn load_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?;
    program
        .load()
        .with_context(|| format!("the kernel refuses {name}"))?;
    Ok(program)
}

fn clear_cpus<V: Pod + Default>(map: &mut PerCpuArray<MapData, V>, index: u32) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| {
        anyhow::Error::new(error).context(format!("cannot read {file}"))
    })?;
    let zeros = PerCpuValues::try_from(vec![V::default(); cpus])?;
    Ok(map.set(index, zeros, 0)?)
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
        records.extend(sys::read_pod::<T>(&item));
    }
    Ok(records)
}
