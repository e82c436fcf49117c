//! From a description to bytes.

use std::net::{IpAddr, Ipv4Addr};

use super::{Content, Frame, Trouble};

/// Protocol number of an IPv6 fragment header.
const FRAGMENT: u8 = 44;

impl Frame {
    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        for (ethertype, id) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let kind: u16 = if self.is_v4() { 0x0800 } else { 0x86dd };
        frame.extend(kind.to_be_bytes());
        frame.extend(self.ip_packet());
        frame
    }

    /// Where the IP header starts.
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The packet from its IP header on.
    pub fn ip_packet(&self) -> Vec<u8> {
        let segment = self.segment();
        let all = 0..segment.len();
        let piece = self.piece.clone().unwrap_or_else(|| all.clone());
        let more = piece.end < segment.len();
        let bytes = segment.get(piece.clone()).unwrap_or_default();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let offset = self.fragment | (piece.start / 8) as u16 | u16::from(more) << 13;
                self.ipv4(source, destination, offset, bytes)
            }
            (source, destination) => {
                let fragment =
                    (self.piece.is_some()).then(|| (piece.start as u16 & 0xfff8) | u16::from(more));
                self.ipv6(&octets(source), &octets(destination), fragment, bytes)
            }
        }
    }

    fn ipv4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        fragment: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut header = vec![0x40 | (header_len / 4) as u8, self.class];
        header.extend(((header_len + payload.len()) as u16).to_be_bytes());
        header.extend((self.id as u16).to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol(), 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend(&self.options);
        put_checksum(&mut header, 10, &[]);
        header.extend(payload);
        header
    }

    fn ipv6(
        &self,
        source: &[u8],
        destination: &[u8],
        fragment: Option<u16>,
        payload: &[u8],
    ) -> Vec<u8> {
        // In front of the payload; each names what follows it.
        let mut next = self.protocol();
        let mut behind = payload.to_vec();
        if let Some(offset) = fragment {
            let mut header = vec![next, 0];
            header.extend(offset.to_be_bytes());
            header.extend(self.id.to_be_bytes());
            header.extend(behind);
            (behind, next) = (header, FRAGMENT);
        }
        for (kind, bytes) in self.extensions.iter().rev() {
            let mut header = vec![next, ((bytes.len() + 2) / 8).saturating_sub(1) as u8];
            header.extend(bytes);
            header.extend(behind);
            (behind, next) = (header, *kind);
        }
        let mut packet = vec![0x60 | self.class >> 4, self.class << 4, 0, 0];
        packet.extend((behind.len() as u16).to_be_bytes());
        packet.extend([next, self.ttl]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(behind);
        packet
    }

    fn protocol(&self) -> u8 {
        match self.content {
            Content::Tcp { .. } => 6,
            Content::Udp { .. } => 17,
            Content::Error { .. } if self.is_v4() => 1,
            Content::Error { .. } => 58,
            Content::Packet(_) if self.is_v4() => 4,
            Content::Packet(_) => 41,
            Content::Raw { protocol } => protocol,
        }
    }

    /// The part behind the IP header.
    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        match &self.content {
            Content::Raw { .. } => return self.payload.clone(),
            Content::Packet(inner) => return inner.ip_packet(),
            Content::Error {
                trouble,
                about,
                repeated,
            } => return self.error_message(*trouble, about, *repeated),
            Content::Tcp {
                sequence,
                acknowledgement,
                flags,
                window,
            } => {
                segment.extend(self.source.port().to_be_bytes());
                segment.extend(self.destination.port().to_be_bytes());
                segment.extend(sequence.to_be_bytes());
                segment.extend(acknowledgement.to_be_bytes());
                segment.extend([0x50, *flags]);
                segment.extend(window.to_be_bytes());
                segment.extend([0; 4]);
                segment.extend(&self.payload);
                put_checksum(
                    &mut segment,
                    16,
                    &self.pseudo_header(20 + self.payload.len()),
                );
            }
            Content::Udp { checksum } => {
                let len = 8 + self.payload.len();
                segment.extend(self.source.port().to_be_bytes());
                segment.extend(self.destination.port().to_be_bytes());
                segment.extend((len as u16).to_be_bytes());
                segment.extend([0, 0]);
                segment.extend(&self.payload);
                if *checksum {
                    put_checksum(&mut segment, 6, &self.pseudo_header(len));
                }
                // RFC 768: a computed zero is sent as all ones.
                if *checksum && let Some(sum @ [0, 0]) = segment.get_mut(6..8) {
                    sum.copy_from_slice(&[0xff, 0xff]);
                }
            }
        }
        segment
    }

    fn error_message(&self, trouble: Trouble, about: &Self, repeated: usize) -> Vec<u8> {
        let (kind, code, detail) = match (trouble, self.is_v4()) {
            (Trouble::Port, true) => (3, 3, 0),
            (Trouble::TooBig(mtu), true) => (3, 4, mtu & 0xffff),
            (Trouble::Expired, true) => (11, 0, 0),
            (Trouble::Port, false) => (1, 4, 0),
            (Trouble::TooBig(mtu), false) => (2, 0, mtu),
            (Trouble::Expired, false) => (3, 0, 0),
        };
        let mut message = vec![kind, code, 0, 0];
        message.extend(detail.to_be_bytes());
        let header = if self.is_v4() { 20 } else { 40 };
        message.extend(about.ip_packet().iter().take(header + repeated));
        let pseudo_header = if self.is_v4() {
            Vec::new()
        } else {
            self.pseudo_header(message.len())
        };
        put_checksum(&mut message, 2, &pseudo_header);
        message
    }

    /// What the checksum of a payload covers besides it (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        let mut header = octets(self.source.ip());
        header.extend(octets(self.destination.ip()));
        header.extend((len as u32).to_be_bytes());
        header.extend([0, 0, 0, self.protocol()]);
        header
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Writes the checksum over `bytes`, and `more` in front, into the field at `offset`, which is zero.
fn put_checksum(bytes: &mut [u8], offset: usize, more: &[u8]) {
    let mut covered = more.to_vec();
    covered.extend_from_slice(bytes);
    let sum = checksum(&covered).to_be_bytes();
    if let Some(field) = bytes.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum);
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
    put_checksum(&mut header, 6, &[]);
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
