//! The pair under traffic, and those who watch it from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_agent::control::Reloaded;
use ha_agent::shell::frame::{self, Mac};
use ha_agent::shell::packet_socket::{PacketSocket, Receive};
use nix::net::if_::if_nametoindex;

use super::options::Options;
use super::schedule::Kind;
use crate::bench::CoreStalls;
use crate::clock::{now_ns, patient, sleep_until};
use crate::demo::SERVICE;
use crate::rig::arp;
use crate::rig::capture::Capture;
use crate::rig::config::{PairConfig, SHARED_BACK, SHARED_FRONT, Scheduler};
use crate::rig::conns::{Conns, differing};
use crate::rig::netns::Netns;
use crate::rig::outage::{WATCHER_BACK, WATCHER_FRONT};
use crate::rig::pair::{Node, Pair};
use crate::rig::squeeze::Squeeze;
use crate::rig::wall::WallClock;
use crate::traffic::crowd::{Crowd, Manner};
use crate::traffic::pulse::Pulse;

/// How long a pair may take until it is whole again.
const SETTLE: Duration = Duration::from_mins(1);
/// Between two looks at a pair that is not.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Idle connections must outlive everything.
const TIMEOUTS: &str = "timeouts: { established: 2h, closing: 1h, closed: 2s, udp: 2m }";
/// Between two probes of the one UDP flow; a slower machine gets fewer, as of the questions below.
const PULSE_EVERY: Duration = Duration::from_millis(1);
/// Between two questions on each network for who has its shared address.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Standing connections opened a second.
const OPEN_RATE: u64 = 1000;
/// How long the first of them may take.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// Both networks: name, who asks, and for what.
const NETWORKS: [(&str, std::net::Ipv4Addr, std::net::Ipv4Addr); 2] = [
    ("front", WATCHER_FRONT, SHARED_FRONT),
    ("back", WATCHER_BACK, SHARED_BACK),
];

/// Everything there is. What uses the network comes first, so that it ends before the network goes.
pub(super) struct Scene {
    pub(super) crowd: Crowd,
    pub(super) pulse: Pulse,
    pub(super) stalls: CoreStalls,
    /// The agent whose memory is scarce.
    pub(super) squeeze: Option<Squeeze>,
    /// A reload under way.
    pub(super) reload: Option<JoinHandle<Result<Reloaded>>>,
    capture: Option<Capture>,
    _askers: [Asker; 2],
    /// By node; none if none is to jump.
    clocks: Vec<WallClock>,
    /// By node, front and back.
    macs: [[Mac; 2]; 2],
    watcher: Netns,
    /// Who had the addresses when the pair was last whole.
    pub(super) holder: usize,
    /// How often the real servers were changed.
    pub(super) versions: usize,
    /// On a disk.
    pub(super) scratch: PathBuf,
    pub(super) pair: Pair,
}

/// A pair that is whole again.
pub(super) struct Settled {
    /// Who has the addresses, by what is on the wire.
    pub(super) holder: usize,
    /// Since when exactly one node has them.
    pub(super) served_ns: u64,
    /// When the standby could take over as well.
    pub(super) ready_ns: u64,
    /// What was last in the way.
    pub(super) awaited: Option<String>,
}

impl Scene {
    /// Builds and starts a pair, its watchers and its clients.
    pub(super) fn start(options: &Options, scratch: &Path) -> Result<Self> {
        let mut pair = Pair::build(PairConfig {
            interval: Duration::from_millis(options.interval),
            timeout: Duration::from_millis(options.timeout),
            scheduler: Scheduler::Rr,
            cable: true,
            keys: vec![TIMEOUTS],
            ..PairConfig::default()
        })?;
        let mut clocks = Vec::new();
        for node in &mut pair.nodes {
            node.install()?;
            node.mount_disk()?;
            // Where there is no compiler, clocks stay right.
            if options.only.is_empty() || options.only.contains(&Kind::ClockJump) {
                let clock = WallClock::new(node.dir())?;
                node.set_environment(clock.environment());
                clocks.push(clock);
            }
        }
        let mac = |index: usize, device: &'static str| -> Result<Mac> {
            let node = pair.nodes.get(index).context("no such node")?;
            node.netns.run(|| arp::mac_of(device))
        };
        let macs = [
            [mac(0, "front")?, mac(0, "back")?],
            [mac(1, "front")?, mac(1, "back")?],
        ];
        pair.start()?;
        let watcher = pair.watcher()?;
        let [front, back] = NETWORKS;
        let askers = [
            Asker::start(&watcher, front)?,
            Asker::start(&watcher, back)?,
        ];
        super::say(&format!("opening {} connections", options.connections));
        let crowd = Crowd::start(&pair.client, SERVICE)?;
        crowd.open(options.connections, &Manner::ALL, OPEN_RATE);
        crowd.wait_complete_for(patient(OPEN_WITHIN))?;
        fs::create_dir_all(scratch)?;
        let mut scene = Self {
            pulse: Pulse::start_every(&pair.client, SERVICE, patient(PULSE_EVERY))?,
            stalls: CoreStalls::start()?,
            squeeze: None,
            reload: None,
            capture: Some(pair.capture()?),
            _askers: askers,
            clocks,
            macs,
            watcher,
            holder: 0,
            versions: 0,
            scratch: scratch.to_owned(),
            crowd,
            pair,
        };
        scene.holder = scene.settle()?.holder;
        Ok(scene)
    }

    /// Goes on with a new capture; what the old one has.
    pub(super) fn next_capture(&mut self) -> Result<Vec<crate::rig::capture::Frame>> {
        // The new one first: nothing must fall in between.
        let next = self.pair.capture()?;
        let old = self.capture.replace(next).context("no capture")?;
        old.finish()
    }

    pub(super) fn clock(&self, node: usize) -> Result<&WallClock> {
        self.clocks.get(node).context("no such node")
    }

    /// Waits until exactly one node has the addresses and the other one can take over.
    pub(super) fn settle(&mut self) -> Result<Settled> {
        let settle = patient(SETTLE);
        let end = now_ns() + u64::try_from(settle.as_nanos())?;
        let mut served: Option<(usize, u64)> = None;
        let mut awaited = None;
        loop {
            let at = now_ns();
            let holder = self.holder()?;
            served = match (served, &holder) {
                (Some((node, since)), Ok(found)) if node == *found => Some((node, since)),
                (_, Ok(found)) => Some((*found, at)),
                (_, Err(_)) => None,
            };
            let obstacle = match (served, &holder) {
                (Some((node, served_ns)), _) => match self.obstacle()? {
                    None => {
                        return Ok(Settled {
                            holder: node,
                            served_ns,
                            ready_ns: now_ns(),
                            awaited,
                        });
                    }
                    Some(obstacle) => obstacle,
                },
                (None, Err(why)) => why.clone(),
                (None, Ok(_)) => "nobody has the addresses".to_owned(),
            };
            ensure!(
                now_ns() < end,
                "not settled within {settle:?}: {obstacle}; {}",
                self.said()
            );
            awaited = Some(obstacle);
            self.check_alive()?;
            sleep(LOOK_EVERY);
        }
    }

    /// Who answers for both shared addresses, by what is heard on the networks; else what is wrong.
    fn holder(&self) -> Result<Result<usize, String>> {
        let mut holders = BTreeSet::new();
        for (network, (device, own, target)) in NETWORKS.into_iter().enumerate() {
            let found = arp::holders(&self.watcher, device, own, target)?;
            let is = |mac: &Mac| {
                let of = |macs: &[Mac; 2]| macs.get(network) == Some(mac);
                self.macs.iter().position(of)
            };
            let nodes: Vec<_> = found.iter().map(is).collect();
            match nodes.as_slice() {
                [Some(node)] => holders.insert(*node),
                [] => return Ok(Err(format!("nobody answers for {target}"))),
                _ => return Ok(Err(format!("{target} is at {nodes:?}"))),
            };
        }
        let mut holders = holders.into_iter();
        Ok(match (holders.next(), holders.next()) {
            (Some(node), None) => Ok(node),
            _ => Err("each node has one of the addresses".to_owned()),
        })
    }

    /// What keeps the standby from taking over without loss.
    fn obstacle(&self) -> Result<Option<String>> {
        if !self.pair.is_whole() {
            return Ok(Some("the standby is not ready".to_owned()));
        }
        if !self.pair.nodes.iter().all(Node::in_sync) {
            return Ok(Some("the configurations differ".to_owned()));
        }
        let [one, other] = &self.pair.nodes;
        let differing = differing(&Conns::open(one)?, &Conns::open(other)?)?.len();
        Ok((differing > 0).then(|| format!("{differing} entries of the tables differ")))
    }

    /// What the agents say of themselves, for whoever must find out.
    fn said(&self) -> String {
        let said = |index: usize| {
            let status = self.node(index).and_then(Node::status);
            status.map_or_else(
                |error| format!("lb{}: {error:#}", index + 1),
                |status| {
                    let alarms: Vec<_> = status.alarms.iter().map(|a| &a.name).collect();
                    format!(
                        "lb{} is {}, replication {}, alarms {alarms:?}",
                        index + 1,
                        status.role.as_str(),
                        if status.replication.ready {
                            "ready"
                        } else {
                            "not ready"
                        },
                    )
                },
            )
        };
        format!("{}; {}", said(0), said(1))
    }

    /// An agent that has ended without being told to is a violation.
    fn check_alive(&mut self) -> Result<()> {
        for node in &mut self.pair.nodes {
            if let Some(agent) = &mut node.agent
                && let Some(status) = agent.ended()?
            {
                bail!("the agent of lb{} ended by itself ({status})", node.number);
            }
        }
        Ok(())
    }
}

/// Asks a network all the time who has its shared address.
struct Asker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    fn start(
        netns: &Netns,
        (device, own, target): (&str, std::net::Ipv4Addr, std::net::Ipv4Addr),
    ) -> Result<Self> {
        let (socket, request) = netns.run(|| {
            let socket = PacketSocket::open(if_nametoindex(device)?, Receive::Nothing)?;
            Ok((
                socket,
                frame::arp_request(arp::mac_of(device)?, own, target),
            ))
        })?;
        let every_ns = u64::try_from(patient(ASK_EVERY).as_nanos())?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(format!("ask-{device}"))
            .spawn(move || {
                while !flag.load(Ordering::Relaxed) {
                    // What cannot be sent is asked again.
                    let _unsent = socket.send(&request);
                    sleep_until(now_ns() + every_ns);
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ended = thread.join();
        }
    }
}
