//! The authenticated trailer behind an advertisement, and the HELLO, which carries the same body.
//!
//! The tag is SipHash-2-4-128 over eight bytes of context (what kind of packet, vhid, address family),
//! the source address, then the 36 bytes of the advertisement with the checksum zeroed or the hash of
//! the link's logical name, then the body. So a body cannot be moved to another group, sender, kind of
//! packet or link.

use std::net::IpAddr;

use ha_common::carp::{
    HEADER_LEN, HELLO_MAGIC, TRAILER_LEN, TRAILER_MAGIC, TRAILER_TAGGED_LEN, TRAILER_VERSION,
    field, trailer as at,
};
use ha_common::siphash::{self, TAG_LEN};

/// Why bytes are not a trailer or a HELLO of the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No trailer at all: an implementation that knows none.
    #[error("no trailer")]
    Missing,
    /// Fewer bytes than a body.
    #[error("{0} bytes are too few")]
    Truncated(usize),
    /// A HELLO does not begin with its magic.
    #[error("not a HELLO")]
    Magic,
    /// A layout this version does not know.
    #[error("layout version {0} instead of 1")]
    Version(u8),
    /// No key with this id.
    #[error("unknown key {0}")]
    UnknownKey(u8),
    /// The tag does not match.
    #[error("bad tag")]
    BadTag,
    /// A field holds a value that has no meaning.
    #[error("meaningless field")]
    Field,
}

/// Role on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum WireRole {
    /// Starting.
    Init = 0,
    /// Watching.
    Standby = 1,
    /// Forwarding, or claiming to.
    Active = 2,
    /// Takes no part until a person resumes it.
    Pacified = 3,
    /// Takes no part by request, or is leaving.
    Maintenance = 4,
}

impl WireRole {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Init,
            1 => Self::Standby,
            2 => Self::Active,
            3 => Self::Pacified,
            4 => Self::Maintenance,
            _ => return None,
        })
    }

    /// Whether a node in this role never becomes active by itself.
    pub const fn is_passive(self) -> bool {
        matches!(self, Self::Pacified | Self::Maintenance)
    }
}

/// What both kinds of packet say. Field by field [`ha_common::carp::trailer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Body {
    /// Bits of [`ha_common::carp::trailer_flags`].
    pub flags: u16,
    /// Sender's epoch, never 0.
    pub epoch: u64,
    /// Sequence within it.
    pub sequence: u64,
    /// Highest term the sender knows; its own if it is active.
    pub term: u64,
    /// Interval in microseconds.
    pub interval_us: u32,
    /// Timeout in microseconds.
    pub timeout_us: u32,
    /// 1 first, 2 second.
    pub mode: u8,
    /// Role.
    pub role: WireRole,
    /// Whether the sender can take over without losing connections.
    pub ready: bool,
    /// 0 none, 1 first, 2 second.
    pub preferred: u8,
    /// Two bits a link, from bit 0, in the order of logical names: carrier, gateway.
    pub health: u32,
    /// One bit a link in the same order: the partner is heard there.
    pub heard: u32,
    /// Configuration generation.
    pub generation: u64,
    /// Epoch of the newest packet from the partner, 0 if none.
    pub echo_epoch: u64,
    /// Its sequence.
    pub echo_sequence: u64,
}

impl Body {
    fn encode(&self, magic: [u8; 4], key_id: u8) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[at::MAGIC..at::VERSION].copy_from_slice(&magic);
        bytes[at::VERSION] = TRAILER_VERSION;
        bytes[at::KEY_ID] = key_id;
        bytes[at::FLAGS..at::EPOCH].copy_from_slice(&self.flags.to_be_bytes());
        bytes[at::EPOCH..at::SEQUENCE].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[at::SEQUENCE..at::TERM].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[at::TERM..at::INTERVAL_US].copy_from_slice(&self.term.to_be_bytes());
        bytes[at::INTERVAL_US..at::TIMEOUT_US].copy_from_slice(&self.interval_us.to_be_bytes());
        bytes[at::TIMEOUT_US..at::MODE].copy_from_slice(&self.timeout_us.to_be_bytes());
        bytes[at::MODE] = self.mode;
        bytes[at::ROLE] = self.role as u8;
        bytes[at::READY] = u8::from(self.ready);
        bytes[at::PREFERRED] = self.preferred;
        bytes[at::HEALTH..at::HEARD].copy_from_slice(&self.health.to_be_bytes());
        bytes[at::HEARD..at::GENERATION].copy_from_slice(&self.heard.to_be_bytes());
        bytes[at::GENERATION..at::ECHO_EPOCH].copy_from_slice(&self.generation.to_be_bytes());
        bytes[at::ECHO_EPOCH..at::ECHO_SEQUENCE].copy_from_slice(&self.echo_epoch.to_be_bytes());
        bytes[at::ECHO_SEQUENCE..at::TAG].copy_from_slice(&self.echo_sequence.to_be_bytes());
        bytes
    }

    /// What a trailer or HELLO says, whoever may have made it: for people only.
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = bytes
            .first_chunk()
            .ok_or(DecodeError::Truncated(bytes.len()))?;
        Self::decode(bytes)
    }

    fn decode(bytes: &[u8; TRAILER_LEN]) -> Result<Self, DecodeError> {
        let u32_at = |from: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(bytes.get(from..from + 4).unwrap_or(&[0; 4]));
            u32::from_be_bytes(field)
        };
        let u64_at = |from: usize| u64::from(u32_at(from)) << 32 | u64::from(u32_at(from + 4));
        let body = Self {
            flags: u16::from_be_bytes([bytes[at::FLAGS], bytes[at::FLAGS + 1]]),
            epoch: u64_at(at::EPOCH),
            sequence: u64_at(at::SEQUENCE),
            term: u64_at(at::TERM),
            interval_us: u32_at(at::INTERVAL_US),
            timeout_us: u32_at(at::TIMEOUT_US),
            mode: bytes[at::MODE],
            role: WireRole::from_u8(bytes[at::ROLE]).ok_or(DecodeError::Field)?,
            ready: bytes[at::READY] == 1,
            preferred: bytes[at::PREFERRED],
            health: u32_at(at::HEALTH),
            heard: u32_at(at::HEARD),
            generation: u64_at(at::GENERATION),
            echo_epoch: u64_at(at::ECHO_EPOCH),
            echo_sequence: u64_at(at::ECHO_SEQUENCE),
        };
        let meaningful = body.epoch != 0
            && body.sequence != 0
            && matches!(body.mode, 1 | 2)
            && body.preferred <= 2
            && bytes[at::READY] <= 1
            && body.timeout_us != 0;
        if meaningful {
            Ok(body)
        } else {
            Err(DecodeError::Field)
        }
    }
}

/// Name of a link as the tag of a HELLO covers it: equal on both nodes, whatever the kernel calls it.
pub fn name_hash(logical_name: &str) -> [u8; TAG_LEN] {
    siphash::tag(&[0; 16], logical_name.as_bytes())
}

/// Makes and checks tags: the pair's keys by id, the signing one first.
#[derive(Clone, Default)]
pub struct Signer {
    vhid: u8,
    keys: Vec<(u8, [u8; 16])>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("vhid", &self.vhid).finish()
    }
}

/// What the tag covers besides the body.
#[derive(Clone, Copy)]
enum Context<'a> {
    Advert(&'a [u8; HEADER_LEN]),
    Hello(&'a [u8; TAG_LEN]),
}

impl Signer {
    /// For a vhid and keys, the signing one first.
    pub fn new(vhid: u8, keys: Vec<(u8, [u8; 16])>) -> Self {
        Self { vhid, keys }
    }

    /// The payload of an advertisement: the header and its trailer.
    pub fn advert(&self, source: IpAddr, header: &[u8; HEADER_LEN], body: &Body) -> Vec<u8> {
        let trailer = self.sign(source, Context::Advert(header), TRAILER_MAGIC, body);
        let mut payload = Vec::with_capacity(HEADER_LEN + TRAILER_LEN);
        payload.extend_from_slice(header);
        payload.extend_from_slice(&trailer);
        payload
    }

    /// The payload of a HELLO. On an unnumbered link the source is 0.0.0.0.
    pub fn hello(&self, source: IpAddr, link: &[u8; TAG_LEN], body: &Body) -> Vec<u8> {
        self.sign(source, Context::Hello(link), HELLO_MAGIC, body)
            .to_vec()
    }

    /// Reads the trailer behind an advertisement's header. Bytes behind the trailer are ignored, as
    /// other implementations ignore the trailer.
    pub fn open_advert(&self, source: IpAddr, payload: &[u8]) -> Result<Body, DecodeError> {
        let (header, rest) = payload
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(DecodeError::Truncated(payload.len()))?;
        if rest.first_chunk() != Some(&TRAILER_MAGIC) {
            return Err(DecodeError::Missing);
        }
        self.open(source, Context::Advert(header), rest)
    }

    /// Reads a HELLO.
    pub fn open_hello(
        &self,
        source: IpAddr,
        link: &[u8; TAG_LEN],
        payload: &[u8],
    ) -> Result<Body, DecodeError> {
        if payload.first_chunk() != Some(&HELLO_MAGIC) {
            return Err(DecodeError::Magic);
        }
        self.open(source, Context::Hello(link), payload)
    }

    /// Puts this signer's tag in place of an advertisement's, by the key that the trailer names; `false`
    /// if there is no such trailer or key.
    pub fn retag_advert(&self, source: IpAddr, payload: &mut [u8]) -> bool {
        let Some((header, rest)) = payload.split_first_chunk_mut::<HEADER_LEN>() else {
            return false;
        };
        self.retag(source, Context::Advert(header), rest)
    }

    /// The same for a HELLO.
    pub fn retag_hello(&self, source: IpAddr, link: &[u8; TAG_LEN], payload: &mut [u8]) -> bool {
        self.retag(source, Context::Hello(link), payload)
    }

    fn retag(&self, source: IpAddr, context: Context<'_>, bytes: &mut [u8]) -> bool {
        let Some(bytes) = bytes.first_chunk_mut::<TRAILER_LEN>() else {
            return false;
        };
        let id = bytes[at::KEY_ID];
        let Some((_, key)) = self.keys.iter().find(|(known, _)| *known == id) else {
            return false;
        };
        let tag = self.tag(key, source, context, bytes);
        bytes[at::TAG..].copy_from_slice(&tag);
        true
    }

    fn sign(
        &self,
        source: IpAddr,
        context: Context<'_>,
        magic: [u8; 4],
        body: &Body,
    ) -> [u8; TRAILER_LEN] {
        let (id, key) = self.keys.first().copied().unwrap_or_default();
        let mut bytes = body.encode(magic, id);
        let tag = self.tag(&key, source, context, &bytes);
        bytes[at::TAG..].copy_from_slice(&tag);
        bytes
    }

    fn open(
        &self,
        source: IpAddr,
        context: Context<'_>,
        bytes: &[u8],
    ) -> Result<Body, DecodeError> {
        let bytes: &[u8; TRAILER_LEN] = bytes
            .first_chunk()
            .ok_or(DecodeError::Truncated(bytes.len()))?;
        if bytes[at::VERSION] != TRAILER_VERSION {
            return Err(DecodeError::Version(bytes[at::VERSION]));
        }
        let id = bytes[at::KEY_ID];
        let (_, key) = self
            .keys
            .iter()
            .find(|(known, _)| *known == id)
            .ok_or(DecodeError::UnknownKey(id))?;
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&bytes[at::TAG..]);
        if !siphash::equal(&tag, &self.tag(key, source, context, bytes)) {
            return Err(DecodeError::BadTag);
        }
        Body::decode(bytes)
    }

    fn tag(
        &self,
        key: &[u8; 16],
        source: IpAddr,
        context: Context<'_>,
        body: &[u8; TRAILER_LEN],
    ) -> [u8; TAG_LEN] {
        let family = match source {
            _ if source.is_unspecified() => 0,
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 6,
        };
        let kind = match context {
            Context::Advert(_) => 1,
            Context::Hello(_) => 2,
        };
        let mut message = Vec::with_capacity(8 + 16 + HEADER_LEN + TRAILER_TAGGED_LEN);
        message.extend_from_slice(&[kind, self.vhid, family, 0, 0, 0, 0, 0]);
        message.extend_from_slice(&source_bytes(source));
        match context {
            Context::Advert(header) => {
                let mut zeroed = *header;
                zeroed[field::CHECKSUM..field::COUNTER].fill(0);
                message.extend_from_slice(&zeroed);
            }
            Context::Hello(link) => message.extend_from_slice(link),
        }
        message.extend_from_slice(&body[..TRAILER_TAGGED_LEN]);
        siphash::tag(key, &message)
    }
}

/// A source address as the tag covers it: IPv4 in the first four of sixteen bytes.
fn source_bytes(source: IpAddr) -> [u8; 16] {
    match source {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ha_common::carp;
    use proptest::prelude::*;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11));
    const KEY: [u8; 16] = [7; 16];

    fn signer() -> Signer {
        Signer::new(110, vec![(1, KEY), (2, [8; 16])])
    }

    fn body() -> Body {
        Body {
            flags: carp::trailer_flags::ASK,
            epoch: 0x0102_0304_0506_0708,
            sequence: 9,
            term: 10,
            interval_us: 4_000,
            timeout_us: 12_000,
            mode: 1,
            role: WireRole::Active,
            ready: true,
            preferred: 2,
            health: 0b1101,
            heard: 0b10,
            generation: 11,
            echo_epoch: 12,
            echo_sequence: 13,
        }
    }

    fn header() -> [u8; HEADER_LEN] {
        super::super::wire::Group::new(b"secret", 110, &[IpAddr::from([10, 0, 0, 100])])
            .header(0, 25, 42)
            .encode()
    }

    #[test]
    fn advert_opens_and_is_laid_out_as_documented() {
        let payload = signer().advert(SOURCE, &header(), &body());
        assert_eq!(payload.len(), HEADER_LEN + TRAILER_LEN);
        assert_eq!(signer().open_advert(SOURCE, &payload), Ok(body()));
        let trailer = &payload[HEADER_LEN..];
        assert_eq!(&trailer[..8], b"HAtr\x01\x01\x00\x02");
        assert_eq!(
            trailer[at::EPOCH..at::SEQUENCE],
            0x0102_0304_0506_0708u64.to_be_bytes()
        );
        assert_eq!(trailer[at::ROLE], 2);
        // Independent statement of what the tag covers.
        let mut message = vec![1, 110, 4, 0, 0, 0, 0, 0, 10, 0, 0, 11];
        message.extend([0; 12]);
        let mut zeroed = header();
        zeroed[6] = 0;
        zeroed[7] = 0;
        message.extend(zeroed);
        message.extend(&trailer[..TRAILER_TAGGED_LEN]);
        assert_eq!(trailer[at::TAG..], siphash::tag(&KEY, &message));
    }

    #[test]
    fn hello_opens_and_its_tag_covers_the_link() {
        let front = name_hash("front");
        let payload = signer().hello(SOURCE, &front, &body());
        assert_eq!(payload.len(), TRAILER_LEN);
        assert_eq!(signer().open_hello(SOURCE, &front, &payload), Ok(body()));
        assert_eq!(
            signer().open_hello(SOURCE, &name_hash("back"), &payload),
            Err(DecodeError::BadTag)
        );
        let mut message = vec![2, 110, 4, 0, 0, 0, 0, 0, 10, 0, 0, 11];
        message.extend([0; 12]);
        message.extend(front);
        message.extend(&payload[..TRAILER_TAGGED_LEN]);
        assert_eq!(payload[at::TAG..], siphash::tag(&KEY, &message));
    }

    #[test]
    fn unnumbered_links_have_no_family() {
        let cable = name_hash("cable");
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let payload = signer().hello(nobody, &cable, &body());
        assert_eq!(signer().open_hello(nobody, &cable, &payload), Ok(body()));
        let mut message = vec![2, 110, 0, 0];
        message.extend([0; 20]);
        message.extend(cable);
        message.extend(&payload[..TRAILER_TAGGED_LEN]);
        assert_eq!(payload[at::TAG..], siphash::tag(&KEY, &message));
    }

    #[test]
    fn ipv6_sources_are_covered_whole() {
        let source: Ipv6Addr = "2001:db8::11".parse().unwrap();
        let payload = signer().advert(source.into(), &header(), &body());
        assert_eq!(signer().open_advert(source.into(), &payload), Ok(body()));
        let mut message = vec![1, 110, 6, 0, 0, 0, 0, 0];
        message.extend(source.octets());
        let mut zeroed = header();
        zeroed[6] = 0;
        zeroed[7] = 0;
        message.extend(zeroed);
        let trailer = &payload[HEADER_LEN..];
        message.extend(&trailer[..TRAILER_TAGGED_LEN]);
        assert_eq!(trailer[at::TAG..], siphash::tag(&KEY, &message));
        // The same sixteen bytes in the other family are another source.
        let v4 = Ipv4Addr::new(10, 0, 0, 11);
        let mut padded = [0; 16];
        padded[..4].copy_from_slice(&v4.octets());
        let payload = signer().advert(v4.into(), &header(), &body());
        assert_eq!(
            signer().open_advert(Ipv6Addr::from(padded).into(), &payload),
            Err(DecodeError::BadTag)
        );
    }

    #[test]
    fn every_error_has_its_packet() {
        let signer = signer();
        let good = signer.advert(SOURCE, &header(), &body());
        let with = |index: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[HEADER_LEN + index] = value;
            signer.open_advert(SOURCE, &bytes)
        };
        assert_eq!(
            signer.open_advert(SOURCE, &good[..HEADER_LEN]),
            Err(DecodeError::Missing)
        );
        assert_eq!(
            signer.open_advert(SOURCE, &good[..10]),
            Err(DecodeError::Truncated(10))
        );
        assert_eq!(
            signer.open_advert(SOURCE, &good[..HEADER_LEN + 91]),
            Err(DecodeError::Truncated(91))
        );
        assert_eq!(with(at::MAGIC, b'h'), Err(DecodeError::Missing));
        assert_eq!(with(at::VERSION, 2), Err(DecodeError::Version(2)));
        assert_eq!(with(at::KEY_ID, 3), Err(DecodeError::UnknownKey(3)));
        assert_eq!(with(at::KEY_ID, 2), Err(DecodeError::BadTag));
        assert_eq!(
            signer.open_hello(SOURCE, &name_hash("front"), &good[HEADER_LEN..]),
            Err(DecodeError::Magic)
        );
        let meaningless = Body { mode: 3, ..body() };
        let payload = signer.advert(SOURCE, &header(), &meaningless);
        assert_eq!(
            signer.open_advert(SOURCE, &payload),
            Err(DecodeError::Field)
        );
    }

    #[test]
    fn second_key_is_accepted_and_another_vhid_is_not() {
        let old = Signer::new(110, vec![(2, [8; 16])]);
        let payload = old.advert(SOURCE, &header(), &body());
        assert_eq!(signer().open_advert(SOURCE, &payload), Ok(body()));
        let other = Signer::new(111, vec![(2, [8; 16])]);
        assert_eq!(
            other.open_advert(SOURCE, &payload),
            Err(DecodeError::BadTag)
        );
    }

    #[test]
    fn every_bit_is_protected_except_the_header_checksum() {
        let signer = signer();
        let good = signer.advert(SOURCE, &header(), &body());
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let checksum = (field::CHECKSUM..field::COUNTER).contains(&(bit / 8));
            assert_eq!(
                signer.open_advert(SOURCE, &bytes).is_ok(),
                checksum,
                "bit {bit}"
            );
        }
        let elsewhere = IpAddr::from([10, 0, 0, 12]);
        assert_eq!(
            signer.open_advert(elsewhere, &good),
            Err(DecodeError::BadTag)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, source: IpAddr) {
            prop_assert!(signer().open_advert(source, &bytes).is_err());
            prop_assert!(signer().open_hello(source, &name_hash("front"), &bytes).is_err());
        }
    }
}
