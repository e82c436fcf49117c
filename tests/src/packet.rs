//! Builds the frames that tests feed to the data plane, and checks those that come out.
//!
//! Checksums are always computed from the whole packet, never updated, so a frame built here is an
//! independent statement of what the data plane's arithmetic must arrive at. [`verify`] leaves the
//! judgement to etherparse.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{InternetSlice, SlicedPacket, TransportSlice};

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

/// What is in the IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Tcp {
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
    },
    Udp {
        checksum: bool,
    },
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
    source: SocketAddrV4,
    destination: SocketAddrV4,
    ttl: u8,
    fragment: u16,
    options: Vec<u8>,
    content: Content,
    payload: Vec<u8>,
}

impl Frame {
    fn new(source: SocketAddrV4, destination: SocketAddrV4, content: Content) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            source,
            destination,
            ttl: 64,
            fragment: 0,
            options: Vec::new(),
            content,
            payload: Vec::new(),
        }
    }

    /// A TCP segment.
    pub fn tcp(source: SocketAddrV4, destination: SocketAddrV4, flags: u8) -> Self {
        let content = Content::Tcp {
            sequence: 1000,
            acknowledgement: 0,
            flags,
        };
        Self::new(source, destination, content)
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddrV4, destination: SocketAddrV4) -> Self {
        Self::new(source, destination, Content::Udp { checksum: true })
    }

    /// A packet of another protocol.
    pub fn raw(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self::new(
            SocketAddrV4::new(source, 0),
            SocketAddrV4::new(destination, 0),
            Content::Raw { protocol },
        )
    }

    /// Between these Ethernet addresses.
    #[must_use]
    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// With one more VLAN tag inside those it has.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, id: u16) -> Self {
        self.tags.push((ethertype, id));
        self
    }

    /// From another address and port.
    #[must_use]
    pub fn from(mut self, source: SocketAddrV4) -> Self {
        self.source = source;
        self
    }

    /// To another address and port.
    #[must_use]
    pub fn to(mut self, destination: SocketAddrV4) -> Self {
        self.destination = destination;
        self
    }

    /// With this time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With these IPv4 flags and fragment offset.
    #[must_use]
    pub fn fragment(mut self, fragment: u16) -> Self {
        self.fragment = fragment;
        self
    }

    /// With these IPv4 options, a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With these TCP sequence and acknowledgement numbers.
    #[must_use]
    pub fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        if let Content::Tcp { flags, .. } = self.content {
            self.content = Content::Tcp {
                sequence,
                acknowledgement,
                flags,
            };
        }
        self
    }

    /// Without a UDP checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if self.content == (Content::Udp { checksum: true }) {
            self.content = Content::Udp { checksum: false };
        }
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        for (ethertype, id) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(0x0800u16.to_be_bytes());
        frame.extend(self.ip_packet());
        frame
    }

    fn ip_packet(&self) -> Vec<u8> {
        let segment = self.segment();
        let header_len = 20 + self.options.len();
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend(((header_len + segment.len()) as u16).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol(), 0, 0]);
        header.extend(self.source.ip().octets());
        header.extend(self.destination.ip().octets());
        header.extend(&self.options);
        let sum = checksum(&header).to_be_bytes();
        if let Some(field) = header.get_mut(10..12) {
            field.copy_from_slice(&sum);
        }
        header.extend(segment);
        header
    }

    fn protocol(&self) -> u8 {
        match self.content {
            Content::Tcp { .. } => 6,
            Content::Udp { .. } => 17,
            Content::Raw { protocol } => protocol,
        }
    }

    /// The part behind the IPv4 header.
    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        let field = match self.content {
            Content::Raw { .. } => return self.payload.clone(),
            Content::Tcp {
                sequence,
                acknowledgement,
                flags,
            } => {
                segment.extend(sequence.to_be_bytes());
                segment.extend(acknowledgement.to_be_bytes());
                segment.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
                16
            }
            Content::Udp { .. } => {
                segment.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                segment.extend([0, 0]);
                6
            }
        };
        segment.extend(&self.payload);
        let mut covered = Vec::new();
        covered.extend(self.source.ip().octets());
        covered.extend(self.destination.ip().octets());
        covered.extend([0, self.protocol()]);
        covered.extend((segment.len() as u16).to_be_bytes());
        covered.extend(&segment);
        let sum = match (checksum(&covered), &self.content) {
            (_, Content::Udp { checksum: false }) => 0,
            (0, Content::Udp { .. }) => 0xffff,
            (sum, _) => sum,
        };
        if let Some(bytes) = segment.get_mut(field..field + 2) {
            bytes.copy_from_slice(&sum.to_be_bytes());
        }
        segment
    }
}

/// An ARP request for `target`.
pub fn arp_request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// The 36 bytes of a CARP advertisement of this group, with a correct checksum and no digest.
pub fn carp_header(vhid: u8) -> Vec<u8> {
    let mut header = vec![0x21, vhid, 0, 7, 0, 1, 0, 0];
    header.extend(1..=28u8);
    let sum = checksum(&header).to_be_bytes();
    if let Some(field) = header.get_mut(6..8) {
        field.copy_from_slice(&sum);
    }
    header
}

/// The Internet checksum (RFC 1071), written in the plainest way.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or_default();
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u32::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether etherparse finds every checksum in the frame correct; says which one is not.
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let Some(InternetSlice::Ipv4(ip)) = &packet.net else {
        return Err("no IPv4 packet".to_owned());
    };
    let header = ip.header().to_header();
    if header.header_checksum != header.calc_header_checksum() {
        return Err(format!("IPv4 checksum {:#06x}", header.header_checksum));
    }
    let (found, wanted) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = ip.header();
            let wanted = tcp
                .calc_checksum_ipv4(header.source(), header.destination())
                .map_err(|error| error.to_string())?;
            (tcp.checksum(), wanted)
        }
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
            let header = udp.to_header();
            let wanted = header
                .calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                .map_err(|error| error.to_string())?;
            (udp.checksum(), wanted)
        }
        _ => return Ok(()),
    };
    if found == wanted {
        Ok(())
    } else {
        Err(format!("checksum {found:#06x}, not {wanted:#06x}"))
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
            verify(&Frame::tcp(A, B, flag::ACK).payload(&payload).build()).unwrap();
            verify(&Frame::udp(A, B).tag(0x8100, 5).payload(&payload).build()).unwrap();
            verify(
                &Frame::udp(A, B)
                    .without_checksum()
                    .payload(&payload)
                    .build(),
            )
            .unwrap();
        }
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let mut frame = Frame::tcp(A, B, flag::SYN).payload(b"x").build();
        *frame.last_mut().unwrap() ^= 1;
        assert!(verify(&frame).is_err());
        let mut frame = Frame::udp(A, B).build();
        frame[14 + 8] ^= 1;
        assert!(verify(&frame).is_err());
    }
}
