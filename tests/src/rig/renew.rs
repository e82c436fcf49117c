//! Another box in the place of a node.

use std::fs;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

use super::pair::{Node, Pair};
use super::switch::Port;

impl Pair {
    /// Takes a node away, with everything that was on it, and puts another box in its place: the same cables, other
    /// MACs, and neither key nor configuration nor state.
    pub fn replace_box(&mut self, index: usize) -> Result<()> {
        let node = self.nodes.get_mut(index).context("no such node")?;
        if node.agent.is_some() {
            node.kill()?;
        }
        let pins = self.run.host_dir("switch")?.join("bpf");
        for port in node.ports().map(Port::name) {
            for program in ["xdp", "egress"] {
                fs::remove_file(pins.join(format!("{port}-{program}")))?;
            }
        }
        // By hand, since the kernel takes its time to remove what is in a namespace that is gone.
        let cable = node.cable.as_ref().map(|_| "cable");
        for device in ["front", "back"].into_iter().chain(cable) {
            node.netns.ip(&format!("link del {device}"))?;
        }
        umount2(&node.dir().join("bpf"), MntFlags::MNT_DETACH)?;
        fs::remove_dir_all(node.dir())?;
        node.netns.remove()?;

        let key = self.run.dir().join("pair.key");
        let number = node.number;
        *node = Node::build(
            &self.run,
            &mut self.switch,
            number,
            &self.config,
            &pins,
            &key,
        )?;
        fs::remove_file(node.dir().join("pair.key"))?;
        fs::remove_file(node.config_file())?;
        Ok(())
    }
}
