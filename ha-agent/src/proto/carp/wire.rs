//! The 36-byte CARP version 2 header and its HMAC-SHA1.
//!
//! Layout and digest were checked against captures of ucarp 1.5.2 (`tests/fixtures/carp/`) and read in
//! OpenBSD's and FreeBSD's `sys/netinet/ip_carp.c`. The digest covers version, type, vhid, the shared
//! addresses and the counter only; the election fields are protected by the [trailer](super::trailer).

use std::net::IpAddr;

use aws_lc_rs::{constant_time, hmac};
use ha_common::carp::{self, field};
use ha_common::checksum;

/// Length of an HMAC-SHA1 digest.
pub const DIGEST_LEN: usize = 20;

/// Why bytes are not a CARP version 2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than a header.
    #[error("{0} bytes are too few for a CARP header")]
    Truncated(usize),
    /// Another version; VRRP version 3 has 3 here.
    #[error("version {0} instead of 2")]
    Version(u8),
    /// Not the length of counter and digest; a VRRP version 2 packet counts addresses here.
    #[error("authentication length {0} instead of 7")]
    AuthLength(u8),
    /// The Internet checksum over the 36 bytes is wrong.
    #[error("bad checksum")]
    Checksum,
}

/// A header's fields. The type nibble, which nobody reads, and the demotion count, which only OpenBSD
/// reads, are sent as 1 and 0 and ignored on reception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Virtual host id.
    pub vhid: u8,
    /// Whole seconds of the interval.
    pub advbase: u8,
    /// 1/256 seconds on top.
    pub advskew: u8,
    /// What the digest covers besides the addresses.
    pub counter: u64,
    /// HMAC-SHA1.
    pub digest: [u8; DIGEST_LEN],
}

impl Header {
    /// Reads the first 36 bytes of a CARP payload; what follows them is not looked at.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let header: &[u8; carp::HEADER_LEN] = payload
            .first_chunk()
            .ok_or(DecodeError::Truncated(payload.len()))?;
        let [version_type, vhid, advskew, auth_len, _demote, advbase, ..] = *header;
        if version_type >> 4 != carp::VERSION {
            return Err(DecodeError::Version(version_type >> 4));
        }
        if auth_len != carp::AUTH_LEN {
            return Err(DecodeError::AuthLength(auth_len));
        }
        if checksum::internet(header) != 0 {
            return Err(DecodeError::Checksum);
        }
        let mut counter = [0; 8];
        counter.copy_from_slice(&header[field::COUNTER..field::DIGEST]);
        let mut digest = [0; DIGEST_LEN];
        digest.copy_from_slice(&header[field::DIGEST..]);
        Ok(Self {
            vhid,
            advbase,
            advskew,
            counter: u64::from_be_bytes(counter),
            digest,
        })
    }

    /// The 36 bytes, checksum included.
    pub fn encode(&self) -> [u8; carp::HEADER_LEN] {
        let mut header = [0; carp::HEADER_LEN];
        header[field::VERSION_TYPE] = carp::VERSION_TYPE;
        header[field::VHID] = self.vhid;
        header[field::ADVSKEW] = self.advskew;
        header[field::AUTH_LEN] = carp::AUTH_LEN;
        header[field::ADVBASE] = self.advbase;
        header[field::COUNTER..field::DIGEST].copy_from_slice(&self.counter.to_be_bytes());
        header[field::DIGEST..].copy_from_slice(&self.digest);
        let sum = checksum::internet(&header);
        header[field::CHECKSUM..field::COUNTER].copy_from_slice(&sum.to_be_bytes());
        header
    }
}

/// What the digest of a group covers before the counter.
pub fn digest_prefix(vhid: u8, addresses: &[IpAddr]) -> Vec<u8> {
    let mut addresses = addresses.to_vec();
    addresses.sort_unstable();
    addresses.dedup();
    // Version and type are constants in every implementation, not taken from the packet.
    let mut prefix = vec![2, 1, vhid];
    for address in addresses {
        match address {
            IpAddr::V4(v4) => prefix.extend(v4.octets()),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {}
            IpAddr::V6(v6) => prefix.extend(v6.octets()),
        }
    }
    prefix
}

/// What makes and checks digests of one CARP group: a passphrase, a vhid and the shared addresses.
#[derive(Clone, Debug)]
pub struct Group {
    key: hmac::Key,
    vhid: u8,
    /// Everything the digest covers before the counter.
    prefix: Vec<u8>,
}

impl Default for Group {
    fn default() -> Self {
        Self::new(&[], 0, &[])
    }
}

impl Group {
    /// A group. The order of the addresses does not matter: they are hashed in ascending order, once
    /// each, IPv4 before IPv6, as the BSDs do; link-local ones are left out, as OpenBSD does when it
    /// sends. ucarp hashes exactly one. The digest is the same in the packets of either family.
    pub fn new(passphrase: &[u8], vhid: u8, addresses: &[IpAddr]) -> Self {
        let prefix = digest_prefix(vhid, addresses);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, passphrase),
            vhid,
            prefix,
        }
    }

    /// The digest for a counter.
    pub fn digest(&self, counter: u64) -> [u8; DIGEST_LEN] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&self.prefix);
        context.update(&counter.to_be_bytes());
        let mut digest = [0; DIGEST_LEN];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    /// A signed header.
    pub fn header(&self, advbase: u8, advskew: u8, counter: u64) -> Header {
        Header {
            vhid: self.vhid,
            advbase,
            advskew,
            counter,
            digest: self.digest(counter),
        }
    }

    /// Whether a header belongs to this group and was made with its passphrase.
    pub fn verify(&self, header: &Header) -> bool {
        header.vhid == self.vhid
            && constant_time::verify_slices_are_equal(&self.digest(header.counter), &header.digest)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    /// Captured from Debian's ucarp: passphrase, address, CARP header.
    const CAPTURED: [(&str, &str, &str); 4] = [
        (
            "secret",
            "10.99.0.100",
            "2101000700014d5f2d5a413f3764f3e619d640ab807513b326177f9f6dfab41623551dec",
        ),
        (
            "0123456789abcdefghi",
            "192.168.77.5",
            "212a6407000224eb23df90e739e5dae9c7256757d101a942950ba1ab86088c1786e713cb",
        ),
        (
            "s3",
            "10.99.0.200",
            "21ff00070001d49649bfd2c2d1aee829810ae4697a87261afd76b5790d8a97bd784a5c6e",
        ),
        (
            "two words!",
            "10.99.0.201",
            "2107fe070001ee669053e612117077340127374041203ab5ee783bacb8aa7a33e599fca3",
        ),
    ];

    #[test]
    fn captured_headers_verify_and_encode_to_the_same_bytes() {
        for (passphrase, address, bytes) in CAPTURED {
            let bytes = hex(bytes);
            let header = Header::decode(&bytes).unwrap();
            let address = address.parse().unwrap();
            let group = Group::new(passphrase.as_bytes(), header.vhid, &[address]);
            assert!(group.verify(&header), "{passphrase}");
            let made = group.header(header.advbase, header.advskew, header.counter);
            assert_eq!(made.encode().as_slice(), bytes, "{passphrase}");
        }
    }

    /// Several addresses: computed from the BSDs' rules, in any order, with a duplicate and with a
    /// link-local one.
    #[test]
    fn several_addresses_are_hashed_in_ascending_order_once() {
        for (addresses, bytes) in [
            (
                "192.0.2.9 10.99.0.101 10.99.0.100 10.99.0.101",
                "21010007000177350123456789abcdef3eb4da9b9d671fcd858254f9dd8efb44d8a66720",
            ),
            (
                "2001:db8::100 fe80::1 10.99.0.100",
                "210100070001f6400123456789abcdefa50f9e1c189fce45dbc21f52de7d1986bfd76d8e",
            ),
            (
                "2001:db8::100 2001:db8::2",
                "21010007000146e60123456789abcdefe88b0bf247e3b010a2d163a8228a184d7489579e",
            ),
        ] {
            let addresses: Vec<IpAddr> = addresses
                .split(' ')
                .map(|text| text.parse().unwrap())
                .collect();
            let group = Group::new(b"secret", 1, &addresses);
            let made = group.header(1, 0, 0x0123_4567_89ab_cdef).encode();
            assert_eq!(made.as_slice(), hex(bytes));
        }
    }

    #[test]
    fn every_error_has_its_packet() {
        let good = hex(CAPTURED[0].2);
        let with = |index: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[index] = value;
            Header::decode(&bytes)
        };
        assert_eq!(Header::decode(&good[..35]), Err(DecodeError::Truncated(35)));
        assert_eq!(Header::decode(&[]), Err(DecodeError::Truncated(0)));
        assert_eq!(with(0, 0x31), Err(DecodeError::Version(3)));
        assert_eq!(with(3, 0), Err(DecodeError::AuthLength(0)));
        assert_eq!(with(5, 2), Err(DecodeError::Checksum));
    }

    #[test]
    fn another_group_does_not_verify() {
        let header = Header::decode(&hex(CAPTURED[0].2)).unwrap();
        let address: IpAddr = "10.99.0.100".parse().unwrap();
        assert!(Group::new(b"secret", 1, &[address]).verify(&header));
        assert!(!Group::new(b"Secret", 1, &[address]).verify(&header));
        assert!(!Group::new(b"secret", 2, &[address]).verify(&header));
        assert!(!Group::new(b"secret", 1, &["10.99.0.99".parse().unwrap()]).verify(&header));
    }

    proptest! {
        #[test]
        fn round_trip(vhid: u8, advbase: u8, advskew: u8, counter: u64, digest: [u8; DIGEST_LEN]) {
            let header = Header { vhid, advbase, advskew, counter, digest };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
            }
        }
    }
}
