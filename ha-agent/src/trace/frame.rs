//! A frame with a given 5-tuple.

use std::net::{IpAddr, SocketAddr};

use ha_common::{checksum, proto};

/// Ethernet header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;

/// What is known of a packet that nobody has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver, of the same family.
    pub to: SocketAddr,
    /// TCP flags; `None` makes it a datagram of UDP.
    pub tcp_flags: Option<u8>,
    /// Time to live.
    pub ttl: u8,
    /// Length of the IP packet; its headers alone if it is shorter than they are.
    pub length: u16,
}

impl Packet {
    /// The frame, from and to no Ethernet address. `None` if the ends are of different families.
    pub fn frame(&self) -> Option<Vec<u8>> {
        let header = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => IPV4,
            (IpAddr::V6(_), IpAddr::V6(_)) => IPV6,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let transport = if self.tcp_flags.is_some() { TCP } else { UDP };
        let length = usize::from(self.length).max(header + transport);
        let payload = length - header;
        let mut frame = Vec::with_capacity(ETHERNET + length);
        frame.extend([0; 12]);
        frame.extend(self.network(length, payload));
        let segment = self.transport(payload);
        frame.extend(segment);
        Some(frame)
    }

    const fn protocol(&self) -> u8 {
        match self.tcp_flags {
            Some(_) => proto::TCP,
            None => proto::UDP,
        }
    }

    /// Ethernet type and IP header.
    fn network(&self, length: usize, payload: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + IPV6);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let [high, low] = (length as u16).to_be_bytes();
                let mut ip = vec![
                    0x45,
                    0,
                    high,
                    low,
                    0,
                    0,
                    0x40,
                    0,
                    self.ttl,
                    self.protocol(),
                    0,
                    0,
                ];
                ip.extend(from.octets());
                ip.extend(to.octets());
                put_sum(&mut ip, 10, 0);
                out.extend([0x08, 0x00]);
                out.extend(ip);
            }
            (from, to) => {
                out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                out.extend((payload as u16).to_be_bytes());
                out.extend([self.protocol(), self.ttl]);
                out.extend(octets(from));
                out.extend(octets(to));
            }
        }
        out
    }

    /// TCP or UDP header and a payload of zeros.
    fn transport(&self, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length);
        out.extend(self.from.port().to_be_bytes());
        out.extend(self.to.port().to_be_bytes());
        let at = if let Some(flags) = self.tcp_flags {
            out.extend([0; 8]);
            out.extend([(TCP as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            out.extend((length as u16).to_be_bytes());
            out.extend([0; 2]);
            6
        };
        out.resize(length, 0);
        let mut pseudo = octets(self.from.ip());
        pseudo.extend(octets(self.to.ip()));
        let pseudo = sum(&pseudo) + u32::from(self.protocol()) + length as u32;
        put_sum(&mut out, at, pseudo);
        if self.tcp_flags.is_none() && out.get(at..at + 2) == Some(&[0, 0]) {
            // RFC 768: a computed zero is sent as all ones.
            if let Some(place) = out.get_mut(at..at + 2) {
                place.fill(0xff);
            }
        }
        out
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The sum of the words, in the byte order of the network.
fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)));
    let last = rest.first().map_or(0, |byte| u32::from(*byte) << 8);
    words.sum::<u32>() + last
}

/// Writes the checksum of `bytes`, with what is added to it, to where zeros are.
fn put_sum(bytes: &mut [u8], at: usize, added: u32) {
    let value = !checksum::fold(sum(bytes) + added);
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}
