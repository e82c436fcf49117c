//! What the generator and the sink of the link benchmark share with their programs. Not part of the product.

/// Name of the program that, run with live frames, sends them out of the interface of its context.
pub const SEND: &str = "ha_send";
/// Name of the program at the interface where they end.
pub const RECEIVE: &str = "ha_receive";
/// Name of the `Array<Line>` of one element that says what [`SEND`] sends.
pub const LINE_CTL: &str = "ha_line_ctl";
/// Name of the `PerCpuArray<u64>` of [`BUCKETS`] elements in which [`RECEIVE`] counts by age.
pub const AGES: &str = "ha_line_ages";

/// Frames after which lengths repeat: seven small ones, four middling ones and a large one make the usual
/// mix of the Internet.
pub const MIX: usize = 12;
/// Words of a frame that are restored: Ethernet, IPv4, UDP, the beginning of the payload.
pub const HEAD: usize = 7;
/// First bytes of the payload, by which a frame is known where it ends.
pub const MAGIC: u16 = 0x6c62;
/// Bytes of [`MAGIC`], the time at which the frame was sent, and its number.
pub const MARK: usize = 2 + 8 + 8;

/// What is sent, and how fast.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Time between two frames, in 1/1024 of a nanosecond.
    pub step: u64,
    /// When the next one is due, by `bpf_ktime_get_ns`, in nanoseconds, and the part below one.
    pub next_ns: u64,
    /// In 1/1024.
    pub next_part: u64,
    /// Frames sent.
    pub sent: u64,
    /// Number of flows, at least one: clients of [`super::rig::FLOODERS`], then their ports.
    pub flows: u32,
    /// First flow.
    pub first: u32,
    /// Length of each frame in turn, without the check sequence; the frame that is run has the largest.
    pub lens: [u16; MIX],
    /// The beginning of the frame.
    pub head: [u64; HEAD],
}

/// Number of classes of age.
pub const BUCKETS: usize = 40 * FINE;
/// Classes in a power of two.
const FINE: usize = 16;

/// Class of an age in nanoseconds: exact below 16, then sixteen to a power of two.
#[inline(always)]
pub const fn bucket(ns: u64) -> usize {
    let ns = if ns < 1 << 40 { ns } else { (1 << 40) - 1 };
    if ns < FINE as u64 {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros() as usize;
    (power - 3) * FINE + ((ns >> (power - 4)) as usize & (FINE - 1))
}

/// The largest age of a class, in nanoseconds.
pub const fn bucket_end(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64;
    }
    let power = bucket / FINE + 3;
    let unit = 1 << (power - 4);
    (FINE as u64 + (bucket % FINE) as u64 + 1) * unit - 1
}

const _: () = assert!(size_of::<Line>() == 40 + 2 * MIX + 8 * HEAD);
const _: () = assert!(14 + 20 + 8 + 2 <= 8 * HEAD);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_each_other_without_gaps() {
        for ages in [
            0..5000u64,
            (1 << 20) - 50..(1 << 20) + 50,
            (1 << 39)..(1 << 39) + 9,
        ] {
            for ns in ages {
                let class = bucket(ns);
                assert!(class < BUCKETS, "{ns}");
                assert!(ns <= bucket_end(class), "{ns} in {class}");
                assert!(class == 0 || bucket_end(class - 1) < ns, "{ns} in {class}");
            }
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }
}
