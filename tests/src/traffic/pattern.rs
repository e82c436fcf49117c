//! The bytes of a connection, a function of its number, the direction, the server and the position.

/// Client's first bytes: this and its connection number.
pub const HELLO_LEN: usize = 16;
/// Server's first bytes: magic and its number.
pub const WELCOME_LEN: usize = 8;
/// Bytes of a UDP probe and of its answer.
pub const PROBE_LEN: usize = 32;

const HELLO_MAGIC: u64 = 0x6f6c_6c65_682d_6168;
const LISTEN_MAGIC: u64 = 0x6e65_7473_696c_6168;
const WELCOME_MAGIC: u32 = 0x6d65_7773;

/// The stream from the client of this connection.
pub fn to_server(connection: u64) -> Stream {
    Stream(mix(mix(connection) ^ 1))
}

/// The stream from this server to the client of this connection.
pub fn to_client(connection: u64, server: u32) -> Stream {
    Stream(mix(mix(connection) ^ 2 ^ (u64::from(server) << 8)))
}

/// An endless stream of known bytes.
#[derive(Clone, Copy, Debug)]
pub struct Stream(u64);

impl Stream {
    /// Writes the bytes at `offset` and behind it.
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        for (byte, position) in out.iter_mut().zip(offset..) {
            *byte = self.at(position);
        }
    }

    /// Whether these are the bytes at `offset` and behind it.
    pub fn matches(self, offset: u64, bytes: &[u8]) -> bool {
        bytes
            .iter()
            .zip(offset..)
            .all(|(byte, position)| *byte == self.at(position))
    }

    fn at(self, position: u64) -> u8 {
        (mix(self.0 ^ (position >> 3)) >> (8 * (position & 7))) as u8
    }
}

/// What a client has heard of its server: the welcome, then the bytes that go with connection and server.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    connection: u64,
    welcome: [u8; WELCOME_LEN],
    greeted: usize,
    server: Option<u32>,
    received: u64,
}

impl Answers {
    /// Nothing yet.
    pub const fn of(connection: u64) -> Self {
        Self {
            connection,
            welcome: [0; WELCOME_LEN],
            greeted: 0,
            server: None,
            received: 0,
        }
    }

    /// Takes in what came next; `false` if it is not what the server sent.
    pub fn hear(&mut self, bytes: &[u8]) -> bool {
        let room = self.welcome.get_mut(self.greeted..).unwrap_or_default();
        let (head, rest) = bytes.split_at(room.len().min(bytes.len()));
        room.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        self.greeted += head.len();
        if self.greeted < WELCOME_LEN {
            return true;
        }
        self.server = parse_welcome(self.welcome);
        let right = self
            .server
            .is_some_and(|server| to_client(self.connection, server).matches(self.received, rest));
        if right {
            self.received += rest.len() as u64;
        }
        right
    }

    /// The server, once it has said who it is.
    pub const fn server(&self) -> Option<u32> {
        self.server
    }

    /// Right bytes behind the welcome.
    pub const fn received(&self) -> u64 {
        self.received
    }
}

/// When the server of a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// A byte for each of the client's.
    WhenAsked,
    /// By itself, now and then, also once the client has said its last word.
    Unasked,
}

/// The client's first bytes, if the server is to speak when it is asked.
pub fn hello(connection: u64) -> [u8; HELLO_LEN] {
    hello_to(Speaks::WhenAsked, connection)
}

/// The client's first bytes.
pub fn hello_to(server: Speaks, connection: u64) -> [u8; HELLO_LEN] {
    let magic = match server {
        Speaks::WhenAsked => HELLO_MAGIC,
        Speaks::Unasked => LISTEN_MAGIC,
    };
    let mut out = [0; HELLO_LEN];
    put(&mut out, 0, &magic.to_le_bytes());
    put(&mut out, 8, &connection.to_le_bytes());
    out
}

/// What a client's first bytes say: when the server is to speak, and the connection number.
pub fn parse_hello(bytes: &[u8; HELLO_LEN]) -> Option<(Speaks, u64)> {
    let speaks = match word(bytes, 0)? {
        HELLO_MAGIC => Speaks::WhenAsked,
        LISTEN_MAGIC => Speaks::Unasked,
        _ => return None,
    };
    Some((speaks, word(bytes, 8)?))
}

/// The server's first bytes.
pub fn welcome(server: u32) -> [u8; WELCOME_LEN] {
    (u64::from(WELCOME_MAGIC) | (u64::from(server) << 32)).to_le_bytes()
}

/// The server's number in its first bytes.
pub fn parse_welcome(bytes: [u8; WELCOME_LEN]) -> Option<u32> {
    let word = u64::from_le_bytes(bytes);
    (word as u32 == WELCOME_MAGIC).then_some((word >> 32) as u32)
}

/// A UDP datagram: whose, which, and a check that covers both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Flow.
    pub flow: u64,
    /// Number within the flow.
    pub sequence: u64,
    /// 0 in a probe, the server's number in an answer.
    pub server: u64,
}

impl Probe {
    /// The datagram.
    pub fn encode(self) -> [u8; PROBE_LEN] {
        let mut out = [0; PROBE_LEN];
        put(&mut out, 0, &self.flow.to_le_bytes());
        put(&mut out, 8, &self.sequence.to_le_bytes());
        put(&mut out, 16, &self.server.to_le_bytes());
        put(&mut out, 24, &self.check().to_le_bytes());
        out
    }

    /// The probe in a datagram, if the check is right.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != PROBE_LEN {
            return None;
        }
        let probe = Self {
            flow: word(bytes, 0)?,
            sequence: word(bytes, 8)?,
            server: word(bytes, 16)?,
        };
        (word(bytes, 24)? == probe.check()).then_some(probe)
    }

    fn check(self) -> u64 {
        mix(self.flow ^ mix(self.sequence ^ mix(self.server)))
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The finalizer of `SplitMix64`: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_tell_connection_direction_server_and_position_apart() {
        let mut bytes = [0; 40];
        to_client(7, 1).fill(13, &mut bytes);
        assert!(to_client(7, 1).matches(13, &bytes));
        assert!(to_client(7, 1).matches(20, &bytes[7..]));
        assert!(!to_client(7, 1).matches(14, &bytes));
        assert!(!to_client(7, 2).matches(13, &bytes));
        assert!(!to_client(8, 1).matches(13, &bytes));
        assert!(!to_server(7).matches(13, &bytes));
    }

    #[test]
    fn greetings_round_trip() {
        for speaks in [Speaks::WhenAsked, Speaks::Unasked] {
            assert_eq!(parse_hello(&hello_to(speaks, 99)), Some((speaks, 99)));
        }
        assert_eq!(parse_hello(&[0; HELLO_LEN]), None);
        assert_eq!(parse_welcome(welcome(3)), Some(3));
        assert_eq!(parse_welcome([0; WELCOME_LEN]), None);
    }

    /// However they are cut to pieces; and not if one of them is another.
    #[test]
    fn answers_are_checked_byte_by_byte() {
        let mut sent = [0; WELCOME_LEN + 40];
        sent[..WELCOME_LEN].copy_from_slice(&welcome(3));
        to_client(7, 3).fill(0, &mut sent[WELCOME_LEN..]);
        for length in 1..sent.len() {
            let mut answers = Answers::of(7);
            assert!(sent.chunks(length).all(|piece| answers.hear(piece)));
            assert_eq!((answers.server(), answers.received()), (Some(3), 40));
        }
        for wrong in [0, WELCOME_LEN, WELCOME_LEN + 39] {
            let mut other = sent;
            other[wrong] ^= 1;
            assert!(!Answers::of(7).hear(&other), "{wrong}");
        }
        assert!(!Answers::of(8).hear(&sent));
        let mut early = Answers::of(7);
        assert!(early.hear(&sent[..WELCOME_LEN - 1]));
        assert_eq!((early.server(), early.received()), (None, 0));
    }

    #[test]
    fn probes_are_checked() {
        let probe = Probe {
            flow: 3,
            sequence: 1 << 40,
            server: 2,
        };
        let mut bytes = probe.encode();
        assert_eq!(Probe::decode(&bytes), Some(probe));
        bytes[9] ^= 1;
        assert_eq!(Probe::decode(&bytes), None);
        assert_eq!(Probe::decode(&bytes[..31]), None);
    }
}
