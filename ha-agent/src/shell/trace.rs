//! `ha-agent trace-packet`: what there is around the data plane, for [`crate::trace`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ha_common::conn::flags;
use ha_common::service::{Addr6, addr_kind};
use ha_ebpf::fake::FakePacket;
use ha_ebpf::family::Family;
use ha_ebpf::packet::{Hop, Mac};
use ha_ebpf::parse::{ethernet, transport};
use tokio::runtime::Handle;

use super::agent::{Shared, lock, map_refusal};
use super::clock;
use super::frame;
use super::names::Names;
use super::netlink::{Neighbour, Netlink};
use super::parts::{self, Bound};
use crate::control::{Refusal, Reply};
use crate::datapath::DatapathError;
use crate::datapath::inspect::{Inspect, Remembered};
use crate::trace::model::{FRAME_MAX, Trace, TraceRequest};
use crate::trace::{self, Device, Surroundings, Ways};

/// An Ethernet header.
const HEADER: usize = 14;
/// Stands in for the station that a packet comes from where nobody knows it: locally administered.
const SOMEBODY: frame::Mac = [0x02, 0, 0, 0, 0, 0x01];

/// The kernel's routes and neighbours, asked by netlink.
struct Kernel {
    netlink: Netlink,
    runtime: Handle,
    neighbours: Vec<Neighbour>,
    macs: BTreeMap<u32, frame::Mac>,
}

impl Kernel {
    fn neighbour(&self, destination: IpAddr) -> Result<(u32, frame::Mac), String> {
        let route = self.runtime.block_on(self.netlink.route(destination));
        let route = route
            .map_err(|error| format!("the kernel does not say which route there is ({error})"))?
            .ok_or("the kernel has no route")?;
        let known = self.neighbours.iter();
        let mac = known
            .filter(|neighbour| route.leads_to(neighbour))
            .find_map(|neighbour| neighbour.mac);
        match mac {
            Some(mac) => Ok((route.ifindex, mac)),
            None => Err(format!(
                "the kernel does not know the neighbour {}",
                route.next_hop
            )),
        }
    }
}

impl Ways for Kernel {
    fn hop(&self, _: IpAddr, destination: IpAddr) -> Result<Hop, String> {
        let (ifindex, mac) = self.neighbour(destination)?;
        let src = self.macs.get(&ifindex);
        let src = src.ok_or("the route leads through an interface without the data plane")?;
        Ok(Hop {
            ifindex,
            mac: Mac::read(&mac),
            src: Mac::read(src),
        })
    }
}

impl Shared {
    /// Tells what the data plane would do with a packet. Changes nothing.
    pub(super) async fn trace(&self, request: TraceRequest) -> Reply<Trace> {
        let length = request.frame.len();
        if !(HEADER..=FRAME_MAX).contains(&length) {
            return Err(Refusal::new(
                format!("a frame has {HEADER} to {FRAME_MAX} bytes, not {length}"),
                "ask about another packet",
            ));
        }
        let neighbours = self.netlink.neighbours().await.map_err(|error| {
            Refusal::new(
                format!("the kernel does not tell its neighbours: {error}"),
                "look at the agent's log",
            )
        })?;
        let bound = lock(&self.bound).clone();
        let config = self.config();
        let job = Job {
            maps: Arc::clone(&self.inspect),
            kernel: Kernel {
                netlink: self.netlink.clone(),
                runtime: Handle::current(),
                neighbours,
                macs: parts::own_macs(&self.bound),
            },
            virtual_mac: [0, 0, 0x5e, 0, 1, config.ha.virtual_id],
            names: Names::new(&config),
            bound,
        };
        // It reads maps and waits for the kernel's routes.
        let done = tokio::task::spawn_blocking(move || job.run(request)).await;
        done.unwrap_or_else(|error| Err(Refusal::new(error.to_string(), "report this as a bug")))
    }
}

/// What it takes to trace a packet.
struct Job {
    maps: Arc<dyn Inspect + Send + Sync>,
    kernel: Kernel,
    bound: Vec<Bound>,
    virtual_mac: frame::Mac,
    names: Names,
}

impl Job {
    fn run(&self, request: TraceRequest) -> Reply<Trace> {
        let TraceRequest {
            mut frame,
            interface,
            address,
        } = request;
        let bound = self.interface(interface.as_deref(), &frame, address)?;
        if address {
            let filled = self.fill_in(&mut frame, bound);
            filled.map_err(|error| map_refusal(&error))?;
        }
        let devices = self.bound.iter().map(|bound| {
            let device = Device {
                name: bound.link.device.clone(),
                mtu: bound.link.mtu,
            };
            (bound.link.ifindex, device)
        });
        let name = |address, protocol, port| {
            let name = self.names.at(address, protocol, u16::from_be(port));
            name.map(str::to_owned)
        };
        let surroundings = Surroundings {
            devices: devices.collect(),
            service: &name,
            ways: &self.kernel,
            now_ns: clock::now().as_nanos(),
        };
        trace::trace(&*self.maps, &surroundings, frame, bound.link.ifindex)
            .map_err(|error| map_refusal(&error))
    }

    /// The interface that was named, else the one that the frame would come in on.
    fn interface(&self, name: Option<&str>, frame: &[u8], unaddressed: bool) -> Reply<&Bound> {
        let known: Vec<&str> = self
            .bound
            .iter()
            .map(|bound| &*bound.interface.name)
            .collect();
        let remedy = format!("name one of these with --in: {}", known.join(", "));
        if let Some(name) = name {
            let named = |bound: &&Bound| bound.interface.name == name || bound.link.device == name;
            let found = self.bound.iter().find(named);
            return found.ok_or_else(|| {
                Refusal::new(
                    format!("there is no data plane on interface {name}"),
                    remedy,
                )
            });
        }
        let for_us = |bound: &&Bound| frame.starts_with(&bound.link.mac);
        if !unaddressed && let Some(bound) = self.bound.iter().find(for_us) {
            return Ok(bound);
        }
        let [source, _] = trace::ends(frame);
        let route = self
            .kernel
            .runtime
            .block_on(self.kernel.netlink.route(source));
        let ifindex = route.ok().flatten().map(|route| route.ifindex);
        let from_there = |bound: &&Bound| Some(bound.link.ifindex) == ifindex;
        self.bound.iter().find(from_there).ok_or_else(|| {
            let what = format!("nothing tells on which interface a packet from {source} comes in");
            Refusal::new(what, remedy)
        })
    }

    /// Writes the Ethernet addresses of a frame that nobody has sent: those that its connection is known
    /// by, else those of the kernel's neighbour.
    fn fill_in(&self, frame: &mut [u8], bound: &Bound) -> Result<(), DatapathError> {
        let [source, destination] = trace::ends(frame);
        let known = match destination {
            IpAddr::V4(_) => known_hop(self.maps.v4(), frame, bound)?,
            IpAddr::V6(_) => known_hop(self.maps.v6(), frame, bound)?,
        };
        let (from, to) = if let Some(known) = known {
            known
        } else {
            let neighbour = self.kernel.neighbour(source).ok();
            let from = neighbour.filter(|(ifindex, _)| *ifindex == bound.link.ifindex);
            let to = if self.has_virtual_mac(destination, bound)? {
                self.virtual_mac
            } else {
                bound.link.mac
            };
            (from.map_or(SOMEBODY, |(_, mac)| mac), to)
        };
        for (place, byte) in frame.iter_mut().zip(to.into_iter().chain(from)) {
            *place = byte;
        }
        Ok(())
    }

    /// Whether an address is reached by the virtual MAC on this interface.
    fn has_virtual_mac(&self, address: IpAddr, bound: &Bound) -> Result<bool, DatapathError> {
        let local = match address {
            IpAddr::V4(v4) => self.maps.v4().addr(u32::from_ne_bytes(v4.octets()))?,
            IpAddr::V6(v6) => self.maps.v6().addr(Addr6::new(v6.octets()))?,
        };
        Ok(local.is_some_and(|local| {
            local.kind == addr_kind::SHARED && local.ifindex == bound.link.ifindex
        }))
    }
}

/// Source and destination of the frames of a client whose connection is known.
fn known_hop<A: Family>(
    maps: &dyn Remembered<A>,
    frame: &[u8],
    bound: &Bound,
) -> Result<Option<(frame::Mac, frame::Mac)>, DatapathError> {
    let mut packet = FakePacket::new(frame.to_vec(), bound.link.ifindex);
    let link = ethernet::parse(&mut packet).ok();
    let network = link.and_then(|link| A::network(&mut packet, link.l3));
    let flow = network.and_then(|network| transport::parse(&mut packet, &network));
    let Some(flow) = flow else { return Ok(None) };
    let conn = maps.conn(&flow.key)?.filter(|conn| {
        conn.flags & flags::HOP_KNOWN != 0
            && !conn.is_reverse()
            && conn.hop_ifindex == bound.link.ifindex
    });
    Ok(conn.map(|conn| (conn.hop_mac, conn.hop_src)))
}
