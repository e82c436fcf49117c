//! CARP version 2 and its trailer on the wire: offsets and constants only.
//!
//! Sources: ucarp 1.5.2 (`carp.c`), OpenBSD and FreeBSD `sys/netinet/ip_carp.c`; byte offsets checked
//! against the captures in `tests/fixtures/carp/`. All integers are big-endian.

/// Length of the CARP header, which is all that older implementations read.
pub const HEADER_LEN: usize = 36;
/// First byte: version 2 in the high nibble, type 1 (advertisement) in the low one.
pub const VERSION_TYPE: u8 = 0x21;
/// The version nibble.
pub const VERSION: u8 = 2;
/// Value of the auth-length byte: counter and digest are seven 32-bit words. It tells CARP from a
/// `VRRPv2` packet, where the byte counts addresses.
pub const AUTH_LEN: u8 = 7;
/// TTL, or IPv6 hop limit, every implementation sends and requires.
pub const TTL: u8 = 255;
/// The multicast group shared with VRRP, 224.0.0.18.
pub const GROUP: [u8; 4] = [224, 0, 0, 18];
/// Ethernet address of [`GROUP`].
pub const GROUP_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x00, 0x12];
/// The same group in IPv6, `ff02::12`.
pub const GROUP6: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];
/// Ethernet address of [`GROUP6`] (RFC 2464 section 7).
pub const GROUP6_MAC: [u8; 6] = [0x33, 0x33, 0x00, 0x00, 0x00, 0x12];
/// `advbase` and `advskew` of a bow-out: any backup takes over at once.
pub const BOW_OUT: (u8, u8) = (255, 255);

/// Offsets within the 36-byte header.
pub mod field {
    /// Version and type.
    pub const VERSION_TYPE: usize = 0;
    /// Virtual host id.
    pub const VHID: usize = 1;
    /// `advskew`, in 1/256 s.
    pub const ADVSKEW: usize = 2;
    /// Auth length, [`super::AUTH_LEN`].
    pub const AUTH_LEN: usize = 3;
    /// Demotion count; compared by OpenBSD only, so it is sent as 0.
    pub const DEMOTE: usize = 4;
    /// `advbase`, in seconds.
    pub const ADVBASE: usize = 5;
    /// Internet checksum over the 36 bytes alone.
    pub const CHECKSUM: usize = 6;
    /// 8-byte counter.
    pub const COUNTER: usize = 8;
    /// 20-byte HMAC-SHA1.
    pub const DIGEST: usize = 16;
}

/// Length of the trailer (and of a HELLO's payload).
pub const TRAILER_LEN: usize = 92;
/// Trailer bytes that the tag covers.
pub const TRAILER_TAGGED_LEN: usize = TRAILER_LEN - crate::siphash::TAG_LEN;
/// Magic of the trailer behind an advertisement.
pub const TRAILER_MAGIC: [u8; 4] = *b"HAtr";
/// Magic of a HELLO, which carries the same body.
pub const HELLO_MAGIC: [u8; 4] = *b"HAhi";
/// Version of the trailer's layout.
pub const TRAILER_VERSION: u8 = 1;
/// UDP port of a HELLO, source and destination.
pub const HELLO_PORT: u16 = 6975;

/// Offsets within the trailer.
pub mod trailer {
    /// [`super::TRAILER_MAGIC`] or [`super::HELLO_MAGIC`], 4 bytes.
    pub const MAGIC: usize = 0;
    /// [`super::TRAILER_VERSION`], 1 byte.
    pub const VERSION: usize = 4;
    /// Which of at most two keys made the tag, 1 byte.
    pub const KEY_ID: usize = 5;
    /// Bits of [`super::trailer_flags`], 2 bytes.
    pub const FLAGS: usize = 6;
    /// Sender's epoch: 64 random bits of this start, 8 bytes.
    pub const EPOCH: usize = 8;
    /// Sequence within the epoch, over all packets of the sender, 8 bytes.
    pub const SEQUENCE: usize = 16;
    /// Term: grows with every promotion, 8 bytes.
    pub const TERM: usize = 24;
    /// Advertisement interval in microseconds, 4 bytes.
    pub const INTERVAL_US: usize = 32;
    /// Timeout in microseconds, 4 bytes.
    pub const TIMEOUT_US: usize = 36;
    /// Mode, 1 byte: 0 off, 1 first, 2 second.
    pub const MODE: usize = 40;
    /// Role, 1 byte: 0 init, 1 standby, 2 active, 3 pacified, 4 maintenance.
    pub const ROLE: usize = 41;
    /// Readiness to take over without loss, 1 byte: 0 or 1.
    pub const READY: usize = 42;
    /// Preference, 1 byte: 0 none, 1 first, 2 second.
    pub const PREFERRED: usize = 43;
    /// Health of up to 16 links, two bits each from bit 0: carrier, gateway; 4 bytes.
    pub const HEALTH: usize = 44;
    /// Links that work, but failed not long ago, one bit each, 2 bytes.
    pub const RECENT: usize = 48;
    /// Links on which the partner is heard, one bit each, 2 bytes.
    pub const HEARD: usize = 50;
    /// Configuration generation, 8 bytes.
    pub const GENERATION: usize = 52;
    /// Epoch of the newest packet accepted from the partner, 8 bytes; 0 = none.
    pub const ECHO_EPOCH: usize = 60;
    /// Its sequence, 8 bytes.
    pub const ECHO_SEQUENCE: usize = 68;
    /// SipHash-2-4-128, 16 bytes.
    pub const TAG: usize = 76;
}

/// Bits of the trailer's flags.
pub mod trailer_flags {
    /// The sender gives the active role up; the receiver may take it at once.
    pub const RELEASE: u16 = 1 << 0;
    /// The sender asks for an immediate echo (it was frozen, or does not know our epoch).
    pub const ASK: u16 = 1 << 1;
    /// The sender's planned hand-over: it goes on with established connections for at most 50 ms.
    pub const HAND_OVER: u16 = 1 << 2;
    /// The active sender asks for (or still uses) a long lease, under which its agent is replaced.
    pub const REEXEC_ASK: u16 = 1 << 3;
    /// The sender waits that long before silence counts: granted to the packet it echoes.
    pub const REEXEC_GRANT: u16 = 1 << 4;
    /// The sender hears no multicast of the receiver's on this link, and should be sent unicast.
    pub const NO_MULTICAST: u16 = 1 << 5;
}

const _: () = assert!(trailer::TAG + crate::siphash::TAG_LEN == TRAILER_LEN);
