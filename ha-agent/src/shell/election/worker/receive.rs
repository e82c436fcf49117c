//! What comes in from outside: the kernel's news of carriers, advertisements, HELLOs, neighbours' answers.

use std::net::IpAddr;

use ha_common::event::CarpSeen;

use super::Worker;
use crate::proto::carp::trailer::WireRole;
use crate::proto::carp::{Action, Input};
use crate::proto::time::Instant;
use crate::shell::election::carrier::News;
use crate::shell::{clock, frame};

/// Frames taken from one socket before the others get their turn.
const BURST: usize = 64;

impl Worker {
    /// A link that is dead counts at once. That it is alive again is not enough: see [`Port`].
    pub(super) fn receive_carriers(&mut self, actions: &mut Vec<Action>) {
        for news in self.carriers.news() {
            for index in 0..self.ports.len() {
                let Some(port) = self.ports.get_mut(index).filter(|port| port.link.checked) else {
                    continue;
                };
                let up = match news {
                    News::Carrier { ifindex, up } if ifindex == port.link.ifindex => {
                        port.set_carrier(up)
                    }
                    News::Carrier { .. } => continue,
                    // Those who look after the interfaces ask the kernel now and then.
                    News::Lost => port.set_carrier(true),
                };
                self.link_works(index, up, actions);
            }
        }
    }

    pub(super) fn receive_advertisements(&mut self, actions: &mut Vec<Action>) {
        for _ in 0..BURST {
            let Some(item) = self.ring.next() else { break };
            let Some(seen) = advertisement(&item) else {
                continue;
            };
            drop(item);
            let port = self
                .ports
                .iter()
                .position(|port| port.link.checked && port.link.ifindex == seen.ifindex);
            if let Some(link) = port {
                self.note_station(link, &seen);
                let input = Input::Advert {
                    link,
                    source: seen.source,
                    payload: &seen.payload,
                    at: seen.at,
                };
                self.elect(clock::now(), input, actions);
            }
        }
    }

    /// Where the active partner's advertisements come from.
    fn note_station(&mut self, link: usize, seen: &Advertisement) {
        let active = self.election.partner_role() == Some(WireRole::Active);
        let port = self.ports.get_mut(link).filter(|_| active);
        if let Some(reach) = port.and_then(|port| port.reach.as_mut()) {
            reach.advertised(seen.station);
        }
    }

    pub(super) fn receive_frames(&mut self, actions: &mut Vec<Action>) {
        let mut buffer = [0u8; 2048];
        for index in 0..self.ports.len() {
            for _ in 0..BURST {
                let Some(port) = self.ports.get(index).filter(|port| port.link.checked) else {
                    break;
                };
                let Ok(Some(received)) = port.socket.receive(&mut buffer) else {
                    break;
                };
                let Some((source, payload)) = frame::parse_hello(received) else {
                    continue;
                };
                let now = clock::now();
                let input = Input::Hello {
                    link: index,
                    source,
                    payload,
                    at: now,
                };
                let before = self.election.heard_on(index);
                self.elect(now, input, actions);
                if self.election.heard_on(index) != before
                    && let Some(port) = self.ports.get_mut(index)
                {
                    port.partner_heard(now, received);
                }
            }
            self.receive_replies(index, &mut buffer);
        }
    }

    fn receive_replies(&mut self, index: usize, buffer: &mut [u8]) {
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        for socket in 0..port.replies.len() {
            for _ in 0..BURST {
                let Some(socket) = port.replies.get(socket) else {
                    break;
                };
                let Ok(Some(received)) = socket.receive(buffer) else {
                    break;
                };
                port.replied(received, clock::now());
            }
        }
    }
}

/// An advertisement taken out of its ring record.
struct Advertisement {
    at: Instant,
    ifindex: u32,
    station: frame::Mac,
    source: IpAddr,
    payload: Vec<u8>,
}

/// Splits a record of the ring; XDP has checked the form, so what does not fit is not ours.
fn advertisement(record: &[u8]) -> Option<Advertisement> {
    if record.len() < size_of::<CarpSeen>() {
        return None;
    }
    // SAFETY: the record is at least as long as the type, which consists of integers and byte arrays
    // only, so any bytes are a valid value; the read does not need alignment.
    let seen: CarpSeen = unsafe { record.as_ptr().cast::<CarpSeen>().read_unaligned() };
    let packet = seen.packet.get(..usize::from(seen.len))?;
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (header, total, source) = if packet.first()? >> 4 == 6 {
        let source = <[u8; 16]>::try_from(packet.get(8..24)?).ok()?;
        let header = 40;
        (header, header + usize::from(word(4)?), source.into())
    } else {
        let source = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?;
        let header = usize::from(*packet.first()? & 0x0f) * 4;
        (header, usize::from(word(2)?), IpAddr::from(source))
    };
    Some(Advertisement {
        at: Instant::from_nanos(seen.at_ns),
        ifindex: seen.ifindex,
        station: seen.source_mac,
        source,
        // The frame may be padded beyond the packet.
        payload: packet.get(header..total.min(packet.len()))?.to_vec(),
    })
}
