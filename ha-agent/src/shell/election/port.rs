//! An interface as the election thread uses it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use super::Link;
use super::reach::Reach;
use crate::config::model::Transport;
use crate::proto::time::Instant;
use crate::shell::clock;
use crate::shell::frame::{self, Mac, discovery};
use crate::shell::gateway::GatewayProbe;
use crate::shell::packet_socket::{PacketSocket, Receive};

const BROADCAST: Mac = [0xff; 6];

/// An interface with its sockets.
#[derive(Debug)]
pub struct Port {
    pub(super) link: Link,
    /// Sends everything; receives HELLOs on links that take part in the HA checks.
    pub(super) socket: PacketSocket,
    /// Answers of neighbours, of each family in which a gateway is watched.
    pub(super) replies: Vec<PacketSocket>,
    pub(super) probe: Option<GatewayProbe>,
    /// Whether there is a carrier, by the kernel's last word.
    carrier: bool,
    /// Whether the interface is fit for use, by the last word of those who look after it.
    fit: bool,
    /// Whether the virtual MAC can be reached.
    pub(super) reach: Option<Reach>,
    /// Has switches forward questions for the shared IPv6 addresses here, which the kernel, that has
    /// them elsewhere, does not ask for.
    _groups: Option<UdpSocket>,
    /// When the partner was last heard by multicast.
    multicast_heard: Instant,
    /// How long it may not be.
    patience: Duration,
    /// Whether the election believes that it is heard.
    multicast_told: bool,
    /// Where the partner's packets come from.
    partner_mac: Option<Mac>,
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
        if let Some(mac) = link.virtual_mac {
            socket.join(link.ifindex, mac)?;
        }
        let mut replies = Vec::new();
        for (v6, receive) in [
            (false, Receive::ArpReplies),
            (true, Receive::NeighbourAdvertisements),
        ] {
            let asked = link.virtual_mac.and_then(|_| link.shared.first());
            let mut asked = link.gateways.iter().chain(asked);
            if link.checked && asked.any(|asked| asked.is_ipv6() == v6) {
                replies.push(PacketSocket::open(link.ifindex, receive)?);
            }
        }
        let watched = link.checked && !link.gateways.is_empty();
        let probe = watched.then(|| GatewayProbe::new(interval, timeout, clock::now()));
        Ok(Self {
            reach: link
                .virtual_mac
                .filter(|_| link.checked)
                .map(|mac| Reach::new(mac, interval)),
            _groups: groups(&link)?,
            link,
            socket,
            replies,
            probe,
            carrier: true,
            fit: true,
            multicast_heard: clock::now(),
            // So that unicast is in place before the timeout ends.
            patience: timeout / 2,
            multicast_told: true,
            partner_mac: None,
        })
    }

    /// Takes the kernel's word on the carrier; whether the link works then.
    pub(super) fn set_carrier(&mut self, up: bool) -> bool {
        self.carrier = up;
        self.carrier && self.fit
    }

    /// Takes the word of those who look after the interface; whether the link works then.
    pub(super) fn set_fit(&mut self, fit: bool) -> bool {
        self.fit = fit;
        self.carrier && self.fit
    }

    /// Interval and timeout are others now.
    pub(super) fn retime(&mut self, (interval, timeout): (Duration, Duration)) {
        self.patience = timeout / 2;
        if let Some(probe) = &mut self.probe {
            probe.retime(interval, timeout);
        }
    }

    /// Questions to the gateways.
    pub(super) fn questions(&self) -> Vec<Vec<u8>> {
        let gateways = self.link.gateways.iter();
        gateways.filter_map(|asked| self.question(*asked)).collect()
    }

    /// Asks who has an address.
    fn question(&self, asked: IpAddr) -> Option<Vec<u8>> {
        let link = &self.link;
        link.addresses.iter().find_map(|own| match (*own, asked) {
            (IpAddr::V4(own), IpAddr::V4(asked)) => Some(frame::arp_request(link.mac, own, asked)),
            (IpAddr::V6(own), IpAddr::V6(asked)) => {
                Some(discovery::solicitation(link.mac, own, asked))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        })
    }

    /// A question for a shared address, to the virtual MAC instead of everybody.
    pub(super) fn question_to_virtual_mac(&self) -> Option<Vec<u8>> {
        let mut frame = self.question(*self.link.shared.first()?)?;
        let to = self.link.virtual_mac?;
        frame.get_mut(..to.len())?.copy_from_slice(&to);
        Some(frame)
    }

    /// A neighbour told its address.
    pub(super) fn replied(&mut self, frame: &[u8], now: Instant) {
        let from = frame::arp_reply(frame)
            .map(|(sender, _)| IpAddr::V4(sender))
            .or_else(|| discovery::advertised(frame).map(IpAddr::V6));
        let (Some(from), Some(station)) = (from, frame::source(frame)) else {
            return;
        };
        if self.link.gateways.contains(&from)
            && let Some(probe) = &mut self.probe
        {
            probe.replied(now);
        }
        if self.link.shared.contains(&from)
            && let Some(reach) = &mut self.reach
        {
            reach.answered(station);
        }
    }

    /// Tells the link where the shared addresses are.
    pub(super) fn announcements(&self) -> impl Iterator<Item = Vec<u8>> {
        let link = &self.link;
        let mac = link.virtual_mac.unwrap_or(link.mac);
        link.shared.iter().map(move |shared| match *shared {
            IpAddr::V4(v4) => frame::gratuitous_arp(mac, v4),
            IpAddr::V6(v6) => discovery::announcement(mac, v6, link.router),
        })
    }

    /// Takes the place of a port whose interface is gone.
    pub(super) fn succeed(&mut self, old: &Self) {
        self.multicast_told = old.multicast_told;
        self.fit = old.fit;
        self.reach.clone_from(&old.reach);
    }

    /// This frame of the partner's was accepted.
    pub(super) fn partner_heard(&mut self, at: Instant, frame: &[u8]) {
        let Some(([group, ..], rest)) = frame.split_first_chunk::<6>() else {
            return;
        };
        // The group bit of the destination; a broadcast is a stand-in for unicast.
        if group & 1 != 0 && !frame.starts_with(&BROADCAST) {
            self.multicast_heard = at;
        }
        self.partner_mac = rest.first_chunk().copied();
    }

    /// Whether the partner is heard by multicast, if that has changed.
    pub(super) fn multicast_change(&mut self, now: Instant) -> Option<bool> {
        let heard = now < self.multicast_due();
        (self.watches_multicast() && heard != self.multicast_told).then(|| {
            self.multicast_told = heard;
            heard
        })
    }

    /// When multicast counts as unheard.
    fn multicast_due(&self) -> Instant {
        self.multicast_heard + self.patience
    }

    /// When [`Self::multicast_change`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (self.watches_multicast() && self.multicast_told).then(|| self.multicast_due())
    }

    fn watches_multicast(&self) -> bool {
        let auto = self.link.transport == Transport::Auto;
        auto && self.link.checked && !self.link.partners.is_empty()
    }

    /// Sends a frame made for the group where it should go. `wanted`: the group is not enough.
    pub(super) fn send(&self, frame: &[u8], wanted: bool) -> io::Result<()> {
        let (group, own) = match self.link.transport {
            Transport::Multicast => (true, false),
            Transport::Auto => (true, wanted),
            Transport::Unicast => (false, true),
        };
        let turn = || frame::to_partner(frame, self.partner_mac, &self.link.partners);
        let unicast = own.then(turn).flatten();
        if group || unicast.is_none() {
            self.socket.send(frame)?;
        }
        unicast.map_or(Ok(()), |turned| self.socket.send(&turned))
    }
}

/// Membership in the groups at which neighbours ask for the shared IPv6 addresses.
fn groups(link: &Link) -> io::Result<Option<UdpSocket>> {
    let mut socket = None;
    for shared in &link.shared {
        let (Some(_), IpAddr::V6(shared)) = (link.virtual_mac, shared) else {
            continue;
        };
        let (_, group) = discovery::solicited_node(*shared);
        let socket = match &mut socket {
            Some(socket) => socket,
            // Bound to a port of its own at this address it receives nothing.
            none => none.insert(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?),
        };
        match socket.join_multicast_v6(&group, link.ifindex) {
            // Addresses that differ in their first bytes alone share a group.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            joined => joined?,
        }
    }
    Ok(socket)
}
