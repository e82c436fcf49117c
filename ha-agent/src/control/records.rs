//! Words about records on the control socket, which HTTP shares.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::proto::hex;

/// Most records of one page.
pub const PAGE_MAX: usize = 1000;

/// What to do with records, as `{"command":"records","op":"get","namespace":"sessions","key":"a"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum RecordsRequest {
    /// Read one.
    Get {
        /// Where.
        namespace: String,
        /// Which.
        key: Blob,
    },
    /// Write one.
    Put {
        /// Where.
        namespace: String,
        /// Which.
        key: Blob,
        /// What.
        value: Blob,
        /// For how long, in milliseconds; none = until it is deleted.
        #[serde(default)]
        ttl_ms: Option<u64>,
    },
    /// Delete one.
    Delete {
        /// Where.
        namespace: String,
        /// Which.
        key: Blob,
    },
    /// Read a page of a namespace.
    List {
        /// Where.
        namespace: String,
        /// The last key of the page before.
        #[serde(default)]
        after: Option<Blob>,
        /// Most to list, at most [`PAGE_MAX`].
        limit: usize,
    },
    /// Wait for changes.
    Watch {
        /// Where.
        namespace: String,
        /// Where the changes before ended; none = from now on.
        #[serde(default)]
        from: Option<u64>,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordsReply {
    /// The record.
    Record(RecordStatus),
    /// It is written.
    Written {
        /// The election's term.
        term: u64,
        /// Number of the write.
        version: u64,
    },
    /// It was deleted.
    Deleted,
    /// There is no such record.
    Absent,
    /// A page of records.
    Page {
        /// In the order of their keys.
        records: Vec<RecordStatus>,
        /// Whether there are more behind the last one.
        more: bool,
    },
    /// Changes since the last call.
    Changes(Changes),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordStatus {
    /// Its key.
    pub key: Blob,
    /// Its value.
    pub value: Blob,
    /// The term in which it was written.
    pub term: u64,
    /// Number of the write; of two, the higher one of the higher term is the later.
    pub version: u64,
    /// How long it lives from its beginning; absent = until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// How much of that is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

/// Changes of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Oldest first; none if nothing happened for a while.
    pub changes: Vec<RecordChange>,
    /// Changes before these were not kept: list the namespace again.
    pub lost: bool,
    /// Where the next call goes on.
    pub next: u64,
}

/// A change of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordChange {
    /// `put`, `deleted` or `expired`.
    pub change: String,
    /// Which record.
    pub key: Blob,
    /// What it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Blob>,
    /// The term in which that happened.
    pub term: u64,
    /// Number of the write.
    pub version: u64,
    /// How long it lives from its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// Bytes: in JSON a text if they are one, else `{"hex":"00ff"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BlobForm {
    Text(String),
    Hex {
        #[serde(with = "hex")]
        hex: Vec<u8>,
    },
}

impl Blob {
    /// The bytes as people read them; what is no text as hexadecimal digits behind `0x`.
    pub fn shown(&self) -> String {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.contains(char::is_control) => text.to_owned(),
            Ok(_) | Err(_) => format!("0x{}", hex::encode(&self.0)),
        }
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match std::str::from_utf8(&self.0) {
            Ok(text) => BlobForm::Text(text.to_owned()),
            Err(_no_text) => BlobForm::Hex {
                hex: self.0.clone(),
            },
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match BlobForm::deserialize(deserializer)? {
            BlobForm::Text(text) => text.into_bytes(),
            BlobForm::Hex { hex } => hex,
        }))
    }
}
