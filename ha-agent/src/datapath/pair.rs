//! What XDP is told of the pair, computed so that it has as little as possible left to compute: the tag's
//! state after the words that never change, the digest's after the passphrase and the addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_common::pair::{Digest, LINKS, NO_KEY, PEERS, Pair, Peer, peer_index};
use ha_common::service::Addr6;
use ha_common::sha1::{self, BLOCK_LEN};
use ha_common::siphash::SipHash128;

/// Kind of packet that the tag of an advertisement begins with.
const ADVERT: u8 = 1;

/// The values of `ha_pair`, `ha_peers` and `ha_digests`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairTables {
    /// `ha_pair`.
    pub pair: Pair,
    /// `ha_peers`, all of it.
    pub peers: Vec<Peer>,
    /// `ha_digests`, all of it.
    pub digests: Vec<Digest>,
}

/// What is the same on all links.
#[derive(Clone, Copy)]
pub struct Secrets<'a> {
    /// Virtual host id.
    pub vhid: u8,
    /// One of [`ha_common::pair::auth`].
    pub auth: u32,
    /// Epoch of this start.
    pub own_epoch: u64,
    /// Live keys of the trailer, by id.
    pub keys: &'a [(u8, [u8; 16])],
    /// Passphrase of the CARP groups.
    pub passphrase: &'a [u8],
}

/// An interface.
#[derive(Clone, Debug)]
pub struct PairLink<'a> {
    /// Kernel index.
    pub ifindex: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Bits of [`ha_common::pair::link_flags`].
    pub flags: u32,
    /// Whether advertisements are expected on it.
    pub checked: bool,
    /// Own addresses.
    pub own: &'a [IpAddr],
    /// The partner's addresses.
    pub partners: &'a [IpAddr],
    /// Shared addresses.
    pub shared: &'a [IpAddr],
}

/// Computes the tables. Links beyond the [`LINKS`] that the trailer's bitmaps have room for are left out.
pub fn tables(secrets: &Secrets<'_>, links: &[PairLink<'_>]) -> PairTables {
    let mut tables = PairTables {
        pair: Pair {
            own_epoch: secrets.own_epoch,
            auth: secrets.auth,
            ..Pair::default()
        },
        peers: vec![Peer::default(); PEERS],
        digests: vec![Digest::default(); PEERS],
    };
    for (number, link) in (0u32..).zip(links.iter().take(LINKS)) {
        if let Some(place) = tables.pair.ifindexes.get_mut(number as usize) {
            *place = link.ifindex;
        }
        for v6 in [false, true] {
            let index = peer_index(number, v6) as usize;
            if let Some(place) = tables.peers.get_mut(index) {
                *place = peer(secrets, link, v6);
            }
            if let Some(place) = tables.digests.get_mut(index) {
                *place = digest(secrets, link.shared);
            }
        }
    }
    tables
}

impl PairTables {
    /// A link has become another interface.
    pub fn rebind(&mut self, number: usize, ifindex: u32, mac: [u8; 6]) {
        if let Some(place) = self.pair.ifindexes.get_mut(number) {
            *place = ifindex;
        }
        for peer in self.peers.iter_mut().skip(2 * number).take(2) {
            peer.own_mac = mac;
        }
    }
}

fn peer(secrets: &Secrets<'_>, link: &PairLink<'_>, v6: bool) -> Peer {
    let first = |addresses: &[IpAddr]| {
        let found = addresses.iter().find(|address| address.is_ipv6() == v6);
        let none = if v6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        found.copied().unwrap_or(none)
    };
    let in_use = [link.partners, link.shared]
        .into_iter()
        .flatten()
        .any(|address| address.is_ipv6() == v6);
    let partner = first(link.partners);
    let mut peer = Peer {
        address: words(partner),
        own: words(first(link.own)),
        key_ids: [NO_KEY; 2],
        expected: u16::from(link.checked && in_use),
        own_mac: link.mac,
        flags: link.flags,
        ..Peer::default()
    };
    let places = peer.key_ids.iter_mut().zip(&mut peer.tags);
    for ((id, key), (place, tag)) in secrets.keys.iter().zip(places) {
        *place = u16::from(*id);
        *tag = tag_state(secrets.vhid, key, partner);
    }
    peer
}

/// `SipHash`'s state after what all advertisements from this address begin with.
fn tag_state(vhid: u8, key: &[u8; 16], source: IpAddr) -> [u64; 4] {
    let family = match source {
        _ if source.is_unspecified() => 0,
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 6,
    };
    let mut state = SipHash128::new(key);
    state.word(u64::from_le_bytes([ADVERT, vhid, family, 0, 0, 0, 0, 0]));
    let [a, b, c, d] = words(source).map(|word| u64::from(u32::from_le(word)));
    state.word(a | b << 32);
    state.word(c | d << 32);
    state.state()
}

/// An address as maps hold it.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => Addr6::new(v6.octets()).words,
    }
}

/// What checks the digest of a group. It is the same in the packets of both families.
fn digest(secrets: &Secrets<'_>, shared: &[IpAddr]) -> Digest {
    let message = crate::proto::carp::digest_prefix(secrets.vhid, shared);
    let (mut inner, outer) = sha1::hmac_states(secrets.passphrase);
    let (whole, rest) = message.as_chunks::<BLOCK_LEN>();
    for bytes in whole {
        sha1::compress(&mut inner, &mut sha1::block(bytes));
    }
    // Counter, the bit that ends the message, and its length.
    let usable = rest.len() + 8 + 1 + 8 <= BLOCK_LEN;
    let mut last = [0; BLOCK_LEN];
    if usable && let Some((message, after)) = last.split_at_mut_checked(rest.len()) {
        message.copy_from_slice(rest);
        if let Some(end) = after.get_mut(8) {
            *end = 0x80;
        }
        let bits = (BLOCK_LEN + whole.len() * BLOCK_LEN + rest.len() + 8) as u64 * 8;
        if let Some(length) = after.last_chunk_mut() {
            *length = bits.to_be_bytes();
        }
    }
    Digest {
        inner,
        outer,
        last: sha1::block(&last),
        counter_at: rest.len() as u32,
        usable: u32::from(usable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::pair::link_flags;

    fn link(shared: &[IpAddr]) -> PairLink<'_> {
        PairLink {
            ifindex: 7,
            mac: [2, 0, 0, 0, 0, 1],
            flags: link_flags::VIRTUAL_MAC,
            checked: true,
            own: &[],
            partners: &[],
            shared,
        }
    }

    #[test]
    fn a_family_without_addresses_is_not_expected() {
        let secrets = Secrets {
            vhid: 110,
            auth: 1,
            own_epoch: 5,
            keys: &[(3, [1; 16])],
            passphrase: b"secret",
        };
        let shared = ["10.0.0.100".parse().unwrap()];
        let tables = tables(&secrets, &[link(&shared)]);
        assert_eq!(tables.pair.ifindexes[..2], [7, 0]);
        assert_eq!(tables.peers[0].expected, 1);
        assert_eq!(tables.peers[1].expected, 0);
        assert_eq!(tables.peers[0].key_ids, [3, NO_KEY]);
        assert_eq!(tables.peers.len(), PEERS);

        let mut rebound = tables.clone();
        rebound.rebind(0, 9, [2, 0, 0, 0, 0, 9]);
        assert_eq!(rebound.pair.ifindexes[..2], [9, 0]);
        assert_eq!(rebound.peers[1].own_mac, [2, 0, 0, 0, 0, 9]);
        assert_eq!(rebound.peers[1].flags, link_flags::VIRTUAL_MAC);
        assert_eq!(rebound.peers[2..], tables.peers[2..]);
    }

    #[test]
    fn too_many_addresses_leave_the_digest_to_user_space() {
        let secrets = Secrets {
            vhid: 1,
            auth: 3,
            own_epoch: 5,
            keys: &[],
            passphrase: b"secret",
        };
        let addresses: Vec<IpAddr> = (0..20u8).map(|n| [10, 0, 0, n].into()).collect();
        for (count, usable) in [(0, 1), (1, 1), (11, 1), (12, 0), (15, 0), (16, 1), (20, 1)] {
            let made = digest(&secrets, &addresses[..count]);
            assert_eq!(made.usable, usable, "{count} addresses");
        }
    }
}
