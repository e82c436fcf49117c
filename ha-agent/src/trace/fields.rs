//! Fields of a frame, to show what is other in it afterwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_common::proto;
use ha_ebpf::icmp::{is_error4, is_error6};

use super::model::Rewritten;
use super::words;

/// Types of Ethernet (IANA "IEEE 802 Numbers").
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const ARP: u16 = 0x0806;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const SERVICE_VLAN: u16 = 0x88a8;
}

/// Headers inside headers that are looked into: a packet in a tunnel, one that an ICMP error repeats.
const DEPTH: usize = 3;

/// Fields by name, in the order of the frame.
type Fields = Vec<(String, String)>;

/// Bytes that are taken from the front; what is missing is missing.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn at<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn byte(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    fn word(self, offset: usize) -> Option<u16> {
        self.at(offset).map(u16::from_be_bytes)
    }

    fn long(self, offset: usize) -> Option<u32> {
        self.at(offset).map(u32::from_be_bytes)
    }

    fn v4(self, offset: usize) -> Option<Ipv4Addr> {
        self.at::<4>(offset).map(Ipv4Addr::from)
    }

    fn v6(self, offset: usize) -> Option<Ipv6Addr> {
        self.at::<16>(offset).map(Ipv6Addr::from)
    }

    fn from(self, offset: usize) -> Self {
        Self(self.0.get(offset..).unwrap_or_default())
    }
}

/// Source and destination of the packet in a frame, as far as it has them.
pub(crate) fn ends(frame: &[u8]) -> [IpAddr; 2] {
    let (kind, l3) = network(Bytes(frame));
    let found = match kind {
        ethertype::IPV6 => l3.v6(8).zip(l3.v6(24)).map(|(a, b)| [a.into(), b.into()]),
        _ => l3.v4(12).zip(l3.v4(16)).map(|(a, b)| [a.into(), b.into()]),
    };
    found.unwrap_or([IpAddr::V4(Ipv4Addr::UNSPECIFIED); 2])
}

/// What is other in the second frame.
pub(super) fn rewritten(before: &[u8], after: &[u8]) -> Vec<Rewritten> {
    let (before, after) = (fields(before), fields(after));
    let find = |fields: &Fields, name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    let gone = before
        .iter()
        .filter(|(name, _)| find(&after, name).is_none());
    after
        .iter()
        .chain(gone)
        .map(|(name, _)| Rewritten {
            field: name.clone(),
            before: find(&before, name),
            after: find(&after, name),
        })
        .filter(|field| field.before != field.after)
        .collect()
}

/// Type and beginning of what is behind the Ethernet header and its tags.
fn network(frame: Bytes<'_>) -> (u16, Bytes<'_>) {
    let mut at = 12;
    let mut kind = frame.word(at).unwrap_or_default();
    for _ in 0..2 {
        if matches!(kind, ethertype::VLAN | ethertype::SERVICE_VLAN) {
            at += 4;
            kind = frame.word(at).unwrap_or_default();
        }
    }
    (kind, frame.from(at + 2))
}

fn fields(frame: &[u8]) -> Fields {
    let mut out = Out {
        fields: vec![("frame length".to_owned(), frame.len().to_string())],
        prefix: String::new(),
    };
    let frame = Bytes(frame);
    out.put("Ethernet destination", frame.at(0).map(words::mac));
    out.put("Ethernet source", frame.at(6).map(words::mac));
    let (kind, l3) = network(frame);
    out.put("Ethernet type", Some(format!("0x{kind:04x}")));
    match kind {
        ethertype::IPV4 => out.ipv4(l3, DEPTH),
        ethertype::IPV6 => out.ipv6(l3, DEPTH),
        ethertype::ARP => out.arp(l3),
        _ => {}
    }
    out.fields
}

struct Out {
    fields: Fields,
    prefix: String,
}

impl Out {
    fn put(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            let name = format!("{}{name}", self.prefix);
            self.fields.push((name, value.to_string()));
        }
    }

    fn hex(&mut self, name: &str, value: Option<u16>) {
        self.put(name, value.map(|value| format!("0x{value:04x}")));
    }

    /// Goes on with a packet inside this one.
    fn inside(&mut self, prefix: &str, inner: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.prefix, prefix.to_owned());
        inner(self);
        self.prefix = outer;
    }

    fn arp(&mut self, arp: Bytes<'_>) {
        let operation = arp.word(6).map(|operation| match operation {
            1 => "request".to_owned(),
            2 => "reply".to_owned(),
            other => other.to_string(),
        });
        self.put("ARP operation", operation);
        self.put("ARP sender MAC", arp.at(8).map(words::mac));
        self.put("ARP sender", arp.v4(14));
        self.put("ARP target MAC", arp.at(18).map(words::mac));
        self.put("ARP target", arp.v4(24));
    }

    fn ipv4(&mut self, ip: Bytes<'_>, depth: usize) {
        let Some(protocol) = ip.byte(9).filter(|_| depth > 0) else {
            return;
        };
        let header = usize::from(ip.byte(0).unwrap_or_default() & 0xf) * 4;
        let later = ip.word(6).is_some_and(|fragment| fragment & 0x1fff != 0);
        let show = |out: &mut Self| {
            out.put("source", ip.v4(12));
            out.put("destination", ip.v4(16));
            out.put("protocol", Some(protocol));
            out.put("length", ip.word(2));
            out.put("time to live", ip.byte(8));
            out.hex("IP checksum", ip.word(10));
        };
        let behind = ip.from(header);
        if protocol == proto::IPIP {
            self.inside("outer ", show);
            self.ipv4(behind, depth - 1);
            return;
        }
        show(self);
        if !later {
            self.payload(protocol, behind, depth);
        }
    }

    fn ipv6(&mut self, ip: Bytes<'_>, depth: usize) {
        let Some(next) = ip.byte(6).filter(|_| depth > 0) else {
            return;
        };
        let show = |out: &mut Self| {
            out.put("source", ip.v6(8));
            out.put("destination", ip.v6(24));
            out.put("protocol", Some(next));
            out.put("length", ip.word(4));
            out.put("hop limit", ip.byte(7));
        };
        let behind = ip.from(40);
        if next == proto::IPV6 {
            self.inside("outer ", show);
            self.ipv6(behind, depth - 1);
            return;
        }
        show(self);
        self.payload(next, behind, depth);
    }

    fn payload(&mut self, protocol: u8, l4: Bytes<'_>, depth: usize) {
        match protocol {
            proto::TCP => {
                self.put("source port", l4.word(0));
                self.put("destination port", l4.word(2));
                self.put("TCP sequence", l4.long(4));
                self.put("TCP acknowledgement", l4.long(8));
                self.put("TCP flags", l4.byte(13).map(tcp_flags));
                self.hex("TCP checksum", l4.word(16));
            }
            proto::UDP => {
                self.put("source port", l4.word(0));
                self.put("destination port", l4.word(2));
                self.hex("UDP checksum", l4.word(6));
            }
            proto::ICMP | proto::ICMPV6 => {
                self.put("ICMP type", l4.byte(0));
                self.put("ICMP code", l4.byte(1));
                self.hex("ICMP checksum", l4.word(2));
                let kind = l4.byte(0).unwrap_or_default();
                if protocol == proto::ICMP && is_error4(kind) {
                    self.inside("repeated ", |out| out.ipv4(l4.from(8), depth - 1));
                } else if protocol == proto::ICMPV6 && is_error6(kind) {
                    self.inside("repeated ", |out| out.ipv6(l4.from(8), depth - 1));
                } else if protocol == proto::ICMPV6 && matches!(kind, 135 | 136) {
                    self.put("ND target", l4.v6(8));
                    self.put("ND option MAC", l4.at(26).map(words::mac));
                }
            }
            _ => {}
        }
    }
}

/// TCP flags in words.
fn tcp_flags(flags: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = NAMES
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags & 1 << bit != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}
