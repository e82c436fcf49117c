//! Names of the pinned maps and programs, and the sizes they have unless configured otherwise.
//!
//! At most 15 characters, prefix `ha_`: `bpftool map show name ha_conns4` finds them.

/// `Hash<ConnKey4, Conn4>`: established connections, two entries each. Preallocated: it never evicts.
pub const CONNS4: &str = "ha_conns4";
/// `Hash<ConnKey6, Conn6>`: the same for IPv6.
pub const CONNS6: &str = "ha_conns6";
/// `LruHash<EmbryoKey4, Embryo4>`: half-open connections.
pub const EMBRYO4: &str = "ha_embryo4";
/// `LruHash<EmbryoKey6, Embryo6>`: the same for IPv6.
pub const EMBRYO6: &str = "ha_embryo6";
/// `LruHash<FragmentKey4, Conn4>`: where the fragments after a first one go.
pub const FRAGMENTS4: &str = "ha_frags4";
/// `LruHash<FragmentKey6, Conn6>`: the same for IPv6.
pub const FRAGMENTS6: &str = "ha_frags6";
/// `LruHash<PersistKey4, Persist>`: clients of services with persistence.
pub const PERSIST4: &str = "ha_persist4";
/// `LruHash<PersistKey6, Persist>`: the same for IPv6.
pub const PERSIST6: &str = "ha_persist6";
/// `Hash<ServiceKey4, Service>`.
pub const SERVICES4: &str = "ha_services4";
/// `Hash<ServiceKey6, Service>`.
pub const SERVICES6: &str = "ha_services6";
/// `Array<Timeouts>` by service id.
pub const TIMEOUTS: &str = "ha_timeouts";
/// `Array<Real>` by real-server id.
pub const REALS: &str = "ha_reals";
/// `Array<Load>` by real-server id.
pub const LOADS: &str = "ha_loads";
/// `PerCpuArray<Traffic>` by real-server id.
pub const TRAFFIC: &str = "ha_traffic";
/// `Array<u32>` of real-server ids: Maglev tables and round-robin member lists.
pub const SLOTS: &str = "ha_slots";
/// `PerCpuArray<u32>` by service id: whose turn it is in round robin.
pub const TURNS: &str = "ha_turns";
/// `Hash<ServiceKey4, ReturnPath4>`: real server and port to service.
pub const RETURN4: &str = "ha_return4";
/// `Hash<ServiceKey6, ReturnPath6>`: the same for IPv6.
pub const RETURN6: &str = "ha_return6";
/// `Array<u64>` of [`crate::filter::WORDS`] elements: addresses that concern the data plane.
pub const FILTER: &str = "ha_filter";
/// `PerCpuArray<Pace>`, one element: how many flows begin.
pub const PACE: &str = "ha_pace";
/// `ProgramArray` by [`crate::stage::Stage`].
pub const STAGES: &str = "ha_stages";
/// `RingBuf` of `EarlyFragment`.
pub const EARLY: &str = "ha_early";
/// `RingBuf` of `Sample`.
pub const SAMPLES: &str = "ha_samples";
/// `Hash<u32, LocalAddr>`: this node's own and shared addresses.
pub const ADDRS4: &str = "ha_addrs4";
/// `Hash<Addr6, LocalAddr>`: the same for IPv6.
pub const ADDRS6: &str = "ha_addrs6";
/// `Array<Pair>`, one element: the pair, as the agent knows it.
pub const PAIR: &str = "ha_pair";
/// `Array<Peer>` by link and family.
pub const PEERS: &str = "ha_peers";
/// `Array<Digest>` by link and family.
pub const DIGESTS: &str = "ha_digests";
/// `Array<Heard>` by link, written by XDP.
pub const HEARD: &str = "ha_heard";
/// `Array<u64>`: token buckets, of evidence by [`crate::event::EvidenceKind`], then [`ANSWERS_BUCKET`]
/// and [`EARLY_BUCKET`].
pub const BUCKETS: &str = "ha_buckets";
/// `RingBuf` of `Evidence`.
pub const EVIDENCE: &str = "ha_evidence";
/// `Array<Gate>`, one element, memory-mapped.
pub const GATE: &str = "ha_gate";
/// `Array<Config>`, one element.
pub const CONFIG: &str = "ha_config";
/// `PerCpuArray<u64>` by reason.
pub const REASONS: &str = "ha_reasons";
/// `RingBuf` of `ConnEvent`.
pub const EVENTS: &str = "ha_events";
/// `RingBuf` of `CarpSeen`.
pub const CARP: &str = "ha_carp";
/// `Array<u32>`, one element: the layout version of all of them.
pub const VERSION: &str = "ha_version";

/// Entries of [`CONNS4`] by default: 1,048,576 connections of two entries.
pub const CONNS4_ENTRIES: u32 = 2 * 1_048_576;
/// Entries of [`CONNS6`] by default: 262,144 connections.
pub const CONNS6_ENTRIES: u32 = 2 * 262_144;
/// Entries of [`EMBRYO4`] and of [`EMBRYO6`].
pub const EMBRYO_ENTRIES: u32 = 262_144;
/// Entries of [`FRAGMENTS4`] and of [`FRAGMENTS6`].
pub const FRAGMENTS_ENTRIES: u32 = 8192;
/// Entries of [`PERSIST4`] and of [`PERSIST6`].
pub const PERSIST_ENTRIES: u32 = 262_144;
/// Virtual services, and bound of every service id.
pub const SERVICES_MAX: u32 = 1024;
/// Entries of [`SERVICES4`] and of [`SERVICES6`]: a service has one for each of its ports.
pub const SERVICES_ENTRIES: u32 = 16_384;
/// Elements of [`REALS`] and bound of every real-server id; id 0 is never given out.
pub const REALS_ENTRIES: u32 = 4096;
/// Elements of [`SLOTS`]: 16 MiB, half of it for tables in use, half for those that replace them.
pub const SLOTS_ENTRIES: u32 = 1 << 22;
/// Entries of [`RETURN4`] and of [`RETURN6`].
pub const RETURN_ENTRIES: u32 = 32_768;
/// Entries of [`ADDRS4`] and of [`ADDRS6`].
pub const ADDRS_ENTRIES: u32 = 1024;
/// Elements of [`BUCKETS`].
pub const BUCKETS_ENTRIES: u32 = 10;
/// Element of [`BUCKETS`] for what the data plane answers by itself: ICMP errors and resets.
pub const ANSWERS_BUCKET: u32 = 8;
/// Element of [`BUCKETS`] for fragments that are held.
pub const EARLY_BUCKET: u32 = 9;
/// Bytes of [`EARLY`]: 80 fragments.
pub const EARLY_RING_BYTES: u32 = 128 << 10;
/// Bytes of [`EVIDENCE`].
pub const EVIDENCE_BYTES: u32 = 16 << 10;
/// Bytes of [`SAMPLES`].
pub const SAMPLES_BYTES: u32 = 1 << 20;
/// Bytes of [`EVENTS`].
pub const EVENTS_BYTES: u32 = 4 << 20;
/// Bytes of [`CARP`].
pub const CARP_BYTES: u32 = 256 << 10;
