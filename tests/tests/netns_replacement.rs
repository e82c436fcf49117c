//! The procedures of docs/operations.md that exchange a node or its program, under live connections: what an operator
//! types, and that no connection notices.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::datapath::sys::{self, Map, Update};
use ha_agent::status::model::Role;
use ha_common::{LAYOUT_VERSION, maps};
use ha_tests::clock::now_ns;
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::switch::Cut;
use ha_tests::traffic::load::Load;
use nix::sys::signal::Signal;
use tempfile::TempDir;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("long_a_defective_node_is_replaced", defective),
            ("long_both_nodes_are_replaced", both),
            ("long_the_nodes_are_upgraded_one_after_the_other", rolling),
            ("maps_of_another_layout_are_refused", layout),
        ],
    )
}

const CONNECTIONS: usize = 1000;
const NEW_RATE: u64 = 300;
/// How long an agent may take to end or to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pair with clients, and a backup of either node somewhere else.
struct Site {
    pair: Pair,
    load: Load,
    backups: TempDir,
}

impl Site {
    fn new() -> Result<Self> {
        let mut pair = Pair::build(PairConfig {
            timeout: Duration::from_millis(500),
            ..PairConfig::default()
        })?;
        pair.start()?;
        let backups = tempfile::tempdir()?;
        for node in &pair.nodes {
            let file = backup(&backups, node.number);
            node.command(&["backup", text(&file)?])?;
        }
        let load = Load::start(&pair.client, SERVICE, CONNECTIONS)?;
        Ok(Self {
            pair,
            load,
            backups,
        })
    }

    /// Puts a new box in place of a node, gives it the pair's key and its predecessor's configuration, and waits until
    /// it could take over.
    fn replace(&mut self, index: usize) -> Result<()> {
        self.pair.replace_box(index)?;
        let other = self.pair.nodes.get(1 - index).context("no such node")?;
        let key = other.dir().join("pair.key");
        let node = self.pair.nodes.get_mut(index).context("no such node")?;
        let file = backup(&self.backups, node.number);
        let refused = node.command(&["restore", text(&file)?]);
        let refused = refused.err().context("restored without a key")?;
        ensure!(format!("{refused:#}").contains("key"), "{refused:#}");
        ensure!(!node.config_file().exists());
        fs::copy(key, node.dir().join("pair.key"))?;
        node.command(&["restore", text(&file)?])?;
        node.command(&["check-config"])?;
        node.start()?;
        self.pair.wait_whole()
    }

    fn node(&self, index: usize) -> Result<&Node> {
        self.pair.nodes.get(index).context("no such node")
    }

    /// Hands over from the active node, and demands that no connection, old or new, has noticed anything so far.
    fn hand_over_and_judge(self) -> Result<()> {
        let active = self.pair.active()?;
        self.load.open(NEW_RATE, Duration::from_secs(1));
        let fault_ns = now_ns();
        let said = self.node(active)?.command(&["failover"])?;
        self.load.fault_at(fault_ns);
        ensure!(said.contains("took over within"), "{said}");
        let (tcp, udp) = self.load.finish(fault_ns, self.pair.config.timeout)?;
        assert!(tcp.connections >= CONNECTIONS, "{tcp:#?}");
        assert_eq!(
            (tcp.survived, tcp.broken_before),
            (tcp.connections, 0),
            "{tcp:#?}"
        );
        assert_eq!(
            (udp.lost_flows, udp.moved_flows, udp.wrong_answers),
            (0, 0, 0),
            "{udp:#?}"
        );
        assert_eq!(self.pair.active()?, 1 - active);
        Ok(())
    }
}

fn backup(directory: &TempDir, number: u8) -> PathBuf {
    directory.path().join(format!("lb{number}.backup"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of other than text")
}

fn defective() -> Result<()> {
    let mut site = Site::new()?;
    let active = site.pair.active()?;
    let node = site.pair.nodes.get_mut(active).context("no such node")?;
    node.cut(Cut::Both);
    node.kill()?;
    site.node(1 - active)?.wait_role(Role::Active, PATIENCE)?;
    site.replace(active)?;
    // Nobody is preferred: the new node is standby, until a person wants to see it take over.
    assert_eq!(site.pair.active()?, 1 - active);
    site.hand_over_and_judge()
}

fn both() -> Result<()> {
    let mut site = Site::new()?;
    let active = site.pair.active()?;
    site.replace(1 - active)?;
    site.node(active)?.command(&["failover"])?;
    assert_eq!(site.pair.active()?, 1 - active);
    // What it learned of the pair it learned from its predecessor alone.
    site.pair.wait_whole()?;
    site.replace(active)?;
    assert_eq!(site.pair.active()?, 1 - active);
    site.hand_over_and_judge()
}

fn rolling() -> Result<()> {
    let mut site = Site::new()?;
    let active = site.pair.active()?;
    for index in [1 - active, active] {
        if index == active {
            site.node(active)?.command(&["failover"])?;
            site.pair.wait_whole()?;
        }
        // A restart, which also takes a program with other maps or other state; it ends as standby.
        let node = site.pair.nodes.get_mut(index).context("no such node")?;
        node.install()?;
        node.signal(Signal::SIGTERM)?;
        let agent = node.agent.as_mut().context("no agent")?;
        ensure!(agent.wait(PATIENCE)?.success());
        ensure!(!node.bpf_dir().exists(), "pins are left");
        node.start()?;
        site.pair.wait_whole()?;
        let installed = site.node(index)?.dir().join("ha-agent");
        assert_eq!(site.node(index)?.running()?, installed);
    }
    assert_eq!(site.pair.active()?, 1 - active);
    site.hand_over_and_judge()
}

fn layout() -> Result<()> {
    let mut pair = Pair::build(PairConfig::default())?;
    pair.start()?;
    let active = pair.active()?;
    let node = pair.nodes.get_mut(active).context("no such node")?;
    node.command(&["upgrade-check"])?;
    let before = node.status()?;
    let version = sys::object_get(&node.bpf_dir().join(maps::VERSION))?;
    let version = Map::<u32, u32>::new(version)?;
    version.update(&0, &(LAYOUT_VERSION + 1), Update::Any)?;
    // As a program meets it whose maps are others: nothing is given up, and the reason is named.
    for verb in ["upgrade-check", "reexec"] {
        let refused = node.command(&[verb]).err().context("not refused")?;
        let refused = format!("{refused:#}");
        ensure!(refused.contains("layout version"), "{verb}: {refused}");
    }
    let after = node.status()?;
    assert_eq!(
        (after.role, after.term, after.process),
        (before.role, before.term, before.process)
    );
    // Nor does one start on what such a program left behind.
    node.kill()?;
    node.start()?;
    let agent = node.agent.as_mut().context("no agent")?;
    ensure!(!agent.wait(PATIENCE)?.success());
    ensure!(node.log().contains("layout version"), "{}", node.log());
    ensure!(node.log().contains("rm -r"), "{}", node.log());
    fs::remove_dir_all(node.bpf_dir())?;
    node.start()?;
    pair.wait_whole()
}
