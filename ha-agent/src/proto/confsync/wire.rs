//! Requests and answers as bytes: the lengths of a header and of a document (32 bits each), the header
//! in JSON, the document.
//!
//! The header of a newer version may have more fields; those this one does not know are ignored.

use serde::{Deserialize, Serialize};

use super::version::{ANCESTORS_MAX, Claim};

/// Bytes before the header.
pub const PREFIX: usize = 8;
/// Longest header: a claim with all its ancestors takes some 9 KiB.
pub const HEADER_MAX: usize = 64 << 10;
/// Longest document: the longest file that is read.
pub const DOCUMENT_MAX: usize = 16 << 20;
/// Highest number of a version: nobody makes so many, and readers of JSON keep it exact.
const GENERATION_MAX: u64 = 1 << 53;
/// Longest name and reason.
const NAME_MAX: usize = 63;
const REASON_MAX: usize = 4096;

/// What a node asks its partner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// This is what I have: what have you?
    Compare(Claim),
    /// Give me yours.
    Fetch(Claim),
    /// Take mine.
    Offer(Claim, String),
}

/// What the partner answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// This is what I have.
    Claim(Claim),
    /// This is what I have, as a whole.
    Document(Claim, String),
    /// I could not take over what you offered.
    Refused(Claim, String),
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It claims to be longer than anything that is sent.
    #[error("a message of {header} and {document} bytes is too long")]
    TooLong {
        /// Length of the header, as claimed.
        header: usize,
        /// Length of the document, as claimed.
        document: usize,
    },
    /// It ends before it should, or goes on.
    #[error("the message has another length than it says")]
    Length,
    /// The header cannot be understood.
    #[error("the message's header cannot be understood: {0}")]
    Header(#[from] serde_json::Error),
    /// The document is no text.
    #[error("the document is not UTF-8 text")]
    Text,
    /// A field holds what it may not.
    #[error("the message's {0} is not one")]
    Field(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Compare,
    Fetch,
    Offer,
    Claim,
    Document,
    Refused,
}

#[derive(Serialize, Deserialize)]
struct Header {
    kind: Kind,
    claim: Claim,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Length of what follows the prefix: the header's and the document's.
pub fn lengths(prefix: [u8; PREFIX]) -> Result<(usize, usize), WireError> {
    let both = u64::from_be_bytes(prefix);
    let (header, document) = ((both >> 32) as usize, (both & 0xffff_ffff) as usize);
    if header > HEADER_MAX || document > DOCUMENT_MAX {
        return Err(WireError::TooLong { header, document });
    }
    Ok((header, document))
}

fn encode(kind: Kind, claim: &Claim, reason: Option<&str>, document: &str) -> Vec<u8> {
    let header = Header {
        kind,
        claim: claim.clone(),
        reason: reason.map(|reason| cut(reason).to_owned()),
    };
    // Maps with text keys and numbers only: there is nothing that JSON could not hold.
    let header = serde_json::to_vec(&header).unwrap_or_default();
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = Vec::with_capacity(PREFIX + header.len() + document.len());
    out.extend(length(header.len()));
    out.extend(length(document.len()));
    out.extend(header);
    out.extend(document.as_bytes());
    out
}

fn cut(reason: &str) -> &str {
    let end = reason.floor_char_boundary(REASON_MAX);
    reason.get(..end).unwrap_or_default()
}

fn decode(bytes: &[u8]) -> Result<(Header, String), WireError> {
    let (prefix, rest) = bytes.split_first_chunk().ok_or(WireError::Length)?;
    let (header, document) = lengths(*prefix)?;
    if rest.len() != header + document {
        return Err(WireError::Length);
    }
    let (head, body) = rest.split_at_checked(header).ok_or(WireError::Length)?;
    let head: Header = serde_json::from_slice(head)?;
    let claim = &head.claim;
    let named = (1..=NAME_MAX).contains(&claim.name.len())
        && claim.name.bytes().all(|byte| byte.is_ascii_graphic());
    if !named {
        return Err(WireError::Field("name"));
    }
    if claim.version().generation > GENERATION_MAX {
        return Err(WireError::Field("generation"));
    }
    if claim.record.ancestors.len() > ANCESTORS_MAX {
        return Err(WireError::Field("ancestors"));
    }
    let body = std::str::from_utf8(body).map_err(|_not_text| WireError::Text)?;
    Ok((head, body.to_owned()))
}

impl Request {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Compare(claim) => encode(Kind::Compare, claim, None, ""),
            Self::Fetch(claim) => encode(Kind::Fetch, claim, None, ""),
            Self::Offer(claim, document) => encode(Kind::Offer, claim, None, document),
        }
    }

    /// From bytes that the partner sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (header, document) = decode(bytes)?;
        match header.kind {
            Kind::Compare => Ok(Self::Compare(header.claim)),
            Kind::Fetch => Ok(Self::Fetch(header.claim)),
            Kind::Offer => Ok(Self::Offer(header.claim, document)),
            Kind::Claim | Kind::Document | Kind::Refused => Err(WireError::Field("request")),
        }
    }
}

impl Response {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Claim(claim) => encode(Kind::Claim, claim, None, ""),
            Self::Document(claim, document) => encode(Kind::Document, claim, None, document),
            Self::Refused(claim, reason) => encode(Kind::Refused, claim, Some(reason), ""),
        }
    }

    /// From bytes that the partner sent. What it says of its reasons is shown to people, so control
    /// characters do not survive.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (header, document) = decode(bytes)?;
        match header.kind {
            Kind::Claim => Ok(Self::Claim(header.claim)),
            Kind::Document => Ok(Self::Document(header.claim, document)),
            Kind::Refused => {
                let reason = header.reason.unwrap_or_default();
                let reason = cut(&reason).replace(char::is_control, " ");
                Ok(Self::Refused(header.claim, reason))
            }
            Kind::Compare | Kind::Fetch | Kind::Offer => Err(WireError::Field("answer")),
        }
    }
}
