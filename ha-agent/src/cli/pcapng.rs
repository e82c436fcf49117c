//! Writes captures in the format of Wireshark and tcpdump: "PCAP Now Generic (pcapng) Capture File Format",
//! IETF draft-ietf-opsawg-pcapng.

use std::io::{self, Write};

use ha_common::event::SAMPLE_BYTES;

use crate::status::capture::Packet;

/// Section header block.
const SECTION: u32 = 0x0a0d_0d0a;
/// Tells the byte order, which is little-endian here.
const MAGIC: u32 = 0x1a2b_3c4d;
/// Interface description block.
const INTERFACE: u32 = 1;
/// Enhanced packet block.
const PACKET: u32 = 6;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

/// `opt_comment`, of packets.
const COMMENT: u16 = 1;
/// `shb_userappl`.
const APPLICATION: u16 = 4;
/// `if_name`.
const NAME: u16 = 2;
/// `if_tsresol`: the negative power of ten of the unit of time stamps.
const RESOLUTION: u16 = 9;
const NANOSECONDS: u8 = 9;

/// A capture file.
pub(super) struct Writer<W> {
    out: W,
    /// Devices described so far, in the order of their numbers.
    devices: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(MAGIC.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        // The section's length is not known.
        body.extend(u64::MAX.to_le_bytes());
        let application = concat!("ha-agent ", env!("CARGO_PKG_VERSION"));
        options(&mut body, &[(APPLICATION, application.as_bytes())]);
        block(&mut out, SECTION, &body)?;
        Ok(Self {
            out,
            devices: Vec::new(),
        })
    }

    /// Adds a packet; the counter that counts it becomes its comment.
    pub(super) fn packet(&mut self, packet: &Packet) -> io::Result<()> {
        let device = self.device(&packet.device)?;
        let mut body = Vec::new();
        body.extend(device.to_le_bytes());
        body.extend(((packet.unix_ns >> 32) as u32).to_le_bytes());
        body.extend((packet.unix_ns as u32).to_le_bytes());
        body.extend((packet.bytes.len() as u32).to_le_bytes());
        body.extend(packet.length.to_le_bytes());
        padded(&mut body, &packet.bytes);
        options(&mut body, &[(COMMENT, packet.reason.as_bytes())]);
        block(&mut self.out, PACKET, &body)
    }

    /// Makes sure that the file is whole up to here.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The number of a device, which is described before its first packet.
    fn device(&mut self, name: &str) -> io::Result<u32> {
        let known = self.devices.iter().position(|known| known == name);
        let number = known.unwrap_or(self.devices.len());
        if known.is_none() {
            let mut body = Vec::new();
            body.extend(ETHERNET.to_le_bytes());
            body.extend(0u16.to_le_bytes());
            body.extend((SAMPLE_BYTES as u32).to_le_bytes());
            let told = [(NAME, name.as_bytes()), (RESOLUTION, &[NANOSECONDS][..])];
            options(&mut body, &told);
            block(&mut self.out, INTERFACE, &body)?;
            self.devices.push(name.to_owned());
        }
        Ok(number as u32)
    }
}

/// A block: type, length, body, and the length again for those who read backwards.
fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

/// Options, and their end.
fn options(body: &mut Vec<u8>, options: &[(u16, &[u8])]) {
    for (code, value) in options {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        body.extend(code.to_le_bytes());
        body.extend((value.len() as u16).to_le_bytes());
        padded(body, value);
    }
    body.extend([0; 4]);
}

/// Bytes, filled up to a multiple of four.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(device: &str, bytes: &[u8]) -> Packet {
        Packet {
            unix_ns: 0x0102_0304_0506_0708,
            device: device.to_owned(),
            reason: "forward_transmit".to_owned(),
            length: 1514,
            bytes: bytes.to_vec(),
        }
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn blocks_follow_each_other_and_each_device_is_described_once() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        for (device, length) in [("eth0", 60), ("eth1", 61), ("eth0", 0), ("eth1", 160)] {
            writer.packet(&packet(device, &vec![9; length])).unwrap();
        }
        writer.flush().unwrap();
        let mut kinds = Vec::new();
        let mut at = 0;
        while at < file.len() {
            let length = word(&file, at + 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(&file, at + length - 4) as usize, length);
            kinds.push(word(&file, at));
            at += length;
        }
        assert_eq!(at, file.len());
        assert_eq!(
            kinds,
            [
                SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET, PACKET
            ]
        );
    }

    #[test]
    fn what_is_written_can_be_traced() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        for (device, length) in [("eth0", 61), ("eth1", 160)] {
            writer.packet(&packet(device, &vec![9; length])).unwrap();
        }
        let read = crate::trace::pcap::read(&file).unwrap();
        let lengths: Vec<_> = read.iter().map(|p| (p.kept, p.frame.len())).collect();
        assert_eq!(lengths, [(61, 1514), (160, 1514)]);
        assert_eq!(read[1].frame[159..161], [9, 0]);
    }

    #[test]
    fn a_packet_byte_by_byte() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.device("eth0").unwrap();
        let before = writer.out.len();
        writer.packet(&packet("eth0", &[1, 2, 3, 4, 5])).unwrap();
        let found = &writer.out[before..];
        let expected = [
            &[6, 0, 0, 0, 64, 0, 0, 0][..],
            &[0, 0, 0, 0],
            &[4, 3, 2, 1, 8, 7, 6, 5],
            &[5, 0, 0, 0, 0xea, 5, 0, 0],
            &[1, 2, 3, 4, 5, 0, 0, 0],
            &[1, 0, 16, 0],
            b"forward_transmit",
            &[0; 4],
            &[64, 0, 0, 0],
        ];
        assert_eq!(found, expected.concat());
    }
}
