//! Reads the packets of capture files: classic pcap (IETF draft-ietf-opsawg-pcap) of either byte order
//! and resolution, and pcapng (draft-ietf-opsawg-pcapng).

use super::model::FRAME_MAX;

/// Microseconds and nanoseconds.
const PCAP: [u32; 2] = [0xa1b2_c3d4, 0xa1b2_3c4d];
/// Begins a section; the same in both byte orders.
const SECTION: u32 = 0x0a0d_0d0a;
/// Tells the byte order of a section.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Blocks with interfaces and packets.
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The frame. What the capture left out of it is zero: the data plane does not look there.
    pub frame: Vec<u8>,
    /// Bytes that the capture has of it.
    pub kept: usize,
}

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PcapError {
    /// Neither format.
    #[error("neither a pcap nor a pcapng file")]
    Unknown,
    /// It ends in the middle, or a length in it is wrong.
    #[error("the file is damaged behind packet {0}")]
    Damaged(usize),
    /// Not Ethernet.
    #[error("link type {0} is not Ethernet (1): capture on an Ethernet interface, not on \"any\"")]
    LinkType(u16),
    /// Longer than is traced.
    #[error("packet {0} has {1} bytes, more than the {FRAME_MAX} that can be traced")]
    TooLong(usize, usize),
}

/// All packets of a file.
pub fn read(bytes: &[u8]) -> Result<Vec<Captured>, PcapError> {
    let first = *bytes.first_chunk::<4>().ok_or(PcapError::Unknown)?;
    let (little, big) = (u32::from_le_bytes(first), u32::from_be_bytes(first));
    if PCAP.contains(&little) {
        classic(Reader::new(bytes, false))
    } else if PCAP.contains(&big) {
        classic(Reader::new(bytes, true))
    } else if little == SECTION {
        next_generation(Reader::new(bytes, false))
    } else {
        Err(PcapError::Unknown)
    }
}

fn classic(mut file: Reader<'_>) -> Result<Vec<Captured>, PcapError> {
    let mut packets = Vec::new();
    file.skip(20).ok_or(PcapError::Unknown)?;
    // The upper half has flags.
    ethernet(file.long().ok_or(PcapError::Unknown)? as u16)?;
    while !file.rest.is_empty() {
        let damaged = || PcapError::Damaged(packets.len());
        file.skip(8).ok_or_else(damaged)?;
        let kept = file.long().ok_or_else(damaged)?;
        let length = file.long().ok_or_else(damaged)?;
        let bytes = file.take(kept as usize).ok_or_else(damaged)?;
        let packet = whole(bytes, length as usize, packets.len() + 1)?;
        packets.push(packet);
    }
    Ok(packets)
}

fn next_generation(mut file: Reader<'_>) -> Result<Vec<Captured>, PcapError> {
    let mut packets = Vec::new();
    let mut interfaces: Vec<u16> = Vec::new();
    while !file.rest.is_empty() {
        let damaged = || PcapError::Damaged(packets.len());
        let kind = file.long().ok_or_else(damaged)?;
        if kind == SECTION {
            let order = file.rest.get(4..).ok_or_else(damaged)?;
            let order = *order.first_chunk::<4>().ok_or_else(damaged)?;
            file.big = u32::from_be_bytes(order) == BYTE_ORDER;
            interfaces.clear();
        }
        let length = file.long().ok_or_else(damaged)? as usize;
        // Kind and length go before, the length again behind.
        let body = length.checked_sub(12).ok_or_else(damaged)?;
        let body = file.take(body).ok_or_else(damaged)?;
        file.skip(4).ok_or_else(damaged)?;
        let mut body = Reader::new(body, file.big);
        match kind {
            INTERFACE => interfaces.push(body.short().ok_or_else(damaged)?),
            PACKET => {
                let interface = body.long().ok_or_else(damaged)?;
                let link = interfaces.get(interface as usize).ok_or_else(damaged)?;
                ethernet(*link)?;
                body.skip(8).ok_or_else(damaged)?;
                let kept = body.long().ok_or_else(damaged)?;
                let length = body.long().ok_or_else(damaged)?;
                let bytes = body.take(kept as usize).ok_or_else(damaged)?;
                let packet = whole(bytes, length as usize, packets.len() + 1)?;
                packets.push(packet);
            }
            SIMPLE_PACKET => {
                ethernet(*interfaces.first().ok_or_else(damaged)?)?;
                let length = body.long().ok_or_else(damaged)? as usize;
                let kept = length.min(body.rest.len());
                let bytes = body.take(kept).ok_or_else(damaged)?;
                let packet = whole(bytes, length, packets.len() + 1)?;
                packets.push(packet);
            }
            _ => {}
        }
    }
    Ok(packets)
}

const fn ethernet(link: u16) -> Result<(), PcapError> {
    match link {
        ETHERNET => Ok(()),
        other => Err(PcapError::LinkType(other)),
    }
}

/// The packet in the length it had on the wire.
fn whole(bytes: &[u8], length: usize, number: usize) -> Result<Captured, PcapError> {
    let length = length.max(bytes.len());
    if length > FRAME_MAX {
        return Err(PcapError::TooLong(number, length));
    }
    let mut frame = bytes.to_vec();
    frame.resize(length, 0);
    Ok(Captured {
        frame,
        kept: bytes.len(),
    })
}

struct Reader<'a> {
    rest: &'a [u8],
    big: bool,
}

impl<'a> Reader<'a> {
    const fn new(rest: &'a [u8], big: bool) -> Self {
        Self { rest, big }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(drop)
    }

    fn short(&mut self) -> Option<u16> {
        let bytes = *self.take(2)?.first_chunk()?;
        Some(if self.big {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    fn long(&mut self) -> Option<u32> {
        let bytes = *self.take(4)?.first_chunk()?;
        Some(if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }
}
