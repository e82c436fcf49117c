//! The BPF maps. Their names, meanings and sizes are those of [`ha_common::maps`].

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4};
use ha_common::control::{Config, Gate};
use ha_common::maps as size;
use ha_common::pair::{self, Digest, Heard, Pair, Peer};
use ha_common::reason::COUNTERS;
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};

/// Lets user space map the array into its memory.
const MMAP: usize = BPF_F_MMAPABLE as usize;

/// Established connections.
#[btf_map(name = "ha_conns4")]
pub static CONNS4: HashMap<ConnKey4, Conn4, { size::CONNS4_ENTRIES as usize }> = HashMap::new();

/// Half-open connections.
#[btf_map(name = "ha_embryo4")]
pub static EMBRYO4: LruHashMap<EmbryoKey4, Embryo4, { size::EMBRYO4_ENTRIES as usize }> =
    LruHashMap::new();

/// Virtual services.
#[btf_map(name = "ha_services4")]
pub static SERVICES4: HashMap<ServiceKey4, Service, { size::SERVICES_ENTRIES as usize }> =
    HashMap::new();

/// Real servers by id.
#[btf_map(name = "ha_reals")]
pub static REALS: Array<Real, { size::REALS_ENTRIES as usize }> = Array::new();

/// Maglev tables and member lists.
#[btf_map(name = "ha_slots")]
pub static SLOTS: Array<u32, { size::SLOTS_ENTRIES as usize }> = Array::new();

/// Whose turn it is, by service id.
#[btf_map(name = "ha_turns")]
pub static TURNS: PerCpuArray<u32, { size::SERVICES_ENTRIES as usize }> = PerCpuArray::new();

/// Real server and port to service.
#[btf_map(name = "ha_return4")]
pub static RETURN4: HashMap<ServiceKey4, ReturnPath4, { size::RETURN_ENTRIES as usize }> =
    HashMap::new();

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

/// Token buckets of evidence, by kind.
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

/// Advertisements.
#[btf_map(name = "ha_carp")]
pub static CARP: RingBuf<(), { size::CARP_BYTES as usize }> = RingBuf::new();

/// Layout version of all of them.
#[btf_map(name = "ha_version")]
pub static VERSION: Array<u32, 1> = Array::new();
