//! The last events of a world, formatted only if someone wants to read them.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use ha_agent::journal::annotate;
use ha_agent::proto::carp::Action;

use super::faults::Fault;
use super::network::Packet;
use super::world::World;

/// Events kept.
const KEPT: usize = 400;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A packet was handed to a node.
    Delivered(usize, Packet),
    /// A node's machine acted; packets excluded.
    Acted(usize, Action),
    /// Something went wrong, or right again.
    Fault(Fault),
    /// A node's timer was called.
    Timer(usize),
    /// Anything else.
    Note(String),
}

/// A bounded log.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: VecDeque<(u64, u64, Entry)>,
}

impl Journal {
    /// Notes an event.
    pub fn push(&mut self, step: u64, now: u64, entry: Entry) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back((step, now, entry));
    }
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, now, entry) in &self.entries {
            write!(f, "{step:>7} {:>14.6} ms  ", *now as f64 / 1e6)?;
            match entry {
                Entry::Delivered(to, packet) => {
                    let forged = if packet.forged { " FORGED" } else { "" };
                    write!(
                        f,
                        "node {to} <- {:?} link {} sent {:.6}{forged}",
                        packet.kind,
                        packet.link,
                        packet.sent as f64 / 1e6
                    )?;
                    describe(f, packet)?;
                    writeln!(f)?;
                }
                Entry::Acted(node, action) => writeln!(f, "node {node}    {action:?}")?,
                Entry::Fault(fault) => writeln!(f, "FAULT {fault:?}")?,
                Entry::Timer(node) => writeln!(f, "node {node}    timer")?,
                Entry::Note(note) => writeln!(f, "{note}")?,
            }
        }
        Ok(())
    }
}

/// Writes what happened to each election, as text that the machine can replay; says where it is.
pub(super) fn keep(world: &World, what: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sim");
    let mut said = String::new();
    for node in 0..2 {
        let seed = world.params.seed;
        let mut text = format!("# seed {seed}, node {node}: {what}\n");
        for line in annotate(&world.host(node).history()) {
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "{line}");
        }
        let path = directory.join(format!("seed-{seed}-node-{node}.log"));
        let written = fs::create_dir_all(&directory).and_then(|()| fs::write(&path, text));
        let path = path.display();
        let _infallible = match written {
            Ok(()) => writeln!(said, "log of node {node}: cargo xtask sim --replay {path}"),
            Err(error) => writeln!(said, "{path}: {error}"),
        };
    }
    said
}

/// The fields of a trailer that matter.
fn describe(f: &mut fmt::Formatter<'_>, packet: &Packet) -> fmt::Result {
    use super::network::Kind;
    use ha_common::carp::{HEADER_LEN, trailer as at};
    let body = match packet.kind {
        Kind::Advert => packet.payload.get(HEADER_LEN..),
        Kind::Hello => packet.payload.get(..),
        Kind::Sync => None,
    };
    let Some(body) = body else { return Ok(()) };
    let number = |from: usize, len: usize| {
        body.get(from..from + len).map_or(0, |bytes| {
            bytes
                .iter()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        })
    };
    let role = ["init", "standby", "active", "pacified", "maintenance"];
    write!(
        f,
        " [{} term {} epoch {:04x} seq {} echo {:04x}/{} flags {:x}]",
        role.get(number(at::ROLE, 1) as usize).unwrap_or(&"?"),
        number(at::TERM, 8),
        number(at::EPOCH, 8) & 0xffff,
        number(at::SEQUENCE, 8),
        number(at::ECHO_EPOCH, 8) & 0xffff,
        number(at::ECHO_SEQUENCE, 8),
        number(at::FLAGS, 2)
    )
}
