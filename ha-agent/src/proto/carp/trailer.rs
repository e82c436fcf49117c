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

pub use super::body::{Body, DecodeError, WireRole};

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
            recent: 0b100,
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
    fn a_newer_version_may_say_more() {
        let signer = signer();
        let mut payload = signer.advert(SOURCE, &header(), &body());
        payload[HEADER_LEN + at::FLAGS] |= 0xff;
        assert!(signer.retag_advert(SOURCE, &mut payload));
        payload.extend([0xab; 40]);
        let opened = signer.open_advert(SOURCE, &payload).unwrap();
        let known = Body {
            flags: body().flags,
            ..opened
        };
        assert_eq!(known, body());
        assert_ne!(opened.flags, body().flags);
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
