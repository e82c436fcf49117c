//! What the data plane would do with a packet, and why.
//!
//! This runs the packet logic itself, the lines that the programs in the kernel are made of
//! ([`ha_ebpf`]), on a frame in memory and on the live maps as they are. It sees what they hold
//! ([`crate::datapath::inspect`]) and notes every question and what was found; what it would write it
//! keeps to itself, so nothing in the kernel changes, no counter moves and nobody is told. What cannot
//! be had from outside is asked in another way and said so: routes by netlink instead of by the BPF
//! helper, and of what each CPU has for itself, one CPU's.

mod fields;
mod flows;
pub mod frame;
pub mod model;
mod notes;
mod packet;
pub mod pcap;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ha_common::reason::Verdict;
use ha_common::service::Addr6;
use ha_common::stage;
use ha_ebpf::fake::FakePacket;
use ha_ebpf::programs;

pub(crate) use self::fields::ends;
use self::model::{Entry, Outcome, Trace};
use self::notes::Notes;
use self::packet::Traced;
pub use self::packet::Ways;
use self::view::View;
use crate::datapath::DatapathError;
use crate::datapath::inspect::Inspect;

/// An interface with the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Longest IP packet it takes.
    pub mtu: u32,
}

/// What there is around the data plane.
pub struct Surroundings<'a> {
    /// Interfaces with the data plane, by index.
    pub devices: BTreeMap<u32, Device>,
    /// Name of the service that an address, protocol and port (in network order) have.
    pub service: &'a dyn Fn(IpAddr, u32, u16) -> Option<String>,
    /// The kernel's routes.
    pub ways: &'a dyn Ways,
    /// Now, `CLOCK_MONOTONIC`.
    pub now_ns: u64,
}

impl Surroundings<'_> {
    /// The name of an interface, else its index.
    fn device(&self, ifindex: u32) -> String {
        match self.devices.get(&ifindex) {
            Some(device) => device.name.clone(),
            None => format!("interface {ifindex}"),
        }
    }
}

/// Asks what would become of a frame that comes in on an interface.
pub fn trace(
    maps: &dyn Inspect,
    surroundings: &Surroundings<'_>,
    frame: Vec<u8>,
    ingress: u32,
) -> Result<Trace, DatapathError> {
    let notes = Notes::new(stage::ENTRY);
    let view = View::new(maps, surroundings, &notes, ends(&frame));
    let mut packet = Traced::new(
        FakePacket::new(frame.clone(), ingress),
        surroundings.ways,
        &notes,
    );
    let mtus = surroundings.devices.iter();
    packet.frame.mtus = mtus.map(|(index, device)| (*index, device.mtu)).collect();
    let reason = programs::judge(&mut packet, &view, |stage| notes.enter(stage.program()));
    let verdict = reason.verdict();
    view.close(reason);
    view.note_changes::<u32>();
    view.note_changes::<Addr6>();
    if let Some(error) = view.failure() {
        return Err(error);
    }
    let after = packet.frame.bytes;
    let leaves_through = match verdict {
        Verdict::Pass | Verdict::Drop => None,
        Verdict::Transmit => Some(surroundings.device(ingress)),
        Verdict::Redirect => packet
            .frame
            .redirected
            .map(|ifindex| surroundings.device(ifindex)),
    };
    let real_server = view.found.real.get().map(|id| view.real_name(id));
    let service = view.found.service.take();
    let entry = view.found.entry.get().unwrap_or(Entry::None);
    let (programs, steps) = notes.into_parts();
    Ok(Trace {
        device: surroundings.device(ingress),
        programs,
        steps,
        outcome: Outcome {
            reason: reason.as_str().to_owned(),
            meaning: reason.meaning().trim().to_owned(),
            verdict: verdict_text(verdict).to_owned(),
            leaves_through,
            service,
            entry,
            real_server,
            rewrite: fields::rewritten(&frame, &after),
            before: frame,
            after,
        },
    })
}

const fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Drop => "drop",
        Verdict::Transmit => "transmit",
        Verdict::Redirect => "redirect",
    }
}
