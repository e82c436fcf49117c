//! What differs between address families: where the headers are, and what is rewritten in them.
//!
//! Everything else is written once, generic over the address.

use ha_common::service::{Addr6, Address};
use ha_common::{checksum, proto};

use crate::answer::{self, Trouble};
use crate::packet::{Hop, Packet};
use crate::parse::transport::{Flow, Network};
use crate::parse::{ipv4, ipv6};
use crate::rewrite::{Direction, Translation};
use crate::tables::Tables;
use crate::tunnel;

/// An address family, named by its address.
pub trait Family: Address {
    /// 4 or 6.
    const NUMBER: u8;
    /// Length of the header without options.
    const HEADER: usize;
    /// Whether the header has a checksum of its own.
    const HEADER_CHECKSUM: bool;
    /// Whether the header can be longer: what is behind it in IPv6 are headers of their own.
    const OPTIONS: bool;
    /// Longest IP packet that every link of the family takes (RFC 791, RFC 8200 section 5).
    const MTU_MIN: u32;

    /// Whether it can be that of one host: RFC 1122 section 3.2.2 and RFC 4443 section 2.4 forbid errors to
    /// any other.
    fn is_host(self) -> bool;

    /// Reads the header of a sound packet, looking behind options and extension headers; `None` for
    /// every other, and for a fragment that is not the first.
    fn network<P: Packet>(packet: &mut P, l3: usize) -> Option<Network<Self>>;

    /// The destination of a packet, sound or not.
    fn destination<P: Packet>(packet: &mut P, l3: usize) -> Option<Self>;

    /// Rewrites addresses and header checksum, and takes `hops` off the time to live. `false` if the frame
    /// is too short.
    fn readdress<P: Packet>(
        packet: &mut P,
        l3: usize,
        direction: Direction,
        translation: &Translation<Self>,
        hops: u8,
    ) -> bool;

    /// Takes one off the time to live and changes nothing else.
    fn age<P: Packet>(packet: &mut P, l3: usize) -> bool;

    /// Writes the header of an outer packet at `l3` into the room in front of the inner one.
    fn outer<P: Packet>(packet: &mut P, l3: usize, source: Self, destination: Self) -> Option<()>;

    /// Makes an ICMP error about the packet at `l3`, sent by `source`, of it, but for the Ethernet
    /// addresses. `None` if that cannot be done.
    fn explain<P: Packet>(packet: &mut P, l3: usize, source: Self, trouble: Trouble) -> Option<()>;

    /// Turns the IP header of a segment round, in front of `payload` bytes.
    fn turn<P: Packet>(packet: &mut P, flow: &Flow<Self>, payload: usize) -> Option<()>;

    /// The hop from `source` to `self`, if the kernel knows route and neighbour.
    fn route<P: Packet>(&self, packet: &mut P, source: &Self) -> Hop;

    /// Which of [`ha_common::service::addr_kind`] the address is.
    fn kind<T: Tables>(self, tables: T) -> u32;
}

impl Family for u32 {
    const NUMBER: u8 = 4;
    const HEADER: usize = ipv4::LEN;
    const HEADER_CHECKSUM: bool = true;
    const OPTIONS: bool = true;
    const MTU_MIN: Self = 68;

    #[inline(always)]
    fn is_host(self) -> bool {
        // Neither "this network" nor a loopback address, a group or the broadcast address.
        let [first, ..] = self.to_ne_bytes();
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn network<P: Packet>(packet: &mut P, l3: usize) -> Option<Network<Self>> {
        let ip = ipv4::parse(packet, l3)?;
        (ip.is_sound() && !ip.is_later_fragment())
            .then(|| network4(&ip, l3, (l3 + ip.header_len) & L4_MASK))
    }

    #[inline(always)]
    fn destination<P: Packet>(packet: &mut P, l3: usize) -> Option<Self> {
        Some(ipv4::parse(packet, l3)?.dst)
    }

    #[inline(always)]
    fn readdress<P: Packet>(
        packet: &mut P,
        l3: usize,
        direction: Direction,
        translation: &Translation<Self>,
        hops: u8,
    ) -> bool {
        let Some(mut ip) = packet.window::<{ ipv4::LEN }>(l3) else {
            return false;
        };
        match direction {
            Direction::Forward => {
                ip.store::<{ ipv4::DST }, _>(translation.to);
                if translation.both_ends {
                    ip.store::<{ ipv4::SRC }, _>(translation.from);
                }
            }
            Direction::Reverse => {
                ip.store::<{ ipv4::SRC }, _>(translation.to);
                if translation.both_ends {
                    ip.store::<{ ipv4::DST }, _>(translation.from);
                }
            }
        }
        let ttl: u8 = ip.load::<{ ipv4::TTL }, _>();
        ip.store::<{ ipv4::TTL }, u8>(ttl.wrapping_sub(hops));
        let sum: u16 = ip.load::<{ ipv4::CHECKSUM }, _>();
        let delta = Self::from(translation.l3_delta) + Self::from(hops) * checksum::TTL_DELTA;
        ip.store::<{ ipv4::CHECKSUM }, u16>(checksum::apply(sum, delta));
        true
    }

    #[inline(always)]
    fn age<P: Packet>(packet: &mut P, l3: usize) -> bool {
        let Some(mut ip) = packet.window::<{ ipv4::LEN }>(l3) else {
            return false;
        };
        let ttl: u8 = ip.load::<{ ipv4::TTL }, _>();
        ip.store::<{ ipv4::TTL }, u8>(ttl.wrapping_sub(1));
        let sum: u16 = ip.load::<{ ipv4::CHECKSUM }, _>();
        ip.store::<{ ipv4::CHECKSUM }, u16>(checksum::apply(sum, checksum::TTL_DELTA));
        true
    }

    #[inline(always)]
    fn outer<P: Packet>(packet: &mut P, l3: usize, source: Self, destination: Self) -> Option<()> {
        tunnel::outer4(packet, l3, source, destination)
    }

    #[inline(always)]
    fn explain<P: Packet>(packet: &mut P, l3: usize, source: Self, trouble: Trouble) -> Option<()> {
        answer::explain4(packet, l3, source, trouble)
    }

    #[inline(always)]
    fn turn<P: Packet>(packet: &mut P, flow: &Flow<Self>, payload: usize) -> Option<()> {
        answer::turn4(packet, flow, payload)
    }

    #[inline(always)]
    fn route<P: Packet>(&self, packet: &mut P, source: &Self) -> Hop {
        packet.route4(*source, *self)
    }

    #[inline(always)]
    fn kind<T: Tables>(self, tables: T) -> u32 {
        tables.addr_kind(self)
    }
}

/// Bound of where TCP and UDP headers begin, for the verifier.
const L4_MASK: usize = 0xff;

/// A packet with this header, which is [plain](ipv4::Header::is_plain).
#[inline(always)]
pub const fn plain4(ip: &ipv4::Header, l3: usize) -> Network<u32> {
    network4(ip, l3, l3 + ipv4::LEN)
}

#[inline(always)]
const fn network4(ip: &ipv4::Header, l3: usize, l4: usize) -> Network<u32> {
    Network {
        src: ip.src,
        dst: ip.dst,
        l3,
        l4,
        end: l3 + ip.total_len,
        protocol: ip.protocol,
        ttl: ip.ttl,
        id: ip.id as u32,
        fragment: ip.is_fragment(),
        whole: ip.fragment & ipv4::DONT_FRAGMENT != 0,
    }
}

impl Family for Addr6 {
    const NUMBER: u8 = 6;
    const HEADER: usize = ipv6::LEN;
    const HEADER_CHECKSUM: bool = false;
    const OPTIONS: bool = false;
    const MTU_MIN: u32 = 1280;

    #[inline(always)]
    fn is_host(self) -> bool {
        // Neither unspecified nor loopback nor a group.
        let [a, b, c, d] = self.words;
        let [first, ..] = a.to_ne_bytes();
        first != 0xff && (a | b | c != 0 || u32::from_be(d) > 1)
    }

    #[inline(always)]
    fn network<P: Packet>(packet: &mut P, l3: usize) -> Option<Network<Self>> {
        let ip = ipv6::parse(packet, l3)?;
        let payload = ipv6::payload(packet, l3, &ip)?;
        (ip.sound && !payload.later_fragment).then(|| network6(&ip, l3, &payload))
    }

    #[inline(always)]
    fn destination<P: Packet>(packet: &mut P, l3: usize) -> Option<Self> {
        Some(ipv6::parse(packet, l3)?.dst)
    }

    #[inline(always)]
    fn readdress<P: Packet>(
        packet: &mut P,
        l3: usize,
        direction: Direction,
        translation: &Translation<Self>,
        hops: u8,
    ) -> bool {
        let Some(mut ip) = packet.window::<{ ipv6::LEN }>(l3) else {
            return false;
        };
        match direction {
            Direction::Forward => {
                ip.store::<{ ipv6::DST }, _>(translation.to);
                if translation.both_ends {
                    ip.store::<{ ipv6::SRC }, _>(translation.from);
                }
            }
            Direction::Reverse => {
                ip.store::<{ ipv6::SRC }, _>(translation.to);
                if translation.both_ends {
                    ip.store::<{ ipv6::DST }, _>(translation.from);
                }
            }
        }
        let hop_limit: u8 = ip.load::<{ ipv6::HOP_LIMIT }, _>();
        ip.store::<{ ipv6::HOP_LIMIT }, u8>(hop_limit.wrapping_sub(hops));
        true
    }

    #[inline(always)]
    fn age<P: Packet>(packet: &mut P, l3: usize) -> bool {
        let Some(mut ip) = packet.window::<{ ipv6::LEN }>(l3) else {
            return false;
        };
        let hop_limit: u8 = ip.load::<{ ipv6::HOP_LIMIT }, _>();
        ip.store::<{ ipv6::HOP_LIMIT }, u8>(hop_limit.wrapping_sub(1));
        true
    }

    #[inline(always)]
    fn outer<P: Packet>(packet: &mut P, l3: usize, source: Self, destination: Self) -> Option<()> {
        tunnel::outer6(packet, l3, source, destination)
    }

    #[inline(always)]
    fn explain<P: Packet>(packet: &mut P, l3: usize, source: Self, trouble: Trouble) -> Option<()> {
        answer::explain6(packet, l3, source, trouble)
    }

    #[inline(always)]
    fn turn<P: Packet>(packet: &mut P, flow: &Flow<Self>, payload: usize) -> Option<()> {
        answer::turn6(packet, flow, payload)
    }

    #[inline(always)]
    fn route<P: Packet>(&self, packet: &mut P, source: &Self) -> Hop {
        packet.route6(source, self)
    }

    #[inline(always)]
    fn kind<T: Tables>(self, tables: T) -> u32 {
        tables.addr6_kind(&self)
    }
}

/// A packet with this header, which is sound, and no extension headers.
#[inline(always)]
pub const fn plain6(ip: &ipv6::Header, l3: usize) -> Network<Addr6> {
    let payload = ipv6::Payload {
        protocol: ip.next,
        fragment: false,
        later_fragment: false,
        l4: l3 + ipv6::LEN,
        id: 0,
    };
    network6(ip, l3, &payload)
}

#[inline(always)]
const fn network6(ip: &ipv6::Header, l3: usize, payload: &ipv6::Payload) -> Network<Addr6> {
    Network {
        src: ip.src,
        dst: ip.dst,
        l3,
        l4: payload.l4,
        end: l3 + ip.total_len,
        protocol: payload.protocol,
        ttl: ip.hop_limit,
        id: payload.id,
        fragment: payload.fragment,
        // Routers never make fragments (RFC 8200 section 5).
        whole: true,
    }
}

/// Whether a protocol is TCP or UDP.
#[inline(always)]
pub const fn is_transport(protocol: u8) -> bool {
    protocol == proto::TCP || protocol == proto::UDP
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn groups_and_nobody_are_no_hosts() {
        let four = |text: &str| {
            let address: Ipv4Addr = text.parse().unwrap();
            u32::from_ne_bytes(address.octets()).is_host()
        };
        let six = |text: &str| {
            let address: Ipv6Addr = text.parse().unwrap();
            Addr6::new(address.octets()).is_host()
        };
        assert!(four("10.0.0.1") && four("203.0.113.9"));
        for address in ["0.0.0.0", "127.0.0.1", "224.0.0.18", "255.255.255.255"] {
            assert!(!four(address), "{address}");
        }
        assert!(six("2001:db8::1") && six("fe80::1") && six("::2"));
        for address in ["::", "::1", "ff02::12"] {
            assert!(!six(address), "{address}");
        }
    }
}
