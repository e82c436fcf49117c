//! What both roles of the machine share: the table, the own session, the books.

use std::time::Duration;

use super::buckets::Bucket;
use super::counters::{Counters, Lag};
use super::length::Length;
use super::limits::TokenBucket;
use super::outbox::{Batch, LANE};
use super::record::Item;
use super::seal::{Incoming, Keyring, SessionKey, data_room};
use super::shadow::{Entry, Shadow};
use super::wire::{Header, Kind, Knows};
use super::{Action, Destination, Salt, SyncConfig};
use crate::keys::PairKeys;
use crate::proto::records::{self, Table, Told, Walk};
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

/// Keys of unknown sessions derived a second at most: each costs about two microseconds, and anyone
/// can ask for it.
const STRANGERS_PER_SECOND: u32 = 5000;
const STRANGERS_BURST: u64 = 100;

/// What is repeated, kept and counted across roles.
pub(super) struct Context {
    pub(super) config: SyncConfig,
    pub(super) shadow: Shadow,
    /// What is replicated besides connections.
    pub(super) records: Table,
    pub(super) rng: Rng,
    pub(super) counters: Counters,
    pub(super) lag: Lag,
    /// Time of the last input: what a snapshot is of.
    pub(super) now: Instant,
    /// Highest term known.
    pub(super) term: u64,
    /// Configuration generation of this node.
    pub(super) generation: u64,
    /// Configuration generation of the partner.
    pub(super) partner_generation: Option<u64>,
    /// Name of the partner.
    pub(super) partner_name: Option<String>,
    /// How long packets may be.
    pub(super) length: Length,
    /// The listener knows short records.
    pub(super) shortens: bool,
    /// Parts switched off, to prove that the tests notice.
    #[cfg(test)]
    pub(super) sabotage: super::tests::Sabotage,
    keyring: Keyring,
    session: Option<Session>,
    strangers: TokenBucket,
}

/// The own session. Its counters never go back, even if a salt should come twice.
struct Session {
    salt: Salt,
    key: SessionKey,
    control_seq: u64,
    stream_seq: u64,
}

impl Context {
    pub(super) fn new(config: SyncConfig, keys: PairKeys, mut rng: Rng, now: Instant) -> Self {
        Self {
            length: Length::new(config.lengths, now),
            shadow: Shadow::new(config.max_entries, 2 * LANE, &mut rng),
            records: Table::new(now),
            keyring: Keyring::new(keys, config.cluster),
            config,
            rng,
            counters: Counters::default(),
            lag: Lag::new(now),
            now,
            term: 0,
            generation: 0,
            partner_generation: None,
            partner_name: None,
            shortens: false,
            #[cfg(test)]
            sabotage: super::tests::Sabotage::default(),
            session: None,
            strangers: TokenBucket::new(STRANGERS_PER_SECOND, STRANGERS_BURST, now),
        }
    }

    /// Bytes of records that fit into a packet.
    pub(super) const fn room(&self) -> usize {
        data_room(self.length.payload())
    }

    /// Takes other pair keys; whether this node signs with another one from now on. Sessions under way
    /// go on with the keys they have.
    pub(super) fn set_keys(&mut self, keys: PairKeys) -> bool {
        let news = self.keyring.signing() != keys.signing();
        self.keyring = Keyring::new(keys, self.config.cluster);
        news
    }

    /// Starts a session of this node.
    pub(super) fn start_session(&mut self, salt: Salt) {
        self.records.begin_hearing();
        if self.session.as_ref().is_some_and(|own| own.salt == salt) {
            return;
        }
        self.session = self
            .keyring
            .own(self.config.node_id, &salt)
            .map(|key| Session {
                salt,
                key,
                control_seq: 0,
                stream_seq: 0,
            });
    }

    /// Number of the own session, 0 without a pair key.
    pub(super) fn session_id(&self) -> u64 {
        self.session.as_ref().map_or(0, |own| own.key.id)
    }

    /// Last sequence number of the own stream.
    pub(super) fn head(&self) -> u64 {
        self.session.as_ref().map_or(0, |own| own.stream_seq)
    }

    /// The own stream says an entry of the table.
    pub(super) fn say(&mut self, slot: u32) {
        if let Some(own) = &self.session {
            self.shadow.say(slot, &own.key);
        }
    }

    /// What this node knows how to repair: versions before it knew less.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests switch it off"))]
    pub(super) const fn knows(&self) -> Knows {
        #[cfg(test)]
        return self.sabotage.knows();
        #[cfg(not(test))]
        Knows::All
    }

    /// Whether this node audits its own table.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests switch it off"))]
    pub(super) const fn audits(&self) -> bool {
        #[cfg(test)]
        if self.sabotage.no_audit {
            return false;
        }
        true
    }

    /// Makes the digests of the own stream those of what a bucket holds; whether they were not.
    pub(super) fn audit(&mut self, bucket: Bucket) -> bool {
        let own = self.session.as_ref();
        own.is_some_and(|own| self.shadow.audit(bucket, &own.key))
    }

    /// Whether an entry is not what the own stream said.
    pub(super) fn is_unsaid(&self, entry: &Entry) -> bool {
        let own = self.session.as_ref();
        own.is_some_and(|own| !self.shadow.is_true(entry, &own.key))
    }

    /// Fills a packet with records that are due.
    pub(super) fn tell_records(&mut self, now: Instant) -> Option<Batch> {
        self.fill(|records, sum, push| records.tell(now, sum, push))
    }

    /// Fills a packet with records that a full transfer has still to say.
    pub(super) fn tell_all_records(&mut self, now: Instant, walk: &mut Walk) -> Option<Batch> {
        self.fill(|records, sum, push| records.tell_all(now, walk, sum, push))
    }

    /// Lets records go whose time is over.
    pub(super) fn expire_records(&mut self, now: Instant, out: &mut Vec<Action>) {
        let mut events = Vec::new();
        self.records.expire(now, self.term, &mut events);
        out.extend(events.into_iter().map(Action::Record));
    }

    /// Removes records that a full transfer, or a repair of them, did not confirm.
    pub(super) fn sweep_records(&mut self, out: &mut Vec<Action>) {
        let mut events = Vec::new();
        self.records.sweep(&mut events);
        out.extend(events.into_iter().map(Action::Record));
    }

    /// Lets `say` fill a packet; `None` if it said nothing.
    fn fill(
        &mut self,
        say: impl FnOnce(&mut Table, &dyn Fn(&[u8]) -> u64, &mut dyn FnMut(&Told<'_>) -> bool),
    ) -> Option<Batch> {
        let key = &self.session.as_ref()?.key;
        let room = self.room();
        let mut batch = Batch::new(self.shortens);
        say(
            &mut self.records,
            &|bytes| key.sum_bytes(bytes),
            &mut |told| {
                batch.push(&Item::Told(*told));
                batch.body.len() + records::LONGEST <= room
            },
        );
        (batch.records > 0).then_some(batch)
    }

    /// Seals the next packet of the stream.
    pub(super) fn seal_data(&mut self, body: &[u8]) -> Option<(u64, Vec<u8>)> {
        let mut header = self.header(Kind::Data);
        let own = self.session.as_mut()?;
        own.stream_seq += 1;
        header.seq = own.stream_seq;
        Some((header.seq, own.key.seal(header, body)?))
    }

    /// Seals and sends a control packet; its sequence number is returned.
    pub(super) fn send_control(
        &mut self,
        kind: Kind,
        body: &[u8],
        to: Destination,
        out: &mut Vec<Action>,
    ) -> u64 {
        let mut header = self.header(kind);
        let Some(own) = self.session.as_mut() else {
            return 0;
        };
        own.control_seq += 1;
        header.seq = own.control_seq;
        if let Some(bytes) = own.key.seal(header, body) {
            out.push(Action::Send { to, bytes });
        }
        header.seq
    }

    const fn header(&self, kind: Kind) -> Header {
        Header {
            kind,
            cluster: self.config.cluster,
            node: self.config.node_id,
            key_id: 0,
            len: 0,
            session: 0,
            seq: 0,
            term: self.term,
            generation: self.generation,
            salt: None,
        }
    }

    /// Opens a control packet of a session that is not followed; its key on success.
    pub(super) fn open_stranger(
        &mut self,
        now: Instant,
        packet: &Incoming<'_>,
        scratch: &mut Vec<u8>,
    ) -> Option<SessionKey> {
        if !self.strangers.take(now) {
            self.counters.rate_limited += 1;
            return None;
        }
        let Some(key) = self.keyring.partner(&packet.header) else {
            self.counters.unknown_key += 1;
            return None;
        };
        if !key.open(packet, scratch) {
            self.counters.auth_failed += 1;
            return None;
        }
        Some(key)
    }

    /// Age of a point in time as it stands in packets.
    pub(super) fn age(now: Instant, then: Instant) -> u64 {
        u64::try_from(now.since(then).as_nanos()).unwrap_or(u64::MAX)
    }

    /// How often the standby says hello when nothing happens.
    pub(super) fn hello_period(&self) -> Duration {
        self.config.peer_timeout / 10
    }
}
