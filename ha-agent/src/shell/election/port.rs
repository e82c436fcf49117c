//! An interface as the election thread uses it.

use std::io;
use std::time::Duration;

use super::Link;
use crate::shell::clock;
use crate::shell::gateway::GatewayProbe;
use crate::shell::packet_socket::{PacketSocket, Receive};

/// An interface with its sockets.
#[derive(Debug)]
pub struct Port {
    pub(super) link: Link,
    /// Sends everything; receives HELLOs on links that take part in the HA checks.
    pub(super) socket: PacketSocket,
    pub(super) arp: Option<PacketSocket>,
    pub(super) probe: Option<GatewayProbe>,
}

impl Port {
    /// Opens the sockets; the gateway is probed as advertisement interval and timeout demand.
    pub fn open(link: Link, (interval, timeout): (Duration, Duration)) -> io::Result<Self> {
        let receive = if link.checked {
            Receive::Hellos
        } else {
            Receive::Nothing
        };
        let socket = PacketSocket::open(link.ifindex, receive)?;
        let watched = link.checked && link.gateway.is_some();
        let arp = watched
            .then(|| PacketSocket::open(link.ifindex, Receive::ArpReplies))
            .transpose()?;
        let probe = watched.then(|| GatewayProbe::new(interval, timeout, clock::now()));
        Ok(Self {
            link,
            socket,
            arp,
            probe,
        })
    }
}
