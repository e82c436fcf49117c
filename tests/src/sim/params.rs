//! What a world is made of.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ha_agent::config::model::{CarpAuth, Mode, Preferred, Transport};
use ha_agent::proto::carp::{ElectionConfig, ElectionKeys, LinkConfig, REEXEC_LEASE, Settings};
use ha_agent::proto::rng::Rng;

use super::faults::Temper;

/// What the agent gives replication for that.
const REPLICATION: Duration = Duration::from_secs(1);

/// A link between the nodes.
#[derive(Clone, Copy, Debug)]
pub struct LinkSpec {
    /// Has a shared address.
    pub production: bool,
    /// Has a gateway.
    pub gateway: bool,
}

/// How the network behaves when nothing is broken.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Lost packets in a million.
    pub loss: u64,
    /// Packets that arrive twice in a million; the second time up to two timeouts later.
    pub repeated: u64,
    /// Advertisements in a million that reach a kernel but not its agent.
    pub unread: u64,
    /// Least delay in nanoseconds.
    pub delay: u64,
    /// Random delay on top, which reorders.
    pub jitter: u64,
}

/// Ways to break the shell on purpose: the watch must notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Gate words are stored with this much added, in thousandths of the timeout.
    LongLease(u64),
    /// Closing the gate is forgotten.
    NeverClose,
    /// Reception times are reported too early, by this many thousandths of the timeout.
    EarlyReception(u64),
    /// Clocks drift apart by this many parts per million.
    Drift(i64),
}

/// A world's settings.
#[derive(Clone, Debug)]
pub struct Params {
    /// Where all chance comes from.
    pub seed: u64,
    /// Advertisement interval.
    pub interval: Duration,
    /// Timeout.
    pub timeout: Duration,
    /// Interval and timeout are divided by this while a node runs, and multiplied again; 1 = never.
    pub faster: u32,
    /// How packets travel.
    pub transport: Transport,
    /// The pair's keys are replaced from time to time.
    pub rotates: bool,
    /// Initial wait.
    pub initial_wait: Duration,
    /// How long what failed must have worked again before it counts.
    pub hold_down: Duration,
    /// Preferred node.
    pub preferred: Preferred,
    /// Links.
    pub links: Vec<LinkSpec>,
    /// After which silence replication gives its partner up.
    pub peer_timeout: Duration,
    /// Weather.
    pub weather: Weather,
    /// Drift of each node's clock in parts per million.
    pub drift_ppm: [i64; 2],
    /// How late timers fire at most, in nanoseconds.
    pub lateness: u64,
    /// Nanoseconds between new connections on average; 0 = none.
    pub arrival: u64,
    /// Agents are replaced in place, and starts after a crash wait accordingly.
    pub reexec: bool,
    /// What is broken on purpose.
    pub sabotage: Sabotage,
}

impl Params {
    /// A quiet pair: 100 ms, 300 ms, a production link with a gateway and a cable.
    pub fn quiet(seed: u64) -> Self {
        Self {
            seed,
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(300),
            faster: 1,
            transport: Transport::Auto,
            rotates: false,
            initial_wait: Duration::ZERO,
            hold_down: Duration::from_millis(300),
            preferred: Preferred::None,
            links: vec![
                LinkSpec {
                    production: true,
                    gateway: true,
                },
                LinkSpec {
                    production: false,
                    gateway: false,
                },
            ],
            peer_timeout: REPLICATION,
            weather: Weather {
                loss: 0,
                repeated: 0,
                unread: 0,
                delay: 50_000,
                jitter: 50_000,
            },
            drift_ppm: [50, -50],
            lateness: 100_000,
            arrival: 5_000_000,
            reexec: false,
            sabotage: Sabotage::None,
        }
    }

    /// Drawn from the seed.
    pub fn random(seed: u64, sabotage: Sabotage) -> Self {
        let mut rng = Rng::new(seed ^ 0x0070_6172_616d_7300);
        let quiet = Temper::of(seed) == Temper::Quiet;
        let interval = pick(&mut rng, &[4, 10, 50, 100, 100, 100, 500, 1000, 5000]);
        let factor = pick(&mut rng, &[3, 3, 3, 4, 5, 9]) as u32;
        let interval = Duration::from_millis(interval);
        let timeout = interval * factor;
        let nanos = timeout.as_nanos() as u64;
        let links = 1 + rng.below(3);
        let mut links: Vec<LinkSpec> = (0..links)
            .map(|link| LinkSpec {
                production: link == 0 || rng.below(2) == 0,
                gateway: rng.below(2) == 0,
            })
            .collect();
        for link in &mut links {
            link.gateway &= link.production;
        }
        let drift = match sabotage {
            Sabotage::Drift(ppm) => [ppm, -ppm],
            Sabotage::None
            | Sabotage::LongLease(_)
            | Sabotage::NeverClose
            | Sabotage::EarlyReception(_) => {
                [0; 2].map(|_: i64| rng.below(201).cast_signed() - 100)
            }
        };
        Self {
            seed,
            interval,
            timeout,
            faster: if interval < Duration::from_millis(10) {
                1
            } else {
                pick(&mut Rng::new(seed ^ 0x6661_7374_6572), &[1, 1, 2, 3]) as u32
            },
            transport: match Rng::new(seed ^ 0x7472_616e_7370).below(4) {
                0 => Transport::Multicast,
                1 => Transport::Unicast,
                _ => Transport::Auto,
            },
            rotates: quiet || Rng::new(seed ^ 0x006b_6579_7300).below(2) == 0,
            hold_down: timeout,
            initial_wait: timeout * pick(&mut rng, &[0, 0, 0, 2, 4]) as u32,
            preferred: match rng.below(5) {
                0 => Preferred::First,
                1 => Preferred::Second,
                _ => Preferred::None,
            },
            links,
            peer_timeout: if rng.below(3) == 0 {
                timeout
            } else {
                REPLICATION
            },
            weather: Weather {
                loss: if quiet {
                    0
                } else {
                    pick(&mut rng, &[0, 0, 0, 0, 10_000, 50_000, 200_000])
                },
                repeated: pick(&mut rng, &[0, 0, 20_000]),
                unread: unread(seed),
                delay: nanos / 10_000 + 1,
                jitter: nanos / pick(&mut rng, &[10_000, 1000, 100, 40]),
            },
            drift_ppm: drift,
            lateness: nanos / pick(&mut rng, &[5000, 1000, 200]),
            arrival: pick(&mut rng, &[0, nanos / 20, nanos / 4]),
            reexec: quiet || rng.below(2) == 0,
            sabotage,
        }
    }

    /// The timeout in nanoseconds.
    pub fn timeout_ns(&self) -> u64 {
        self.timeout.as_nanos() as u64
    }

    /// Whether the partner has an IPv4 address of its own on a link.
    pub fn has_unicast(&self, link: usize) -> bool {
        let spec = self.links.get(link);
        spec.is_some_and(|spec| addresses(*spec, link, 1).iter().any(IpAddr::is_ipv4))
    }

    /// The shortest timeout that a node may have, in nanoseconds.
    pub fn shortest_ns(&self) -> u64 {
        self.timeout_ns() / u64::from(self.faster)
    }

    /// What changes while a node runs.
    pub fn settings(&self, fast: bool) -> Settings {
        let by = if fast { self.faster } else { 1 };
        Settings {
            interval: self.interval / by,
            timeout: self.timeout / by,
            hold_down: self.hold_down,
            auth: CarpAuth::Enforce,
        }
    }

    /// The interval in nanoseconds.
    pub fn interval_ns(&self) -> u64 {
        self.interval.as_nanos() as u64
    }

    /// Longest delay of a packet that is not repeated.
    pub fn longest_delay(&self) -> u64 {
        self.weather.delay + self.weather.jitter
    }

    /// Longest wait of a fresh start for a partner that is not heard.
    pub fn longest_wait(&self) -> u64 {
        let replaced = if self.reexec {
            REEXEC_LEASE
        } else {
            Duration::ZERO
        };
        self.initial_wait.max(self.timeout).max(replaced).as_nanos() as u64
    }

    /// Settings of a node's election.
    pub fn election(&self, node: usize) -> ElectionConfig {
        ElectionConfig {
            mode: if node == 0 { Mode::First } else { Mode::Second },
            vhid: 110,
            interval: self.interval,
            timeout: self.timeout,
            initial_wait: self.initial_wait,
            hold_down: self.hold_down,
            preferred: self.preferred,
            auth: CarpAuth::Enforce,
            generation: 1,
            start_pacified: false,
            start_maintenance: false,
            links: self
                .links
                .iter()
                .enumerate()
                .map(|(link, spec)| LinkConfig {
                    name: format!("link{link}"),
                    addresses: addresses(*spec, link, 11 + node as u8),
                    partners: addresses(*spec, link, 12 - node as u8),
                    shared: addresses(*spec, link, 100),
                    has_gateway: spec.gateway,
                })
                .collect(),
        }
    }
}

/// The pair's secrets after so many steps of replacing them: three for each key. The next one is accepted,
/// then signs, then is the only one.
pub fn keys(step: u32) -> ElectionKeys {
    let key = |number: u32| {
        let id = (number % 250) as u8 + 1;
        (id, [id ^ 0x5a; 16])
    };
    let (old, new) = (key(step / 3), key(step / 3 + 1));
    ElectionKeys {
        carp_passphrase: b"simulated".to_vec(),
        trailer: match step % 3 {
            0 => vec![old],
            1 => vec![old, new],
            _ => vec![new, old],
        },
    }
}

/// A host's addresses on a link: none on a cable, otherwise IPv4, both families, or IPv6 in turn.
fn addresses(spec: LinkSpec, link: usize, host: u8) -> Vec<IpAddr> {
    let number = link as u8;
    let v4 = IpAddr::from([10, number, 0, host]);
    let v6 = Ipv6Addr::new(0xfd00, link as u16, 0, 0, 0, 0, 0, host.into()).into();
    match link % 3 {
        _ if !spec.production => Vec::new(),
        0 => vec![v4],
        1 => vec![v4, v6],
        _ => vec![v6],
    }
}

/// How many advertisements get lost inside a node, drawn apart from the rest.
fn unread(seed: u64) -> u64 {
    let mut rng = Rng::new(seed ^ 0x756e_7265_6164);
    pick(&mut rng, &[0, 0, 50_000, 500_000])
}

/// One of several values.
pub fn pick(rng: &mut Rng, values: &[u64]) -> u64 {
    let index = rng.below(values.len() as u64) as usize;
    values.get(index).copied().unwrap_or_default()
}
