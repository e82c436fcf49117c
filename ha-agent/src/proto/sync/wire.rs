//! Packets: a clear header, authenticated with the sealed part behind it.
//!
//! ```text
//! offset  size  clear header, big-endian
//!      0     2  magic "HS"
//!      2     1  version, 1
//!      3     1  type: 1 data, 2 hello, 3 welcome, 4 heartbeat, 5 nack, 6 ask
//!      4     1  flags, 0
//!      5     1  shard, 0
//!      6     2  cluster
//!      8     1  sender's node id
//!      9     1  id of the pair key
//!     10     2  length of the sealed part without its tag
//!     12     8  session: first 8 bytes of its salt
//!     20     8  sequence number: of the stream for data, of the session's control packets otherwise
//!     28     8  term
//!     36     8  configuration generation
//!     44        data: the sealed part; other types: the session's salt (16), the sealed part
//! ```
//!
//! The tag of 16 bytes ends the packet. Bodies of control packets may grow at their end in later
//! versions; what is not known there is ignored.

use super::record::Said;

/// First two bytes of every packet.
const MAGIC: [u8; 2] = *b"HS";
/// Version this code speaks.
const VERSION: u8 = 1;
/// Length of the clear header of a data packet.
pub(super) const HEADER_LEN: usize = 44;
/// Length of the salt behind the header of other packets.
pub(super) const SALT_LEN: usize = 16;
/// Length of the AEAD tag (AES-GCM, NIST SP 800-38D).
pub(super) const TAG_LEN: usize = 16;
/// Longest packet looked at: a jumbo frame.
pub(super) const MAX_PACKET: usize = 9216;
/// Longest name of a node: that of a host (RFC 1035, section 2.3.4, a label).
const NAME_MAX: usize = 63;
/// Most ranges in one request for repetition.
pub(super) const MAX_RANGES: usize = 64;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records of the stream.
    Data,
    /// Receiver to sender: challenge, acknowledgement, wish for a full transfer.
    Hello,
    /// Sender to receiver: answer to a challenge, where the stream stands.
    Welcome,
    /// Sender to receiver: where the stream stands.
    Heartbeat,
    /// Receiver to sender: packets to repeat.
    Nack,
    /// Receiver to sender: the tables differ, so compare or repair them.
    Ask,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Hello => 2,
            Self::Welcome => 3,
            Self::Heartbeat => 4,
            Self::Nack => 5,
            Self::Ask => 6,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Hello),
            3 => Some(Self::Welcome),
            4 => Some(Self::Heartbeat),
            5 => Some(Self::Nack),
            6 => Some(Self::Ask),
            _ => None,
        }
    }
}

/// The last sequence number that a session may use: a thousand packets each millisecond lead there in nine years. So
/// whatever a partner claims, numbers can be counted on from and their distances added up.
const SEQ_MAX: u64 = 1 << 48;

/// The clear header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) cluster: u16,
    pub(super) node: u8,
    pub(super) key_id: u8,
    pub(super) len: u16,
    pub(super) session: u64,
    pub(super) seq: u64,
    pub(super) term: u64,
    pub(super) generation: u64,
    /// The session's salt, in every packet but data.
    pub(super) salt: Option<[u8; SALT_LEN]>,
}

/// Why a packet is dropped on its clear header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Not a packet of this protocol, or its lengths do not agree.
    Malformed,
    /// Of another version.
    Version,
}

/// A session's number: the first half of its salt.
pub(super) fn session_of(salt: &[u8; SALT_LEN]) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(salt.split_at(8).0);
    u64::from_be_bytes(half)
}

impl Header {
    /// Appends the header and the salt, if any.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, self.kind.code(), 0, 0]);
        out.extend_from_slice(&self.cluster.to_be_bytes());
        out.extend_from_slice(&[self.node, self.key_id]);
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&self.session.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.term.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        if let Some(salt) = &self.salt {
            out.extend_from_slice(salt);
        }
    }

    /// Splits a packet into its header, the bytes to authenticate and the sealed part with its tag.
    pub(super) fn split(packet: &[u8]) -> Result<(Self, &[u8], &[u8]), HeaderError> {
        if packet.len() > MAX_PACKET || !packet.starts_with(&MAGIC) {
            return Err(HeaderError::Malformed);
        }
        match packet.get(2) {
            None => return Err(HeaderError::Malformed),
            Some(&VERSION) => {}
            Some(_) => return Err(HeaderError::Version),
        }
        let header = Self::decode(packet).ok_or(HeaderError::Malformed)?;
        let clear = HEADER_LEN + header.salt.map_or(0, |_| SALT_LEN);
        let (aad, sealed) = packet
            .split_at_checked(clear)
            .ok_or(HeaderError::Malformed)?;
        if sealed.len() != usize::from(header.len) + TAG_LEN {
            return Err(HeaderError::Malformed);
        }
        Ok((header, aad, sealed))
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(packet);
        reader.bytes(3)?;
        let kind = Kind::from_code(reader.u8()?)?;
        let ([_flags, 0], cluster) = (reader.take()?, reader.take()?) else {
            return None;
        };
        let mut header = Self {
            kind,
            cluster: u16::from_be_bytes(cluster),
            node: reader.u8()?,
            key_id: reader.u8()?,
            len: u16::from_be_bytes(reader.take()?),
            session: reader.u64()?,
            seq: reader.u64()?,
            term: reader.u64()?,
            generation: reader.u64()?,
            salt: None,
        };
        if header.seq > SEQ_MAX {
            return None;
        }
        if kind != Kind::Data {
            let salt = reader.take()?;
            if session_of(&salt) != header.session {
                return None;
            }
            header.salt = Some(salt);
        }
        Some(header)
    }
}

/// Receiver to sender, about once per hundred milliseconds and after traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    /// To be echoed by the sender's current session.
    pub(super) challenge: u64,
    /// The sender's session this receiver follows, 0 for none.
    pub(super) stream: u64,
    /// The proof, from the welcome, that this receiver is no recording.
    pub(super) token: u64,
    /// Everything before this sequence number is applied.
    pub(super) next: u64,
    /// A full transfer is needed.
    pub(super) wants_transfer: bool,
    /// The receiver holds the whole table.
    pub(super) ready: bool,
    /// What the receiver knows.
    pub(super) knows: Knows,
    /// A packet applied since the last hello, 0 for none ...
    pub(super) sample: u64,
    /// ... and how long ago, in nanoseconds.
    pub(super) sample_age: u64,
}

const HELLO_WANTS: u8 = 1;
const HELLO_READY: u8 = 2;

impl Hello {
    /// Length of what [`Self::encode`] appends.
    pub(super) const LEN: usize = 49;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let wants = if self.wants_transfer { HELLO_WANTS } else { 0 };
        let ready = if self.ready { HELLO_READY } else { 0 };
        for word in [self.challenge, self.stream, self.token, self.next] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.push(wants | ready | self.knows.flags());
        out.extend_from_slice(&self.sample.to_be_bytes());
        out.extend_from_slice(&self.sample_age.to_be_bytes());
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let [challenge, stream, token, next] = reader.words()?;
        let flags = reader.u8()?;
        let [sample, sample_age] = reader.words()?;
        Some(Self {
            challenge,
            stream,
            token,
            next,
            wants_transfer: flags & HELLO_WANTS != 0,
            ready: flags & HELLO_READY != 0,
            knows: Knows::from_flags(flags),
            sample,
            sample_age,
        })
    }
}

/// Appends the sender's name to a hello or welcome: its length in one byte, then UTF-8.
pub(super) fn append_name(out: &mut Vec<u8>, name: &str) {
    if !name.is_empty() && name.len() <= NAME_MAX {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
    }
}

/// Appends to a hello, behind the name, how long the longest packet of the session was.
pub(super) fn append_longest(out: &mut Vec<u8>, longest: u16) {
    if out.len() == Hello::LEN {
        // No name.
        out.push(0);
    }
    out.extend_from_slice(&longest.to_be_bytes());
}

/// The same, read: 0 if an older version did not say.
pub(super) fn longest(body: &[u8]) -> u16 {
    let longest = || {
        let (length, rest) = body.get(Hello::LEN..)?.split_first()?;
        rest.get(usize::from(*length)..)?.first_chunk().copied()
    };
    longest().map_or(0, u16::from_be_bytes)
}

/// The name behind the first `at` bytes of a body. Older versions send none.
pub(super) fn name(body: &[u8], at: usize) -> Option<String> {
    let (length, rest) = body.get(at..)?.split_first()?;
    let name = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
    let plain = !name.is_empty() && name.len() <= NAME_MAX && !name.contains(char::is_control);
    plain.then(|| name.to_owned())
}

/// Where the sender's stream stands: the body of a heartbeat and the end of a welcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The stream says everything the sender knows, or is about to.
    pub(super) current: bool,
    /// Last sequence number used.
    pub(super) head: u64,
    /// First sequence number that can still be repeated.
    pub(super) tail: u64,
    /// Sequence number at which the last full transfer began, 0 for none.
    pub(super) begin: u64,
    /// What was said of the basic part since then, right after `head`.
    pub(super) basic: Said,
    /// The same of the extended part: at the end of a heartbeat, unless an older version sent it.
    pub(super) extended: Option<Said>,
    /// The same of records that are no connections, behind that.
    pub(super) records: Option<Said>,
    /// The full transfer is not complete.
    pub(super) transferring: bool,
    /// What the sender knows.
    pub(super) knows: Knows,
    /// Connections the sender holds.
    pub(super) total: u64,
    /// Sequence number of the last hello heard, 0 for none ...
    pub(super) hello: u64,
    /// ... and how long ago, in nanoseconds: the receiver learns the round-trip time.
    pub(super) hello_age: u64,
}

const POSITION_CURRENT: u8 = 1;
const POSITION_TRANSFERRING: u8 = 2;
const KNOWS_BUCKETS: u8 = 4;
const KNOWS_ALL: u8 = 8;

/// What the version of a node knows, besides what all versions before it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Knows {
    /// Full transfers are the only repair.
    #[default]
    Transfers,
    /// The repair of single buckets.
    Buckets,
    /// Short records, and the repair of the records that are no connections.
    All,
}

impl Knows {
    const fn flags(self) -> u8 {
        match self {
            Self::Transfers => 0,
            Self::Buckets => KNOWS_BUCKETS,
            Self::All => KNOWS_BUCKETS | KNOWS_ALL,
        }
    }

    const fn from_flags(flags: u8) -> Self {
        if flags & KNOWS_BUCKETS == 0 {
            Self::Transfers
        } else if flags & KNOWS_ALL == 0 {
            Self::Buckets
        } else {
            Self::All
        }
    }
}

impl Position {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let current = if self.current { POSITION_CURRENT } else { 0 };
        let transferring = if self.transferring {
            POSITION_TRANSFERRING
        } else {
            0
        };
        out.push(current | transferring | self.knows.flags());
        for word in [
            self.head,
            self.tail,
            self.begin,
            self.basic.count,
            self.basic.digest,
            self.total,
            self.hello,
            self.hello_age,
        ] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let records = self.extended.and(self.records);
        for Said { count, digest } in self.extended.into_iter().chain(records) {
            out.extend_from_slice(&count.to_be_bytes());
            out.extend_from_slice(&digest.to_be_bytes());
        }
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        let [head, tail, begin, count, digest, total, hello, hello_age] = reader.words()?;
        let mut said = || reader.words().map(|[count, digest]| Said { count, digest });
        let (extended, records) = (said(), said());
        if [head, tail, begin].iter().any(|seq| *seq > SEQ_MAX) {
            return None;
        }
        Some(Self {
            current: flags & POSITION_CURRENT != 0,
            transferring: flags & POSITION_TRANSFERRING != 0,
            knows: Knows::from_flags(flags),
            head,
            tail,
            begin,
            basic: Said { count, digest },
            extended,
            records,
            total,
            hello,
            hello_age,
        })
    }
}

/// Sender to receiver, the answer to a hello that did not prove itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    /// The hello's challenge.
    pub(super) challenge: u64,
    /// The session of the hello.
    pub(super) listener: u64,
    /// To be shown in hellos from now on.
    pub(super) token: u64,
    /// Where the stream stands. The basic part only: the name follows.
    pub(super) position: Position,
}

impl Welcome {
    /// Length of what [`Self::encode`] appends.
    pub(super) const LEN: usize = 89;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for word in [self.challenge, self.listener, self.token] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let position = Position {
            extended: None,
            records: None,
            ..self.position
        };
        position.encode(out);
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (words, position) = body.get(..Self::LEN)?.split_at_checked(24)?;
        let [challenge, listener, token] = Reader::new(words).words()?;
        Some(Self {
            challenge,
            listener,
            token,
            position: Position::decode(position)?,
        })
    }
}

/// A run of sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) len: u16,
}

/// Appends a request for repetition of the packets of `stream`.
pub(super) fn encode_nack(stream: u64, ranges: &[Range], out: &mut Vec<u8>) {
    let ranges = ranges.get(..MAX_RANGES).unwrap_or(ranges);
    out.extend_from_slice(&stream.to_be_bytes());
    out.push(ranges.len() as u8);
    for range in ranges {
        out.extend_from_slice(&range.first.to_be_bytes());
        out.extend_from_slice(&range.len.to_be_bytes());
    }
}

/// Reads a request for repetition: the stream, and its ranges one by one, at most [`MAX_RANGES`].
pub(super) fn decode_nack(body: &[u8]) -> Option<(u64, impl Iterator<Item = Range>)> {
    let mut reader = Reader::new(body);
    let stream = reader.u64()?;
    let count = usize::from(reader.u8()?).min(MAX_RANGES);
    let ranges = (0..count).map_while(move |_| {
        Some(Range {
            first: reader.u64()?,
            len: u16::from_be_bytes(reader.take()?),
        })
    });
    Some((stream, ranges))
}

/// Reads forward through bytes of unknown length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return None;
        };
        self.0 = rest;
        Some(taken)
    }

    pub(super) const fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let Some((taken, rest)) = self.0.split_first_chunk() else {
            return None;
        };
        self.0 = rest;
        Some(*taken)
    }

    pub(super) const fn u8(&mut self) -> Option<u8> {
        match self.take() {
            Some([byte]) => Some(byte),
            None => None,
        }
    }

    pub(super) const fn u64(&mut self) -> Option<u64> {
        match self.take() {
            Some(bytes) => Some(u64::from_be_bytes(bytes)),
            None => None,
        }
    }

    pub(super) fn words<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut words = [0; N];
        for word in &mut words {
            *word = self.u64()?;
        }
        Some(words)
    }
}
