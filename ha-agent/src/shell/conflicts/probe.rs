//! Asking who has an address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use crate::config::model::Cidr;
use crate::shell::clock;
use crate::shell::frame::{self, Mac, discovery};
use crate::shell::packet_socket::{PacketSocket, Receive};
use crate::shell::parts::Bound;

/// How often answers are looked for.
const LOOK: Duration = Duration::from_millis(5);
/// Frames looked at each time, so that a flood holds nobody up.
const BURST: usize = 64;

/// Asks the network who else has the addresses of this node and the shared ones, as RFC 5227 and RFC
/// 4862 have it: from no address, so that no neighbour learns anything. XDP sees the answers.
pub(in crate::shell) fn send(bound: &[Bound]) {
    for bound in bound {
        let addresses = bound.interface.addresses.iter().chain(&bound.shared);
        let frames: Vec<Vec<u8>> = addresses
            .map(|cidr| match cidr.address {
                IpAddr::V4(v4) => frame::arp_request(bound.link.mac, Ipv4Addr::UNSPECIFIED, v4),
                IpAddr::V6(v6) => discovery::probe(bound.link.mac, v6),
            })
            .collect();
        if frames.is_empty() {
            continue;
        }
        // A link without carrier refuses; there is nobody on it either.
        if let Err(error) = transmit(bound, &frames) {
            debug!(interface = bound.interface.name, %error, "addresses not probed");
        }
    }
}

fn transmit(bound: &Bound, frames: &[Vec<u8>]) -> io::Result<()> {
    let socket = PacketSocket::open(bound.link.ifindex, Receive::Nothing)?;
    frames.iter().try_for_each(|frame| socket.send(frame))
}

/// The Ethernet addresses that the partner's addresses have, as far as answers come in time.
pub(super) async fn partners(bound: &[Bound], patience: Duration) -> BTreeMap<(u32, IpAddr), Mac> {
    let questions: Vec<Question> = bound
        .iter()
        .flat_map(|bound| [false, true].map(|v6| Question::ask(bound, v6)))
        .flatten()
        .collect();
    let wanted: usize = questions.iter().map(|asked| asked.partners.len()).sum();
    let mut found = BTreeMap::new();
    let end = clock::now() + patience;
    while found.len() < wanted && clock::now() < end {
        sleep(LOOK).await;
        for asked in &questions {
            found.extend(asked.answers());
        }
    }
    found
}

/// Questions on one interface in one family.
struct Question {
    ifindex: u32,
    socket: PacketSocket,
    partners: BTreeSet<IpAddr>,
}

impl Question {
    fn ask(bound: &Bound, v6: bool) -> Option<Self> {
        let own = bound
            .interface
            .own(v6)
            .map(|Cidr { address, .. }| address)?;
        let partners = bound.interface.partners.iter();
        let partners: BTreeSet<IpAddr> = partners
            .filter(|partner| partner.is_ipv6() == v6)
            .copied()
            .collect();
        let receive = if v6 {
            Receive::NeighbourAdvertisements
        } else {
            Receive::ArpReplies
        };
        if partners.is_empty() {
            return None;
        }
        let (ifindex, mac) = (bound.link.ifindex, bound.link.mac);
        let socket = PacketSocket::open(ifindex, receive).ok()?;
        for partner in &partners {
            let frame = match (own, *partner) {
                (IpAddr::V4(own), IpAddr::V4(partner)) => frame::arp_request(mac, own, partner),
                (IpAddr::V6(own), IpAddr::V6(partner)) => {
                    discovery::solicitation(mac, own, partner)
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => continue,
            };
            // Unsent is as good as unanswered.
            let _unsent = socket.send(&frame);
        }
        Some(Self {
            ifindex,
            socket,
            partners,
        })
    }

    fn answers(&self) -> Vec<((u32, IpAddr), Mac)> {
        let mut buffer = [0; 256];
        let mut found = Vec::new();
        for _ in 0..BURST {
            let Ok(Some(received)) = self.socket.receive(&mut buffer) else {
                break;
            };
            let answer = frame::arp_reply(received)
                .map(|(sender, mac)| (IpAddr::V4(sender), mac))
                .or_else(|| {
                    let target = discovery::advertised(received)?;
                    Some((target.into(), *received.get(6..)?.first_chunk()?))
                });
            if let Some((address, mac)) = answer
                && self.partners.contains(&address)
            {
                found.push(((self.ifindex, address), mac));
            }
        }
        found
    }
}
