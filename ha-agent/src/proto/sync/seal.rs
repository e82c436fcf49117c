//! Keys of sessions, and packets sealed under them with AES-128-GCM (NIST SP 800-38D).
//!
//! A session's key is HKDF(pair key, salt of the session) with the cluster and the sender's node id in
//! the info string, so no two directions, sessions or pairs share one. The nonce is made of the
//! packet's purpose and its sequence number; a session uses every number once per purpose, and a packet
//! that is repeated is repeated byte for byte.

use std::net::IpAddr;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ha_common::siphash::{self, SipHash128};

use super::Salt;
use super::buckets::Bucket;
use super::record::{Part, Record};
use super::wire::{HEADER_LEN, Header, Kind, SALT_LEN, TAG_LEN, session_of};
use crate::datapath::family::FlowKey;
use crate::keys::{PairKey, PairKeys};

/// Room for records in a packet of `payload` bytes.
pub(super) const fn data_room(payload: usize) -> usize {
    payload.saturating_sub(HEADER_LEN + TAG_LEN)
}

/// The same of a control packet, which says its session's salt.
pub(super) const fn control_room(payload: usize) -> usize {
    data_room(payload).saturating_sub(SALT_LEN)
}

/// The keys of one session of one node.
pub(super) struct SessionKey {
    /// The session's number.
    pub(super) id: u64,
    salt: Salt,
    key_id: u8,
    node: u8,
    aead: LessSafeKey,
    digest: [u8; 16],
}

impl SessionKey {
    fn derive(pair: &PairKey, cluster: u16, node: u8, salt: &Salt) -> Option<Self> {
        let purpose =
            |what| format!("ha-agent replication v1 {what} cluster {cluster} node {node}");
        let secret = pair.derive::<16>(salt, &purpose("packets"));
        Some(Self {
            id: session_of(salt),
            salt: *salt,
            key_id: pair.id,
            node,
            aead: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &secret).ok()?),
            digest: pair.derive(salt, &purpose("digest")),
        })
    }

    /// Whether a packet with this header claims to be of this session.
    pub(super) fn matches(&self, header: &Header) -> bool {
        self.id == header.session
            && self.node == header.node
            && self.key_id == header.key_id
            && header.salt.is_none_or(|salt| salt == self.salt)
    }

    /// A sealed packet; the header's length, key id, session and salt are filled in here.
    pub(super) fn seal(&self, mut header: Header, body: &[u8]) -> Option<Vec<u8>> {
        header.len = u16::try_from(body.len()).ok()?;
        header.key_id = self.key_id;
        header.node = self.node;
        header.session = self.id;
        header.salt = (header.kind != Kind::Data).then_some(self.salt);
        let mut packet = Vec::with_capacity(HEADER_LEN + SALT_LEN + body.len() + TAG_LEN);
        header.encode(&mut packet);
        let clear = packet.len();
        packet.extend_from_slice(body);
        let (aad, in_out) = packet.split_at_mut(clear);
        let tag = self
            .aead
            .seal_in_place_separate_tag(nonce(&header), Aad::from(&*aad), in_out)
            .ok()?;
        packet.extend_from_slice(tag.as_ref());
        Some(packet)
    }

    /// Opens a sealed part; the plain text is in `scratch` on success and nothing of it otherwise.
    pub(super) fn open(&self, packet: &Incoming<'_>, scratch: &mut Vec<u8>) -> bool {
        scratch.clear();
        scratch.extend_from_slice(packet.sealed);
        let opened = self
            .aead
            .open_in_place(nonce(&packet.header), Aad::from(packet.aad), scratch)
            .map(|plain| plain.len());
        scratch.truncate(opened.unwrap_or(0));
        opened.is_ok()
    }

    /// A record's share of the digest: keyed, so that clients who choose their ports cannot aim at
    /// collisions.
    pub(super) fn sum(&self, record: &Record) -> u64 {
        let Record {
            key,
            real_addr,
            from_addr,
            real_port,
            from_port,
            state,
            flags,
            version,
        } = *record;
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let two = |high: u16, low: u16| u32::from(high.to_be()) << 16 | u32::from(low.to_be());
        let ports = pair(
            two(key.sport, key.dport),
            u32::from(real_port.to_be()) << 16 | u32::from(version),
        );
        let mut hash = SipHash128::new(&self.digest);
        let addresses = (key.src, key.dst, real_addr);
        if let (Part::Basic, (IpAddr::V4(src), IpAddr::V4(dst), IpAddr::V4(real))) =
            (record.part(), addresses)
        {
            hash.word(pair(src.to_bits(), dst.to_bits()));
            hash.word(ports);
            hash.word(pair(real.to_bits(), key.proto << 16));
        } else {
            for address in [key.src, key.dst, real_addr, from_addr] {
                let bits = match address {
                    IpAddr::V4(v4) => u128::from(v4.to_bits()),
                    IpAddr::V6(v6) => v6.to_bits(),
                };
                hash.word((bits >> 64) as u64);
                hash.word(bits as u64);
            }
            hash.word(ports);
            hash.word(pair(u32::from(from_port.to_be()), key.proto));
        }
        first_half(hash.finish(&[state, flags]))
    }

    /// The bucket of a connection: keyed for the same reason.
    pub(super) fn bucket(&self, key: &FlowKey) -> Bucket {
        let mut hash = SipHash128::new(&self.digest);
        for address in [key.src, key.dst] {
            match address {
                IpAddr::V4(v4) => hash.word(u64::from(v4.to_bits())),
                IpAddr::V6(v6) => {
                    hash.word((v6.to_bits() >> 64) as u64);
                    hash.word(v6.to_bits() as u64);
                }
            }
        }
        let ports = u64::from(key.sport.to_be()) << 16 | u64::from(key.dport.to_be());
        hash.word(ports << 32 | u64::from(key.proto));
        Bucket::of_hash(first_half(hash.finish(&[])))
    }

    /// The share of bytes in a digest of records that are no connections.
    pub(super) fn sum_bytes(&self, bytes: &[u8]) -> u64 {
        first_half(siphash::tag(&self.digest, bytes))
    }
}

/// A keyed number for `word`, which nobody without the key can predict.
pub(super) fn proof(secret: &[u8; 16], word: u64) -> u64 {
    let mut hash = SipHash128::new(secret);
    hash.word(word);
    first_half(hash.finish(&[]))
}

fn first_half(tag: [u8; 16]) -> u64 {
    (u128::from_be_bytes(tag) >> 64) as u64
}

fn nonce(header: &Header) -> Nonce {
    let purpose = if header.kind == Kind::Data { 1 } else { 2 };
    let mut bytes = [0; NONCE_LEN];
    let (head, tail) = bytes.split_at_mut(NONCE_LEN - 8);
    if let Some(first) = head.first_mut() {
        *first = purpose;
    }
    tail.copy_from_slice(&header.seq.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// A packet whose clear header makes sense. Nothing in it is to be believed yet.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) header: Header,
    pub(super) aad: &'a [u8],
    pub(super) sealed: &'a [u8],
}

/// Makes session keys from the pair's keys.
pub(super) struct Keyring {
    keys: PairKeys,
    cluster: u16,
}

impl Keyring {
    pub(super) const fn new(keys: PairKeys, cluster: u16) -> Self {
        Self { keys, cluster }
    }

    /// The key that own sessions use.
    pub(super) fn signing(&self) -> Option<&PairKey> {
        self.keys.signing()
    }

    /// The key of an own session; `None` if the pair has no key.
    pub(super) fn own(&self, node: u8, salt: &Salt) -> Option<SessionKey> {
        SessionKey::derive(self.keys.signing()?, self.cluster, node, salt)
    }

    /// The key of the partner's session a control packet names; `None` if it names a pair key we lack.
    pub(super) fn partner(&self, header: &Header) -> Option<SessionKey> {
        let pair = self.keys.by_id(header.key_id)?;
        SessionKey::derive(pair, self.cluster, header.node, &header.salt?)
    }
}
