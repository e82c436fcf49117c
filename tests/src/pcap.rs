//! Reads classic pcap files, enough for the captures in `fixtures/carp/`.
//!
//! Format: "PCAP Capture File Format", IETF draft-ietf-opsawg-pcap. Only little-endian files with
//! microsecond timestamps and Ethernet frames are understood; anything else is an error.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Time since the Unix epoch.
    pub at: Duration,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// All frames of a file.
pub fn read(path: &Path) -> Result<Vec<Frame>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    parse(&bytes).with_context(|| path.display().to_string())
}

/// Writes frames, each with its time since whatever is the same for all.
pub fn write<'a, I>(path: &Path, frames: I) -> Result<()>
where
    I: Iterator<Item = (Duration, &'a [u8])>,
{
    let mut bytes = Vec::new();
    // Version 2.4, no time zone, no accuracy.
    for word in [MAGIC, 4 << 16 | 2, 0, 0, u32::from(u16::MAX), ETHERNET] {
        bytes.extend(word.to_le_bytes());
    }
    for (at, frame) in frames {
        let length = u32::try_from(frame.len())?;
        for word in [
            u32::try_from(at.as_secs())?,
            at.subsec_micros(),
            length,
            length,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn parse(mut rest: &[u8]) -> Result<Vec<Frame>> {
    let magic = word(&mut rest)?;
    ensure!(
        magic == MAGIC,
        "not a little-endian pcap file with microseconds"
    );
    let header: [u32; 5] = words(&mut rest)?;
    ensure!(header.last() == Some(&ETHERNET), "not Ethernet");
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let [seconds, micros, captured, _on_wire] = words(&mut rest)?;
        let (bytes, after) = rest
            .split_at_checked(captured as usize)
            .context("truncated frame")?;
        rest = after;
        frames.push(Frame {
            at: Duration::from_secs(seconds.into()) + Duration::from_micros(micros.into()),
            bytes: bytes.to_vec(),
        });
    }
    Ok(frames)
}

fn words<const N: usize>(rest: &mut &[u8]) -> Result<[u32; N]> {
    let mut all = [0; N];
    for each in &mut all {
        *each = word(rest)?;
    }
    Ok(all)
}

fn word(rest: &mut &[u8]) -> Result<u32> {
    let (word, after) = rest.split_first_chunk().context("truncated")?;
    *rest = after;
    Ok(u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("frames.pcap");
        let frames = [
            (Duration::from_millis(1500), vec![1; 60]),
            (Duration::from_micros(1_500_007), vec![2; 1514]),
        ];
        write(&path, frames.iter().map(|(at, bytes)| (*at, &**bytes)))?;
        let read = read(&path)?.into_iter();
        assert!(read.map(|frame| (frame.at, frame.bytes)).eq(frames));
        Ok(())
    }
}
