//! The whole picture: a client, a switch, two load balancers, three real servers.
//!
//! ```text
//!  client ──┐ front            back ┌── rs1
//!           ├───────── lb1 ─────────┼── rs2
//!           ├───────── lb2 ─────────┼── rs3 (not in the services at first)
//!                       ╎ cable (optional: lb1 to lb2 only)
//! ```
//!
//! Every line is a port of one switch. Interfaces inside the hosts are called after the bridge they
//! lead to.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ha_agent::control::{Client, Done, Reloaded, Request};
use ha_agent::keys::PairKeys;
use ha_agent::status::model::{Counters, RealServerState, Role, Services, Square, Status};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use super::capture::Capture;
use super::config::{self, CLIENT, CLIENT6, Forwarding, PairConfig, RealServer};
use super::netns::Netns;
use super::process::Process;
use super::real::{self, TunnelEnd};
use super::switch::{Cut, Port, Switch};
use super::{Run, locate};
use crate::clock::{now_ns, patient};

/// Real servers that exist, whether or not the services use them.
pub const SERVERS: u8 = 3;
/// How long a pair may take from its start until the standby is ready.
const SETTLE: Duration = Duration::from_secs(30);
/// How long it may take until both nodes have a changed configuration.
const SYNC: Duration = Duration::from_secs(20);

/// One load balancer.
#[derive(Debug)]
pub struct Node {
    /// 1 or 2.
    pub number: u8,
    /// The host.
    pub netns: Netns,
    /// Its port on the front network.
    pub front: Port,
    /// Its port on the back network.
    pub back: Port,
    /// Its end of the heartbeat cable.
    pub cable: Option<Port>,
    /// The running agent.
    pub agent: Option<Process>,
    /// Its own copy of the program; else the one that was built.
    program: Option<PathBuf>,
    /// What its agent has in its environment besides.
    environment: Vec<(&'static str, OsString)>,
    dir: PathBuf,
}

/// A client, two load balancers and real servers around a switch.
#[derive(Debug)]
pub struct Pair {
    /// What both nodes' configuration files say.
    pub config: PairConfig,
    /// lb1 and lb2.
    pub nodes: [Node; 2],
    /// The client's host.
    pub client: Netns,
    /// The switch.
    pub switch: Switch,
    /// The real servers' hosts.
    pub reals: Vec<Netns>,
    servers: Vec<Process>,
    _tunnel_ends: Option<TunnelEnd>,
    // Last, so that everything else is gone when it removes the rest.
    pub(super) run: Run,
}

impl Pair {
    /// Builds the network and starts the real servers; the agents are started by
    /// [`Node::start`].
    pub fn build(config: PairConfig) -> Result<Self> {
        let run = Run::start()?;
        let pins = run.mount_bpf("switch")?;
        let mut switch = Switch::new(run.namespace("switch")?);
        for bridge in ["front", "back", "cable"] {
            switch.bridge(bridge)?;
        }

        let client = run.namespace("client")?;
        if config.ipv6 {
            client.enable_ipv6()?;
        }
        switch.connect("front", "client", &client, "front")?;
        client.ip(&format!("addr add {CLIENT}/24 dev front"))?;
        if config.ipv6 {
            client.ip(&format!("addr add {CLIENT6}/64 dev front"))?;
        }
        // A client of thousands of connections to one address and port needs the ports.
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;

        let (mut reals, mut servers) = (Vec::new(), Vec::new());
        let mut ends = match config.forwarding {
            Forwarding::Tunnel => Some(TunnelEnd::load()?),
            Forwarding::Nat | Forwarding::FullNat | Forwarding::Dsr => None,
        };
        for number in 1..=SERVERS {
            let (netns, server) = real::start(&run, &switch, number, &config, ends.as_mut())?;
            reals.push(netns);
            servers.push(server);
        }

        let key = run.dir().join("pair.key");
        PairKeys::generate(&key)?;
        let mut node = |number| Node::build(&run, &mut switch, number, &config, &pins, &key);
        let nodes = [node(1)?, node(2)?];
        for (number, real) in (1..).zip(&reals) {
            real::wait(real, number, &config)?;
        }
        Ok(Self {
            config,
            nodes,
            client,
            switch,
            reals,
            servers,
            _tunnel_ends: ends,
            run,
        })
    }

    /// Starts both agents and waits until the pair is whole.
    pub fn start(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        self.wait_whole()
    }

    /// Waits until one node is active, the other is standby, and the standby can take over without
    /// loss.
    pub fn wait_whole(&mut self) -> Result<()> {
        let settle = patient(SETTLE);
        let end = now_ns() + u64::try_from(settle.as_nanos())?;
        loop {
            if self.is_whole() {
                return Ok(());
            }
            for node in &mut self.nodes {
                if let Some(agent) = &mut node.agent
                    && let Some(status) = agent.ended()?
                {
                    bail!(
                        "the agent of lb{} ended ({status}):\n{}",
                        node.number,
                        tail(&agent.log())
                    );
                }
            }
            if now_ns() > end {
                let logs: Vec<_> = self.nodes.iter().map(Node::log_tail).collect();
                let roles = self.roles();
                bail!(
                    "the pair is not whole after {settle:?} (roles {roles:?}):\n{}",
                    logs.join("\n")
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether one node says that it is active, the other one that it is standby, and both, of themselves and of each
    /// other, that the standby can take over without loss.
    pub fn is_whole(&self) -> bool {
        let roles = self.roles();
        let one_of_each = matches!(
            roles,
            [Some(Role::Active), Some(Role::Standby)] | [Some(Role::Standby), Some(Role::Active)]
        );
        one_of_each && self.nodes.iter().all(|node| self.is_ready(node))
    }

    /// The roles of both nodes; `None` of one that does not answer.
    pub fn roles(&self) -> [Option<Role>; 2] {
        self.nodes.each_ref().map(Node::role)
    }

    /// Index of the active node.
    pub fn active(&self) -> Result<usize> {
        match self.roles() {
            [Some(Role::Active), other] if other != Some(Role::Active) => Ok(0),
            [other, Some(Role::Active)] if other != Some(Role::Active) => Ok(1),
            roles => bail!("not one active node: {roles:?}"),
        }
    }

    /// The active node and the other one.
    pub fn active_and_standby(&mut self) -> Result<(&mut Node, &mut Node)> {
        let active = self.active()?;
        let [first, second] = &mut self.nodes;
        Ok(if active == 0 {
            (first, second)
        } else {
            (second, first)
        })
    }

    /// Whether a node's standby table is complete, its partner does its part as far as it has heard, and every real
    /// server that should serve is up.
    fn is_ready(&self, node: &Node) -> bool {
        let Ok(status) = node.status() else {
            return false;
        };
        let partner = status.partner.as_ref().map(|partner| partner.square);
        (!self.config.replication || status.replication.ready)
            && partner == Some(Square::Green)
            && node.services().is_ok_and(|services| all_up(&services))
    }

    /// Replaces the real servers of both services, as a person would: where the active role is. The other
    /// node gets the change by itself.
    pub fn change_servers(&mut self, servers: Vec<RealServer>) -> Result<()> {
        self.config.servers = servers;
        self.change_config().map(|_changes| ())
    }

    /// Writes the active node's file anew, has it read, and waits until both nodes have it; returns what
    /// changed.
    pub fn change_config(&self) -> Result<Vec<String>> {
        let node = self.nodes.get(self.active()?).context("no such node")?;
        node.write_config(&self.config)?;
        let changes = node.reload()?.changes;
        self.wait_in_sync()?;
        Ok(changes)
    }

    /// Waits until both nodes say that they have the same configuration.
    pub fn wait_in_sync(&self) -> Result<()> {
        let end = now_ns() + u64::try_from(SYNC.as_nanos())?;
        while !self.nodes.iter().all(Node::in_sync) {
            if now_ns() > end {
                let said = self.nodes.each_ref().map(|node| node.status().ok());
                bail!("the configurations are not the same after {SYNC:?}: {said:#?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Makes the back interface of a deleted one anew, as a person would: same name, same address.
    pub fn remake_back(&mut self, node: usize) -> Result<()> {
        let node = self.nodes.get_mut(node).context("no such node")?;
        let pins = self.run.host_dir("switch")?.join("bpf");
        for program in ["xdp", "egress"] {
            fs::remove_file(pins.join(format!("{}-{program}", node.back.name())))?;
        }
        let host = format!("lb{}", node.number);
        node.back = self
            .switch
            .connect_node("back", &host, &node.netns, "back", &pins)?;
        node.netns.ip(&format!(
            "addr add {}/24 dev back",
            config::back(node.number)
        ))
    }

    /// Starts capturing at all ports of both nodes.
    pub fn capture(&self) -> Result<Capture> {
        let ports: Vec<_> = self
            .nodes
            .iter()
            .flat_map(Node::ports)
            .map(Port::name)
            .collect();
        Capture::start(self.switch.netns(), &ports)
    }

    /// Leaves everything running when this program ends; returns the run's directory.
    pub fn keep(mut self) -> Result<PathBuf> {
        self.run.keep()?;
        let agents = self.nodes.iter_mut().filter_map(|node| node.agent.take());
        for process in agents.chain(self.servers.drain(..)) {
            process.release();
        }
        Ok(self.run.dir().to_owned())
    }
}

/// Whether every real server that is to get new connections is up.
fn all_up(services: &Services) -> bool {
    let mut servers = services.services.iter().flat_map(|s| &s.real_servers);
    servers.all(|server| server.weight == 0 || server.state == RealServerState::Up)
}

impl Node {
    pub(super) fn build(
        run: &Run,
        switch: &mut Switch,
        number: u8,
        config: &PairConfig,
        pins: &Path,
        key: &Path,
    ) -> Result<Self> {
        let host = format!("lb{number}");
        let netns = run.namespace(&host)?;
        if config.ipv6 {
            netns.enable_ipv6()?;
        }
        let front = switch.connect_node("front", &host, &netns, "front", pins)?;
        let back = switch.connect_node("back", &host, &netns, "back", pins)?;
        let cable = if config.cable {
            Some(switch.connect_node("cable", &host, &netns, "cable", pins)?)
        } else {
            None
        };
        netns.ip(&format!(
            "addr add {}/24 dev front\naddr add {}/24 dev back",
            config::front(number),
            config::back(number)
        ))?;
        if config.ipv6 {
            netns.ip(&format!(
                "addr add {}/64 dev front\naddr add {}/64 dev back",
                config::front6(number),
                config::back6(number)
            ))?;
        }
        run.mount_bpf(&host)?;
        let dir = run.host_dir(&host)?;
        for below in ["state", "run"] {
            fs::create_dir_all(dir.join(below))?;
        }
        fs::copy(key, dir.join("pair.key"))?;
        let node = Self {
            number,
            netns,
            front,
            back,
            cable,
            agent: None,
            program: None,
            environment: Vec::new(),
            dir,
        };
        node.write_config(config)?;
        Ok(node)
    }

    /// The directory of its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("ha-agent.yaml")
    }

    /// Where its maps are pinned.
    pub fn bpf_dir(&self) -> PathBuf {
        self.dir.join("bpf/ha-agent")
    }

    /// Writes its configuration file anew.
    pub fn write_config(&self, config: &PairConfig) -> Result<()> {
        let text = config::file(config, self.number, &self.dir);
        fs::write(self.config_file(), text).context("cannot write the configuration")
    }

    /// Puts a program of its own in place of the one it has, as a package manager does: under another
    /// name first, then renamed.
    pub fn install(&mut self) -> Result<()> {
        let fresh = self.dir.join("ha-agent.new");
        fs::copy(locate::program("ha-agent")?, &fresh)?;
        self.put_in_place(&fresh)
    }

    /// The same with a program that says it could continue the running one, but ends as soon as it is to.
    pub fn install_one_that_dies(&mut self) -> Result<()> {
        let fresh = self.dir.join("ha-agent.new");
        let real = locate::program("ha-agent")?;
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = run ] && exit 1\nexec {} \"$@\"\n",
            real.display()
        );
        fs::write(&fresh, script)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        self.put_in_place(&fresh)
    }

    fn put_in_place(&mut self, fresh: &Path) -> Result<()> {
        let path = self.dir.join("ha-agent");
        fs::rename(fresh, &path)?;
        self.program = Some(path);
        Ok(())
    }

    /// The program that its agent runs, as the kernel names it; it ends in ` (deleted)` if another one
    /// was put in its place.
    pub fn running(&self) -> Result<PathBuf> {
        let agent = self.agent.as_ref().context("the agent is not running")?;
        Ok(fs::read_link(format!("/proc/{}/exe", agent.pid()?))?)
    }

    /// Runs `ha-agent` with its configuration and returns what it printed; an error if it failed.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => locate::program("ha-agent")?,
        };
        let mut command = Command::new(program);
        command.args(words).arg("-f").arg(self.config_file());
        self.netns.output(&mut command)
    }

    /// Has its agent replaced by the program that is installed, and waits until the new one answers;
    /// returns the time just before.
    pub fn reexec(&self) -> Result<u64> {
        let at = now_ns();
        self.command(&["reexec"])?;
        Ok(at)
    }

    /// Agents started from here on have this in their environment.
    pub fn set_environment(&mut self, environment: &[(&'static str, OsString)]) {
        self.environment = environment.to_vec();
    }

    /// Starts its agent.
    pub fn start(&mut self) -> Result<()> {
        let mut command = Command::new(match &self.program {
            Some(program) => program.clone(),
            None => locate::program("ha-agent")?,
        });
        command.arg("run").arg("-f").arg(self.config_file());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let name = format!("agent of lb{}", self.number);
        let log = self.dir.join("agent.log");
        self.agent = Some(Process::start(&name, &self.netns, &mut command, &log)?);
        Ok(())
    }

    /// Starts an agent that dies at a place named in [`ha_agent::fault`].
    pub fn start_dying(&mut self, point: &str) -> Result<()> {
        self.start_faulty(ha_agent::fault::VARIABLE, OsStr::new(point))
    }

    /// Starts an agent whose wall clock is wrong by as many seconds as a file says.
    pub fn start_with_clock(&mut self, file: &Path) -> Result<()> {
        self.start_faulty(ha_agent::fault::CLOCK, file.as_os_str())
    }

    fn start_faulty(&mut self, variable: &str, value: &OsStr) -> Result<()> {
        let mut command = Command::new(locate::program("ha-faulty")?);
        command.arg("run").arg("-f").arg(self.config_file());
        command.env(variable, value);
        let name = format!("agent of lb{} with a fault", self.number);
        let log = self.dir.join("agent.log");
        self.agent = Some(Process::start(&name, &self.netns, &mut command, &log)?);
        Ok(())
    }

    /// Asks its agent over the control socket.
    fn request<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let socket = self.dir.join("run/ctl.sock");
        Client::connect(&socket)?
            .request(request)
            .with_context(|| format!("lb{} did not do as it was told", self.number))
    }

    /// Its status.
    pub fn status(&self) -> Result<Status> {
        self.request(&Request::Status)
    }

    /// Its services.
    pub fn services(&self) -> Result<Services> {
        self.request(&Request::Services)
    }

    /// Counters of its data plane.
    pub fn counters(&self) -> Result<Counters> {
        self.request(&Request::Counters)
    }

    /// Tells it to hand over. It may if the pair is whole.
    pub fn failover(&self) -> Result<Done> {
        self.request(&Request::Failover)
    }

    /// Tells it to read its configuration again.
    pub fn reload(&self) -> Result<Reloaded> {
        self.request(&Request::Reload)
    }

    /// Whether it says that the partner has its configuration.
    pub fn in_sync(&self) -> bool {
        let partner = self.status().ok().and_then(|status| status.partner);
        partner.is_some_and(|partner| partner.config_in_sync)
    }

    /// Its role; `None` if it does not answer.
    pub fn role(&self) -> Option<Role> {
        self.status().ok().map(|status| status.role)
    }

    /// Waits until it has this role; returns when that was seen.
    pub fn wait_role(&self, role: Role, timeout: Duration) -> Result<u64> {
        let end = now_ns() + u64::try_from(timeout.as_nanos())?;
        loop {
            let found = self.role();
            let now = now_ns();
            if found == Some(role) {
                return Ok(now);
            }
            if now > end {
                bail!(
                    "lb{} is {found:?}, not {role:?}, after {timeout:?}:\n{}",
                    self.number,
                    self.log_tail()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All its ports.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        [&self.front, &self.back].into_iter().chain(&self.cable)
    }

    /// Cuts or heals all its ports.
    pub fn cut(&self, cut: Cut) {
        for port in self.ports() {
            port.cut(cut);
        }
    }

    /// Signals its agent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.agent
            .as_ref()
            .context("the agent is not running")?
            .signal(signal)
    }

    /// Kills its agent and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.agent
            .as_mut()
            .context("the agent is not running")?
            .kill()?;
        self.agent = None;
        Ok(())
    }

    /// Whether the kernel has an IPv4 address of its own on some interface.
    pub fn has_address(&self, address: Ipv4Addr) -> Result<bool> {
        let mut command = Command::new("ip");
        command.args(["-4", "-oneline", "address", "show"]);
        let wanted = format!(" {address}/");
        Ok(self.netns.output(&mut command)?.contains(&wanted))
    }

    /// What its agent logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        format!("--- lb{}\n{}", self.number, tail(&self.log()))
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let from = lines.len().saturating_sub(30);
    lines.get(from..).unwrap_or_default().join("\n")
}
