//! Neighbour discovery: the IPv6 counterpart of ARP (RFC 4861).

use std::net::Ipv6Addr;

use ha_common::{carp, proto};

use super::{IPV6_HEADER, Mac, checksum6, ipv6};

/// `ff02::1`, to which everybody listens.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Its Ethernet address (RFC 2464 section 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const SOLICITATION: u8 = 135;
pub(in crate::shell) const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Flags of an advertisement (RFC 4861 section 4.4).
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;
/// Offset of the target in the message.
const TARGET: usize = 8;

/// An unsolicited advertisement to all nodes: `address` is at `mac` from now on, whatever was known.
pub fn announcement(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = FLAG_OVERRIDE | if router { FLAG_ROUTER } else { 0 };
    let option = Some((TARGET_LINK_LAYER, mac));
    let to = (ALL_NODES_MAC, ALL_NODES);
    message((mac, address), to, (ADVERTISEMENT, flags), address, option)
}

/// Asks who has `target`, at its solicited-node group.
pub fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let option = Some((SOURCE_LINK_LAYER, mac));
    let to = solicited_node(target);
    message((mac, source), to, (SOLICITATION, 0), target, option)
}

/// Asks whether anybody has `target`, as a host does before it uses an address (RFC 4862 section 5.4.2):
/// from no address, and so without an option that tells one.
pub fn probe(mac: Mac, target: Ipv6Addr) -> Vec<u8> {
    let from = (mac, Ipv6Addr::UNSPECIFIED);
    let to = solicited_node(target);
    message(from, to, (SOLICITATION, 0), target, None)
}

/// Whose link-layer address a frame tells, if it is a neighbour advertisement that crossed no router.
pub fn advertised(frame: &[u8]) -> Option<Ipv6Addr> {
    let packet = frame.get(14..)?;
    let [next_header, hop_limit] = *packet.get(6..8)?.first_chunk()?;
    let message = packet.get(IPV6_HEADER..)?;
    let ours = packet.first()? >> 4 == 6
        && next_header == proto::ICMPV6
        && hop_limit == carp::TTL
        && *message.first()? == ADVERTISEMENT;
    let target: [u8; 16] = *message.get(TARGET..)?.first_chunk()?;
    ours.then(|| target.into())
}

/// The group of all hosts that may have `target` (RFC 4291 section 2.7.1), and its Ethernet address.
pub fn solicited_node(target: Ipv6Addr) -> (Mac, Ipv6Addr) {
    let [.., a, b, c] = target.octets();
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    ([0x33, 0x33, 0xff, a, b, c], group)
}

fn message(
    from: (Mac, Ipv6Addr),
    to: (Mac, Ipv6Addr),
    (kind, flags): (u8, u8),
    target: Ipv6Addr,
    option: Option<(u8, Mac)>,
) -> Vec<u8> {
    let body = |checksum: u16| {
        let mut body = vec![kind, 0];
        body.extend(checksum.to_be_bytes());
        body.extend([flags, 0, 0, 0]);
        body.extend(target.octets());
        if let Some((option, mac)) = option {
            // The length counts units of eight bytes.
            body.extend([option, 1]);
            body.extend(mac);
        }
        body
    };
    let sum = checksum6(from.1, to.1, proto::ICMPV6, &body(0));
    ipv6(from, to, proto::ICMPV6, &body(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 10];
    const SHARED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

    /// Laid out by hand from RFC 4861 sections 4.3 and 4.4 and RFC 2464.
    #[test]
    fn announcements_override_what_neighbours_know() {
        for (router, flags) in [(false, 0x20), (true, 0xa0)] {
            let frame = announcement(MAC, SHARED, router);
            assert_eq!(frame.len(), 14 + 40 + 32);
            assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
            assert_eq!(frame[18..22], [0, 32, 58, 255]);
            assert_eq!(frame[22..38], SHARED.octets());
            assert_eq!(
                frame[38..54],
                "ff02::1".parse::<Ipv6Addr>().unwrap().octets()
            );
            assert_eq!(frame[54..56], [136, 0]);
            assert_eq!(frame[58], flags);
            assert_eq!(frame[62..78], SHARED.octets());
            assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 10]);
            assert_eq!(checksum6(SHARED, ALL_NODES, 58, &frame[54..]), 0);
            assert_eq!(advertised(&frame), Some(SHARED));
        }
    }

    #[test]
    fn solicitations_go_to_the_group_of_the_target() {
        let own = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 11);
        let frame = solicitation(MAC, own, SHARED);
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[38..54], group.octets());
        assert_eq!(frame[54], 135);
        assert_eq!(frame[78..80], [1, 1]);
        assert_eq!(checksum6(own, group, 58, &frame[54..]), 0);
        assert_eq!(advertised(&frame), None);
    }

    #[test]
    fn probes_tell_nobody_anything() {
        let frame = probe(MAC, SHARED);
        assert_eq!(frame.len(), 14 + 40 + 24);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[22..38], [0; 16]);
        assert_eq!(frame[54], 135);
        assert_eq!(frame[62..], SHARED.octets());
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(checksum6(Ipv6Addr::UNSPECIFIED, group, 58, &frame[54..]), 0);
    }

    #[test]
    fn strangers_and_fragments_of_frames_tell_nothing() {
        let frame = announcement(MAC, SHARED, false);
        for length in 0..78 {
            assert_eq!(advertised(&frame[..length]), None, "{length}");
        }
        let mut routed = frame;
        routed[21] = 254;
        assert_eq!(advertised(&routed), None);
    }
}
