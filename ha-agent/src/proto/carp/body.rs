//! What both kinds of signed packet say: the 92 bytes of a trailer or a HELLO, but for the tag.

use ha_common::carp::{TRAILER_LEN, TRAILER_VERSION, trailer as at};

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
    /// One bit a link in the same order: it works, but failed not long ago.
    pub recent: u16,
    /// One bit a link in the same order: the partner is heard there.
    pub heard: u16,
    /// Configuration generation.
    pub generation: u64,
    /// Epoch of the newest packet from the partner, 0 if none.
    pub echo_epoch: u64,
    /// Its sequence.
    pub echo_sequence: u64,
}

impl Body {
    pub(super) fn encode(&self, magic: [u8; 4], key_id: u8) -> [u8; TRAILER_LEN] {
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
        bytes[at::HEALTH..at::RECENT].copy_from_slice(&self.health.to_be_bytes());
        bytes[at::RECENT..at::HEARD].copy_from_slice(&self.recent.to_be_bytes());
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

    pub(super) fn decode(bytes: &[u8; TRAILER_LEN]) -> Result<Self, DecodeError> {
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
            recent: u16::from_be_bytes([bytes[at::RECENT], bytes[at::RECENT + 1]]),
            heard: u16::from_be_bytes([bytes[at::HEARD], bytes[at::HEARD + 1]]),
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
