//! The partner's end of replication, made anew from the layout of packets (`ha-agent/src/proto/sync/wire.rs`) and of
//! their keys (`seal.rs`): so that it can say what no partner says, sealed as only a partner can.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ha_agent::keys::{PairKey, PairKeys};
use ha_agent::proto::sync::Salt;

/// Number of the pair.
pub(super) const CLUSTER: u16 = 110;
const KEY_ID: u8 = 1;
const HEADER: usize = 44;
const TAG: usize = 16;

/// Types of packets.
pub(super) mod kind {
    pub(in crate::fuzz) const DATA: u8 = 1;
    pub(in crate::fuzz) const HELLO: u8 = 2;
    pub(in crate::fuzz) const WELCOME: u8 = 3;
    pub(in crate::fuzz) const HEARTBEAT: u8 = 4;
    pub(in crate::fuzz) const NACK: u8 = 5;
    pub(in crate::fuzz) const ASK: u8 = 6;
}

/// The pair's keys.
pub(super) fn keys() -> PairKeys {
    PairKeys::new(vec![pair_key()])
}

fn pair_key() -> PairKey {
    PairKey::new(KEY_ID, [7; 32])
}

/// A session of a node.
pub(super) struct Session {
    node: u8,
    salt: Salt,
    aead: LessSafeKey,
    /// Last sequence numbers of the stream and of other packets.
    pub(super) stream: u64,
    control: u64,
    pub(super) term: u64,
}

impl Session {
    /// The session of a node that begins with this salt.
    pub(super) fn new(node: u8, salt: Salt) -> Self {
        let purpose = format!("ha-agent replication v1 packets cluster {CLUSTER} node {node}");
        let secret = pair_key().derive::<16>(&salt, &purpose);
        let key = UnboundKey::new(&AES_128_GCM, &secret).expect("sixteen bytes");
        Self {
            node,
            salt,
            aead: LessSafeKey::new(key),
            stream: 0,
            control: 0,
            term: 1,
        }
    }

    /// Its number.
    pub(super) fn id(&self) -> u64 {
        number(&self.salt)
    }

    /// The next packet of the stream.
    pub(super) fn data(&mut self, body: &[u8]) -> Vec<u8> {
        self.stream = self.stream.wrapping_add(1);
        self.seal(kind::DATA, self.stream, body)
    }

    /// The next packet that is not of the stream.
    pub(super) fn control(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        self.control += 1;
        self.seal(kind, self.control, body)
    }

    fn seal(&self, kind: u8, seq: u64, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![b'H', b'S', 1, kind, 0, 0];
        packet.extend(CLUSTER.to_be_bytes());
        packet.extend([self.node, KEY_ID]);
        packet.extend((body.len() as u16).to_be_bytes());
        for word in [self.id(), seq, self.term, 1] {
            packet.extend(word.to_be_bytes());
        }
        if kind != kind::DATA {
            packet.extend(self.salt);
        }
        let clear = packet.len();
        packet.extend(body);
        let (aad, in_out) = packet.split_at_mut(clear);
        let tag = self
            .aead
            .seal_in_place_separate_tag(nonce(kind, seq), Aad::from(&*aad), in_out)
            .expect("a short packet");
        packet.extend(tag.as_ref());
        packet
    }

    /// Type and body of a packet of this session.
    pub(super) fn open(&self, packet: &[u8]) -> Option<(u8, Vec<u8>)> {
        let kind = *packet.get(3)?;
        let salt = if kind == kind::DATA {
            0
        } else {
            self.salt.len()
        };
        let (aad, sealed) = packet.split_at_checked(HEADER + salt)?;
        let seq = number(packet.get(20..)?);
        let mut body = sealed.to_vec();
        let plain = self
            .aead
            .open_in_place(nonce(kind, seq), Aad::from(aad), &mut body)
            .ok()?;
        assert_eq!(plain.len() + TAG, sealed.len());
        Some((kind, plain.to_vec()))
    }
}

fn nonce(kind: u8, seq: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[0] = if kind == kind::DATA { 1 } else { 2 };
    bytes[NONCE_LEN - 8..].copy_from_slice(&seq.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The number that bytes begin with, 0 if they are too few.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |word| u64::from_be_bytes(*word))
}
