//! What befalls a whole node: its power, its disk, its BPF file system; and somebody who watches from outside.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::datapath::sys;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::config;
use super::link;
use super::netns::Netns;
use super::pair::{Node, Pair};
use super::switch::Cut;
use crate::clock::now_ns;

/// Address of the watcher on the front network.
pub const WATCHER_FRONT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 253);
/// Address of the watcher on the back network.
pub const WATCHER_BACK: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 253);
/// How long the kernel may take to let go of the programs of a file system that is gone.
const DETACHED_WITHIN_NS: u64 = 5_000_000_000;
/// Room for the state of a node with a disk of its own, which fills up at once.
const DISK: &str = "size=16m";

impl Pair {
    /// A host on both networks that is nobody's client, router or server.
    pub fn watcher(&self) -> Result<Netns> {
        let netns = self.run.namespace("watcher")?;
        for (network, address) in [("front", WATCHER_FRONT), ("back", WATCHER_BACK)] {
            self.switch.connect(network, "watcher", &netns, network)?;
            netns.ip(&format!("addr add {address}/24 dev {network}"))?;
        }
        Ok(netns)
    }

    /// A node's power fails.
    pub fn power_off(&mut self, index: usize) -> Result<()> {
        let node = self.nodes.get_mut(index).context("no such node")?;
        node.cut(Cut::Both);
        if node.agent.is_some() {
            node.kill()?;
        }
        node.each_link(false)
    }

    /// It boots: what is on its disk is all it has.
    pub fn power_on(&mut self, index: usize) -> Result<()> {
        let node = self.nodes.get(index).context("no such node")?;
        // Whoever has a copy of the mount (`ip netns exec` makes one) would keep what is pinned.
        let pins = node.bpf_dir();
        if pins.exists() {
            fs::remove_dir_all(pins)?;
        }
        umount2(&node.dir().join("bpf"), MntFlags::MNT_DETACH)?;
        node.wait_without_xdp()?;
        node.netns.nft("flush ruleset")?;
        // A box that boots is no router until its agent makes it one.
        node.netns.sysctl("net/ipv4/ip_forward", "0")?;
        node.netns.ip(&format!(
            "addr flush dev front\naddr flush dev back\naddr add {}/24 dev front\naddr add {}/24 dev back",
            config::front(node.number),
            config::back(node.number)
        ))?;
        self.run.mount_bpf(&format!("lb{}", node.number))?;
        node.each_link(true)?;
        node.cut(Cut::Nothing);
        self.nodes.get_mut(index).context("no such node")?.start()
    }

    /// Takes a node's BPF file system away, with everything that only its pins keep.
    pub fn unmount_bpf(&self, index: usize) -> Result<()> {
        let node = self.nodes.get(index).context("no such node")?;
        Ok(umount2(&node.dir().join("bpf"), MntFlags::MNT_DETACH)?)
    }

    /// Mounts an empty one in its place.
    pub fn mount_bpf(&self, index: usize) -> Result<()> {
        let node = self.nodes.get(index).context("no such node")?;
        self.run.mount_bpf(&format!("lb{}", node.number))?;
        Ok(())
    }
}

impl Node {
    fn each_link(&self, up: bool) -> Result<()> {
        let cable = self.cable.as_ref().map(|_port| "cable");
        for device in ["front", "back"].into_iter().chain(cable) {
            link::set_up(&self.netns, device, up)?;
        }
        Ok(())
    }

    /// Takes the data plane's program off an interface, as `bpftool link detach` does.
    pub fn detach(&self, device: &str) -> Result<()> {
        let pin = self.bpf_dir().join(format!("link_{device}"));
        let link = sys::object_get(&pin).with_context(|| pin.display().to_string())?;
        Ok(sys::link_detach(link.as_fd())?)
    }

    /// The kernel takes programs off in a work item of its own.
    pub(super) fn wait_without_xdp(&self) -> Result<()> {
        let end = now_ns() + DETACHED_WITHIN_NS;
        loop {
            let links = self
                .netns
                .output(Command::new("ip").args(["link", "show"]))?;
            if !links.contains("xdp") {
                return Ok(());
            }
            ensure!(now_ns() < end, "XDP stays attached:\n{links}");
            sleep(Duration::from_millis(5));
        }
    }

    /// Gives it a small disk of its own for its state; before its agent starts.
    pub fn mount_disk(&self) -> Result<()> {
        let state = self.dir().join("state");
        mount(
            Some("tmpfs"),
            &state,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(DISK),
        )
        .context("cannot mount a disk for the state")
    }

    /// Fills that disk.
    pub fn fill_disk(&self) -> Result<()> {
        let mut file = File::create(self.dir().join("state/ballast"))?;
        // Ever smaller pieces, until not a byte is left.
        for length in [1 << 16, 512, 1] {
            let piece = vec![0xa5; length];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn empty_disk(&self) -> Result<()> {
        Ok(fs::remove_file(self.dir().join("state/ballast"))?)
    }
}
