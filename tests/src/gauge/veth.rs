//! What forwarding a packet costs between two veth pairs, beside an nftables rule that does the same.
//!
//! ```text
//!  source ─ b0 ─ balancer ─ b1 ─ sink
//! ```
//!
//! All three are on one CPU, so the time that the generator takes for its packets is what all of them take.
//! Without what source and sink alone take, the rest is the balancer's. Runs in which a packet was lost (the
//! kernel gave the work to another thread) do not count, nor do the slower ones: whatever else the machine does
//! only adds to the time.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use nix::net::if_::if_nametoindex;

use super::cases::stay_on_one_cpu;
use super::scene::{self, NAMES, RESOLVER, Scene};
use crate::bench::{AGENT, Promise, Report, Row, say};
use crate::rig::generator::Generator;
use crate::rig::netns::Netns;
use crate::rig::{Run, arp, link, object};

/// Name of the case.
pub(super) const CASE: &str = "veth share";
const PACKETS: u32 = 400_000;
/// Runs of each; so many of the fastest count.
const RUNS: usize = 25;
const FASTEST: usize = 7;
/// Runs in which a packet was lost are repeated so often in all.
const ATTEMPTS: usize = 200;
/// The share of what nftables takes.
const SHARE: f64 = 0.25;

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Nobody: packets end where the balancer would take them.
    Nobody,
    Agent,
    Nftables,
}

impl Who {
    const ALL: [Self; 3] = [Self::Nobody, Self::Agent, Self::Nftables];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "source and sink alone",
            Self::Agent => AGENT,
            Self::Nftables => "nftables DNAT, one rule",
        }
    }
}

/// Measures it.
pub(super) fn measure(report: &mut Report) -> Result<()> {
    say(CASE);
    stay_on_one_cpu()?;
    let mut networks = Who::ALL
        .into_iter()
        .map(Network::new)
        .collect::<Result<Vec<_>>>()?;
    // In turn, so that what else the machine does falls on all alike.
    for _ in 0..RUNS {
        for network in &mut networks {
            network.time()?;
        }
    }
    let mut medians = [0.0; 3];
    for (network, median) in networks.iter_mut().zip(&mut medians) {
        let fastest = network.fastest();
        let row = Row {
            case: CASE,
            who: network.who.as_str(),
            what: "a packet, all in all",
            unit: "ns",
            promise: Promise::Nothing,
        };
        for ns in &fastest {
            report.add(&row, *ns, 0.0);
        }
        *median = fastest.get(FASTEST / 2).copied().context("no runs")?;
    }
    let [nobody, agent, nftables] = medians;
    ensure!(nftables > nobody, "nftables takes no time: {medians:?}");
    let row = Row {
        case: CASE,
        who: AGENT,
        what: "share beside nftables",
        unit: "times",
        promise: Promise::MedianAtMost(SHARE),
    };
    report.add(&row, (agent - nobody) / (nftables - nobody), 0.0);
    Ok(())
}

/// Source, balancer and sink.
struct Network {
    who: Who,
    source: Netns,
    sink: Netns,
    balancer: Netns,
    generator: Generator,
    frame: Vec<u8>,
    times_ns: Vec<f64>,
    _sinks: Ebpf,
    _scene: Option<Scene>,
    // Last, so that everything else is gone when it removes the rest.
    _run: Run,
}

impl Network {
    fn new(who: Who) -> Result<Self> {
        let run = Run::start()?;
        let [source, balancer, sink] =
            ["source", "balancer", "sink"].map(|host| run.namespace(host));
        let (source, balancer, sink) = (source?, balancer?, sink?);
        source.ip(&format!(
            "link add s0 type veth peer name b0 netns {}\nlink set s0 up",
            balancer.name()
        ))?;
        sink.ip(&format!(
            "link add k0 type veth peer name b1 netns {}\nlink set k0 up",
            balancer.name()
        ))?;
        balancer.ip(&format!(
            "link set b0 up\nlink set b1 up\naddr add {}/24 dev b0\naddr add 10.1.0.11/24 dev b1\nroute add default dev b0",
            NAMES.ip()
        ))?;
        for (netns, device) in [
            (&source, "s0"),
            (&balancer, "b0"),
            (&balancer, "b1"),
            (&sink, "k0"),
        ] {
            link::offloads_off(netns, device)?;
        }
        let mut sinks = object::load()?;
        let program: &mut Xdp = sinks
            .program_mut("ha_sink")
            .context("ha_rig has no program ha_sink")?
            .try_into()?;
        program.load()?;
        attach(program, &sink, "k0")?;
        let mac = |netns: &Netns, device: &str| netns.run(|| arp::mac_of(device));
        let (near, own, far) = (
            mac(&balancer, "b0")?,
            mac(&balancer, "b1")?,
            mac(&sink, "k0")?,
        );
        let scene = match who {
            Who::Nobody => {
                attach(program, &balancer, "b0")?;
                None
            }
            Who::Agent => Some(balance(&balancer, far, own)?),
            Who::Nftables => {
                translate(&balancer, far)?;
                None
            }
        };
        Ok(Self {
            who,
            source,
            sink,
            balancer,
            generator: Generator::unpaced()?,
            frame: scene::datagram_to(near),
            times_ns: Vec::new(),
            _sinks: sinks,
            _scene: scene,
            _run: run,
        })
    }

    /// Adds the time of a run in which all packets arrived.
    fn time(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS / RUNS {
            let before = self.arrived()?;
            let took = self
                .generator
                .send(&self.source, "s0", &self.frame, PACKETS)?;
            // What is on its way arrives.
            std::thread::sleep(Duration::from_millis(20));
            if self.arrived()? - before == u64::from(PACKETS) {
                self.times_ns
                    .push(took.as_nanos() as f64 / f64::from(PACKETS));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Packets that came to where they end.
    fn arrived(&self) -> Result<u64> {
        match self.who {
            Who::Nobody => received(&self.balancer, "b0"),
            Who::Agent | Who::Nftables => received(&self.sink, "k0"),
        }
    }

    fn fastest(&mut self) -> Vec<f64> {
        self.times_ns.sort_by(f64::total_cmp);
        self.times_ns.truncate(FASTEST);
        std::mem::take(&mut self.times_ns)
    }
}

fn attach(program: &mut Xdp, netns: &Netns, device: &str) -> Result<()> {
    netns.run(|| {
        program.attach_to_if_index(if_nametoindex(device)?, XdpMode::Driver)?;
        Ok(())
    })
}

/// The data plane, as the bench has it.
pub(crate) fn balance(balancer: &Netns, far: [u8; 6], own: [u8; 6]) -> Result<Scene> {
    let mut scene = Scene::new()?;
    balancer.run(|| {
        scene.resolver_behind(if_nametoindex("b1")?, far, own)?;
        scene.plane.attach(if_nametoindex("b0")?)
    })?;
    Ok(scene)
}

/// The kernel, with one rule.
fn translate(balancer: &Netns, far: [u8; 6]) -> Result<()> {
    let mac = far.map(|byte| format!("{byte:02x}")).join(":");
    balancer.ip(&format!(
        "neigh add {} lladdr {mac} dev b1 nud permanent",
        RESOLVER.ip()
    ))?;
    balancer.sysctl("net/ipv4/ip_forward", "1")?;
    for device in ["all", "b0"] {
        balancer.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
    }
    balancer.nft(&format!(
        "table ip balancer {{
            chain in {{
                type nat hook prerouting priority dstnat
                ip daddr {} udp dport {} dnat to {RESOLVER}
            }}
        }}",
        NAMES.ip(),
        NAMES.port()
    ))?;
    // Else it takes no frames of XDP; it need not aggregate anything.
    link::gro_on(balancer, "b0")
}

/// Packets that an interface has received.
fn received(netns: &Netns, device: &str) -> Result<u64> {
    let text = netns.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(packets.context("no such interface in net/dev")?.parse()?)
}
