//! Versions of the shared part of the configuration, and what a node says of the one it has.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::proto::hex;

/// Earlier contents that a claim names at most.
pub const ANCESTORS_MAX: usize = 128;

/// Names a content: equal if and only if the contents mean the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// From its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Enough of it for people to tell two contents apart.
    pub fn short(self) -> String {
        hex::encode(self.0.get(..6).unwrap_or_default())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(&text).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not a hash of 64 hexadecimal digits"))
    }
}

/// A version: its number, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Grows with every change; 0 = never part of a pair.
    pub generation: u64,
    /// What it says.
    pub hash: ContentHash,
}

/// What a node keeps across restarts besides the file itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the file.
    pub version: Version,
    /// What the file said before, newest first.
    pub ancestors: Vec<ContentHash>,
}

impl Record {
    /// What a node that never was part of a pair would have kept of this content.
    pub const fn fresh(hash: ContentHash) -> Self {
        Self {
            version: Version {
                generation: 0,
                hash,
            },
            ancestors: Vec::new(),
        }
    }

    /// Another content takes the place of this one, under the same number.
    pub(super) fn replace(&mut self, hash: ContentHash) {
        if self.version.hash != hash {
            self.ancestors.insert(0, self.version.hash);
            self.ancestors.truncate(ANCESTORS_MAX);
            self.version.hash = hash;
        }
    }
}

/// What a node says of itself and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Whether it is the first node of its pair.
    pub first: bool,
    /// Whether it is active.
    pub active: bool,
    /// Whether its content was changed while no agent ran, and so has no number of its own yet.
    pub edited: bool,
    /// Its version, and what that came from.
    #[serde(flatten)]
    pub record: Record,
}

impl Claim {
    /// Its version.
    pub const fn version(&self) -> Version {
        self.record.version
    }

    /// Which of two contents with the same number stays: the active node's, else the one that was
    /// changed, else the first node's.
    pub(super) fn prevails(&self, other: &Self) -> bool {
        (self.active, self.edited, self.first) > (other.active, other.edited, other.first)
    }
}
