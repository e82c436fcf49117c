//! The packet, whose ways out are asked of the kernel as it is.

use std::net::IpAddr;

use ha_common::service::Addr6;
use ha_ebpf::fake::FakePacket;
use ha_ebpf::packet::{Hop, Packet, Window};

use super::model::Topic;
use super::notes::{Answer, Notes};
use super::words;
use crate::datapath::family::Kernel as _;

/// The kernel's routes.
pub trait Ways {
    /// The hop from `source` to `destination`; if there is none, why.
    fn hop(&self, source: IpAddr, destination: IpAddr) -> Result<Hop, String>;
}

/// A frame in memory and the ways out.
pub(super) struct Traced<'a> {
    pub(super) frame: FakePacket,
    ways: &'a dyn Ways,
    notes: &'a Notes,
}

impl<'a> Traced<'a> {
    pub(super) const fn new(frame: FakePacket, ways: &'a dyn Ways, notes: &'a Notes) -> Self {
        Self { frame, ways, notes }
    }

    fn route(&self, source: IpAddr, destination: IpAddr) -> Hop {
        let about = format!("{source} to {destination}");
        match self.ways.hop(source, destination) {
            Ok(hop) => {
                let text = format!(
                    "{} through interface {}",
                    words::mac(hop.mac.bytes()),
                    hop.ifindex
                );
                let from = words::mac(hop.src.bytes());
                self.notes
                    .note(Topic::Route, about, Answer::new(text, [("from", from)]));
                hop
            }
            Err(why) => {
                let text = format!("{why}: the packet is left to the kernel");
                self.notes.note(Topic::Route, about, text);
                Hop::UNKNOWN
            }
        }
    }
}

impl Packet for Traced<'_> {
    fn frame_len(&self) -> usize {
        self.frame.frame_len()
    }

    fn ingress(&self) -> u32 {
        self.frame.ingress()
    }

    fn window<const N: usize>(&mut self, offset: usize) -> Option<Window<'_, N>> {
        self.frame.window(offset)
    }

    fn copy_out<const N: usize>(&self, offset: usize, len: usize, to: &mut [u8; N]) -> bool {
        self.frame.copy_out(offset, len, to)
    }

    fn grow_head(&mut self, by: usize) -> bool {
        self.frame.grow_head(by)
    }

    fn truncate(&mut self, len: usize) -> bool {
        self.frame.truncate(len)
    }

    fn route4(&mut self, source: u32, destination: u32) -> Hop {
        self.route(source.ip(), destination.ip())
    }

    fn route6(&mut self, source: &Addr6, destination: &Addr6) -> Hop {
        self.route(source.ip(), destination.ip())
    }

    fn exceeds_mtu(&mut self, ifindex: u32, len: u32) -> Option<u32> {
        let exceeded = self.frame.exceeds_mtu(ifindex, len);
        let answer = match exceeded {
            Some(mtu) => format!("takes {mtu} bytes, not {len}"),
            None => format!("takes {len} bytes"),
        };
        let about = format!("interface {ifindex}");
        self.notes.note(Topic::Mtu, about, answer);
        exceeded
    }

    fn redirect(&mut self, ifindex: u32) {
        self.frame.redirect(ifindex);
    }
}
