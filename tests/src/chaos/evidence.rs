//! What captured frames say about who did what a node may do only alone.
//!
//! A node **claims** a shared address when it answers for it, asks or announces with it, and when it lets a new
//! connection in; it **forwards** when a packet of the service leaves it. Both are seen at the switch, with the
//! kernel's time stamps. Two nodes overlap where one does something after the other one began to.

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::rig::capture::Frame;
use crate::rig::config::{CLIENT, SHARED_BACK, SHARED_FRONT};

const ETHERTYPE: Range<usize> = 12..14;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const ARP_SENDER: Range<usize> = 28..32;
const IP_HEADER: usize = 14;
const PROTOCOL: usize = 23;
const SOURCE: Range<usize> = 26..30;
const DESTINATION: Range<usize> = 30..34;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A node did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    /// When.
    pub(super) at_ns: u64,
    /// Which one.
    pub(super) node: usize,
}

/// One node went on after the other one had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    /// The one that went on.
    pub(super) node: usize,
    /// When the other one began.
    pub(super) from_ns: u64,
    /// When this one was last seen.
    pub(super) to_ns: u64,
}

impl Overlap {
    /// How long.
    pub(super) const fn length_ns(&self) -> u64 {
        self.to_ns - self.from_ns
    }
}

/// The claims in frames that are in order.
pub(super) fn claims(frames: &[Frame]) -> Vec<Sign> {
    signs(frames, |bytes| {
        announces(bytes).is_some_and(|address| [SHARED_FRONT, SHARED_BACK].contains(&address))
            || admits(bytes)
    })
}

/// Every packet of the service that a node forwarded.
pub(super) fn forwarded(frames: &[Frame]) -> Vec<Sign> {
    signs(frames, |bytes| {
        let source = address(bytes, SOURCE);
        let protocol = bytes.get(PROTOCOL).copied();
        is(bytes, IPV4)
            && matches!(protocol, Some(TCP | UDP))
            && [Some(SHARED_FRONT), Some(CLIENT)].contains(&source)
    })
}

/// Where two nodes did what only one may do: how long the one that had begun before went on within `window` of the
/// other one's first time. Whichever of them is seen last is the one that has it from then on.
pub(super) fn overlaps(signs: &[Sign], window_ns: u64) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut rest = signs;
    let Some(mut holder) = signs.first().map(|sign| sign.node) else {
        return found;
    };
    while let Some(at) = rest.iter().position(|sign| sign.node != holder) {
        let (_, later) = rest.split_at(at);
        let Some(first) = later.first() else { break };
        let within = later.partition_point(|sign| sign.at_ns <= first.at_ns + window_ns);
        let (within, _) = later.split_at(within);
        let last_of = |node| within.iter().rposition(|sign| sign.node == node);
        let (old, new) = (last_of(holder), last_of(first.node));
        if let Some(last) = old.and_then(|index| within.get(index)) {
            found.push(Overlap {
                node: holder,
                from_ns: first.at_ns,
                to_ns: last.at_ns,
            });
        }
        if new > old {
            holder = first.node;
        }
        (_, rest) = later.split_at(old.map_or(1, |index| index + 1));
    }
    found
}

fn signs(frames: &[Frame], what: impl Fn(&[u8]) -> bool) -> Vec<Sign> {
    let of = |frame: &Frame| {
        let node = match frame.port.rsplit_once('-')?.1 {
            "lb1" => 0,
            "lb2" => 1,
            _ => return None,
        };
        (frame.from_node && what(&frame.bytes)).then_some(Sign {
            at_ns: frame.at_ns,
            node,
        })
    };
    frames.iter().filter_map(of).collect()
}

/// The sender's address of an ARP packet.
fn announces(bytes: &[u8]) -> Option<Ipv4Addr> {
    if is(bytes, ARP) {
        address(bytes, ARP_SENDER)
    } else {
        None
    }
}

/// Whether it is a client's first packet on its way to a real server.
fn admits(bytes: &[u8]) -> bool {
    let header = bytes
        .get(IP_HEADER)
        .map_or(0, |first| usize::from(first & 0x0f) * 4);
    let flags = bytes.get(IP_HEADER + header + TCP_FLAGS);
    is(bytes, IPV4)
        && bytes.get(PROTOCOL) == Some(&TCP)
        && address(bytes, SOURCE) == Some(CLIENT)
        && address(bytes, DESTINATION).is_some_and(|to| to != SHARED_FRONT)
        && flags.is_some_and(|flags| flags & (SYN | ACK) == SYN)
}

fn is(bytes: &[u8], ethertype: [u8; 2]) -> bool {
    bytes.get(ETHERTYPE) == Some(&ethertype)
}

fn address(bytes: &[u8], at: Range<usize>) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ha_agent::shell::frame;

    use super::*;

    fn signs_of(nodes: &[(u64, usize)]) -> Vec<Sign> {
        nodes
            .iter()
            .map(|&(at_ns, node)| Sign { at_ns, node })
            .collect()
    }

    #[test]
    fn a_clean_change_is_none() {
        assert!(overlaps(&signs_of(&[(1, 0), (2, 0), (3, 1), (9, 1), (200, 0)]), 100).is_empty());
        assert!(overlaps(&[], 100).is_empty());
    }

    #[test]
    fn whoever_goes_on_is_told_of() {
        let both = signs_of(&[(1, 0), (5, 1), (6, 0), (8, 1), (11, 0), (12, 1)]);
        let first = Overlap {
            node: 0,
            from_ns: 5,
            to_ns: 11,
        };
        assert_eq!(overlaps(&both, 100).first(), Some(&first));
        // A single word of the other one is enough.
        let once = signs_of(&[(1, 0), (5, 1), (6, 0), (20, 0), (300, 0)]);
        let length = |found: &Overlap| found.length_ns();
        assert_eq!(overlaps(&once, 100).iter().map(length).max(), Some(15));
        // Whoever takes over goes on.
        let over = signs_of(&[(1, 0), (5, 1), (6, 0), (7, 1), (90, 1)]);
        assert_eq!(overlaps(&over, 100).iter().map(length).max(), Some(1));
        // Much later is a change back.
        assert!(overlaps(&signs_of(&[(1, 0), (5, 1), (300, 0)]), 100).is_empty());
    }

    fn frame_at(port: &str, bytes: Vec<u8>) -> Frame {
        Frame {
            at_ns: 7,
            port: Arc::from(port),
            from_node: true,
            bytes: bytes.into(),
        }
    }

    fn packet(source: Ipv4Addr, to: Ipv4Addr, flags: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source.octets(), to.octets(), 64)
            .tcp(1000, 8080, 0, 1000);
        let builder = if flags & ACK == 0 {
            builder
        } else {
            builder.ack(1)
        };
        builder.syn().write(&mut bytes, &[]).unwrap();
        bytes
    }

    #[test]
    fn claims_are_answers_and_new_connections() {
        let real = Ipv4Addr::new(10, 77, 2, 21);
        let mac = [2; 6];
        let asks = frame::arp_request(mac, SHARED_BACK, real);
        let own = frame::arp_request(mac, real, SHARED_BACK);
        for (bytes, claim, forward) in [
            (asks, true, false),
            (own, false, false),
            (packet(CLIENT, real, SYN), true, true),
            (packet(CLIENT, SHARED_FRONT, SYN), false, true),
            (packet(CLIENT, real, SYN | ACK), false, true),
            (packet(real, CLIENT, SYN), false, false),
            (packet(SHARED_FRONT, CLIENT, SYN | ACK), false, true),
            (vec![0; 14], false, false),
        ] {
            let frames = [frame_at("back-lb2", bytes)];
            let sign = |is: bool| Vec::from_iter(is.then_some(Sign { at_ns: 7, node: 1 }));
            assert_eq!(claims(&frames), sign(claim), "{frames:?}");
            assert_eq!(forwarded(&frames), sign(forward), "{frames:?}");
        }
        let mut heard = frame_at("back-lb2", packet(CLIENT, real, SYN));
        heard.from_node = false;
        assert!(claims(&[heard]).is_empty());
        let stranger = frame_at("front-client", packet(CLIENT, real, SYN));
        assert!(claims(&[stranger]).is_empty());
    }
}
