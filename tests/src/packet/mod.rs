//! Builds the frames that tests feed to the data plane, and checks those that come out.
//!
//! Checksums are always computed from the whole packet, never updated, so a frame built here is an
//! independent statement of what the data plane's arithmetic must arrive at. [`verify`] leaves the
//! judgement to etherparse.
//!
//! What holds for both families is written once, in IPv4, and turned into IPv6 by [`Frame::v6`].

mod build;
mod verify;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;

pub use build::{arp_request, carp_header, checksum};
pub use verify::{verify, verify_outer};

/// TCP flags.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledge.
    pub const ACK: u8 = 0x10;
}

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What an ICMP error says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens at its port.
    Port,
    /// It is longer than this, which is what its way takes.
    TooBig(u32),
    /// Its time to live is used up.
    Expired,
}

/// What is in the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Tcp {
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        window: u16,
    },
    Udp {
        checksum: bool,
    },
    /// An ICMP error and so many bytes of the packet it is about, from its IP header on.
    Error {
        trouble: Trouble,
        about: Box<Frame>,
        repeated: usize,
    },
    /// Another packet of the same family.
    Packet(Box<Frame>),
    Raw {
        protocol: u8,
    },
}

/// A frame to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    source_mac: Mac,
    destination_mac: Mac,
    tags: Vec<(u16, u16)>,
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    class: u8,
    id: u32,
    fragment: u16,
    piece: Option<Range<usize>>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    content: Content,
    payload: Vec<u8>,
}

impl Frame {
    fn new(source: SocketAddr, destination: SocketAddr, content: Content) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            source,
            destination,
            ttl: 64,
            class: 0,
            id: 0x1234,
            fragment: 0,
            piece: None,
            options: Vec::new(),
            extensions: Vec::new(),
            content,
            payload: Vec::new(),
        }
    }

    /// A TCP segment.
    pub fn tcp(
        source: impl Into<SocketAddr>,
        destination: impl Into<SocketAddr>,
        flags: u8,
    ) -> Self {
        let content = Content::Tcp {
            sequence: 1000,
            acknowledgement: 0,
            flags,
            window: 0x2000,
        };
        Self::new(source.into(), destination.into(), content)
    }

    /// A UDP datagram.
    pub fn udp(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> Self {
        let content = Content::Udp { checksum: true };
        Self::new(source.into(), destination.into(), content)
    }

    /// A packet of another protocol.
    pub fn raw(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8) -> Self {
        Self::new(
            SocketAddr::new(source.into(), 0),
            SocketAddr::new(destination.into(), 0),
            Content::Raw { protocol },
        )
    }

    /// An ICMP error that repeats so many bytes behind the IP header of the packet it is about, from
    /// `source` to the sender of that packet.
    pub fn error(
        source: impl Into<IpAddr>,
        trouble: Trouble,
        about: &Self,
        repeated: usize,
    ) -> Self {
        Self::new(
            SocketAddr::new(source.into(), 0),
            SocketAddr::new(about.source.ip(), 0),
            Content::Error {
                trouble,
                about: Box::new(about.clone()),
                repeated,
            },
        )
    }

    /// Inside a packet between these addresses (RFC 2003, RFC 2473).
    #[must_use]
    pub fn inside(&self, source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Self {
        let outer = Self::new(
            SocketAddr::new(source.into(), 0),
            SocketAddr::new(destination.into(), 0),
            Content::Packet(Box::new(self.clone())),
        );
        Self {
            source_mac: self.source_mac,
            destination_mac: self.destination_mac,
            tags: self.tags.clone(),
            class: self.class,
            fragment: self.fragment & 0x4000,
            id: 0,
            ..outer
        }
    }

    /// Between these Ethernet addresses.
    #[must_use]
    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// Between the Ethernet addresses of `other` the other way round, with its VLAN tags.
    #[must_use]
    pub fn answering(mut self, other: &Self) -> Self {
        self.tags.clone_from(&other.tags);
        self.macs(other.destination_mac, other.source_mac)
    }

    /// With one more VLAN tag inside those it has.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, id: u16) -> Self {
        self.tags.push((ethertype, id));
        self
    }

    /// From another address and port.
    #[must_use]
    pub fn from(mut self, source: impl Into<SocketAddr>) -> Self {
        self.source = source.into();
        self
    }

    /// To another address and port.
    #[must_use]
    pub fn to(mut self, destination: impl Into<SocketAddr>) -> Self {
        self.destination = destination.into();
        self
    }

    /// Where it comes from and where it goes, if those are IPv4 addresses.
    pub fn ends_v4(&self) -> Option<(SocketAddrV4, SocketAddrV4)> {
        match (self.source, self.destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => Some((source, destination)),
            _ => None,
        }
    }

    /// With this time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With this type of service, or traffic class.
    #[must_use]
    pub fn class(mut self, class: u8) -> Self {
        self.class = class;
        self
    }

    /// With this identification.
    #[must_use]
    pub fn id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }

    /// With these IPv4 flags and fragment offset.
    #[must_use]
    pub fn fragment(mut self, fragment: u16) -> Self {
        self.fragment = fragment;
        self
    }

    /// Not to be made into fragments, which in IPv6 is understood.
    #[must_use]
    pub fn whole(self) -> Self {
        self.fragment(0x4000)
    }

    /// Only the fragment with these bytes of what is behind the IP header; they begin at a multiple of
    /// eight.
    #[must_use]
    pub fn piece(mut self, bytes: Range<usize>) -> Self {
        self.piece = Some(bytes);
        self
    }

    /// With these IPv4 options, a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With one more IPv6 extension header, whose bytes from the third on these are.
    #[must_use]
    pub fn extension(mut self, kind: u8, bytes: &[u8]) -> Self {
        self.extensions.push((kind, bytes.to_vec()));
        self
    }

    /// With these TCP sequence and acknowledgement numbers.
    #[must_use]
    pub fn numbers(mut self, first: u32, second: u32) -> Self {
        if let Content::Tcp {
            sequence,
            acknowledgement,
            ..
        } = &mut self.content
        {
            (*sequence, *acknowledgement) = (first, second);
        }
        self
    }

    /// With this TCP window.
    #[must_use]
    pub fn window(mut self, size: u16) -> Self {
        if let Content::Tcp { window, .. } = &mut self.content {
            *window = size;
        }
        self
    }

    /// Without a UDP checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Content::Udp { checksum } = &mut self.content {
            *checksum = false;
        }
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The same in IPv6.
    #[must_use]
    pub fn v6(&self) -> Self {
        let mut frame = self.clone();
        frame.source = mapped_port(frame.source);
        frame.destination = mapped_port(frame.destination);
        match &mut frame.content {
            Content::Error { about: inner, .. } | Content::Packet(inner) => **inner = inner.v6(),
            Content::Tcp { .. } | Content::Udp { .. } | Content::Raw { .. } => {}
        }
        frame
    }
}

/// What an IPv4 address of a test is called in IPv6: the address within `2001:db8:4::/96`.
pub fn mapped(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0x2001, 0xdb8, 4, 0, 0, 0, word(a, b), word(c, d))
}

fn mapped_port(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(mapped(*v4.ip()).into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1234);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 80);

    #[test]
    fn built_frames_are_what_etherparse_expects() {
        for len in 0..50usize {
            let payload: Vec<u8> = (0..len as u8).collect();
            let tcp = Frame::tcp(A, B, flag::ACK).payload(&payload);
            let udp = Frame::udp(A, B).tag(0x8100, 5).payload(&payload);
            for frame in [
                tcp.clone(),
                udp.clone(),
                udp.clone().without_checksum(),
                tcp.inside(*A.ip(), *B.ip()),
                Frame::error(*B.ip(), Trouble::Port, &udp, 8 + len),
                Frame::error(*B.ip(), Trouble::TooBig(1400), &tcp, 8),
                tcp.clone().piece(0..16),
                tcp.clone().piece(16..20 + len),
                tcp.options(&[1; 8]).extension(0, &[1, 4, 0, 0, 0, 0]),
            ] {
                verify(&frame.build()).unwrap();
                verify(&frame.v6().build()).unwrap();
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let tcp = Frame::tcp(A, B, flag::SYN).payload(b"x");
        let error = Frame::error(*B.ip(), Trouble::Expired, &tcp, 8);
        for good in [tcp.clone(), tcp.inside(*A.ip(), *B.ip()), error] {
            for mut frame in [good.build(), good.v6().build()] {
                *frame.last_mut().unwrap() ^= 1;
                assert!(verify(&frame).is_err());
            }
        }
        let mut frame = Frame::udp(A, B).build();
        frame[14 + 8] ^= 1;
        assert!(verify(&frame).is_err());
    }
}
