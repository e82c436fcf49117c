//! TCP (RFC 9293) and UDP (RFC 768). Offsets are relative to their headers.

use ha_common::conn::ConnKey;
use ha_common::proto;

use crate::packet::Packet;

/// Source port, TCP and UDP.
pub const SPORT: usize = 0;
/// Destination port, TCP and UDP.
pub const DPORT: usize = 2;
/// TCP sequence number.
pub const TCP_SEQUENCE: usize = 4;
/// TCP acknowledgement number.
pub const TCP_ACKNOWLEDGEMENT: usize = 8;
/// TCP header length, in words, in the high nibble.
pub const TCP_OFFSET: usize = 12;
/// TCP flags.
pub const TCP_FLAGS: usize = 13;
/// TCP window.
pub const TCP_WINDOW: usize = 14;
/// TCP checksum.
pub const TCP_CHECKSUM: usize = 16;
/// Length of the TCP header without options.
pub const TCP_LEN: usize = 20;
/// UDP checksum.
pub const UDP_CHECKSUM: usize = 6;
/// Length of the UDP header.
pub const UDP_LEN: usize = 8;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    /// Its 5-tuple.
    pub key: ConnKey<A>,
    /// Where the IP header starts.
    pub l3: usize,
    /// Where the TCP or UDP header starts.
    pub l4: usize,
    /// Length of the IP packet.
    pub len: u32,
    /// Identification, of a first fragment; see `fragment`.
    pub id: u32,
    /// TCP sequence number; 0 for UDP.
    pub sequence: u32,
    /// TCP acknowledgement number; 0 for UDP.
    pub acknowledgement: u32,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Time to live.
    pub ttl: u8,
    /// Whether this is the first of several fragments.
    pub fragment: bool,
    /// Whether the packet must not be made into fragments.
    pub whole: bool,
}

/// What the IP header says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Where the IP header starts.
    pub l3: usize,
    /// Where the TCP or UDP header starts.
    pub l4: usize,
    /// Where the packet ends.
    pub end: usize,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification, of a first fragment.
    pub id: u32,
    /// Whether this is the first of several fragments.
    pub fragment: bool,
    /// Whether the packet must not be made into fragments.
    pub whole: bool,
}

/// Reads the TCP or UDP header of a packet. `None` if it is neither, or not all there.
#[inline(always)]
pub fn parse<A: Copy, P: Packet>(packet: &mut P, network: &Network<A>) -> Option<Flow<A>> {
    let l4 = network.l4;
    let mut flow = Flow {
        key: ConnKey {
            src: network.src,
            dst: network.dst,
            sport: 0,
            dport: 0,
            proto: u32::from(network.protocol),
        },
        l3: network.l3,
        l4,
        len: (network.end - network.l3) as u32,
        id: network.id,
        sequence: 0,
        acknowledgement: 0,
        flags: 0,
        ttl: network.ttl,
        fragment: network.fragment,
        whole: network.whole,
    };
    if network.protocol == proto::TCP && l4 + TCP_LEN <= network.end {
        let tcp = packet.window::<TCP_LEN>(l4)?;
        [flow.key.sport, flow.key.dport] = halves(tcp.load::<SPORT, _>());
        flow.sequence = u32::from_be(tcp.load::<TCP_SEQUENCE, _>());
        flow.acknowledgement = u32::from_be(tcp.load::<TCP_ACKNOWLEDGEMENT, _>());
        flow.flags = tcp.load::<TCP_FLAGS, _>();
        return Some(flow);
    }
    if network.protocol != proto::UDP || l4 + UDP_LEN > network.end {
        return None;
    }
    let udp = packet.window::<UDP_LEN>(l4)?;
    [flow.key.sport, flow.key.dport] = halves(udp.load::<SPORT, _>());
    Some(flow)
}

/// Both ports, which were loaded at once: what is stored at once is loaded from the key without delay.
#[inline(always)]
const fn halves(ports: u32) -> [u16; 2] {
    let [a, b, c, d] = ports.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// Bound of where the IP header starts, for the verifier: Ethernet and two tags.
const L3_MASK: usize = 31;
/// Bound of where the TCP or UDP header starts.
const L4_MASK: usize = 255;

impl<A> Flow<A> {
    /// Where the IP header starts, within bounds that the verifier sees.
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        self.l3 & L3_MASK
    }

    /// Where the TCP or UDP header starts, likewise.
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        self.l4 & L4_MASK
    }

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
