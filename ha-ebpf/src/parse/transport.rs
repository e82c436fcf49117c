//! TCP (RFC 9293) and UDP (RFC 768) behind an IPv4 header without options.

use ha_common::conn::ConnKey;
use ha_common::proto;

use super::ipv4;
use crate::packet::Packet;

/// Source port, TCP and UDP.
pub const SPORT: usize = ipv4::LEN;
/// Destination port, TCP and UDP.
pub const DPORT: usize = ipv4::LEN + 2;
/// TCP sequence number.
const TCP_SEQUENCE: usize = ipv4::LEN + 4;
/// TCP acknowledgement number.
const TCP_ACKNOWLEDGEMENT: usize = ipv4::LEN + 8;
/// TCP flags.
const TCP_FLAGS: usize = ipv4::LEN + 13;
/// TCP checksum.
pub const TCP_CHECKSUM: usize = ipv4::LEN + 16;
/// End of the TCP header without options.
pub const TCP_END: usize = ipv4::LEN + 20;
/// UDP checksum.
pub const UDP_CHECKSUM: usize = ipv4::LEN + 6;
/// End of the UDP header.
pub const UDP_END: usize = ipv4::LEN + 8;

/// TCP flags.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1 << 0;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset.
    pub const RST: u8 = 1 << 2;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 1 << 4;
}

/// A packet that belongs to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Its 5-tuple.
    pub key: ConnKey<A>,
    /// Where the IP header starts.
    pub l3: usize,
    /// TCP sequence number; 0 for UDP.
    pub sequence: u32,
    /// TCP acknowledgement number; 0 for UDP.
    pub acknowledgement: u32,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Time to live.
    pub ttl: u8,
}

/// Reads a TCP or UDP packet in an IPv4 packet that is whole, without options, sound and complete up
/// to the end of the TCP or UDP header. `None` for every other packet.
#[inline(always)]
pub fn parse4<P: Packet>(packet: &mut P, l3: usize) -> Option<Flow<u32>> {
    let frame_len = packet.frame_len();
    let ip = packet.window::<UDP_END>(l3)?;
    let total_len = usize::from(u16::from_be(ip.load::<{ ipv4::TOTAL_LEN }, _>()));
    let protocol: u8 = ip.load::<{ ipv4::PROTOCOL }, _>();
    if ip.load::<{ ipv4::VERSION_IHL }, u8>() != ipv4::VERSION_4_NO_OPTIONS
        || ip.load::<{ ipv4::FRAGMENT }, u16>() & ipv4::FRAGMENT_BITS != 0
        || l3 + total_len > frame_len
    {
        return None;
    }
    let mut flow = Flow {
        key: ConnKey {
            src: ip.load::<{ ipv4::SRC }, _>(),
            dst: ip.load::<{ ipv4::DST }, _>(),
            sport: ip.load::<SPORT, _>(),
            dport: ip.load::<DPORT, _>(),
            proto: u32::from(protocol),
        },
        l3,
        sequence: 0,
        acknowledgement: 0,
        flags: 0,
        ttl: ip.load::<{ ipv4::TTL }, _>(),
    };
    if protocol == proto::UDP {
        return (total_len >= UDP_END).then_some(flow);
    }
    if protocol != proto::TCP || total_len < TCP_END {
        return None;
    }
    let tcp = packet.window::<TCP_END>(l3)?;
    flow.sequence = u32::from_be(tcp.load::<TCP_SEQUENCE, _>());
    flow.acknowledgement = u32::from_be(tcp.load::<TCP_ACKNOWLEDGEMENT, _>());
    flow.flags = tcp.load::<TCP_FLAGS, _>();
    Some(flow)
}

impl<A> Flow<A> {
    /// Whether this is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.key.proto == proto::TCP as u32
    }

    /// Whether these are the flags of a connection request.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
    }

    /// Whether this is the answer to a connection request.
    #[inline(always)]
    pub const fn is_syn_ack(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN | flag::ACK
    }

    /// Whether the packet ends its direction, or the whole connection.
    #[inline(always)]
    pub const fn ends(&self) -> bool {
        self.flags & (flag::FIN | flag::RST) != 0
    }

    /// Whether the packet proves well enough that a connection exists to rebuild its entries: a
    /// datagram, or a segment from the middle of a TCP connection.
    #[inline(always)]
    pub const fn rebuilds(&self) -> bool {
        !self.is_tcp() || self.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::ACK
    }
}
