//! An interface as the election thread uses it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::Link;
use crate::shell::clock;
use crate::shell::frame::{self, discovery};
use crate::shell::gateway::GatewayProbe;
use crate::shell::packet_socket::{PacketSocket, Receive};

/// An interface with its sockets.
#[derive(Debug)]
pub struct Port {
    pub(super) link: Link,
    /// Sends everything; receives HELLOs on links that take part in the HA checks.
    pub(super) socket: PacketSocket,
    /// Answers of neighbours, of each family in which a gateway is watched.
    pub(super) replies: Vec<PacketSocket>,
    pub(super) probe: Option<GatewayProbe>,
}

impl Port {
    /// Opens the sockets; the gateways are probed as advertisement interval and timeout demand.
    pub fn open(link: Link, (interval, timeout): (Duration, Duration)) -> io::Result<Self> {
        let receive = match link.addresses.as_slice() {
            _ if !link.checked => Receive::Nothing,
            own if !own.is_empty() && own.iter().all(IpAddr::is_ipv6) => Receive::Hellos6,
            _ => Receive::Hellos,
        };
        let socket = PacketSocket::open(link.ifindex, receive)?;
        let mut replies = Vec::new();
        for (v6, receive) in [
            (false, Receive::ArpReplies),
            (true, Receive::NeighbourAdvertisements),
        ] {
            let mut gateways = link.gateways.iter();
            if link.checked && gateways.any(|gateway| gateway.is_ipv6() == v6) {
                replies.push(PacketSocket::open(link.ifindex, receive)?);
            }
        }
        let watched = !replies.is_empty();
        let probe = watched.then(|| GatewayProbe::new(interval, timeout, clock::now()));
        Ok(Self {
            link,
            socket,
            replies,
            probe,
        })
    }

    /// Questions to the gateways.
    pub(super) fn questions(&self) -> Vec<Vec<u8>> {
        let link = &self.link;
        let question = |gateway: &IpAddr| {
            let mut own = link.addresses.iter();
            own.find_map(|own| match (*own, *gateway) {
                (IpAddr::V4(own), IpAddr::V4(gateway)) => {
                    Some(frame::arp_request(link.mac, own, gateway))
                }
                (IpAddr::V6(own), IpAddr::V6(gateway)) => {
                    Some(discovery::solicitation(link.mac, own, gateway))
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
            })
        };
        link.gateways.iter().filter_map(question).collect()
    }

    /// Tells the link where the shared addresses are.
    pub(super) fn announcements(&self) -> impl Iterator<Item = Vec<u8>> {
        let link = &self.link;
        link.shared.iter().map(|shared| match *shared {
            IpAddr::V4(v4) => frame::gratuitous_arp(link.mac, v4),
            IpAddr::V6(v6) => discovery::announcement(link.mac, v6, link.router),
        })
    }
}
