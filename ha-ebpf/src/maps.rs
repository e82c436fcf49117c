//! The BPF maps. Their names, meanings and sizes are those of [`ha_common::maps`].

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::macros::btf_map;
use ha_common::conn::{
    Conn4, Conn6, ConnKey4, ConnKey6, Embryo4, Embryo6, EmbryoKey4, EmbryoKey6, FragmentKey4,
    FragmentKey6, Persist, PersistKey4, PersistKey6,
};
use ha_common::control::{Config, Gate, Pace};
use ha_common::pair::{self, Digest, Heard, Pair, Peer};
use ha_common::reason::COUNTERS;
use ha_common::service::{
    Addr6, Load, LocalAddr, Real, ReturnPath4, ReturnPath6, Service, ServiceKey4, ServiceKey6,
    Timeouts, Traffic,
};
use ha_common::{filter, maps as size, stage};

use crate::work::Work;

/// Lets user space map the array into its memory.
const MMAP: usize = BPF_F_MMAPABLE as usize;

/// Established connections.
#[btf_map(name = "ha_conns4")]
pub static CONNS4: HashMap<ConnKey4, Conn4, { size::CONNS4_ENTRIES as usize }> = HashMap::new();

/// The same for IPv6.
#[btf_map(name = "ha_conns6")]
pub static CONNS6: HashMap<ConnKey6, Conn6, { size::CONNS6_ENTRIES as usize }> = HashMap::new();

/// Half-open connections.
#[btf_map(name = "ha_embryo4")]
pub static EMBRYO4: LruHashMap<EmbryoKey4, Embryo4, { size::EMBRYO_ENTRIES as usize }> =
    LruHashMap::new();

/// The same for IPv6.
#[btf_map(name = "ha_embryo6")]
pub static EMBRYO6: LruHashMap<EmbryoKey6, Embryo6, { size::EMBRYO_ENTRIES as usize }> =
    LruHashMap::new();

/// Where later fragments go.
#[btf_map(name = "ha_frags4")]
pub static FRAGMENTS4: LruHashMap<FragmentKey4, Conn4, { size::FRAGMENTS_ENTRIES as usize }> =
    LruHashMap::new();

/// The same for IPv6.
#[btf_map(name = "ha_frags6")]
pub static FRAGMENTS6: LruHashMap<FragmentKey6, Conn6, { size::FRAGMENTS_ENTRIES as usize }> =
    LruHashMap::new();

/// Where clients go again.
#[btf_map(name = "ha_persist4")]
pub static PERSIST4: LruHashMap<PersistKey4, Persist, { size::PERSIST_ENTRIES as usize }> =
    LruHashMap::new();

/// The same for IPv6.
#[btf_map(name = "ha_persist6")]
pub static PERSIST6: LruHashMap<PersistKey6, Persist, { size::PERSIST_ENTRIES as usize }> =
    LruHashMap::new();

/// Virtual services.
#[btf_map(name = "ha_services4")]
pub static SERVICES4: HashMap<ServiceKey4, Service, { size::SERVICES_ENTRIES as usize }> =
    HashMap::new();

/// The same for IPv6.
#[btf_map(name = "ha_services6")]
pub static SERVICES6: HashMap<ServiceKey6, Service, { size::SERVICES_ENTRIES as usize }> =
    HashMap::new();

/// Idle times by service id.
#[btf_map(name = "ha_timeouts")]
pub static TIMEOUTS: Array<Timeouts, { size::SERVICES_MAX as usize }> = Array::new();

/// Real servers by id.
#[btf_map(name = "ha_reals")]
pub static REALS: Array<Real, { size::REALS_ENTRIES as usize }> = Array::new();

/// Their connections.
#[btf_map(name = "ha_loads")]
pub static LOADS: Array<Load, { size::REALS_ENTRIES as usize }> = Array::new();

/// What went to and from them.
#[btf_map(name = "ha_traffic")]
pub static TRAFFIC: PerCpuArray<Traffic, { size::REALS_ENTRIES as usize }> = PerCpuArray::new();

/// Maglev tables and member lists.
#[btf_map(name = "ha_slots")]
pub static SLOTS: Array<u32, { size::SLOTS_ENTRIES as usize }> = Array::new();

/// Whose turn it is, by service id.
#[btf_map(name = "ha_turns")]
pub static TURNS: PerCpuArray<u32, { size::SERVICES_MAX as usize }> = PerCpuArray::new();

/// How many flows begin.
#[btf_map(name = "ha_pace")]
pub static PACE: PerCpuArray<Pace, 1> = PerCpuArray::new();

/// Real server and port to service.
#[btf_map(name = "ha_return4")]
pub static RETURN4: HashMap<ServiceKey4, ReturnPath4, { size::RETURN_ENTRIES as usize }> =
    HashMap::new();

/// The same for IPv6.
#[btf_map(name = "ha_return6")]
pub static RETURN6: HashMap<ServiceKey6, ReturnPath6, { size::RETURN_ENTRIES as usize }> =
    HashMap::new();

/// Addresses that concern the data plane.
#[btf_map(name = "ha_filter")]
pub static FILTER: Array<u64, { filter::WORDS }> = Array::new();

/// Own and shared addresses.
#[btf_map(name = "ha_addrs4")]
pub static ADDRS4: HashMap<u32, LocalAddr, { size::ADDRS_ENTRIES as usize }> = HashMap::new();

/// The same for IPv6.
#[btf_map(name = "ha_addrs6")]
pub static ADDRS6: HashMap<Addr6, LocalAddr, { size::ADDRS_ENTRIES as usize }> = HashMap::new();

/// The pair.
#[btf_map(name = "ha_pair")]
pub static PAIR: Array<Pair, 1> = Array::new();

/// The partner by link and family.
#[btf_map(name = "ha_peers")]
pub static PEERS: Array<Peer, { pair::PEERS }> = Array::new();

/// CARP groups by link and family.
#[btf_map(name = "ha_digests")]
pub static DIGESTS: Array<Digest, { pair::PEERS }> = Array::new();

/// What was last heard, by link.
#[btf_map(name = "ha_heard")]
pub static HEARD: Array<Heard, { pair::LINKS }> = Array::new();

/// Token buckets.
#[btf_map(name = "ha_buckets")]
pub static BUCKETS: Array<u64, { size::BUCKETS_ENTRIES as usize }> = Array::new();

/// Evidence.
#[btf_map(name = "ha_evidence")]
pub static EVIDENCE: RingBuf<(), { size::EVIDENCE_BYTES as usize }> = RingBuf::new();

/// The fence.
#[btf_map(name = "ha_gate")]
pub static GATE: Array<Gate, 1, MMAP> = Array::new();

/// Configuration.
#[btf_map(name = "ha_config")]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Counters.
#[btf_map(name = "ha_reasons")]
pub static REASONS: PerCpuArray<u64, COUNTERS> = PerCpuArray::new();

/// Connection events. libbpf refuses a ring with a type of values, so the writer names it.
#[btf_map(name = "ha_events")]
pub static EVENTS: RingBuf<(), { size::EVENTS_BYTES as usize }> = RingBuf::new();

/// Packets that are shown.
#[btf_map(name = "ha_samples")]
pub static SAMPLES: RingBuf<(), { size::SAMPLES_BYTES as usize }> = RingBuf::new();

/// Fragments before the first of their packet.
#[btf_map(name = "ha_early")]
pub static EARLY: RingBuf<(), { size::EARLY_RING_BYTES as usize }> = RingBuf::new();

/// Advertisements.
#[btf_map(name = "ha_carp")]
pub static CARP: RingBuf<(), { size::CARP_BYTES as usize }> = RingBuf::new();

/// The workplace of the stages.
#[btf_map(name = "ha_work4")]
pub static WORK4: PerCpuArray<Work<u32>, 1> = PerCpuArray::new();

/// The same for IPv6.
#[btf_map(name = "ha_work6")]
pub static WORK6: PerCpuArray<Work<Addr6>, 1> = PerCpuArray::new();

/// The programs that are not attached.
#[btf_map(name = "ha_stages")]
pub static STAGES: ProgramArray<{ stage::STAGES }> = ProgramArray::new();

/// Layout version of all of them.
#[btf_map(name = "ha_version")]
pub static VERSION: Array<u32, 1> = Array::new();
